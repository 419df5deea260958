"""The answer: one record. Its field names are the JSON keys and the words of the tables."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from llm_analysis.hardware.gpu import GPU
from llm_analysis.hardware.roofline import IDEAL, Timed, TimedOp, cost, pass_seconds
from llm_analysis.inference.bands import band_notes
from llm_analysis.inference.memory import Memory, remedies
from llm_analysis.inference.passes import HOST_WAIT, kernel_notes
from llm_analysis.inference.workload import Workload
from llm_analysis.units import NUMBER, Mask, Quantity, first_largest, minimum, some, where

if TYPE_CHECKING:
    from llm_analysis.inference.scenario import Scenario

Figure: TypeAlias = Any  # a float; a float64 array if the workload holds arrays
TERMS = ("compute", "memory", "launch", "network")


class OperatorTime(NamedTuple):
    """One operator over a whole pass (decode: the mean over all steps). Per GPU; seconds, FLOP, bytes."""

    phase: str
    name: str
    kind: str
    count: Figure
    seconds: Figure
    share: Figure  # fraction of the time of its phase
    flops: Figure
    bytes: Figure
    wire_bytes: Figure
    achieved_fraction: Figure  # time at the speed of light / seconds
    bound: str  # the largest term; an array of names if the quantities are arrays
    compute_seconds: Figure
    memory_seconds: Figure
    launch_seconds: Figure
    network_seconds: Figure


class Basis:
    """The inputs of an estimate, and the parts of the answer that are computed on first access."""

    def __init__(self, scenario: Scenario, workload: Workload, prefill: Timed, decode: Timed, memory: Memory) -> None:
        self.scenario, self.workload, self.memory = scenario, workload, memory
        self.prefill, self.decode = prefill, decode

    @cached_property
    def operators(self) -> tuple[OperatorTime, ...]:
        """One row for each operator of each phase."""
        gpu = self.scenario.gpu
        return (*_operator_rows("prefill", self.prefill, gpu), *_operator_rows("decode", self.decode, gpu))

    @cached_property
    def max_batch(self) -> Figure:
        """The largest batch that fits."""
        return self.memory.max_batch

    @cached_property
    def max_context(self) -> Figure:
        """The longest context that fits."""
        return self.memory.max_context

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Notes on assumptions, on numbers taken from another GPU, format or engine, and on what does not fit."""
        s, w, encoder = self.scenario, self.workload, self.scenario.model.is_encoder
        ops = [op for timed in (self.prefill, () if encoder else self.decode) for _, op, _ in timed]
        found = (
            *s.notes,
            *kernel_notes(s, ops),
            *s.runtime_notes(w.num_sequences),
            *band_notes(s, w.num_sequences),
        )
        if not encoder:
            found += s.position_notes(w.seq_len + w.num_tokens_to_generate)
        if w.max_num_seqs and some(w.num_sequences > w.max_num_seqs):
            found += (
                f"the server runs {w.max_num_seqs} sequences at a time, and this batch has more: the estimate assumes "
                f"that it runs all; give it a larger --max_num_seqs",
            )
        if any(op.kind == HOST_WAIT for op in ops):
            found += (
                "the GPU waits for the host, which needs longer to prepare a decode step than the GPU to compute it; "
                "more or faster GPUs do not shorten the step",
            )
        fits = self.memory.fits
        if isinstance(fits, bool) and not fits:
            found += remedies(self.memory, s, w)
        return found


class Estimate(NamedTuple):
    """Everything that `infer` answers. Latencies in seconds, memory in bytes; tokens/s of all replicas together.

    `prefill_latency` is the time to the first token (TTFT) without queueing: the pass over the prompt. `decode_latency`
    is the mean time per token after the first (TPOT). 80 % of the published figures of the same kind lie between `low`
    and `high`; None if there are none. Quantities are arrays if those of the workload are. `basis` holds the scenario,
    the workload and the timed operators; `operators`, `notes`, `max_batch_size_per_gpu` and `max_context_len` are
    computed from it on first access.
    """

    model_name: str
    gpu_name: str
    dtype_name: str
    method: str
    runtime: str | None
    engine: str | None  # name, and version of its defaults
    flops_efficiency: float | None
    hbm_memory_efficiency: float | None
    batch_size_per_gpu: Figure
    seq_len: Figure
    num_tokens_to_generate: Figure
    use_kv_cache: bool
    num_samples: int
    cached_prefix_len: Figure
    prefill_chunk_size: int | None
    max_num_seqs: int | None
    draft_model_name: str | None
    num_draft_tokens: int
    acceptance_rate: float | None
    disaggregated: bool
    tp_size: int
    cp_size: int
    pp_size: int
    dp_size: int
    sp_size: int
    ep_size: int
    num_gpus: int
    prefill_latency: Figure
    decode_latency: Figure
    total_decode_latency: Figure
    total_latency: Figure
    total_per_token_latency: Figure
    total_latency_is: str
    prefill_latency_low: Figure
    prefill_latency_high: Figure
    decode_latency_low: Figure
    decode_latency_high: Figure
    total_latency_low: Figure
    total_latency_high: Figure
    prefill_tokens_per_sec: Figure
    decode_tokens_per_sec: Figure
    total_tokens_per_sec: Figure
    request_tokens_per_sec: Figure
    num_params_total: Figure
    weight_memory_per_gpu: Figure
    attention_weight_memory_per_gpu: Figure
    state_space_weight_memory_per_gpu: Figure
    feed_forward_weight_memory_per_gpu: Figure
    expert_weight_memory_per_gpu: Figure
    embedding_weight_memory_per_gpu: Figure
    norm_weight_memory_per_gpu: Figure
    kv_cache_memory_per_gpu: Figure
    kv_cache_bytes_per_token: Figure
    activation_memory_per_gpu: Figure
    runtime_memory_per_gpu: Figure
    memory_left_per_gpu: Figure
    memory_per_gpu: Figure
    gpu_memory_utilization: float
    fits: Figure
    cost_per_million_tokens: Figure
    basis: Basis

    @property
    def max_batch_size_per_gpu(self) -> Figure:
        """The largest batch that fits, for the lengths asked for."""
        return self.basis.max_batch

    @property
    def max_context_len(self) -> Figure:
        """The most tokens of each sequence that fit, at the batch asked for."""
        return self.basis.max_context

    @property
    def notes(self) -> tuple[str, ...]:
        """Assumptions behind the answer, and what to do about them, as sentences."""
        return self.basis.notes

    @property
    def operators(self) -> tuple[OperatorTime, ...]:
        """One row for each operator of each phase."""
        return self.basis.operators

    def as_dict(self) -> dict[str, Any]:
        """Return the answer as plain values under its JSON keys, in the order of `KEYS`."""
        plain = {key: getattr(self, key) for key in KEYS}
        return plain | {"notes": list(self.notes), "operators": [row._asdict() for row in self.operators]}


# JSON keys: the fields, and the properties that are computed when they are read.
_COMPUTED = ("max_batch_size_per_gpu", "max_context_len", "cost_per_million_tokens", "notes", "operators")
KEYS = (*(name for name in Estimate._fields if name not in ("basis", *_COMPUTED)), *_COMPUTED)


def _operator_rows(phase: str, timed: Timed, gpu: GPU) -> Iterator[OperatorTime]:
    """Yield one row per operator name, in the order of the pass. The weights of `timed` sum to 1 over a pass."""
    groups: dict[str, list[TimedOp]] = {}
    for entry in timed:
        groups.setdefault(entry[1].name, []).append(entry)
    total = pass_seconds(timed)
    for entries in groups.values():
        yield _operator_row(phase, entries, gpu, total)


def _operator_row(phase: str, entries: Timed, gpu: GPU, total: Quantity) -> OperatorTime:
    """Return the sums of one operator over its entries."""
    count = seconds = flops = moved = wire = light = compute = memory = launch = network = 0.0  # type: Quantity
    for weight, op, c in entries:
        runs = weight * op.count
        count = count + runs
        seconds = seconds + runs * c.seconds
        flops = flops + runs * op.flops
        moved = moved + runs * op.bytes
        wire = wire + runs * op.wire_bytes
        light = light + runs * cost(op, gpu, IDEAL).seconds
        compute = compute + runs * c.compute
        memory = memory + runs * c.memory
        launch = launch + runs * c.launch
        network = network + runs * c.network
    op, terms = entries[0][1], dict(zip(TERMS, (compute, memory, launch, network), strict=True))
    timed = seconds > 0
    if isinstance(total, NUMBER) and isinstance(timed, bool):
        share, fraction = (seconds / total if total else 0.0), (minimum(light / seconds, 1.0) if timed else 1.0)
    else:
        share, fraction = seconds / total, where(timed, minimum(light / where(timed, seconds, 1.0), 1.0), 1.0)
    return OperatorTime(
        phase=phase,
        name=op.name,
        kind=op.kind,
        count=count,
        seconds=seconds,
        share=share,
        flops=flops,
        bytes=moved,
        wire_bytes=wire,
        achieved_fraction=fraction,
        bound=_bound(terms, timed),
        **{f"{term}_seconds": value for term, value in terms.items()},
    )


def _bound(terms: dict[str, Quantity], timed: Mask) -> Any:
    """Return the name of the largest term, or an array of names; `nothing` for an operator without time."""
    largest = first_largest(list(terms.values()))
    if isinstance(timed, bool) and all(isinstance(one, NUMBER) for one in largest):
        return list(terms)[largest.index(1.0)] if timed else "nothing"
    import numpy as np

    return np.select([~np.asarray(timed), *(one > 0 for one in largest)], ["nothing", *terms], "nothing")
