"""Rows and columns of the lists of models, GPUs and number formats.

A row holds plain values in SI units under their JSON keys. A column turns a row into text for a table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llm_analysis.hardware.gpu import GPU, RATES
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.forward import kv_bytes_per_token, num_active_params, num_params
from llm_analysis.physics.dtypes import BITS, DEFAULT_DTYPE, Dtypes, get_dtypes
from llm_analysis.units import GB

Row = dict[str, Any]

MODEL_COLUMNS: dict[str, Callable[[Row], str]] = {
    "model": lambda row: row["name"],
    "B params": lambda row: f"{row['num_params_total'] / 1e9:,.2f}",
    "B active": lambda row: f"{row['num_active_params_total'] / 1e9:,.2f}" if row["num_experts"] else "",
    "KV bytes": lambda row: f"{row['kv_cache_bytes_per_token']:,.0f}",
    "layers": lambda row: str(row["num_hidden_layers"]),
    "context": lambda row: f"{row['max_position_embeddings']:,}",
}
MODEL_LEGEND = (
    "B: billions; active: parameters that one token uses; KV bytes: what one more\n"
    "token adds to a 16-bit KV cache, once all sliding windows are full"
)
GPU_COLUMNS: dict[str, Callable[[Row], str]] = {
    "GPU": lambda row: row["name"],
    "GB": lambda row: _figure(row["memory_bytes"], GB),
    "GB/s": lambda row: _figure(row["memory_bandwidth"], GB),
    "fp16": lambda row: _figure(row["fp16_flops"] or row["bf16_flops"], 1e12),
    "fp8": lambda row: _figure(row["fp8_flops"], 1e12),
    "int8": lambda row: _figure(row["int8_flops"], 1e12),
    "fp4": lambda row: _figure(row["fp4_flops"], 1e12),
    "link": lambda row: _figure(row["link_bandwidth"], GB),
    "GPUs": lambda row: str(row["link_domain_size"]),
}
GPU_LEGEND = "fp16 to fp4: dense TFLOP/s; link: GB/s in one direction; GPUs: on one link"
DTYPE_COLUMNS: dict[str, Callable[[Row], str]] = {
    "dtype": lambda row: row["name"],
    "weights": lambda row: f"{row['weight_bits'] + row['scale_bits']:g}",
    "activations": lambda row: f"{row['activation_bits']:g}",
    "embedding": lambda row: f"{row['embedding_bits']:g}",
    "KV cache": lambda row: f"{row['kv_bits']:g}",
    "multiplied": lambda row: f"{row['math_bits']:g}",
    "rate": lambda row: row["math"],
}
DTYPE_LEGEND = (
    "bits per number, scales included; multiplied: bits of the products; rate: the\n"
    "peak that is used (half: the faster of fp16 and bf16). q4_0 to iq4_xs are GGUF:\n"
    "bits of most tensors, the average of a model may be higher"
)


def counts(m: ModelConfig) -> Row:
    """Return the number of parameters of a model, and of those that one token uses."""
    return {"num_params_total": num_params(m), "num_active_params_total": num_active_params(m)}


def model_row(m: ModelConfig) -> Row:
    """Return the row of a model in a list, with the bytes that a token adds to a 16-bit KV cache."""
    kv_bytes = kv_bytes_per_token(m, get_dtypes(DEFAULT_DTYPE).on({"fp16": 1.0}, ""))
    shape = ("num_hidden_layers", "hidden_size", "num_experts", "max_position_embeddings")
    named = {key: getattr(m, key) for key in ("name", "family", "model_type", "weight_format")}
    return {**named, **counts(m), "kv_cache_bytes_per_token": kv_bytes, **{key: getattr(m, key) for key in shape}}


def dtype_row(d: Dtypes) -> Row:
    """Return the row of a number format in a list."""
    keys = ("name", "weight_bits", "scale_bits", "activation_bits", "embedding_bits", "kv_bits", "math")
    return {**{key: getattr(d, key) for key in keys}, "math_bits": BITS[d.math]}


def dtype_entry(d: Dtypes) -> Row:
    """Return all fields of a number format, with those of its parts."""
    parts = {key: dtype_entry(part) if part else None for key, part in (("experts", d.experts), ("mlp", d.mlp))}
    return d._asdict() | {"kv_bits": d.kv_bits} | parts


def gpu_row(g: GPU) -> Row:
    """Return the row of a GPU in a list: dense peaks, links in one direction."""
    named = {key: getattr(g, key) for key in ("name", "vendor", "architecture", "memory_bytes", "memory_bandwidth")}
    links = ("link", "link_bandwidth", "link_domain_size", "pcie_bandwidth", "inter_node_bandwidth")
    rates = {f"{rate}_flops": g.peak_flops.get(rate) for rate in RATES}
    return {**named, **rates, **{key: getattr(g, key) for key in links}}


def _figure(value: float | None, unit: float) -> str:
    """Return a value in a unit, without decimals; empty text for a missing value."""
    return f"{value / unit:,.0f}" if value else ""
