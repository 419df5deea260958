"""The simulation with jumps against an independent one that takes every step by itself, written with SimPy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_analysis.serving.scheduler import Policy, Replica, Request
from llm_analysis.serving.step_times import PLAIN, Host, Speculation, StepTimes, Table

simpy = pytest.importorskip("simpy")

ROWS = [1.0, 64.0, 512.0, 4096.0, 65536.0]


def step_times(
    host: Host = Host(),  # noqa: B008
    kinks: tuple[float, ...] = (0.0, 1e6),
    stages: int = 1,
    speculation: Speculation = PLAIN,
) -> StepTimes:
    """A made-up GPU: 5 ms for the weights, 40 us per row beyond 64, 10 ns per cached token."""
    times = StepTimes(
        body=Table(ROWS, [0.005 + 4e-5 * max(r - 64, 0.0) for r in ROWS]),
        head=Table([1.0, 1e4], [1e-4, 1e-2]),
        kinks=list(kinks),
        decode=[Table([1.0, 1e4], [1e-8 * min(k, 3e5) + 2e-5, 1e-4 * min(k, 3e5) + 2e-5]) for k in kinks],
        prefill=[Table([1.0, 1e5], [1e-8 * k, 1e-8 * k + 1e-4]) for k in kinks],
        prefill_launch=1e-4,
        host=host,
        stages=stages,
        speculation=speculation,
    )
    return times._replace(draft=times._replace(host=Host(), speculation=PLAIN)) if speculation.drafted else times


@dataclass
class Sequence:
    """One request in the reference simulation."""

    number: int
    request: Request
    sent: float = 0.0
    tokens: list[float] = field(default_factory=list)  # when each was given
    cached: float = 0
    made: float = 0  # tokens that it was given; each time of `tokens` stands for those of a step
    prompt: float = 0  # to prefill; after a preemption the generated tokens too
    order: int = 0
    later: float = 0.0  # seconds in which its prompt was in later stages of a pipeline


class Reference:
    """An engine that takes one step at a time. Shares nothing with `Replica` but the records that both read."""

    def __init__(self, times: StepTimes, policy: Policy, requests: list[Request], max_concurrency: float) -> None:
        self.times, self.policy = times, policy
        self.env = simpy.Environment()
        self.sequences = [Sequence(i, request) for i, request in enumerate(requests)]
        self.waiting: list[Sequence] = []
        self.prefilling: list[Sequence] = []
        self.running: list[Sequence] = []
        self.preemptions = 0
        self.admissions = 0
        self.wake = self.env.event()
        capacity = len(requests) if max_concurrency == inf else int(max_concurrency)
        self.slots = simpy.Resource(self.env, capacity=max(capacity, 1))
        self.held: dict[int, Any] = {}
        self.env.process(self.client())
        self.env.process(self.engine())

    def client(self) -> Iterator[Any]:
        for sequence in self.sequences:
            if sequence.request.due > self.env.now:
                yield self.env.timeout(sequence.request.due - self.env.now)
            slot = self.slots.request()
            yield slot
            self.held[sequence.number] = slot
            sequence.sent = self.env.now
            sequence.prompt = sequence.request.input_tokens
            self.waiting.append(sequence)
            if not self.wake.triggered:
                self.wake.succeed()

    def used(self) -> float:
        """KV tokens of running sequences and of prompts in prefill."""
        return sum(s.cached for s in self.running) + sum(s.prompt for s in self.prefilling)

    def admit(self, budget: float) -> list[tuple[Sequence, float, float]]:
        """(sequence, tokens, tokens before) of the prefill work of a step."""
        p, work = self.policy, list[tuple[Sequence, float, float]]()
        for sequence in self.prefilling:
            tokens = min(budget, sequence.prompt - sequence.cached)
            if tokens > 0:
                work.append((sequence, tokens, sequence.cached))
                budget -= tokens
        while self.waiting and budget > 0:
            sequence, count = self.waiting[0], len(self.running) + len(self.prefilling)
            to_come = sequence.request.output_tokens - sequence.made
            reserved = sum(s.request.output_tokens - s.made for s in self.running + self.prefilling)
            need = self.used() + sequence.prompt + p.block_tokens / 2 * (count + 1) + p.reserve * (reserved + to_come)
            if count >= p.max_num_seqs or (count and need > p.kv_tokens):
                break
            if sequence.prompt > budget and not p.chunked and (work or (p.mixed and self.running)):
                break
            tokens = min(budget, sequence.prompt) if p.chunked else sequence.prompt
            work.append((sequence, tokens, 0))
            budget -= tokens
            self.prefilling.append(self.waiting.pop(0))
            self.admissions += 1
            sequence.order = self.admissions
        return work

    def full(self) -> bool:
        n = len(self.running)
        coming = n * self.times.speculation.tokens
        return n > 1 and self.used() + coming + self.policy.block_tokens / 2 * n > self.policy.kv_tokens

    def others_at_this_time(self) -> Iterator[Any]:
        """Let the client send all that is due now."""
        while self.env.peek() <= self.env.now:
            yield self.env.timeout(0)

    def release(self, sequence: Sequence) -> Iterator[Any]:
        """Let the client send another request when the last token of one leaves the last stage."""
        yield self.env.timeout(sequence.later)
        self.slots.release(self.held.pop(sequence.number))

    def engine(self) -> Iterator[Any]:
        while True:
            while not (self.waiting or self.prefilling or self.running):
                self.wake = self.env.event()
                yield self.wake
                yield from self.others_at_this_time()
            checked = len(self.running) * (1 + self.times.speculation.drafted)
            work = self.admit(self.policy.max_num_batched_tokens - (checked if self.policy.mixed else 0))
            decoding = self.running if self.policy.mixed or not work else []
            while decoding and self.full():
                victim = max(self.running, key=lambda s: s.order)
                self.running.remove(victim)
                victim.prompt, victim.cached = victim.cached + 1, 0
                self.waiting.insert(0, victim)
                self.preemptions += 1
            ending = [s for s, tokens, before in work if before + tokens >= s.prompt]
            context = sum(s.cached for s in self.running)
            parts = [(float(tokens), float(before)) for _, tokens, before in work]
            seconds = self.times.step_seconds(len(decoding), context, parts, len(ending))
            passage = self.times.passage_seconds(len(decoding), context, parts, len(ending)) if ending else 0.0
            yield self.env.timeout(seconds)
            for s, tokens, _ in work:
                s.cached += tokens
            for s in decoding:
                s.cached += self.times.speculation.tokens
                s.made += self.times.speculation.tokens
            for s in ending:
                s.made += 1
            for s in ending:
                if not s.tokens and self.times.stages > 1:
                    s.later = max(passage - seconds, 0.0)
            for s in [*decoding, *ending]:
                s.tokens.append(self.env.now + s.later)
            for s in ending:
                self.prefilling.remove(s)
                self.running.append(s)
            for s in [s for s in self.running if s.made >= s.request.output_tokens - 1e-9]:
                self.running.remove(s)
                if s.later:
                    self.env.process(self.release(s))
                else:
                    self.slots.release(self.held.pop(s.number))
            yield from self.others_at_this_time()


POLICIES = {
    "mixed": Policy(max_num_seqs=32, max_num_batched_tokens=512),
    "prefill first": Policy(max_num_seqs=32, max_num_batched_tokens=2048, mixed=False),
    "prefill first, whole prompts": Policy(max_num_seqs=32, max_num_batched_tokens=512, mixed=False, chunked=False),
    "whole prompts": Policy(max_num_seqs=32, max_num_batched_tokens=700, chunked=False),
    "few sequences": Policy(max_num_seqs=4, max_num_batched_tokens=512),
    "small cache": Policy(max_num_seqs=32, max_num_batched_tokens=512, kv_tokens=3000.0),
    "small cache, prefill first": Policy(32, 2048, kv_tokens=3000.0, mixed=False),
    "small cache, outputs reserved": Policy(32, 512, kv_tokens=3000.0, reserve=1.0),
}
HOSTS = {
    "no host time": Host(),
    "serial": Host(step=2e-3, sequence=5e-5),
    "overlapped": Host(beside=4.5e-3, beside_sequence=3e-4, prefill=0.03),
    "both": Host(step=1e-3, sequence=2e-5, beside=5.5e-3, beside_sequence=2e-4, stream=2e-4),
}


def load(count: int, rate: float, seed: int) -> list[Request]:
    random, now, requests = Random(seed), 0.0, []
    for _ in range(count):
        now += random.expovariate(rate) if rate < inf else 0.0
        requests.append(Request(now, random.randint(1, 900), random.randint(1, 300)))
    return requests


def both(
    times: StepTimes, policy: Policy, requests: list[Request], max_concurrency: float = inf
) -> tuple[Replica, Reference]:
    replica = Replica(times, policy, max_concurrency)
    replica.submit(requests)
    replica.advance()
    reference = Reference(times, policy, requests, max_concurrency)
    reference.env.run()
    return replica, reference


def assert_agree(replica: Replica, reference: Reference) -> None:
    """All times agree to 1e-6: a jump adds up the same linear step times in closed form."""
    assert replica.preemptions == reference.preemptions
    for s in reference.sequences:
        assert replica.sent[s.number] == pytest.approx(s.sent, rel=1e-6, abs=1e-9)
        assert replica.first[s.number] == pytest.approx(s.tokens[0], rel=1e-6)
        assert replica.end[s.number] == pytest.approx(s.tokens[-1], rel=1e-6)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("rate", [2.0, 8.0, inf])
def test_the_simulation_agrees_with_a_step_by_step_one(name: str, rate: float) -> None:
    assert_agree(*both(step_times(), POLICIES[name], load(150, rate, 7)))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", ["mixed", "prefill first"])
def test_both_agree_on_host_time(name: str, host: str) -> None:
    assert_agree(*both(step_times(HOSTS[host]), POLICIES[name], load(150, 6.0, 8)))


@pytest.mark.parametrize("name", ["mixed", "prefill first", "small cache"])
def test_both_agree_on_a_closed_loop(name: str) -> None:
    assert_agree(*both(step_times(), POLICIES[name], load(150, inf, 9), 16))


@pytest.mark.parametrize("stages", [2, 4])
@pytest.mark.parametrize("max_concurrency", [1, 16, inf])
@pytest.mark.parametrize("name", ["mixed", "prefill first", "small cache"])
def test_both_agree_on_a_pipeline(name: str, max_concurrency: float, stages: int) -> None:
    """A client in a closed loop sends when the last token leaves the last stage, whatever ends in between."""
    times = step_times(HOSTS["serial"], stages=stages)
    assert_agree(*both(times, POLICIES[name], load(150, 6.0, 11), max_concurrency))
    assert_agree(*both(times, POLICIES[name], load(150, inf, 12), max_concurrency))


@pytest.mark.parametrize("tokens", [1.0, 2.19, 4.0])
@pytest.mark.parametrize("name", POLICIES)
def test_both_agree_on_speculative_decoding(name: str, tokens: float) -> None:
    """Three drafted tokens are checked in each step, of which some are accepted."""
    times = step_times(HOSTS["both"], speculation=Speculation(3, tokens))
    assert_agree(*both(times, POLICIES[name], load(150, 6.0, 13)))
    assert_agree(*both(times, POLICIES[name], load(150, inf, 14), 16))


def test_one_request_with_drafts_takes_a_step_for_each_group_of_accepted_tokens() -> None:
    """10 further tokens, 4 in each step: 3 steps of 4 rows and 3 passes of the draft."""
    times = step_times(speculation=Speculation(3, 4.0))
    replica = Replica(times, Policy())
    replica.submit([Request(0.0, 100, 11)])
    replica.advance()
    first = times.step_seconds(0, 0, [(100.0, 0.0)], 1)
    steps = [times.step_seconds(1, 100 + 4 * i, [], 0) for i in range(3)]
    assert replica.first[0] == pytest.approx(first)
    assert replica.end[0] == pytest.approx(first + sum(steps))
    plain = step_times()
    assert steps[0] == pytest.approx(
        plain.body(4) + plain.head(4) + 4 * plain.decode_line(1, 100)[0] + 3 * (plain.body(1) + plain.head(1))
    )


def test_both_agree_where_a_sliding_window_fills_up() -> None:
    times = step_times(kinks=(0.0, 400.0, 3e5, 1e6))
    assert_agree(*both(times, POLICIES["mixed"], load(150, 6.0, 10)))


@given(st.integers(0, 10**6), st.floats(0.5, 50.0), st.sampled_from(sorted(POLICIES)), st.integers(1, 40))
def test_both_agree_on_any_load(seed: int, rate: float, name: str, max_concurrency: int) -> None:
    assert_agree(*both(step_times(), POLICIES[name], load(40, rate, seed), max_concurrency))


def test_preemption_happens_where_the_cache_is_small() -> None:
    """Otherwise the agreement above would say nothing about it."""
    replica, _ = both(step_times(), POLICIES["small cache"], load(150, inf, 7))
    assert replica.preemptions > 0
    replica, _ = both(step_times(), POLICIES["small cache, outputs reserved"], load(150, inf, 7))
    assert replica.preemptions == 0


@given(st.integers(0, 10**6), st.floats(0.5, 50.0), st.sampled_from(sorted(POLICIES)))
def test_no_request_and_no_token_is_lost(seed: int, rate: float, name: str) -> None:
    requests = load(60, rate, seed)
    replica = Replica(step_times(), POLICIES[name])
    replica.submit(requests)
    replica.advance()
    assert replica.finished == len(requests)
    assert all(sent <= first <= end for sent, first, end in zip(replica.sent, replica.first, replica.end, strict=True))
    assert sum(count for _, _, count in replica.gaps) == sum(r.output_tokens - 1 for r in requests)
    spans = sum(end - first for first, end in zip(replica.first, replica.end, strict=True))
    assert sum(seconds * count for _, seconds, count in replica.gaps) == pytest.approx(spans, rel=1e-6)


def test_late_tokens_come_one_decode_step_later() -> None:
    times = step_times()
    found = []
    for late in (False, True):
        replica = Replica(times, Policy(late_tokens=late))
        replica.submit([Request(0.0, 100, 11)])
        replica.advance()
        found.append((replica.first[0], replica.end[0]))
    (first, end), (late_first, late_end) = found
    assert late_first - first == pytest.approx(times.decode_seconds(1, 100.0)[0])
    assert late_end - late_first == pytest.approx(end - first)
