"""A sweep as text: a table of the varying flags and the results, JSON, CSV, Markdown."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llm_analysis.explore.columns import COLUMNS, TRUTH, WHOLE, csv_values, plain_values
from llm_analysis.explore.table import Table
from llm_analysis.explore.where import BYTES, TEXT, unit_of
from llm_analysis.report.tables import table

if TYPE_CHECKING:
    from llm_analysis.explore.columns import Column

# Results of a table for people, in the order in which they are left out when the terminal is too narrow, last first.
RESULTS = (
    "prefill_latency",
    "decode_latency",
    "total_tokens_per_sec",
    "fits",
    "cost_per_million_tokens",
    "total_latency",
    "memory_left_per_gpu",
    "max_batch_size_per_gpu",
)
_HEADINGS = {
    "model_name": "model",
    "gpu_name": "GPU",
    "dtype_name": "dtype",
    "batch_size_per_gpu": "batch",
    "seq_len": "in",
    "num_tokens_to_generate": "out",
    "prefill_latency": "TTFT",
    "decode_latency": "TPOT",
    "total_latency": "total",
    "total_tokens_per_sec": "tokens/s",
    "request_tokens_per_sec": "tokens/s/request",
    "memory_left_per_gpu": "left",
    "max_batch_size_per_gpu": "max batch",
    "cost_per_million_tokens": "cost/1M",
    "num_gpus": "GPUs",
}
_LATENCY_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


def wanted_columns(varying: Sequence[str], found: Table, others: Sequence[str] = ()) -> list[str]:
    """Return the columns of a table for people: the flags that vary, columns asked for, and results with values."""
    asked = [name for name in (*varying, *others) if name in COLUMNS]
    return list(dict.fromkeys([*asked, *(name for name in RESULTS if name in found and _known(found[name]))]))


def rendered(found: Table, style: str, names: Sequence[str], width: int = 80) -> str:
    """Return the rows in one of `report.tables.FORMATS`; a table for people has the `names` that fit the width."""
    if style == "json":
        return json.dumps(list(found.rows()), indent=2, allow_nan=False)
    if style == "csv":
        return as_csv(found)
    cells = {name: _column_cells(name, found[name]) for name in names if name in found}
    while True:
        rows = list(zip(*(texts for _, texts in cells.values()), strict=True))
        text = table(rows, [heading for heading, _ in cells.values()], style)
        longest = max(map(len, text.splitlines()))
        if style == "markdown" or longest <= width or len(cells) <= 1:
            return text
        cells.popitem()


def as_csv(found: Table) -> str:
    """Return all rows as CSV in SI units."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(found)
    writer.writerows(zip(*(csv_values(name, column) for name, column in found.items()), strict=True))
    return out.getvalue().rstrip("\n")


def as_html(found: Table, names: Sequence[str], most: int = 50) -> str:
    """Return the first rows as an HTML table, for notebooks."""
    first = found.head(most)
    cells = {name: _column_cells(name, first[name]) for name in names if name in found}
    heads = "".join(f"<th>{html.escape(heading)}</th>" for heading, _ in cells.values())
    lines = zip(*(texts for _, texts in cells.values()), strict=True)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table><p>{html.escape(summary(found))}</p>"


def summary(found: Table, matching: int | None = None, condition: bool = False) -> str:
    """Return the last line: how many points there are, do not fit, match and are shown."""
    parts = [f"{found.points:,} point{'s' * (found.points != 1)}"]
    parts += [f"{found.misfits:,} do not fit"] if found.misfits else []
    parts += [f"{matching:,} match --where"] if condition and matching is not None else []
    parts += [f"{found.num_rows:,} shown"] if found.num_rows != found.points else []
    return ", ".join(parts)


def _column_cells(name: str, column: Column) -> tuple[str, list[str]]:
    """Return the heading of a column with its unit, and its cells in that unit."""
    heading, values = _HEADINGS.get(name, name), plain_values(name, column)
    numbers = [value for value in values if isinstance(value, (int, float)) and value is not None]
    if name in TRUTH:
        return heading, ["yes" if value else "no" for value in values]
    if name in TEXT or not numbers:
        return heading, ["-" if value is None else str(value) for value in values]
    if name in WHOLE:
        return heading, ["-" if value is None else f"{value:,}" for value in values]
    unit, size = _unit(name, [abs(value) for value in numbers])
    return (f"{heading} {unit}".strip(), ["-" if value is None else _digits(value / size) for value in values])


def _unit(name: str, sizes: Sequence[float]) -> tuple[str, float]:
    """Return the unit of a column that suits its median."""
    median = sorted(sizes)[len(sizes) // 2]
    units: Mapping[str, float] = unit_of(name)
    if "latency" in name:
        return next(((unit, size) for unit, size in _LATENCY_UNITS.items() if median >= size), ("us", 1e-6))
    return ("GB", 1e9) if units is BYTES else ("", 1.0)


def _digits(value: float) -> str:
    """Return three significant digits, or all digits before the point."""
    size = abs(value)
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"


def _known(column: Any) -> bool:
    """Return whether a column has any value."""
    return column.dtype.kind != "f" or bool((column == column).any())
