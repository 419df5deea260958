"""Scaled dot-product attention as an operator: FLOP of the visible pairs, bytes of the KV cache.

b sequences, q new tokens of each, c tokens of each in the cache, H heads on this GPU of size d, window w:

    FLOP   4 b H d * pairs      pairs = (query, key) pairs under the causal mask: sum over new tokens of min(c + i, w)
    bytes  K and V of the visible tokens read once, those of the new tokens written, queries in, outputs out
"""

from __future__ import annotations

from math import inf

from llm_analysis.physics.operators import Op, Step
from llm_analysis.units import Quantity, floor, minimum


def _triangle(n: Quantity) -> Quantity:
    """Return 1 + 2 + ... + n."""
    return n * (n + 1) / 2


def visible_pairs(tokens: Quantity, window: float = inf, chunk: float = inf) -> Quantity:
    """Return the (query, key) pairs of a causal pass over `tokens` tokens: the sum of min(i, window), i = 1 .. tokens.

    With `chunk`, attention restarts every `chunk` tokens.
    """
    if chunk < inf:
        whole = floor(tokens / chunk)
        return whole * _triangle(chunk) + _triangle(tokens - whole * chunk)
    if window < inf:
        near = minimum(tokens, window)
        return _triangle(near) + (tokens - near) * window
    return _triangle(tokens)


def attention(
    name: str,
    step: Step,
    heads: float,
    kv_heads: float,
    key_dim: float,
    value_dim: float,
    *,
    format: str,
    rate: str,
    element_bytes: float,
    kv_element_bytes: float,
    kind: str = "attention",
    part: str = "attention",
    count: Quantity = 1.0,
    window: float = inf,
    chunk: float = inf,
    kv_row_dim: float | None = None,
    shared: bool = False,
    causal: bool = True,
) -> Op:
    """Return scaled dot-product attention as one kernel; the scores stay on the chip (FlashAttention).

    `kv_row_dim` is the number of elements that one token adds to the cache on this GPU; by default
    kv_heads * (key_dim + value_dim). With `shared` the layer reads the cache of an earlier layer and adds none.
    If not `causal`, every token sees every other, and no key or value is kept after the pass.
    """
    kv_row = (kv_heads * (key_dim + value_dim) if kv_row_dim is None else kv_row_dim) * kv_element_bytes
    read = kept = step.total
    if window < inf:
        read, kept = minimum(step.total, window + step.new_tokens - 1), minimum(step.total, window)
    elif chunk < inf:
        read, kept = step.total - floor(step.context / chunk) * chunk, minimum(step.total, chunk)
    pairs = visible_pairs(step.total, window, chunk) - visible_pairs(step.context, window, chunk)
    if not causal:
        pairs = step.new_tokens * step.total
    return Op(
        name=name,
        kind=f"{step.phase}_{kind}",
        part=part,
        grows=True,
        count=count,
        format=format,
        rate=rate,
        flops=2.0 * step.batch * heads * (key_dim + value_dim) * pairs,
        activation_bytes=step.rows * heads * (key_dim + value_dim) * element_bytes,
        kv_bytes=step.batch * (read if shared else read + step.new_tokens) * kv_row,
        scores=step.batch * heads * pairs,
        parallelism=step.rows * heads,
        group=heads / kv_heads,
        cached_bytes=0.0 if shared or not causal else step.batch * kept * kv_row,
    )
