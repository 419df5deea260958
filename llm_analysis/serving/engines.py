"""Schedulers and defaults of serving engines (`data/engines.json`), and the KV cache that they have on a GPU."""

from __future__ import annotations

from functools import cache
from math import inf
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from llm_analysis.files import DATA, read_json
from llm_analysis.hardware.gpu import GPU
from llm_analysis.inference.memory import runtime_bytes
from llm_analysis.inference.scenario import Scenario
from llm_analysis.models.forward import cached_bytes, stage_ops
from llm_analysis.physics.operators import Step
from llm_analysis.serving.scheduler import Policy
from llm_analysis.serving.step_times import HEAD, Host
from llm_analysis.units import Quantity, maximum, minimum

_LEAST_BYTES = 1e-3  # of a cache: a model without one holds any number of tokens
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Engine(BaseModel):
    """How an engine schedules, and its defaults on a kind of GPU."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    runtime: str
    from_memory_bytes: float = 0.0  # GPUs with at least this much memory
    not_chips: list[str] = []  # parts of the names of GPUs that have other defaults
    mixed: bool = True
    chunked: bool = True
    reserve: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_num_seqs: Annotated[int, Field(gt=0)] = 256
    max_num_batched_tokens: Annotated[int, Field(gt=0)] = 8192
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    since: list[int] = [0, 0]  # version from which the entry holds
    host_step_seconds: _Seconds = 0.0
    host_sequence_seconds: _Seconds = 0.0
    host_overlapped: bool = False
    stream_seconds: _Seconds = 0.0  # per output token, HTTP front end
    launch_seconds: _Seconds = 0.0  # per kernel of a step with prefill beyond the CUDA-graph size
    graph_rows: Annotated[int, Field(ge=0)] = 512
    front_seconds: _Seconds = 0.0
    front_serial_seconds: _Seconds = 0.0
    source: str = ""


@cache
def _engines() -> list[Engine]:
    """Return the entries of the file."""
    raw: list[dict[str, Any]] = read_json(DATA / "engines.json")["engines"]
    return [Engine(**entry) for entry in raw]


def engine_for(runtime: str, gpu: GPU, version: tuple[int, int] | None = None) -> Engine:
    """Return the defaults of a version of a runtime on a GPU; of the newest one without a version.

    A runtime without an entry has those of vLLM.
    """
    for name in ("vllm-v1" if runtime == "vllm-0.13" else runtime, "vllm-v1"):
        for engine in _engines():
            if (
                (version is None or tuple(engine.since) <= version)
                and name.startswith(engine.runtime)
                and gpu.usable_memory_bytes >= engine.from_memory_bytes
                and not any(chip in gpu.name for chip in engine.not_chips)
                and (engine.runtime != "vllm" or not name.startswith("vllm-v1"))
            ):
                return engine
    return _engines()[0]


def policy_of(engine: Engine, scenario: Scenario, mean_context: Quantity, **changed: Any) -> Policy:
    """Return the policy of an engine on the GPUs of a scenario; `changed` fields replace its defaults."""
    utilization = changed.pop("gpu_memory_utilization", engine.gpu_memory_utilization)
    policy = Policy(
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        mixed=engine.mixed,
        chunked=engine.chunked,
        reserve=engine.reserve,
        front_seconds=engine.front_seconds,
        front_serial_seconds=engine.front_serial_seconds,
    )._replace(**changed)
    if isinstance(policy.kv_tokens, float) and policy.kv_tokens == inf:
        policy = policy._replace(kv_tokens=_kv_capacity(scenario, policy, utilization, mean_context))
    return policy


def host_of(engine: Engine, scenario: Scenario) -> Host:
    """Return the host time of an engine for the model of an scenario."""
    kernels = sum(
        float(op.count)
        for op in stage_ops(
            scenario.model, Step(1.0, 1.0), scenario.dtypes, scenario.layout, 0, scenario.model.num_hidden_layers
        )
    )
    return Host(
        step=engine.host_step_seconds,
        sequence=engine.host_sequence_seconds,
        prefill=engine.launch_seconds * kernels,
        graph_rows=float(engine.graph_rows),
        overlapped=engine.host_overlapped,
        stream=engine.stream_seconds,
    )


def _kv_capacity(scenario: Scenario, policy: Policy, utilization: float, mean_context: Quantity) -> Any:
    """Return the tokens that the KV cache of a replica holds, for sequences of `mean_context` tokens.

    An engine gives the cache what the weights, the largest pass and the process leave of the usable memory.
    """
    a = scenario
    usable = a.gpu.usable_memory_bytes * utilization - runtime_bytes(a.layout)
    tokens: Quantity = inf
    rows, last = float(policy.max_num_batched_tokens), float(min(policy.max_num_seqs, policy.max_num_batched_tokens))
    for first, end in a.layout.stages(a.model.num_hidden_layers):
        ops = stage_ops(a.model, Step(1.0, rows), a.dtypes, a.layout, first, end)
        weights = sum(float(op.count) * op.stored_bytes for op in ops)
        widest = max(float(op.activation_bytes) for op in ops if op.name not in HEAD)
        ops = stage_ops(a.model, Step(last, 1.0), a.dtypes, a.layout, first, end)
        head = max((float(op.activation_bytes) for op in ops if op.name in HEAD), default=0.0)
        stream = rows * a.model.hidden_size * a.dtypes.stream_bytes
        each = cached_bytes(a.model, Step(1.0, 1.0, mean_context - 1.0, "decode"), a.dtypes, a.layout, first, end)
        free = usable - weights - stream - max(widest, head)
        tokens = minimum(tokens, free * mean_context / maximum(each, _LEAST_BYTES))
    return tokens
