"""Context parallelism: n ranks share the tokens of a sequence; a rank is t tensor-parallel GPUs with all weights.

Prefill (Llama 3, 2024, section 3.3.2): a rank computes q/n of the new tokens of each prompt, in two pieces: the i-th
from the front and the i-th from the back. This gives all ranks the same number of (query, key) pairs. In each layer an
all-gather brings the keys and values of the other ranks: T (n-1)/n of T tokens, or, with a sliding window, the window
before each of the two pieces. The attention waits for the all-gather; ring attention (Liu et al.
2023) overlaps the two, so the estimate is an upper bound for it.

Decode (pass-Q of Yang et al. 2024, arXiv:2411.01783): the KV cache stays on the rank that computed it, T/n tokens each,
and new tokens are assigned to the ranks in turn. A rank computes the matrices of b/n of the b sequences. All ranks get
the queries of all sequences, attend over their own T/n tokens, and send back partial outputs, which are merged by their
log-sum-exps. A window of w tokens is in the last pieces: the busiest rank holds and reads at most min(w, T/n) tokens,
and all w while w is at most T/2n.

b/n need not be whole, but the busiest rank has at least one sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple

from llm_analysis.models.layers.base import Pass
from llm_analysis.physics.collectives import all_gather, all_to_all
from llm_analysis.physics.operators import Op, Step, elementwise
from llm_analysis.units import Quantity, minimum

_LSE_BYTES = 4.0  # a 32-bit log-sum-exp for each head and query


class Shapes(NamedTuple):
    """Sizes that determine the bytes that ranks exchange for one attention."""

    heads: float  # on this GPU
    key_dim: float  # elements of a query, for each head
    value_dim: float
    row_bytes: float  # keys and values of one token on this GPU
    reach: float = inf  # most tokens before a query that it attends to
    writes: bool = True  # whether the layer writes its keys and values to the cache


def shared_attention(p: Pass, shapes: Shapes, attend: Callable[[Step], Op]) -> list[Op]:
    """Return one rank's share of the attention `attend` of a pass, and the collectives that it needs."""
    if p.layout.cp_size == 1:
        return [attend(p.whole)]
    return (
        _partial_attention(p, shapes, attend) if p.whole.phase == "decode" else _gathered_attention(p, shapes, attend)
    )


def _gathered_attention(p: Pass, shapes: Shapes, attend: Callable[[Step], Op]) -> list[Op]:
    """Return the prefill attention of one rank over keys and values gathered from all ranks into a buffer."""
    n, t, node, b, total = p.layout.cp_size, p.layout.tp_size, p.layout.gpus_per_node, p.step.batch, p.step.total
    mine, row_bytes = p.step.new_tokens, b * shapes.row_bytes
    seen: Quantity = minimum(total, minimum(mine + 2 * shapes.reach, p.whole.new_tokens + shapes.reach))
    missing = minimum(total * (n - 1) / n, seen - mine)
    op, whole = attend(p.step), attend(p.whole)
    share = p.rows / p.whole.rows
    return [
        *all_gather("kv_all_gather", missing * row_bytes * n / (n - 1), n, node=node, count=p.count, stride=t),
        op._replace(
            flops=whole.flops * share,
            scores=whole.scores * share,
            activation_bytes=op.activation_bytes + seen * row_bytes,
            kv_bytes=mine * row_bytes if shapes.writes else 0.0,
            cached_bytes=minimum(op.cached_bytes, total * row_bytes / n),
        ),
    ]


def _partial_attention(p: Pass, shapes: Shapes, attend: Callable[[Step], Op]) -> list[Op]:
    """Return the decode attention of the busiest rank over its own tokens, and the merge of partial outputs."""
    n, t, node, rows = p.layout.cp_size, p.layout.tp_size, p.layout.gpus_per_node, p.rows
    op, width, outputs = attend(p.whole), p.dtypes.stream_bytes, shapes.heads * shapes.value_dim
    held = p.whole.batch * p.whole.total * shapes.row_bytes  # cache of all ranks without a window
    written = p.whole.rows * shapes.row_bytes if shapes.writes else 0.0
    share = minimum(1.0, (held + written) / (n * op.kv_bytes))
    queries = n * rows * shapes.heads * shapes.key_dim * width
    parts = n * rows * shapes.heads * (shapes.value_dim * width + _LSE_BYTES)
    return [
        *all_gather("query_all_gather", queries, n, node=node, count=p.count, stride=t),
        op._replace(
            flops=op.flops * share,
            scores=op.scores * share,
            kv_bytes=op.kv_bytes * share,
            cached_bytes=minimum(op.cached_bytes, held / n),
        ),
        *all_to_all("output_all_to_all", parts, 1.0, n, node=node, count=p.count, stride=t),
        elementwise("attention_merge", rows, n * outputs, outputs, width, count=p.count),
    ]
