"""Simulate a configuration of a plan at its demand, request by request."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

from llm_analysis.inference.scenario import Scenario
from llm_analysis.serving.lengths import fixed
from llm_analysis.serving.metrics import Distribution, distribution, summarize, tpot
from llm_analysis.serving.scheduler import Replica, Request
from llm_analysis.serving.server import Server, Workload, build_server, kv_link, prefill_and_decode
from llm_analysis.serving.simulation import Served, collect, simulate

FEWEST, MOST = 500, 3000  # requests of a simulation
PREFILL_SEQUENCES = 16  # most sequences in a prefill worker, waiting ones included
_TURNOVERS = 6  # times that all sequences in flight are replaced


class Simulated(NamedTuple):
    """Latencies of a simulation between ramp-up and drain, in seconds, and its requests per second."""

    ttft: Distribution
    tpot: Distribution
    e2e: Distribution
    request_throughput: float
    num_requests: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        plain = self._asdict()
        return plain | {name: plain[name]._asdict() for name in ("ttft", "tpot", "e2e")}


class Servers(NamedTuple):
    """Replicas that prefill and decode; with `prefill` the decode workers, and prefill workers before them."""

    scenario: Scenario
    replicas: int
    batch: int  # most sequences that one replica runs at a time
    prefill: Scenario | None = None
    prefill_workers: int = 0


class Slower(NamedTuple):
    """Factors on the estimates, such as those to the high edge of their error band."""

    first: float = 1.0  # on the time to the first token
    token: float = 1.0  # on the time of each further one


_AS_ESTIMATED = Slower()


def simulated(
    servers: Servers,
    lengths: tuple[int, int],
    rate: float,
    in_flight: float,
    limits: dict[str, float],
    slower: Slower = _AS_ESTIMATED,
) -> Simulated:
    """Return the latencies of Poisson arrivals at `rate` requests per second.

    `in_flight` is the expected number of sequences, `limits` are those of the engine, such as max_num_batched_tokens.
    With `slower`, the servers need longer than estimated.
    """
    inputs, outputs = lengths
    servers, share = _part(servers, in_flight)
    rate, in_flight = rate * share, in_flight * share
    count = int(min(max(_TURNOVERS * in_flight, FEWEST), MOST))
    requests = Workload(fixed(inputs), fixed(outputs)).requests(count, rate)
    server = _server(servers.scenario, lengths, limits | {"max_num_seqs": servers.batch})
    if servers.prefill is None:
        run = simulate(server.times, server.policy, _sooner(requests, slower.token), inf, servers.replicas)
        found = summarize(run._replace(requests=[_slowed(each, slower) for each in run.requests]), steady=True)
        return Simulated(found.ttft, found.tpot, found.e2e, found.request_throughput, found.num_requests)
    return _disaggregated(servers, server, lengths, requests, limits, slower)


def _sooner(requests: Sequence[Request], factor: float) -> list[Request]:
    """Return the requests at `factor` times their rate.

    Servers that are slower by a factor are simulated as estimated at so many times the rate; their times are then
    longer by the factor.
    """
    return [request._replace(due=request.due / factor) for request in requests]


def _slowed(served: Served, slower: Slower) -> Served:
    """Return a request of a run of `_sooner` requests in the time of the slower server."""
    sent = served.sent * slower.token
    first = sent + (served.first - served.sent) * slower.first
    return served._replace(sent=sent, first=first, end=first + (served.end - served.first) * slower.token)


def _part(servers: Servers, in_flight: float) -> tuple[Servers, float]:
    """Return fewer replicas and their share of the load, if `MOST` requests would not fill all replicas."""
    most = int(servers.replicas * MOST / (_TURNOVERS * in_flight)) if in_flight else servers.replicas
    if most >= servers.replicas:
        return servers, 1.0

    def error(replicas: int) -> float:
        """Return the relative error of the prefill workers that serve this many replicas, a whole number."""
        exact = servers.prefill_workers * replicas / servers.replicas
        return abs(max(round(exact), 1) - exact) / exact if exact else 0.0

    replicas = min(range(max(most, 1), 0, -1), key=error)
    share = replicas / servers.replicas
    prefill = max(round(servers.prefill_workers * share), 1) if servers.prefill_workers else 0
    return servers._replace(replicas=replicas, prefill_workers=prefill), share


def _server(scenario: Scenario, lengths: tuple[int, int], limits: dict[str, float]) -> Server:
    """Return one replica."""
    inputs, outputs = lengths
    return build_server(scenario, float(inputs + outputs), inputs + outputs / 2, changed=limits)


def _disaggregated(
    servers: Servers,
    decode: Server,
    lengths: tuple[int, int],
    requests: Sequence[Request],
    limits: dict[str, float],
    slower: Slower,
) -> Simulated:
    """Return the latencies with prefill workers that send their caches to decode workers."""
    prefill_scenario = servers.prefill or servers.scenario
    prefill = _server(prefill_scenario, lengths, limits | {"max_num_seqs": PREFILL_SEQUENCES})
    link = kv_link(prefill_scenario, float(lengths[0]))
    only = [request._replace(output_tokens=1) for request in _sooner(requests, slower.first)]
    first, _ = prefill_and_decode(prefill.policy)
    _, second = prefill_and_decode(decode.policy)
    prompts = simulate(prefill.times, first, only, inf, servers.prefill_workers, "least_loaded").requests
    wait = link.latency + link.seconds_per_token * lengths[0]
    ready = sorted(((served.first + wait) * slower.first / slower.token, i) for i, served in enumerate(prompts))
    workers = [Replica(decode.times, second, inf, decode_only=True) for _ in range(servers.replicas)]
    for k, worker in enumerate(workers):
        worker.submit([requests[i]._replace(due=time) for time, i in ready[k :: servers.replicas]])
        worker.advance()
    run = collect(workers, [range(k, len(ready), servers.replicas) for k in range(servers.replicas)])
    times = [
        served._replace(first=served.first * slower.token, end=served.end * slower.token) for served in run.requests
    ]
    return _summed(times, [requests[i].due for _, i in ready])


def _summed(requests: Sequence[Served], due: Sequence[float]) -> Simulated:
    """Return the latencies of requests that were sent at `due`, without ramp-up and drain."""
    rows = list(zip(requests, due, strict=True))
    kept = rows[len(rows) // 5 : len(rows) * 4 // 5]
    span = kept[-1][0].end - kept[0][0].end
    return Simulated(
        distribution(served.first - start for served, start in kept),
        distribution(tpot(served) for served, _ in kept),
        distribution(served.end - start for served, start in kept),
        (len(kept) - 1) / span if span > 0 else 0.0,
        len(kept),
    )
