"""Fit a runtime to a user's measurements; one row is enough.

The fit starts from a known runtime and changes only the terms that the rows determine: the time per collective needs
rows with and without tensor parallelism, the time per sequence needs several batch sizes, and so on. Errors before and
after the fit are compared on held-out rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from llm_analysis.calibration.columns import Skipped
from llm_analysis.calibration.fitting.runtime_fit import fit
from llm_analysis.calibration.load_measurements import read_rows
from llm_analysis.calibration.measurements import Measurement, gpu_named, table_weights
from llm_analysis.calibration.residuals import rounded, weighted_percentiles
from llm_analysis.calibration.timing import Rows
from llm_analysis.calibration.validation import beyond_positions, quantile, reasons_apart, spread
from llm_analysis.errors import BadConfig, nearest, shown
from llm_analysis.hardware.gpu import GPU
from llm_analysis.inference.bands import LEAST_ROWS
from llm_analysis.inference.runtimes import NONE, Band, Runtime, RuntimeEvidence, build_for, get_runtime, runtime_names

_ROWS_PER_TERM = 4  # rows needed for each term after the first
_LEAST_SECONDS = 1e-9  # a fitted term below this is set to zero
_TOO_SLOW = 0.05  # median error above which a fit with all terms at zero is reported as too slow
_TOO_FAST = -0.5  # median error below which measured_s is probably not in seconds
_MOST_FOLDS = 10


@dataclass(frozen=True)
class Calibration:
    """The fitted runtime, the fitted terms, the held-out errors before and after the fit, and notes."""

    runtime: Runtime
    terms: tuple[str, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    notes: tuple[str, ...]


def calibrated(path: Path, runtime: str | None, name: str) -> Calibration:
    """Return the runtime fitted to a table. Raises BadConfig if no row can be fitted; needs scipy."""
    try:
        import scipy  # noqa: F401
    except ImportError:
        raise BadConfig("calibrate needs scipy: pip install 'llm-analysis[calibrate]'") from None
    import numpy as np

    measurements, unread = read_rows(path)
    chosen = next((m.engine for m in measurements), "none") if runtime is None else runtime
    others = [m for m in measurements if runtime is None and m.engine != chosen]
    rows = Rows([m for m in measurements if runtime is not None or m.engine == chosen])
    skipped = [*unread, *rows.skipped, *((m.id, f"of another runtime, {m.engine}") for m in others)]
    if not rows.measurements:
        raise BadConfig(f"{path}: no row can be estimated: {skipped[0][1]}")
    rows, apart = _possible(rows)
    if not rows.measurements:
        name, why = apart[0]
        raise BadConfig(f"{path}: no row can be fitted: {name} is set apart: {why}")
    start, notes = _started_from(chosen, runtime is None, gpu_named(rows.measurements[0].gpu_name))
    terms = terms_for(rows.measurements)
    # The host time per sequence holds up to the largest batch that it was fitted to.
    largest = max(rows.decoding) if "sequence_seconds" in terms else start.evidence.largest_batch
    start = start.model_copy(update={"evidence": start.evidence.model_copy(update={"largest_batch": largest})})
    before, after = _held_out(rows, start, terms)
    fitted = fit(rows, start, terms, prior=start)
    values = {term: float(f"{getattr(fitted, term):.3g}") for term in terms}
    changed: dict[str, Any] = {
        "name": name,
        "date": date.today().isoformat(),
        "note": f"{start.name}, fitted anew",
        "base": "" if start.name == NONE.name else start.engine_name,
        "held_out": {},
        "ports": {},
        "evidence": _evidence(path, after, len(rows.measurements), largest),
        "bands": _bands(rows.measurements, after),
        **{term: value if value > _LEAST_SECONDS else 0.0 for term, value in values.items()},
    }
    done = fitted.model_copy(update=changed)
    bias = float(np.median(rows.seconds(done) / rows.measured)) - 1
    notes += _remarks(len(rows.measurements), terms, start)
    notes += _doubtful(done, terms, before, after, bias, start)
    notes += beyond_positions((m.id, m.model_name, m.longest) for m in rows.measurements)
    notes += [f"set apart {row}: {why}" for row, why in apart]
    notes += [f"skipped {row}: {why}" for row, why in skipped]
    return Calibration(done, tuple(terms), tuple(before), tuple(after), tuple(notes))


def _possible(rows: Rows) -> tuple[Rows, list[Skipped]]:
    """Return the rows without those that `validate` sets apart, and (id, reason) of these."""
    reasons = list(zip(rows.measurements, reasons_apart(rows), strict=True))
    apart = [(m.id, why) for m, why in reasons if why]
    return (Rows([m for m, why in reasons if not why]) if apart else rows), apart


def _bands(measurements: Sequence[Measurement], errors: Sequence[float]) -> dict[str, Band]:
    """Return the error band of each phase with at least LEAST_ROWS rows, from held-out errors."""
    import numpy as np

    by_phase: dict[str, list[tuple[Measurement, float]]] = {}
    for m, error in zip(measurements, errors, strict=False):  # there are no errors of a single row
        by_phase.setdefault(m.phase, []).append((m, 1 / (1 + error)))
    found = {}
    for phase, rows in sorted(by_phase.items()):
        if len(rows) >= LEAST_ROWS:
            ratios = np.array([ratio for _, ratio in rows])
            low, high = weighted_percentiles(ratios, table_weights([m for m, _ in rows]))
            found[phase] = Band(low=rounded(low), high=rounded(high), rows=len(rows))
    return found


def _started_from(name: str, of_rows: bool, gpu: GPU) -> tuple[Runtime, list[str]]:
    """Return the runtime to start from, and notes.

    `of_rows`: the name comes from the table and may be of an engine without a runtime; the fit then starts from `none`,
    with a note. Raises UnknownName if the user asked for an unknown name.
    """
    if of_rows and name not in runtime_names() and not name.endswith(".json"):
        near = nearest(name, runtime_names(), "--runtime NAME starts from a known one")
        return NONE, [f"runtime {shown(name)} is new: the fit starts from none{near}"]
    return build_for(get_runtime(name), gpu), []


def _evidence(path: Path, after: Sequence[float], n: int, largest: float | None) -> RuntimeEvidence:
    """Return the number of rows and the largest batch, and the held-out errors if there are any."""
    found = RuntimeEvidence(rows=n, sources={path.name: n}, largest_batch=largest)
    if not after:
        return found
    return found.model_copy(update={key: round(value, 4) for key, value in spread(after)._asdict().items()})


def _remarks(n: int, terms: Sequence[str], start: Runtime) -> list[str]:
    """Return notes on the terms and errors that the rows are too few to determine."""
    found = []
    if n < 2:
        found.append("one row: none is left to check the fit with")
    if len(terms) < len(DETERMINED_BY):
        determined = f"{n} row{'s determine' if n > 1 else ' determines'} {len(terms)} of {len(DETERMINED_BY)} terms"
        found.append(f"{determined}; the others are those of {start.name}")
    return found


def _doubtful(
    done: Runtime, terms: Sequence[str], before: Sequence[float], after: Sequence[float], bias: float, start: Runtime
) -> list[str]:
    """Return notes on reasons not to use the fit."""
    found = []
    if after and quantile(sorted(map(abs, after)), 0.5) >= quantile(sorted(map(abs, before)), 0.5):
        found.append(f"on rows left out the fit is no better than {start.name} as it is")
    if bias > _TOO_SLOW and not any(getattr(done, term) for term in terms):
        instead = "; start from --runtime none" if start.name != NONE.name else ""
        found.append(f"the rows are faster than the other terms of {start.name} allow{instead}")
    if bias < _TOO_FAST:
        found.append(f"the fitted times are {1 + bias:.2g} of those measured: is measured_s in seconds?")
    return found


# The property that must vary among the rows for them to determine a term; step_seconds, the first, needs none.
DETERMINED_BY: dict[str, Callable[[Measurement], object]] = {
    "step_seconds": lambda m: 0,
    "collective_seconds": lambda m: m.tp_size > 1,
    "sequence_seconds": lambda m: m.batch_size,
    "layer_seconds": lambda m: m.model_name,
}


def terms_for(measurements: Sequence[Measurement]) -> list[str]:
    """Return the terms that the rows determine: at most one, and one more for each _ROWS_PER_TERM rows."""
    varied = [t for t, key in DETERMINED_BY.items() if t == "step_seconds" or len({key(m) for m in measurements}) > 1]
    return varied[: 1 + len(measurements) // _ROWS_PER_TERM]


def _held_out(rows: Rows, start: Runtime, terms: Sequence[str]) -> tuple[list[float], list[float]]:
    """Return the relative errors with `start`, and those with fits to the other folds; empty for one row."""
    import numpy as np

    n = len(rows.measurements)
    if n < 2:
        return [], []
    fold = np.arange(n) % min(n, _MOST_FOLDS)
    before = rows.seconds(start) / rows.measured - 1
    after = np.zeros(n)
    for one in sorted(set(fold.tolist())):
        out = fold == one
        fitted = fit(rows, start, terms, np.flatnonzero(~out), prior=start)
        after[out] = (rows.seconds(fitted) / rows.measured - 1)[out]
    return before.tolist(), after.tolist()


def as_json(runtime: Runtime) -> str:
    """Return the runtime as JSON text that `--runtime FILE` accepts."""
    return json.dumps(runtime.model_dump(exclude_defaults=True), indent=2) + "\n"
