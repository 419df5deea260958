"""Average the bits of a GGUF format over the tensors of a model.

llama.cpp gives each tensor a type by its role and its layer. The operators have one width for the matrices of
attention, one for those of feed-forwards and one for those of experts. These widths are averages that give the exact
bytes of each part.
"""

from __future__ import annotations

from collections.abc import Iterable

from llm_analysis.models.config import ModelConfig
from llm_analysis.physics.dtypes import Dtypes
from llm_analysis.physics.gguf import MIXES, Attention, Mix, attention_type, bits, down_type

# Families with queries, keys and values in one tensor of their GGUF files.
_FUSED = frozenset(
    {"gpt2", "gpt_neox", "gpt_bigcode", "falcon", "bloom", "mpt", "qwen", "phi", "phi3", "chatglm", "dbrx"}
)
_Tensor = tuple[float, float]  # number of weights, bits of each


def with_gguf_mix(dtypes: Dtypes, model: ModelConfig) -> Dtypes:
    """Return `dtypes` with the average widths of this model if it is a GGUF format, otherwise unchanged."""
    mix = MIXES.get(dtypes.weights)
    if mix is None:
        return dtypes
    layers, h = model.num_hidden_layers, model.hidden_size
    mixers = model.layer_types or ("full_attention",) * layers
    feed_forwards = model.mlp_layer_types or ("dense",) * layers
    attention = [tensor for i, kind in enumerate(mixers) for tensor in _attention(mix, model, kind, i)]
    dense, experts = model.intermediate_size, model.moe_intermediate_size
    mlp: list[_Tensor] = []
    routed: list[_Tensor] = []
    for i, kind in enumerate(feed_forwards):
        name, _, own = kind.partition(":")
        if name == "dense":
            mlp += _feed_forward(mix, model, int(own or dense), i)
        elif name == "sparse":
            mlp += _feed_forward(mix, model, model.shared_expert_intermediate_size, i)
            routed += _feed_forward(mix, model, experts, i, model.num_experts)
    default = bits(mix.default, h)
    tied = model.tie_word_embeddings or not model.output_head
    head = bits(mix.output, h)
    return _with_bits(dtypes, _average(attention, default))._replace(
        mlp=_with_bits(dtypes, _average(mlp, default)),
        experts=_with_bits(dtypes, _average(routed, default)) if routed else None,
        embedding_bits=head if tied else default,
        head_bits=head,
    )


def _with_bits(dtypes: Dtypes, average: float) -> Dtypes:
    """Return `dtypes` with an average width; the whole bits of the default type name the kernel."""
    return dtypes._replace(scale_bits=average - dtypes.weight_bits)


def _average(tensors: Iterable[_Tensor], default: float) -> float:
    """Return the mean bits per weight of the tensors, `default` if there are none."""
    weights = total = 0.0
    for count, width in tensors:
        weights += count
        total += count * width
    return total / weights if weights else default


def _attention(mix: Mix, model: ModelConfig, kind: str, layer: int) -> list[_Tensor]:
    """Return the attention tensors of a layer; none for other mixers, which have the default type."""
    name, _, own = kind.partition(":")
    if not name.endswith("_attention") or name.endswith("latent_attention") or name == "lightning_attention":
        return []
    h, heads, d = model.hidden_size, model.num_attention_heads, model.head_dim
    kv_heads = 0 if name.startswith("shared_") else int(own or model.num_key_value_heads)
    facts = Attention(model.model_type in _FUSED, heads / max(kv_heads, 1), model.num_experts)
    sizes = {"query": heads * d * h, "key": kv_heads * d * h, "value": kv_heads * d * h, "output": heads * d * h}
    rows = {"output": heads * d}
    return [
        (size, bits(attention_type(mix, tensor, layer, model.num_hidden_layers, facts), rows.get(tensor, h)))
        for tensor, size in sizes.items()
    ]


def _feed_forward(mix: Mix, model: ModelConfig, width: int, layer: int, copies: int = 1) -> list[_Tensor]:
    """Return the up (and gate) and down tensors of a feed-forward `width` wide."""
    h, columns = model.hidden_size, 2 if model.gated_mlp else 1
    down = down_type(mix, layer, model.num_hidden_layers)
    up: _Tensor = (columns * h * width * copies, bits(mix.default, h))
    return [up, (h * width * copies, bits(down, width))]
