"""Tables, and numbers with their units: the only place with milliseconds, GB and TFLOP."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from math import floor, log10
from textwrap import fill
from typing import Any, NamedTuple

import tabulate

from llm_analysis.files import csv_cell
from llm_analysis.units import GB

FORMATS = ("table", "json", "csv", "markdown")
_TIMES = ((1e-6, "us"), (1e-3, "ms"), (1.0, "s"))
_LEAST_TEXT = 24  # columns that a wrapped column keeps
_COLOURS = {"compute": 33, "memory": 36, "network": 35, "launch": 34, "DOES NOT FIT": 31}  # ANSI


class View(NamedTuple):
    """How much of an answer a table shows, and where: columns of the terminal, colours, which operators."""

    width: int = 80
    colour: bool = False
    operators: str = "largest"  # none, largest or all

    def coloured(self, word: str) -> str:
        """Return a word in its colour, if it has one and the terminal shows colours."""
        return f"\x1b[{_COLOURS[word]}m{word}\x1b[0m" if self.colour and word in _COLOURS else word


def table(
    rows: Sequence[Sequence[object]], headers: Sequence[str], style: str, last: str = "right", width: int = 0
) -> str:
    """Return a table of cells that are text already: the first column left-aligned, the others right-aligned.

    `last` aligns the last column. A left-aligned last column is wrapped if the table is wider than `width`, which 0
    turns off.
    """
    align = ["left", *["right"] * (len(headers) - 2), last]
    if style == "markdown":
        text: str = tabulate.tabulate(rows, headers, "github", colalign=align, disable_numparse=True)
        return text
    if width and last == "left":
        rows = _wrap_last(rows, headers, width)
    # As a row, the headings get no padding; as headings they would get two columns each.
    text = tabulate.tabulate([headers, *rows], (), "simple", colalign=align, disable_numparse=True)
    rule, heading, *body = text.split("\n")[:-1]
    return "\n".join(line.rstrip() for line in (heading, rule, *body))


def _wrap_last(rows: Sequence[Sequence[object]], headers: Sequence[str], width: int) -> list[list[object]]:
    """Return rows with the last cell wrapped at word boundaries, to fit the table into the width."""
    others = [max(len(str(row[i])) for row in (headers, *rows)) + 2 for i in range(len(headers) - 1)]
    left = max(width - sum(others), _LEAST_TEXT)
    return [[*row[:-1], fill(str(row[-1]), left, break_long_words=False, break_on_hyphens=False)] for row in rows]


def wrapped(text: str, width: int, indent: str = "  ") -> str:
    """Return a sentence in lines of at most `width` columns, wrapped at spaces, indented from the second on."""
    whole = " ".join(text.split())
    return fill(whole, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def significant(value: float, digits: int, most_decimals: int = 3) -> str:
    """Return a number with so many significant digits, but no more decimals than `most_decimals`."""
    if not value:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = min(max(digits - 1 - floor(log10(abs(rounded))), 0), most_decimals)
    return f"{value if decimals else rounded:,.{decimals}f}"  # rounded once


def seconds(value: float, digits: int = 5) -> str:
    """Return a time with its unit; at most three decimals of a second, two of a smaller unit."""
    size, unit = time_unit([value], digits)
    return f"{significant(value / size, digits, 3 if unit == 's' else 2)} {unit}"


def time_unit(values: Iterable[float], digits: int = 5) -> tuple[float, str]:
    """Return one unit for the times of a row: its size in seconds, and its name.

    It is the smallest unit in which the middle time is below 1,000 and the largest below 10,000.
    """
    ordered = sorted(abs(value) for value in values if value) or [0.0]
    middle, largest = (float(f"{each:.{digits - 1}e}") for each in (ordered[len(ordered) // 2], ordered[-1]))
    return next((unit for unit in _TIMES if middle < 999.9999 * unit[0] and largest < 9999.999 * unit[0]), _TIMES[-1])


def seconds_range(low: float, high: float, around: float, digits: int = 3) -> str:
    """Return two times in the unit of the time between them, such as '9.1 to 12.4 ms'."""
    size, unit = time_unit([around], digits)
    return f"{significant(low / size, digits)} to {significant(high / size, digits)} {unit}"


def rate(value: float, digits: int = 4) -> str:
    """Return a throughput with its unit."""
    return f"{significant(value, digits)} tokens/s"


def gigabytes(value: float) -> str:
    """Return bytes in units of 1e9 bytes."""
    return f"{value / GB:,.2f}"


def scaled(values: Sequence[float], units: Mapping[float, str]) -> tuple[list[str], str]:
    """Return figures in the first unit that shows the largest in four digits, and the name of that unit."""
    largest = max(values, default=0.0)
    unit = next((size for size in units if largest < 9999.5 * size), max(units))
    digits = 2 if largest < 99.995 * unit else 1 if largest < 999.95 * unit else 0
    return [f"{value / unit:,.{digits}f}" if value else "-" for value in values], units[unit]


def csv_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with the same keys as CSV, under a line of these keys."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in row.items()} for row in rows)
    return out.getvalue().rstrip("\n")


def drafting(draft_model_name: str | None, num_draft_tokens: int) -> str:
    """Return what drafts how many tokens of a step; empty without speculative decoding."""
    tokens = "1 token" if num_draft_tokens == 1 else f"{num_draft_tokens} tokens"
    return f"{tokens} drafted by {draft_model_name}" if num_draft_tokens else ""
