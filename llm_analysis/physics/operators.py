"""Operators: FLOP, bytes, weights and KV cache of one kernel, independent of any GPU and model.

Notation: b sequences, q new tokens of each in this pass, c tokens of each already cached, r = b q rows,
H heads and K key/value heads on this GPU, d head size, w window, t GPUs in a collective, M bytes in its message.

    matmul       FLOP 2 r k n              bytes: weights k n, input r k, output r n
    attention    FLOP 4 b H d * pairs      bytes: K, V of the visible tokens once, the new ones written, Q in, O out
                 pairs = (query, key) pairs under the causal mask = sum over the q new tokens of min(c + i, w)
    elementwise  bytes in and out; its FLOP hide behind them and are not counted
    all_reduce   2 (t-1)/t M sent by each GPU (reduce-scatter, then all-gather) in t-1 messages
    all_gather   (t-1)/t M, where each GPU has M/t of the message

Every `Op` holds what one GPU does in one run; `count` is how often it runs in a pass. `params` is the exception: it
counts the weights of one run over all GPUs, so that `sum(op.count * op.params)` is the parameter count of the model.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from llm_analysis.errors import BadValue, shown
from llm_analysis.units import Quantity, floor, minimum

# Parts of a model that an operator can belong to: the classes of its weights.
PARTS = ("attention", "state_space", "feed_forward", "expert", "embedding", "norm")
PHASES = ("prefill", "decode")


class Op(NamedTuple):
    """One kernel or collective: a record of numbers. Bytes: HBM traffic of one run on one GPU unless said otherwise."""

    name: str
    kind: str  # which efficiency applies: gemm, prefill_attention, decode_attention, elementwise, all_reduce, ...
    part: str = ""  # one of PARTS; empty for collectives and the host
    last_only: bool = False  # runs on the last position of each sequence, not on every token
    grows: bool = False  # its cost depends on the tokens in the cache
    count: Quantity = 1.0  # type: ignore[assignment]  # runs in a pass (a tuple's method of that name gives way)
    format: str = ""  # number format of the kernel, as profiles name it: bf16, fp8, w4a16, ...
    rate: str = ""  # which of the GPU's peak rates it can use: fp16, bf16, fp8, int8, fp4, ...
    flops: Quantity = 0.0
    weight_bytes: Quantity = 0.0  # weights read
    activation_bytes: Quantity = 0.0  # activations read and written
    kv_bytes: Quantity = 0.0  # KV cache (or state) read and written
    parallelism: Quantity = inf  # independent work items; too few cannot fill the GPU
    group: float = 1.0  # query heads of an attention that share a KV head
    span: int = 1  # consecutive GPUs that a collective reaches over; 1: no network
    messages: float = 0.0  # consecutive messages, each with the latency of the link
    wire_bytes: Quantity = 0.0  # sent by this GPU
    params: float = 0.0  # weights in the model, all GPUs together
    stored_bytes: float = 0.0  # weights held by this GPU
    cached_bytes: Quantity = 0.0  # KV cache (or state) held by this GPU after the pass

    @property
    def bytes(self) -> Quantity:
        """HBM traffic of one run."""
        return self.weight_bytes + self.activation_bytes + self.kv_bytes


class _StepFields(NamedTuple):
    batch: Quantity
    new_tokens: Quantity
    context: Quantity = 0.0
    phase: str = "prefill"


class Step(_StepFields):
    """One pass: `batch` sequences, `new_tokens` of each, `context` tokens of each in the cache before it.

    Quantities: floats or float64 arrays that broadcast. `phase` chooses the attention kernel.
    Prefill of s tokens is Step(b, s, 0); decode of the i-th token is Step(b, 1, s + i, "decode").
    """

    __slots__ = ()

    def __new__(cls, batch: Quantity, new_tokens: Quantity, context: Quantity = 0.0, phase: str = "prefill") -> Step:
        """Raise BadValue for a phase other than `prefill` and `decode`."""
        if phase not in PHASES:
            raise BadValue(f"phase must be prefill or decode, not {shown(phase)}")
        return super().__new__(cls, batch, new_tokens, context, phase)

    @property
    def rows(self) -> Quantity:
        """Tokens in the pass: rows of every matrix multiplication."""
        return self.batch * self.new_tokens

    @property
    def total(self) -> Quantity:
        """Tokens of one sequence in the cache after the pass."""
        return self.context + self.new_tokens


class MatmulFormat(NamedTuple):
    """How a matrix multiplication holds its numbers: profile key, peak-rate key, bytes per element."""

    format: str
    rate: str
    weight_bytes: float  # group scales included
    input_bytes: float
    output_bytes: float


def matmul(
    name: str,
    rows: Quantity,
    inputs: float,
    outputs: float,
    numbers: MatmulFormat,
    *,
    kind: str = "gemm",
    part: str = "",
    count: Quantity = 1.0,
    params: float | None = None,
    read: Quantity = 1.0,
    held: float = 1.0,
    bias: bool = False,
    last_only: bool = False,
) -> Op:
    """Return the product of `rows` rows, each with one `inputs` x `outputs` matrix, shapes as one GPU holds them.

    `read` matrices are read once each, and `held` are stored. Both are 1 for a plain layer; the number of heads for
    one matrix per head (`rows` then counts the rows of all heads); the experts that get a token and the experts of
    this GPU for a mixture of experts (kind `grouped_gemm`). `held` is 0 for a matrix that another operator stores, as
    a tied output head does. `params` defaults to inputs * outputs; give the number of the whole model if the matrix
    is sharded, replicated or has a bias. A `bias` of one number per output is stored in the format of the outputs.
    """
    matrix_bytes = inputs * outputs * numbers.weight_bytes + (outputs * numbers.output_bytes if bias else 0.0)
    return Op(
        name=name,
        kind=kind,
        part=part,
        last_only=last_only,
        count=count,
        format=numbers.format,
        rate=numbers.rate,
        flops=2.0 * rows * inputs * outputs,
        weight_bytes=read * matrix_bytes,
        activation_bytes=rows * (inputs * numbers.input_bytes + outputs * numbers.output_bytes),
        parallelism=rows * outputs,
        params=inputs * outputs if params is None else params,
        stored_bytes=held * matrix_bytes,
    )


def _triangle(n: Quantity) -> Quantity:
    """1 + 2 + ... + n."""
    return n * (n + 1) / 2


def visible_pairs(tokens: Quantity, window: float = inf, chunk: float = inf) -> Quantity:
    """(query, key) pairs of a causal pass over `tokens` tokens: the sum of min(i, window) for i = 1 .. tokens.

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
    """Scaled dot-product attention, scores never leaving the chip (FlashAttention).

    `kv_row_dim` is the number of elements that one token adds to the cache on this GPU; by default
    kv_heads * (key_dim + value_dim). With `shared` the cache is an earlier layer's: read, and neither written nor held.
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
        parallelism=step.rows * heads,
        group=heads / kv_heads,
        cached_bytes=0.0 if shared or not causal else step.batch * kept * kv_row,
    )


def elementwise(
    name: str,
    rows: Quantity,
    read: Quantity,
    written: float,
    element_bytes: float,
    *,
    count: Quantity = 1.0,
    kind: str = "elementwise",
    part: str = "norm",
    params: float = 0.0,
    param_bytes: float = 2.0,
) -> Op:
    """A pass over activations: `read` and `written` elements of each of `rows` rows; `params` replicated weights."""
    weights = params * param_bytes
    return Op(
        name=name,
        kind=kind,
        part=part,
        count=count,
        weight_bytes=weights,
        activation_bytes=rows * (read + written) * element_bytes,
        params=params,
        stored_bytes=weights,
    )


def lookup(
    name: str, rows: Quantity, width: float, entries: float, entry_bytes: float, out_bytes: float, *, params: float
) -> Op:
    """A table of `entries` x `width` held by this GPU, of which `rows` rows are read and written out."""
    return Op(
        name=name,
        kind="embedding",
        part="embedding",
        activation_bytes=rows * width * (entry_bytes + out_bytes),
        params=params,
        stored_bytes=entries * width * entry_bytes,
    )
