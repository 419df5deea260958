"""GGUF formats of llama.cpp: bits per weight of each type, and the type that each tensor of a model gets.

A format such as Q4_K_M is a mix: most tensors get Q4_K, while some value and down projections and the output matrix
get Q6_K. The rules follow `llama_tensor_get_type` of llama.cpp's quantizer without an importance matrix.
"""

from __future__ import annotations

from typing import NamedTuple

# Bits per weight: bytes of a block, scales included, over its number of weights (ggml's block structures).
TYPE_BITS = {
    "F32": 32.0,
    "F16": 16.0,
    "Q4_0": 18 * 8 / 32,
    "Q5_0": 22 * 8 / 32,
    "Q5_1": 24 * 8 / 32,
    "Q8_0": 34 * 8 / 32,
    "Q4_K": 144 * 8 / 256,
    "Q5_K": 176 * 8 / 256,
    "Q6_K": 210 * 8 / 256,
    "IQ4_XS": 136 * 8 / 256,
    "IQ4_NL": 18 * 8 / 32,
}
# Types with blocks of 256 weights: the type with blocks of 32 that a tensor gets if 256 does not divide its rows.
_SMALL_BLOCKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}


class Mix(NamedTuple):
    """The types of one GGUF format."""

    default: str
    output: str = "Q6_K"  # the output matrix, and the embedding if it serves as output matrix
    more: str = ""  # value and down projections in the layers that `has_more_bits` picks
    fused: str = ""  # query, key and value projections in one tensor
    grouped_value: str = ""  # value projection, where 4 or more query heads share a KV head
    first_down: str = ""  # down projections of the first eighth of the layers
    rich: bool = False  # whether 8-expert models and 80-layer models with grouped queries get more bits in attention


MIXES = {
    "q4_0": Mix("Q4_0"),
    "q4_k_m": Mix("Q4_K", more="Q6_K", fused="Q5_K", rich=True),
    "q5_k_m": Mix("Q5_K", more="Q6_K", fused="Q6_K", rich=True),
    "q6_k": Mix("Q6_K", rich=True),
    "q8_0": Mix("Q8_0", output="Q8_0"),
    "iq4_xs": Mix("IQ4_XS", grouped_value="Q5_K", first_down="Q5_K", rich=True),
}


class Attention(NamedTuple):
    """What the types of attention tensors depend on."""

    fused: bool = False  # queries, keys and values in one tensor
    queries_per_kv_head: float = 1.0
    num_experts: int = 0


def has_more_bits(layer: int, layers: int) -> bool:
    """Return whether a layer is in the first or last eighth, or every third in between: errors matter most there."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def bits(type_name: str, row: int) -> float:
    """Return the bits per weight of a tensor with rows of `row` elements."""
    return TYPE_BITS[_SMALL_BLOCKS.get(type_name, type_name) if row % 256 else type_name]


def attention_type(mix: Mix, tensor: str, layer: int, layers: int, attention: Attention) -> str:
    """Return the type of `query`, `key`, `value`, `fused` or `output` of attention in a layer."""
    if tensor == "fused" or (tensor in ("query", "key", "value") and attention.fused):
        return mix.fused or mix.default
    eight, smaller = attention.num_experts == 8 and mix.rich, mix.default in ("Q4_K", "IQ4_XS")
    if tensor == "output":
        return "Q5_K" if eight and smaller else mix.default
    if tensor == "key":
        return "Q8_0" if eight else mix.default
    if tensor != "value":
        return mix.default
    found = mix.more if mix.more and has_more_bits(layer, layers) else mix.default
    if mix.grouped_value and attention.queries_per_kv_head >= 4:
        found = mix.grouped_value
    if layers == 80 and attention.queries_per_kv_head > 1 and mix.rich and found == "Q4_K":
        found = "Q5_K"  # the matrix is so small that more bits are almost free
    return "Q8_0" if eight else found


def down_type(mix: Mix, layer: int, layers: int) -> str:
    """Return the type of the down projection of a feed-forward in a layer."""
    if mix.first_down and layer < layers // 8:
        return mix.first_down
    return mix.more if mix.more and has_more_bits(layer, layers) else mix.default
