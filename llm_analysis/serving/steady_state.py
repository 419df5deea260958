"""Closed form of continuous batching at a fixed concurrency or request rate, for numbers and arrays.

s prompt tokens, o output tokens, n running sequences, T_d(n) seconds of a decode step at the mean context s + o/2,
dT(n) seconds that one prompt adds to the steps that carry it, c requests in flight. A client sends a request when its
previous one has ended. From one request to the next C = c cycle(n) / n seconds pass (Little's law), of which the
request prefills for P seconds, with p prompts in its steps. The prompts of the other c - p requests come in the rest of
the time, and delay its o - 1 further tokens:

    cycle(n) = (o - 1) T_d(n) + (c - p) dT(n) cycle(n) / (C - P)   seconds from the first to the last token, by the
                                                                   quadratic formula
    rate(n)  = n / cycle(n)                                        requests per second
    TPOT     = cycle(n) / (o - 1)

n is at most max_num_seqs, what the KV cache holds, and what steps full of prompts keep running; n_max gives the
saturation rate. With speculative decoding a step has t tokens of a sequence, so that the o - 1 tokens take (o - 1) / t
steps. A running sequence is more likely a long one: with outputs of different lengths its mean context is
s + E[o^2] / (2 E[o]), for which `output_spread` is E[o^2] / E[o]^2.

An engine that admits a prompt as soon as the prompt fits (reserve 0) fills the cache with prompts while requests wait.
Each of the o tokens that a request then generates takes its place from a sequence that is preempted and recomputed,
prompt and all: o tokens more to prefill per request, as if its prompt had s + o tokens. A sequence that waits between
two preemptions counts in TTFT here; it has its first token, so that TPOT is longer and TTFT shorter by as much.

A request that finds a free slot waits for the rest of the step that runs, then for the prompts before it, then for the
k steps of its own prompt. The client sends it when its previous request ends, at the start of a step, and it leaves the
front end `front` seconds later, so step - front seconds remain: half a step at least, because with a longer front end
the two are unrelated. If prefill and decode share steps, prompts
queue for the steps: in each, n / (o - 1) requests end and as many prompts come, and f of them fit. The utilization is
u = n k / (f (o - 1)), and a prompt waits for (1 - 1/n) u / (2 (1 - u)) times its own steps (Pollaczek-Khinchine,
constant service). If prefill runs first, the prompts that come together run together.

The process that receives the requests one after another limits the rate to 1 / front_serial_seconds.

The requests in flight are the running ones and those that wait for their first token (Little's law):

    c = n + rate(n) TTFT(n)

n is the root of this equation. At n_max the requests beyond it wait for a slot: TTFT = c / rate - cycle.

Against 240 simulations of random closed loops with more than ten output tokens (`tests/serving/test_closed_form.py` has
24 of them) the 90th percentile of the error is 3 % for throughput, 4 % for TPOT and 14 % for the mean TTFT. Its tail
needs the simulation.
"""

from __future__ import annotations

from collections.abc import Callable
from math import e, inf
from typing import Any, NamedTuple

from llm_analysis.hardware.roofline import Timed, pass_seconds
from llm_analysis.inference.engines import engine_for
from llm_analysis.inference.passes import mixed_step_ops
from llm_analysis.inference.scenario import Scenario
from llm_analysis.physics.operators import Op, Step
from llm_analysis.serving.policies import host_of, policy_of
from llm_analysis.serving.scheduler import SLACK, Policy
from llm_analysis.serving.step_times import PLAIN, Host, Speculation, StepTimes, pass_ops
from llm_analysis.units import NUMBER, Mask, Quantity, floor, maximum, minimum, power, some, where

_ROUNDS = 8  # steps of false position to the number of running sequences; it is nearly proportional to those in flight
_LEAST_RUNNING = 0.01  # sequences
_LEAST_SECONDS = 1e-9  # least seconds of a cycle: a single token without other requests has none
_MOST_BUSY = 0.95  # highest utilization of the prefill for which the formula of the queue is used
_RESOURCES = ("compute", "memory bandwidth", "network", "kernel launches", "host", "KV cache", "max_num_seqs")


class SteadyState(NamedTuple):
    """A server in steady state; seconds, requests/s and tokens/s of all replicas together, tokens."""

    ttft: Quantity
    tpot: Quantity
    e2e: Quantity
    request_throughput: Quantity
    output_token_throughput: Quantity
    running_sequences: Quantity  # running sequences of one replica
    kv_capacity_tokens: Quantity  # of one replica
    kv_used_fraction: Quantity
    saturation_rate: Quantity  # with requests waiting at all times, recomputation after preemption included
    limiting_resource: Any  # one of _RESOURCES; for arrays an array of them


def steady_state(
    scenario: Scenario,
    seq_len: Quantity,
    num_tokens: Quantity,
    max_concurrency: Quantity,
    *,
    policy: Policy | None = None,
    host: Host | None = None,
    output_spread: float = 1.0,
    speculation: Speculation = PLAIN,
) -> SteadyState:
    """Return the steady state at `max_concurrency` requests in flight, over all replicas.

    `policy` and `host` replace those of the engine with its defaults. A KV cache that is too small for a request holds
    one (`check_room` refuses it). Of fewer requests than replicas, each has a replica of its own. Quantities
    may be arrays. Raises LLMAnalysisError.
    """
    engine = engine_for(scenario.runtime.engine_name)
    s, o = seq_len * 1.0, num_tokens * 1.0
    dp = float(scenario.layout.dp_size)
    cached = o * output_spread / 2  # output tokens of a running sequence in the cache
    context = s + cached
    policy = policy or policy_of(engine, scenario, context)
    by_cache = _held(policy, s, cached)
    most = minimum(by_cache, float(policy.max_num_seqs))
    if policy.mixed:
        most = minimum(most, where(o > 1, _fed(policy, s, o, speculation), inf))
    busy_replicas = minimum(max_concurrency * 1.0, dp)
    asked = max_concurrency / busy_replicas
    host = host or host_of(engine, scenario)
    host = host._replace(stream=host.stream * speculation.tokens)
    steps = Steps(scenario, policy, host, s, o, asked, context, speculation)
    # While requests wait for the cache, a request prefills o tokens more: what preemption repeats.
    repeats = (policy.reserve == 0) & (by_cache < policy.max_num_seqs) & (o > 1)
    longer = where(repeats, s + o, s)

    def added_with_repeats(in_flight: Quantity, n: Quantity) -> Quantity:
        """Return the seconds that one prompt adds, with what preemption repeats of it."""
        return Steps(scenario, policy, host, longer, o, in_flight, context, speculation).seconds(n).added

    present = minimum(asked, most)  # c, or the slots if more requests wait for one

    def at(n: Quantity) -> _Phases:
        """Return the phases of a request beside `n` running sequences."""
        step = steps.seconds(n)
        added = step.added
        if some(repeats & (asked > by_cache)):
            added = where(repeats & (asked > by_cache), added_with_repeats(asked, n), added)
        # cycle = alone + others cycle / (cycle - own): the formula at the head of this file, with C inserted
        alone = (o - 1.0) / speculation.tokens * step.alone
        others = n * maximum(1.0 - step.together / present, 0.0) * added
        own = n / present * step.prompt
        both = alone + others + own
        cycle = (both + power(maximum(both * both - 4.0 * alone * own, 0.0), 0.5)) / 2.0
        return _Phases(steps.first_token(n, cycle, step), cycle, n / maximum(cycle, _LEAST_SECONDS), added)

    # A prompt alone (o = 1) holds no slot and is never running: all requests in flight wait for their prefill.
    n = where(o > 1, _running(at, asked, most), _LEAST_RUNNING)
    phases = at(n)
    decoding = where(o > 1, phases.cycle, 0.0)
    waiting = where(o > 1, where(n >= most, asked / phases.rate - decoding, 0.0), asked * phases.added)
    ttft = maximum(phases.first_token, waiting)
    rate = asked / (ttft + decoding)
    slots = where(o > 1, most, _LEAST_RUNNING)
    full = Steps(scenario, policy, host, s, o, most, context, speculation).seconds(slots)
    decode = (o - 1.0) / speculation.tokens * full.alone
    received = 1.0 / policy.front_serial_seconds if policy.front_serial_seconds else inf
    full_added = added_with_repeats(most, slots) if some(repeats) else full.added
    saturated = minimum(most / (decode + most * full_added), received)
    # Preemption starts when requests wait for the cache: a server with room is as fast as one without repeated work.
    rate = minimum(rate, minimum(most / (decode + most * full.added), received))
    ttft = asked / rate - decoding
    running = where(o > 1, n, 0.0)
    places = minimum(by_cache, float(policy.max_num_seqs))
    waits = (asked > places) & (running >= places)
    tpot = decoding / maximum(o - 1.0, 1.0)
    return SteadyState(
        ttft=ttft,
        tpot=tpot,
        e2e=ttft + decoding,
        request_throughput=rate * busy_replicas,
        output_token_throughput=rate * o * busy_replicas,
        running_sequences=running,
        kv_capacity_tokens=policy.kv_tokens,
        kv_used_fraction=running * context / policy.kv_tokens,
        saturation_rate=saturated * dp,
        limiting_resource=_limit(steps.terms(n), waits, by_cache, float(policy.max_num_seqs)),
    )


def _held(policy: Policy, s: Quantity, cached: Quantity) -> Quantity:
    """Return the running sequences that the KV cache holds, one at least, with `cached` output tokens of each."""
    each = s + cached * (1.0 + policy.reserve) + policy.block_tokens / 2
    return maximum(floor(policy.kv_tokens / each), 1.0)


class _Phases(NamedTuple):
    """A request beside running sequences: seconds to its first token and to its last one; requests/s."""

    first_token: Quantity
    cycle: Quantity
    rate: Quantity
    added: Quantity  # seconds that its prompt adds


def _running(at: Callable[[Quantity], _Phases], asked: Quantity, most: Quantity) -> Quantity:
    """Return the running sequences of `asked` requests in flight, at most `most`.

    n + rate(n) TTFT(n) grows with n. False position with halved ends (Illinois).
    """

    def beyond(n: Quantity) -> Quantity:
        phases = at(n)
        return n + phases.rate * phases.first_token - asked

    high = minimum(most, asked)
    low, below, above = high * 0.0, -asked + high * 0.0, maximum(beyond(high), 0.0)
    low_stayed, high_stayed = below * 0.0, below * 0.0
    for _ in range(_ROUNDS):
        weight = where(above > below, above / maximum(above - below, _LEAST_SECONDS), 0.5)
        middle = high - weight * (high - low)
        found = beyond(middle)
        under = found < 0
        # An end that stays twice counts half, so that the other end moves too.
        above = where(under, where(high_stayed > 0, above / 2, above), found)
        below = where(under, found, where(low_stayed > 0, below / 2, below))
        low, high = where(under, middle, low), where(under, high, middle)
        high_stayed, low_stayed = where(under, 1.0, 0.0), where(under, 0.0, 1.0)
    return maximum(middle, _LEAST_RUNNING)


def _fed(policy: Policy, s: Quantity, o: Quantity, speculation: Speculation) -> Quantity:
    """Return the sequences that prompts keep running if all steps are full: n t / (o - 1) prompts, n (k + 1) rows."""
    new = maximum(s - floor(s * policy.cached_prefix + SLACK), 1.0)
    each = speculation.checked + new / _decode_steps(o, speculation)
    return maximum(policy.max_num_batched_tokens / each, 1.0)


def _decode_steps(o: Quantity, speculation: Speculation) -> Quantity:
    """Return the decode steps of a request, one at least."""
    return maximum((o - 1.0) / speculation.tokens, 1.0)


class StepSeconds(NamedTuple):
    """Seconds of steps beside running sequences."""

    alone: Quantity  # of a decode step
    added: Quantity  # that one prompt adds
    prompt: Quantity  # of all steps of a prompt
    utilization: Quantity  # prompts that come, as a fraction of those that full steps take
    together: Quantity  # prompts in the steps of a prompt, itself included


class Steps:
    """Seconds of the steps of a replica, for s prompt and o output tokens."""

    def __init__(
        self,
        scenario: Scenario,
        policy: Policy,
        host: Host,
        s: Quantity,
        o: Quantity,
        asked: Quantity,
        context: Quantity | None = None,
        speculation: Speculation = PLAIN,
    ) -> None:
        self.scenario, self.policy, self.host, self.s, self.o = scenario, policy, host, s, o
        self.new = maximum(s - floor(s * policy.cached_prefix + SLACK), 1.0)
        self.speculation, self.decode_steps = speculation, _decode_steps(o, speculation)
        self.draft = scenario.of_draft() if speculation.drafted else None
        self.asked = asked  # requests in flight of one replica
        self.front = policy.front_seconds + policy.front_serial_seconds
        self.context = s + o / 2 if context is None else context  # mean cached tokens of a running sequence

    def _decode(self, n: Quantity) -> list[Op]:
        """Return the operators of a decode step at the mean context, those of the drafts included."""
        spec = self.speculation
        ops = pass_ops(self.scenario, Step(n, spec.checked, self.context, "decode"))
        if self.draft is None:
            return ops
        drafted = pass_ops(self.draft, Step(n, 1.0, self.context, "decode"))
        return ops + [op._replace(name=f"draft_{op.name}", count=op.count * spec.drafted) for op in drafted]

    def _budget(self, n: Quantity) -> Quantity:
        """Return the most prompt tokens of a step beside `n` running sequences."""
        decoding = n * self.speculation.checked if self.policy.mixed else 0.0
        return maximum(self.policy.max_num_batched_tokens - decoding, 1.0)

    def _with_prompts(self, n: Quantity, alone: Quantity) -> tuple[Timed, Quantity, Quantity]:
        """Return the operators of a step that carries prompts, how many, and how many steps they take.

        `alone` are the seconds of a decode step. On a pipeline these are the prompts of one micro-batch.
        """
        policy, budget = self.policy, self._budget(n)
        steps = -floor(-self.new / budget)
        each = n / self.decode_steps
        # Sequences end at random times: the mean number of ends in those steps in which one ends (Poisson).
        prefilling = 1.0 - power(e, -each)
        together = each / prefilling
        if not policy.mixed:
            # If the front end takes longer than a decode step, others run before the prompt comes, and the prompts of
            # their ends come together while it is prefilled.
            together = together * (1.0 + prefilling * maximum(self._passed(alone, self.front) - 1.0, 0.0) / 2.0)
        together = minimum(together, maximum(n, 1.0))
        if some(self.o <= 1):
            together = where(self.o > 1, together, self.asked / self._turns())
        stages = self.scenario.layout.pp_size
        prompts = maximum(minimum(together / stages, budget / self.new), 1.0)
        chunk = self.new / steps
        part = Step(prompts, chunk, self.s - self.new + (self.new - chunk) / 2)
        prefill = pass_ops(self.scenario, part)
        if self.draft is not None:
            prefill += [op._replace(name=f"draft_prefill_{op.name}") for op in pass_ops(self.draft, part)]
        ops = mixed_step_ops(self._decode(n), prefill) if policy.mixed else prefill
        return self.scenario.timed(ops), prompts, steps

    def _turns(self) -> Quantity:
        """Return how many steps pass from one request of a client for a single token to the next, two at least.

        One is that of the request; in the others the front end passes the next request on. If half of the requests are
        in a step, the front end has the time of a step for the other half.
        """
        half = maximum(minimum(self.asked / 2, self._budget(1.0) / self.new), 1.0)
        timed = self.scenario.timed(pass_ops(self.scenario, Step(half, self.new, self.s - self.new)))
        received = self.front + (half - 1.0) * self.policy.front_serial_seconds
        return 1.0 + maximum(self._passed(self._prefill_step(timed, half * self.new, half), received), 1.0)

    def _passed(self, step: Quantity, received: Quantity) -> Quantity:
        """Return how many steps of `step` seconds begin in the `received` seconds of the front end."""
        return -floor(-received / step)

    def _prefill_step(self, timed: Timed, rows: Quantity, sequences: Quantity) -> Quantity:
        """Return the seconds of a step with prompts, host time included."""
        launches = where(rows > self.host.graph_rows, self.host.prefill, 0.0)
        return self.host.around(maximum(pass_seconds(timed), launches), sequences)

    def seconds(self, n: Quantity) -> StepSeconds:
        """Return the seconds of the steps beside `n` running sequences.

        Host time is included. Without decode steps (o = 1) a prompt adds its share of a step full of prompts. On a
        pipeline of p stages the prompts of p micro-batches pass at the same time, each through one stage.
        """
        decoding = n if self.policy.mixed else 0.0
        alone = self.host.around(pass_seconds(self.scenario.timed(self._decode(n))), n)
        timed, prompts, steps = self._with_prompts(n, alone)
        rows = decoding * self.speculation.checked + prompts * self.new / steps
        busy = self._prefill_step(timed, rows, decoding + prompts)
        shared = alone if self.policy.mixed else 0.0
        stages = self.scenario.layout.pp_size
        together = prompts * stages
        fit = maximum(self._budget(n) / self.new, 1.0) * stages
        ends = n / self.decode_steps
        return StepSeconds(
            alone,
            steps * (busy - where(self.o > 1, shared, 0.0)) / together,
            steps * busy,
            ends * steps / fit,
            together,
        )

    def first_token(self, n: Quantity, cycle: Quantity, step: StepSeconds) -> Quantity:
        """Return the seconds until the first token of a request that finds a free slot beside `n` others.

        `cycle` are the seconds from its first to its last token.
        """
        busy = step.utilization if self.policy.mixed else 0.0
        queue = mean_wait(busy, 1.0) * maximum(1 - 1 / maximum(n, 1.0), 0.0)
        return self.front + self._rest_of_step(n, cycle, step) + (1 + queue) * step.prompt

    def _rest_of_step(self, n: Quantity, cycle: Quantity, step: StepSeconds) -> Quantity:
        """Return the seconds that a request waits for the running step when the front end passes it on.

        A client sends its request when its previous one has ended, at the end of a step. Of the next step all but the
        front end's time remains, and half of it at least: with a longer front end the two are unrelated.
        """
        ends = n / self.decode_steps
        prefilling = 1.0 - power(e, -ends)  # fraction of decode steps with an end (Poisson), after which a prompt comes
        after = cycle / self.decode_steps if self.policy.mixed else prefilling * (step.prompt - step.alone) + step.alone
        occupied = 1.0 - power(1.0 - minimum(n / self.asked, 1.0), self.asked - 1.0)  # whether another request runs
        # Requests for single tokens have turns.
        return where(self.o > 1, occupied * maximum(after - self.front, after / 2), 0.0)

    def terms(self, n: Quantity) -> dict[str, Quantity]:
        """Return the seconds of the mean step by limiting term; each operator counts under its largest term."""
        decode = self.scenario.timed(self._decode(n))
        alone = pass_seconds(decode)
        prompts = n / self.decode_steps / self.scenario.layout.pp_size
        found: dict[str, Quantity] = dict.fromkeys(_RESOURCES, 0.0)
        timed, carried_by_one, steps = self._with_prompts(n, self.host.around(alone, n))
        busy = where(self.o > 1, prompts / carried_by_one, 1.0)
        for weight, entries in ((maximum(1 - busy, 0.0), decode), (busy * steps, timed)):
            for _, op, cost in entries:
                runs = weight * op.count
                found["compute"] += runs * where(cost.compute >= cost.memory, cost.compute, 0.0)
                found["memory bandwidth"] += runs * where(cost.memory > cost.compute, cost.memory, 0.0)
                found["network"] += runs * cost.network
                found["kernel launches"] += runs * cost.launch
        # Requests that the front end receives in turn while a step runs.
        together = where(self.o > 1, prompts, carried_by_one) * self.scenario.layout.pp_size
        received, gpu = self.policy.front_serial_seconds * together, sum(found.values())
        least = self.host.least(n)
        found["host"] = self.host.waits(n) + where(least >= alone, least, 0.0) + where(received >= gpu, received, 0.0)
        return found


def mean_wait(rate: Quantity, service: Quantity) -> Quantity:
    """Return the mean wait of a queue with Poisson arrivals and constant service time, in seconds.

    Pollaczek and Khinchine: u service / (2 (1 - u)) with the utilization u = rate * service, at most `_MOST_BUSY`.
    """
    busy = minimum(rate * service, _MOST_BUSY)
    return busy * service / (2 * (1 - busy))


def _limit(terms: dict[str, Quantity], waits: Mask, by_cache: Quantity, by_slots: float) -> Any:
    """Return the limit of the server: free slots if requests wait for them, else the largest term of a step."""
    if all(isinstance(value, NUMBER) for value in (*terms.values(), by_cache)) and isinstance(waits, bool):
        if waits:
            return "KV cache" if by_cache < by_slots else "max_num_seqs"
        return max(terms, key=lambda name: terms[name])
    import numpy as np

    names = np.array(list(terms))
    values = np.broadcast_arrays(*terms.values(), by_cache, waits)
    largest = names[np.argmax(np.stack(values[: len(names)]), axis=0)]
    return np.where(values[-1], np.where(values[-2] < by_slots, "KV cache", "max_num_seqs"), largest)


def limiting_resource(
    scenario: Scenario,
    policy: Policy,
    times: StepTimes,
    seq_len: float,
    num_tokens: float,
    sequences: float,
    asked: float,
) -> str:
    """Return the limit of a replica that runs `sequences` on average, with `asked` requests in flight at most."""
    # Of single tokens all sequences that run are in one step, half of the requests in flight at most.
    step = Steps(scenario, policy, times.host, seq_len, num_tokens, 2.0 * sequences, speculation=times.speculation)
    by_cache = _held(policy, seq_len, num_tokens / 2)
    slots = min(float(by_cache), float(policy.max_num_seqs))
    # If fewer than half of the slots are taken on average, requests wait for prefill and not for a slot.
    waits = asked > slots and sequences >= slots / 2
    return str(_limit(step.terms(max(sequences, 1.0)), waits, by_cache, float(policy.max_num_seqs)))
