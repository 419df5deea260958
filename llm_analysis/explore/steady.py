"""Continuous batching in closed form, for the search of a plan.

A server decodes n sequences together. A request needs o - 1 decode steps after its first token, so on average n / o
prompts join each step. The kernels that both need run once over the rows of both (Orca, Yu et al. 2022). With

    T_d(n)      seconds of a step without prompts, averaged over the growing context
    T_m(n, k)   seconds of a step that also computes k prompts
    j = n / o   prompts that join a step on average

a token takes  T = (1 - min(j, 1)) T_d + min(j, 1) T_m(n, max(j, 1)),  and a replica serves  n / ((o - 1) T + T_m(n, 1))
requests per second. A new request waits for half of the running step, for prompts before it, and for its own:

    TTFT = T / 2 + W + T_m(n, 1),  W = r D / (2 (1 - r)),  r = rate * D,  D = T_m(n, 1) - T_d(n)

W is the mean wait of a queue with Poisson arrivals and constant service time (Pollaczek and Khinchine). The p stages of
a pipeline work on p micro-batches of n / p sequences at the same time, so that T_d, T_m and j are those of n / p
sequences through all stages, and D is divided by p.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from llm_analysis.hardware.roofline import pass_seconds
from llm_analysis.inference.passes import carried
from llm_analysis.inference.pipeline import pass_ops
from llm_analysis.inference.scenario import Scenario
from llm_analysis.inference.workload import Workload, decode_passes
from llm_analysis.models.forward import stage_sends
from llm_analysis.physics.operators import Op, Step
from llm_analysis.units import Quantity, maximum, minimum

Figure: TypeAlias = Any  # a float, or a float64 array for an array of batch sizes


class Steady(NamedTuple):
    """Continuous batching with a number of sequences in flight: seconds, and requests per second of one replica."""

    tpot: Figure
    step: Figure  # without prompts
    prompt: Figure  # of a step that computes one prompt too
    service: Figure  # seconds by which one prompt delays the next
    rate: Figure  # that keeps this many sequences in flight

    def ttft(self, rate: Figure) -> Figure:
        """Return the mean time to the first token at `rate` requests per second, at most `self.rate`."""
        return self.tpot / 2 + waiting(rate, self.service) + self.prompt


def waiting(rate: Figure, service: Figure) -> Figure:
    """Return the mean wait of a queue with Poisson arrivals and constant service time, in seconds."""
    busy = minimum(rate * service, 0.999)
    return busy * service / (2 * (1 - busy))


def steady_state(server: Scenario, batch: Quantity, input_tokens: int, output_tokens: int) -> Steady:
    """Return continuous batching at `batch` sequences in flight, each with these numbers of tokens."""
    stages = server.layout.pp_size
    micro = maximum(batch / stages, 1.0)
    passes = [
        (weight, step._replace(batch=micro)) for weight, step in _decode_steps(server, input_tokens, output_tokens)
    ]
    decoded = [(weight, _ops(server, step)) for weight, step in passes]
    step = sum((weight * pass_seconds(server.timed(ops)) for weight, ops in decoded), 0.0)
    context = sum((weight * each.context for weight, each in passes), 0.0)
    own = decoded[0][1] if len(decoded) == 1 else _ops(server, Step(micro, 1.0, context, "decode"))
    joining = batch / stages / output_tokens
    prompts = maximum(joining, 1.0)
    one = more = _with_prompts(server, own, Step(1.0, float(input_tokens)))
    if not _all_ones(prompts):
        more = _with_prompts(server, own, Step(prompts, float(input_tokens)))
    often = minimum(joining, 1.0)
    tpot = (1 - often) * step + often * more
    service = maximum(one - step, 0.0) / stages
    return Steady(tpot, step, one, service, batch / ((output_tokens - 1) * tpot + one))


def _ops(server: Scenario, step: Step) -> list[Op]:
    """Return the operators of a pass through all stages."""
    ops = pass_ops(server, step)
    s = server
    return ops + stage_sends(s.model, step, s.dtypes, s.layout) if s.layout.pp_size > 1 else ops


def _decode_steps(server: Scenario, input_tokens: int, output_tokens: int) -> list[tuple[Quantity, Step]]:
    """Return (weight, pass) for the mean decode step: the pass at the mean context, if no window fills up on the way.

    The time of a pass is nearly linear in the context between the points where windows fill up.
    """
    steps = max(output_tokens - 1, 1)
    if any(input_tokens <= kink < input_tokens + steps for kink in server.model.decode_kinks):
        workload = Workload(seq_len=input_tokens, num_tokens_to_generate=output_tokens)
        return list(decode_passes(server.model, workload))
    return [(1.0, Step(1.0, 1.0, input_tokens + (steps - 1) / 2, "decode"))]


def _with_prompts(server: Scenario, decode: list[Op], prompts: Step) -> Quantity:
    """Return the seconds of a decode step that computes prompts too."""
    return pass_seconds(server.timed(carried(decode, _ops(server, prompts))))


def _all_ones(prompts: Quantity) -> bool:
    """Whether no step has more than one prompt."""
    return bool((prompts == 1.0) if isinstance(prompts, float) else (prompts == 1.0).all())
