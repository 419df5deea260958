"""Lengths of requests: fixed, uniform around a mean, of a public workload, or of a trace.

The quantiles of public workloads are in `data/workloads.json`, each with its source. A length is drawn from the
distribution function that is linear between these quantiles.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from math import inf
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from llm_analysis.errors import BadConfig, BadValue, shown, unknown
from llm_analysis.files import DATA, read_json, read_table
from llm_analysis.serving.scheduler import Request

_TRACE_COLUMNS = ("arrival_time", "input_tokens", "output_tokens")
_LONGEST = 10**8  # tokens; a larger number in a trace is a typing error


class Lengths(NamedTuple):
    """Distribution of a length as (quantiles, values); `cap` is the largest length."""

    quantiles: tuple[float, ...]
    values: tuple[float, ...]
    cap: float = inf

    def draw(self, random: Random) -> int:
        """Return a random length; 1 at least."""
        u = random.random()
        i = min(bisect_right(self.quantiles, u), len(self.quantiles) - 1)
        q0, q1, v0, v1 = self.quantiles[i - 1], self.quantiles[i], self.values[i - 1], self.values[i]
        return max(round(min(v0 + (v1 - v0) * (u - q0) / (q1 - q0), self.cap)), 1)

    @property
    def longest(self) -> float:
        """Largest length."""
        return max(float(round(min(self.values[-1], self.cap))), 1.0)

    @property
    def mean(self) -> float:
        """Mean length."""
        return sum(share * (low + high) / 2 for share, low, high in self._pieces())

    @property
    def spread(self) -> float:
        """Mean square of the length over the square of its mean: 1 for a constant length."""
        square = sum(share * (low * low + low * high + high * high) / 3 for share, low, high in self._pieces())
        return square / self.mean**2

    def _pieces(self) -> Iterator[tuple[float, float, float]]:
        """Yield (share, lowest, highest) of ranges within which all lengths are equally likely."""
        for (q0, q1), (v0, v1) in zip(pairwise(self.quantiles), pairwise(self.values), strict=True):
            low, high = min(v0, self.cap), min(v1, self.cap)
            below = (high - low) / (v1 - v0) if v1 > v0 else 1.0  # fraction of the range below the cap
            yield (q1 - q0) * below, low, high
            yield (q1 - q0) * (1 - below), high, high

    def scaled_to(self, mean: float) -> Lengths:
        """Return the distribution scaled to the given mean, with the same cap."""
        found = self
        for _ in range(20):  # lengths at the cap do not grow, so one scaling step is not enough
            found = found._replace(values=tuple(v * mean / found.mean for v in found.values))
        return found


def fixed(tokens: float) -> Lengths:
    """Return the distribution of a constant length."""
    return Lengths((0.0, 1.0), (tokens, tokens))


def uniform(tokens: float, range_ratio: float) -> Lengths:
    """Return lengths spread evenly from tokens (1 - r) to tokens (1 + r); rounding halves the weight of the ends."""
    return Lengths((0.0, 1.0), (tokens * (1 - range_ratio), tokens * (1 + range_ratio)))


@cache
def _workloads() -> dict[str, Any]:
    """Return the file of public workloads."""
    return read_json(DATA / "workloads.json")


def workload_names() -> list[str]:
    """Return the names of the public workloads."""
    return sorted(_workloads()["workloads"])


def workload(name: str) -> tuple[Lengths, Lengths]:
    """Return the input and output lengths of a public workload. Raises UnknownName."""
    known = _workloads()["workloads"]
    if name not in known:
        raise unknown("dataset", name, workload_names())
    quantiles = tuple(_workloads()["quantiles"])
    return (
        Lengths(quantiles, tuple(known[name]["input_tokens"])),
        Lengths(quantiles, tuple(known[name]["output_tokens"])),
    )


def make_requests(times: list[float], inputs: Lengths, outputs: Lengths, random: Random) -> list[Request]:
    """Return requests at the given times, with lengths drawn independently."""
    return [Request(due, inputs.draw(random), outputs.draw(random)) for due in times]


def read_trace(path: Path) -> list[Request]:
    """Return the requests of a CSV file with the columns `_TRACE_COLUMNS`; times in seconds. Raises BadConfig."""
    rows = read_table(path, _TRACE_COLUMNS, "requests")
    requests: list[Request] = []
    for line, row in enumerate(rows, 2):
        due, tokens_in, tokens_out = (_number(path, line, name, row[name]) for name in _TRACE_COLUMNS)
        if requests and due < requests[-1].due:
            raise BadConfig(
                f"{path}: line {line}: arrival_time {due:g} is before that of the line above; sort the trace"
            )
        requests.append(
            Request(due, _whole(path, line, "input_tokens", tokens_in), _whole(path, line, "output_tokens", tokens_out))
        )
    start = requests[0].due
    return [request._replace(due=request.due - start) for request in requests]


def _number(path: Path, line: int, name: str, text: str | None) -> float:
    """Return a cell as a finite number from 0 up. Raises BadConfig."""
    try:
        value = float(text or "")
    except ValueError:
        raise BadConfig(f"{path}: line {line}: {name} must be a number, not {shown(text)}") from None
    if not 0 <= value < inf:
        raise BadConfig(f"{path}: line {line}: {name} must be a number from 0 up, not {shown(text)}")
    return value


def _whole(path: Path, line: int, name: str, value: float) -> int:
    """Return a number of tokens. Raises BadConfig."""
    if value != int(value) or not 1 <= value <= _LONGEST:
        raise BadConfig(f"{path}: line {line}: {name} must be a whole number from 1 up, not {value:g}")
    return int(value)


def check_lengths(requests: list[Request], longest: int, model_name: str) -> None:
    """Raise BadValue for a request that is longer than the model's positions."""
    most = max(request.input_tokens + request.output_tokens for request in requests)
    if most > longest:
        raise BadValue(f"a request of {most:,} tokens is more than the {longest:,} positions of {model_name}")
