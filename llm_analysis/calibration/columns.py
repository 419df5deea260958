"""Columns that all tables of published measurements have, and the values of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_analysis.errors import BadValue, shown

Row = Mapping[str, str]
Skipped = tuple[str, str]  # the id of a row, and the reason
_NAMES = ("runtime", "model_name", "gpu_name", "dtype_name")
_TEXTS = ("source", "kv_dtype", "grade")
_SIZES = ("tp_size", "pp_size", "ep_size")
SERVER = ("version", *_NAMES, *_TEXTS, *_SIZES)  # fields that `read_server` returns
_LARGEST = 1e9  # of any number in a table; a larger one is a typing error


def read_server(row: Row) -> dict[str, Any]:
    """Return what a row was measured on, and by whom: the fields of `SERVER`. Raises BadValue."""
    return {
        "version": read_text(row, "runtime_version"),
        **{name: read_filled(row, name) for name in _NAMES},
        **{name: read_text(row, name) for name in _TEXTS},
        **{name: read_count(row, name) for name in _SIZES},
    }


def read_text(row: Row, name: str) -> str:
    """Return a cell as text; empty if the column is missing. Raises BadValue for control characters."""
    found = (row.get(name) or "").strip()
    if not found.isprintable():
        raise BadValue(f"{name} {shown(found)} has a character that cannot be printed")
    return found


def read_filled(row: Row, name: str) -> str:
    """Return a cell that must not be empty as text. Raises BadValue."""
    found = read_text(row, name)
    if not found:
        raise BadValue(f"{name} is empty")
    return found


def read_word(row: Row, name: str, known: Sequence[str], empty: str | None = None) -> str:
    """Return a cell that must be one of `known`; `empty`, if there is one, if it is empty. Raises BadValue."""
    value = read_filled(row, name) if empty is None else read_text(row, name) or empty
    if value not in known:
        raise BadValue(f"{name} {shown(value)} is not one of {', '.join(known)}")
    return value


def read_number(row: Row, name: str, empty: float | None = None, least: float = 0.0) -> float:
    """Return a cell as a number from `least` to 1e9; `empty`, if there is one, if it is empty. Raises BadValue."""
    if empty is not None and not read_text(row, name):
        return empty
    cell = read_filled(row, name)
    try:
        value = float(cell)
    except ValueError:
        raise BadValue(f"{name} must be a number, not {shown(cell)}") from None
    if not least <= value <= _LARGEST:
        raise BadValue(f"{name} must be a number from {least:g} to {_LARGEST:g}, not {shown(cell)}")
    return value


def read_positive(row: Row, name: str) -> float:
    """Return a cell as a number above 0. Raises BadValue."""
    value = read_number(row, name)
    if value <= 0:
        raise BadValue(f"{name} must be above 0, not {value:g}")
    return value


def read_count(row: Row, name: str) -> int:
    """Return a cell as a whole number from 1 up; 1 if it is empty. Raises BadValue."""
    value = read_number(row, name, 1.0)
    if value < 1 or value != int(value):
        raise BadValue(f"{name} must be a whole number from 1 up, not {shown(read_text(row, name))}")
    return int(value)


def skipped_row(row: Row, number: int, error: BadValue) -> Skipped:
    """Return the id of a row that cannot be read, or its number in the table if it has none, and the reason."""
    name = str(row.get("id") or "").strip() or f"row {number}"
    return name if name.isprintable() else shown(name), str(error)
