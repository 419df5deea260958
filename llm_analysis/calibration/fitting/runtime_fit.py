"""Fit the terms of a runtime to measured latencies, and score the fit on rows that it did not see.

Least squares on the logarithm of estimate / measured, with a loss that limits outliers (soft L1 from 10 % on). The rows
of one table of one model weigh together as the fourth root of their number cubed, so that a long table does not
outweigh the others. A weak pull towards the prior decides what the rows leave open.

`out_of_sample` leaves out each (source, GPU) in turn. `chosen_terms` adds a term only if that error falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_analysis.calibration.measurements import Measurement, table_weights
from llm_analysis.calibration.timing import Rows
from llm_analysis.inference.runtimes import Runtime
from llm_analysis.units import Array

# The unit of a term in the fit, in seconds. Factors have none and are fitted by their logarithm.
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
_CUDA_CORE_RANGE = (1.0, 256.0)  # FLOP per clock: at most what the 128 lanes of an SM add and multiply
_FACTOR_RANGE = (0.1, 1.0)  # kernels at best as good as those measured
_PULL = 0.05  # weight of the prior, per unit, beside a row that is off by OUTLIER
_OUTLIER = 0.1
_ENGINE_WEIGHT = 10.0  # of an engine's rows together, beside `_PULL`
_WORTH = 0.003  # how much lower the held-out error must be for a term to be kept


def fit(
    rows: Rows,
    runtime: Runtime,
    terms: Sequence[str],
    chosen: Any = None,
    prior: Runtime | None = None,
    engines_alike: bool = False,
) -> Runtime:
    """Return `runtime` with `terms` fitted to the rows `chosen` (indices; all by default), pulled towards `prior`.

    With `engines_alike`, the rows of each engine weigh the same together.
    """
    import numpy as np
    from scipy.optimize import least_squares

    index: Any = np.arange(len(rows.measurements)) if chosen is None else chosen
    if not len(index) or not terms:
        return runtime
    measurements = [rows.measurements[i] for i in index]
    weights = table_weights(measurements) * (_engine_weights(measurements) if engines_alike else 1.0)
    known = (
        runtime if prior is None else prior.model_copy(update={CUDA_CORES: runtime.cuda_core_flops})
    )  # a fact of few
    start = np.array([_encoded(term, getattr(known, term)) for term in terms])
    low, high = zip(*(_bounds(term) for term in terms), strict=True)
    start = np.clip(start, np.array(low) + 1e-3, np.array(high) - 1e-3)

    def residuals(x: Array) -> Array:
        seconds = rows.seconds(_with_terms(runtime, terms, x))[index]
        off = weights * np.log(seconds / rows.measured[index]) / _OUTLIER
        return np.concatenate([off, _PULL * (x - start)])

    found = least_squares(residuals, start, bounds=(low, high), loss="soft_l1", diff_step=1e-3, max_nfev=60)
    return _with_terms(runtime, terms, found.x)


def _engine_weights(measurements: Sequence[Measurement]) -> Array:
    """Return factors on the weights of `table_weights` that give each engine the same sum of their squares."""
    import numpy as np

    engines, weights = [m.engine for m in measurements], table_weights(measurements)
    whole = {one: sum(w * w for w, engine in zip(weights, engines, strict=True) if engine == one) for one in engines}
    return np.array([whole[engine] ** -0.5 for engine in engines]) * _ENGINE_WEIGHT


def _encoded(term: str, value: float) -> float:
    """Return a term's value in the units of the fit."""
    from math import log

    return value / SECONDS[term] if term in SECONDS else log(value)


def _with_terms(runtime: Runtime, terms: Sequence[str], x: Array) -> Runtime:
    """Return `runtime` with the terms of a vector of the fit."""
    from math import exp

    values = {t: float(v) * SECONDS[t] if t in SECONDS else exp(float(v)) for t, v in zip(terms, x, strict=True)}
    return runtime.model_copy(update=values)


def _bounds(term: str) -> tuple[float, float]:
    """Return the smallest and the largest value of a term, in the units of the fit."""
    from math import log

    if term in SECONDS:
        return 0.0, LARGEST
    low, high = _CUDA_CORE_RANGE if term == CUDA_CORES else _FACTOR_RANGE
    return log(low), log(high)


def fold_key(m: Measurement, by_model: bool) -> str:
    """Return the name of the rows that are left out together with a row."""
    return f"{m.source} | {m.gpu_name}" + (f" | {m.model_name}" if by_model else "")


def folds(rows: Rows) -> list[Any]:
    """Return the rows of each (source, GPU) as arrays of indices; also by model if `rows.by_model`."""
    import numpy as np

    keys = [fold_key(m, rows.by_model) for m in rows.measurements]
    return [np.array([i for i, key in enumerate(keys) if key == one]) for one in sorted(set(keys))]


def out_of_sample(rows: Rows, runtime: Runtime, terms: Sequence[str], prior: Runtime | None = None) -> Array:
    """Return estimates of all rows, each by a fit to the other folds; by `runtime` if there are none."""
    import numpy as np

    estimates = np.zeros(len(rows.measurements))
    for fold in folds(rows):
        others = np.setdiff1d(np.arange(len(estimates)), fold)
        fitted = fit(rows, runtime, terms, others, prior) if len(others) else runtime
        estimates[fold] = rows.seconds(fitted)[fold]
    return estimates


def loss(rows: Rows, estimates: Array) -> float:
    """Return the loss by which terms are chosen: median plus half of the 90th percentile of |error|.

    It is the mean over (source, GPU), each weighted by the root of its number of rows: a term must serve many sources.
    """
    import numpy as np

    size = np.abs(estimates / rows.measured - 1)
    parts = folds(rows)
    of_each = [float(np.median(size[part]) + 0.5 * np.quantile(size[part], 0.9)) for part in parts]
    return float(np.average(of_each, weights=[len(part) ** 0.5 for part in parts]))


def chosen_terms(rows: Rows, runtime: Runtime, prior: Runtime | None = None, terms: Sequence[str] = TERMS) -> list[str]:
    """Return the terms that lower the held-out error, the best first, until the next one would not."""
    kept: list[str] = []
    best = loss(rows, out_of_sample(rows, runtime, [], prior))
    while True:
        tries = {t: loss(rows, out_of_sample(rows, runtime, [*kept, t], prior)) for t in terms if t not in kept}
        if not tries or min(tries.values()) > best - _WORTH:
            return kept
        term = min(tries, key=lambda name: tries[name])
        kept, best = [*kept, term], tries[term]
