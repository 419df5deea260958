"""A server in full: replicas, scheduler, step times; its runs, its saturation rate and its goodput."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from random import Random
from typing import Any, NamedTuple

from llm_analysis.errors import BadValue, Unsupported
from llm_analysis.inference.engines import engine_for
from llm_analysis.inference.scenario import Scenario
from llm_analysis.models.forward import cached_bytes
from llm_analysis.physics.operators import Op, Step
from llm_analysis.serving.arrivals import arrival_times
from llm_analysis.serving.lengths import Lengths, make_requests
from llm_analysis.serving.metrics import saturated_throughput, tpot
from llm_analysis.serving.policies import check_method, check_room, host_of, policy_of
from llm_analysis.serving.scheduler import Policy, Request
from llm_analysis.serving.simulation import Link, Progress, Run, Served, simulate, simulate_disaggregated
from llm_analysis.serving.step_times import PLAIN, Speculation, StepTimes, build_step_times

_BISECTIONS = 8  # bisection steps below the saturation rate: the result is within 0.4 % of it
LEAST_PROBE, MOST_PROBE = 500, 8000  # requests on a replica in a run that finds the saturation rate or the goodput
_WAVES = 4  # multiple of the most running sequences: with fewer requests all would find a free slot
_MOST_SPREAD = 8.0  # most of this multiple for lengths that differ
_GOODPUT_PROBE = 2000  # least requests of a run for goodput: 20 of them are beyond the 99th percentile
LIMITED = ("ttft", "tpot", "e2el")  # metrics that goodput may limit


class Server(NamedTuple):
    """All inputs of a run except the requests. With `link` there are prefill and decode workers."""

    times: StepTimes
    policy: Policy
    num_replicas: int = 1
    router: str = "round_robin"
    num_prefill_workers: int = 0
    num_decode_workers: int = 0
    link: Link | None = None

    @property
    def num_workers(self) -> int:
        """Replicas, or prefill and decode workers."""
        return self.num_prefill_workers + self.num_decode_workers or self.num_replicas

    def run(self, requests: Sequence[Request], max_concurrency: float = inf, progress: Progress | None = None) -> Run:
        """Return the run of `requests` on this server."""
        if self.link is None:
            return simulate(
                self.times, self.policy, requests, max_concurrency, self.num_replicas, self.router, progress
            )
        prefill, decode = prefill_and_decode(self.policy)
        workers = self.num_prefill_workers, self.num_decode_workers
        return simulate_disaggregated(
            self.times, prefill, decode, self.link, requests, *workers, max_concurrency, progress
        )


class Workload(NamedTuple):
    """Distributions of the requests; `burstiness` is the shape of gamma gaps."""

    inputs: Lengths
    outputs: Lengths
    burstiness: float = 1.0
    seed: int = 0

    def requests(self, count: int, rate: float) -> list[Request]:
        """Return `count` requests at `rate` per second. The same seed gives the same lengths at any rate."""
        times = arrival_times(count, rate, self.burstiness, Random(self.seed))
        return make_requests(times, self.inputs, self.outputs, Random(self.seed + 1))


def build_server(
    scenario: Scenario,
    longest: float,
    mean_context: float,
    *,
    changed: Mapping[str, Any] | None = None,
    router: str = "round_robin",
    num_prefill_workers: int = 0,
    num_decode_workers: int = 0,
    speculation: Speculation = PLAIN,
) -> Server:
    """Return the server of a scenario for requests up to `longest` tokens, `mean_context` on average.

    `changed` replaces defaults of the engine: max_num_seqs, max_num_batched_tokens, gpu_memory_utilization, ...
    Raises LLMAnalysisError.
    """
    check_method(scenario)
    engine = engine_for(scenario.runtime.engine_name)
    policy = policy_of(engine, scenario, mean_context, **(changed or {}))
    utilization = (changed or {}).get("gpu_memory_utilization")
    utilization = utilization or engine.defaults_on(scenario.gpu).gpu_memory_utilization
    check_room(scenario, policy.kv_tokens, longest, utilization)
    rows = policy.max_num_batched_tokens + policy.max_num_seqs
    host = host_of(engine, scenario)
    times = build_step_times(scenario, host, rows, policy.max_num_seqs, max(longest, 2.0), speculation)
    server = Server(times, policy, scenario.layout.dp_size, router)
    if bool(num_prefill_workers) != bool(num_decode_workers):
        raise BadValue("give num_prefill_workers and num_decode_workers together")
    if not num_prefill_workers:
        return server
    if scenario.layout.dp_size > 1:
        raise BadValue("give num_prefill_workers and num_decode_workers instead of dp_size")
    return server._replace(
        num_prefill_workers=num_prefill_workers,
        num_decode_workers=num_decode_workers,
        link=kv_link(scenario, mean_context),
    )


def prefill_and_decode(policy: Policy) -> tuple[Policy, Policy]:
    """Return the policies of the two kinds of workers of a disaggregated server.

    vLLM's proxy sends a request to the decode worker when the prefill worker has answered: the request passes a front
    end again, and its first token takes a step of the decode worker. Others send the first token with the cache.
    """
    prefill = policy._replace(mixed=False, reserve=0.0)
    return prefill, policy if policy.last_block_again else policy._replace(front_seconds=0.0, front_serial_seconds=0.0)


def kv_link(scenario: Scenario, mean_context: float) -> Link:
    """Return the link over which prefill workers send the KV cache: the network between servers, each GPU its share.

    Raises Unsupported if that bandwidth of the GPU is not known.
    """
    s, span = scenario, scenario.gpu.gpus_per_node + 1
    if not s.gpu.link_over(span)[1]:
        raise Unsupported(f"separate workers need the inter-node bandwidth of {s.gpu.name}, which is not known")
    step = Step(1.0, 1.0, mean_context - 1.0, "decode")
    sent = max(
        float(cached_bytes(s.model, step, s.dtypes, s.layout, first, last))
        for first, last in s.layout.stages(s.model.num_hidden_layers)
    )
    empty, whole = (
        float(s.timed([Op("kv_transfer", "send", span=span, messages=1.0, wire_bytes=size)])[0][2].seconds)
        for size in (0.0, sent)
    )
    return Link(empty, (whole - empty) / mean_context)


def probe_size(server: Server, workload: Workload) -> int:
    """Return the number of requests that reaches the steady state of a server.

    Running requests are longer than arriving ones, because long ones stay longer. The mix is steady after the time of a
    long request, in which E[o^2] / E[o]^2 times as many requests end as run.
    """
    policy, replicas = server.policy, max(server.num_replicas, server.num_decode_workers, 1)
    slots = min(policy.max_num_seqs, policy.kv_tokens / (workload.inputs.mean + workload.outputs.mean / 2))
    spread = min(workload.inputs.spread * workload.outputs.spread, _MOST_SPREAD)
    return replicas * int(min(max(_WAVES * slots, LEAST_PROBE) * spread, MOST_PROBE))


def saturation_rate(server: Server, workload: Workload) -> float:
    """Return the requests per second that the server completes when there are always more waiting.

    Replicas that always have work are independent of each other, so one is simulated for all.
    """
    one = server._replace(num_replicas=1)
    run = one.run(workload.requests(probe_size(one, workload), inf))
    return server.num_replicas * saturated_throughput(run)


def attainment(run: Run, limits: Mapping[str, float]) -> float:
    """Return the fraction of the requests that meet all limits, in seconds, on `ttft`, `tpot` and `e2el`."""
    return sum(meets(request, limits) for request in run.requests) / len(run.requests)


def meets(request: Served, limits: Mapping[str, float]) -> bool:
    """Return whether a request meets all limits."""
    values = {"ttft": request.first - request.sent, "tpot": tpot(request), "e2el": request.end - request.sent}
    return all(values[name] <= limit for name, limit in limits.items())


def goodput_rate(
    server: Server, workload: Workload, limits: Mapping[str, float], share: float, saturation: float
) -> float:
    """Return the highest request rate at which `share` of the requests meet `limits`; 0 if none does.

    By bisection up to the saturation rate: beyond it only runs that are too short meet the limits. All rates have the
    same requests. With another seed the rate differs by a tenth.
    """
    low, high = 0.0, saturation
    count = max(probe_size(server, workload), _GOODPUT_PROBE)

    def good(rate: float) -> bool:
        return attainment(server.run(workload.requests(count, rate)), limits) >= share

    if good(high):
        return high
    if not good(high / 2**_BISECTIONS):
        return 0.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low
