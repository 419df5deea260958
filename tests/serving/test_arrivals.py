"""Arrival times: their mean and spread, and the same numbers everywhere."""

from itertools import pairwise
from math import inf, sqrt
from random import Random
from statistics import fmean, stdev

import pytest

from llm_analysis.serving.arrivals import arrival_times

COUNT = 20_000


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_have_the_mean_and_the_spread_asked_for(burstiness: float) -> None:
    """Within four standard errors. The coefficient of variation of a gamma variate is 1 / sqrt(shape)."""
    times = arrival_times(COUNT, 8.0, burstiness, Random(3))
    gaps = [after - before for before, after in pairwise(times)]
    cv = 1 / sqrt(burstiness)
    assert fmean(gaps) == pytest.approx(1 / 8, rel=4 * cv / sqrt(COUNT))
    # The variance of the sample variance of a gamma variate: kurtosis 3 + 6 / shape.
    assert stdev(gaps) * 8 == pytest.approx(cv, rel=2 * sqrt((2 + 6 / burstiness) / COUNT))


def test_random_arrivals_take_as_long_as_equal_ones() -> None:
    """`vllm bench serve` stretches the gaps in that way."""
    times = arrival_times(200, 4.0, 1.0, Random(5))
    assert times[-1] == pytest.approx(199 / 4.0)
    assert times == sorted(times)


def test_equal_gaps_and_all_at_once() -> None:
    assert arrival_times(4, 2.0, inf, Random(0)) == [0.0, 0.5, 1.0, 1.5]
    assert arrival_times(3, inf, 1.0, Random(0)) == [0.0, 0.0, 0.0]


def test_a_seed_gives_the_same_times_on_every_platform() -> None:
    """Written down once; times are rounded to nanoseconds, beyond what a platform's logarithm can differ in."""
    assert arrival_times(4, 1.0, 1.0, Random(0)) == WRITTEN_DOWN["poisson"]
    assert arrival_times(4, 1.0, 0.5, Random(0)) == WRITTEN_DOWN["gamma"]


WRITTEN_DOWN = {
    "poisson": [0.0, 1.459318996, 2.571984029, 3.0],
    "gamma": [0.0, 0.012201781, 0.921011047, 3.0],
}
