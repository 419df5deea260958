"""The columns of a sweep: the JSON keys of infer, the kinds of their values, and their numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llm_analysis.errors import BadValue
from llm_analysis.explore.where import TEXT, column_named
from llm_analysis.files import csv_cell
from llm_analysis.inference.estimate import KEYS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Column = NDArray[Any]

COLUMNS = tuple(key for key in KEYS if key not in ("operators", "notes"))
TRUTH = frozenset(("use_kv_cache", "disaggregated", "fits"))
WHOLE = frozenset(
    (
        "batch_size_per_gpu",
        "seq_len",
        "num_tokens_to_generate",
        "num_samples",
        "cached_prefix_len",
        "prefill_chunk_size",
        "max_num_seqs",
        "num_draft_tokens",
        "tp_size",
        "cp_size",
        "pp_size",
        "dp_size",
        "sp_size",
        "ep_size",
        "num_gpus",
        "max_batch_size_per_gpu",
        "max_context_len",
    )
)


def larger_is_better(name: str) -> bool:
    """Return whether the largest value of a column is the best: throughput, capacity and memory left."""
    return name.endswith("tokens_per_sec") or name.startswith("max_") or name in ("fits", "memory_left_per_gpu")


def array_of(name: str, value: Any, shape: tuple[int, ...]) -> Column:
    """Return one field of an estimate as a flat column for the points of a block."""
    import numpy as np

    if name in TEXT:
        return np.full(shape, "" if value is None else value).reshape(-1)
    if name in TRUTH:
        return np.broadcast_to(np.asarray(value, dtype=bool), shape).reshape(-1)
    missing = value is None
    column = np.broadcast_to(np.asarray(np.nan if missing else value, dtype=np.float64), shape).reshape(-1)
    return column.astype(np.int64) if name in WHOLE and not missing else column


def joined(parts: Sequence[Column]) -> Column:
    """Return the parts of a column from several blocks as one; whole numbers become floats if some are missing."""
    import numpy as np

    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def plain_values(name: str, column: Column) -> list[Any]:
    """Return a column as a list of Python values; None for NaN and for an empty text."""
    values: list[Any] = column.tolist()
    if name in TEXT:
        return [value or None for value in values]
    if column.dtype.kind == "f":
        whole = name in WHOLE
        return [None if value != value else int(value) if whole else value for value in values]
    return values


def csv_values(name: str, column: Column) -> list[Any]:
    """Return a column as a list of cells of a CSV file."""
    values = plain_values(name, column)
    return [csv_cell(value) for value in values] if name in TEXT else values


def checked_columns(names: Sequence[str]) -> list[str]:
    """Return the columns of those names or aliases. Raises UnknownName with the nearest; BadValue if there are none."""
    if not names:
        raise BadValue("columns has no name")
    return [column_named(name.strip(), COLUMNS) for name in names]
