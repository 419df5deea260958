"""Per-layer patterns: which mixer and which feed-forward each layer has, from the keys by which files say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_analysis.errors import BadConfig, nearest, shown
from llm_analysis.fields import Fields

# Names by which files call a kind of layer that we know under another.
OTHER_NAMES = {"attention": "full_attention", "moe": "sparse", "mlp": "dense"}
MIXERS = frozenset(
    {
        *("full_attention", "sliding_attention", "chunked_attention", "bidirectional_attention"),
        *("shared_full_attention", "shared_sliding_attention", "latent_attention", "sparse_latent_attention"),
        *("mamba", "mamba2", "gated_delta_net", "lightning_attention", "none"),
    }
)
FEED_FORWARDS = frozenset({"dense", "sparse", "none"})
# Sizes without which a kind of layer cannot be.
NEEDS = {
    "sliding_attention": ("sliding_window",),
    "chunked_attention": ("attention_chunk_size",),
    "latent_attention": ("kv_lora_rank",),
    "sparse_latent_attention": ("kv_lora_rank", "index_n_heads", "index_head_dim", "index_topk"),
    "mamba": ("mamba_num_heads", "mamba_head_dim", "ssm_state_size", "time_step_rank"),
    "mamba2": ("mamba_num_heads", "mamba_head_dim", "ssm_state_size"),
    "gated_delta_net": (
        "linear_num_value_heads",
        "linear_num_key_heads",
        "linear_key_head_dim",
        "linear_value_head_dim",
    ),
    "sparse": ("num_experts",),
}


def every(fields: Fields, period: int, chosen: str, other: str, offset: int | None = None) -> list[str]:
    """A list of layers: `chosen` in each `period` of them at `offset` (the last by default), `other` elsewhere."""
    layers = range(fields.whole("num_hidden_layers"))
    at = period - 1 if offset is None else offset
    return [chosen if period and i % period == at % period else other for i in layers]


def by_letter(key: str, pattern: str, meaning: Mapping[str, Any]) -> list[Any]:
    """What each letter of `pattern` stands for. Raises BadConfig for one that stands for nothing."""
    strange = [letter for letter in pattern if letter not in meaning]
    if strange:
        raise BadConfig(f"{key} has {strange[0]!r}, which is none of {', '.join(meaning)}")
    return [meaning[letter] for letter in pattern]


def read_windows(fields: Fields) -> None:
    """Sets `layer_types` from a sliding window and its pattern; drops a window that bounds nothing."""
    window, pattern = fields.whole("sliding_window"), fields.pop("sliding_window_pattern", None)
    full_until = fields.take_whole("max_window_layers")
    used = fields.take_flag("use_sliding_window", True)
    if not used or not window or window >= fields.whole("max_position_embeddings", 10**9):
        fields.pop("sliding_window", None)
        kinds = [str(kind).replace("sliding_attention", "full_attention") for kind in fields.items_of("layer_types")]
        if kinds:
            fields["layer_types"] = kinds
        return
    layers = fields.whole("num_hidden_layers")
    if isinstance(pattern, str):
        turn = by_letter("sliding_window_pattern", pattern, {"L": "sliding_attention", "G": "full_attention"})
        fields.offer(layer_types=(turn * layers)[:layers])
    elif isinstance(pattern, int) and pattern > 0:
        fields.offer(layer_types=every(fields, pattern, "full_attention", "sliding_attention"))
    elif pattern is not None:
        raise BadConfig(f"sliding_window_pattern must be a whole number or letters, not {shown(pattern)}")
    full = min(full_until, layers)
    fields.offer(layer_types=["full_attention"] * full + ["sliding_attention"] * (layers - full))


def read_latent(fields: Fields) -> None:
    """Multi-head latent attention in all layers, where there is a rank to compress keys and values to."""
    if not fields.whole("kv_lora_rank"):
        return
    fields.pop("qk_head_dim", None)
    for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
        if not fields.whole(key):
            raise BadConfig(f"missing key {key!r}, which latent attention (kv_lora_rank) needs")
    fields["head_dim"] = fields.whole("qk_nope_head_dim") + fields.whole("qk_rope_head_dim")
    kind = "sparse_latent_attention" if fields.whole("index_topk") else "latent_attention"
    fields.offer(layer_types=[kind] * fields.whole("num_hidden_layers"))


def read_experts(fields: Fields) -> None:
    """Sets the experts' sizes, and `mlp_layer_types` from the keys that say which layers have experts."""
    kinds = sparse_layers(fields)
    if not fields.whole("num_experts"):
        return
    if not 0 < fields.whole("num_experts_per_tok") <= fields.whole("num_experts"):
        raise BadConfig("num_experts_per_tok must be from 1 to num_experts where a model has experts")
    fields.offer(moe_intermediate_size=fields.whole("intermediate_size"))
    number = fields.take_whole("n_shared_experts")
    fields.offer(shared_expert_intermediate_size=number * fields.whole("moe_intermediate_size"))
    fields.offer(mlp_layer_types=["sparse" if sparse else "dense" for sparse in kinds])


def sparse_layers(fields: Fields) -> list[bool]:
    """Which layers have experts; all of them where the file says nothing."""
    layers = fields.whole("num_hidden_layers")
    dense_first, dense_listed = fields.take_whole("first_k_dense_replace"), fields.take_items("mlp_only_layers")
    step = fields.take_whole("decoder_sparse_step", 1) or 1
    interleave = fields.take_whole("interleave_moe_layer_step", 1) or 1
    start, end = fields.take_whole("moe_layer_start_index"), fields.take_whole("moe_layer_end_index", layers)
    interval = fields.take_whole("moe_layer_interval", 1) or 1
    frequency: Any = fields.pop("moe_layer_freq", 1)
    listed = fields.take_items("moe_layers")
    if isinstance(frequency, list):
        return [bool(sparse) for sparse in frequency]
    if not isinstance(frequency, int) or frequency < 1:
        raise BadConfig(f"moe_layer_freq must be a whole number or a list, not {shown(frequency)}")
    return [
        (i in listed or not listed)
        and max(dense_first, start) <= i <= end
        and i not in dense_listed
        and (i + 1) % step == (i + 1) % interleave == i % frequency == (i + 1) % interval == 0
        for i in range(layers)
    ]


def read_layers(fields: Fields) -> None:
    """All of a model's layers, checked: one known kind for each. Raises BadConfig with the key that is wrong."""
    read_windows(fields)
    read_latent(fields)
    read_experts(fields)
    layers = fields.whole("num_hidden_layers")
    for key, known in (("layer_types", MIXERS), ("mlp_layer_types", FEED_FORWARDS)):
        kinds = [OTHER_NAMES.get(str(kind), str(kind)) for kind in fields.items_of(key)]
        for kind in kinds:
            if kind.partition(":")[0] not in known:
                raise BadConfig(f"{key} has {kind!r}, a kind of layer that is not covered{nearest(kind, known)}")
        if kinds and len(kinds) != layers:
            raise BadConfig(f"{key} names {len(kinds)} layers of {layers}")
        for kind in dict.fromkeys(kinds):
            for need in NEEDS.get(kind, ()):
                if not fields.whole(need):
                    raise BadConfig(f"missing key {need!r}, which {kind} layers need")
        if set(kinds) <= {"full_attention", "dense"}:
            kinds = []
        fields[key] = tuple(kinds)
