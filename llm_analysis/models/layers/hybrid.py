"""Layers that run attention and a state-space mixer together."""

from __future__ import annotations

from llm_analysis.models.config import ModelConfig
from llm_analysis.models.layers.attention import attention_block
from llm_analysis.models.layers.base import Pass
from llm_analysis.models.layers.feed_forward import feed_forward
from llm_analysis.models.layers.recurrent import mamba2_block
from llm_analysis.physics.operators import Op


def falcon_h1_block(p: Pass, kind: str) -> list[Op]:
    """Return the operators of attention and Mamba-2 in parallel on one input (Falcon-H1, 2025)."""
    return [*mamba2_block(p.for_part("state_space"), kind), *attention_block(p, "full_attention")]


def _layers_of(model: ModelConfig, kind: str) -> int:
    """Return the number of layers of the model with this mixer."""
    return sum(count for (mixer, _), count in model.layer_kinds.items() if mixer == kind)


def shared_block(p: Pass, kind: str) -> list[Op]:
    """Return the operators of a Mamba-2 layer with a transformer block before it (Zamba2, Glorioso et al. 2024).

    The layers of this kind take turns with `num_mem_blocks` blocks, so a block's weights are stored once and read by
    each of its layers. A block reads the stream beside the embedding, twice as wide, and attends with it; its
    feed-forward has low-rank adapters in each layer. A last projection adds its output to the Mamba-2 layer's input.
    """
    m, t, h = p.model, p.layout.tp_size, p.model.hidden_size
    inner, share = m.num_attention_heads * m.head_dim, min(m.num_mem_blocks / _layers_of(m, kind), 1.0)
    doubled = p._replace(model=m.model_copy(update={"hidden_size": 2 * h}))
    *attending, _ = attention_block(doubled, "full_attention")
    block = [
        p.small_norm("block_norm", 2 * h),
        *attending,
        p.matmul("attention_output", inner / t, h, params=inner * h),
        *p.reduced("block_attention_all_reduce"),
        p.small_norm("block_mlp_norm", h),
        *feed_forward(p.for_part("feed_forward"), m.intermediate_size, "mlp"),
        *p.reduced("block_mlp_all_reduce"),
    ]
    rank, columns = m.adapter_rank, 2 * m.intermediate_size
    adapters = [p.matmul("adapter_down", h, rank), p.matmul("adapter_up", rank, columns / t, params=rank * columns)]
    return [
        *(op._replace(params=op.params * share, stored_bytes=op.stored_bytes * share) for op in block),
        *(adapters if rank else []),
        p.matmul("block_output", h, h / t, params=h * h),
        *mamba2_block(p.for_part("state_space"), kind),
    ]
