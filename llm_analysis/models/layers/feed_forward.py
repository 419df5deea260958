"""The feeding half of a layer: two or three matrices, or a router and experts.

Sharded over t tensor-parallel GPUs (Megatron-LM): up and gate by columns, down by rows. Experts are spread over
`ep_size` GPUs; where that is fewer than t, each expert's matrices are sharded over the t / ep GPUs that hold it, and
where it is more, ep / t replicas of the attention, or ranks that share its tokens, bring theirs to the same experts.
"""

from __future__ import annotations

from functools import partial

from llm_analysis.models.config import ModelConfig
from llm_analysis.models.layers.base import Pass
from llm_analysis.physics.collectives import all_to_all
from llm_analysis.physics.operators import Op, elementwise, matmul
from llm_analysis.units import Quantity, maximum, minimum, power


def dense_block(p: Pass, kind: str) -> list[Op]:
    """Feed-forward of two matrices, or of three with a gate; `dense:7168` is 7168 wide."""
    return feed_forward(p, int(kind.partition(":")[2] or p.model.intermediate_size), "mlp")


def skipped_dense_block(p: Pass, kind: str) -> list[Op]:
    """Return the weights of a feed-forward that a prompt of text alone skips."""
    m = p.model
    return [p.skipped("cross_mlp", (3 if m.gated_mlp else 2) * m.hidden_size * m.intermediate_size)]


def feed_forward(p: Pass, width: int, name: str) -> list[Op]:
    """Up (and gate), activation, down: `width` columns in all, sharded."""
    m, t, rows = p.model, p.layout.tp_size, p.rows
    h, f, columns, bias = m.hidden_size, width, 2 if m.gated_mlp else 1, m.mlp_bias
    up = f"{name}_up_gate" if m.gated_mlp else f"{name}_up"
    up_params, down_params = (h + bias) * columns * f, (f + bias) * h
    return [
        p.matmul(up, h, columns * f / t, params=up_params, bias=bias),
        elementwise(f"{name}_activation", rows, columns * f / t, f / t, p.dtypes.stream_bytes, count=p.count),
        *([p.small_norm(f"{name}_sub_norm", f)] if m.sub_norms else []),
        p.matmul(f"{name}_down", f / t, h, params=down_params, bias=bias),
    ]


def distinct_experts(tokens: Quantity, experts: float, chosen: float) -> Quantity:
    """How many of `experts` at least one of `tokens` tokens is expected to go to, each choosing `chosen` of them.

    With even routing a token passes an expert by with probability 1 - k/E, and all r tokens do with (1 - k/E)^r,
    independently of each other; the expected number of the others is E (1 - (1 - k/E)^r), by linearity of expectation
    (the coupon collector who draws k different coupons at a time). One token touches k, many touch all.
    """
    return experts * (1.0 - power(1.0 - chosen / experts, tokens))


def sparse_block(p: Pass, kind: str) -> list[Op]:
    """Mixture of experts: router, the chosen experts of each token, and the experts that all tokens share."""
    m, rows, width = p.model, p.rows, p.dtypes.stream_bytes
    h, k = m.hidden_size, m.num_experts_per_tok
    E, wide, latent = m.num_experts + m.zero_expert_num, m.moe_latent_size or h, bool(m.moe_latent_size)
    ops = [
        p.matmul("router", h, E, p.dtypes.router, params=(h + m.router_bias) * E, bias=m.router_bias),
        elementwise("router_topk", rows, E, 2 * k, width, count=p.count),
        *([p.matmul("experts_latent_in", h, wide)] if latent else []),
        *_exchange(p, "dispatch", p.dtypes.routed.input_bytes),
        *_experts(p),
        *_exchange(p, "combine", width),
        elementwise("expert_sum", rows, k * wide, wide, width, count=p.count),
        *([p.matmul("experts_latent_out", wide, h)] if latent else []),
    ]
    if m.shared_expert_intermediate_size:
        ops += feed_forward(p, m.shared_expert_intermediate_size, "shared_expert")
    if m.shared_expert_gate:
        ops.append(p.matmul("shared_expert_gate", h, 1, p.dtypes.router))
    return ops


def _experts(p: Pass) -> list[Op]:
    """The routed experts of one GPU: a copy of each row for each expert it reaches here, then grouped products.

    The others wait for the busiest GPU, which has a row, and an expert to read, even where the mean is below one.
    """
    m, t, ep, numbers = p.model, p.layout.tp_size, p.layout.ep_size, p.dtypes.routed
    h, f, E = m.moe_latent_size or m.hidden_size, m.moe_intermediate_size, m.num_experts
    k = experts_per_token(m)
    columns, bias, held = 2 if m.gated_mlp else 1, m.expert_bias, E / ep
    shards = max(t / ep, 1.0)  # GPUs that share one expert's matrices
    # Of all ranks and replicas that these experts serve; some ranks have none where the sequences are fewer.
    tokens = minimum(p.rows * max(ep / t, 1.0), p.whole.rows * max(ep / (t * p.layout.cp_size), 1.0))
    routed = maximum(tokens * k / ep, 1.0) * p.layout.expert_imbalance
    touched = maximum(distinct_experts(tokens, E, k) / ep, 1.0)
    up = "experts_up_gate" if m.gated_mlp else "experts_up"
    grouped = partial(
        matmul,
        rows=routed,
        numbers=numbers,
        kind="grouped_gemm",
        part="expert",
        read=touched,
        held=held,
        count=p.count,
        bias=bias,
    )
    return [
        elementwise("experts_permute", routed, h / k, h, numbers.input_bytes, count=p.count),
        grouped(up, inputs=h, outputs=columns * f / shards, params=E * (h + bias) * columns * f),
        elementwise(
            "experts_activation", routed, columns * f / shards, f / shards, p.dtypes.stream_bytes, count=p.count
        ),
        grouped("experts_down", inputs=f / shards, outputs=h, params=E * (f + bias) * h),
    ]


def experts_per_token(model: ModelConfig) -> float:
    """Return the experts with weights that a token goes to: with even routing, its share of those without goes off."""
    if not model.zero_expert_num:
        return model.num_experts_per_tok
    return model.num_experts_per_tok * model.num_experts / (model.num_experts + model.zero_expert_num)


def _exchange(p: Pass, name: str, element_bytes: float) -> list[Op]:
    """Each GPU's share of its replica's tokens to the GPUs of their experts, or back.

    Nothing where the experts are spread inside the tensor-parallel group: all of its GPUs have all of its tokens, and
    the all-reduce that ends the layer adds up what they made of them.
    """
    m, t, node = p.model, p.layout.tp_size, p.layout.gpus_per_node
    sent, copies = p.rows / t * (m.moe_latent_size or m.hidden_size) * element_bytes, experts_per_token(m)
    return all_to_all(f"experts_{name}", sent, copies, p.layout.expert_span, node=node, count=p.count)
