"""What is known: the catalogue as tables, or one entry of it whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from llm_analysis import catalog
from llm_analysis.dtypes import BITS, DEFAULT_DTYPE, EVERYDAY, get_dtypes
from llm_analysis.errors import BadValue, unknown
from llm_analysis.hardware import GPU
from llm_analysis.methods import number
from llm_analysis.model import kv_bytes_per_token, num_active_params, num_params
from llm_analysis.model_config import ModelConfig
from llm_analysis.output import Output
from llm_analysis.report import table
from llm_analysis.units import GB

Entry = TypeVar("Entry", ModelConfig, GPU)


def models(*, name: str | None = None, family: str | None = None) -> Output:
    """The models that are known.

    Args:
        name: show this one whole, as JSON
        family: show those of a family, such as Qwen3
    """
    if name is not None:
        model = catalog.get_model(name)
        counts = {"num_params_total": num_params(model), "num_active_params_total": num_active_params(model)}
        return Output(json.dumps(model.model_dump(exclude_defaults=True) | counts, indent=2))
    known = [catalog.get_model(each) for each in catalog.names("model_configs")]
    rows = [model_row(model) for model in of_family(family, known, lambda m: (m.family, m.model_type))]
    header = ("model", "parameters", "active", "KV bytes", "layers", "hidden", "positions")
    return Output(table(rows, header, "table"))


def model_row(m: ModelConfig) -> tuple[str, ...]:
    """The cells of one model; bytes that a token adds to a cache of 16 bits."""
    kv_bytes = kv_bytes_per_token(m, get_dtypes(DEFAULT_DTYPE).on({"fp16": 1.0}, ""))
    active = f"{num_active_params(m) / 1e9:,.2f} B" if m.num_experts else ""
    counts = (f"{num_params(m) / 1e9:,.2f} B", active, f"{kv_bytes:,.0f}")
    return (m.name, *counts, str(m.num_hidden_layers), str(m.hidden_size), str(m.max_position_embeddings))


def of_family(family: str | None, known: list[Entry], families: Callable[[Entry], Sequence[str]]) -> list[Entry]:
    """The entries of a family, whatever its case. Raises UnknownName where there are none."""
    if family is None:
        return known
    chosen = [entry for entry in known if family.lower() in (one.lower() for one in families(entry))]
    if not chosen:
        raise unknown("family", family, sorted({one for entry in known for one in families(entry) if one}))
    return chosen


def gpus(*, name: str | None = None, family: str | None = None, min_memory_GB: float = 0.0) -> Output:
    """The GPUs that are known.

    Args:
        name: show this one whole, as JSON
        family: show those of a vendor or an architecture, such as AMD or Hopper
        min_memory_GB: show those with at least so much memory, in units of 1e9 bytes
    """
    if name is not None:
        return Output(json.dumps(catalog.get_gpu(name).model_dump(exclude_defaults=True), indent=2))
    least = number("min_memory_GB", min_memory_GB) * GB
    known = [catalog.get_gpu(each) for each in catalog.names("gpu_configs")]
    chosen = of_family(family, known, lambda g: (g.vendor, g.architecture))
    rows = [gpu_row(gpu) for gpu in chosen if gpu.memory_bytes >= least]
    if not rows:
        raise BadValue(f"no GPU that is known has {least / GB:,.0f} GB of memory")
    header = ("GPU", "memory GB", "GB/s", "fp16 TFLOP/s", "fp8", "int8", "fp4", "link GB/s", "domain")
    return Output(table(rows, header, "table"))


def gpu_row(g: GPU) -> tuple[str, ...]:
    """The cells of one GPU: dense peaks, the link one way."""
    half = g.peak_flops.get("fp16", g.peak_flops.get("bf16", 0.0))
    narrow = (f"{g.peak_flops[rate] / 1e12:,.0f}" if rate in g.peak_flops else "" for rate in ("fp8", "int8", "fp4"))
    link = f"{g.link_bandwidth / GB:,.0f}" if g.link_bandwidth else ""
    memory, bandwidth = f"{g.memory_bytes / GB:,.0f}", f"{g.memory_bandwidth / GB:,.0f}"
    return (g.name, memory, bandwidth, f"{half / 1e12:,.0f}", *narrow, link, str(g.link_domain_size))


def dtypes(*, name: str | None = None) -> Output:
    """The number formats that are known; widths in bits such as w4a16e16kv8 are read too.

    Args:
        name: show this one whole, as JSON
    """
    if name is not None:
        one = get_dtypes(name)
        experts = one.experts._asdict() if one.experts else None
        return Output(json.dumps(one._asdict() | {"experts": experts}, indent=2))
    rows = []
    for known in EVERYDAY:
        d = get_dtypes(known)
        bits = (d.weight_bits + d.scale_bits, d.activation_bits, d.embedding_bits, d.kv_bits, BITS[d.math])
        rows.append((known, *(f"{b:g}" for b in bits), d.math))
    header = ("dtype", "weight bits", "activation", "embedding", "KV cache", "multiplied", "at the rate of")
    return Output(table(rows, header, "table"))
