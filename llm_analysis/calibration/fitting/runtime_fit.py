"""Fit the terms of a runtime to measured latencies, and score the fit on held-out rows.

Least squares on log(estimate / measured), with a loss that limits outliers (soft L1 from 10 % on). Each row of a table
of n rows has the weight n^(-1/4), so that a long table does not outweigh the others. A weak pull towards the prior
determines the terms that the rows do not determine.

`out_of_sample` leaves out each (source, GPU) in turn. `chosen_terms` adds a term only if that held-out error falls, and
only if at least two of these folds have rows that depend on the term: otherwise no held-out row checks it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from llm_analysis.calibration.measurements import Measurement, gpu_named, table_weights
from llm_analysis.calibration.timing import Rows
from llm_analysis.hardware.profiles import same_chip
from llm_analysis.inference.runtimes import Runtime
from llm_analysis.units import Array

# Seconds per unit of each term in the fit, which brings the terms to similar size. Factors are fitted as logarithms.
SECONDS = {
    "step_seconds": 1e-3,
    "layer_seconds": 1e-5,
    "sequence_seconds": 1e-5,
    "collective_seconds": 1e-5,
}
FACTORS = ("matmul_flops", "matmul_memory", "narrow_memory", "attention", "decode_attention")
CUDA_CORES = "cuda_core_flops"
SM_BYTES = "sm_bytes"
FP4 = "fp4_matmul"  # fitted to all engines together
TERMS = (*SECONDS, *FACTORS)
LARGEST = 100.0  # upper bound of a term in seconds, in its unit
_CUDA_CORE_RANGE = (1.0, 256.0)  # FLOP per clock and SM: at most 128 lanes with one multiply-add each
_SM_BYTE_RANGE = (1.0, 64.0)  # bytes per clock and SM: at most what the L2 cache delivers
_FACTOR_RANGE = (0.1, 1.0)  # an engine's kernels are at most as fast as the measured ones
# If no GPU of the rows has measured kernels, the fractions of peak are another GPU's and may be too low. The upper
# bound leaves room: the largest factor of all fits is 1.28.
_UNMEASURED_RANGE = (0.1, 1.5)
_FP4_RANGE = (0.5, 2.0)
_PULL = 0.05  # residual per unit of distance from the prior; a row of weight 1 that is off by _OUTLIER has 1
_OUTLIER = 0.1  # of log(estimate / measured); larger residuals count less than quadratically
_ENGINE_WEIGHT = 10.0  # root of the sum of the squared weights of each engine, with `engines_alike`
NOTHING: Mapping[str, Any] = MappingProxyType({})
_DEPENDS = 1e-3  # least relative change of a row that depends on a term
_WORTH = 0.003  # least reduction of the held-out loss for which a term is kept


def fit(
    rows: Rows,
    runtime: Runtime,
    terms: Sequence[str],
    chosen: Any = None,
    prior: Runtime | None = None,
    engines_alike: bool = False,
) -> Runtime:
    """Return `runtime` with `terms` fitted to the rows `chosen` (indices; all by default), pulled towards `prior`.

    With `engines_alike`, the rows of each engine have the same total weight.
    """
    import numpy as np
    from scipy.optimize import least_squares

    index: Any = np.arange(len(rows.measurements)) if chosen is None else chosen
    if not len(index) or not terms:
        return runtime
    measurements = [rows.measurements[i] for i in index]
    weights = table_weights(measurements) * (_engine_weights(measurements) if engines_alike else 1.0)
    # The prior is fitted without these two.
    own = {CUDA_CORES: runtime.cuda_core_flops, SM_BYTES: runtime.sm_bytes}
    known = runtime if prior is None else prior.model_copy(update=own)
    start = np.array([_encoded(term, getattr(known, term)) for term in terms])
    factor_range = _FACTOR_RANGE if any(same_chip(gpu_named(m.gpu_name)) for m in measurements) else _UNMEASURED_RANGE
    low, high = zip(*(_bounds(term, factor_range) for term in terms), strict=True)
    start = np.clip(start, np.array(low) + 1e-3, np.array(high) - 1e-3)

    def residuals(x: Array) -> Array:
        seconds = rows.seconds(_with_terms(runtime, terms, x))[index]
        off = weights * np.log(seconds / rows.measured[index]) / _OUTLIER
        return np.concatenate([off, _PULL * (x - start)])

    found = least_squares(residuals, start, bounds=(low, high), loss="soft_l1", diff_step=1e-3, max_nfev=60)
    return _with_terms(runtime, terms, found.x)


def _engine_weights(measurements: Sequence[Measurement]) -> Array:
    """Return factors on `table_weights` with which the squared weights of each engine have the same sum."""
    import numpy as np

    engines, weights = [m.engine for m in measurements], table_weights(measurements)
    whole = {one: sum(w * w for w, engine in zip(weights, engines, strict=True) if engine == one) for one in engines}
    return np.array([whole[engine] ** -0.5 for engine in engines]) * _ENGINE_WEIGHT


def _encoded(term: str, value: float) -> float:
    """Return a term's value in the unit of the fit: multiples of SECONDS, or the logarithm of a factor."""
    from math import log

    return value / SECONDS[term] if term in SECONDS else log(value)


def _with_terms(runtime: Runtime, terms: Sequence[str], x: Array) -> Runtime:
    """Return `runtime` with `terms` set to the values of `x`, in the units of the fit."""
    from math import exp

    values = {t: float(v) * SECONDS[t] if t in SECONDS else exp(float(v)) for t, v in zip(terms, x, strict=True)}
    return runtime.model_copy(update=values)


def _bounds(term: str, factor_range: tuple[float, float]) -> tuple[float, float]:
    """Return the bounds of a term, in the unit of the fit; `factor_range` are those of a factor."""
    from math import log

    if term in SECONDS:
        return 0.0, LARGEST
    low, high = {CUDA_CORES: _CUDA_CORE_RANGE, SM_BYTES: _SM_BYTE_RANGE, FP4: _FP4_RANGE}.get(term, factor_range)
    return log(low), log(high)


def fold_key(m: Measurement, by_model: bool) -> str:
    """Return the name of a row's fold: its source and GPU, and its model if `by_model`."""
    return f"{m.source} | {m.gpu_name}" + (f" | {m.model_name}" if by_model else "")


def folds(rows: Rows) -> list[Any]:
    """Return the row indices of each fold: one per (source, GPU), or per model of it if `rows.by_model`."""
    import numpy as np

    keys = [fold_key(m, rows.by_model) for m in rows.measurements]
    return [np.array([i for i, key in enumerate(keys) if key == one]) for one in sorted(set(keys))]


def out_of_sample(
    rows: Rows,
    runtime: Runtime,
    terms: Sequence[str],
    prior: Runtime | None = None,
    given: Mapping[str, Mapping[str, float]] = NOTHING,
) -> Array:
    """Return estimates of all rows, each by a fit to the other folds; by `runtime` if there is only one fold.

    `given` has the values of terms that are fitted elsewhere, without the fold of that name.
    """
    import numpy as np

    estimates = np.zeros(len(rows.measurements))
    for fold in folds(rows):
        others = np.setdiff1d(np.arange(len(estimates)), fold)
        known = runtime.model_copy(update=given.get(fold_key(rows.measurements[fold[0]], rows.by_model), NOTHING))
        fitted = fit(rows, known, terms, others, prior) if len(others) else known
        estimates[fold] = rows.seconds(fitted)[fold]
    return estimates


def loss(rows: Rows, estimates: Array) -> float:
    """Return the held-out loss used to choose terms: median plus half of the 90th percentile of |error|.

    It is the mean over folds, each weighted by the root of its number of rows, so that a term is kept only if it helps
    on many sources.
    """
    import numpy as np

    size = np.abs(estimates / rows.measured - 1)
    parts = folds(rows)
    of_each = [float(np.median(size[part]) + 0.5 * np.quantile(size[part], 0.9)) for part in parts]
    return float(np.average(of_each, weights=[len(part) ** 0.5 for part in parts]))


def checkable(rows: Rows, runtime: Runtime, terms: Sequence[str]) -> list[str]:
    """Return the terms on which rows of at least two folds depend."""
    import numpy as np

    usual, found = rows.seconds(runtime), []
    for term in terms:
        start = _encoded(term, getattr(runtime, term))
        moved = _with_terms(runtime, [term], np.array([start + (1.0 if term in SECONDS else -0.1)]))
        changed = np.abs(rows.seconds(moved) / usual - 1) > _DEPENDS
        if sum(bool(changed[fold].any()) for fold in folds(rows)) > 1:
            found.append(term)
    return found


def chosen_terms(
    rows: Rows,
    runtime: Runtime,
    prior: Runtime | None = None,
    terms: Sequence[str] = TERMS,
    given: Mapping[str, Mapping[str, float]] = NOTHING,
    always: Sequence[str] = (),
) -> list[str]:
    """Return `always` and the terms that lower the held-out loss by _WORTH or more, by greedy forward selection."""
    terms, kept = checkable(rows, runtime, terms), [*always]
    best = loss(rows, out_of_sample(rows, runtime, kept, prior, given))
    while True:
        tries = {t: loss(rows, out_of_sample(rows, runtime, [*kept, t], prior, given)) for t in terms if t not in kept}
        if not tries or min(tries.values()) > best - _WORTH:
            return kept
        term = min(tries, key=lambda name: tries[name])
        kept, best = [*kept, term], tries[term]
