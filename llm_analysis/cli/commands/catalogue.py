"""The commands `models`, `gpus` and `dtypes`: list the catalogue, or show one entry in full."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, TypeVar

from llm_analysis import catalog
from llm_analysis.cli.flags import OUTPUT, Flag
from llm_analysis.cli.output import Format, Output
from llm_analysis.errors import BadValue, choice, number, unknown
from llm_analysis.hardware.gpu import GPU
from llm_analysis.models.config import ModelConfig
from llm_analysis.physics.dtypes import EVERYDAY, get_dtypes
from llm_analysis.report.catalogue import (
    DTYPE_COLUMNS,
    DTYPE_LEGEND,
    GPU_COLUMNS,
    GPU_LEGEND,
    MODEL_COLUMNS,
    MODEL_LEGEND,
    Row,
    counts,
    dtype_entry,
    dtype_row,
    gpu_row,
    model_row,
)
from llm_analysis.report.gpu import gpu_entry, gpu_text
from llm_analysis.report.tables import FORMATS, csv_of, table
from llm_analysis.units import GB

Entry = TypeVar("Entry", ModelConfig, GPU)
_Name = Annotated[str | None, Flag("show only this entry, in full, as JSON")]


def models(
    *,
    name: _Name = None,
    family: Annotated[str | None, Flag("list only one family, such as Qwen3")] = None,
    format: Format = "table",
) -> Output:
    """List the models of the catalogue."""
    check_format(format, name)
    if name is not None:
        model = catalog.get_model(name)
        return whole(model.model_dump(exclude_defaults=True) | counts(model))
    known = [catalog.get_model(each) for each in catalog.names("model_configs")]
    rows = [model_row(model) for model in of_family(family, known, lambda m: (m.family, m.model_type))]
    return listed(rows, MODEL_COLUMNS, MODEL_LEGEND, format)


def of_family(family: str | None, known: list[Entry], families: Callable[[Entry], Sequence[str]]) -> list[Entry]:
    """Return the entries of a family; case does not matter. Raises UnknownName if there are none."""
    if family is None:
        return known
    chosen = [entry for entry in known if family.lower() in (one.lower() for one in families(entry))]
    if not chosen:
        raise unknown("family", family, sorted({one for entry in known for one in families(entry) if one}))
    return chosen


def gpus(
    *,
    name: Annotated[str | None, Flag("show only this GPU, in full")] = None,
    family: Annotated[str | None, Flag("list only one vendor or architecture, such as AMD or Hopper")] = None,
    min_memory_GB: Annotated[float, Flag("list only GPUs with at least this much memory", unit="GB")] = 0.0,
    format: Annotated[str | None, Flag("table, json, csv or markdown; with --name json is the default", OUTPUT)] = None,
) -> Output:
    """List the GPUs of the catalogue, or show one of them with the measurements behind its estimates."""
    format = format or ("table" if name is None else "json")
    choice("format", format, FORMATS)
    if name is not None:
        gpu = catalog.get_gpu(name)
        if format == "csv":
            raise BadValue(
                "--name shows one GPU in full, for which --format csv has no rows: use json, table or markdown"
            )
        return whole(gpu_entry(gpu)) if format == "json" else Output(gpu_text(gpu, format))
    least = number("min_memory_GB", min_memory_GB) * GB
    known = [catalog.get_gpu(each) for each in catalog.names("gpu_configs")]
    chosen = of_family(family, known, lambda g: (g.vendor, g.architecture))
    rows = [gpu_row(gpu) for gpu in chosen if gpu.memory_bytes >= least]
    if not rows:
        raise BadValue(f"no GPU of the catalogue has {least / GB:,.0f} GB of memory")
    return listed(rows, GPU_COLUMNS, GPU_LEGEND, format)


def dtypes(*, name: _Name = None, format: Format = "table") -> Output:
    """List the number formats; other formats can be given in bits, such as w4a16e16kv8."""
    check_format(format, name)
    if name is not None:
        return whole(dtype_entry(get_dtypes(name)))
    rows = [dtype_row(get_dtypes(known)) for known in EVERYDAY]
    return listed(rows, DTYPE_COLUMNS, DTYPE_LEGEND, format)


def check_format(format: str, name: str | None) -> None:
    """Raise UnknownName for an unknown format, BadValue for one that cannot show a whole entry."""
    choice("format", format, FORMATS)
    if name is not None and format not in ("table", "json"):
        raise BadValue(f"--name shows one entry in full, as JSON: leave out --format {format}")


def whole(entry: Row) -> Output:
    """Return one entry as JSON."""
    return Output(json.dumps(entry, indent=2))


def listed(rows: list[Row], columns: Mapping[str, Callable[[Row], str]], legend: str, style: str) -> Output:
    """Return a list in one of the formats: whole rows for scripts, the columns that fit a terminal for people."""
    if style == "json":
        return Output(json.dumps(rows, indent=2))
    if style == "csv":
        return Output(csv_of(rows))
    cells = [[text(row) for text in columns.values()] for row in rows]
    return Output(f"{table(cells, list(columns), style)}\n\n{legend}")
