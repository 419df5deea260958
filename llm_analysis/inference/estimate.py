"""The answer: one record, whose field names are the JSON keys and the words of the tables."""

from __future__ import annotations

from typing import Any, NamedTuple

from llm_analysis.hardware.gpu import GPU
from llm_analysis.hardware.roofline import Cost, Timed, light_seconds, pass_seconds
from llm_analysis.physics.operators import Op

TERMS = ("compute", "memory", "launch", "network")


class OperatorTime(NamedTuple):
    """One operator over a whole pass (decode: the mean over all steps). Per GPU; seconds, FLOP, bytes."""

    phase: str
    name: str
    kind: str
    count: float  # type: ignore[assignment]  # the tuple's method of that name gives way
    seconds: float
    share: float  # of its phase
    flops: float
    bytes: float
    wire_bytes: float
    achieved_fraction: float  # speed of light / seconds
    bound: str  # the term that weighs most
    compute_seconds: float
    memory_seconds: float
    launch_seconds: float
    network_seconds: float


class Estimate(NamedTuple):
    """Everything that `infer` says. Latencies in seconds, memory in bytes; tokens/s of all replicas together.

    `prefill_latency` is the time to the first token (TTFT) without queueing: the pass over the prompt. `decode_latency`
    is the mean time of the following tokens (TPOT), the first excluded. Between `low` and `high` lie 80 % of published
    figures of the runtime, on rows that its fit did not see; None where there are none.
    """

    model_name: str
    gpu_name: str
    dtype_name: str
    method: str
    runtime: str | None
    flops_efficiency: float | None
    hbm_memory_efficiency: float | None
    batch_size_per_gpu: int
    seq_len: int
    num_tokens_to_generate: int
    use_kv_cache: bool
    num_samples: int
    cached_prefix_len: int
    prefill_chunk_size: int | None
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
    prefill_latency: float
    decode_latency: float
    total_decode_latency: float
    total_latency: float
    total_per_token_latency: float
    total_latency_is: str
    prefill_latency_low: float | None
    prefill_latency_high: float | None
    decode_latency_low: float | None
    decode_latency_high: float | None
    total_latency_low: float | None
    total_latency_high: float | None
    prefill_tokens_per_sec: float
    decode_tokens_per_sec: float
    total_tokens_per_sec: float
    request_tokens_per_sec: float
    num_params_total: float
    weight_memory_per_gpu: float
    attention_weight_memory_per_gpu: float
    state_space_weight_memory_per_gpu: float
    feed_forward_weight_memory_per_gpu: float
    expert_weight_memory_per_gpu: float
    embedding_weight_memory_per_gpu: float
    norm_weight_memory_per_gpu: float
    kv_cache_memory_per_gpu: float
    kv_cache_bytes_per_token: float
    activation_memory_per_gpu: float
    runtime_memory_per_gpu: float
    memory_left_per_gpu: float
    memory_per_gpu: float
    gpu_memory_utilization: float
    fits: bool
    max_batch_size_per_gpu: int
    max_context_len: int
    cost_per_million_tokens: float | None
    notes: tuple[str, ...]
    operators: tuple[OperatorTime, ...]

    def as_dict(self) -> dict[str, Any]:
        """The answer as plain values, in the order of the fields."""
        plain = self._asdict()
        plain["notes"] = list(self.notes)
        plain["operators"] = [row._asdict() for row in self.operators]
        return plain


def operator_rows(phase: str, timed: Timed, gpu: GPU) -> list[OperatorTime]:
    """One row per operator name, in the order of the pass. The weights of `timed` sum to 1 over a pass."""
    groups: dict[str, list[tuple[float, Op, Cost]]] = {}
    for entry in timed:
        groups.setdefault(entry[1].name, []).append(entry)
    total = pass_seconds(timed)
    return [operator_row(phase, entries, gpu, float(total)) for entries in groups.values()]


def operator_row(phase: str, entries: Timed, gpu: GPU, total: float) -> OperatorTime:
    """The sums of one operator over its entries."""
    count = seconds = flops = moved = wire = light = compute = memory = launch = network = 0.0
    for weight, op, c in entries:
        runs = float(weight * op.count)
        count += runs
        seconds += runs * float(c.seconds)
        flops += runs * float(op.flops)
        moved += runs * float(op.bytes)
        wire += runs * float(op.wire_bytes)
        light += runs * float(light_seconds(op, gpu))
        compute += runs * float(c.compute)
        memory += runs * float(c.memory)
        launch += runs * float(c.launch)
        network += runs * float(c.network)
    op, terms = entries[0][1], dict(zip(TERMS, (compute, memory, launch, network), strict=True))
    return OperatorTime(
        phase=phase,
        name=op.name,
        kind=op.kind,
        count=count,
        seconds=seconds,
        share=seconds / total if total else 0.0,
        flops=flops,
        bytes=moved,
        wire_bytes=wire,
        achieved_fraction=min(light / seconds, 1.0) if seconds else 1.0,
        bound=max(terms, key=lambda term: terms[term]) if seconds else "nothing",
        **{f"{term}_seconds": value for term, value in terms.items()},
    )
