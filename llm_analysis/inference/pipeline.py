"""The schedule of passes on a pipeline: micro-batches follow one another through the stages.

A sequence of passes (the chunks of a prefill, or one decode step) is cut into items: each pass into m micro-batches.
Item i takes T_i on the way through all stages, and S_i (its slot) in the slowest stage and the slowest send. The next
item enters a stage after the previous one has left it, so the sequence takes

    seconds(m) = sum over items of S_i  +  max over items of (T_i - S_i)          m = 1, 2, 4, ...

the slots one after another, and the largest item once through the other stages. For n equal items that is
T + (n - 1) S; for p equal stages (n + p - 1) S. Small micro-batches use the GPUs less well, so the m that makes the
sequence shortest is taken, up to the point where the flush of the pipeline is a small part. Every decode step flushes:
the sampled tokens come back before the next step begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from llm_analysis.hardware.roofline import Timed, TimedOp, pass_seconds
from llm_analysis.inference.scenario import Scenario
from llm_analysis.models.forward import stage_ops, stage_sends
from llm_analysis.physics.operators import Op, Step
from llm_analysis.units import NUMBER, Quantity, first_largest, maximum, some, where

# Micro-batches for each stage beyond which the flush is small (GPipe, Huang et al. 2019: M >= 4 K).
_MOST_FOR_EACH_STAGE = 4


class _Item(NamedTuple):
    """One micro-batch: its operators with their costs in each kind of stage, and in its sends."""

    stages: list[Timed]
    alike: list[int]  # number of stages of each kind
    sends: Timed
    slowest_send: Timed  # one send, over the slowest link

    @property
    def through(self) -> Quantity:
        """Seconds on the way through all stages."""
        of_stages = (n * pass_seconds(stage) for n, stage in zip(self.alike, self.stages, strict=True))
        return sum(of_stages, pass_seconds(self.sends))

    @property
    def slot(self) -> Quantity:
        """Seconds in the slowest stage and the slowest send."""
        slowest: Quantity = 0.0
        for stage in self.stages:
            slowest = maximum(slowest, pass_seconds(stage))
        return slowest + pass_seconds(self.slowest_send)


def schedule(scenario: Scenario, passes: Sequence[tuple[Quantity, Step]], weight: Quantity = 1.0) -> Timed:
    """Return the operators of a sequence of (times, pass), with their costs, in a sum that counts it `weight` times.

    The weights of the result sum the operators to the seconds of the schedule: on a pipeline they count the slots of
    the slowest stage, and the largest item once through all stages.
    """
    if scenario.layout.pp_size == 1:
        return [entry for times, step in passes for entry in scenario.timed(pass_ops(scenario, step), weight * times)]
    ways = [_in_micro_batches(scenario, passes, m, weight) for m in micro_batches(scenario, passes)]
    if len(ways) == 1:
        return ways[0]
    shortest = first_largest([-pass_seconds(way) for way in ways])
    return [
        entry
        for way, chosen in zip(ways, shortest, strict=True)
        if some(chosen > 0)
        for entry in _multiplied(way, chosen)
    ]


def _multiplied(timed: Timed, factor: Quantity) -> list[TimedOp]:
    """Return the operators with their weights multiplied."""
    return [(weight * factor, op, c) for weight, op, c in timed]


def pass_ops(scenario: Scenario, step: Step) -> list[Op]:
    """Return the operators of one whole pass without a pipeline, and the work of the runtime's host."""
    s, layers = scenario, scenario.model.num_hidden_layers
    return stage_ops(s.model, step, s.dtypes, s.layout, 0, layers) + s.runtime.host_ops(step, layers)


def micro_batches(scenario: Scenario, passes: Sequence[tuple[Quantity, Step]]) -> list[int]:
    """Return the numbers of micro-batches worth trying, fewest first. A micro-batch holds one sequence at least."""
    batch = passes[0][1].batch
    for _, step in passes[1:]:
        batch = maximum(batch, step.batch)
    widest = batch if isinstance(batch, NUMBER) else float(batch.max())
    counts, m = [1], 2
    while m <= _MOST_FOR_EACH_STAGE * scenario.layout.pp_size and m < 2 * widest:
        counts.append(m)
        m *= 2
    return counts


def _in_micro_batches(scenario: Scenario, passes: Sequence[tuple[Quantity, Step]], m: int, weight: Quantity) -> Timed:
    """Return the operators of the sequence with each pass cut into `m` micro-batches."""
    cut = [step._replace(batch=maximum(step.batch / m, 1.0)) if m > 1 else step for _, step in passes]
    items = [_item(scenario, step) for step in cut]
    spans = [where(times > 0, item.through - item.slot, -1.0) for (times, _), item in zip(passes, items, strict=True)]
    flushing = first_largest(spans)
    timed: list[TimedOp] = []
    for (times, step), item, flush in zip(passes, items, flushing, strict=True):
        slots = times * m - flush
        slowest = first_largest([pass_seconds(stage) for stage in item.stages])
        for stage, alike, slow in zip(item.stages, item.alike, slowest, strict=True):
            timed += _weighted(stage, weight * (flush * alike + slots * slow))
        timed += _weighted(item.sends, weight * flush) + _weighted(item.slowest_send, weight * slots)
        host = [op for op in scenario.runtime.host_ops(step, 0) if op.kind != "host_layer"]
        timed += _weighted(scenario.timed(host), weight * times)
    return timed


def _weighted(timed: Timed, weight: Quantity) -> list[TimedOp]:
    """Return the operators with another weight; none if it is 0."""
    return [(weight, op, c) for _, op, c in timed] if some(weight != 0) else []


def _item(scenario: Scenario, step: Step) -> _Item:
    """Return one micro-batch in all stages; stages with the same layers are counted, not repeated."""
    s = scenario
    found: dict[tuple[object, ...], tuple[int, int]] = {}
    count: dict[tuple[object, ...], int] = {}
    for first, last in s.layout.stages(s.model.num_hidden_layers):
        key = (first == 0, last == s.model.num_hidden_layers, *s.model.kinds_between(first, last).items())
        found.setdefault(key, (first, last))
        count[key] = count.get(key, 0) + 1
    stages = []
    for first, last in found.values():
        host = [op for op in s.runtime.host_ops(step, last - first) if op.kind == "host_layer"]
        stages.append(s.timed(stage_ops(s.model, step, s.dtypes, s.layout, first, last) + host))
    sends = stage_sends(s.model, step, s.dtypes, s.layout)
    slowest_send = [op._replace(count=1.0) for op in sends[-1:]]  # those between nodes are last
    return _Item(stages, list(count.values()), s.timed(sends), s.timed(slowest_send))
