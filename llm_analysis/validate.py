"""Scoring the method on published figures: measured beside estimated, in public, by the program itself.

A row is scored with its runtime as it was fitted without the rows of the same source and GPU, so that no figure is ever
held against a fit that has seen it. Errors are fractions of the measured time; bias is the median of the signed error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llm_analysis.analysis import LLMAnalysis
from llm_analysis.catalog import get_gpu, get_model
from llm_analysis.errors import LLMAnalysisError, Unsupported
from llm_analysis.hardware import GPU
from llm_analysis.measurements import Measurement, apart, read_measurements
from llm_analysis.memory import weights_fit
from llm_analysis.model_config import ModelConfig
from llm_analysis.runtime import Runtime, build_for, get_runtime


@dataclass(frozen=True)
class Scored:
    """One row: seconds measured and estimated, the error as a fraction of the measured, and the band."""

    id: str
    measured_seconds: float
    estimated_seconds: float
    error: float
    low_seconds: float
    high_seconds: float


@dataclass(frozen=True)
class Statistics:
    """Of a group of rows; fractions."""

    n: int
    median_abs_error: float
    p90_abs_error: float
    bias: float
    coverage: float  # rows within their band


@dataclass(frozen=True)
class Score:
    """All rows that could be estimated with their measurements, those set apart, and those skipped, with reasons."""

    rows: list[tuple[Measurement, Scored]]
    set_apart: list[tuple[Measurement, Scored]]
    skipped: list[tuple[str, str]]

    def by(self, key: Callable[[Measurement], Any]) -> dict[Any, Statistics]:
        """Statistics of the rows, grouped."""
        groups: dict[Any, list[Scored]] = {}
        for measurement, scored in self.rows:
            groups.setdefault(key(measurement), []).append(scored)
        return {name: statistics(groups[name]) for name in sorted(groups)}

    @property
    def overall(self) -> Statistics:
        """Statistics of all rows."""
        return statistics([scored for _, scored in self.rows])


@cache
def model_named(name: str) -> ModelConfig:
    """A model, read once."""
    return get_model(name)


@cache
def gpu_named(name: str) -> GPU:
    """A GPU, read once."""
    return get_gpu(name)


@cache
def runtime_named(name: str) -> Runtime:
    """A runtime, read once."""
    return get_runtime(name)


def score(path: Path, runtime: str | None = None, method: str = "calibrated") -> Score:
    """The score of all rows of a table; `runtime` in place of the rows' own. Raises BadConfig for no such table."""
    measurements, skipped = read_measurements(path)
    rows: list[tuple[Measurement, Scored]] = []
    separate: list[tuple[Measurement, Scored]] = []
    for measurement in measurements:
        try:
            scored = scored_row(measurement, runtime or measurement.runtime, method)
        except LLMAnalysisError as error:
            skipped.append((measurement.id, str(error)))
            continue
        (separate if apart(measurement) else rows).append((measurement, scored))
    return Score(rows, separate, skipped)


def scored_row(m: Measurement, runtime: str, method: str) -> Scored:
    """One row's estimate. Raises LLMAnalysisError where there is none."""
    analysis = analysis_of(m, runtime, method)
    seconds = sum(weight * float(analysis.seconds(step)) for weight, step in m.passes(analysis.model))
    if seconds <= 0:
        raise Unsupported("nothing to estimate: no pass in this row")
    low, high = analysis.runtime.band("prefill" if m.metric == "ttft" else "total")
    return Scored(m.id, m.seconds, seconds, seconds / m.seconds - 1, seconds * low, seconds * high)


def analysis_of(m: Measurement, runtime: str, method: str) -> LLMAnalysis:
    """The analysis that a row asks for, its runtime fitted without the row's source and GPU."""
    model, gpu = model_named(m.model_name), gpu_named(m.gpu_name).per_device()
    used = None
    if method == "calibrated":
        used = build_for(runtime_named(runtime), gpu).without(m.source, m.gpu_name)
    analysis = LLMAnalysis(model, gpu, m.dtypes(), m.layout(), method=method, runtime=used)
    weights_fit(model, analysis.dtypes, analysis.layout, gpu)
    return analysis


def statistics(rows: Iterable[Scored]) -> Statistics:
    """Statistics of scored rows; of no rows, zeros."""
    scored = list(rows)
    errors = sorted(row.error for row in scored)
    sizes = sorted(abs(error) for error in errors)
    if not scored:
        return Statistics(0, 0.0, 0.0, 0.0, 0.0)
    held = sum(row.low_seconds <= row.measured_seconds <= row.high_seconds for row in scored)
    return Statistics(
        len(scored), quantile(sizes, 0.5), quantile(sizes, 0.9), quantile(errors, 0.5), held / len(scored)
    )


def quantile(ordered: list[float], share: float) -> float:
    """The quantile of sorted values, linear between neighbours."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def as_dict(result: Score) -> dict[str, Any]:
    """The score as plain values."""
    keys = ("source", "runtime", "gpu_name", "model_name", "metric")
    groups = result.by(lambda m: tuple(getattr(m, key) for key in keys))
    return {
        "overall": asdict(result.overall),
        "groups": [dict(zip(keys, name, strict=True)) | asdict(found) for name, found in groups.items()],
        "rows": [asdict(scored) for _, scored in result.rows],
        "set_apart": [asdict(scored) | {"reason": apart(m)} for m, scored in result.set_apart],
        "skipped": [{"id": name, "reason": reason} for name, reason in result.skipped],
    }
