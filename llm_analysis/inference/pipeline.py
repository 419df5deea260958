"""Pipelines: a pass cut into micro-batches, so that the stages work at the same time.

One micro-batch after another goes through the stages. The first takes T, the way through all of them; each of the m - 1
others leaves the slowest stage (its send included) one slot S later; the last flushes the pipeline:

    seconds(m) = T(b / m) + (m - 1) S(b / m)          m = 1, 2, 4, ... until the flush is a small part of the pass

With m = 1 the stages work one after another. Narrow micro-batches use the GPUs less well, so a pass takes the m that
makes it shortest. Decode flushes too: the sampled tokens come back before the next step begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from llm_analysis.hardware.roofline import Cost, Timed, pass_seconds
from llm_analysis.inference.runtimes import Runtime
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.forward import stage_ops, stage_sends
from llm_analysis.physics.dtypes import Dtypes
from llm_analysis.physics.operators import Op, Step
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.units import NUMBER, Quantity, maximum, minimum

# Micro-batches for each stage beyond which the flush is small (GPipe, Huang et al. 2019: M >= 4 K).
MOST_FOR_EACH_STAGE = 4


class Pricing(Protocol):
    """Operators with their costs, in a pass of the given weight."""

    def __call__(self, ops: list[Op], weight: float = 1.0) -> Timed: ...


class Stage(NamedTuple):
    """What one GPU of a stage does for a micro-batch; `alike` stages are the same."""

    ops: list[Op]
    alike: int = 1


class Cut(NamedTuple):
    """A pass as `count` micro-batches through `stages`; `sends` of one micro-batch, and the host's work for all."""

    count: int  # type: ignore[assignment]  # the tuple's method of that name gives way
    stages: list[Stage]
    sends: list[Op]
    host: list[Op]


def cuts(model: ModelConfig, step: Step, dtypes: Dtypes, layout: Parallelism, runtime: Runtime) -> Iterator[Cut]:
    """The ways to cut a pass that are worth trying, fewer micro-batches first; without a pipeline one, whole.

    A micro-batch holds one sequence at least: to cut finer gains nothing.
    """
    count, batch, most = 1, step.batch, MOST_FOR_EACH_STAGE * layout.pp_size
    host = runtime.host_ops(step, model.num_hidden_layers)
    if layout.pp_size == 1:
        yield Cut(1, [Stage(stage_ops(model, step, dtypes, layout, 0, model.num_hidden_layers) + host)], [], [])
        return
    host = [op for op in host if op.kind != "host_layer"]
    while count <= most and (not isinstance(batch, NUMBER) or count < 2 * batch):
        micro = step._replace(batch=maximum(batch / count, 1.0)) if count > 1 else step
        sends = stage_sends(model, micro, dtypes, layout)
        yield Cut(count, stages(model, micro, dtypes, layout, runtime), sends, host)
        count *= 2


def stages(model: ModelConfig, step: Step, dtypes: Dtypes, layout: Parallelism, runtime: Runtime) -> list[Stage]:
    """The stages of one micro-batch, those with the same layers as one; the runtime's work for a layer goes with it."""
    found: dict[tuple[object, ...], Stage] = {}
    for first, last in layout.stages(model.num_hidden_layers):
        key = (first == 0, last == model.num_hidden_layers, *model.kinds_between(first, last).items())
        if key in found:
            found[key] = found[key]._replace(alike=found[key].alike + 1)
            continue
        host = [op for op in runtime.host_ops(step, last - first) if op.kind == "host_layer"]
        found[key] = Stage(stage_ops(model, step, dtypes, layout, first, last) + host)
    return list(found.values())


def seconds(ways: Iterable[Cut], price: Pricing) -> Quantity:
    """Seconds of the shortest way, element by element where the quantities are arrays."""
    best: Quantity = float("inf")
    for way in ways:
        through, slot = timing(way, [pass_seconds(price(stage.ops)) for stage in way.stages], price)
        best = minimum(best, through + (way.count - 1) * slot)
    return best


def timing(way: Cut, of_stages: list[Quantity], price: Pricing) -> tuple[Quantity, Quantity]:
    """Seconds of the first micro-batch's way through all stages, and of each later one's slot in the slowest."""
    sends, slowest = pass_seconds(price(way.sends)), of_stages[0]
    for one in of_stages[1:]:
        slowest = maximum(slowest, one)
    through = sum((stage.alike * one for stage, one in zip(way.stages, of_stages, strict=True)), sends)
    between = pass_seconds(price([op._replace(count=1.0) for op in way.sends[-1:]]))
    return through + pass_seconds(price(way.host)), slowest + between


def shortest(ways: Iterable[Cut], price: Pricing, weight: float = 1.0) -> Timed:
    """The shortest way of a pass, as the operators between its beginning and its end, with their costs.

    All are tried: the experts that a micro-batch reads make its time concave, and a finer cut may gain what two lose.
    """
    best: Timed = []
    least = float("inf")
    for way in ways:
        again = weight * (way.count - 1)
        timed = parts(way, price, weight, again, weight) if way.sends else price(way.stages[0].ops, weight)
        total = float(pass_seconds(timed))
        if not best or total < least:
            best, least = timed, total
    return best


def chained(passes: Sequence[tuple[float, Cut]], price: Pricing) -> Timed:
    """Passes that follow one another, each so often: all take a slot, and the last goes on through the other stages.

    Chunks of a prompt do: a chunk enters a stage as soon as the one before has left it.
    """
    *before, (times, last) = passes
    timed: list[tuple[float, Op, Cost]] = []
    for often, way in before:
        timed += parts(way, price, 0.0, often, often)
    return timed + parts(last, price, 1.0, times - 1.0, times)


def parts(way: Cut, price: Pricing, through: float, slots: float, host: float) -> list[tuple[float, Op, Cost]]:
    """`through` times the way through all stages, `slots` times the slowest of them, `host` times the host's work."""
    priced = [price(stage.ops) for stage in way.stages]
    totals = [float(pass_seconds(timed)) for timed in priced]
    slowest = totals.index(max(totals))
    timed: list[tuple[float, Op, Cost]] = []
    for i, stage in enumerate(way.stages):
        runs = through * stage.alike + (slots if i == slowest else 0.0)
        timed += [(runs, op, cost) for _, op, cost in priced[i] if runs]
    one = [op._replace(count=1.0) for op in way.sends[-1:]] if slots else []
    for weight, ops in ((through, way.sends), (slots, one), (host, way.host)):
        timed += [(weight, op, cost) for _, op, cost in price(ops)]
    return timed
