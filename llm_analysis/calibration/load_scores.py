"""Score simulations of serving under load on published figures.

All values of one run of a benchmark are compared with one simulation. Errors are fractions of the measured value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from llm_analysis.calibration.columns import Skipped
from llm_analysis.calibration.load_definitions import mlperf_limits
from llm_analysis.calibration.load_estimates import goodput_of, metric_of, prepare, saturation_of
from llm_analysis.calibration.load_runs import LoadRun, read_runs
from llm_analysis.errors import LLMAnalysisError
from llm_analysis.serving.server_bands import band_of, class_of

_CALM = 0.8  # fraction of the saturation rate below which tails of latencies are scored separately
GOODPUT = "goodput"


class LoadScore(NamedTuple):
    """One value: measured and estimated, in seconds, 1/s or tokens/s; `low` and `high` bound 80 % of such values."""

    id: str
    metric: str
    measured: float
    estimated: float
    error: float
    low: float | None
    high: float | None
    fraction_of_saturation: float | None = None  # estimated load; None if all requests were sent at once


Scored = list[tuple[LoadRun, LoadScore]]


def score_load(path: Path, progress: Callable[[float], None] | None = None) -> tuple[Scored, list[Skipped]]:
    """Return the score of each value of a table, and (id, reason) of those that are skipped. Raises BadConfig."""
    runs, skipped = read_runs(path)
    scored: Scored = []
    for i, run in enumerate(runs):
        found, missing = score_run(run)
        scored += [(run, row) for row in found]
        skipped += missing
        if progress:
            progress((i + 1) / len(runs))
    return scored, skipped


def score_run(run: LoadRun) -> tuple[list[LoadScore], list[Skipped]]:
    """Return the scores of the values of a run, and (id, reason) of those without one."""
    try:
        prepared = prepare(run)
        summary = prepared.summary()
    except LLMAnalysisError as error:
        return [], [(name, str(error)) for name, _, _ in run.values]
    load = None if run.at_once else summary.request_throughput / run.dp_size / saturation_of(prepared)
    found, missing = [], []
    for name, metric, value in run.values:
        estimated = metric_of(summary, metric)
        if estimated <= 0:
            missing.append((name, "the simulation has no such value: each request has one output token"))
            continue
        band = band_of(metric, run.at_once)
        low, high = (band[0] * estimated, band[1] * estimated) if band else (None, None)
        found.append(LoadScore(name, metric, value, estimated, estimated / value - 1, low, high, load))
    return found, missing


def goodput_scores(runs: Sequence[LoadRun]) -> Scored:
    """Return the scores of the goodput under MLPerf's limits, against the request rates that submitters reached."""
    found: Scored = []
    estimates: dict[tuple[object, ...], float] = {}
    for run in runs:
        limits = mlperf_limits(run)
        for name, metric, value in run.values:
            if metric != "request_throughput" or not limits:
                continue
            # One server is simulated once: its runs differ in their rate, and by 1 % in the mean length of outputs.
            server = run._replace(rate=0.0, num_requests=0.0, mean_output=0.0, notes="", values=())
            key = (server, *limits.items())
            if key not in estimates:
                try:
                    estimates[key] = goodput_of(prepare(run), limits)
                except LLMAnalysisError:
                    continue
            error = estimates[key] / value - 1
            found.append((run, LoadScore(name, GOODPUT, value, estimates[key], error, None, None)))
    return found


def _classes_of(run: LoadRun, row: LoadScore) -> list[str]:
    """Return the classes that a value counts in."""
    if row.metric == GOODPUT:
        return [f"goodput, {run.model_name}"]
    found = [class_of(row.metric, run.at_once)]
    load = row.fraction_of_saturation
    if row.metric in ("ttft_p99", "tpot_p99") and load is not None and load < _CALM:
        found.append(f"{row.metric.replace('_', ' ')}, below {_CALM:.0%} of saturation")
    return found


class ClassError(NamedTuple):
    """The errors of a class of metrics; fractions of the measured value."""

    metric_class: str
    n: int
    median_abs_error: float
    p90_abs_error: float
    bias: float


def errors_by_class(scored: Sequence[tuple[LoadRun, LoadScore]]) -> list[ClassError]:
    """Return the errors of each class. Each source, model and GPU counts the same, whatever number of values it has.

    Rows of grade C are left out.
    """
    found = []
    for name, signed in weighted_errors(scored).items():
        sizes = [(abs(error), weight) for error, weight in signed]
        figures = weighted_quantile(sizes, 0.5), weighted_quantile(sizes, 0.9), weighted_quantile(signed, 0.5)
        found.append(ClassError(name, len(signed), *figures))
    return found


def weighted_errors(scored: Sequence[tuple[LoadRun, LoadScore]]) -> dict[str, list[tuple[float, float]]]:
    """Return (error, weight) of the values of each class, which are sorted by name."""
    groups: dict[str, list[tuple[tuple[str, str, str], float]]] = {}
    for run, row in scored:
        if run.grade != "C":
            for name in _classes_of(run, row):
                groups.setdefault(name, []).append(((run.source, run.model_name, run.gpu_name), row.error))
    found = {}
    for name in sorted(groups):
        counts = Counter(key for key, _ in groups[name])
        found[name] = [(error, 1 / counts[key]) for key, error in groups[name]]
    return found


def weighted_quantile(pairs: Sequence[tuple[float, float]], share: float) -> float:
    """Return the smallest value at or below which the fraction `share` of the weight lies."""
    ordered, seen = sorted(pairs), 0.0
    total = sum(weight for _, weight in ordered)
    for value, weight in ordered:
        seen += weight
        if seen >= share * total - 1e-12:
            return value
    return ordered[-1][0]
