"""Estimates for all combinations of flag values.

Batch size, prompt length and output length are open array axes of one estimate: batch[:, None, None],
prompt[None, :, None], output[None, None, :]. All other flags are choices; each combination of them is a `Scenario`.
Points are computed in blocks of at most `BLOCK`, which limits the memory for any number of points. A row is
identical to the answer of infer, for any block size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_analysis.errors import BadConfig, BadValue, LLMAnalysisError, UnknownName, Unsupported
from llm_analysis.explore.columns import COLUMNS, array_of, checked_columns, joined
from llm_analysis.explore.combinations import axes, combinations, count, varying
from llm_analysis.explore.many import Grouping, ManyGPUs, can_be_grouped
from llm_analysis.explore.ranges import Value
from llm_analysis.explore.table import Table
from llm_analysis.explore.where import Condition, column_named, parse_where
from llm_analysis.inference.analysis import estimate
from llm_analysis.inference.estimate import Estimate
from llm_analysis.inference.question import model_of, scenario_of, workload_of
from llm_analysis.inference.scenario import Scenario
from llm_analysis.inference.workload import Workload

if TYPE_CHECKING:
    from llm_analysis.explore.columns import Column

BLOCK = 2**18  # points computed at once
_OPEN = ("batch_size_per_gpu", "seq_len", "num_tokens_to_generate")  # flags that are array axes
SINGLE = ("allow_download",)  # flags that take one value
_MOST_ROWS = 50_000_000  # most rows of a Table in memory


class Block(NamedTuple):
    """Some points of one scenario: their estimate, with arrays that broadcast to `shape`."""

    number: int
    shape: tuple[int, ...]
    estimate: Estimate

    @property
    def points(self) -> int:
        """The number of points."""
        return prod(self.shape)

    def column(self, name: str) -> Column:
        """Return a column of all points."""
        return array_of(name, getattr(self.estimate, name), self.shape)


class Selection(NamedTuple):
    """The rows and columns of a sweep to show or write."""

    columns: tuple[str, ...] = COLUMNS
    conditions: tuple[Condition, ...] = ()

    @classmethod
    def of(cls, columns: Sequence[str] | None = None, where: str | None = None) -> Selection:
        """Return the selection of names and conditions as the user writes them. Raises LLMAnalysisError."""
        names = COLUMNS if columns is None else tuple(checked_columns(columns))
        return cls(names, () if where is None else tuple(parse_where(where, COLUMNS)))

    def rows(self, block: Block | ManyGPUs) -> dict[str, Column]:
        """Return the wanted columns of the block's matching rows."""
        mask: Any = None
        for condition in self.conditions:
            holds = condition.holds(block.column(condition.column))
            mask = holds if mask is None else mask & holds
        if mask is not None and not mask.any():
            return {name: block.column(name)[:0] for name in self.columns[:1]}
        columns = {name: block.column(name) for name in self.columns}
        return columns if mask is None else {name: column[mask] for name, column in columns.items()}


class Sweep:
    """All combinations of flag values. Iterate over `blocks`, or read them all with `table`.

    `flags` maps the flags of infer to one value, a sequence, or a text with lists and ranges. Raises LLMAnalysisError
    for bad ranges, and for names that are not in the catalogue.
    """

    def __init__(self, flags: Mapping[str, object], block: int = BLOCK) -> None:
        self.values = axes(flags, SINGLE)
        self.block = block
        self.skipped: dict[str, int] = {}  # reason -> points
        self._open = {name: self.values[name] for name in _OPEN}
        self._choices = {name: each for name, each in self.values.items() if name not in _OPEN}
        self._known: dict[tuple[str, object], Any] = {}
        for name, values in self._open.items():
            wrong = next((v for v in values if not isinstance(v, int) or isinstance(v, bool) or v < 1), None)
            if wrong is not None:
                single: dict[str, Any] = {name: wrong}
                Workload(**single)  # raises the error of a single value

    @property
    def points(self) -> int:
        """The number of points."""
        return count(self.values)

    @property
    def varying(self) -> list[str]:
        """The flags that have more than one value."""
        return varying(self.values)

    def blocks(
        self, shard: tuple[int, int] = (0, 1), done: Callable[[int], bool] | None = None
    ) -> Iterator[Block | ManyGPUs]:
        """Yield the blocks, or those of shard i of n (from 0): block numbers equal to i modulo n that are not `done`.

        Invalid points, such as a tensor-parallel size that does not divide the heads, are skipped; `skipped` counts
        them by reason. Raises UnknownName and BadConfig at once, and the first reason if all are skipped.
        """
        if shard == (0, 1) and done is None and self._groups_gpus():
            yield from self._grouped()
            return
        number, yielded, first = -1, False, None
        for choice in combinations(self._choices):
            parts = list(self._parts())
            mine = []
            for part in parts:
                number += 1
                if number % shard[1] == shard[0] and not (done and done(number)):
                    mine.append((number, part))
            yielded = yielded or len(mine) < len(parts)
            for which, part in mine:
                try:
                    block = self._estimated(which, choice, part)
                except (UnknownName, BadConfig):
                    raise
                except LLMAnalysisError as error:
                    first = first or error
                    lost = prod(len(values) for values in part.values())
                    self.skipped[str(error)] = self.skipped.get(str(error), 0) + lost
                    continue
                yielded = True
                yield block
        if not yielded and first is not None:
            raise first

    def _groups_gpus(self) -> bool:
        """Return whether all GPUs of a sweep can be estimated at once: few points each, no prompt too long or short."""
        each = prod(len(values) for values in self._open.values())
        inner = prod(len(values) for values in self._within_gpu().values())
        if not can_be_grouped(self.values) or each * inner * len(self.values["gpu_name"]) > 4 * self.block:
            return False
        shortest, longest = (of(v for v in self._open["seq_len"] if isinstance(v, int)) for of in (min, max))
        prefix, ranks = (
            max((v for v in self.values[name] if isinstance(v, int)), default=0)
            for name in ("cached_prefix_len", "cp_size")
        )
        if shortest < prefix + max(ranks, 1):
            return False
        return all(longest <= self._positions(name) for name in self.values["model_name"])

    def _positions(self, name: Value) -> int:
        """Return the positions of a model."""
        flags = {"model_name": name, "allow_download": self.values["allow_download"][0]}
        return model_of(flags, self._known).max_position_embeddings

    def _within_gpu(self) -> dict[str, tuple[Value, ...]]:
        """Return the choices that vary faster than the GPU."""
        names = list(self._choices)
        return {name: self._choices[name] for name in names[names.index("gpu_name") + 1 :]}

    def _grouped(self) -> Iterator[ManyGPUs]:
        """Yield one block of all GPUs for each combination of the flags that vary slower than the GPU."""
        import numpy as np

        grouping, within = Grouping(self._known), self._within_gpu()
        outer = {name: each for name, each in self._choices.items() if name not in within and name != "gpu_name"}
        sizes = tuple(len(each) for each in self._open.values())
        index = [tuple(slice(None) if j == i else None for j in range(len(_OPEN))) for i in range(len(_OPEN))]
        open_axes = {name: np.array(each)[at] for (name, each), at in zip(self._open.items(), index, strict=True)}
        names, first, yielded = [str(name) for name in self.values["gpu_name"]], "", False
        for number, choice in enumerate(combinations(outer)):
            choices = [choice | inner for inner in combinations(within)]
            block = grouping.block(number, names, choices, open_axes, sizes)
            self.skipped = grouping.skipped
            first = first or next(iter(self.skipped), "")
            if block.groups:
                yielded = True
                yield block
        if not yielded:
            raise Unsupported(first)

    def table(self, selection: Selection | None = None, progress: Callable[[int], None] | None = None) -> Table:
        """Return the selected rows of all points. Raises LLMAnalysisError."""
        wanted = selection or Selection()
        parts: dict[str, list[Column]] = {name: [] for name in wanted.columns}
        misfits = rows = 0
        for block in self.blocks():
            misfits += int((~block.column("fits")).sum())
            found = wanted.rows(block)
            if len(found) == len(parts):
                rows += len(found[wanted.columns[0]])
                for name, column in found.items():
                    parts[name].append(column)
            if rows > _MOST_ROWS:
                raise BadValue(f"more than {_MOST_ROWS:,} rows; give --where, or write a file")
            if progress:
                progress(block.points)
        columns = {name: joined(each) if each else array_of(name, 0, (0,)) for name, each in parts.items()}
        return Table(columns, self.points, misfits, self.notes)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was skipped, with reasons."""
        return tuple(f"skipped {lost:,} points: {reason}" for reason, lost in self.skipped.items())

    def _parts(self) -> Iterator[dict[str, tuple[Value, ...]]]:
        """Yield slices of the open axes with at most `block` points each, the first axis outermost."""
        names, sizes = list(self._open), [len(each) for each in self._open.values()]
        steps, room = [1] * len(sizes), self.block
        for i in reversed(range(len(sizes))):
            steps[i] = max(1, min(sizes[i], room))
            room //= sizes[i] if steps[i] == sizes[i] else max(room, 1)
            room = max(room, 1) if steps[i] == sizes[i] else 1
        starts = [range(0, size, step) for size, step in zip(sizes, steps, strict=True)]
        for each in combinations({name: tuple(start) for name, start in zip(names, starts, strict=True)}):
            yield {
                name: self._open[name][int(str(each[name])) : int(str(each[name])) + step]
                for name, step in zip(names, steps, strict=True)
            }

    def _estimated(self, number: int, choice: Mapping[str, Value], part: Mapping[str, tuple[Value, ...]]) -> Block:
        """Return the block of a scenario and a part of the open axes, without prompt lengths that are invalid."""
        import numpy as np

        scenario = scenario_of(choice, self._known)
        flags: dict[str, Any] = dict(choice)
        shape = []
        for i, (name, values) in enumerate(self._valid(scenario, choice, part).items()):
            index = tuple(slice(None) if j == i else None for j in range(len(part)))
            flags[name] = values[0] if len(values) == 1 else np.array(values)[index]
            shape.append(len(values))
        cost = flags.get("cost_per_gpu_hour")
        return Block(number, tuple(shape), estimate(scenario, workload_of(flags, scenario), cost))

    def _valid(
        self, scenario: Scenario, choice: Mapping[str, Value], part: Mapping[str, tuple[Value, ...]]
    ) -> Mapping[str, tuple[Value, ...]]:
        """Return a part with the prompt lengths that are valid, and count the points of the others.

        Raises the error of the first length if none is valid.
        """
        lengths, others = part["seq_len"], prod(len(values) for name, values in part.items() if name != "seq_len")
        if len(lengths) == 1:
            return part
        single = {**choice, **{name: values[0] for name, values in part.items()}}
        limit = scenario.model.max_position_embeddings

        def error_of(length: Value) -> LLMAnalysisError | None:
            if isinstance(length, (int, float)) and length > limit:
                return Unsupported(f"seq_len is more than the {limit} positions of {scenario.model.name}")
            try:
                workload_of({**single, "seq_len": length}, scenario).check_shared_by(scenario.layout.cp_size)
            except LLMAnalysisError as error:
                return error
            return None

        ends = sorted(lengths, key=lambda length: float(length or 0))
        # A length is invalid if it is too short or too long, so the shortest and the longest show whether any is.
        if error_of(ends[0]) is None and error_of(ends[-1]) is None:
            return part
        errors = [error_of(length) for length in lengths]
        if errors[0] is not None and all(errors):
            raise errors[0]
        for reason in (str(error) for error in errors if error is not None):
            self.skipped[reason] = self.skipped.get(reason, 0) + others
        kept = tuple(length for length, error in zip(lengths, errors, strict=True) if error is None)
        return {**part, "seq_len": kept}


class Top:
    """The first rows of a sweep, in the order of a column if one is given."""

    def __init__(self, count: int, sort: str | None = None, descending: bool = False) -> None:
        self.count, self.descending = count, descending
        self.sort = None if sort is None else column_named(sort, COLUMNS)
        self.table: Table | None = None

    def add(self, columns: dict[str, Column]) -> None:
        """Add the rows of a block, and keep the first ones."""
        parts = [self.table, Table(columns)] if self.table is not None else [Table(columns)]
        both = Table({name: joined([part[name] for part in parts]) for name in columns})
        if self.sort is not None:
            both = both.sort(self.sort, descending=self.descending)
        self.table = both.head(self.count)
