"""The answer of `explain` as text: tables, Markdown, CSV, JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from llm_analysis.inference.explain import TERMS, WHAT_IFS, Explanation, Line, latencies, line
from llm_analysis.report.estimate import heading, note_text
from llm_analysis.report.tables import View, csv_of, significant, table, time_unit, wrapped

_LEAST_SHARE = 5e-4  # of the latency: a smaller share would be shown as 0.0 %
_FIGURES = 3  # significant digits


def rendered(e: Explanation, style: str, view: View = View()) -> str:  # noqa: B008 - an immutable tuple
    """Return the explanation in one of `tables.FORMATS`."""
    if style == "json":
        return json.dumps(e.as_dict(), indent=2, allow_nan=False)
    if style == "csv":
        return as_csv(e)
    light = [sum(getattr(t, field) for t in e.terms[:3]) for field in ("prefill_share", "decode_share", "total_share")]
    shares = "at the speed of light: {:.0%} of prefill, {:.0%} of decode, {:.0%} of total".format(*light)
    whole = line("estimate", *latencies(e.estimate), e.estimate)
    idle = f"no difference: {', '.join(WHAT_IFS[w.name][0] for w in e.savings if not moves(w))}"
    parts = [
        f"{heading(e.estimate, style, view)}\n{shares}",
        _line_table([*e.terms, whole], "where it goes", style),
        _line_table([w for w in e.savings if moves(w)], "would save", style),
        *([idle if style == "markdown" else wrapped(idle, view.width)] if idle[-2:] != ": " else []),
        *(note_text(note, style, view) for note in e.notes),
    ]
    return "\n\n".join(parts)


def moves(saving: Line) -> bool:
    """Return whether a what-if changes a latency by a share that the table can show."""
    return max(abs(saving.prefill_share), abs(saving.decode_share)) >= _LEAST_SHARE


def _line_table(lines: Sequence[Line], title: str, style: str) -> str:
    """Return one row for each line: three times in one unit, each with its share of the latency."""
    labels = TERMS | {name: label for name, (label, _) in WHAT_IFS.items()}
    rows = []
    for one in lines:
        times = (one.prefill_seconds, one.decode_seconds, one.total_seconds)
        shares = (one.prefill_share, one.decode_share, one.total_share)
        size, unit = time_unit(t for t, share in zip(times, shares, strict=True) if abs(share) >= _LEAST_SHARE)
        cells = (
            cell for t, share in zip(times, shares, strict=True) for cell in _time_and_share(t / size, unit, share)
        )
        rows.append([labels.get(one.name, one.name), *cells])
    return table(rows, (title, "prefill", "", "decode", "", "total", ""), style)


def _time_and_share(value: float, unit: str, share: float) -> tuple[str, str]:
    """Return a time and its share of the latency; two dashes if the share would be shown as 0.0 %."""
    if abs(share) < _LEAST_SHARE:
        return "-", "-"
    return f"{significant(value, _FIGURES)} {unit}", f"{share:.1%}"


def as_csv(e: Explanation) -> str:
    """Return one row for each term, for the estimate and for each what-if: seconds, and shares as fractions."""
    whole = line("estimate", *latencies(e.estimate), e.estimate)
    sections = {"term": e.terms, "estimate": (whole,), "saving": e.savings}
    return csv_of([{"section": section} | asdict(one) for section, lines in sections.items() for one in lines])
