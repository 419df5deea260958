"""The cost line: seconds of one operator on a GPU.

    seconds = launch + ((flops (1 + fill / parallelism) / (peak e_flops))^p + (bytes / (bandwidth e_memory))^p)^(1/p)
                     + ((messages latency)^p + (wire_bytes / (link_bandwidth e_link))^p)^(1/p)

It times every operator of every phase under every method. p = inf is the plain roofline, the larger of compute and
memory; a finite p rounds its knee, where neither unit is busy all of the time. Work in fewer pieces than the chip can
hold leaves compute units idle: with `fill` pieces half of them are busy. An attention that writes its scores to memory
adds scores * score_bytes / bandwidth to its bytes' time. A collective has no FLOP and no HBM bytes, a kernel no
messages and no bytes on the wire.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from llm_analysis.hardware.gpu import GPU
from llm_analysis.physics.operators import Op
from llm_analysis.units import NUMBER, Quantity, maximum, minimum, power, where

_TINY = 1e-300  # seconds; keeps 0 / 0 out of the ratio of two times


def combine(a: Quantity, b: Quantity, sharpness: Quantity) -> Quantity:
    """Return (a^p + b^p)^(1/p) of two times in seconds: p = 1 adds them, p = inf takes the larger.

    The larger is factored out, because powers of a nanosecond could underflow or lose digits.
    """
    large = maximum(a, b)
    if isinstance(sharpness, NUMBER) and sharpness == inf:
        return large
    small = minimum(a, b)
    if isinstance(sharpness, NUMBER):
        return large * power(1 + power(small / (large + _TINY), sharpness), 1 / sharpness)
    finite = where(sharpness == inf, 1.0, sharpness)
    return where(sharpness == inf, large, large * power(1 + power(small / (large + _TINY), finite), 1 / finite))


_Fraction = Annotated[float, Field(gt=0, le=1)]


class Efficiency(BaseModel):
    """How a kind of kernel uses a GPU: the numbers of the line above.

    `memory` may be above 1 where a cache serves some of the bytes; it is infinite for a kernel that is part of another.
    `fill` is the number of independent pieces of work that keep half of the compute units busy (0: any number fills
    the chip). A sharpness below 1 makes two terms cost more than their sum: a collective cut into chunks pays latency
    for each of them. `score_bytes` are the bytes moved for each score of an attention that writes its scores to memory
    (0: they stay on the chip), at the full bandwidth: `memory` does not apply to them.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    launch: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    flops: _Fraction = 1.0
    memory: Annotated[float, Field(gt=0)] = 1.0
    sharpness: Annotated[float, Field(ge=0.2)] = inf
    fill: Annotated[float, Field(ge=0)] = 0.0
    score_bytes: Annotated[float, Field(ge=0)] = 0.0
    latency: Annotated[float, Field(ge=0)] = 0.0
    link: _Fraction = 1.0


class Cost(NamedTuple):
    """Seconds of one run of an operator: its terms alone, and together."""

    launch: Quantity
    compute: Quantity
    memory: Quantity
    network: Quantity
    seconds: Quantity

    @property
    def bound(self) -> str:
        """The largest term."""
        terms = {"compute": self.compute, "memory": self.memory, "network": self.network, "launch": self.launch}
        return max(terms, key=lambda name: float(terms[name]))


IDEAL = Efficiency()


def cost(op: Op, gpu: GPU, efficiency: Efficiency) -> Cost:
    """Return the seconds of one run of `op`, by term. Raises KeyError for a missing rate (see `Dtypes.on`)."""
    e = efficiency
    filled = 1.0 + e.fill / op.parallelism
    compute = op.flops * filled / (gpu.peak_flops[op.rate] * e.flops) if op.rate else 0.0
    memory = op.bytes / (gpu.memory_bandwidth * e.memory) + op.scores * e.score_bytes / gpu.memory_bandwidth
    network: Quantity = 0.0
    if op.span > 1:
        bandwidth = gpu.link_over(op.span, op.messages)[1]
        wire = op.wire_bytes / (bandwidth * e.link) if bandwidth is not None else op.wire_bytes * inf
        network = combine(op.messages * e.latency, wire, e.sharpness)
    seconds = e.launch + combine(compute, memory, e.sharpness) + network
    return Cost(e.launch, compute, memory, network, seconds)


TimedOp = tuple[Quantity, Op, Cost]  # (weight of the pass in a sum over passes, operator of the pass, its cost)
Timed = Sequence[TimedOp]


def pass_seconds(timed: Timed) -> Quantity:
    """Return the seconds of all operators, each as often as it runs."""
    return sum((weight * op.count * c.seconds for weight, op, c in timed), 0.0)
