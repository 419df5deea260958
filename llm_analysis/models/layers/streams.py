"""Additions to the residual stream: several streams, a low-rank residual, an embedding per layer."""

from __future__ import annotations

from llm_analysis.models.layers.base import Pass
from llm_analysis.physics.operators import Op, elementwise, matmul


def hyper_connection(p: Pass, name: str) -> list[Op]:
    """Return the operators that mix `hc_mult` residual streams around one half of a layer (Zhu et al. 2024).

    One small product of all n streams gives n weights for the input of the half, n for its output and n x n between
    the streams; then the streams are read again and written. They replace the residual addition.
    """
    n, h = p.model.hc_mult, p.model.hidden_size
    weights = n * (n + 2)
    product = _with_all_params(
        p, p.matmul(f"{name}_streams", n * h, weights, p.dtypes.router), n * h * weights + weights + 3
    )
    mix = elementwise(
        f"{name}_residual", p.stream_rows, (2 * n + 1) * h, (n + 1) * h, p.dtypes.stream_bytes, count=p.count
    )
    return [product._replace(part="norm"), mix._replace(kind="residual")]


def _with_all_params(p: Pass, product: Op, params: float) -> Op:
    """Return a product with all its parameters: the matrix, biases and scales."""
    return product._replace(params=params, stored_bytes=params * p.dtypes.stream_bytes)


def stream_sum(p: Pass) -> list[Op]:
    """Return the operators that add the streams of hyper-connections up before the output head."""
    n, h = p.model.hc_mult, p.model.hidden_size
    product = _with_all_params(p, p.matmul("streams_out", n * h, n, p.dtypes.router), n * n * h + n + 1)
    return [product._replace(part="norm"), elementwise("streams_sum", p.rows, n * h, h, p.dtypes.stream_bytes)]


def alternating_updates(p: Pass) -> list[Op]:
    """Return the operators of AltUp around a layer (Baykal et al. 2023): of n residual streams one is active.

    A router of one norm and n outputs gives the coefficients that predict all streams before the layer and correct
    them after it: n x n and n of them. Both times all streams are read and written.
    """
    n, h = p.model.altup_num_inputs, p.model.hidden_size
    weights = n**3 + n**2 + h  # coefficients of prediction and correction, scale of the output
    mix = elementwise("altup_mix", p.stream_rows, 3 * n * h, 2 * n * h, p.dtypes.stream_bytes, count=p.count)
    return [
        p.norm("altup_norm"),
        p.matmul("altup_router", h, n, p.dtypes.router)._replace(part="norm"),
        mix._replace(params=weights, weight_bytes=weights * 2.0, stored_bytes=weights * 2.0),
    ]


def altup_projections(p: Pass, name: str) -> list[Op]:
    """Return the products that make the n - 1 other streams of AltUp out of the embedding, or merge them at the end."""
    n, h = p.model.altup_num_inputs, p.model.hidden_size
    return [matmul(name, p.rows, h, h, p.dtypes.router, part="embedding", count=n - 1.0)]


def low_rank_residual(p: Pass) -> list[Op]:
    """Return the operators of LAuReL (Menghani et al. 2024): a low-rank branch beside the attention, with a norm."""
    h, rank = p.model.hidden_size, p.model.laurel_rank
    p = p.for_part("feed_forward")
    return [p.matmul("laurel_down", h, rank), p.matmul("laurel_up", rank, h), p.norm("laurel_norm")]


def layer_input(p: Pass) -> list[Op]:
    """Return the operators that add Gemma's embedding of each token for each layer, gated by the stream, to it."""
    h, width, p = p.model.hidden_size, p.model.hidden_size_per_layer_input, p._replace(part="embedding")
    return [
        p.matmul("layer_input_gate", h, width),
        p.matmul("layer_input_projection", width, h),
        p.norm("layer_input_norm"),
        p.residual("layer_input_residual"),
    ]
