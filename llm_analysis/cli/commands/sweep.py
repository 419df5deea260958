"""The command `sweep`: estimates for all combinations of flag values."""

import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from llm_analysis.cli.commands.infer import PRINTING, infer
from llm_analysis.cli.flags import OUTPUT, Flag, with_flags_of
from llm_analysis.cli.output import Format, Output, complaint, set_log_level
from llm_analysis.cli.pictures import picture_path, with_picture
from llm_analysis.cli.progress import Progress, orderly_stop
from llm_analysis.cli.writing import existing_folder, path_of
from llm_analysis.errors import BadValue, choice, shown, whole_number
from llm_analysis.explore.columns import COLUMNS, larger_is_better
from llm_analysis.explore.many import ManyGPUs
from llm_analysis.explore.sweep import Block, Selection, Sweep, Top
from llm_analysis.explore.table import Table
from llm_analysis.explore.where import column_named
from llm_analysis.explore.writers import KINDS, writer_of
from llm_analysis.report.sweep import rendered, summary, wanted_columns
from llm_analysis.report.tables import FORMATS

FILES = (*PRINTING, "must_fit", "format", "log_level")
DEFAULT_TOP = 20  # rows of a table for people
MOST_ROWS = 10**9
INTERRUPTED = 130
_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@with_flags_of(infer, without=FILES, raw=True)
def sweep(
    *,
    where: Annotated[str | None, Flag('rows to keep, such as "tpot<20ms and fits=1"', OUTPUT)] = None,
    sort: Annotated[str | None, Flag("column to order by; a JSON key of infer, ttft or tpot", OUTPUT)] = None,
    descending: Annotated[
        bool | None,
        Flag("largest first; the default for throughput, for memory left and for what fits", OUTPUT),
    ] = None,
    top: Annotated[int | None, Flag("rows to show or write; the default of a table is 20", OUTPUT)] = None,
    columns: Annotated[str | None, Flag("columns to show or write, joined by commas", OUTPUT)] = None,
    output_file: Annotated[
        str | None, Flag("write the rows to this .csv, .jsonl or .parquet file instead of stdout", OUTPUT)
    ] = None,
    shard: Annotated[
        str | None, Flag("i/n: compute only part i of n, and write it into the folder output_file", OUTPUT)
    ] = None,
    plot: Annotated[
        str | None, Flag("draw latency and throughput by batch size into this .png or .svg file", OUTPUT)
    ] = None,
    format: Format = "table",
    log_level: Annotated[str, Flag("DEBUG shows the traceback of an internal error", OUTPUT)] = "WARNING",
    **flags: Any,
) -> Output:
    """Estimate all combinations of flag values: --tp_size 1,2,4 --batch_size_per_gpu 1:256 --seq_len 512:8192:512."""
    choice("format", format, FORMATS)
    set_log_level(log_level)
    picture = None if plot is None else picture_path("plot", plot)
    if picture is not None and shard is not None:
        raise BadValue("--plot draws all points, and --shard computes only some: give one of them")
    output = _answered(flags, where, sort, descending, top, columns, output_file, shard, format)
    if picture is None:
        return output
    from llm_analysis.cli.commands.plot import batch_figure

    figure = batch_figure({**flags, "format": "table", "log_level": log_level}, None)
    return with_picture(output, picture, figure, "table" if output_file is not None else format)


def _answered(
    flags: dict[str, Any],
    where: str | None,
    sort: str | None,
    descending: bool | None,
    top: int | None,
    columns: str | None,
    output_file: str | None,
    shard: str | None,
    format: str,
) -> Output:
    """Return the rows of a sweep, or write them to a file. Raises LLMAnalysisError."""
    found = Sweep(flags)
    selection = Selection.of(None if columns is None else columns.split(","), where)
    limit = None if top is None else whole_number("top", top, MOST_ROWS)
    if sort is not None:
        sort = column_named(sort, COLUMNS)
        if sort not in selection.columns:
            selection = selection._replace(columns=(*selection.columns, sort))
        descending = larger_is_better(sort) if descending is None else descending
    if shard is not None:
        return _sharded(found, selection, shard, output_file)
    if output_file is not None and sort is None and limit is None:
        return _streamed(found, selection, _file_to_write(output_file))
    shows_table = format in ("table", "markdown") and output_file is None
    if shows_table and columns is None:
        selection = selection._replace(columns=_columns_of_table(found, selection, sort))
    most = limit or (DEFAULT_TOP if shows_table else None)
    rows, matching = _collected(found, selection, most, sort, bool(descending))
    last = summary(rows, matching, where is not None)
    if output_file is not None:
        with writer_of(_file_to_write(output_file), list(rows)) as writer:
            writer.write(rows)
        return Output(f"{last}\nwrote {output_file}", notes=rows.notes)
    if not shows_table:
        return Output(rendered(rows, format, list(rows)), notes=rows.notes)
    names = list(rows) if columns is not None else wanted_columns(found.varying, rows, _named_columns(selection, sort))
    text = rendered(rows, format, names, shutil.get_terminal_size((80, 24)).columns) if rows.num_rows else "no rows"
    return Output(f"{text}\n\n{last}", notes=rows.notes)


def _named_columns(selection: Selection, sort: str | None) -> list[str]:
    """Return the columns that conditions and order name."""
    return [*(condition.column for condition in selection.conditions), *([sort] if sort else [])]


def _columns_of_table(found: Sweep, selection: Selection, sort: str | None) -> tuple[str, ...]:
    """Return the columns that a table may show; the other ones need not be computed."""
    from llm_analysis.report.sweep import RESULTS

    names = (*found.varying, *_named_columns(selection, sort), *RESULTS)
    return tuple(name for name in dict.fromkeys(names) if name in COLUMNS)


def _collected(
    found: Sweep, selection: Selection, limit: int | None, sort: str | None, descending: bool
) -> tuple[Table, int]:
    """Return the rows to show and the number of rows that match. Raises LLMAnalysisError; exits on Ctrl-C."""
    if limit is None:
        table = found.table(selection)
        return (table if sort is None else table.sort(sort, descending=descending)), table.num_rows
    best, misfits, matching, progress = Top(limit, sort, descending), 0, 0, Progress(found.points)
    for block in _interruptible(found.blocks(), progress):
        misfits += int((~block.column("fits")).sum())
        rows = selection.rows(block)
        size = len(next(iter(rows.values())))
        matching += size
        if len(rows) == len(selection.columns) and size:
            best.add(rows)
    _exit_if_interrupted(progress)
    kept = Table({}) if best.table is None else best.table
    return Table(dict(kept), found.points, misfits, found.notes), matching


def _interruptible(blocks: Iterable[Block | ManyGPUs], progress: Progress) -> Iterator[Block | ManyGPUs]:
    """Yield the blocks, up to the first Ctrl-C, and show the progress."""
    with orderly_stop() as interrupt:
        for block in blocks:
            yield block
            progress.add(block.points)
            progress.interrupted = interrupt.pressed
            if progress.interrupted:
                break
    progress.clear()


def _exit_if_interrupted(progress: Progress) -> None:
    """Exit with a line on stderr if Ctrl-C stopped the sweep."""
    if progress.interrupted:
        sys.exit(complaint(f"stopped after {progress.done:,} of {progress.total:,} points", INTERRUPTED))


def _file_to_write(output_file: str) -> Path:
    """Return the file to write. Raises BadValue for an unknown ending or a folder that cannot be written to."""
    path = path_of("output_file", output_file)
    if path.suffix[1:].lower() not in KINDS or path.is_dir():
        raise BadValue(f"output_file must be a file ending in .csv, .jsonl or .parquet, not {shown(output_file)}")
    existing_folder(str(path.parent), "the folder of output_file")
    return path


def _streamed(found: Sweep, selection: Selection, path: Path) -> Output:
    """Write the rows of all blocks to a file. Raises LLMAnalysisError; exits on Ctrl-C, and keeps complete rows."""
    progress = Progress(found.points)
    with writer_of(path, selection.columns) as writer:
        for block in _interruptible(found.blocks(), progress):
            rows = selection.rows(block)
            if len(rows) == len(selection.columns):
                writer.write(rows)
    _exit_if_interrupted(progress)
    return Output(f"{found.points:,} points, {writer.num_rows:,} rows written to {path}", notes=found.notes)


def _sharded(found: Sweep, selection: Selection, shard: str, output_file: str | None) -> Output:
    """Write the blocks of one shard as Parquet parts into a folder; parts that exist are skipped."""
    match = _SHARD.fullmatch(shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise BadValue(f"shard must be i/n with i from 1 to n, such as 3/8, not {shown(shard)}")
    if output_file is None:
        raise BadValue("--shard writes parts into a folder: give --output_file, such as sweep.parquet")
    folder = path_of("output_file", output_file)
    existing_folder(str(folder.parent), "the folder of output_file")
    if folder.exists() and not folder.is_dir():
        raise BadValue(f"output_file {shown(output_file)} is a file; --shard writes parts into a folder")
    folder.mkdir(exist_ok=True)
    which = int(match[1]) - 1, int(match[2])
    progress, written = Progress(-(-found.points // which[1])), 0
    blocks = found.blocks(which, lambda number: part_path(folder, number).exists())
    for block in _interruptible(blocks, progress):
        rows = selection.rows(block)
        if len(rows) < len(selection.columns):
            rows = {name: block.column(name)[:0] for name in selection.columns}
        with writer_of(part_path(folder, block.number), selection.columns) as writer:
            writer.write(rows)
        written += 1
    _exit_if_interrupted(progress)
    return Output(f"{found.points:,} points, {written:,} parts of shard {shard} written to {folder}", notes=found.notes)


def part_path(folder: Path, number: int) -> Path:
    """Return the file of a block."""
    return folder / f"part-{number:09d}.parquet"
