"""Score the estimates on published measurements.

A row is estimated with its runtime as fitted without the rows of the same source and GPU, and its band is built without
the rows of the same source, GPU and model: no row is compared with a fit or a band that includes it. Errors are
fractions of the measured time; the bias is the median of the signed errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from llm_analysis.calibration.columns import Skipped
from llm_analysis.calibration.measurements import Measurement, apart, gpu_named, positions, read_measurements
from llm_analysis.calibration.residuals import held_out_band
from llm_analysis.calibration.steady_rows import is_steady, steady_seconds
from llm_analysis.calibration.timing import Rows
from llm_analysis.errors import LLMAnalysisError
from llm_analysis.inference.runtimes import UNKNOWN, Band, Runtime, build_for, get_runtime, runtime_names

_SLIP = 100.0  # an estimate that is off by this factor: the unit of the measurement may be wrong

# Columns that say what was run.
_WORKLOAD = (
    *("source", "kind", "runtime", "version", "model_name", "gpu_name", "tp_size", "pp_size", "ep_size"),
    *("dtype_name", "kv_dtype", "batch_size", "seq_len", "num_tokens", "decode_steps", "metric"),
)
_BLOCK = 5000  # rows that are timed together; their operators take a few hundred MB


@dataclass(frozen=True)
class Scored:
    """One row: seconds measured and estimated, the error as a fraction of the measured time, and the band."""

    id: str
    measured_seconds: float
    estimated_seconds: float
    error: float
    low_seconds: float | None
    high_seconds: float | None
    source: str = ""

    @property
    def held(self) -> bool | None:
        """Whether the band contains the measurement; None without a band."""
        if self.low_seconds is None or self.high_seconds is None:
            return None
        return self.low_seconds <= self.measured_seconds <= self.high_seconds

    @property
    def width(self) -> float | None:
        """The upper end of the band over the lower; None without a band."""
        return None if not self.low_seconds or self.high_seconds is None else self.high_seconds / self.low_seconds


@dataclass(frozen=True)
class Statistics:
    """Statistics of a group of rows, as fractions."""

    n: int
    median_abs_error: float
    p90_abs_error: float
    bias: float
    coverage: float | None  # rows within their band, of those that have one
    of_sources: float = 0.0  # the median over sources of the median |error| of each
    width: float | None = None  # median of upper over lower end of the bands


@dataclass(frozen=True)
class Score:
    """All rows that were estimated, the rows scored apart with reasons, and the rows skipped with reasons."""

    rows: list[tuple[Measurement, Scored]]
    set_apart: list[tuple[Measurement, Scored, str]]
    skipped: list[Skipped]
    assumed: dict[str, int]  # rows of engines without a runtime, scored as `unknown`, by engine

    def by(self, key: Callable[[Measurement], Any]) -> dict[Any, Statistics]:
        """Return statistics of the rows, grouped by a key; rows whose key is None are left out."""
        groups: dict[Any, list[Scored]] = {}
        for measurement, scored in self.rows:
            name = key(measurement)
            if name is not None:
                groups.setdefault(name, []).append(scored)
        return {name: statistics(groups[name]) for name in sorted(groups)}

    @property
    def overall(self) -> Statistics:
        """Statistics of all rows."""
        return statistics([scored for _, scored in self.rows])


@cache
def _runtime_named(name: str) -> Runtime:
    """Return a runtime, read once."""
    return get_runtime(name)


def score(path: Path, runtime: str | None = None, method: str = "calibrated") -> Score:
    """Return the score of a table; `runtime` replaces the runtimes of the rows. Raises BadConfig if it is no table."""
    measurements, skipped = read_measurements(path)
    found = score_rows(measurements, runtime, method)
    return Score(found.rows, found.set_apart, [*skipped, *found.skipped], found.assumed)


def score_rows(measurements: Iterable[Measurement], runtime: str | None = None, method: str = "calibrated") -> Score:
    """Return the score of measurements."""
    known, assumed = set(runtime_names()), dict[str, int]()
    alike: dict[tuple[str, str], list[tuple[int, Measurement]]] = {}
    order, skipped = dict[int, tuple[Measurement, Scored, str]](), list[Skipped]()
    for i, m in enumerate(measurements):
        name = m.engine if runtime is None else runtime
        if runtime is None and name not in known and not name.endswith(".json"):
            assumed[name] = assumed.get(name, 0) + 1
            name = UNKNOWN
        try:
            fold = _fold(m, _runtime_named(name)) if method == "calibrated" else ""
        except LLMAnalysisError as error:
            skipped.append((m.id, str(error)))
            continue
        alike.setdefault((name, fold), []).append((i, m))
    for (name, _), entries in alike.items():
        for block in _blocks(entries):
            found, failed = _score_block(block, name, method)
            order |= found
            skipped += failed
    done = [order[i] for i in sorted(order)]
    return Score(
        [(m, s) for m, s, reason in done if not reason],
        [(m, s, reason) for m, s, reason in done if reason],
        skipped,
        assumed,
    )


def _fold(m: Measurement, runtime: Runtime) -> str:
    """Return a key of the fit that scores a row: the build of the runtime, and the source and GPU left out."""
    build = build_for(runtime, gpu_named(m.gpu_name))
    names = (f"{m.source} | {m.gpu_name}", m.group)
    return f"{build.name}: {next((name for name in names if name in build.held_out), '')}"


def _blocks(entries: Sequence[tuple[int, Measurement]]) -> Iterable[list[tuple[int, Measurement]]]:
    """Yield the entries in blocks that fit in memory."""
    rest = iter(entries)
    while block := list(islice(rest, _BLOCK)):
        yield block


def _score_block(
    block: list[tuple[int, Measurement]], name: str, method: str
) -> tuple[dict[int, tuple[Measurement, Scored, str]], list[Skipped]]:
    """Return (row, score, why it is set apart) of rows that share a runtime, by index; and (id, reason) skipped."""
    indices = {id(m): i for i, m in block}
    rows = Rows([m for _, m in block])
    found: dict[int, tuple[Measurement, Scored, str]] = {}
    if not rows.measurements:
        return found, rows.skipped
    used = _used_runtime(rows.measurements[0], name)
    estimates, apart_because = rows.seconds(used, method).tolist(), reasons_apart(rows)
    if method == "calibrated":
        steady = [i for i, m in enumerate(rows.measurements) if is_steady(m)]
        for i, seconds in zip(steady, steady_seconds([rows.measurements[i] for i in steady], used), strict=True):
            estimates[i] = seconds
    for i, (m, seconds) in enumerate(zip(rows.measurements, estimates, strict=True)):
        band = band_for(m, used) if method == "calibrated" else None
        low, high = (seconds * band.low, seconds * band.high) if band else (None, None)
        scored = Scored(m.id, m.seconds, seconds, seconds / m.seconds - 1, low, high, m.source)
        found[indices[id(m)]] = (m, scored, apart_because[i])
    return found, rows.skipped


def reasons_apart(rows: Rows) -> list[str]:
    """Return why each row is scored apart and never fitted; empty for a row that is not."""
    impossible = rows.impossible()
    return [apart(m) or impossible.get(i, "") for i, m in enumerate(rows.measurements)]


def beyond_positions(rows: Iterable[tuple[str, str, float]]) -> list[str]:
    """Return a note on the rows, (id, model, tokens), with more tokens than the model has positions; or none.

    They are scored all the same: some publications extend the positions, or run kernels without regard to them.
    """
    ids = [name for name, model, tokens in rows if tokens > positions(model)]
    have = "has" if len(ids) == 1 else "have"
    return [f"{row_count(ids)}, {have} more tokens of prompt and output than the model has positions"] if ids else []


def unit_remarks(errors: Iterable[float], measured: str, column: str) -> list[str]:
    """Return a note on the unit of a column of measured times if the estimates are far from most of them."""
    signed = sorted(errors)
    ratio = quantile(signed, 0.5) + 1 if signed else 1.0
    if 1 / _SLIP < ratio < _SLIP:
        return []
    return [f"estimates are {ratio:.3g} times the {measured}: is {column} in seconds?"]


def row_count(ids: Sequence[str]) -> str:
    """Return how many rows, and the id of the first."""
    return f"1 row, {ids[0]}" if len(ids) == 1 else f"{len(ids)} rows, {ids[0]} the first"


def _used_runtime(m: Measurement, name: str) -> Runtime:
    """Return the runtime of a row: the build for its GPU, as fitted without the rows of its source and GPU."""
    build = build_for(_runtime_named(name), gpu_named(m.gpu_name))
    return build.without(m.source, m.gpu_name, m.model_name)


def band_for(m: Measurement, runtime: Runtime) -> Band | None:
    """Return the band of a row's estimate: of a runtime with bands of its own, otherwise of rows like it."""
    if runtime.name == "none":
        return None
    return runtime.band(m.phase) if runtime.bands else held_out_band(m)


def scored_row(m: Measurement, runtime: str, method: str = "calibrated") -> Scored:
    """Return the score of one row. Raises LLMAnalysisError if it cannot be estimated."""
    found, skipped = _score_block([(0, m)], runtime, method)
    if skipped:
        raise LLMAnalysisError(skipped[0][1])
    return found[0][1]


def statistics(rows: Iterable[Scored]) -> Statistics:
    """Return statistics of scored rows; of no rows, zeros."""
    scored = list(rows)
    if not scored:
        return Statistics(0, 0.0, 0.0, 0.0, None)
    held = [row.held for row in scored if row.held is not None]
    coverage = sum(held) / len(held) if held else None
    widths = sorted(row.width for row in scored if row.width is not None)
    by_source: dict[str, list[float]] = {}
    for row in scored:
        by_source.setdefault(row.source, []).append(abs(row.error))
    medians = sorted(quantile(sorted(errors), 0.5) for errors in by_source.values())
    errors = spread(row.error for row in scored)
    width = quantile(widths, 0.5) if widths else None
    return Statistics(len(scored), *errors, coverage, quantile(medians, 0.5), width)


class Spread(NamedTuple):
    """Median and 90th percentile of |error|, and the median signed error."""

    median_error: float
    p90_error: float
    bias: float


def spread(errors: Iterable[float]) -> Spread:
    """Return the spread of signed errors."""
    signed = sorted(errors)
    sizes = sorted(map(abs, signed))
    return Spread(quantile(sizes, 0.5), quantile(sizes, 0.9), quantile(signed, 0.5))


def quantile(ordered: list[float], share: float) -> float:
    """Return a quantile of sorted values, linear between neighbours."""
    at = share * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])


def goal_class(m: Measurement) -> str:
    """Return the class of a row, of the four that the goals of accuracy are set for."""
    if m.phase == "prefill":
        return "prefill"
    if not m.is_dense:
        return "experts, int, fp4: static and serving"
    return "dense: serving" if m.phase == "serving" else "dense: static"


def workload_columns(m: Measurement) -> dict[str, Any]:
    """Return what was run, for one line of a CSV file."""
    return {name: getattr(m, name) for name in _WORKLOAD}


def as_dict(result: Score) -> dict[str, Any]:
    """Return the score as plain values."""
    keys = ("source", "runtime", "gpu_name", "model_name", "metric")
    groups = result.by(lambda m: tuple(getattr(m, key) for key in keys))
    return {
        "overall": asdict(result.overall),
        "classes": [{"class": name} | asdict(found) for name, found in result.by(goal_class).items()],
        "groups": [dict(zip(keys, name, strict=True)) | asdict(found) for name, found in groups.items()],
        "rows": [asdict(scored) for _, scored in result.rows],
        "set_apart": [asdict(scored) | {"reason": reason} for _, scored, reason in result.set_apart],
        "skipped": [{"id": name, "reason": reason} for name, reason in result.skipped],
    }
