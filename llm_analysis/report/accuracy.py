"""Scores of the estimates on measurements as text: by class, runtime, source, GPU, model, metric and format."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from textwrap import fill
from typing import Any

from llm_analysis.calibration.calibrate import DETERMINED_BY, Calibration
from llm_analysis.calibration.measurements import Measurement
from llm_analysis.calibration.residuals import cell_of
from llm_analysis.calibration.validation import (
    Score,
    Scored,
    Statistics,
    as_dict,
    beyond_positions,
    goal_class,
    row_count,
    spread,
    statistics,
    unit_remarks,
    workload_columns,
)
from llm_analysis.report.tables import csv_of, seconds, table


def calibration_text(found: Calibration, style: str, target: str) -> str:
    """Return the fitted terms, and the errors on rows left out."""
    if style == "json":
        plain: dict[str, Any] = {"terms": list(found.terms), "before": list(found.before), "after": list(found.after)}
        return json.dumps(plain | {"notes": list(found.notes), "runtime": found.runtime.model_dump()}, indent=2)
    if style == "csv":
        return csv_of([_as_row(found)])
    fitted = [(term, f"{getattr(found.runtime, term) * 1e6:,.6g} us") for term in found.terms]
    parts = [table(fitted, ("term", "fitted"), style)]
    rows = [
        (name, *_error_cells(errors)) for name, errors in (("before", found.before), ("after", found.after)) if errors
    ]
    if rows:
        parts.append(table(rows, ("rows left out in turn", "median |error|", "p90", "bias"), style))
    return "\n\n".join(
        [*parts, *(f"note: {note}" for note in found.notes), f"use it with: llm-analysis infer --runtime {target}"]
    )


def _as_row(found: Calibration) -> dict[str, object]:
    """Return the fitted terms in seconds, and the errors before and after as fractions, None without rows left out."""
    row: dict[str, object] = {
        "name": found.runtime.name,
        **{term: getattr(found.runtime, term) for term in DETERMINED_BY},
    }
    for name, errors in (("before", found.before), ("after", found.after)):
        known = spread(errors)._asdict() if errors else {}
        row |= {f"{name}_{key}": known.get(key) for key in ("median_error", "p90_error", "bias")}
    return row


def _error_cells(errors: Sequence[float]) -> tuple[str, ...]:
    """Return median, 90th percentile and bias of errors as text."""
    found = spread(errors)
    return f"{found.median_error:.1%}", f"{found.p90_error:.1%}", f"{found.bias:+.1%}"


_Key = Callable[[Measurement], str]
_SECTIONS: dict[str, _Key] = {
    "class": goal_class,
    "cell of the error bands": cell_of,
    "runtime": lambda m: f"{m.engine} ({m.kind})" if m.kind != "static" else m.engine,
    "source": lambda m: m.source,
    "GPU": lambda m: m.gpu_name,
    "model": lambda m: m.model_name,
    "metric": lambda m: m.metric,
    "format": lambda m: m.dtype_name,
}
_ALWAYS = ("class", "runtime")  # sections that are shown even if all rows are in one group
_HEADERS = ("rows", "median", "p90", "bias", "source", "band", "width")
_LEGEND = (
    "median and p90 of |estimated / measured - 1|; bias: median of the signed errors; "
    "source: the median over sources of the median of each. MoE/int/fp4: experts, or int or fp4 weights."
)
_LEGEND_OF_BANDS = (
    "Runtimes are fitted without the rows of the same source and GPU, bands are built without those of the same "
    "source, GPU and model. band: rows within their band, 80 % is the target; width: median of upper over lower end."
)
_MOST_REASONS = 8
_WORST = 5
_ALL = 20  # largest number of rows that are all shown
_FEW = 5  # smaller groups share one line
_LONGEST_NAME = 28


def score_text(score: Score, style: str) -> str:
    """Return the score in one of the formats of a report."""
    if style == "json":
        return json.dumps(as_dict(score), indent=2)
    if style == "csv":
        return _as_csv(score)
    parts = [table([_cells("all", score.overall)], ("", *_HEADERS), style), _legend(score.overall)]
    shown = {title: key for title, key in _SECTIONS.items() if title in _ALWAYS or len(score.by(key)) > 1}
    parts += [_section(score, title, key, style) for title, key in shown.items()]
    parts.append(_largest_errors(score, style))
    return "\n\n".join([*parts, *remarks(score)])


def _legend(s: Statistics) -> str:
    """Return the meaning of the columns."""
    return _wrapped(_LEGEND if s.coverage is None else f"{_LEGEND} {_LEGEND_OF_BANDS}")


def _section(score: Score, title: str, key: _Key, style: str) -> str:
    """Return one grouping of the rows; small groups are put together in the last line, except among classes."""
    sizes = {name: found.n for name, found in score.by(key).items()}
    small = [name for name, n in sizes.items() if n < _FEW and title not in ("class", "cell of the error bands")]
    last = f"{len(small)} groups of fewer than {_FEW} rows"
    fold = small if len(small) > 1 else []
    groups = score.by(lambda m: last if key(m) in fold else key(m))
    rows = [_cells(name, found) for name, found in groups.items() if name != last]
    rows += [_cells(last, groups[last])] if fold else []
    return table(rows, (f"by {title}", *_HEADERS), style)


def _cells(name: str, s: Statistics) -> tuple[str, ...]:
    """Return one line of a section."""
    coverage = "" if s.coverage is None else f"{s.coverage:.0%}"
    width = "" if s.width is None else f"{s.width:.2f}"
    errors = f"{s.median_abs_error:.1%}", f"{s.p90_abs_error:.1%}", f"{s.bias:+.1%}", f"{s.of_sources:.1%}"
    for long, short in (
        ("experts, int, fp4", "MoE/int/fp4"),
        (" | ", " "),
        (" chips", ""),
        (": static and serving", ""),
    ):
        name = name.replace(long, short)
    shown = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 3] + "..."
    return (shown or "(not given)", str(s.n), *errors, coverage, width)


def _largest_errors(score: Score, style: str) -> str:
    """Return the rows with the largest errors, or all rows if they are few."""
    few = len(score.rows) <= _ALL
    chosen = score.rows if few else sorted(score.rows, key=lambda row: -abs(row[1].error))[:_WORST]
    rows = [_row_cells(m, scored) for m, scored in chosen]
    return table(rows, ("row" if few else "largest errors", "measured", "estimated", "error"), style)


def _row_cells(m: Measurement, scored: Scored) -> tuple[str, ...]:
    """Return one row, measured beside estimated."""
    times = seconds(scored.measured_seconds), seconds(scored.estimated_seconds)
    return (f"{m.id} {m.model_name} tp{m.tp_size}", *times, f"{scored.error:+.0%}")


def remarks(score: Score) -> list[str]:
    """Return the rows that were set apart, skipped or scored as another runtime, with reasons."""
    found = []
    for reason in dict.fromkeys(reason for _, _, reason in score.set_apart):
        rows = [scored for _, scored, why in score.set_apart if why == reason]
        count, of = row_count([row.id for row in rows]), statistics(rows)
        found.append(f"set apart: {count}, median {of.median_abs_error:.1%}: {reason}")
    found += beyond_positions((m.id, m.model_name, m.longest) for m, _ in score.rows)
    for engine, n in score.assumed.items():
        found.append(f"{n} row{'s' if n > 1 else ''} of {engine}, which has no runtime: scored with --runtime unknown")
    reasons: dict[str, list[str]] = {}
    for name, reason in score.skipped:
        reasons.setdefault(reason, []).append(name)
    for reason, names in list(reasons.items())[:_MOST_REASONS]:
        found.append(f"skipped: {row_count(names)}: {reason}")
    if len(reasons) > _MOST_REASONS:
        found.append(f"skipped for {len(reasons) - _MOST_REASONS} more reasons; --format json lists each row")
    found += unit_remarks([scored.error for _, scored in score.rows], "measurements", "measured_s")
    return [_wrapped(remark) for remark in found]


def why_none(score: Score) -> str:
    """Return why no row of a table counts, as an error line."""
    if not score.set_apart:
        return f"no row could be estimated: {score.skipped[0][1] if score.skipped else 'the table is empty'}"
    reasons: dict[str, list[str]] = {}
    for m, _, reason in score.set_apart:
        reasons.setdefault(f"set apart: {reason}", []).append(m.id)
    for name, reason in score.skipped:
        reasons.setdefault(f"skipped: {reason}", []).append(name)
    parts = [f"{row_count(names)}, {reason}" for reason, names in list(reasons.items())[:_MOST_REASONS]]
    return f"no row is left to score: {'; '.join(parts)}"


def _wrapped(text: str) -> str:
    """Return a sentence in lines that fit a terminal."""
    return fill(" ".join(text.split()), 79, break_long_words=False, break_on_hyphens=False)


def _as_csv(score: Score) -> str:
    """Return one line per row: the workload, the measured and the estimated value, the error and the band."""
    return csv_of([workload_columns(m) | asdict(scored) for m, scored in score.rows])
