"""How long a language model takes on a GPU, what fits in memory, and why. No GPU needed.

    from llm_analysis import LLMAnalysis, Parallelism, get_dtypes, get_gpu, get_model

Names are imported on first use, so that `import llm_analysis` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_analysis.analysis import LLMAnalysis
    from llm_analysis.catalog import get_gpu, get_model
    from llm_analysis.dtypes import Dtypes, get_dtypes
    from llm_analysis.errors import LLMAnalysisError
    from llm_analysis.estimate import Estimate
    from llm_analysis.hardware import GPU
    from llm_analysis.model_config import ModelConfig
    from llm_analysis.operators import Op, Step
    from llm_analysis.runtime import Runtime, get_runtime
    from llm_analysis.scenario import Parallelism

HOME = {
    "LLMAnalysis": "analysis",
    "get_gpu": "catalog",
    "get_model": "catalog",
    "Dtypes": "dtypes",
    "get_dtypes": "dtypes",
    "LLMAnalysisError": "errors",
    "Estimate": "estimate",
    "GPU": "hardware",
    "ModelConfig": "model_config",
    "Op": "operators",
    "Step": "operators",
    "Runtime": "runtime",
    "get_runtime": "runtime",
    "Parallelism": "scenario",
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
    "get_dtypes",
    "get_gpu",
    "get_model",
    "get_runtime",
]


def __getattr__(name: str) -> object:
    if name not in HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"llm_analysis.{HOME[name]}"), name)
