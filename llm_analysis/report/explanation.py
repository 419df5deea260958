"""An explanation as text: tables, markdown, CSV, JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from llm_analysis.inference.explain import TERMS, WHAT_IFS, Explanation, Line, latencies, line
from llm_analysis.report.estimate import heading
from llm_analysis.report.tables import csv_of, seconds, table

LEAST_SHARE = 5e-4  # that a table shows: 0.1 %, rounded


def rendered(e: Explanation, style: str) -> str:
    """The explanation in one of `report.FORMATS`."""
    if style == "json":
        return json.dumps(e.as_dict(), indent=2, allow_nan=False)
    if style == "csv":
        return as_csv(e)
    light = [sum(getattr(t, field) for t in e.terms[:3]) for field in ("prefill_share", "decode_share", "total_share")]
    said = "at the speed of light: {:.0%} of prefill, {:.0%} of decode, {:.0%} of total".format(*light)
    whole = line("estimate", *latencies(e.estimate), e.estimate)
    idle = ", ".join(WHAT_IFS[w.name][0] for w in e.savings if not moves(w))
    parts = [
        f"{heading(e.estimate)}\n{said}",
        line_table([*e.terms, whole], "where it goes", style),
        line_table([w for w in e.savings if moves(w)], "would save", style),
        *([f"no difference: {idle}"] if idle else []),
        *(f"note: {note}" for note in e.notes),
    ]
    return "\n\n".join(parts)


def moves(saving: Line) -> bool:
    """Whether a what-if saves or costs anything that a person would see."""
    return max(abs(saving.prefill_share), abs(saving.decode_share)) >= LEAST_SHARE


def line_table(lines: Sequence[Line], title: str, style: str) -> str:
    """One row per line; the shares stand beside their seconds."""
    labels = TERMS | {name: label for name, (label, _) in WHAT_IFS.items()}
    rows = []
    for one in lines:
        times = (one.prefill_seconds, one.decode_seconds, one.total_seconds)
        shares = (one.prefill_share, one.decode_share, one.total_share)
        cells = (text for pair in zip(times, shares, strict=True) for text in time_and_share(*pair))
        rows.append([labels.get(one.name, one.name), *cells])
    return table(rows, (title, "prefill", "", "decode", "", "total", ""), style)


def time_and_share(value: float, share: float) -> tuple[str, str]:
    """Seconds and their share as a person reads them; what is too little to see as a dash."""
    if abs(share) < LEAST_SHARE:
        return "-", "-"
    return f"{'-' if value < 0 else ''}{seconds(abs(value))}", f"{share:.1%}"


def as_csv(e: Explanation) -> str:
    """A row per term, one for the estimate, and one per what-if and what it saves: SI seconds, shares as fractions."""
    whole = line("estimate", *latencies(e.estimate), e.estimate)
    sections = {"term": e.terms, "estimate": (whole,), "saving": e.savings}
    return csv_of([{"section": section} | asdict(one) for section, lines in sections.items() for one in lines])
