"""A server under load: replicas of an engine behind a router, or separate prefill and decode workers.

round_robin     request i goes to replica i modulo their number
least_loaded    a request goes to the replica with the fewest requests in it
closed loop     `max_concurrency` requests at most are in the server; a client sends the next when one ends. Each
                replica then has an equal share of them, or one more, as with a least-loaded router
disaggregated   prefill workers send the KV cache of a prompt to decode workers over a link; the client sees the
                first token when the decode worker has the cache, or has computed the last block (vLLM)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from math import inf, nextafter
from typing import NamedTuple

from llm_analysis.errors import BadValue
from llm_analysis.serving.scheduler import Policy, Replica, Request
from llm_analysis.serving.step_times import StepTimes

ROUTERS = ("round_robin", "least_loaded")
Progress = Callable[[float], None]  # is called with the fraction of the work that is done
_SLICES = 50  # parts of a run, after each of which progress is reported


class Served(NamedTuple):
    """The life of one request; times in seconds since the start of the run."""

    sent: float
    first: float
    end: float
    input_tokens: int
    output_tokens: int
    replica: int


class Run(NamedTuple):
    """The records of a simulation."""

    requests: list[Served]  # requests in the order in which they were sent
    gaps: list[tuple[float, float, float]]  # (time of the last, seconds between two tokens of a sequence, count)
    preemptions: int
    peak_sequences: int  # most running sequences on a replica
    peak_kv_tokens: float
    busy_fraction: float  # fraction of the time in which a step ran, mean over replicas
    mean_sequences: float  # mean running sequences on a replica while steps ran
    prefill_step_fraction: float

    @property
    def duration(self) -> float:
        """Seconds from the start to the last token."""
        return max(r.end for r in self.requests)


def simulate(
    times: StepTimes,
    policy: Policy,
    requests: Sequence[Request],
    max_concurrency: float = inf,
    num_replicas: int = 1,
    router: str = "round_robin",
    progress: Progress | None = None,
) -> Run:
    """Return the run of `requests`, whose due times must not decrease, on replicas behind a router."""
    _check_requests(policy, requests)
    if max_concurrency < num_replicas:
        raise BadValue(
            f"max_concurrency {max_concurrency:g} is less than one request for each of {num_replicas} replicas"
        )
    closed = max_concurrency < inf
    slots = range(int(max_concurrency) if closed else num_replicas)  # slot j is on replica j modulo their number
    shares = [len(slots[k::num_replicas]) if closed else inf for k in range(num_replicas)]
    replicas = [Replica(times, policy, float(share)) for share in shares]
    if num_replicas == 1 or router == "round_robin" or closed:
        numbers: list[list[int]] = [[] for _ in replicas]
        for i in range(len(requests)):
            numbers[i % len(slots) % num_replicas].append(i)
        for k, replica in enumerate(replicas):
            replica.submit([requests[i] for i in numbers[k]])
            _finish(replica, progress, k, num_replicas)
    else:
        numbers = _balance(replicas, requests, progress)
    return collect(replicas, numbers)


class Link(NamedTuple):
    """The link over which a KV cache goes from a prefill worker to a decode worker."""

    latency: float  # seconds of a transfer without bytes
    seconds_per_token: float


def simulate_disaggregated(
    times: StepTimes,
    prefill: Policy,
    decode: Policy,
    link: Link,
    requests: Sequence[Request],
    num_prefill: int,
    num_decode: int,
    max_concurrency: float = inf,
    progress: Progress | None = None,
) -> Run:
    """Return the run of `requests` on prefill workers that send the KV cache of each prompt to decode workers.

    Each goes to the worker with the fewest requests in it. No worker is simulated beyond the time of a request or a
    cache that could still reach it.
    """
    _check_requests(decode, requests)
    _check_requests(prefill, [request._replace(output_tokens=1) for request in requests])
    senders = [Replica(times, prefill) for _ in range(num_prefill)]
    receivers = [Replica(times, decode, decode_only=True) for _ in range(num_decode)]
    at_sender: list[list[int]] = [[] for _ in senders]
    at_receiver: list[list[int]] = [[] for _ in receivers]
    sent = [0.0] * len(requests)
    events: list[tuple[float, int, int]] = []  # (time, 0: client sends, 1: cache arrives, request)
    client = 0  # the first request that the client has not sent
    slots = [0.0] * int(min(max_concurrency, len(requests)))  # heap: from when the client may send another request
    least = prefill.front_seconds + times.step_seconds(0, 0, [(1.0, 0.0)], 1) + link.latency  # from sending to cache
    finished = 0
    while finished < len(requests):
        while client < len(requests) and slots:
            heappush(events, (max(requests[client].due, heappop(slots)), 0, client))
            client += 1
        soonest = events[0][0] if events else inf
        # In a closed loop the client does not send another request before the next step of a decode worker.
        no_end = min((w.busy_from for w in receivers if w.outstanding), default=inf) if client < len(requests) else inf
        for k, worker in enumerate(senders):
            if worker.outstanding:
                worker.advance(min(soonest, nextafter(no_end, inf)), worker.finished + 1)
            for j in _newly_ended(worker):
                i = at_sender[k][j]
                arrival = worker.end[j] + link.latency + link.seconds_per_token * requests[i].input_tokens
                heappush(events, (arrival, 1, i))
        # No cache can reach a decode worker before the next event, nor before the clock of a busy prefill worker.
        horizon = min([*(w.now for w in senders if w.outstanding), events[0][0] if events else inf, no_end + least])
        for worker in receivers:
            if worker.outstanding:
                worker.advance(horizon)
            for j in _newly_ended(worker):
                finished += 1
                heappush(slots, worker.end[j])
        if slots and client < len(requests):
            continue  # the client sends the next requests first
        while events and events[0][0] <= horizon:
            at, kind, i = heappop(events)
            group, lists = (receivers, at_receiver) if kind else (senders, at_sender)
            k = min(range(len(group)), key=lambda k: group[k].outstanding)
            if not kind:
                sent[i] = at
            lists[k].append(i)
            tokens = requests[i].output_tokens if kind else 1
            if not group[k].outstanding:
                group[k].advance(at)
            group[k].submit([Request(at, requests[i].input_tokens, tokens)])
        if progress:
            progress(finished / len(requests))
    run = collect(receivers, at_receiver)
    rows = [row._replace(sent=sent[i]) for i, row in enumerate(run.requests)]
    return run._replace(requests=rows)


def _newly_ended(worker: Replica) -> list[int]:
    """Return the requests of a worker that have ended since the last call."""
    found, worker.ended = worker.ended, []
    return found


def _check_requests(policy: Policy, requests: Sequence[Request]) -> None:
    """Raise BadValue for no requests, and for a KV cache that is too small for one of them."""
    if not requests:
        raise BadValue("there are no requests")
    most = max(r.input_tokens + r.output_tokens for r in requests)
    if most + policy.block_tokens > policy.kv_tokens:
        raise BadValue(
            f"the KV cache of {max(policy.kv_tokens, 0):,.0f} tokens is too small for a request of {most:,} tokens "
            f"and a block of {policy.block_tokens} more; use more GPUs, narrower weights or a smaller "
            "max_num_batched_tokens"
        )


def _finish(replica: Replica, progress: Progress | None, k: int, num_replicas: int) -> None:
    """Run a replica to its end; report progress by requests that ended."""
    count = len(replica.requests)
    if progress is None or not count:
        replica.advance()
        return
    while replica.finished < count:
        goal = replica.finished + max(count // _SLICES, 1)
        replica.advance(until_finished=goal)
        progress((k + replica.finished / count) / num_replicas)


def _balance(replicas: list[Replica], requests: Sequence[Request], progress: Progress | None) -> list[list[int]]:
    """Give each request to the least loaded replica when it arrives; return the requests of each replica."""
    numbers: list[list[int]] = [[] for _ in replicas]
    for i, request in enumerate(requests):
        for replica in replicas:
            replica.advance(request.due)
        k = min(range(len(replicas)), key=lambda k: replicas[k].outstanding)
        replicas[k].submit([request])
        numbers[k].append(i)
        if progress and i % max(len(requests) // _SLICES, 1) == 0:
            progress(i / len(requests))
    for replica in replicas:
        replica.advance()
    return numbers


def collect(replicas: Sequence[Replica], numbers: Sequence[Sequence[int]]) -> Run:
    """Return the records of all replicas as one run; `numbers` are the requests of each."""
    rows: dict[int, Served] = {}
    for k, (replica, own) in enumerate(zip(replicas, numbers, strict=True)):
        for j, i in enumerate(own):
            request = replica.requests[j]
            rows[i] = Served(
                replica.sent[j], replica.first[j], replica.end[j], request.input_tokens, request.output_tokens, k
            )
    duration = max(max(replica.now, *replica.end) if replica.end else replica.now for replica in replicas)
    busy = sum(replica.gpu_seconds for replica in replicas)
    steps = sum(replica.steps for replica in replicas)
    return Run(
        requests=[rows[i] for i in sorted(rows)],
        gaps=[gap for replica in replicas for gap in replica.gaps],
        preemptions=sum(replica.preemptions for replica in replicas),
        peak_sequences=max(replica.peak_sequences for replica in replicas),
        peak_kv_tokens=max(replica.peak_kv_tokens for replica in replicas),
        busy_fraction=busy / (duration * len(replicas)),
        mean_sequences=sum(replica.sequence_seconds for replica in replicas) / busy if busy else 0.0,
        prefill_step_fraction=sum(replica.prefill_steps for replica in replicas) / max(steps, 1),
    )
