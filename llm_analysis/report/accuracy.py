"""A score as text: how far the estimates are from published figures, by runtime, source, GPU, model and metric."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from textwrap import fill
from typing import Any

from llm_analysis.calibration.calibrate import TELLING, Calibration
from llm_analysis.calibration.measurements import Measurement, apart
from llm_analysis.calibration.validation import Score, Scored, Statistics, as_dict, spread, statistics
from llm_analysis.report.tables import csv_of, seconds, table


def calibration_text(found: Calibration, style: str, target: str) -> str:
    """What was fitted, and what it is worth on rows left out."""
    if style == "json":
        plain: dict[str, Any] = {"terms": list(found.terms), "before": list(found.before), "after": list(found.after)}
        return json.dumps(plain | {"notes": list(found.notes), "runtime": found.runtime.model_dump()}, indent=2)
    if style == "csv":
        return csv_of([as_row(found)])
    fitted = [(term, f"{getattr(found.runtime, term) * 1e6:,.6g} us") for term in found.terms]
    parts = [table(fitted, ("term", "fitted"), style)]
    rows = [
        (name, *error_cells(errors)) for name, errors in (("before", found.before), ("after", found.after)) if errors
    ]
    if rows:
        parts.append(table(rows, ("rows left out in turn", "median |error|", "p90", "bias"), style))
    return "\n\n".join([*parts, *(f"note: {note}" for note in found.notes), f"infer --runtime {target} uses it"])


def as_row(found: Calibration) -> dict[str, object]:
    """The fitted terms in seconds, and the errors before and after, as fractions; None where no rows were left out."""
    row: dict[str, object] = {"name": found.runtime.name, **{term: getattr(found.runtime, term) for term in TELLING}}
    for name, errors in (("before", found.before), ("after", found.after)):
        known = spread(errors)._asdict() if errors else {}
        row |= {f"{name}_{key}": known.get(key) for key in ("median_error", "p90_error", "bias")}
    return row


def error_cells(errors: Sequence[float]) -> tuple[str, ...]:
    """The same for a person."""
    found = spread(errors)
    return f"{found.median_error:.1%}", f"{found.p90_error:.1%}", f"{found.bias:+.1%}"


Key = Callable[[Measurement], str]
SECTIONS: dict[str, Key] = {
    "runtime": lambda m: f"{m.engine} ({m.kind})" if m.kind != "static" else m.engine,
    "source": lambda m: m.source,
    "GPU": lambda m: m.gpu_name,
    "model": lambda m: m.model_name,
    "metric": lambda m: m.metric,
    "format": lambda m: m.dtype_name,
}
HEADERS = ("rows", "median", "p90", "bias", "in band")
LEGEND = "median and p90 of |estimated / measured - 1|; bias: its median with the sign."
OF_RUNTIMES = (
    "For each row a runtime of this program is taken as it was fitted without the rows of the same source and GPU. A "
    "band should hold 80 % of such rows;"
)
MOST_REASONS = 8
SLIP = 100.0  # times that an estimate is off: no engine is, a unit may be
WORST = 5
ALL = 20  # so few rows are shown one by one
FEW = 5  # groups of fewer rows share a line
LONGEST_NAME = 36


def score_text(score: Score, style: str) -> str:
    """The score in one of the formats of a report."""
    if style == "json":
        return json.dumps(as_dict(score), indent=2)
    if style == "csv":
        return as_csv(score)
    parts = [table([cells("all", score.overall)], ("", *HEADERS), style), legend(score.overall)]
    telling = {title: key for title, key in SECTIONS.items() if title == "runtime" or len(score.by(key)) > 1}
    parts += [section(score, title, key, style) for title, key in telling.items()]
    parts.append(worst(score, style))
    return "\n\n".join([*parts, *remarks(score)])


def legend(s: Statistics) -> str:
    """What the columns mean, and how wide the bands are."""
    if s.coverage is None or s.narrow is None:
        return wrapped(LEGEND)
    return wrapped(f"{LEGEND} {OF_RUNTIMES} {s.narrow:.0%} of the bands are no wider than 40 % of the estimate.")


def section(score: Score, title: str, key: Key, style: str) -> str:
    """One way to group the rows; groups of fewer than `FEW` rows together in the last line."""
    sizes = {name: found.n for name, found in score.by(key).items()}
    small = [name for name, n in sizes.items() if n < FEW]
    last = f"{len(small)} groups of fewer than {FEW} rows"
    fold = small if len(small) > 1 else []
    groups = score.by(lambda m: last if key(m) in fold else key(m))
    rows = [cells(name, found) for name, found in groups.items() if name != last]
    rows += [cells(last, groups[last])] if fold else []
    return table(rows, (f"by {title}", *HEADERS), style)


def cells(name: str, s: Statistics) -> tuple[str, ...]:
    """One line of a section."""
    coverage = "" if s.coverage is None else f"{s.coverage:.0%}"
    errors = f"{s.median_abs_error:.1%}", f"{s.p90_abs_error:.1%}", f"{s.bias:+.1%}"
    shown = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."
    return (shown or "(not given)", str(s.n), *errors, coverage)


def worst(score: Score, style: str) -> str:
    """The rows that are furthest off, or all where they are few: measured beside estimated."""
    few = len(score.rows) <= ALL
    chosen = score.rows if few else sorted(score.rows, key=lambda row: -abs(row[1].error))[:WORST]
    rows = [row_cells(m, scored) for m, scored in chosen]
    return table(rows, ("row" if few else "furthest off", "measured", "estimated", "error"), style)


def row_cells(m: Measurement, scored: Scored) -> tuple[str, ...]:
    """One row, measured beside estimated."""
    times = seconds(scored.measured_seconds), seconds(scored.estimated_seconds)
    return (f"{m.id} {m.model_name} tp{m.tp_size}", *times, f"{scored.error:+.0%}")


def remarks(score: Score) -> list[str]:
    """What was set apart and what was skipped, with reasons."""
    found = []
    for reason in dict.fromkeys(apart(m) for m, _ in score.set_apart):
        of = statistics([scored for m, scored in score.set_apart if apart(m) == reason])
        found.append(f"set apart: {counted(of.n)}, median {of.median_abs_error:.1%}: {reason}")
    reasons: dict[str, list[str]] = {}
    for name, reason in score.skipped:
        reasons.setdefault(reason, []).append(name)
    for reason, names in list(reasons.items())[:MOST_REASONS]:
        first = names[0] if len(names) == 1 else f"{names[0]} the first"
        found.append(f"skipped: {counted(len(names))}, {first}: {reason}")
    if len(reasons) > MOST_REASONS:
        found.append(f"skipped for {len(reasons) - MOST_REASONS} more reasons; --format json lists each row")
    if score.rows and not -1 + 1 / SLIP < score.overall.bias < SLIP - 1:
        found.append(f"estimates are {score.overall.bias + 1:.3g} times what was measured: is measured_s in seconds?")
    return [wrapped(remark) for remark in found]


def counted(n: int) -> str:
    """So many rows."""
    return "1 row" if n == 1 else f"{n} rows"


def wrapped(text: str) -> str:
    """A sentence in lines that fit a terminal."""
    return fill(" ".join(text.split()), 79, break_long_words=False, break_on_hyphens=False)


def as_csv(score: Score) -> str:
    """One line for each row."""
    names = ("source", "runtime", "gpu_name", "model_name", "metric")
    return csv_of([{name: getattr(m, name) for name in names} | asdict(scored) for m, scored in score.rows])
