"""A score as text: how far the estimates are from published figures, by runtime, source, GPU, model and metric."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict

from llm_analysis.measurements import Measurement
from llm_analysis.report import seconds, table
from llm_analysis.validate import Score, Scored, Statistics, as_dict, statistics

Key = Callable[[Measurement], str]
SECTIONS: dict[str, Key] = {
    "runtime": lambda m: f"{m.runtime} ({m.kind})" if m.kind != "static" else m.runtime,
    "source": lambda m: m.source[:40],
    "GPU": lambda m: m.gpu_name,
    "model": lambda m: m.model_name,
    "metric": lambda m: m.metric,
    "format": lambda m: m.dtype_name,
}
HEADERS = ("rows", "median |error|", "p90", "bias", "in band")
MOST_REASONS = 8
WORST = 5


def rendered(score: Score, style: str) -> str:
    """The score in one of the formats of a report."""
    if style == "json":
        return json.dumps(as_dict(score), indent=2)
    if style == "csv":
        return as_csv(score)
    parts = [table([cells("all", score.overall)], ("", *HEADERS), style)]
    for title, key in SECTIONS.items():
        rows = [cells(name, found) for name, found in score.by(key).items()]
        parts.append(table(rows, (f"by {title}", *HEADERS), style))
    parts.append(worst(score, style))
    return "\n\n".join([*parts, *remarks(score)])


def cells(name: str, s: Statistics) -> tuple[str, ...]:
    """One line of a section."""
    if not s.n:
        return (name, "0", "", "", "", "")
    return (
        name,
        str(s.n),
        f"{s.median_abs_error:.1%}",
        f"{s.p90_abs_error:.1%}",
        f"{s.bias:+.1%}",
        "" if s.coverage is None else f"{s.coverage:.0%}",
    )


def worst(score: Score, style: str) -> str:
    """The rows that are furthest off: measured beside estimated."""
    furthest = sorted(score.rows, key=lambda row: -abs(row[1].error))[:WORST]
    rows = [row_cells(m, scored) for m, scored in furthest]
    return table(rows, ("furthest off", "measured", "estimated", "error"), style)


def row_cells(m: Measurement, scored: Scored) -> tuple[str, ...]:
    """One row, measured beside estimated."""
    times = seconds(scored.measured_seconds), seconds(scored.estimated_seconds)
    return (f"{m.id} {m.model_name} tp{m.tp_size}", *times, f"{scored.error:+.0%}")


def remarks(score: Score) -> list[str]:
    """What was set apart and what was skipped, with reasons."""
    found = []
    if score.set_apart:
        apart = statistics([scored for _, scored in score.set_apart])
        found.append(
            f"set apart: {apart.n} rows that arithmetic contradicts, median |error| {apart.median_abs_error:.0%}"
        )
    reasons: dict[str, list[str]] = {}
    for name, reason in score.skipped:
        reasons.setdefault(reason, []).append(name)
    for reason, names in list(reasons.items())[:MOST_REASONS]:
        found.append(f"skipped: {len(names)} rows, {names[0]} the first: {reason}")
    if len(reasons) > MOST_REASONS:
        found.append(f"skipped for {len(reasons) - MOST_REASONS} more reasons; --format json lists each row")
    return found


def as_csv(score: Score) -> str:
    """One line for each row."""
    out = io.StringIO()
    names = ["source", "runtime", "gpu_name", "model_name", "metric"]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, *Scored.__dataclass_fields__])
    for m, scored in score.rows:
        writer.writerow([*(getattr(m, name) for name in names), *asdict(scored).values()])
    return out.getvalue().rstrip("\n")
