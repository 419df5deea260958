"""Scoring the method on published figures: measured beside estimated, in public, by the program itself.

A row is scored with its runtime as it was fitted without the rows of the same source and GPU, so that no figure is ever
held against a fit that has seen it. Errors are fractions of the measured time; bias is the median of the signed error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from llm_analysis.calibration.measurements import (
    Measurement,
    apart,
    gpu_named,
    model_named,
    read_measurements,
    table_weights,
)
from llm_analysis.errors import LLMAnalysisError, Unsupported
from llm_analysis.hardware.profiles import same_chip
from llm_analysis.hardware.roofline import pass_seconds
from llm_analysis.inference.analysis import LLMAnalysis
from llm_analysis.inference.memory import weights_fit
from llm_analysis.inference.passes import carried
from llm_analysis.inference.pipeline import pass_ops
from llm_analysis.inference.runtimes import (
    Band,
    Runtime,
    build_for,
    get_runtime,
    place,
)
from llm_analysis.physics.operators import Step
from llm_analysis.units import Array, Quantity

NARROW = 0.2


@dataclass(frozen=True)
class Scored:
    """One row: seconds measured and estimated, the error as a fraction of the measured, and the band."""

    id: str
    measured_seconds: float
    estimated_seconds: float
    error: float
    low_seconds: float | None
    high_seconds: float | None

    @property
    def held(self) -> bool | None:
        """Whether the band holds the measurement; None without a band."""
        if self.low_seconds is None or self.high_seconds is None:
            return None
        return self.low_seconds <= self.measured_seconds <= self.high_seconds


@dataclass(frozen=True)
class Statistics:
    """Of a group of rows; fractions."""

    n: int
    median_abs_error: float
    p90_abs_error: float
    bias: float
    coverage: float | None  # rows within their band, of those that have one
    narrow: float | None  # bands no wider than 40 % of the estimate, of those there are


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
            scored = scored_row(measurement, measurement.engine if runtime is None else runtime, method)
        except LLMAnalysisError as error:
            skipped.append((measurement.id, str(error)))
            continue
        (separate if apart(measurement) else rows).append((measurement, scored))
    return Score(rows, separate, skipped)


def scored_row(m: Measurement, runtime: str, method: str) -> Scored:
    """One row's estimate. Raises LLMAnalysisError where there is none."""
    analysis = analysis_of(m, runtime, method)
    seconds = estimated(m, analysis)
    band = analysis.runtime.band(phase_of(m), place(analysis.gpu, same_chip(analysis.gpu)))
    low, high = (seconds * band.low, seconds * band.high) if band else (None, None)
    return Scored(m.id, m.seconds, seconds, seconds / m.seconds - 1, low, high)


def phase_of(m: Measurement) -> str:
    """Whose band a row's estimate has."""
    return "serving" if m.kind == "serving" else "prefill" if m.metric == "ttft" else "total"


def estimated(m: Measurement, analysis: LLMAnalysis) -> float:
    """Seconds of all that a row covers. Raises Unsupported for a row that covers nothing."""
    passes = m.passes(analysis.model)
    seconds = sum(float(weight * pass_with(analysis, step, m.joining, Step(1.0, m.seq_len))) for weight, step in passes)
    if seconds <= 0:
        raise Unsupported("nothing to estimate: no pass in this row")
    return seconds


def pass_with(analysis: LLMAnalysis, step: Step, joining: float, prompt: Step) -> Quantity:
    """Seconds of a pass that carries `joining` prompts along on the average: fewer than one in so many steps.

    In a pipeline they are passes of their own.
    """
    alone = analysis.seconds(step)
    if not joining:
        return alone
    if analysis.layout.pp_size > 1:
        return alone + joining * analysis.seconds(prompt)
    often, prompts = min(joining, 1.0), max(joining, 1.0)
    decode, prefill = (pass_ops(analysis.scenario, s) for s in (step, prompt._replace(batch=prompts)))
    return (1.0 - often) * alone + often * pass_seconds(analysis.timed(carried(decode, prefill)))


def analysis_of(m: Measurement, runtime: str, method: str, found: Runtime | None = None) -> LLMAnalysis:
    """The analysis that a row asks for, its runtime (`found`, or that of the name) without the row's source and GPU."""
    model, gpu = model_named(m.model_name), gpu_named(m.gpu_name)
    used = None
    if method == "calibrated":
        used = build_for(found or runtime_named(runtime), gpu).without(m.source, m.gpu_name, m.model_name)
        used = used.as_server() if m.kind == "serving" else used
    analysis = LLMAnalysis(model, gpu, m.dtypes(), m.layout(), method=method, runtime=used)
    weights_fit(analysis.scenario)
    return analysis


def statistics(rows: Iterable[Scored]) -> Statistics:
    """Statistics of scored rows; of no rows, zeros."""
    scored = list(rows)
    if not scored:
        return Statistics(0, 0.0, 0.0, 0.0, None, None)
    held = [row.held for row in scored if row.held is not None]
    coverage, narrow = (sum(held) / len(held), sum(map(is_narrow, scored)) / len(held)) if held else (None, None)
    return Statistics(len(scored), *spread(row.error for row in scored), coverage, narrow)


class Spread(NamedTuple):
    """Median and 90th percentile of |error|, and the median signed error."""

    median_error: float
    p90_error: float
    bias: float


def spread(errors: Iterable[float]) -> Spread:
    """The spread of signed errors."""
    signed = sorted(errors)
    sizes = sorted(map(abs, signed))
    return Spread(quantile(sizes, 0.5), quantile(sizes, 0.9), quantile(signed, 0.5))


def is_narrow(row: Scored) -> bool:
    """Whether a row's band is narrower than 20 % either way: its width at most 40 % of the estimate."""
    if row.low_seconds is None or row.high_seconds is None:
        return False
    return row.high_seconds - row.low_seconds <= 2 * NARROW * row.estimated_seconds


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


def rounded(value: float) -> float:
    """Four digits; what is no time at all as none."""
    return float(f"{value:.4g}") if abs(value) > 1e-9 else 0.0


LEAST_ROWS = 10  # that a band rests on


def bands_of(by_phase: dict[str, list[tuple[Measurement, float]]]) -> dict[str, Band]:
    """The band of each phase that has rows enough; of measured / estimated."""
    import numpy as np

    enough = {phase: rows for phase, rows in sorted(by_phase.items()) if len(rows) >= LEAST_ROWS}
    return {
        phase: band(np.array([ratio for _, ratio in rows]), table_weights([m for m, _ in rows]))
        for phase, rows in enough.items()
    }


def band(ratios: Array, weights: Array | None = None) -> Band:
    """The 10th and the 90th percentile of measured / estimated, each row with its weight."""
    import numpy as np

    order = np.argsort(ratios)
    shares = (np.ones(len(ratios)) if weights is None else weights)[order]
    low, high = np.interp([0.1, 0.9], (np.cumsum(shares) - shares / 2) / shares.sum(), ratios[order])
    return Band(low=rounded(min(float(low), 1.0)), high=rounded(max(float(high), 1.0)), rows=len(ratios))
