"""The scheduler, the KV cache and the host time of an engine for one scenario."""

from __future__ import annotations

from math import inf
from typing import Any

from llm_analysis.errors import Unsupported
from llm_analysis.inference.engines import Engine, Version, memory_limits
from llm_analysis.inference.host_terms import HostTerms, host_terms
from llm_analysis.inference.memory import Memory, remedies, runtime_bytes
from llm_analysis.inference.scenario import Scenario
from llm_analysis.inference.workload import Workload
from llm_analysis.models.forward import cached_bytes, stage_ops
from llm_analysis.physics.operators import Step
from llm_analysis.serving.scheduler import Policy
from llm_analysis.serving.step_times import HEAD, Host
from llm_analysis.units import Quantity, maximum, minimum

_LEAST_BYTES = 1e-3  # bytes per token of a model without a KV cache: any number of tokens fits
# Most tokens of a pass for an engine whose limit is the longest context; users lower that context.
_LARGEST_PASS, LEAST_PASS = 8192, 2048


def check_method(scenario: Scenario) -> None:
    """Raise Unsupported for a method without a serving engine."""
    if scenario.method.name == "published":
        raise Unsupported("method published has no serving engine: use calibrated or ideal")


def policy_of(
    engine: Engine, scenario: Scenario, mean_context: Quantity, *, version: Version | None = None, **changed: Any
) -> Policy:
    """Return the policy of an engine on the GPUs of a scenario; `changed` fields replace its defaults."""
    engine = engine.serving(scenario.model, scenario.gpu, version)
    defaults = engine.defaults_on(scenario.gpu, version)
    terms = host_terms(engine.runtimes[0]) if scenario.method.serves else HostTerms()
    utilization = changed.pop("gpu_memory_utilization", defaults.gpu_memory_utilization)
    longest = min(max(scenario.model.max_position_embeddings, LEAST_PASS), _LARGEST_PASS)
    policy = Policy(
        max_num_seqs=defaults.max_num_seqs,
        max_num_batched_tokens=defaults.max_num_batched_tokens or longest,
        mixed=engine.mixed,
        chunked=engine.chunked,
        reserve=engine.reserve,
        last_block_again=engine.last_block_again,
        front_seconds=terms.front_seconds,
        front_serial_seconds=terms.front_serial_seconds,
    )._replace(**changed)
    if isinstance(policy.kv_tokens, float) and policy.kv_tokens == inf:
        capacity = _kv_capacity(scenario, policy, engine.fraction_of, utilization, mean_context)
        policy = policy._replace(kv_tokens=capacity)
    return policy


def check_room(scenario: Scenario, kv_tokens: float, tokens: float, utilization: float) -> None:
    """Raise Unsupported, with a remedy, if a KV cache of `kv_tokens` cannot hold one request of `tokens`."""
    if kv_tokens >= tokens:
        return
    scenario = scenario.changed(gpu=scenario.gpu.as_reported)  # as the capacity of the cache is computed
    one = Workload(seq_len=max(int(tokens) - 1, 1), num_tokens_to_generate=1, gpu_memory_utilization=utilization)
    memory = Memory(scenario, one)
    if not memory.fits:
        raise Unsupported(remedies(memory, scenario, one)[0])
    raise Unsupported(
        f"the KV cache of {max(kv_tokens, 0):,.0f} tokens is too small for a request of {tokens:,.0f} tokens; "
        "use more GPUs, narrower weights or a smaller max_num_batched_tokens"
    )


def launches_of(scenario: Scenario) -> float:
    """Return how many kernels a pass launches."""
    layers = scenario.model.num_hidden_layers
    ops = stage_ops(scenario.model, Step(1.0, 1.0), scenario.dtypes, scenario.layout, 0, layers)
    return sum(float(op.count) for op in ops)


def host_of(engine: Engine, scenario: Scenario) -> Host:
    """Return the host time of an engine for a scenario; none under a method without a serving process."""
    return host_from(engine, host_terms(engine.runtimes[0]), scenario) if scenario.method.serves else Host()


def host_from(engine: Engine, terms: HostTerms, scenario: Scenario, transport: str = "http") -> Host:
    """Return the host time of an engine for a scenario under other terms.

    `transport` is how clients get their tokens: `http`, `in-process`, or `offline`, all at the end.
    """
    runtime, layers = scenario.runtime, scenario.model.num_hidden_layers
    stream = 0.0 if transport == "offline" else terms.stream_seconds
    # Without a process for streaming, the engine sends the tokens between its steps.
    between = engine.one_process and transport == "in-process"
    return Host(
        step=runtime.step_seconds + runtime.layer_seconds * layers,
        sequence=runtime.sequence_seconds + (stream if between else 0.0),
        beside=terms.beside_seconds if engine.host_overlapped else 0.0,
        beside_sequence=terms.beside_sequence_seconds if engine.host_overlapped else 0.0,
        stream=0.0 if between else stream,
        prefill=terms.launch_seconds * launches_of(scenario),
        graph_rows=float(engine.graph_rows),
    )


def _kv_capacity(
    scenario: Scenario, policy: Policy, fraction_of: str, utilization: float, mean_context: Quantity
) -> Any:
    """Return the tokens that the KV cache of a replica holds, for sequences of `mean_context` tokens.

    The cache gets the usable memory that remains after the weights, the largest pass and the process.
    """
    a = scenario
    limits = memory_limits(fraction_of, utilization, a.gpu.usable_memory_bytes, runtime_bytes(a.layout))
    tokens: Quantity = inf
    draft = a.of_draft() if a.draft is not None else None
    rows, last = float(policy.max_num_batched_tokens), float(min(policy.max_num_seqs, policy.max_num_batched_tokens))
    for first, end in a.layout.stages(a.model.num_hidden_layers):
        ops = stage_ops(a.model, Step(1.0, rows), a.dtypes, a.layout, first, end)
        weights = sum(float(op.count) * op.stored_bytes for op in ops)
        widest = max(float(op.activation_bytes) for op in ops if op.name not in HEAD)
        ops = stage_ops(a.model, Step(last, 1.0), a.dtypes, a.layout, first, end)
        head = max((float(op.activation_bytes) for op in ops if op.name in HEAD), default=0.0)
        activations = rows * a.model.hidden_size * a.dtypes.stream_bytes + max(widest, head)
        one = Step(1.0, 1.0, mean_context - 1.0, "decode")
        each = cached_bytes(a.model, one, a.dtypes, a.layout, first, end)
        if draft is not None:  # on one stage
            layers = draft.model.num_hidden_layers
            ops = stage_ops(draft.model, one, draft.dtypes, draft.layout, 0, layers)
            weights += sum(float(op.count) * op.stored_bytes for op in ops)
            each += cached_bytes(draft.model, one, draft.dtypes, draft.layout, 0, layers)
        for limit in limits:
            free = (limit.size - weights - limit.activations * activations) / limit.cache
            tokens = minimum(tokens, free * mean_context / maximum(each, _LEAST_BYTES))
    return tokens
