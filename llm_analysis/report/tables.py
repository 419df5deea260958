"""TODO."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import tabulate

from llm_analysis.units import GB

FORMATS = ("table", "json", "csv", "markdown")
STYLES = {"table": "simple", "markdown": "github"}


def seconds(value: float) -> str:
    """A time as a person reads it."""
    if value >= 1:
        return f"{value:.3f} s" if value < 100 else f"{value:.1f} s"
    return f"{value * 1e3:.2f} ms" if value >= 1e-3 else f"{value * 1e6:.2f} us"


def table(rows: Sequence[Sequence[object]], headers: Sequence[str], style: str, last: str = "right") -> str:
    """A table whose cells are already text: names on the left, figures on the right, the `last` column as asked."""
    align = ["left", *["right"] * (len(headers) - 2), last]
    with narrow_headings():
        text: str = tabulate.tabulate(
            rows, headers=headers, tablefmt=STYLES[style], colalign=align, disable_numparse=True
        )
    return text


@contextmanager
def narrow_headings() -> Iterator[None]:
    """Without tabulate's two columns beside each heading, for which a terminal of 80 has no room; put back after."""
    usual = tabulate.MIN_PADDING
    tabulate.MIN_PADDING = 0
    try:
        yield
    finally:
        tabulate.MIN_PADDING = usual


def rate(value: float) -> str:
    """A throughput as a person reads it."""
    return f"{value:,.{0 if value >= 1000 else 1}f} tokens/s"


def gigabytes(value: float) -> str:
    """Bytes in units of 1e9."""
    return f"{value / GB:,.2f}"


def scaled(values: Sequence[float], units: Mapping[float, str]) -> tuple[list[str], str]:
    """Figures in the first unit that shows the largest in four digits, and that unit."""
    largest = max(values, default=0.0)
    unit = next((size for size in units if largest < 9999.5 * size), max(units))
    digits = 2 if largest < 99.995 * unit else 1 if largest < 999.95 * unit else 0
    return [f"{value / unit:,.{digits}f}" if value else "-" for value in values], units[unit]


def _as_cell(value: Any) -> Any:
    """Return a CSV cell; text that a spreadsheet would run as a formula gets an apostrophe in front."""
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def csv_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows that have the same keys, under these."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _as_cell(value) for key, value in row.items()} for row in rows)
    return out.getvalue().rstrip("\n")
