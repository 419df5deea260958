"""Conditions on the columns of a sweep: `tpot<20ms and fits=1`.

A condition is a column, an operator and a value. Columns have the names of infer's JSON keys, or an alias. Numbers are
in SI units (seconds, bytes) unless a unit follows. Conditions are joined by `and`; all must hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from llm_analysis.errors import BadValue, UnknownName, nearest, shown

ALIASES = {
    "ttft": "prefill_latency",
    "tpot": "decode_latency",
    "itl": "decode_latency",
    "latency": "total_latency",
    "batch": "batch_size_per_gpu",
    "gpu": "gpu_name",
    "model": "model_name",
    "dtype": "dtype_name",
    "cost": "cost_per_million_tokens",
}
_HEADINGS = {  # of the table
    "in": "seq_len",
    "out": "num_tokens_to_generate",
    "total": "total_latency",
    "tokens/s": "total_tokens_per_sec",
    "tokens/s/request": "request_tokens_per_sec",
    "left": "memory_left_per_gpu",
    "max batch": "max_batch_size_per_gpu",
    "cost/1m": "cost_per_million_tokens",
    "gpus": "num_gpus",
}
_UNIT_OF_HEADING = re.compile(r" (s|ms|us|GB)$")
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_SHARES = {"%": 0.01}
TEXT = frozenset(
    ("model_name", "gpu_name", "dtype_name", "method", "runtime", "engine", "draft_model_name", "total_latency_is")
)
TRUTH = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}
_CONDITION = re.compile(r"\s*(?P<column>[A-Za-z_][\w/]*)\s*(?P<operator><=|>=|!=|==|=|<|>)\s*(?P<value>[^<>=!]+?)\s*")
NUMBER = re.compile(r"(?P<number>[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(?P<unit>[A-Za-z%]*)")


class Condition(NamedTuple):
    """A column, one of the operators < <= > >= = !=, and a number in SI units or a text."""

    column: str
    operator: str
    value: float | str

    def holds(self, values: Any) -> Any:
        """Return the truth for each of the column's values, a numpy array."""
        operator = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "=": "eq", "!=": "ne"}[self.operator]
        return getattr(values, f"__{operator}__")(self.value)


def parse_where(text: str, columns: Iterable[str]) -> list[Condition]:
    """Return the conditions that `and` joins in a text. Raises BadValue, or UnknownName with the nearest column."""
    known = list(columns)
    return [_condition(part, known) for part in re.split(r"\s+and\s+", text.strip(), flags=re.IGNORECASE)]


def column_named(name: str, known: Sequence[str]) -> str:
    """Return the column of that name or alias. Raises UnknownName with the nearest known names."""
    wanted = (_HEADINGS | ALIASES).get(_UNIT_OF_HEADING.sub("", name.strip()).lower(), name)
    if wanted in known:
        return wanted
    raise UnknownName(f"unknown column {shown(name)}{nearest(name, [*known, *ALIASES])}")


def unit_of(column: str) -> Mapping[str, float]:
    """Return the units that a column's numbers may have, with their size in SI units."""
    if "latency" in column or column.endswith("seconds"):
        return SECONDS
    if "memory" in column or "bytes" in column:
        return _SHARES if column.endswith(("utilization", "efficiency")) else BYTES
    return _SHARES if column.endswith(("share", "fraction", "efficiency", "rate")) else {}


def quantity(name: str, text: str, units: Mapping[str, float]) -> float:
    """Return the number in a text such as `20ms`, in SI units.

    Raises BadValue for anything else, and for a unit of another quantity.
    """
    match = NUMBER.fullmatch(text.strip())
    if match is None:
        raise BadValue(f"{name} must be a number{_with_unit(units)}, not {shown(text)}")
    number, unit = float(match["number"].replace(",", "")), match["unit"]
    if not unit:
        return number
    found = units.get(unit, next((size for known, size in units.items() if known.lower() == unit.lower()), None))
    if found is None:
        hint = f"use {', '.join(units)}" if units else "give the number alone"
        raise BadValue(f"{name}: unknown unit {shown(unit)}; {hint}")
    return _scaled(number, found)


def time_limit(name: str, value: object) -> float:
    """Return a limit in seconds, from text such as `20ms` or from a number of seconds.

    Raises BadValue for text without a unit: 20 would be read as 20 seconds, where 20 ms are more likely.
    """
    if isinstance(value, str) and (match := NUMBER.fullmatch(value.strip())) and not match["unit"]:
        raise BadValue(f"{name} {shown(value)} has no unit; write {value.strip()}ms or {value.strip()}s")
    return quantity(name, str(value), SECONDS)


def _scaled(number: float, unit: float) -> float:
    """Return number * unit, by a division if the unit is a negative power of ten: 20 ms are 0.02 s exactly."""
    return number * unit if unit >= 1 else number / round(1 / unit)


def _with_unit(units: Mapping[str, float]) -> str:
    """Return the phrase that names the units of an error message."""
    return f" in {', '.join(units)}" if units else ""


def _condition(part: str, known: Sequence[str]) -> Condition:
    """Return one condition. Raises BadValue, UnknownName."""
    match = _CONDITION.fullmatch(part)
    if match is None:
        raise BadValue(f"where: {shown(part)} is not a condition; write column<number, joined by `and`: tpot<20ms")
    column, value = column_named(match["column"], known), match["value"].strip("'\"")
    operator = match["operator"].replace("==", "=")
    if value.lower() in TRUTH and column not in TEXT:
        return Condition(column, operator, TRUTH[value.lower()])
    if NUMBER.fullmatch(value) and column not in TEXT:
        units = unit_of(column)
        if match["column"] != column and units is SECONDS and not NUMBER.fullmatch(value)["unit"]:  # type: ignore[index]
            raise BadValue(
                f"where: {shown(part.strip())} has no unit; write {match['column']}{operator}{value}ms or {value}s"
            )
        return Condition(column, operator, quantity(f"where: {match['column']}", value, units))
    if operator not in ("=", "!="):
        text = f"{column}, which is text; use = or !="
        problem = text if column in TEXT else f"{column} with {shown(value)}, which is not a number"
        raise BadValue(f"where: {shown(part.strip())} compares {problem}")
    return Condition(column, operator, value)
