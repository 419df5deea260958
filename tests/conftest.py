"""Shared by the tests: the command line in this process, estimates from names, hypothesis profiles."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings

from llm_analysis import Estimate, LLMAnalysis, ModelConfig, Parallelism, get_dtypes, get_gpu, get_model
from llm_analysis.cli.main import main
from llm_analysis.models.reading.reader import read_model

ROOT = Path(__file__).parents[1]  # of the checkout
SHARED = ROOT.parent / "shared"  # measurements and facts; tests that need it are skipped where it is missing

# No deadline per example: timings on a shared machine are not reproducible.
settings.register_profile("fast", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", parent=settings.get_profile("fast"), max_examples=2000)
settings.load_profile("fast")


class Answer(NamedTuple):
    """The result of a command line: exit status, stdout and stderr."""

    status: int
    out: str
    err: str


Ask = Callable[..., Answer]


def asked(*arguments: str) -> Answer:
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0
    return Answer(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def ask() -> Ask:
    """Return a function that runs the command line with the given arguments and returns an Answer."""
    return asked


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, so that the test sees all files written."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def analysis(
    model: str, gpu: str = "h200-sxm-141gb", dtype: str = "bf16", method: str = "ideal", **sizes: Any
) -> LLMAnalysis:
    """The analysis of names and the sizes of a layout."""
    return LLMAnalysis(get_model(model), get_gpu(gpu), get_dtypes(dtype), Parallelism(**sizes), method=method)


def estimate(
    model: str, gpu: str = "h200-sxm-141gb", dtype: str = "bf16", method: str = "ideal", **question: Any
) -> Estimate:
    """The estimate of names, the sizes of a layout and a workload."""
    sizes = {key: question.pop(key) for key in list(question) if key in Parallelism.model_fields}
    return analysis(model, gpu, dtype, method, **sizes).inference(**question)


# The sizes of Llama-7B, under the keys of a Hugging Face file.
SIZES: dict[str, Any] = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}


def published(model_type: str, **keys: Any) -> ModelConfig:
    """A model from a Hugging Face file with the sizes of Llama-7B and the given keys."""
    return read_model({"architectures": ["X"], "model_type": model_type} | SIZES | keys, model_type)


def catalogued(name: str) -> ModelConfig:
    """A model of the catalogue, read from its file alone."""
    return read_model(json.loads((ROOT / "model_configs" / f"{name}.json").read_text(encoding="utf-8")), name)
