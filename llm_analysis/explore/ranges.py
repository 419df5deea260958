"""Lists and ranges of flag values.

    1,2,4          these values
    1:256          doubling from 1 up to 256: 1, 2, 4, ..., 256
    512:8192:512   from 512 to 8192 in steps of 512
    1:4096:*2      from 1 to 4096, each value 2 times the one before

A list may contain ranges: `1:8,12,16`. The end is included if a step of the range falls on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import floor, isfinite, log

from llm_analysis.errors import BadValue, shown

_CONSTANTS = {"true": True, "false": False, "none": None}
_OWN_NONE = ("runtime",)  # flags for which `none` is a value
_OTHER_RANGE = re.compile(r"(\d+)\s*(?:\.\.+|-|to)\s*(\d+)")  # ranges in other notations
_MOST_VALUES = 10**6  # most values of one flag
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d*)?")

Value = str | int | float | bool | None


def values_of(flag: str, given: object, *, text: bool = False) -> tuple[Value, ...]:
    """Return the values that a flag is given: a text in the notation above, a Python sequence, or one value.

    With `text` the values are names, which may contain colons. Raises BadValue for an empty list or range.
    """
    if isinstance(given, str):
        if given[:1] + given[-1:] in ("[]", "()"):
            given = given[1:-1]
        if not text and is_one_number(given):
            raise BadValue(f"{flag} {shown(given)} is no list; write {without_commas(given)} for one number")
        found = [value for part in given.split(",") for value in _values_in(flag, part.strip(), text)]
    elif isinstance(given, Iterable):
        found = [value for item in given for value in values_of(flag, _plain(item), text=text)]
    else:
        return (given,)  # type: ignore[return-value]  # the record that takes the value checks its type
    if not found:
        raise BadValue(f"{flag} has no value")
    if len(found) > _MOST_VALUES:
        raise BadValue(f"{flag} has {len(found):,} values, more than {_MOST_VALUES:,}")
    return tuple(dict.fromkeys(found))


def without_commas(text: str) -> str:
    """Return a number such as 2,000 without its commas; empty for a text that is no such number."""
    return text.strip().replace(",", "") if _THOUSANDS.fullmatch(text.strip()) else ""


def is_one_number(text: str) -> bool:
    """Return whether a text such as 2,000 can only be one number; 128,256 can be a list too."""
    return bool(without_commas(text)) and any(part.startswith("0") for part in text.split(",")[1:])


def _plain(item: object) -> object:
    """Return a Python number for a numpy scalar, everything else as it is."""
    return item.item() if hasattr(item, "item") else item


def _values_in(flag: str, part: str, text: bool) -> Iterable[Value]:
    """Yield the values of one part of a list: a single value, or a range. Raises BadValue."""
    if not part:
        raise BadValue(f"{flag} has an empty entry in its list")
    if text:
        return [part if flag in _OWN_NONE else _CONSTANTS.get(part.lower(), part)]
    pieces = part.split(":")
    if other := _OTHER_RANGE.fullmatch(part):
        raise BadValue(f"{flag} {shown(part)} is not a range; write {other[1]}:{other[2]}")
    if len(pieces) == 1:
        number = _number(part)
        return [_CONSTANTS.get(part.lower(), part) if number is None else number]
    start, end = _number(pieces[0]), _number(pieces[1])
    by, factor = (pieces[2], pieces[2].startswith("*")) if len(pieces) == 3 else ("*2", True)
    step = _number(by.removeprefix("*"))
    if len(pieces) > 3 or start is None or end is None or step is None:
        raise BadValue(f"{flag} {shown(part)} is not a range; write 1:256, 512:8192:512 or 1:4096:*2")
    return _progression(f"{flag} {part}", start, end, step, factor)


def _progression(name: str, start: float, end: float, step: float, factor: bool) -> Iterable[Value]:
    """Return the values from `start` to at most `end`: multiples by `step`, or `start` plus multiples of it."""
    if end < start:
        raise BadValue(f"{name} is empty: the end {end:g} is below the start {start:g}; write {end:g}:{start:g}")
    if factor and (step <= 1 or start <= 0):
        what = "the factor must be above 1" if step <= 1 else "a range by factors must start above 0"
        raise BadValue(f"{name}: {what}")
    if not factor and step <= 0:
        raise BadValue(f"{name}: the step must be above 0")
    count = log(end / start) / log(step) if factor else (end - start) / step
    if count > _MOST_VALUES:
        raise BadValue(f"{name} has more than {_MOST_VALUES:,} values")
    steps = range(floor(count + 1e-9) + 1)
    return [start * step**i if factor else start + i * step for i in steps]


def _number(text: str) -> int | float | None:
    """Return the finite number that a text spells, an int if it is whole; None for any other text."""
    try:
        value = float(text)
    except ValueError:
        return None
    if not isfinite(value) or "_" in text:
        return None
    return int(value) if value.is_integer() else value
