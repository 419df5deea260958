"""Arrival times of requests, in seconds from the start of a run.

    poisson    independent arrivals: the gaps are exponential (burstiness 1)
    gamma      gaps with shape `burstiness` and the same mean; the coefficient of variation is 1 / sqrt(burstiness)
    constant   equal gaps
    offline    all at once (rate inf)

The generator is Python's Mersenne Twister, which gives the same numbers on every platform and version; the exponential
and gamma variates are computed from it here. Times are rounded to nanoseconds, because the logarithm of a platform may
differ in the last bit.
"""

from __future__ import annotations

from math import cos, inf, log, pi, sqrt
from random import Random

_NANOSECOND_DIGITS = 9


def arrival_times(count: int, rate: float, burstiness: float, random: Random) -> list[float]:
    """Return `count` arrival times at `rate` requests per second; `burstiness` inf gives equal gaps.

    The first request arrives at 0. Random gaps are scaled to a mean of 1 / rate, as in
    `vllm bench serve`: 200 exponential gaps would sum to 7 % more or less than their expectation.
    """
    if rate == inf:
        return [0.0] * count
    now, times = 0.0, []
    for i in range(count):
        if i:
            now += _gap(burstiness, random)
        times.append(now)
    stretch = (count - 1) / now if now and burstiness < inf else 1.0
    return [round(time * stretch / rate, _NANOSECOND_DIGITS) for time in times]


def _gap(shape: float, random: Random) -> float:
    """Return a gamma variate of mean 1."""
    if shape == inf:
        return 1.0
    if shape == 1.0:
        return -log(1.0 - random.random())
    return _gamma(shape, random) / shape


def _gamma(shape: float, random: Random) -> float:
    """Return a gamma variate of scale 1 (Marsaglia and Tsang 2000; for shapes below 1 their boost by U^(1/shape))."""
    if shape < 1.0:
        boost: float = (1.0 - random.random()) ** (1.0 / shape)
        return _gamma(shape + 1.0, random) * boost
    d = shape - 1.0 / 3.0
    c = 1.0 / sqrt(9.0 * d)
    while True:
        normal = sqrt(-2.0 * log(1.0 - random.random())) * cos(2.0 * pi * random.random())
        v = (1.0 + c * normal) ** 3
        if v > 0 and log(1.0 - random.random()) < 0.5 * normal * normal + d - d * v + d * log(v):
            return d * v
