"""The table of layer kinds: the function that returns the operators of each, and facts that other modules need.

`layer_types` of a model names one of `MIXERS` per layer, `mlp_layer_types` one of `FEED_FORWARDS`. A name may have a
size after a colon: `full_attention:4` has 4 KV heads, `dense:7168` has width 7168.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from llm_analysis.models.layers.attention import attention_block, cross_attention_block, latent_block
from llm_analysis.models.layers.base import Pass
from llm_analysis.models.layers.feed_forward import dense_block, skipped_dense_block, sparse_block
from llm_analysis.models.layers.hybrid import falcon_h1_block, shared_block
from llm_analysis.models.layers.recurrent import (
    gated_delta_block,
    kimi_delta_block,
    lightning_block,
    mamba2_block,
    mamba_block,
    rg_lru_block,
    short_conv_block,
)
from llm_analysis.models.layers.sparse_attention import block_sparse_block, compressed_block
from llm_analysis.physics.operators import Op


class LayerKind(NamedTuple):
    """One kind of mixer or feed-forward."""

    build: Callable[[Pass, str], list[Op]]  # the operators of one layer
    part: str  # class of its weights, one of operators.PARTS
    needs: tuple[str, ...] = ()  # sizes of ModelConfig that must be above 0
    not_shared: str = ""  # why context parallelism cannot share its tokens; empty: it can
    unpublished: str = ""  # its name in a note, if no published latency covers it
    own_size: str = ""  # meaning of the size in the name, as in `dense:7168`; empty: none allowed
    heads: tuple[str, ...] = ()  # numbers of heads in ModelConfig that tp_size must divide, beside attention heads

    def ops(self, p: Pass, name: str) -> list[Op]:
        """Return the operators of a layer of this kind; `name` may have a size."""
        return self.build(p.for_part(self.part), name)


def base_name(name: str) -> str:
    """Return the name of a layer kind without its size: `dense` for `dense:7168`."""
    return name.partition(":")[0]


def _no_ops(p: Pass, name: str) -> list[Op]:
    """Return no operators, for a layer without this part."""
    return []


_STATE = "the recurrent layers pass a state on from token to token, through all GPUs"
_SPARSE = "the sparse attention picks its tokens from those of all GPUs together"
_LATENT = "latent attention"
_SSM = ("mamba_num_heads", "mamba_head_dim", "ssm_state_size")
_DELTA = ("linear_num_value_heads", "linear_num_key_heads", "linear_key_head_dim", "linear_value_head_dim")
_INDEX = ("kv_lora_rank", "index_n_heads", "index_head_dim", "index_topk")

_COMPRESSED = ("q_lora_rank", "o_groups", "o_lora_rank")
_COMPRESSING = "attention over compressed tokens"

KV_HEADS = "number of KV heads"
_ROWS = "number of tokens per cached row"
_FULL = LayerKind(attention_block, "attention", own_size=KV_HEADS)
_SLIDING = LayerKind(
    attention_block, "attention", ("sliding_window",), own_size=KV_HEADS, heads=("sliding_num_attention_heads",)
)
_NONE = LayerKind(_no_ops, "")

MIXERS: dict[str, LayerKind] = {
    "full_attention": _FULL,
    "sliding_attention": _SLIDING,
    "chunked_attention": LayerKind(attention_block, "attention", ("attention_chunk_size",), own_size=KV_HEADS),
    "bidirectional_attention": _FULL,
    "bidirectional_sliding_attention": _SLIDING,
    "cross_attention": LayerKind(cross_attention_block, "attention"),
    "shared_full_attention": _FULL,
    "shared_sliding_attention": _SLIDING,
    "latent_attention": LayerKind(latent_block, "attention", ("kv_lora_rank",), unpublished=_LATENT),
    "sparse_latent_attention": LayerKind(latent_block, "attention", _INDEX, _SPARSE, _LATENT),
    "shared_index_latent_attention": LayerKind(latent_block, "attention", _INDEX, _SPARSE, _LATENT),
    "block_sparse_attention": LayerKind(block_sparse_block, "attention", _INDEX[1:], _SPARSE, "block-sparse attention"),
    "compressed_attention": LayerKind(
        compressed_block, "attention", _COMPRESSED, _SPARSE, _COMPRESSING, _ROWS, ("o_groups",)
    ),
    "compressed_sparse_attention": LayerKind(
        compressed_block, "attention", (*_COMPRESSED, *_INDEX[1:]), _SPARSE, _COMPRESSING, _ROWS, ("o_groups",)
    ),
    "mamba": LayerKind(mamba_block, "state_space", (*_SSM, "time_step_rank"), _STATE, "state-space layers"),
    "mamba2": LayerKind(mamba2_block, "state_space", _SSM, _STATE, "state-space layers", heads=_SSM[:1]),
    "gated_delta_net": LayerKind(
        gated_delta_block, "state_space", _DELTA, _STATE, "gated delta-nets", heads=_DELTA[:2]
    ),
    "kimi_delta": LayerKind(
        kimi_delta_block,
        "state_space",
        ("linear_num_value_heads", "linear_value_head_dim"),
        _STATE,
        "Kimi delta attention",
        heads=("linear_num_value_heads",),
    ),
    "rg_lru": LayerKind(rg_lru_block, "state_space", ("lru_width",), _STATE, "gated linear recurrences"),
    "short_conv": LayerKind(short_conv_block, "state_space", ("conv_kernel",), _STATE, "short convolutions"),
    "lightning_attention": LayerKind(lightning_block, "state_space", (), _STATE, "lightning attention"),
    "attention_and_mamba2": LayerKind(falcon_h1_block, "attention", _SSM, _STATE, "state-space layers", heads=_SSM[:1]),
    "shared_block_mamba2": LayerKind(
        shared_block, "attention", (*_SSM, "num_mem_blocks"), _STATE, "state-space layers", heads=_SSM[:1]
    ),
    "none": _NONE,
}
FEED_FORWARDS: dict[str, LayerKind] = {
    "dense": LayerKind(dense_block, "feed_forward", own_size="width"),
    "skipped_dense": LayerKind(skipped_dense_block, "feed_forward"),
    "sparse": LayerKind(sparse_block, "feed_forward", ("num_experts",)),
    "none": _NONE,
}
