"""All combinations of flag values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import product
from math import prod
from typing import Any

from llm_analysis.explore.ranges import Value, values_of

# Flags that take names; their values may contain colons, and only commas separate them.
_NAMES = frozenset({"model_name", "gpu_name", "dtype_name", "draft_model_name", "method", "runtime"})


def axes(flags: Mapping[str, object], single: Collection[str] = ()) -> dict[str, tuple[Value, ...]]:
    """Return the values of each flag; those in `single` have one value, which is not parsed. Raises BadValue."""
    found: dict[str, tuple[Any, ...]] = {}
    for name, value in flags.items():
        found[name] = (value,) if name in single else values_of(name, value, text=name in _NAMES)
    return found


def combinations(values: Mapping[str, tuple[Value, ...]]) -> Iterator[dict[str, Value]]:
    """Yield every combination of the values, the last flag varying fastest."""
    return (dict(zip(values, each, strict=True)) for each in product(*values.values()))


def count(values: Mapping[str, tuple[Value, ...]]) -> int:
    """Return the number of combinations."""
    return prod(len(each) for each in values.values())


def varying(values: Mapping[str, tuple[Value, ...]]) -> list[str]:
    """Return the flags that have more than one value."""
    return [name for name, each in values.items() if len(each) > 1]
