"""How long a language model takes on a GPU, what fits in memory, and why. No GPU needed.

    from llm_analysis import estimate, plan, sweep
    estimate("llama-3.1-70b", "h200-sxm-141gb", dtype_name="fp8", tp_size=4, batch_size_per_gpu=28)

Names are imported on first use, to keep `import llm_analysis` fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_analysis.api import estimate, plan, sweep
    from llm_analysis.catalog import get_gpu, get_model
    from llm_analysis.errors import LLMAnalysisError
    from llm_analysis.hardware.gpu import GPU
    from llm_analysis.inference.analysis import LLMAnalysis
    from llm_analysis.inference.estimate import Estimate
    from llm_analysis.inference.runtimes import Runtime, get_runtime
    from llm_analysis.models.config import ModelConfig
    from llm_analysis.physics.dtypes import Dtypes, get_dtypes
    from llm_analysis.physics.operators import Op, Step
    from llm_analysis.physics.parallelism import Parallelism

HOME = {
    "estimate": "api",
    "plan": "api",
    "sweep": "api",
    "LLMAnalysis": "inference.analysis",
    "get_gpu": "catalog",
    "get_model": "catalog",
    "Dtypes": "physics.dtypes",
    "get_dtypes": "physics.dtypes",
    "LLMAnalysisError": "errors",
    "Estimate": "inference.estimate",
    "GPU": "hardware.gpu",
    "ModelConfig": "models.config",
    "Op": "physics.operators",
    "Step": "physics.operators",
    "Runtime": "inference.runtimes",
    "get_runtime": "inference.runtimes",
    "Parallelism": "physics.parallelism",
}

__all__ = [
    "GPU",
    "Dtypes",
    "Estimate",
    "LLMAnalysis",
    "LLMAnalysisError",
    "ModelConfig",
    "Op",
    "Parallelism",
    "Runtime",
    "Step",
    "estimate",
    "get_dtypes",
    "get_gpu",
    "get_model",
    "get_runtime",
    "plan",
    "sweep",
]


def __getattr__(name: str) -> object:
    if name not in HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"llm_analysis.{HOME[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted({*globals(), *__all__})
