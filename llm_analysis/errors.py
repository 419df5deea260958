"""Everything that can be wrong with a question. One line each, for a person.

LLMAnalysisError            exit 1: the question makes no sense
+-- UnknownName             no such model, GPU, dtype, method; names the nearest
+-- BadConfig               a JSON file that is malformed, has an unknown key, misses one
+-- BadValue                a value outside of what it may be
+-- Unsupported             a sensible question that this method, GPU or layout cannot answer
UsageError                  exit 2: a flag that does not exist
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf, isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

MOST_NAMES = 12  # that one line lists
MOST_CHARACTERS = 100  # of a name that is compared with known ones

# Pydantic's kinds of complaint in the words of this program's users.
PLAIN_WORDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "True or False",
    "string_type": "text",
    "too_short": "an object with one entry at least",
}


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


def nearest(name: str, known: Iterable[str], otherwise: str = "", prefix: str = "") -> str:
    """The known names that look most like `name`, as the end of an error line; `otherwise` where none does."""
    from difflib import get_close_matches  # a mistake may take its millisecond; an answer should not

    names = list(known)
    lower = {known_name.lower(): known_name for known_name in sorted(names, reverse=True)}
    wanted = name.lower()[:MOST_CHARACTERS]
    if wanted in lower:
        return f"; did you mean {prefix}{lower[wanted]}?"
    close = [n for n in lower if n.startswith(wanted) and len(wanted) > 1]
    close += [n for n in lower if n not in close and min(len(wanted), len(n)) > 2 and (wanted in n or n in wanted)]
    close += [n for n in get_close_matches(wanted, lower, n=3, cutoff=0.6) if n not in close]
    if close:
        return f"; did you mean {', '.join(prefix + lower[n] for n in close[:3])}?"
    more = ", ..." if len(names) > MOST_NAMES else ""
    return f"; {otherwise}" if otherwise else f"; known: {', '.join(prefix + n for n in names[:MOST_NAMES])}{more}"


def unknown(what: str, name: object, known: Iterable[str], otherwise: str = "") -> UnknownName:
    """An `UnknownName` for `name`, with the nearest known names."""
    return UnknownName(f"unknown {what} {shown(name)}{nearest(str(name), known, otherwise)}")


def choice(flag: str, value: object, known: Sequence[str]) -> None:
    """Raises UnknownName for a value that is not among the known ones."""
    if value not in known:
        raise unknown(flag, value, known)


def shown(value: object, limit: int = 80) -> str:
    """`value` as it can stand inside one line."""
    text = repr(value[: limit + 1] if isinstance(value, str) else value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def printable(text: str) -> str:
    """Return `text`. Raises ValueError if it holds a character that a terminal would act on, such as ESC or newline."""
    if not text.isprintable():
        raise ValueError(f"{shown(text)} has a character that cannot be printed")
    return text


def one_line(error: ValidationError, known: Iterable[str] = (), where: str = "") -> str:
    """The first complaint of a pydantic error as one line: the field, what it must be, what it was."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "value"
    prefix = f"{where}: " if where else ""
    if first["type"] == "missing":
        return f"{prefix}missing key {field!r}"
    if first["type"] == "extra_forbidden":
        return f"{prefix}unknown key {shown(field)}{nearest(field, known)}"
    if first["type"] == "value_error":
        return f"{prefix}{first['msg'].removeprefix('Value error, ')}"
    what = PLAIN_WORDS.get(first["type"]) or first["msg"].removeprefix("Input should be ").replace("a valid ", "a ")
    return f"{prefix}{field} must be {what}, not {shown(first['input'])}"


def number(name: str, value: object) -> float:
    """`value` as a finite float. Raises BadValue for anything else, True and False included."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadValue(f"{name} must be a number, not {shown(value)}")
    try:
        found = float(value)
    except OverflowError:
        found = inf
    if not isfinite(found):
        raise BadValue(f"{name} must be a finite number, not {found:g}")
    return found


def one_of(name: str, value: object, allowed: tuple[float, ...]) -> float:
    """`value` if it is among `allowed`. Raises BadValue otherwise."""
    if number(name, value) not in allowed:
        raise BadValue(f"{name} must be one of {', '.join(f'{a:g}' for a in allowed)}, not {shown(value)}")
    return number(name, value)
