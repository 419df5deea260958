"""The metrics that a benchmark reports of a run, with the definitions of `vllm bench serve`.

    TTFT    first token - request sent
    TPOT    (last token - first token) / (output tokens - 1), of each request with more than one output token
    ITL     the times between two tokens of a request, of all requests together
    E2E     last token - request sent

Percentiles are linear between neighbours; those of ITL are the smallest time that reaches the share. Throughput is over
the time from the start to the last token, ramp-up and drain included; `steady` leaves both out, as genai-perf does with
its measurement window.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from statistics import median, median_low
from typing import Any, NamedTuple

from llm_analysis.serving.simulation import Run, Served

_PERCENTILES = (50, 90, 95, 99)


class Distribution(NamedTuple):
    """Mean and percentiles, in seconds."""

    mean: float
    median: float
    p90: float
    p95: float
    p99: float


class Summary(NamedTuple):
    """The metrics of a run. Seconds; requests and tokens per second of the whole server."""

    num_requests: int
    duration: float
    total_input_tokens: int
    total_output_tokens: int
    request_throughput: float
    output_token_throughput: float
    total_token_throughput: float
    ttft: Distribution
    tpot: Distribution
    itl: Distribution
    e2e: Distribution


def summarize(run: Run, steady: bool = False) -> Summary:
    """Return the metrics of a run; with `steady` of the part between ramp-up and drain."""
    requests, start, end = run.requests, 0.0, run.duration
    if steady:
        start, end = _steady_window(run)
        requests = [r for r in run.requests if start < r.end <= end]
    tokens_out = sum(r.output_tokens for r in requests)
    tokens_in = sum(r.input_tokens for r in requests)
    seconds = end - start
    return Summary(
        num_requests=len(requests),
        duration=seconds,
        total_input_tokens=tokens_in,
        total_output_tokens=tokens_out,
        request_throughput=len(requests) / seconds,
        output_token_throughput=tokens_out / seconds,
        total_token_throughput=(tokens_in + tokens_out) / seconds,
        ttft=distribution(r.first - r.sent for r in requests),
        tpot=distribution(tpot(r) for r in requests if r.output_tokens > 1),
        itl=_weighted_distribution([(seconds, count) for at, seconds, count in run.gaps if start < at <= end]),
        e2e=distribution(r.end - r.sent for r in requests),
    )


def median_summary(found: Sequence[Summary]) -> Summary:
    """Return the median of each metric of several runs; of counts and tokens the lower one of two medians."""

    def middle(values: Sequence[Any]) -> Any:
        if isinstance(values[0], Distribution):
            return Distribution(*(median(each) for each in zip(*values, strict=True)))
        return median_low(values) if isinstance(values[0], int) else median(values)

    return Summary._make(middle(values) for values in zip(*found, strict=True))


def tpot(request: Served) -> float:
    """Return the time per output token of a request after the first, in seconds; 0 for a single token."""
    return (request.end - request.first) / (request.output_tokens - 1) if request.output_tokens > 1 else 0.0


def saturated_throughput(run: Run) -> float:
    """Return the requests per second that a server ends while others wait, in a run that sent all at once.

    Requests of one length that start together end together, in waves as large as the most running sequences. The rate
    is therefore that of a whole wave: its requests over the mean time from the end of a request to the end so many
    requests later.
    """
    ends = sorted(r.end for r in run.requests)
    first, last = len(ends) // 10, bisect_right(ends, _steady_window(run)[1]) - 1
    wave = min(run.peak_sequences * len({r.replica for r in run.requests}), last - first)
    spans = [ends[i + wave] - ends[i] for i in range(first, last - wave + 1)]
    return wave * len(spans) / sum(spans) if sum(spans) else len(ends) / run.duration


def _steady_window(run: Run) -> tuple[float, float]:
    """Return the start and the end of the steady part of a run; a request that ends at its start is not in it.

    It starts when the first tenth of the requests has ended, and ends when 90 % have ended or no prompt remains: when
    the last request is sent or, if all were sent at once, has its first token. Later steps only decode.
    """
    ends = sorted(r.end for r in run.requests)
    start, late = ends[len(ends) // 10], ends[(9 * len(ends)) // 10]
    last_sent, last_first = max(r.sent for r in run.requests), max(r.first for r in run.requests)
    end = min(late, last_sent if last_sent > start else last_first)
    return (start, end) if any(start < each <= end for each in ends) else (0.0, run.duration)


def distribution(values: Iterable[float]) -> Distribution:
    """Return mean and percentiles of values; of none, zeros."""
    ordered = sorted(values)
    if not ordered:
        return Distribution(0.0, 0.0, 0.0, 0.0, 0.0)
    return Distribution(sum(ordered) / len(ordered), *(_quantile(ordered, p / 100) for p in _PERCENTILES))


def _weighted_distribution(pairs: Sequence[tuple[float, float]]) -> Distribution:
    """Return mean and percentiles of values with counts, given as (value, count); of none, zeros."""
    total = sum(count for _, count in pairs)
    if not total:
        return Distribution(0.0, 0.0, 0.0, 0.0, 0.0)
    mean = sum(value * count for value, count in pairs) / total
    ordered, found, seen = sorted(pairs), [], 0.0
    goals = [p / 100 * total for p in _PERCENTILES]
    for value, count in ordered:
        seen += count
        while goals and seen >= goals[0]:
            found.append(value)
            goals.pop(0)
    found += [ordered[-1][0]] * len(goals)
    return Distribution(mean, *found)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return the quantile of sorted values, linear between neighbours."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
