"""The table of layer kinds: which function makes the operators of each, and the facts that other modules need of it.

`layer_types` of a model names one of `MIXERS` per layer, `mlp_layer_types` one of `FEED_FORWARDS`. A name may carry a
size after a colon: `full_attention:4` has 4 KV heads, `dense:7168` is 7168 wide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from llm_analysis.models.layers.attention import attention_block, latent_block
from llm_analysis.models.layers.base import Pass
from llm_analysis.models.layers.feed_forward import dense_block, sparse_block
from llm_analysis.models.layers.recurrent import gated_delta_block, lightning_block, mamba2_block, mamba_block
from llm_analysis.physics.operators import Op


class LayerKind(NamedTuple):
    """One kind of mixer or feed-forward."""

    build: Callable[[Pass, str], list[Op]]  # the operators of one layer
    part: str  # class of its weights, one of operators.PARTS
    needs: tuple[str, ...] = ()  # sizes of ModelConfig that must be above 0
    not_shared: str = ""  # why context parallelism cannot share its tokens; empty: it can
    unpublished: str = ""  # its name in a note, if no published latency covers it

    def ops(self, p: Pass, name: str) -> list[Op]:
        """Return the operators of a layer of this kind; `name` may carry a size."""
        return self.build(p._replace(part=self.part, linear=p.dtypes.linear_of(self.part)), name)


def base_name(name: str) -> str:
    """Return the name of a layer kind without its size: `dense` for `dense:7168`."""
    return name.partition(":")[0]


def _no_ops(p: Pass, name: str) -> list[Op]:
    """Return no operators: the layer lacks this half."""
    return []


_STATE = "the recurrent layers pass a state on from token to token, through all GPUs"
_SPARSE = "the sparse attention picks its tokens from those of all GPUs together"
_LATENT = "latent attention"
_SSM = ("mamba_num_heads", "mamba_head_dim", "ssm_state_size")
_DELTA = ("linear_num_value_heads", "linear_num_key_heads", "linear_key_head_dim", "linear_value_head_dim")
_INDEX = ("kv_lora_rank", "index_n_heads", "index_head_dim", "index_topk")

_FULL = LayerKind(attention_block, "attention")
_SLIDING = LayerKind(attention_block, "attention", ("sliding_window",))
_NONE = LayerKind(_no_ops, "")

MIXERS: dict[str, LayerKind] = {
    "full_attention": _FULL,
    "sliding_attention": _SLIDING,
    "chunked_attention": LayerKind(attention_block, "attention", ("attention_chunk_size",)),
    "bidirectional_attention": _FULL,
    "shared_full_attention": _FULL,
    "shared_sliding_attention": _SLIDING,
    "latent_attention": LayerKind(latent_block, "attention", ("kv_lora_rank",), unpublished=_LATENT),
    "sparse_latent_attention": LayerKind(latent_block, "attention", _INDEX, _SPARSE, _LATENT),
    "mamba": LayerKind(mamba_block, "state_space", (*_SSM, "time_step_rank"), _STATE, "state-space layers"),
    "mamba2": LayerKind(mamba2_block, "state_space", _SSM, _STATE, "state-space layers"),
    "gated_delta_net": LayerKind(gated_delta_block, "state_space", _DELTA, _STATE, "gated delta-nets"),
    "lightning_attention": LayerKind(lightning_block, "state_space", (), _STATE, "lightning attention"),
    "none": _NONE,
}
FEED_FORWARDS: dict[str, LayerKind] = {
    "dense": LayerKind(dense_block, "feed_forward"),
    "sparse": LayerKind(sparse_block, "feed_forward", ("num_experts",)),
    "none": _NONE,
}
