"""What is known: the catalogue as tables, or one entry of it whole."""

from __future__ import annotations

import json
from dataclasses import asdict

from llm_analysis import catalog
from llm_analysis.dtypes import BITS, EVERYDAY, get_dtypes
from llm_analysis.hardware import GPU
from llm_analysis.model import num_params
from llm_analysis.model_config import ModelConfig
from llm_analysis.output import Output
from llm_analysis.report import table
from llm_analysis.units import GB


def models(*, name: str | None = None) -> Output:
    """The models that are known.

    Args:
        name: show this one whole, as JSON
    """
    if name is not None:
        model = catalog.get_model(name)
        return Output(
            json.dumps(model.model_dump(exclude_defaults=True) | {"num_params_total": num_params(model)}, indent=2)
        )
    rows = [model_row(catalog.get_model(known)) for known in catalog.names("model_configs")]
    return Output(
        table(rows, ("model", "parameters", "layers", "hidden", "heads", "KV heads", "FFN", "positions"), "table")
    )


def model_row(m: ModelConfig) -> tuple[str, ...]:
    """The cells of one model."""
    shapes = (m.num_hidden_layers, m.hidden_size, m.num_attention_heads, m.num_key_value_heads, m.intermediate_size)
    return (m.name, f"{num_params(m) / 1e9:,.2f} B", *map(str, shapes), str(m.max_position_embeddings))


def gpus(*, name: str | None = None) -> Output:
    """The GPUs that are known.

    Args:
        name: show this one whole, as JSON
    """
    if name is not None:
        return Output(json.dumps(catalog.get_gpu(name).model_dump(exclude_defaults=True), indent=2))
    rows = [gpu_row(catalog.get_gpu(known)) for known in catalog.names("gpu_configs")]
    header = ("GPU", "memory GB", "GB/s", "fp16 TFLOP/s", "fp8 TFLOP/s", "link GB/s", "GPUs on it")
    return Output(table(rows, header, "table"))


def gpu_row(g: GPU) -> tuple[str, ...]:
    """The cells of one GPU: dense peaks, the link one way."""
    half = g.peak_flops.get("fp16", g.peak_flops.get("bf16", 0.0))
    fp8 = f"{g.peak_flops['fp8'] / 1e12:,.0f}" if "fp8" in g.peak_flops else ""
    link = f"{g.link_bandwidth / GB:,.0f}" if g.link_bandwidth else ""
    return (
        g.name,
        f"{g.memory_bytes / GB:,.0f}",
        f"{g.memory_bandwidth / GB:,.0f}",
        f"{half / 1e12:,.0f}",
        fp8,
        link,
        str(g.link_domain_size),
    )


def dtypes(*, name: str | None = None) -> Output:
    """The number formats that are known; widths in bits such as w4a16e16kv8 are read too.

    Args:
        name: show this one whole, as JSON
    """
    if name is not None:
        one = get_dtypes(name)
        return Output(json.dumps(asdict(one), indent=2))
    rows = []
    for known in EVERYDAY:
        d = get_dtypes(known)
        bits = (d.weight_bits + d.scale_bits, d.activation_bits, d.embedding_bits, d.kv_bits, BITS[d.math])
        rows.append((known, *(f"{b:g}" for b in bits), d.math))
    header = ("dtype", "weight bits", "activation", "embedding", "KV cache", "multiplied", "at the rate of")
    return Output(table(rows, header, "table"))
