"""Attention blocks with their projections, one function for each kind.

Heads are sharded over t tensor-parallel GPUs (Megatron-LM): QKV by columns, the output projection by rows. KV heads
fewer than t are replicated, and so is the latent KV cache of MLA, which has no heads.
"""

from __future__ import annotations

from functools import partial
from math import inf

from llm_analysis.models.layers.base import Pass
from llm_analysis.models.layers.context_parallel import Shapes, shared_attention
from llm_analysis.physics.operators import Op, Step, attention, elementwise
from llm_analysis.units import Quantity, minimum

# DeepSeek-V3.2 keeps its indexer's keys in fp8 with one 32-bit scale per 128 (its published inference code).
INDEX_KEY_BYTES = 1 + 4 / 128
# Sparse latent attention: with an indexer, or with the tokens that the indexer of an earlier layer selected.
SPARSE_LATENT = ("sparse_latent_attention", "shared_index_latent_attention")


def _head_shapes(p: Pass, kind: str) -> tuple[int, int]:
    """Return the KV heads and the head size of a layer of this kind."""
    m, (name, _, own) = p.model, kind.partition(":")
    heads, d = int(own or m.num_key_value_heads), m.head_dim
    if name.endswith("full_attention") and m.global_head_dim:
        return m.num_global_key_value_heads or heads, m.global_head_dim
    return heads, d


def attention_block(p: Pass, kind: str) -> list[Op]:
    """Return multi-head, grouped-query or multi-query attention; the kind gives the mask."""
    m, t = p.model, p.layout.tp_size
    kv_heads, d = _head_shapes(p, kind)
    shared = kind.startswith("shared_")
    mine, kv_mine = m.num_attention_heads / t, 0.0 if shared else max(kv_heads / t, 1.0)
    ops = [_projection(p, kind, 0 if shared else kv_heads, d)]
    if m.rotary or m.qk_norm != "none":
        norm_heads = {"none": 0, "head": 1 if shared else 2, "full": m.num_attention_heads + kv_heads}[m.qk_norm]
        rotated, width = (mine + kv_mine) * d, p.dtypes.stream_bytes
        norms = norm_heads * d
        ops.append(elementwise("rotary", p.rows, rotated, rotated, width, count=p.count, kind="rotary", params=norms))
    inner = m.num_attention_heads * d
    norm = [p.small_norm("attention_sub_norm", inner)] if m.sub_norms else []
    return [*ops, *_attending(p, kind), *norm, *_output_projection(p, inner, m.attention_output_gate)]


def cross_attention_block(p: Pass, kind: str) -> list[Op]:
    """Return the weights of attention to the tokens of an image, which a text prompt skips (Llama 3.2 Vision).

    Queries and keys are normed for each head, as with qk_norm `head`.
    """
    m, d = p.model, p.model.head_dim
    params = (2 * m.num_attention_heads + 2 * m.num_key_value_heads) * m.hidden_size * d + 2 * d + 2
    return [p.skipped("cross_attention", params)]


def _attending(p: Pass, kind: str) -> list[Op]:
    """Return the attention kernel of a layer of this kind, without projections."""
    m, t, (kv_heads, d) = p.model, p.layout.tp_size, _head_shapes(p, kind)
    window = float(m.sliding_window or inf) if "sliding" in kind else inf
    top = float(m.index_topk) if kind == "block_sparse_attention" else inf
    chunk = float(m.attention_chunk_size or inf) if kind == "chunked_attention" else inf
    mine, kv_mine, shared = m.num_attention_heads / t, max(kv_heads / t, 1.0), kind.startswith("shared_")
    attend = partial(
        attention,
        "attention",
        heads=mine,
        kv_heads=kv_mine,
        key_dim=d,
        value_dim=d,
        format=p.dtypes.attention_format(d),
        rate=p.dtypes.stream,
        element_bytes=p.dtypes.stream_bytes,
        kv_element_bytes=p.dtypes.kv_bytes,
        count=p.count,
        shared=shared,
        causal=not kind.startswith("bidirectional"),
        window=min(window, top),
        chunk=chunk,
    )
    row_bytes = 2 * kv_mine * d * p.dtypes.kv_bytes
    return shared_attention(p, Shapes(mine, d, d, row_bytes, min(window, chunk) - 1, not shared), attend)


def _projection(p: Pass, kind: str, kv_heads: int, d: int) -> Op:
    """Return the product for queries, keys, values and output gate, with the weights of attention sinks."""
    m, t = p.model, p.layout.tp_size
    queries = m.num_attention_heads * (2 if m.attention_output_gate else 1)
    both = 1 if m.attention_k_eq_v and "full" in kind else 2  # keys and values, or keys that are used as values too
    kv_mine = max(kv_heads / t, 1.0) if kv_heads else 0.0
    sinks = m.num_attention_heads if m.attention_sinks else 0
    gates = m.num_attention_heads if m.attention_head_gate else 0
    params = (m.hidden_size + m.qkv_bias) * (queries + both * kv_heads) * d + m.hidden_size * gates + sinks
    outputs = (queries / t + both * kv_mine) * d + gates / t
    return p.matmul("qkv", m.hidden_size, outputs, params=params, bias=m.qkv_bias)


def _output_projection(p: Pass, inputs: float, gated: bool = False) -> list[Op]:
    """Return the output gate, if the model has one, and the product back to the hidden size."""
    m, t, width = p.model, p.layout.tp_size, p.dtypes.stream_bytes
    params = (inputs + m.attention_output_bias) * m.hidden_size
    gate = [elementwise("output_gate", p.rows, 2 * inputs / t, inputs / t, width, count=p.count)] if gated else []
    out = p.matmul("attention_output", inputs / t, m.hidden_size, params=params, bias=m.attention_output_bias)
    return [*gate, out]


def latent_block(p: Pass, kind: str) -> list[Op]:
    """Return multi-head latent attention (DeepSeek-V2, 2024): the cache has one low-rank row per token.

    Prefill expands the rows to keys and values of all heads. Decode uses the rows as one KV head that all queries
    share; the expansions are absorbed into queries and outputs. Sparse attention always does the latter.
    """
    m, t, rows = p.model, p.layout.tp_size, p.rows
    h, heads, rank, rope = m.hidden_size, m.num_attention_heads, m.kv_lora_rank, m.qk_rope_head_dim
    rank_q = m.q_lora_rank
    key_dim = m.qk_nope_head_dim + rope
    down, queries, rotated = rank_q + rank + rope, heads * key_dim, (heads / t + 1) * rope
    ops = [
        p.matmul("latent_down", h, down),
        p.small_norm("latent_norm", rank_q + rank),
        p.matmul("q_up" if rank_q else "q", rank_q or h, queries / t, params=(rank_q or h) * queries),
    ]
    if m.rotary:
        width = p.dtypes.stream_bytes
        ops.append(elementwise("rotary", rows, rotated, rotated, width, count=p.count, kind="rotary"))
    if m.attention_head_gate:
        ops.append(p.matmul("head_gate", h, heads / t, params=h * heads))
    if kind == "sparse_latent_attention":
        ops += indexer(p, m.index_n_heads, INDEX_KEY_BYTES)
    attend = _absorbed if kind in SPARSE_LATENT or p.step.phase == "decode" else _expanded
    return [*ops, *attend(p, kind), *_output_projection(p, heads * m.v_head_dim)]


def _expanded(p: Pass, kind: str) -> list[Op]:
    """Return the expansion of the latent rows of all tokens to keys and values of each head, and the attention.

    Context-parallel ranks exchange the small latent rows, and each rank expands all of them.
    """
    m, t, seen = p.model, p.layout.tp_size, p.step.batch * p.step.total
    heads, nope, v, rank, rope = (
        m.num_attention_heads,
        m.qk_nope_head_dim,
        m.v_head_dim,
        m.kv_lora_rank,
        m.qk_rope_head_dim,
    )
    up = p.matmul("kv_up", rank, heads / t * (nope + v), rows=seen, params=rank * heads * (nope + v))
    up = up._replace(grows=True)
    read = seen * heads / t * (nope + rope + v) * p.dtypes.stream_bytes  # the expanded keys and values

    def attend(step: Step) -> Op:
        op = _latent_attention(p, step, heads / t, heads / t, nope + rope, v)
        return op._replace(activation_bytes=op.activation_bytes + read)

    *exchange, op = shared_attention(p, _latent_shapes(p, heads / t, nope + rope, v), attend)
    return [*exchange, up, op]


def _absorbed(p: Pass, kind: str) -> list[Op]:
    """Return the products of queries into the latent space, attention over the latent rows, and products back."""
    m, t = p.model, p.layout.tp_size
    heads, nope, v, rank = m.num_attention_heads, m.qk_nope_head_dim, m.v_head_dim, m.kv_lora_rank
    top = float(m.index_topk) if kind in SPARSE_LATENT else inf
    shapes = _latent_shapes(p, heads / t, rank + m.qk_rope_head_dim, rank)
    return [
        p.matmul("q_absorb", nope, rank, heads=heads / t, params=heads * nope * rank),
        *shared_attention(
            p, shapes, lambda step: _latent_attention(p, step, heads / t, 1.0, shapes.key_dim, rank, top)
        ),
        p.matmul("v_up", rank, v, heads=heads / t, params=heads * v * rank),
    ]


def _latent_shapes(p: Pass, heads: float, key_dim: float, value_dim: float) -> Shapes:
    """Return the sizes that context-parallel ranks exchange: latent rows instead of keys and values."""
    row = p.model.kv_lora_rank + p.model.qk_rope_head_dim
    return Shapes(heads, key_dim, value_dim, row * p.dtypes.kv_bytes)


def _latent_attention(
    p: Pass, step: Step, heads: float, kv_heads: float, key_dim: float, value_dim: float, top: float = inf
) -> Op:
    """Return attention over the cache of MLA: one row of kv_lora_rank + qk_rope_head_dim elements per token.

    With `top`, each query attends to at most `top` tokens; the cache has all tokens.
    """
    row = p.model.kv_lora_rank + p.model.qk_rope_head_dim
    op = attention(
        "attention",
        step,
        heads,
        kv_heads,
        key_dim,
        value_dim,
        format=p.dtypes.attention_format(),
        rate=p.dtypes.stream,
        element_bytes=p.dtypes.stream_bytes,
        kv_element_bytes=p.dtypes.kv_bytes,
        kind="mla_attention",
        count=p.count,
        window=top,
        kv_row_dim=row,
    )
    return op if top == inf else picking(op, step, top, row * p.dtypes.kv_bytes)


def picking(op: Op, step: Step, top: float, row_bytes: float) -> Op:
    """Return an attention restricted to `top` tokens per query; the cache has all tokens, `row_bytes` each."""
    return op._replace(
        kv_bytes=step.batch * (_picked(step, top) + step.new_tokens) * row_bytes,
        cached_bytes=step.batch * step.total * row_bytes,
    )


def _picked(step: Step, top: float) -> Quantity:
    """Return the rows of the cache that a pass reads at least once, if each new token selects `top` of all rows."""
    return minimum(step.total, step.new_tokens * top)


def indexer(p: Pass, head_weights: int, key_bytes: float, per_key: float = 1.0) -> list[Op]:
    """Return the operators of a lightning indexer (DeepSeek-V3.2): each query selects the tokens it attends to.

    A few small heads score every token. Their queries come from the low-rank queries if the model has them. Each token,
    or each `per_key` tokens, adds one key of `key_bytes` per element to a separate cache. `head_weights` outputs weigh
    the heads. Every GPU runs the whole indexer.
    """
    m, rows = p.model, p.rows
    heads, d = m.index_n_heads, m.index_head_dim
    scores = attention(
        "index_scores",
        p.step,
        heads,
        1.0,
        d,
        0,
        format=p.dtypes.attention_format(),
        rate=p.dtypes.stream,
        element_bytes=p.dtypes.stream_bytes,
        kv_element_bytes=key_bytes,
        count=p.count,
    )
    scores = scores._replace(
        flops=scores.flops / per_key, kv_bytes=scores.kv_bytes / per_key, cached_bytes=scores.cached_bytes / per_key
    )
    return [
        p.matmul("index_queries", m.q_lora_rank or m.hidden_size, heads * d),
        p.matmul("index_key_weights", m.hidden_size, d + head_weights),
        p.small_norm("index_key_norm", d, 2 * d),
        scores,
        elementwise("index_topk", rows, p.step.total / per_key, min(m.index_topk, 10**9), 4, count=p.count)._replace(
            grows=True
        ),
    ]
