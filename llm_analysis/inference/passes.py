"""The passes of a static batch as timed operators: prefill, decode, drafts, the transfer of a disaggregated cache."""

from __future__ import annotations

from collections.abc import Iterable

from llm_analysis.errors import Unsupported
from llm_analysis.hardware.roofline import Cost, Timed, TimedOp, pass_seconds
from llm_analysis.inference import published
from llm_analysis.inference.host_terms import beside_ops
from llm_analysis.inference.pipeline import pass_ops, schedule
from llm_analysis.inference.scenario import Scenario
from llm_analysis.inference.workload import Workload, checking_passes, drafting_passes, prefill_passes
from llm_analysis.models.forward import cached_bytes, growing_ops, stage_sends
from llm_analysis.physics.operators import Op, Step
from llm_analysis.units import Quantity, maximum, real, some

HOST_WAIT = "host_wait"  # kind of the time for which the GPU waits until the host has prepared the next step
_LEAST_AVOIDED = 1e-12  # share of the experts that no row selects; keeps 0 / 0 out of the share of two runs


def prefill(scenario: Scenario, workload: Workload) -> Timed:
    """Return the operators of the prefill of the whole batch, with their costs."""
    s = scenario
    if not s.method.per_kernel:
        return s.timed(published.prefill_ops(s.model, workload, s.dtypes, s.layout.tp_size))
    workload.check_shared_by(s.layout.cp_size)
    passes = list(prefill_passes(workload))
    timed = [*schedule(s, passes)]
    if workload.num_draft_tokens and (draft := s.of_draft()):
        timed += _draft_named(schedule(draft, passes))
    return [*timed, *s.timed(_cache_transfer(s, workload))]


def decode(scenario: Scenario, workload: Workload) -> Timed:
    """Return the operators of the mean decode step, with their costs, as passes with weights that sum to 1."""
    s = scenario
    if not s.method.per_kernel:
        return s.timed(published.decode_ops(s.model, workload, s.dtypes, s.layout.tp_size))
    timed = _decode_steps(s, checking_passes(s.model, workload))
    if workload.num_draft_tokens and (draft := s.of_draft()):
        timed += _draft_named(_decode_steps(draft, drafting_passes(draft.model, workload)))
    return timed + _wait_for_host(scenario, workload.num_sequences, timed)


def _wait_for_host(scenario: Scenario, sequences: Quantity, timed: Timed) -> list[TimedOp]:
    """Return the time for which the GPU waits if the host needs longer to prepare a step than the step takes."""
    preparation = scenario.timed(beside_ops(scenario.engine, sequences))
    waits = maximum(pass_seconds(preparation) - pass_seconds(timed), 0.0)
    if not some(waits > 0.0):
        return []
    return [(1.0, Op(HOST_WAIT, HOST_WAIT), Cost(waits, 0.0, 0.0, 0.0, waits))]


def step_seconds(scenario: Scenario, step: Step) -> Quantity:
    """Return the seconds of one pass. Under `published` a decode step reads the cache at its length after the step."""
    s = scenario
    if not s.method.per_kernel:
        return pass_seconds(s.timed(published.step_ops(s.model, step, s.dtypes, s.layout.tp_size)))
    return pass_seconds(schedule(s, [(1.0, step)]))


def kernel_notes(scenario: Scenario, ops: Iterable[Op]) -> list[str]:
    """Return notes on kernels and collectives of `ops` that were not measured on this GPU or in this format."""
    return _grouped(scenario.method.notes(ops))


def served_notes(scenario: Scenario, workload: Workload) -> list[str]:
    """Return the `kernel_notes` of a server's steps: of prompts, decoding, drafts and the transfer of a cache."""
    s, w = scenario, workload
    draft = s.of_draft() if w.num_draft_tokens else None
    steps = [Step(1.0, 2.0, real(w.cached_prefix_len))]
    if not s.model.is_encoder:
        steps.append(Step(1.0, 1.0 + w.num_draft_tokens, 2.0, "decode"))
    ops = _cache_transfer(s, w)
    for each in (s, draft) if draft else (s,):
        for step in steps:
            ops += pass_ops(each, step) + stage_sends(each.model, step, each.dtypes, each.layout)
    return kernel_notes(s, ops)


def _grouped(notes: Iterable[str]) -> list[str]:
    """Return notes of the form `subject: text`, with all subjects of the same text in one note."""
    subjects: dict[str, list[str]] = {}
    for note in notes:
        subject, colon, text = note.partition(": ")
        subjects.setdefault(colon + text or note, []).append(subject)
    return [f"{', '.join(each)}{text}" if text.startswith(": ") else text for text, each in subjects.items()]


def _decode_steps(scenario: Scenario, passes: Iterable[tuple[Quantity, Step]]) -> list[TimedOp]:
    """Return the operators of weighted decode passes. On a pipeline each pass flushes before the next begins.

    With a KV cache the passes differ only in their context, so an operator that does not depend on it is timed once.
    """
    s, passes = scenario, list(passes)
    (weight, step), *others = passes
    if s.layout.pp_size > 1 or step.phase == "prefill":
        return [entry for weight, step in passes for entry in schedule(s, [(1.0, step)], weight)]
    together = sum((other for other, _ in others), weight)
    timed = [(weight if op.grows else together, op, c) for _, op, c in s.timed(pass_ops(s, step))]
    for weight, step in others:
        timed += s.timed(growing_ops(s.model, step, s.dtypes, s.layout), weight)
    return timed


def _draft_named(timed: Timed) -> list[TimedOp]:
    """Return the operators of a draft model, with `draft_` before their names."""
    return [(weight, op._replace(name=f"draft_{op.name}"), cost) for weight, op, cost in timed]


def mixed_step_ops(decode: list[Op], prefill: list[Op]) -> list[Op]:
    """Return the operators of a decode step that also computes prompts, from those of each alone.

    A kernel that both need runs once, over the rows of both, and reads its weights once.
    """
    own: dict[tuple[str, str], list[Op]] = {}
    for op in decode:
        own.setdefault((op.name, op.kind), []).append(op)  # several if layers differ, in the order of the layers
    both = [_merged(waiting.pop(0) if (waiting := own.get((op.name, op.kind))) else None, op) for op in prefill]
    return [*both, *(op for left in own.values() for op in left)]


def _merged(one: Op | None, other: Op) -> Op:
    """Return one run of a kernel over the rows of two."""
    if one is None:
        return other
    return other._replace(
        flops=one.flops + other.flops,
        weight_bytes=_read_by_either(one, other),
        activation_bytes=one.activation_bytes + other.activation_bytes,
        kv_bytes=one.kv_bytes + other.kv_bytes,
        parallelism=one.parallelism + other.parallelism,
        wire_bytes=one.wire_bytes + other.wire_bytes,
    )


def _read_by_either(one: Op, other: Op) -> Quantity:
    """Return the weight bytes read by a run over the rows of two; of experts, those that a row of either selects.

    An expert that both avoid is likely an unpopular one. With exponential popularity (shape 1 in `distinct_experts`)
    rows in proportion to a avoid the share 1 / (1 + a) of the experts, and a + b of them 1 / (1 + a + b). If x and y
    are the shares that each of two runs avoids, both avoid x y / (x + y - x y). With fewer than 128 experts the shape
    is larger, and the bytes are too low: by up to 10 % if both runs have few rows, by 2 % if one has 64.
    """
    if one.kind != "grouped_gemm":
        return maximum(one.weight_bytes, other.weight_bytes)
    x, y = (maximum(1.0 - op.weight_bytes / op.stored_bytes, _LEAST_AVOIDED) for op in (one, other))
    return other.stored_bytes * (1.0 - x * y / (x + y - x * y))


def _cache_transfer(scenario: Scenario, workload: Workload) -> list[Op]:
    """Return the send of the prompts' cache to the decode GPUs if prefill and decode run on separate ones.

    Raises Unsupported if the bandwidth between servers is not known for the GPU.
    """
    if not workload.disaggregated:
        return []
    s = scenario
    span = s.gpu.gpus_per_node + 1
    if not s.gpu.link_over(span)[1]:
        raise Unsupported(
            f"disaggregation needs the inter-node bandwidth of {s.gpu.name}, which is not known; "
            "a GPU file of your own can give it"
        )
    step = Step(real(workload.batch_size_per_gpu), 1.0, workload.seq_len - 1.0, "decode")
    sent: Quantity = 0.0
    for first, last in s.layout.stages(s.model.num_hidden_layers):
        sent = maximum(sent, cached_bytes(s.model, step, s.dtypes, s.layout, first, last))
    return [Op("kv_transfer", "send", span=span, messages=1.0, wire_bytes=sent)]
