"""Fitting a runtime's few numbers to measured latencies, and scoring the fit on rows it did not see.

Least squares on the logarithm of estimate / measured, with a loss that lets outliers go (soft L1 from 10 % on). Rows of
one table of one model weigh together as the fourth root of their number cubed, so that a long table does not drown the
others. A weak pull towards the prior decides what the rows leave open.

`out_of_sample` leaves out each (source, GPU) in turn. `chosen_terms` adds a term only where it lowers that error.

Many measurements at once, for fitting: the operators of all of them, as arrays through the same `cost` line.

A fit changes a runtime's numbers a hundred times, and each time all rows are timed anew. So the operators of all rows
are gathered by GPU, phase and all that chooses a kernel's numbers; each group is one `Op` whose quantities are arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm_analysis.calibration.measurements import Measurement, gpu_named, model_named, table_weights
from llm_analysis.errors import LLMAnalysisError, Unsupported
from llm_analysis.hardware.roofline import cost
from llm_analysis.inference.memory import weights_fit
from llm_analysis.inference.methods import Calibrated
from llm_analysis.inference.pipeline import pass_ops
from llm_analysis.inference.runtimes import Runtime
from llm_analysis.inference.scenario import Scenario
from llm_analysis.physics.operators import Op
from llm_analysis.units import Array

# A term's unit in the fit (seconds; factors have none and are fitted by their logarithm) and how far it may go.
SECONDS = {
    "step_seconds": 1e-3,
    "layer_seconds": 1e-5,
    "sequence_seconds": 1e-5,
    "collective_seconds": 1e-5,
}
FACTORS = ("matmul_flops", "matmul_memory", "narrow_memory", "attention")
CUDA_CORES = "cuda_core_flops"
TERMS = (*SECONDS, *FACTORS)
LARGEST = 100.0  # units of seconds
CUDA_CORE_RANGE = (1.0, 256.0)  # FLOP per clock: at most what the 128 lanes of an SM add and multiply
FACTOR_RANGE = (0.1, 1.0)  # kernels at best as good as those measured
PULL = 0.05  # weight of the prior, per unit, beside a row that is off by OUTLIER
OUTLIER = 0.1
WORTH = 0.003  # how much lower the held-out error must be for a term to be kept


def fit(
    rows: Rows, runtime: Runtime, terms: Sequence[str], chosen: Any = None, prior: Runtime | None = None
) -> Runtime:
    """`runtime` with `terms` fitted to the rows `chosen` (indices; all by default), pulled towards `prior`."""
    import numpy as np
    from scipy.optimize import least_squares

    index: Any = np.arange(len(rows.measurements)) if chosen is None else chosen
    if not len(index) or not terms:
        return runtime
    weights = row_weights(rows, index)
    known = (
        runtime if prior is None else prior.model_copy(update={CUDA_CORES: runtime.cuda_core_flops})
    )  # a fact of few
    start = np.array([encoded(term, getattr(known, term)) for term in terms])
    low, high = zip(*(bounds(term) for term in terms), strict=True)
    start = np.clip(start, np.array(low) + 1e-3, np.array(high) - 1e-3)

    def residuals(x: Array) -> Array:
        seconds = rows.seconds(with_terms(runtime, terms, x))[index]
        off = weights * np.log(seconds / rows.measured[index]) / OUTLIER
        return np.concatenate([off, PULL * (x - start)])

    found = least_squares(residuals, start, bounds=(low, high), loss="soft_l1", diff_step=1e-3, max_nfev=60)
    return with_terms(runtime, terms, found.x)


def row_weights(rows: Rows, index: Array) -> Array:
    """The weight of each row chosen."""
    return table_weights([rows.measurements[i] for i in index])


def encoded(term: str, value: float) -> float:
    """A term's value in the units of the fit."""
    from math import log

    return value / SECONDS[term] if term in SECONDS else log(value)


def with_terms(runtime: Runtime, terms: Sequence[str], x: Array) -> Runtime:
    """`runtime` with the terms that a vector of the fit stands for."""
    from math import exp

    values = {t: float(v) * SECONDS[t] if t in SECONDS else exp(float(v)) for t, v in zip(terms, x, strict=True)}
    return runtime.model_copy(update=values)


def bounds(term: str) -> tuple[float, float]:
    """How far a term may go, in the units of the fit."""
    from math import log

    if term in SECONDS:
        return 0.0, LARGEST
    low, high = CUDA_CORE_RANGE if term == CUDA_CORES else FACTOR_RANGE
    return log(low), log(high)


def fold_key(m: Measurement, by_model: bool) -> str:
    """What is left out together with a row."""
    return f"{m.source} | {m.gpu_name}" + (f" | {m.model_name}" if by_model else "")


def folds(rows: Rows) -> list[Any]:
    """The rows of each (source, GPU), as arrays of indices; of each model apart where the rows ask for it."""
    import numpy as np

    keys = [fold_key(m, rows.by_model) for m in rows.measurements]
    return [np.array([i for i, key in enumerate(keys) if key == one]) for one in sorted(set(keys))]


def out_of_sample(rows: Rows, runtime: Runtime, terms: Sequence[str], prior: Runtime | None = None) -> Array:
    """Estimates of all rows, each by a fit to the rows of other sources or GPUs; as it stands where there are none."""
    import numpy as np

    estimates = np.zeros(len(rows.measurements))
    for fold in folds(rows):
        others = np.setdiff1d(np.arange(len(estimates)), fold)
        fitted = fit(rows, runtime, terms, others, prior) if len(others) else runtime
        estimates[fold] = rows.seconds(fitted)[fold]
    return estimates


def loss(rows: Rows, estimates: Array) -> float:
    """What a choice of terms is judged by: the median and half of the 90th percentile of |error| of each (source, GPU).

    Their mean, each with the root of its number of rows as weight: a term must serve sources, not one long table.
    """
    import numpy as np

    size = np.abs(estimates / rows.measured - 1)
    parts = folds(rows)
    of_each = [float(np.median(size[part]) + 0.5 * np.quantile(size[part], 0.9)) for part in parts]
    return float(np.average(of_each, weights=[len(part) ** 0.5 for part in parts]))


def chosen_terms(rows: Rows, runtime: Runtime, prior: Runtime | None = None, terms: Sequence[str] = TERMS) -> list[str]:
    """The terms that lower the held-out error, the best first; stops where the next would not."""
    kept: list[str] = []
    best = loss(rows, out_of_sample(rows, runtime, [], prior))
    while True:
        tries = {t: loss(rows, out_of_sample(rows, runtime, [*kept, t], prior)) for t in terms if t not in kept}
        if not tries or min(tries.values()) > best - WORTH:
            return kept
        term = min(tries, key=lambda name: tries[name])
        kept, best = [*kept, term], tries[term]


# Fields of an Op that may differ between the passes of one group.
QUANTITIES = [
    name for name, value in Op._field_defaults.items() if isinstance(value, float) and name not in ("group", "messages")
]
EVERYTHING = Runtime(name="all", step_seconds=1.0, layer_seconds=1.0, sequence_seconds=1.0)


@dataclass(frozen=True)
class Group:
    """Operators of one kind, format and GPU, over all rows: element i belongs to pass `at[i]`."""

    gpu_name: str
    op: Op
    at: Any


class Rows:
    """Measurements ready to be timed under any runtime; `skipped` holds (id, reason) of those that cannot be."""

    def __init__(self, measurements: list[Measurement], by_model: bool = False) -> None:
        import numpy as np

        self.by_model = by_model  # whether each model is a fold of its own when a fit is scored

        self.measurements: list[Measurement] = []
        self.skipped: list[tuple[str, str]] = []
        gathered: dict[tuple[Any, ...], list[tuple[int, Op]]] = {}
        passes: list[tuple[int, float]] = []
        for measurement in measurements:
            try:
                entries = row_passes(measurement)
            except LLMAnalysisError as error:
                self.skipped.append((measurement.id, str(error)))
                continue
            for weight, phase, ops in entries:
                for op in ops:
                    key = (measurement.gpu_name, op.kind, op.format, op.rate, op.group, op.span, op.messages, phase)
                    gathered.setdefault(key, []).append((len(passes), op))
                passes.append((len(self.measurements), weight))
            self.measurements.append(measurement)
        self.groups = [group(key, entries) for key, entries in gathered.items()]
        self.row_of_pass = np.array([row for row, _ in passes], dtype=int)
        self.weight_of_pass = np.array([weight for _, weight in passes], dtype=float)
        self.measured = np.array([m.seconds for m in self.measurements])

    def seconds(self, runtime: Runtime) -> Array:
        """Estimates of all rows, in seconds."""
        import numpy as np

        passes = np.zeros(len(self.weight_of_pass))
        for g in self.groups:
            gpu = gpu_named(g.gpu_name)
            efficiency = Calibrated(gpu, runtime).efficiency(g.op)
            times = np.broadcast_to(g.op.count * cost(g.op, gpu, efficiency).seconds, g.at.shape)
            passes += np.bincount(g.at, weights=times, minlength=len(passes))
        weighted = self.weight_of_pass * passes
        total: Array = np.bincount(self.row_of_pass, weights=weighted, minlength=len(self.measurements)).astype(float)
        return total


def row_passes(measurement: Measurement) -> list[tuple[float, str, list[Op]]]:
    """(weight, phase, operators) of all passes that a figure covers, the host's part included.

    Raises LLMAnalysisError for a row that cannot be estimated, one whose weights are more than the GPUs hold included.
    """
    if measurement.pp_size > 1 or measurement.kind != "static":
        raise Unsupported("pipelines and serving are scored, not fitted")
    model, gpu = model_named(measurement.model_name), gpu_named(measurement.gpu_name)
    scenario = Scenario.of(model, gpu, measurement.dtypes(), measurement.layout(), runtime=EVERYTHING)
    weights_fit(scenario)
    return [(float(weight), step.phase, pass_ops(scenario, step)) for weight, step in measurement.passes(model)]


def group(key: tuple[Any, ...], entries: list[tuple[int, Op]]) -> Group:
    """One `Op` of arrays."""
    import numpy as np

    arrays: dict[str, Any] = {name: np.array([float(getattr(op, name)) for _, op in entries]) for name in QUANTITIES}
    return Group(key[0], entries[0][1]._replace(**arrays), np.array([at for at, _ in entries]))
