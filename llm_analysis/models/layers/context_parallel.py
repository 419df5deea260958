"""Context parallelism: n groups of t tensor-parallel GPUs share the tokens of a sequence, each with all the weights.

Prefill (Llama 3, 2024, section 3.3.2): a rank takes q/n of the new tokens of each prompt, as two pieces, the i-th from
the front and the i-th from the back, so that all ranks have as many (query, key) pairs. In each layer the keys and
values that its queries see and that others hold come by an all-gather: of T tokens T (n-1)/n, or the reach of a window
before each of the two pieces. Nothing else runs meanwhile: an upper bound of ring attention (Liu et al. 2023), which
hides what it sends behind the attention over what has arrived.

Decode (Yang et al. 2024, arXiv:2411.01783, pass-Q): the cache stays where the prefill left it, T/n tokens on a rank,
and new tokens go to the ranks in turn. A rank computes the matrices of b/n of the b sequences; their queries go to all,
each attends for all b over its own T/n tokens, and the partial outputs go back, to be merged by their log-sum-exps.
A window of w tokens lies in the last pieces: the busiest rank holds and reads min(w, T/n) at most, all w up to T/2n.

Shares are smooth, as those of micro-batches are: b/n sequences, and one at least on the busiest rank.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple

from llm_analysis.models.layers.base import Pass
from llm_analysis.physics.collectives import all_gather, all_to_all
from llm_analysis.physics.operators import Op, Step, elementwise
from llm_analysis.units import Quantity, minimum

LSE_BYTES = 4.0  # a 32-bit log-sum-exp for each head and query


class Shapes(NamedTuple):
    """What of an attention the ranks send one another."""

    heads: float  # on this GPU
    key_dim: float  # elements of a query, for each head
    value_dim: float
    row_bytes: float  # keys and values of one token on this GPU
    reach: float = inf  # tokens before a query that it sees at most
    writes: bool = True  # whether the layer writes its keys and values to the cache


def shared_attention(p: Pass, shapes: Shapes, attend: Callable[[Step], Op]) -> list[Op]:
    """`attend`, the attention of a pass, as one rank does its share of it, and what the ranks exchange for it."""
    if p.layout.cp_size == 1:
        return [attend(p.whole)]
    return partial_attention(p, shapes, attend) if p.whole.phase == "decode" else gathered_attention(p, shapes, attend)


def gathered_attention(p: Pass, shapes: Shapes, attend: Callable[[Step], Op]) -> list[Op]:
    """A rank's queries over the keys and values of all ranks, which it gathers into a buffer of this layer."""
    n, t, node, b, total = p.layout.cp_size, p.layout.tp_size, p.layout.gpus_per_node, p.step.batch, p.step.total
    mine, row_bytes = p.step.new_tokens, b * shapes.row_bytes
    seen: Quantity = minimum(total, minimum(mine + 2 * shapes.reach, p.whole.new_tokens + shapes.reach))
    missing = minimum(total * (n - 1) / n, seen - mine)
    op = attend(p.step)
    return [
        *all_gather("kv_all_gather", missing * row_bytes * n / (n - 1), n, node=node, count=p.count, stride=t),
        op._replace(
            flops=attend(p.whole).flops * p.rows / p.whole.rows,
            activation_bytes=op.activation_bytes + seen * row_bytes,
            kv_bytes=mine * row_bytes if shapes.writes else 0.0,
            cached_bytes=minimum(op.cached_bytes, total * row_bytes / n),
        ),
    ]


def partial_attention(p: Pass, shapes: Shapes, attend: Callable[[Step], Op]) -> list[Op]:
    """The queries of all ranks over the tokens that the busiest holds, and the parts of its own outputs merged."""
    n, t, node, rows = p.layout.cp_size, p.layout.tp_size, p.layout.gpus_per_node, p.rows
    op, width, outputs = attend(p.whole), p.dtypes.stream_bytes, shapes.heads * shapes.value_dim
    held = p.whole.batch * p.whole.total * shapes.row_bytes  # by all ranks, where no window bounds it
    written = p.whole.rows * shapes.row_bytes if shapes.writes else 0.0
    share = minimum(1.0, (held + written) / (n * op.kv_bytes))
    queries = n * rows * shapes.heads * shapes.key_dim * width
    parts = n * rows * shapes.heads * (shapes.value_dim * width + LSE_BYTES)
    return [
        *all_gather("query_all_gather", queries, n, node=node, count=p.count, stride=t),
        op._replace(
            flops=op.flops * share,
            kv_bytes=op.kv_bytes * share,
            cached_bytes=minimum(op.cached_bytes, held / n),
        ),
        *all_to_all("output_all_to_all", parts, 1.0, n, node=node, count=p.count, stride=t),
        elementwise("attention_merge", rows, n * outputs, outputs, width, count=p.count),
    ]
