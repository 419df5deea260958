"""Mixers with a state of fixed size instead of a growing cache: state spaces and linear attention.

Heads or channels are sharded over t tensor-parallel GPUs. The FLOP of a scan are those of its chunked form (Mamba-2,
Dao and Gu 2024, section 6): c x c products inside a chunk of c tokens, and one read and update of the state per chunk.
A decode step is a chunk of one token.
"""

from __future__ import annotations

from llm_analysis.models.layers.base import Pass
from llm_analysis.physics.operators import Op, Step, elementwise
from llm_analysis.units import Quantity, minimum


def _recurrence(
    p: Pass, token_flops: Quantity, token_elements: float, state: float, conv: float, *, heads: float, params: float
) -> Op:
    """Return the scan over the new tokens of each sequence, with `state` elements and `conv` of a convolution.

    Each token costs `token_flops` and moves `token_elements` activations. All except `params` are for this GPU.
    """
    step, t, width = p.step, p.layout.tp_size, p.dtypes.stream_bytes
    state_bytes = state * (p.model.state_element_bytes or width) + conv * width
    return Op(
        name="scan",
        kind=f"{step.phase}_scan",
        part=p.part,
        count=p.count,
        format=p.dtypes.stream,
        rate=p.dtypes.stream,
        flops=step.rows * token_flops,
        weight_bytes=params / t * width,
        activation_bytes=step.rows * token_elements * width,
        kv_bytes=2.0 * step.batch * state_bytes,
        parallelism=step.rows * heads,
        params=params,
        stored_bytes=params / t * width,
        cached_bytes=step.batch * state_bytes,
    )


def _convolution(p: Pass, channels: float, kernel: int, bias: bool) -> Op:
    """Return a short causal convolution along the tokens; `channels` is the number of the whole model."""
    t, params = p.layout.tp_size, channels * (kernel + bias)
    op = elementwise("convolution", p.rows, channels / t, channels / t, p.dtypes.stream_bytes, count=p.count)
    weights = params / t * p.dtypes.stream_bytes
    return _with_weights(op._replace(part=p.part), params, weights)


def _with_weights(op: Op, params: float, weight_bytes: float) -> Op:
    """Return `op` with sharded weights."""
    return op._replace(params=params, weight_bytes=weight_bytes, stored_bytes=weight_bytes)


def _in_projection(p: Pass, outputs: float, bias: bool = False) -> Op:
    """Return the input projection of a recurrent layer; `outputs` is the number of the whole model."""
    h, t = p.model.hidden_size, p.layout.tp_size
    return p.matmul("in_projection", h, outputs / t, params=(h + bias) * outputs, bias=bias)


def _out_projection(p: Pass, inputs: float, bias: bool = False) -> Op:
    """Return the output projection; `inputs` is the number of the whole model."""
    h, t = p.model.hidden_size, p.layout.tp_size
    return p.matmul("out_projection", inputs / t, h, params=(inputs + bias) * h, bias=bias)


def _chunk_of(step: Step, chunk: float) -> Quantity:
    """Return the number of tokens that are scanned together: a chunk, or all new tokens if they are fewer."""
    return minimum(step.new_tokens, chunk)


def mamba_block(p: Pass, kind: str) -> list[Op]:
    """Return Mamba (Gu and Dao 2023): every channel has its own state and decay.

    A token costs 9 FLOP per element of the state: decay, input, update and output of the selective scan.
    """
    m, t = p.model, p.layout.tp_size
    inner, N, rank, bias = m.mamba_inner_size, m.ssm_state_size, m.time_step_rank, m.mamba_proj_bias
    mine, selected = inner / t, rank + 2 * N
    ops = [_in_projection(p, 2 * inner, bias), _convolution(p, inner, m.conv_kernel, m.conv_bias)]
    ops.append(p.matmul("select", mine, selected, params=inner * selected))
    if m.mamba_inner_layernorms:
        ops.append(p.small_norm("select_norm", selected))
    ops.append(p.matmul("time_step", rank, mine, params=(rank + 1) * inner, bias=True))
    moved = 4 * mine + 2 * N  # input, gate, time step, output; B and C
    scan = _recurrence(p, 9 * mine * N, moved, mine * N, mine * m.conv_kernel, heads=mine, params=inner * (N + 1))
    return [*ops, scan, _out_projection(p, inner, bias)]


def mamba2_block(p: Pass, kind: str) -> list[Op]:
    """Return Mamba-2: heads of channels with one decay each; groups of heads share keys and queries (B and C)."""
    m, t = p.model, p.layout.tp_size
    heads, inner, N = m.mamba_num_heads, m.mamba_inner_size, m.ssm_state_size
    shared, mine = m.n_groups * N, inner / t
    channels = inner + 2 * shared
    chunk = _chunk_of(p.step, m.chunk_size)
    flops = chunk * (shared / t + mine) + 4 * mine * N
    scan = _recurrence(
        p, flops, 3 * mine + 2 * shared / t, mine * N, channels / t * m.conv_kernel, heads=heads / t, params=3 * heads
    )
    return [
        _in_projection(p, 2 * inner + 2 * shared + heads, m.mamba_proj_bias),
        _convolution(p, channels, m.conv_kernel, m.conv_bias),
        scan,
        _gated_norm(p, inner, inner if m.mamba_gated_norm else 0),
        _out_projection(p, inner, m.mamba_proj_bias),
    ]


def _gated_norm(p: Pass, width: float, params: float) -> Op:
    """Return a gated norm over the inner width; `width` is that of the whole model."""
    t, stream = p.layout.tp_size, p.dtypes.stream_bytes
    op = elementwise("gated_norm", p.rows, 2 * width / t, width / t, stream, count=p.count)
    return _with_weights(op, params, params * stream)


def gated_delta_block(p: Pass, kind: str) -> list[Op]:
    """Return the gated delta-net (Yang et al. 2024) of Qwen3-Next: one key-value matrix as state per value head.

    A token reads the state with its key, adds the difference, reads with its query: 6 FLOP per element.
    """
    m, t = p.model, p.layout.tp_size
    K, V, dk, dv = m.linear_num_key_heads, m.linear_num_value_heads, m.linear_key_head_dim, m.linear_value_head_dim
    keys, values = K * dk, V * dv
    channels = 2 * keys + values
    chunk = _chunk_of(p.step, m.chunk_size)
    state = V * dk * dv
    flops = (chunk * V * (2 * dk + dv) + 6 * state) / t
    conv = channels / t * m.linear_conv_kernel_dim
    return [
        _in_projection(p, channels + values + 2 * V),
        _convolution(p, channels, m.linear_conv_kernel_dim, False),
        _recurrence(p, flops, (channels + 2 * values) / t, state / t, conv, heads=V / t, params=2 * V),
        _gated_norm(p, values, dv),
        _out_projection(p, values),
    ]


def lightning_block(p: Pass, kind: str) -> list[Op]:
    """Return lightning attention (MiniMax-01, 2025): linear attention with a fixed decay and a gated output norm."""
    m, t = p.model, p.layout.tp_size
    heads, d = m.num_attention_heads, m.head_dim
    inner, state = heads * d, heads * d * d
    flops = (2 * _chunk_of(p.step, m.chunk_size) * inner + 4 * state) / t
    return [
        _in_projection(p, 4 * inner),  # queries, keys, values, gate
        _recurrence(p, flops, 4 * inner / t, state / t, 0.0, heads=heads / t, params=0.0),
        _gated_norm(p, inner, inner),
        _out_projection(p, inner),
    ]


def kimi_delta_block(p: Pass, kind: str) -> list[Op]:
    """Return the operators of Kimi delta attention (Kimi Team 2025): a gated delta-net with a decay for each channel.

    The decay and the output gate come from two low-rank projections (Kimi-Linear) or from full ones (Ling 3). A token
    costs 7 FLOP per element of the state: the 6 of a gated delta-net, and the decay.
    """
    m, t, h = p.model, p.layout.tp_size, p.model.hidden_size
    V, d, rank = m.linear_num_value_heads, m.linear_value_head_dim, m.linear_gate_rank
    inner, state = V * d, V * d * d
    if rank:
        gates = [
            p.matmul("gates_down", h, 2 * rank),
            p.matmul("gates_up", rank, 2 * inner / t, params=2 * rank * inner),
        ]
    else:
        gates = [p.matmul("gates", h, 2 * inner / t, params=2 * h * inner)]
    flops = (_chunk_of(p.step, m.chunk_size) * 3 * inner + 7 * state) / t
    return [
        _in_projection(p, 3 * inner + V),
        *gates,
        _convolution(p, 3 * inner, m.linear_conv_kernel_dim, False),
        _recurrence(
            p,
            flops,
            6 * inner / t,
            state / t,
            3 * inner / t * m.linear_conv_kernel_dim,
            heads=V / t,
            params=inner + V,
        ),
        _gated_norm(p, inner, d),
        _out_projection(p, inner),
    ]


def rg_lru_block(p: Pass, kind: str) -> list[Op]:
    """Return the operators of a gated linear recurrence (RG-LRU; De et al. 2024, arXiv:2402.19427).

    Two projections in, a short convolution, input and decay gates in one block per head, an element-wise recurrence
    with one state per channel. A token costs some 10 FLOP per channel: gates, decay, input, update and output gate.
    """
    m, t, width, heads = p.model, p.layout.tp_size, p.model.lru_width, p.model.num_attention_heads
    block, mine = width // heads, width / t
    return [
        _in_projection(p, 2 * width, True),
        _convolution(p, width, m.conv_kernel, True),
        p.matmul("lru_gates", block, 2 * block, heads=heads / t, params=2 * (width * block + width), bias=True),
        _recurrence(p, 10 * mine, 5 * mine, mine, mine * m.conv_kernel, heads=mine, params=width),
        _out_projection(p, width, True),
    ]


def short_conv_block(p: Pass, kind: str) -> list[Op]:
    """Return the operators of a gated short convolution (LFM2, Liquid AI 2025).

    One projection makes two gates and an input, each as wide as the stream; the layer keeps the last `conv_kernel`
    inputs of each channel.
    """
    m, t, h = p.model, p.layout.tp_size, p.model.hidden_size
    width, mine = p.dtypes.stream_bytes, h / t
    state = p.step.batch * mine * m.conv_kernel * width
    conv = _convolution(p, h, m.conv_kernel, m.conv_bias)
    gating = 2 * p.rows * mine * width  # the two gates are read beside the input
    return [
        _in_projection(p, 3 * h, m.conv_bias),
        conv._replace(
            activation_bytes=conv.activation_bytes + gating,
            kv_bytes=2.0 * state,
            cached_bytes=state,
        ),
        _out_projection(p, h, m.conv_bias),
    ]
