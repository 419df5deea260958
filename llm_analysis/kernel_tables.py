"""Tables of measured kernels, and what is made of them: operators of arrays with the seconds that each row took."""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_analysis.operators import Op

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Table = dict[str, Any]  # column name -> array of numbers or of text


@dataclass(frozen=True, slots=True)
class Samples:
    """Operators of one kind, format and rate, as arrays, and what they took.

    Kernels measured together with each: `twin` runs with the same numbers, `before` (it quantises the input) with
    numbers of its own, to be fitted along, and those of `known` have numbers already.
    """

    op: Op
    seconds: Array
    shape: Array  # rows of equal value go to the same fold
    source: str
    note: str = ""
    twin: Op | None = None
    before: Op | None = None
    known: tuple[Op, ...] = ()

    def part(self, keep: Mask) -> Samples:
        """The rows that `keep` marks."""
        twin, before = (None if op is None else rows_of(op, keep) for op in (self.twin, self.before))
        op, known = rows_of(self.op, keep), tuple(rows_of(op, keep) for op in self.known)
        seconds, shape = self.seconds[keep], self.shape[keep]
        return replace(self, op=op, twin=twin, before=before, known=known, seconds=seconds, shape=shape)


def read_table(path: Path) -> Table:
    """Columns of a CSV, gzipped or not, as arrays: of float64 where every cell is a number, else of text."""
    reading = gzip.open if path.suffix == ".gz" else open
    with reading(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return {name: column(cells) for name, cells in zip(rows[0], zip(*rows[1:], strict=True), strict=True)}


def column(cells: tuple[str, ...]) -> NDArray[Any]:
    """Cells as numbers if all are."""
    try:
        return np.array(cells, dtype=np.float64)
    except ValueError:
        return np.array(cells)


def where(table: Table, keep: Mask) -> Table:
    """The rows of a table that `keep` marks."""
    return {name: values[keep] for name, values in table.items()}


def hashed(*columns: Array) -> Array:
    """One number per row that rows of equal columns share, spread evenly (a golden-ratio hash)."""
    mixed = sum(np.log2(values + 1.0) * factor for values, factor in zip(columns, (1.0, 7.3, 31.7, 97.1), strict=False))
    return np.floor((np.asarray(mixed) * 1e3 * 0.6180339887498949) % 1.0 * 1e6)


def rows_of(op: Op, keep: Mask) -> Op:
    """The rows of an operator of arrays that `keep` marks."""
    values: dict[str, Any] = {k: v[keep] if isinstance(v, np.ndarray) else v for k, v in op._asdict().items()}
    return Op(**values)
