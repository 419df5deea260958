"""Attention to few of the earlier tokens: block-sparse (MiniMax-M3), and over compressed tokens (DeepSeek-V4)."""

from __future__ import annotations

from math import inf

from llm_analysis.models.layers.attention import INDEX_KEY_BYTES, attention_block, attention_to_top, indexer
from llm_analysis.models.layers.base import Pass
from llm_analysis.physics.attention import attention
from llm_analysis.physics.operators import Op, Step, elementwise


def block_sparse_block(p: Pass, kind: str) -> list[Op]:
    """Return the operators of grouped-query attention to the `index_topk` tokens of the blocks that an indexer selects.

    MiniMax-M3: one index head for each KV head scores every token by a separate key in the precision of the
    cache; the score of a block is that of its best token. Index keys have no values and heads no weights.
    """
    m, t = p.model, p.layout.tp_size
    row_bytes = 2 * max(m.num_key_value_heads / t, 1.0) * m.head_dim * p.dtypes.kv_bytes
    ops = attention_block(p, kind)
    picked = [attention_to_top(op, p.step, m.index_topk, row_bytes) if op.name == "attention" else op for op in ops]
    return [*indexer(p, 0, p.dtypes.kv_bytes), *picked]


def compressed_block(p: Pass, kind: str) -> list[Op]:
    """Return the operators of DeepSeek-V4's attention (DeepSeek-AI 2026): a window, and compressed earlier tokens.

    One row per token serves all heads as key and value. `compressed_attention:128` also attends to one row for each
    128 tokens, a weighted sum of them; `compressed_sparse_attention:4` to the `index_topk` best rows for 4 tokens each.
    These rows overlap, which takes two projections; an indexer with compressed keys selects them.
    `compressed_attention` alone has the window only. Heads are sharded; the compression runs on every GPU.
    """
    m, t, rows, width = p.model, p.layout.tp_size, p.rows, p.dtypes.stream_bytes
    h, heads, d, rope = m.hidden_size, m.num_attention_heads, m.head_dim, m.qk_rope_head_dim or m.head_dim
    ratio, sparse = int(kind.partition(":")[2] or 0), kind.startswith("compressed_sparse_attention")
    down, queries, rotated = m.q_lora_rank + d, heads * d, (heads / t + 1) * rope
    sinks = heads if m.attention_sinks else 0
    ops = [
        p.matmul("latent_down", h, down, params=h * down + sinks),
        p.small_norm("latent_norm", down),
        p.matmul("q_up", m.q_lora_rank, queries / t, params=m.q_lora_rank * queries),
        elementwise("rotary", rows, rotated, rotated, width, count=p.count, kind="rotary"),
    ]
    if ratio:
        ops += _compression(p, "compress", d, ratio, 2 if sparse else 1)
    if sparse:
        ops += _compression(p, "index_compress", m.index_head_dim, ratio, 2)
        ops += _compressed_indexer(p, ratio)
    group = queries / m.o_groups  # outputs of the heads of one group
    ops.append(_attention(p, ratio, float(m.index_topk) * ratio if sparse else inf))
    ops.append(
        p.matmul("output_groups", group, m.o_lora_rank, heads=m.o_groups / t, params=m.o_groups * group * m.o_lora_rank)
    )
    inner = m.o_groups * m.o_lora_rank
    return [*ops, p.matmul("attention_output", inner / t, h, params=inner * h)]


def _compression(p: Pass, name: str, width: int, ratio: int, series: int) -> list[Op]:
    """Return the operators that make one row of `width` elements out of each `ratio` tokens (times `series`)."""
    wide, weights = 2 * series * width, ratio * series * width + width  # values and gates; position biases and a norm
    pool = elementwise(
        f"{name}_pool", p.rows, wide, width / ratio, p.dtypes.stream_bytes, count=p.count, params=weights
    )
    return [p.matmul(name, p.model.hidden_size, wide), pool]


def _compressed_indexer(p: Pass, ratio: int) -> list[Op]:
    """Return the operators of the indexer over compressed keys: queries, head weights, scores, choice of rows."""
    heads = p.model.index_n_heads
    queries, _, _, *scoring = indexer(p, heads, INDEX_KEY_BYTES, ratio)
    return [queries, p.matmul("index_head_weights", p.model.hidden_size, heads), *scoring]


def _attention(p: Pass, ratio: int, reach: float) -> Op:
    """Return one kernel for the window and the compressed rows, which represent the last `reach` tokens."""
    m, step = p.model, p.step
    near = _one_row_attention(p, step, float(m.sliding_window or inf))
    if not ratio:
        return near
    far = _one_row_attention(p, step, reach)
    if reach < inf:
        far = attention_to_top(far, step, reach, m.head_dim * p.dtypes.kv_bytes)
    return near._replace(
        flops=near.flops + far.flops / ratio,
        scores=near.scores + far.scores / ratio,
        kv_bytes=near.kv_bytes + far.kv_bytes / ratio,
        cached_bytes=near.cached_bytes + far.cached_bytes / ratio,
    )


def _one_row_attention(p: Pass, step: Step, window: float) -> Op:
    """Return an attention of all heads to one row per token, which is key and value at once."""
    m, heads = p.model, p.model.num_attention_heads / p.layout.tp_size
    return attention(
        "attention",
        step,
        heads,
        1.0,
        m.head_dim,
        m.head_dim,
        format=p.dtypes.attention_format(),
        rate=p.dtypes.stream,
        element_bytes=p.dtypes.stream_bytes,
        kv_element_bytes=p.dtypes.kv_bytes,
        kind="mla_attention",
        count=p.count,
        window=window,
        kv_row_dim=m.head_dim,
    )
