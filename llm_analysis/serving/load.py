"""The answer of `llm-analysis load`: one record for each request rate, and the limits of the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

from llm_analysis.errors import BadValue, shown
from llm_analysis.inference.engines import server_notes
from llm_analysis.inference.scenario import Scenario
from llm_analysis.serving.metrics import Summary, saturated_throughput, summarize
from llm_analysis.serving.scheduler import Request
from llm_analysis.serving.server import (
    LEAST_PROBE,
    LIMITED,
    Server,
    Workload,
    attainment,
    goodput_rate,
    saturation_rate,
)
from llm_analysis.serving.server_bands import AT_ONCE, CLOSED, OPEN, band_notes, bands_of
from llm_analysis.serving.simulation import Progress, Run
from llm_analysis.serving.steady_state import limiting_resource

_FEW_LATENCIES = 10.0  # least run in mean latencies: a shorter one is mostly ramp-up and drain


class Point(NamedTuple):
    """The server at one request rate. Seconds; requests/s and tokens/s of the whole server."""

    request_rate: float | None  # None: all at once
    max_concurrency: int | None
    summary: Summary
    request_goodput: float | None  # requests/s that meet the limits, as `vllm bench serve` reports it
    fraction_of_saturation: float | None
    queue_growth: float  # requests/s by which the queue grows beyond saturation
    peak_running_sequences: int  # most running sequences on a replica
    mean_running_sequences: float
    peak_kv_cache_usage: float  # highest used fraction of the KV cache
    preemptions: int
    busy_fraction: float
    limiting_resource: str
    cost_per_million_tokens: float | None
    arrivals: str  # open loop, closed loop or all at once
    bands: dict[str, Any]  # by metric: both ends of the error band, or None
    notes: tuple[str, ...]
    run: Run

    def as_dict(self) -> dict[str, Any]:
        """Return the plain values: the summary's fields beside the others, without the requests."""
        plain = {name: value for name, value in self._asdict().items() if name not in ("summary", "run")}
        figures = self.summary._asdict()
        for name in ("ttft", "tpot", "itl", "e2e"):
            figures[name] = figures[name]._asdict()
        plain["notes"] = list(self.notes)
        return plain | figures


class Load(NamedTuple):
    """What `load` found. Rates in requests/s of the whole server."""

    model_name: str
    gpu_name: str
    dtype_name: str
    method: str
    runtime: str | None
    num_gpus: int
    tp_size: int
    pp_size: int
    dp_size: int
    num_prefill_workers: int
    num_decode_workers: int
    router: str
    num_prompts: int
    seed: int
    mean_input_tokens: float
    mean_output_tokens: float
    max_num_seqs: int
    max_num_batched_tokens: int
    draft_model_name: str | None
    num_draft_tokens: int
    tokens_per_step: float  # tokens that a decode step adds to a sequence on average
    kv_cache_tokens: float  # of one replica
    saturation_rate: float | None
    goodput_limits: dict[str, float] | None  # seconds
    goodput_attainment: float
    goodput_rate: float | None
    points: tuple[Point, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the plain values."""
        return self._asdict() | {"points": [point.as_dict() for point in self.points], "notes": list(self.notes)}


class Question(NamedTuple):
    """The question to `load`: a server, its requests, and the limits of goodput (seconds)."""

    scenario: Scenario
    server: Server
    workload: Workload
    rates: Sequence[float]
    num_prompts: int
    max_concurrency: float = inf
    trace: Sequence[Request] = ()
    limits: Mapping[str, float] | None = None
    share: float = 0.99
    cost_per_gpu_hour: float | None = None
    kernel_notes: Sequence[str] = ()  # of `passes.served_notes`


def answer(question: Question, progress: Progress | None = None) -> Load:
    """Return the answer. Raises LLMAnalysisError."""
    q, s = question, question.server
    # The saturation rate of a trace comes from its own requests, sent all at once.
    saturation = _of_trace(q) if q.trace else saturation_rate(s, q.workload)
    best = None
    if q.limits and not q.trace:
        best = goodput_rate(s, q.workload, q.limits, q.share, saturation)
    points = tuple(_point(q, rate, saturation, _part(progress, i, len(q.rates))) for i, rate in enumerate(q.rates))
    scenario, layout = q.scenario, q.scenario.layout
    rows = points[0].run.requests
    return Load(
        model_name=scenario.model.name,
        gpu_name=scenario.gpu.name,
        dtype_name=scenario.dtypes.name,
        method=scenario.method.name,
        runtime=scenario.runtime.name if scenario.method.serves else None,
        num_gpus=layout.gpus_of_replica * s.num_workers,
        tp_size=layout.tp_size,
        pp_size=layout.pp_size,
        dp_size=layout.dp_size,
        num_prefill_workers=s.num_prefill_workers,
        num_decode_workers=s.num_decode_workers,
        router=s.router,
        num_prompts=len(rows),
        seed=q.workload.seed,
        mean_input_tokens=sum(r.input_tokens for r in rows) / len(rows),
        mean_output_tokens=sum(r.output_tokens for r in rows) / len(rows),
        max_num_seqs=s.policy.max_num_seqs,
        max_num_batched_tokens=s.policy.max_num_batched_tokens,
        draft_model_name=scenario.draft_name,
        num_draft_tokens=s.times.speculation.drafted,
        tokens_per_step=s.times.speculation.tokens,
        kv_cache_tokens=s.policy.kv_tokens,
        saturation_rate=saturation,
        goodput_limits=dict(q.limits) if q.limits else None,
        goodput_attainment=q.share,
        goodput_rate=best,
        points=points,
        notes=(
            *scenario.notes,
            *(server_notes(scenario.runtime.engine_name) if scenario.method.serves else ()),
            *scenario.runtime_notes(max(point.mean_running_sequences for point in points)),
            *q.kernel_notes,
            *band_notes(scenario, [point.arrivals for point in points]),
        ),
    )


def _part(progress: Progress | None, i: int, count: int) -> Progress | None:
    """Return the progress of part `i` of `count`."""
    return None if progress is None else (lambda done: progress((i + done) / count))


def _of_trace(q: Question) -> float:
    """Return the requests per second of a trace whose requests are all sent at once."""
    run = q.server.run([request._replace(due=0.0) for request in q.trace], q.max_concurrency)
    return saturated_throughput(run) if len(q.trace) >= LEAST_PROBE else summarize(run).request_throughput


def _point(q: Question, rate: float, saturation: float, progress: Progress | None) -> Point:
    """Return the server at one rate."""
    requests = list(q.trace) or q.workload.requests(q.num_prompts, rate)
    run = q.server.run(requests, q.max_concurrency, progress)
    found = summarize(run)
    if q.trace:
        span = requests[-1].due
        rate = (len(requests) - 1) / span if span else inf
    open_loop = rate < inf and q.max_concurrency == inf
    arrivals = OPEN if rate < inf else CLOSED if q.max_concurrency < len(requests) else AT_ONCE
    growth = max(rate - saturation, 0.0) if open_loop else 0.0
    tokens_in, tokens_out = (
        found.total_input_tokens / found.num_requests,
        found.total_output_tokens / found.num_requests,
    )
    s, layout = q.server, q.scenario.layout
    # Of requests that arrive at a rate below saturation none waits long; of others a replica has its share.
    in_flight = 0.0 if open_loop else min(q.max_concurrency, float(found.num_requests))
    in_flight = inf if growth > 0 else in_flight / max(s.num_replicas, s.num_decode_workers)
    cost = None
    if q.cost_per_gpu_hour is not None:
        hours = found.duration / 3600 * layout.gpus_of_replica * s.num_workers
        cost = q.cost_per_gpu_hour * hours / found.total_output_tokens * 1e6
    return Point(
        request_rate=rate if rate < inf else None,
        max_concurrency=int(q.max_concurrency) if q.max_concurrency < inf else None,
        summary=found,
        request_goodput=attainment(run, q.limits) * found.request_throughput if q.limits else None,
        fraction_of_saturation=rate / saturation if open_loop else None,
        queue_growth=growth,
        peak_running_sequences=run.peak_sequences,
        mean_running_sequences=run.mean_sequences,
        peak_kv_cache_usage=run.peak_kv_tokens / s.policy.kv_tokens,
        preemptions=run.preemptions,
        busy_fraction=run.busy_fraction,
        limiting_resource=limiting_resource(
            q.scenario,
            s.policy,
            s.times,
            tokens_in,
            tokens_out,
            run.mean_sequences,
            in_flight if tokens_out > 1 else 0.0,
        ),
        cost_per_million_tokens=cost,
        arrivals=arrivals,
        bands=bands_of(q.scenario, _metrics(found), arrivals),
        notes=_stability(found, run, rate, growth, open_loop, bool(q.trace)),
        run=run,
    )


def _metrics(found: Summary) -> dict[str, float]:
    """Return the metrics that have error bands, by name: ttft_mean, ..., request_throughput, ..."""
    latencies = {
        f"{kind}_{statistic}": value
        for kind in ("ttft", "tpot", "itl", "e2e")
        for statistic, value in getattr(found, kind)._asdict().items()
    }
    return latencies | {name: getattr(found, name) for name in found._fields if name.endswith("_throughput")}


def _stability(
    found: Summary, run: Run, rate: float, growth: float, open_loop: bool, is_trace: bool
) -> tuple[str, ...]:
    """Return notes on a queue that grows, and on a run too short to show a steady state."""
    if growth > 0:
        what, remedy = ("the trace", "add replicas") if is_trace else ("num_prompts", "lower the rate or add replicas")
        return (
            f"at {rate:g} requests/s the queue grows by {growth:.3g} requests/s: latencies grow with {what} and "
            f"have no steady value; {remedy}",
        )
    sending = max(r.sent for r in run.requests)
    if open_loop and sending < _FEW_LATENCIES * found.e2e.mean:
        enough = round(_FEW_LATENCIES * found.e2e.mean * rate * 1.1)
        remedy = f"use a longer trace, of {enough} requests" if is_trace else f"give num_prompts {enough}"
        return (
            f"at {rate:g} requests/s {found.num_requests} requests arrive within {sending:.3g} s, less than "
            f"{_FEW_LATENCIES:g} times the mean latency: ramp-up and drain distort it; {remedy}",
        )
    return ()


_TO_MS = {"ms": 1.0, "us": 1e-3, "s": 1e3}


def parse_limits(text: str) -> dict[str, float]:
    """Return the limits in seconds of a text such as `ttft:500,tpot:50ms`; without a unit ms. Raises BadValue."""
    limits: dict[str, float] = {}
    for part in text.replace(" ", ",").split(","):
        name, colon, value = part.partition(":")
        number = next((value.removesuffix(unit) for unit in _TO_MS if value.endswith(unit)), value)
        try:
            milliseconds = float(number) * _TO_MS.get(value[len(number) :], 1.0)
        except ValueError:
            milliseconds = -1.0
        if name not in LIMITED or not colon or not 0 < milliseconds < inf or name in limits:
            known = ", ".join(LIMITED)
            raise BadValue(f"goodput must be limits in ms (of {known}) such as ttft:500,tpot:50, not {shown(text)}")
        limits[name] = milliseconds / 1e3
    return limits
