"""Feed-forward blocks: dense with two or three matrices, or a mixture of experts.

Matrices are sharded over t tensor-parallel GPUs (Megatron-LM): up and gate by columns, down by rows. Experts are spread
over `ep_size` GPUs. If ep < t, the matrices of an expert are sharded over t / ep GPUs. If ep > t, ep / t replicas or
context-parallel ranks send their tokens to the same experts.
"""

from __future__ import annotations

from functools import partial

from llm_analysis.models.config import ModelConfig
from llm_analysis.models.layers.base import Pass
from llm_analysis.physics.collectives import all_to_all
from llm_analysis.physics.operators import Op, elementwise, matmul
from llm_analysis.units import Quantity, maximum, minimum, power

# Kind of the kernels that prepare the rows of experts and add their outputs. Their speed depends on the format of the
# products: for 8- and 4-bit ones they also find scales and quantize.
AROUND_EXPERTS = "expert_rows"


def dense_block(p: Pass, kind: str) -> list[Op]:
    """Return a feed-forward of two matrices, or three with a gate; `dense:7168` has width 7168."""
    return feed_forward(p, int(kind.partition(":")[2] or p.model.intermediate_size), "mlp")


def skipped_dense_block(p: Pass, kind: str) -> list[Op]:
    """Return the weights of a feed-forward that a text prompt skips."""
    m = p.model
    return [p.skipped("cross_mlp", (3 if m.gated_mlp else 2) * m.hidden_size * m.intermediate_size)]


def feed_forward(p: Pass, width: int, name: str) -> list[Op]:
    """Return up (and gate), activation and down, with `width` columns in total, sharded."""
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


# Shapes of the popularity of experts: 128 / E for E experts, and at least 1, an exponential distribution. That is near
# the evenness of Mixtral's eight experts (its paper), and was chosen on published latencies (docs/accuracy.md).
_FINE, _LEAST_SHAPE = 128.0, 1.0


def distinct_experts(tokens: Quantity, experts: float, chosen: float) -> Quantity:
    """Return the expected number of experts that at least one token selects.

    `tokens` tokens select `chosen` of `experts` experts each. If all experts were selected alike, r tokens would avoid
    one with probability (1 - k/E)^r. But some are popular: with popularities that follow a gamma distribution of shape
    a, the probability is (1 - k/E) (1 + (r - 1) c / a)^-a with c = -ln(1 - k/E), here 2 k / (2 E - k). A coarse expert
    does the work of many fine ones and is selected more evenly.
    """
    shape = maximum(_FINE / experts, _LEAST_SHAPE)
    further = maximum(tokens, 1.0) - 1.0
    avoided = (1.0 - chosen / experts) * power(1.0 + further * chosen / (experts - chosen / 2) / shape, -shape)
    return minimum(tokens, 1.0) * experts * (1.0 - avoided)


def sparse_block(p: Pass, kind: str) -> list[Op]:
    """Return a mixture of experts: router, routed experts, shared experts."""
    m, rows, width = p.model, p.rows, p.dtypes.stream_bytes
    h, k = m.hidden_size, m.num_experts_per_tok
    E, wide, latent = m.num_experts + m.zero_expert_num, m.moe_latent_size or h, bool(m.moe_latent_size)
    around = partial(elementwise, kind=AROUND_EXPERTS, format=p.dtypes.routed.format, count=p.count)
    ops = [
        p.matmul("router", h, E, p.dtypes.router, params=(h + m.router_bias) * E, bias=m.router_bias),
        elementwise("router_topk", rows, E, 2 * k, width, count=p.count),
        *([p.matmul("experts_latent_in", h, wide)] if latent else []),
        *_exchange(p, "dispatch", p.dtypes.routed.input_bytes),
        *_experts(p),
        *_exchange(p, "combine", width),
        around("expert_sum", rows, k * wide, wide, width),
        *([p.matmul("experts_latent_out", wide, h)] if latent else []),
    ]
    if m.shared_expert_intermediate_size:
        ops += feed_forward(p, m.shared_expert_intermediate_size, "shared_expert")
    if m.shared_expert_gate:
        ops.append(p.matmul("shared_expert_gate", h, 1, p.dtypes.router))
    return ops


def _experts(p: Pass) -> list[Op]:
    """Return the routed experts of the busiest GPU: a copy of each row for each of its experts, then grouped GEMMs.

    All GPUs wait for the busiest one, which has at least one row and one expert, even if the mean is below one.
    """
    m, t, ep, numbers = p.model, p.layout.tp_size, p.layout.ep_size, p.dtypes.routed
    h, f, E = m.moe_latent_size or m.hidden_size, m.moe_intermediate_size, m.num_experts
    k = experts_per_token(m)
    columns, bias, held = 2 if m.gated_mlp else 1, m.expert_bias, E / ep
    shards = max(t / ep, 1.0)  # GPUs that share the matrices of one expert
    # Rows of all ranks and replicas that use these experts; with fewer sequences than ranks, some ranks have none.
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
    around = partial(elementwise, kind=AROUND_EXPERTS, format=numbers.format, count=p.count)
    return [
        around("experts_permute", routed, h / k, h, numbers.input_bytes),
        grouped(up, inputs=h, outputs=columns * f / shards, params=E * (h + bias) * columns * f),
        around("experts_activation", routed, columns * f / shards, f / shards, p.dtypes.stream_bytes),
        grouped("experts_down", inputs=f / shards, outputs=h, params=E * (f + bias) * h),
    ]


def experts_per_token(model: ModelConfig) -> float:
    """Return the number of experts with weights per token; even routing assumes the same share of all experts."""
    if not model.zero_expert_num:
        return model.num_experts_per_tok
    return model.num_experts_per_tok * model.num_experts / (model.num_experts + model.zero_expert_num)


def _exchange(p: Pass, name: str, element_bytes: float) -> list[Op]:
    """Return the all-to-all of tokens to the GPUs of their experts, or back.

    It is empty if the experts are spread inside the tensor-parallel group: every GPU has all tokens, and the all-reduce
    at the end of the layer adds the outputs.
    """
    m, t, node = p.model, p.layout.tp_size, p.layout.gpus_per_node
    sent, copies = p.rows / t * (m.moe_latent_size or m.hidden_size) * element_bytes, experts_per_token(m)
    return all_to_all(f"experts_{name}", sent, copies, p.layout.expert_span, node=node, count=p.count)
