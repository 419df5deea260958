"""A table of estimates: columns under the JSON keys of infer, as numpy arrays in SI units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llm_analysis.errors import LLMAnalysisError
from llm_analysis.explore.columns import plain_values
from llm_analysis.explore.where import column_named, parse_where
from llm_analysis.explore.writers import writer_of

if TYPE_CHECKING:
    import pandas

    from llm_analysis.explore.columns import Column

Self = TypeVar("Self", bound="Table")


class Table(Mapping[str, "Column"]):
    """Columns of equal length by name. A missing number is NaN, a missing text is empty.

    `points` counts the points of the sweep, `misfits` those that do not fit in memory, `notes` list skipped points.
    """

    def __init__(
        self, columns: Mapping[str, Column], points: int = 0, misfits: int = 0, notes: Sequence[str] = ()
    ) -> None:
        self._columns = dict(columns)
        self.points, self.misfits, self.notes = points, misfits, tuple(notes)

    def __getitem__(self, name: str) -> Column:
        if name in self._columns:
            return self._columns[name]
        return self._columns[column_named(name, list(self._columns))]

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def get(self, name: str, default: Any = None) -> Any:
        """Return a column, or `default` if there is none of that name."""
        return self._columns.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        """Return the number of columns, as a Mapping does; `num_rows` is the number of rows."""
        return len(self._columns)

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return len(next(iter(self._columns.values()), ()))

    def taken(self: Self, rows: Any) -> Self:
        """Return the table with the rows of an index array, a mask or a slice."""
        columns = {name: column[rows] for name, column in self._columns.items()}
        return type(self)(columns, self.points, self.misfits, self.notes)

    def where(self: Self, conditions: str) -> Self:
        """Return the rows that meet conditions such as `tpot<20ms and fits=1`. Raises LLMAnalysisError."""
        import numpy as np

        mask = np.ones(self.num_rows, dtype=bool)
        for condition in parse_where(conditions, self._columns):
            mask &= condition.holds(self._columns[condition.column])
        return self.taken(mask)

    def sort(self: Self, column: str, *, descending: bool = False) -> Self:
        """Return the rows ordered by a column; equal ones keep their order. Raises UnknownName."""
        import numpy as np

        values = self[column]
        order = np.argsort(-values if descending and values.dtype.kind in "if" else values, kind="stable")
        return self.taken(order[::-1] if descending and values.dtype.kind not in "if" else order)

    def head(self: Self, count: int) -> Self:
        """Return the first rows."""
        return self.taken(slice(count))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each row as plain Python values; None for a missing one."""
        lists = [plain_values(name, column) for name, column in self._columns.items()]
        for values in zip(*lists, strict=True):
            yield dict(zip(self._columns, values, strict=True))

    def to_parquet(self, path: str | Path) -> None:
        """Write a Parquet file. Raises LLMAnalysisError if pyarrow is missing or the file cannot be written."""
        with writer_of(Path(path), list(self._columns), "parquet") as writer:
            writer.write(self._columns)

    def to_csv(self, path: str | Path) -> None:
        """Write a CSV file. Raises BadValue if the file cannot be written."""
        with writer_of(Path(path), list(self._columns), "csv") as writer:
            writer.write(self._columns)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a pandas DataFrame. Raises LLMAnalysisError if pandas is missing."""
        try:
            import pandas
        except ImportError:
            raise LLMAnalysisError("to_pandas needs pandas: pip install pandas") from None
        return pandas.DataFrame(self._columns)
