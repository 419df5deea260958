"""Continuous batching at a number of sequences in flight, for the search of a plan.

The step times are those of `serving.steady_state`. With T_d(n) the seconds of a decode step, dT(n) those that a prompt
adds, and o output tokens, a token takes T = T_d + n dT / (o - 1), and a replica serves n / ((o - 1) T) requests per
second. A request that arrives waits for half of the step that runs and for the prompts before it, in a queue with
Poisson arrivals and the constant service time dT.

n is a mean and need not be whole. Below one, a request decodes alone, T_d(1), and n prompts come meanwhile: a replica
that has nothing to do for part of the time.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from llm_analysis.inference.engines import engine_for
from llm_analysis.inference.scenario import Scenario
from llm_analysis.serving.policies import host_of, policy_of
from llm_analysis.serving.steady_state import Steps, mean_wait
from llm_analysis.units import Quantity, maximum

Figure: TypeAlias = Any  # a float, or a float64 array for an array of batch sizes


class Steady(NamedTuple):
    """Continuous batching with a number of sequences in flight: seconds, and requests per second of one replica."""

    tpot: Figure
    step: Figure  # seconds of a decode step without prompts
    prompt: Figure  # seconds of the steps that compute a prompt
    service: Figure  # seconds that one prompt adds
    rate: Figure  # requests per second that keep this many sequences in flight
    front: float  # seconds of HTTP server and tokenizer

    def ttft(self, rate: Figure) -> Figure:
        """Return the mean time to the first token at `rate` requests per second, at most `self.rate`."""
        return self.front + self.tpot / 2 + mean_wait(rate, self.service) + self.prompt


def steady_state(
    scenario: Scenario, batch: Quantity, input_tokens: int, output_tokens: int, max_num_batched_tokens: int
) -> Steady:
    """Return continuous batching at a mean of `batch` sequences in flight, each with these numbers of tokens."""
    engine = engine_for(scenario.runtime.engine_name)
    s, o = float(input_tokens), float(output_tokens)
    # The search checks the memory; any size of the cache avoids that it is computed here.
    limits: dict[str, Any] = {"max_num_batched_tokens": max_num_batched_tokens, "kv_tokens": s + o}
    policy = policy_of(engine, scenario, s + o / 2, **limits)
    running = maximum(batch, 1.0)  # of a step: there is none without a sequence
    steps = Steps(scenario, policy, host_of(engine, scenario), s, o, running)
    step = steps.seconds(running)
    tpot = step.alone + batch * step.added / (o - 1)
    front = policy.front_seconds + policy.front_serial_seconds
    return Steady(tpot, step.alone, step.prompt, step.added, batch / ((o - 1) * tpot), front)
