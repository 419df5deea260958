"""Files of rows, written block by block: CSV, JSON Lines and Parquet.

A file is written under a temporary name and renamed when it is complete. An error removes it. An interrupt (Ctrl-C)
keeps the complete rows: the writer is closed and the file is renamed.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from llm_analysis.errors import BadValue, LLMAnalysisError, shown
from llm_analysis.explore.columns import TRUTH, WHOLE, csv_values, plain_values
from llm_analysis.explore.where import TEXT

if TYPE_CHECKING:
    from llm_analysis.explore.columns import Column

KINDS = ("csv", "jsonl", "parquet")


class Writer:
    """Writes blocks of columns to a file; use it as a context manager, which renames the file at the end."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path, self.names, self.num_rows = path, list(names), 0
        self._passing = path.with_name(f".sweep-{os.urandom(8).hex()}")

    def write(self, columns: Mapping[str, Column]) -> None:
        """Write the rows of a block. Raises BadValue if the disk is full, and removes the file."""
        try:
            self._write(columns)
        except OSError as error:
            self._fail(error)
        self.num_rows += len(next(iter(columns.values())))

    def __enter__(self) -> Writer:
        try:
            self._open()
        except OSError as error:
            self._fail(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, KeyboardInterrupt):
            try:
                self._close()
                os.replace(self._passing, self.path)
            except OSError as problem:
                self._fail(problem)
            return
        self._remove()

    def _fail(self, error: OSError) -> None:
        """Remove the file and raise BadValue."""
        self._remove()
        raise BadValue(f"cannot write {shown(str(self.path), 240)}: {error.strerror or error}") from None

    def _remove(self) -> None:
        """Close and remove the unfinished file."""
        with suppress(OSError, ValueError):
            self._close()
        self._passing.unlink(missing_ok=True)

    def _open(self) -> None:
        """Create the file under its temporary name."""
        raise NotImplementedError

    def _write(self, columns: Mapping[str, Column]) -> None:
        """Append a block."""
        raise NotImplementedError

    def _close(self) -> None:
        """Complete the file."""
        raise NotImplementedError


class _Text(Writer):
    """Writes lines of text."""

    _file: TextIO | None = None

    def _open(self) -> None:
        self._file = self._passing.open("x", encoding="utf-8", newline="")

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def _lists(self, columns: Mapping[str, Column]) -> list[list[Any]]:
        return [plain_values(name, columns[name]) for name in self.names]


class _CSV(_Text):
    """Writes CSV with a header line."""

    def _open(self) -> None:
        super()._open()
        csv.writer(self._open_file, lineterminator="\n").writerow(self.names)

    @property
    def _open_file(self) -> TextIO:
        if self._file is None:
            raise ValueError("the file is closed")
        return self._file

    def _write(self, columns: Mapping[str, Column]) -> None:
        cells = (csv_values(name, columns[name]) for name in self.names)
        csv.writer(self._open_file, lineterminator="\n").writerows(zip(*cells, strict=True))
        self._open_file.flush()


class _JSONLines(_Text):
    """Writes one JSON object on each line."""

    def _write(self, columns: Mapping[str, Column]) -> None:
        if self._file is None:
            raise ValueError("the file is closed")
        rows = zip(*self._lists(columns), strict=True)
        lines = (json.dumps(dict(zip(self.names, row, strict=True)), allow_nan=False) for row in rows)
        self._file.writelines(f"{line}\n" for line in lines)
        self._file.flush()


class _Parquet(Writer):
    """Writes a Parquet file, one row group for each block."""

    _writer: Any = None

    def _open(self) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise LLMAnalysisError('Parquet needs pyarrow: pip install "llm-analysis[parquet]"') from None
        kinds = {name: pa.dictionary(pa.int32(), pa.string()) for name in TEXT}
        kinds |= dict.fromkeys(TRUTH, pa.bool_()) | dict.fromkeys(WHOLE, pa.int64())
        self._schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in self.names])
        self._writer = pq.ParquetWriter(self._passing, self._schema)

    def _write(self, columns: Mapping[str, Column]) -> None:
        import pyarrow as pa

        arrays = [_arrow(name, columns[name], self._schema.field(name).type) for name in self.names]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))

    def _close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()


def _arrow(name: str, column: Column, kind: Any) -> Any:
    """Return a column as an Arrow array; null for NaN and for an empty text."""
    import numpy as np
    import pyarrow as pa

    if name in TEXT:
        names, codes = np.unique(column, return_inverse=True)
        words = pa.array([str(each) for each in names], pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32), mask=column == ""), words)
    missing = np.isnan(column) if column.dtype.kind == "f" else None
    if name in WHOLE and missing is not None:
        return pa.array(np.where(missing, 0, column).astype(np.int64), kind, mask=missing)
    return pa.array(column, kind, mask=missing)


_WRITERS: dict[str, type[Writer]] = {"csv": _CSV, "jsonl": _JSONLines, "parquet": _Parquet}


def writer_of(path: Path, names: Sequence[str], kind: str = "") -> Writer:
    """Return the writer of a file: of `kind`, else by the path's ending. Raises BadValue for an unknown ending."""
    found = kind or path.suffix[1:].lower()
    if found not in _WRITERS:
        raise BadValue(f"{shown(str(path), 240)} must end in .csv, .jsonl or .parquet")
    return _WRITERS[found](path, names)
