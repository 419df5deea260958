"""Everything that can be wrong with a question. One line each, for a person.

LLMAnalysisError            exit 1: the question makes no sense
+-- UnknownName             no such model, GPU, dtype, method; names the nearest
+-- BadConfig               a JSON file that is malformed, has an unknown key, misses one
+-- BadValue                a value outside of what it may be
+-- Unsupported             a sensible question that this method, GPU or layout cannot answer
UsageError                  exit 2: a flag that does not exist
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class LLMAnalysisError(ValueError):
    """The question makes no sense; the message is one line that says what to change."""


class UnknownName(LLMAnalysisError):
    """A name that is not in the catalogue."""


class BadConfig(LLMAnalysisError):
    """A configuration file that cannot be read as what it should be."""


class BadValue(LLMAnalysisError):
    """A value outside of its range, or of the wrong type."""


class Unsupported(LLMAnalysisError):
    """A sensible question that this method, GPU or layout cannot answer."""


class UsageError(Exception):
    """A flag or a command that does not exist."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names that look most like `name`, as the end of an error line."""
    from difflib import get_close_matches  # a mistake may take its millisecond; an answer should not

    names = sorted(known)
    lower = {known_name.lower(): known_name for known_name in reversed(names)}
    close = [n for n in lower if len(name) > 2 and name.lower() in n]
    close += [n for n in get_close_matches(name.lower(), lower, n=3, cutoff=0.6) if n not in close]
    return f"; did you mean {', '.join(lower[n] for n in close[:3])}?" if close else f"; known: {', '.join(names[:12])}"


def unknown(what: str, name: object, known: Iterable[str]) -> UnknownName:
    """An `UnknownName` for `name`, with the nearest known names."""
    return UnknownName(f"unknown {what} {shown(name)}{nearest(str(name), known)}")


def shown(value: object, limit: int = 60) -> str:
    """`value` as it can stand inside one line."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def one_line(error: ValidationError, known: Iterable[str] = (), where: str = "") -> str:
    """The first complaint of a pydantic error as one line: the field, what it must be, what it was."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "value"
    prefix = f"{where}: " if where else ""
    if first["type"] == "missing":
        return f"{prefix}missing {field!r}"
    if first["type"] == "extra_forbidden":
        return f"{prefix}unknown key {field!r}{nearest(field, known)}"
    if first["type"] == "value_error":
        return f"{prefix}{first['msg'].removeprefix('Value error, ')}"
    what = first["msg"].removeprefix("Input should be ").replace("a valid ", "a ").replace("a integer", "an integer")
    return f"{prefix}{field} must be {what}, not {shown(first['input'])}"
