"""Operators: FLOP, bytes, weights and KV cache of one kernel, independent of any GPU and model.

Notation: b sequences, q new tokens of each in this pass, r = b q rows. For attention and collectives see `attention`
and `collectives`.

    matmul       FLOP 2 r k n      bytes: weights k n, input r k, output r n
    elementwise  bytes in and out; its FLOP hide behind them and are not counted
    lookup       rows of a table read and written out

Every `Op` holds what one GPU does in one run; `count` is how often it runs in a pass. `params` is the exception: it
counts the weights of one run over all GPUs; `sum(op.count * op.params)` is the parameter count of the model.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from llm_analysis.errors import BadValue, shown
from llm_analysis.units import Quantity

# Parts of a model that an operator can belong to: the classes of its weights.
PARTS = ("attention", "state_space", "feed_forward", "expert", "embedding", "norm")
PHASES = ("prefill", "decode")


class Op(NamedTuple):
    """One kernel or collective: a record of numbers. Bytes: HBM traffic of one run on one GPU unless said otherwise."""

    name: str
    kind: str  # which efficiency applies: gemm, prefill_attention, decode_attention, elementwise, all_reduce, ...
    part: str = ""  # one of PARTS; empty for collectives and the host
    last_only: bool = False  # in a prefill it runs on the last position of each sequence, not on every token
    grows: bool = False  # its cost depends on the tokens in the cache
    count: Quantity = 1.0  # type: ignore[assignment]  # runs in a pass (a tuple's method of that name gives way)
    format: str = ""  # number format of the kernel, as profiles name it: bf16, fp8, w4a16, ...
    rate: str = ""  # which of the GPU's peak rates it can use: fp16, bf16, fp8, int8, fp4, ...
    flops: Quantity = 0.0
    weight_bytes: Quantity = 0.0  # weights read
    activation_bytes: Quantity = 0.0  # activations read and written
    kv_bytes: Quantity = 0.0  # KV cache (or state) read and written
    scores: Quantity = 0.0  # attention scores: (query, key) pairs of all heads on this GPU
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


def elementwise(
    name: str,
    rows: Quantity,
    read: Quantity,
    written: float,
    element_bytes: float,
    *,
    count: Quantity = 1.0,
    kind: str = "elementwise",
    format: str = "",
    part: str = "norm",
    params: float = 0.0,
    param_bytes: float = 2.0,
) -> Op:
    """Return a pass over activations: `read` and `written` elements per row; `params` replicated weights."""
    weights = params * param_bytes
    return Op(
        name=name,
        kind=kind,
        part=part,
        count=count,
        format=format,
        weight_bytes=weights,
        activation_bytes=rows * (read + written) * element_bytes,
        params=params,
        stored_bytes=weights,
    )


def lookup(
    name: str, rows: Quantity, width: float, entries: float, entry_bytes: float, out_bytes: float, *, params: float
) -> Op:
    """Return the look-up of `rows` rows in a table of `entries` x `width` on this GPU, read and written out."""
    return Op(
        name=name,
        kind="embedding",
        part="embedding",
        activation_bytes=rows * width * (entry_bytes + out_bytes),
        params=params,
        stored_bytes=entries * width * entry_bytes,
    )
