"""What is known: the catalogue as tables, or one entry of it whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from llm_analysis import catalog
from llm_analysis.dtypes import BITS, DEFAULT_DTYPE, EVERYDAY, get_dtypes
from llm_analysis.errors import BadValue, choice, unknown
from llm_analysis.hardware import GPU, RATES
from llm_analysis.methods import number
from llm_analysis.model import kv_bytes_per_token, num_active_params, num_params
from llm_analysis.model_config import ModelConfig
from llm_analysis.output import Output
from llm_analysis.report import FORMATS, csv_of, table
from llm_analysis.units import GB

Entry = TypeVar("Entry", ModelConfig, GPU)
Row = dict[str, Any]  # of a list: plain values in SI units, by their JSON keys

MODEL_COLUMNS: dict[str, Callable[[Row], str]] = {
    "model": lambda row: row["name"],
    "params": lambda row: f"{row['num_params_total'] / 1e9:,.2f} B",
    "active": lambda row: f"{row['num_active_params_total'] / 1e9:,.2f} B" if row["num_experts"] else "",
    "KV bytes": lambda row: f"{row['kv_cache_bytes_per_token']:,.0f}",
    "layers": lambda row: str(row["num_hidden_layers"]),
    "hidden": lambda row: str(row["hidden_size"]),
    "positions": lambda row: str(row["max_position_embeddings"]),
}
MODEL_LEGEND = "active: parameters that a token goes through; KV bytes: of a token, in 16 bits"
GPU_COLUMNS: dict[str, Callable[[Row], str]] = {
    "GPU": lambda row: row["name"],
    "GB": lambda row: figure(row["memory_bytes"], GB),
    "GB/s": lambda row: figure(row["memory_bandwidth"], GB),
    "fp16": lambda row: figure(row["fp16_flops"] or row["bf16_flops"], 1e12),
    "fp8": lambda row: figure(row["fp8_flops"], 1e12),
    "int8": lambda row: figure(row["int8_flops"], 1e12),
    "fp4": lambda row: figure(row["fp4_flops"], 1e12),
    "link": lambda row: figure(row["link_bandwidth"], GB),
    "domain": lambda row: str(row["link_domain_size"]),
}
GPU_LEGEND = "fp16 to fp4: dense TFLOP/s; link: GB/s one way; domain: GPUs that it joins"
DTYPE_COLUMNS: dict[str, Callable[[Row], str]] = {
    "dtype": lambda row: row["name"],
    "weights": lambda row: f"{row['weight_bits'] + row['scale_bits']:g}",
    "activations": lambda row: f"{row['activation_bits']:g}",
    "embedding": lambda row: f"{row['embedding_bits']:g}",
    "KV cache": lambda row: f"{row['kv_bits']:g}",
    "multiplied": lambda row: f"{row['math_bits']:g}",
    "rate": lambda row: row["math"],
}
DTYPE_LEGEND = "bits of a number; rate: the peak of the GPU at which they are multiplied"


def models(*, name: str | None = None, family: str | None = None, format: str = "table") -> Output:
    """The models that are known.

    Args:
        name: show this one whole, as JSON
        family: show those of a family, such as Qwen3
        format: table, json, csv or markdown
    """
    check_format(format, name)
    if name is not None:
        model = catalog.get_model(name)
        return whole(model.model_dump(exclude_defaults=True) | counts(model))
    known = [catalog.get_model(each) for each in catalog.names("model_configs")]
    rows = [model_row(model) for model in of_family(family, known, lambda m: (m.family, m.model_type))]
    return listed(rows, MODEL_COLUMNS, MODEL_LEGEND, format)


def counts(m: ModelConfig) -> Row:
    """The parameters of a model, and those that a token goes through."""
    return {"num_params_total": num_params(m), "num_active_params_total": num_active_params(m)}


def model_row(m: ModelConfig) -> Row:
    """What a list says of a model; bytes that a token adds to a cache of 16 bits."""
    kv_bytes = kv_bytes_per_token(m, get_dtypes(DEFAULT_DTYPE).on({"fp16": 1.0}, ""))
    shape = ("num_hidden_layers", "hidden_size", "num_experts", "max_position_embeddings")
    named = {key: getattr(m, key) for key in ("name", "family", "model_type")}
    return {**named, **counts(m), "kv_cache_bytes_per_token": kv_bytes, **{key: getattr(m, key) for key in shape}}


def of_family(family: str | None, known: list[Entry], families: Callable[[Entry], Sequence[str]]) -> list[Entry]:
    """The entries of a family, whatever its case. Raises UnknownName where there are none."""
    if family is None:
        return known
    chosen = [entry for entry in known if family.lower() in (one.lower() for one in families(entry))]
    if not chosen:
        raise unknown("family", family, sorted({one for entry in known for one in families(entry) if one}))
    return chosen


def gpus(
    *, name: str | None = None, family: str | None = None, min_memory_GB: float = 0.0, format: str = "table"
) -> Output:
    """The GPUs that are known.

    Args:
        name: show this one whole, as JSON
        family: show those of a vendor or an architecture, such as AMD or Hopper
        min_memory_GB: show those with at least so much memory, in units of 1e9 bytes
        format: table, json, csv or markdown
    """
    check_format(format, name)
    if name is not None:
        return whole(catalog.get_gpu(name).model_dump(exclude_defaults=True))
    least = number("min_memory_GB", min_memory_GB) * GB
    known = [catalog.get_gpu(each) for each in catalog.names("gpu_configs")]
    chosen = of_family(family, known, lambda g: (g.vendor, g.architecture))
    rows = [gpu_row(gpu) for gpu in chosen if gpu.memory_bytes >= least]
    if not rows:
        raise BadValue(f"no GPU that is known has {least / GB:,.0f} GB of memory")
    return listed(rows, GPU_COLUMNS, GPU_LEGEND, format)


def gpu_row(g: GPU) -> Row:
    """What a list says of a GPU: dense peaks, links one way."""
    named = {key: getattr(g, key) for key in ("name", "vendor", "architecture", "memory_bytes", "memory_bandwidth")}
    links = ("link", "link_bandwidth", "link_domain_size", "pcie_bandwidth", "inter_node_bandwidth")
    rates = {f"{rate}_flops": g.peak_flops.get(rate) for rate in RATES}
    return {**named, **rates, **{key: getattr(g, key) for key in links}}


def figure(value: float | None, unit: float) -> str:
    """A figure in that unit, without decimals; nothing where there is none."""
    return f"{value / unit:,.0f}" if value else ""


def dtypes(*, name: str | None = None, format: str = "table") -> Output:
    """The number formats that are known; others in bits, as w4a16e16kv8.

    Args:
        name: show this one whole, as JSON
        format: table, json, csv or markdown
    """
    check_format(format, name)
    if name is not None:
        one = get_dtypes(name)
        return whole(one._asdict() | {"experts": one.experts._asdict() if one.experts else None})
    keys = ("weight_bits", "scale_bits", "activation_bits", "embedding_bits", "kv_bits", "math")
    found = {known: get_dtypes(known) for known in EVERYDAY}
    rows = [
        {"name": known, **{key: getattr(d, key) for key in keys}, "math_bits": BITS[d.math]}
        for known, d in found.items()
    ]
    return listed(rows, DTYPE_COLUMNS, DTYPE_LEGEND, format)


def check_format(format: str, name: str | None) -> None:
    """Raises UnknownName for no format, BadValue for one in which no entry can be shown whole."""
    choice("format", format, FORMATS)
    if name is not None and format not in ("table", "json"):
        raise BadValue(f"--name shows one entry whole, as JSON: leave out --format {format}")


def whole(entry: Row) -> Output:
    """One entry, as JSON."""
    return Output(json.dumps(entry, indent=2))


def listed(rows: list[Row], columns: Mapping[str, Callable[[Row], str]], legend: str, style: str) -> Output:
    """A list in one of the formats of a report: all of each row for scripts, the columns that fit for people."""
    if style == "json":
        return Output(json.dumps(rows, indent=2))
    if style == "csv":
        return Output(csv_of(rows))
    cells = [[text(row) for text in columns.values()] for row in rows]
    return Output(f"{table(cells, list(columns), style)}\n\n{legend}")
