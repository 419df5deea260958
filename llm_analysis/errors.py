"""The errors of the package; the message of each is one line with what to change.

LLMAnalysisError            exit status 1
+-- UnknownName             no model, GPU, dtype or method of this name; the message gives the nearest ones
+-- BadConfig               a file that is malformed, has an unknown key, or lacks one
+-- BadValue                a value of the wrong type or outside of its range
+-- Unsupported             a valid question that the method, the GPU or the layout cannot answer
    +-- DoesNotFit          exit status 3: a model that must fit into the memory and does not
UsageError                  exit status 2: an unknown command or flag
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import inf, isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

MAX_NAMES = 12  # names in one error line
_SIMILAR_START = 0.8  # least similarity (difflib) of a name and the start of a known one
_MAX_CHARACTERS = 100  # longest part of a name that is compared with the known ones

# What a value must be, by the type of pydantic's error.
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "True or False",
    "string_type": "text",
    "too_short": "an object with one entry at least",
}


# A number as people write it: a currency, digits with commas, a unit.
_WITH_UNIT = re.compile(r"[$€£]?\s*(?P<digits>\d[\d,_]*(?:\.\d+)?)\s*(?P<unit>%|/?[a-zA-Z/]*)")
_MULTIPLES = {"k": (10**3, 2**10), "m": (10**6, 2**20), "ki": (2**10,), "mi": (2**20,)}
# A unit with a prefix: only a flag in this unit takes the number without it.
_SCALED = re.compile(r"(?P<unit>[kmgtp]i?b|[kmgtp]flop|[mun]s).*")


class LLMAnalysisError(ValueError):
    """An invalid question. The message is one line with what to change."""


class UnknownName(LLMAnalysisError):
    """A name that is not in the catalogue."""


class BadConfig(LLMAnalysisError):
    """A file that cannot be read as a model, GPU, runtime or table of measurements."""


class BadValue(LLMAnalysisError):
    """A value of the wrong type or outside of its range."""


class Unsupported(LLMAnalysisError):
    """A valid question that the method, the GPU or the layout cannot answer."""


class DoesNotFit(Unsupported):
    """A model that must fit into the memory and does not, in a question that has no answer then."""


class UsageError(Exception):
    """An unknown command or flag."""


def nearest(name: str, known: Iterable[str], otherwise: str = "", prefix: str = "") -> str:
    """Return the known names most similar to `name`, as the end of an error line; `otherwise` if none is similar."""
    from difflib import SequenceMatcher, get_close_matches  # imported here: an answer without an error needs neither

    names = list(known)
    lower = {known_name.lower(): known_name for known_name in sorted(names, reverse=True)}
    wanted = name.lower()[:_MAX_CHARACTERS]
    if wanted in lower:
        return f"; did you mean {prefix}{lower[wanted]}?"
    close = [n for n in lower if n.startswith(wanted) and len(wanted) > 1]
    close += [n for n in lower if n not in close and min(len(wanted), len(n)) > 2 and (wanted in n or n in wanted)]
    plain = {n: "".join(filter(str.isalnum, n)) for n in [*sorted(lower), wanted]}
    length = len(plain[wanted])
    starts = {n: SequenceMatcher(None, plain[wanted], plain[n][:length]).ratio() for n in sorted(lower)}
    likely = sorted(
        (n for n, ratio in starts.items() if ratio >= _SIMILAR_START and length > 2), key=lambda n: -starts[n]
    )
    close += [n for n in likely if n not in close]
    close += [n for n in get_close_matches(wanted, lower, n=3, cutoff=0.6) if n not in close]
    if close:
        return f"; did you mean {', '.join(prefix + lower[n] for n in close[:3])}?"
    more = ", ..." if len(names) > MAX_NAMES else ""
    return f"; {otherwise}" if otherwise else f"; known: {', '.join(prefix + n for n in names[:MAX_NAMES])}{more}"


def unknown(what: str, name: object, known: Iterable[str], otherwise: str = "") -> UnknownName:
    """Return the UnknownName error for `name`, with the nearest known names."""
    return UnknownName(f"unknown {what} {shown(name)}{nearest(str(name), known, otherwise)}")


def choice(flag: str, value: object, known: Sequence[str]) -> None:
    """Raise UnknownName if `value` is not among the known ones."""
    if value not in known:
        raise unknown(flag, value, known)


def shown(value: object, limit: int = 80) -> str:
    """Return `value` for an error line: quoted, escaped and cut to `limit` characters."""
    text = repr(value[: limit + 1] if isinstance(value, str) else value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def without_unit(value: object, *, whole: bool = False, name: str = "") -> str:
    """Return how to write a number with a unit, as the end of an error line: 4k is 4000 or 4096, 8/s is 8, 90% is 0.9.

    Empty for a value that is no such number, for a unit such as TB that the flag `name` does not end in, and with
    `whole` for a fraction.
    """
    match = _WITH_UNIT.fullmatch(value.strip()[:_MAX_CHARACTERS]) if isinstance(value, str) else None
    if match is None:
        return ""
    number, unit = float(re.sub("[,_]", "", match["digits"])), match["unit"].lower()
    scaled = _SCALED.fullmatch(unit)
    if scaled and scaled["unit"] not in name.lower().rpartition("_")[2]:
        return ""
    multiples = _MULTIPLES.get(unit, (0.01,) if unit == "%" else (1,))
    values = [number * multiple for multiple in multiples]
    fraction = whole and not all(value.is_integer() for value in values)
    return "" if fraction else f"; write {' or '.join(f'{value:.12g}' for value in values)}"


def printable(text: str) -> str:
    """Return `text`. Raises ValueError if it has a control character, such as ESC or newline."""
    if not text.isprintable():
        raise ValueError(f"{shown(text)} has a character that cannot be printed")
    return text


def one_line(error: ValidationError, known: Iterable[str] = (), where: str = "") -> str:
    """Return the first problem of a pydantic error as one line: the field, the expected kind of value, the value.

    Unknown keys are listed together, in the order of the file.
    """
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "value"
    prefix = f"{where}: " if where else ""
    if first["type"] == "missing":
        return f"{prefix}missing key {field!r}"
    if first["type"] == "extra_forbidden":
        keys = [str(each["loc"][-1]) for each in error.errors() if each["type"] == "extra_forbidden"]
        more = ", ..." if len(keys) > MAX_NAMES else ""
        if len(keys) > 1:
            return f"{prefix}unknown keys {', '.join(shown(key) for key in keys[:MAX_NAMES])}{more}"
        return f"{prefix}unknown key {shown(field)}{nearest(field, known)}"
    if first["type"] == "value_error":
        return f"{prefix}{first['msg'].removeprefix('Value error, ')}"
    what = _EXPECTED.get(first["type"]) or first["msg"].removeprefix("Input should be ").replace("a valid ", "a ")
    # The keys of a file have units of their own: 80 GB are not 80 memory_bytes.
    given_as_flag = not where and first["type"] in ("int_type", "float_type")
    hint = without_unit(first["input"], whole=first["type"] == "int_type", name=field) if given_as_flag else ""
    return f"{prefix}{field} must be {what}, not {shown(first['input'])}{hint}"


def number(name: str, value: object) -> float:
    """Return `value` as a finite float. Raises BadValue for anything else, also for True and False."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadValue(f"{name} must be a number, not {shown(value)}{without_unit(value, name=name)}")
    try:
        found = float(value)
    except OverflowError:
        found = inf
    if not isfinite(found):
        raise BadValue(f"{name} must be a finite number, not {found:g}")
    return found


def whole_number(name: str, value: object, most: int = 10**6, least: int = 1) -> int:
    """Return a whole number from `least` to `most`. Raises BadValue for anything else."""
    found = number(name, value)
    if found != int(found) or not least <= found <= most:
        raise BadValue(f"{name} must be a whole number from {least} to {most:,}, not {shown(value)}")
    return int(found)


def one_of(name: str, value: object, allowed: tuple[float, ...]) -> float:
    """Return `value` if it is one of `allowed`. Raises BadValue otherwise."""
    if number(name, value) not in allowed:
        raise BadValue(f"{name} must be one of {', '.join(f'{a:g}' for a in allowed)}, not {shown(value)}")
    return number(name, value)
