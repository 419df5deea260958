"""The answer of `explain` as text: tables, Markdown, CSV, JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from llm_analysis.inference.explain import TERMS, WHAT_IFS, Explanation, Line
from llm_analysis.report.estimate import heading, note_text
from llm_analysis.report.tables import View, csv_of, significant, table, time_unit, wrapped

_LEAST_SHARE = 5e-4  # a smaller share of the latency would be shown as 0.0 %
_FIGURES = 3  # significant digits
_PHASES = ("prefill", "decode", "total")


def rendered(e: Explanation, style: str, view: View = View()) -> str:  # noqa: B008 - an immutable tuple
    """Return the explanation in one of `tables.FORMATS`."""
    if style == "json":
        return json.dumps(e.as_dict(), indent=2, allow_nan=False)
    if style == "csv":
        return as_csv(e)
    light = [sum(getattr(t, field) for t in e.terms[:3]) for field in ("prefill_share", "decode_share", "total_share")]
    shares = "at the speed of light: {:.0%} of prefill, {:.0%} of decode, {:.0%} of total".format(*light)
    terms = [term for term in e.terms if _is_visible(term)]
    units = {phase: _unit_of(phase, [*e.terms, *e.savings, e.whole]) for phase in _PHASES}
    idle = f"no difference: {', '.join(WHAT_IFS[w.name][0] for w in e.savings if not _is_visible(w))}"
    parts = [
        f"{heading(e.estimate, style, view)}\n{shares}",
        _line_table([*terms, e.whole], units, "where it goes", style),
        _line_table([w for w in e.savings if _is_visible(w)], units, "what if", style),
        *([idle if style == "markdown" else wrapped(idle, view.width)] if idle[-2:] != ": " else []),
        *(note_text(note, style, view) for note in e.notes),
    ]
    return "\n\n".join(parts)


def _is_visible(one: Line) -> bool:
    """Return whether a line has a share of a latency that the table can show."""
    return max(abs(one.prefill_share), abs(one.decode_share)) >= _LEAST_SHARE


def _unit_of(phase: str, lines: Sequence[Line]) -> tuple[float, str]:
    """Return one unit for the times of a phase: its size in seconds, and its name."""
    visible = [each for each in lines if abs(getattr(each, f"{phase}_share")) >= _LEAST_SHARE]
    return time_unit((getattr(each, f"{phase}_seconds") for each in visible), _FIGURES)


def _line_table(lines: Sequence[Line], units: Mapping[str, tuple[float, str]], title: str, style: str) -> str:
    """Return one row for each line: three times, each with its share of the latency; savings with a minus sign."""
    labels = TERMS | {name: label for name, (label, _) in WHAT_IFS.items()}
    rows = []
    for one in lines:
        cells = [labels.get(one.name, one.name)]
        for phase, (size, unit) in units.items():
            time, share = getattr(one, f"{phase}_seconds") / size, getattr(one, f"{phase}_share")
            if abs(share) < _LEAST_SHARE:
                cells += ["-", "-"]
            elif one.name in WHAT_IFS:
                cells += [f"{'-' if time > 0 else '+'}{significant(abs(time), _FIGURES)} {unit}", f"{-share:+.1%}"]
            else:
                cells += [f"{significant(time, _FIGURES)} {unit}", f"{share:.1%}"]
        rows.append(cells)
    return table(rows, (title, "prefill", "", "decode", "", "total", ""), style)


def as_csv(e: Explanation) -> str:
    """Return one row for each term, for the estimate and for each what-if: seconds, and shares as fractions."""
    sections = {"term": e.terms, "estimate": (e.whole,), "saving": e.savings}
    return csv_of([{"section": section} | asdict(one) for section, lines in sections.items() for one in lines])
