"""Attention blocks with their projections, one function for each kind.

Heads are sharded over t tensor-parallel GPUs (Megatron-LM): QKV by columns, the output projection by rows. KV heads
fewer than t are replicated, and so is the latent KV cache of MLA, which has no heads.
"""

from __future__ import annotations

from functools import partial
from math import inf
from typing import NamedTuple

from llm_analysis.models.layers.base import Pass
from llm_analysis.models.layers.context_parallel import Shapes, shared_attention
from llm_analysis.physics.attention import attention
from llm_analysis.physics.collectives import all_reduce
from llm_analysis.physics.operators import Op, Step, elementwise
from llm_analysis.units import Quantity, minimum

# DeepSeek-V3.2 keeps its indexer's keys in fp8 with one 32-bit scale per 128 (its published inference code).
INDEX_KEY_BYTES = 1 + 4 / 128
# Sparse latent attention: with an indexer, or with the tokens that the indexer of an earlier layer selected.
_SPARSE_LATENT = ("sparse_latent_attention", "shared_index_latent_attention")


QUANTIZE = "quantize_activations"  # kind of the kernel that quantizes the output of attention


class _Heads(NamedTuple):
    """Heads of a layer, and elements of a key (and query) and of a value of each."""

    queries: int
    kv: int
    key_dim: int
    value_dim: int


def _heads_of(p: Pass, kind: str) -> _Heads:
    """Return the heads of a layer of this kind: full and windowed attention may differ, values may be narrower."""
    m, (name, _, own) = p.model, kind.partition(":")
    queries, kv, d = m.num_attention_heads, int(own or m.num_key_value_heads), m.head_dim
    if name.endswith("full_attention") and m.global_head_dim:
        kv, d = m.num_global_key_value_heads or kv, m.global_head_dim
    if name.endswith("sliding_attention"):
        queries = m.sliding_num_attention_heads or queries
    return _Heads(queries, kv, d, d if m.kv_lora_rank else m.v_head_dim or d)


def attention_block(p: Pass, kind: str) -> list[Op]:
    """Return multi-head, grouped-query or multi-query attention; the kind gives the mask."""
    m, t = p.model, p.layout.tp_size
    heads = _heads_of(p, kind)
    shared = kind.startswith("shared_")
    if shared:
        heads = heads._replace(kv=0)
    ops = [_projection(p, kind, heads)]
    if m.rotary or m.qk_norm != "none":
        normed = {"none": 0, "head": 1 if shared else 2, "full": heads.queries + heads.kv}[m.qk_norm]
        kv_mine = max(heads.kv / t, 1.0) if heads.kv else 0.0
        rotated, width = (heads.queries / t + kv_mine) * heads.key_dim, p.dtypes.stream_bytes
        norms = normed * heads.key_dim
        ops.append(elementwise("rotary", p.rows, rotated, rotated, width, count=p.count, kind="rotary", params=norms))
    if m.qk_norm != "none":
        ops.append(elementwise("qk_norm", p.rows, rotated, rotated, width, count=p.count))
    if m.qk_norm == "full":
        # Each GPU has some of the heads that the mean square is over: one number in fp32 for queries, one for keys.
        ops += all_reduce("qk_norm_all_reduce", p.rows * 8.0, t, node=p.layout.gpus_per_node, count=p.count)
    inner = heads.queries * heads.value_dim
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
    m, t, heads = p.model, p.layout.tp_size, _heads_of(p, kind)
    window = float(m.sliding_window or inf) if "sliding" in kind else inf
    top = float(m.index_topk) if kind == "block_sparse_attention" else inf
    chunk = float(m.attention_chunk_size or inf) if kind == "chunked_attention" else inf
    mine, kv_mine, shared = heads.queries / t, max(heads.kv / t, 1.0), kind.startswith("shared_")
    attend = partial(
        attention,
        "attention",
        heads=mine,
        kv_heads=kv_mine,
        key_dim=heads.key_dim,
        value_dim=heads.value_dim,
        format=p.dtypes.attention_format(heads.key_dim),
        rate=p.dtypes.stream,
        element_bytes=p.dtypes.stream_bytes,
        kv_element_bytes=p.dtypes.kv_bytes,
        count=p.count,
        shared=shared,
        causal=not kind.startswith("bidirectional"),
        window=min(window, top),
        chunk=chunk,
    )
    row_bytes = kv_mine * (heads.key_dim + heads.value_dim) * p.dtypes.kv_bytes
    reach = min(window, chunk) - 1
    return shared_attention(p, Shapes(mine, heads.key_dim, heads.value_dim, row_bytes, reach, not shared), attend)


def _projection(p: Pass, kind: str, heads: _Heads) -> Op:
    """Return the product for queries, keys, values and output gates, with the weights of attention sinks."""
    m, t = p.model, p.layout.tp_size
    queries = heads.queries * (2 if m.attention_output_gate else 1)
    values = 0 if m.attention_k_eq_v and "full" in kind else heads.value_dim  # keys are used as values too
    kv_mine = max(heads.kv / t, 1.0) if heads.kv else 0.0
    sinks = heads.queries if m.attention_sinks else 0
    gates = heads.queries if m.attention_head_gate else 0
    columns = queries * heads.key_dim + heads.kv * (heads.key_dim + values)
    params = (m.hidden_size + m.qkv_bias) * columns + m.hidden_size * gates + sinks
    outputs = (queries * heads.key_dim + gates) / t + kv_mine * (heads.key_dim + values)
    return p.matmul("qkv", m.hidden_size, outputs, params=params, bias=m.qkv_bias)


def _output_projection(p: Pass, inputs: float, gated: bool = False) -> list[Op]:
    """Return the output gate, if the model has one, and the product back to the hidden size.

    A product in 8 or 4 bits needs its input quantized. The norm, the activation or the gate before a product does so on
    the way; attention writes 16 bits, so that a kernel of its own quantizes its output.
    """
    m, t, width = p.model, p.layout.tp_size, p.dtypes.stream_bytes
    params = (inputs + m.attention_output_bias) * m.hidden_size
    gate = [elementwise("output_gate", p.rows, 2 * inputs / t, inputs / t, width, count=p.count)] if gated else []
    out = p.matmul("attention_output", inputs / t, m.hidden_size, params=params, bias=m.attention_output_bias)
    return [*gate, *([] if gated else _quantized(p, inputs / t)), out]


def _quantized(p: Pass, width: float) -> list[Op]:
    """Return the kernel that quantizes `width` 16-bit numbers of each token; empty if the product takes 16 bits."""
    narrow, stream = p.linear.input_bytes, p.dtypes.stream_bytes
    if narrow >= stream:
        return []
    read, written = stream * width, narrow * width
    return [elementwise("attention_quantize", p.rows, read, written, 1.0, kind=QUANTIZE, count=p.count)]


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
    attend = _absorbed if kind in _SPARSE_LATENT or p.step.phase == "decode" else _expanded
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
    top = float(m.index_topk) if kind in _SPARSE_LATENT else inf
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
    return op if top == inf else attention_to_top(op, step, top, row * p.dtypes.kv_bytes)


def attention_to_top(op: Op, step: Step, top: float, row_bytes: float) -> Op:
    """Return an attention restricted to `top` tokens per query; the cache has all tokens, `row_bytes` each."""
    return op._replace(
        kv_bytes=step.batch * (_rows_read(step, top) + step.new_tokens) * row_bytes,
        cached_bytes=step.batch * step.total * row_bytes,
    )


def _rows_read(step: Step, top: float) -> Quantity:
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
        flops=scores.flops / per_key,
        scores=scores.scores / per_key,
        kv_bytes=scores.kv_bytes / per_key,
        cached_bytes=scores.cached_bytes / per_key,
    )
    return [
        p.matmul("index_queries", m.q_lora_rank or m.hidden_size, heads * d),
        p.matmul("index_key_weights", m.hidden_size, d + head_weights),
        p.small_norm("index_key_norm", d, 2 * d),
        scores,
        elementwise("index_topk", rows, p.step.total / per_key, m.index_topk, 4, count=p.count)._replace(grows=True),
    ]
