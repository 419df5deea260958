"""Discrete-event simulation of one replica of a serving engine with continuous batching.

Every running sequence gets t tokens per step: one, or more with speculative decoding. A sequence that joins at step s
with o tokens to come ends at step s + ceil(o / t); the end steps are kept in a heap. Between two events (an end, an
arrival, prefill work, a full KV cache) the batch stays as it is and only the number of cached tokens grows, by n t per
step, so m steps are one jump:

    seconds(m) = m a + g m (m - 1) / 2        a: first of these steps, g: growth per step (decode attention)

Policies
    mixed          each step decodes all sequences and fills the rest of the token budget with prefill (vLLM from 0.8,
                   TensorRT-LLM); otherwise prefill steps run alone and first (SGLang, vLLM before 0.8)
    chunked        a prompt beyond the budget is cut; otherwise it waits for a step that can take it whole
    reserve        fraction of the output tokens to come, of a new request and of all running ones, for which the KV
                   cache must have room to admit it: 0 for vLLM, 0.3 for SGLang, 1 for TensorRT-LLM's
                   GUARANTEED_NO_EVICT; below 1, sequences are preempted when the cache is full
Preemption is by recomputation: the sequence that was admitted last frees its cache and queues first, with the tokens it
has generated as a part of its prompt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import ceil, inf, sqrt
from typing import NamedTuple

from llm_analysis.serving.step_times import StepTimes

SLACK = 1e-9  # rounding of a number of steps or tokens


class Policy(NamedTuple):
    """Limits and order of a scheduler."""

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    kv_tokens: float = inf  # capacity of the KV cache
    block_tokens: int = 16  # tokens per block; a sequence wastes half a block on average
    mixed: bool = True
    chunked: bool = True
    reserve: float = 0.0
    cached_prefix: float = 0.0  # fraction of each prompt that the prefix cache holds
    front_seconds: float = 0.0  # HTTP and tokenizer, before the engine receives the request
    front_serial_seconds: float = 0.0  # more per request, in the process that receives one request after another
    late_tokens: bool = False  # whether the tokens of a step reach the client at the end of the next one
    last_block_again: bool = False  # whether a decode worker computes the last block of each prompt again


class Request(NamedTuple):
    """A request: when the client wants to send it, and its tokens."""

    due: float
    input_tokens: int
    output_tokens: int


class Chunk(NamedTuple):
    """Prefill work of one request in a step: tokens to compute, tokens computed before, tokens of the prompt."""

    request: int
    tokens: float
    done: float
    total: float


@dataclass(slots=True)
class Prompt:
    """A prompt in prefill: its tokens computed so far, and in all."""

    request: int
    done: float
    total: float


class Replica:
    """One engine: submit requests in the order of their due times, `advance`, then read the records.

    `sent`, `first` and `end` are the times of each request's submission, first token and last token (0 until then).
    `gaps` is a list of (time of the last one, seconds, how often) of the times between two tokens of a sequence.
    """

    def __init__(self, times: StepTimes, policy: Policy, max_concurrency: float = inf, decode_only: bool = False):
        self.times, self.policy, self.max_concurrency, self.decode_only = times, policy, max_concurrency, decode_only
        self._pace = times.speculation.tokens  # tokens of a sequence in a step
        self.now = 0.0
        self.requests: list[Request] = []
        self.sent: list[float] = []
        self.first: list[float] = []
        self.end: list[float] = []
        self.gaps: list[tuple[float, float, float]] = []
        self.preemptions = 0
        self.peak_sequences = 0
        self.peak_kv_tokens = 0.0
        self.steps = 0
        self.prefill_steps = 0
        self.gpu_seconds = 0.0  # seconds in which a step ran
        self.sequence_seconds = 0.0  # integral of running sequences
        self.finished = 0
        self.ended: list[int] = []  # indices of ended requests, in that order
        self._next = 0  # index of the first request that is not submitted
        self._front_free = 0.0
        self._transit: deque[tuple[float, int]] = deque()  # requests that are submitted, but not yet in the engine
        self._waiting: deque[int] = deque()
        self._prefilling: list[Prompt] = []
        self._ends: list[tuple[int, int]] = []  # heap of (end step, request)
        # running requests in the order of admission; ended ones are removed when they come up
        self._admitted: list[int] = []
        self._end_step: dict[int, int] = {}
        # running requests: (step of joining, cached tokens then, tokens to come after it)
        self._start: dict[int, tuple[int, float, float]] = {}
        # preempted requests: (tokens to recompute, output tokens to come)
        self._recompute: dict[int, tuple[float, float]] = {}
        self._running = 0
        self._context = 0.0  # cached tokens of the running requests
        self._held = 0.0  # KV tokens of prompts in prefill
        self._reserved = 0.0  # output tokens still to come of the running and prefilling ones
        self._step = 0
        self._stalled: list[tuple[float, float]] = []  # (time of the last token, sequences) during prefill steps
        self._lost: dict[int, float] = {}  # preempted requests: the time of their last token
        self._later: dict[int, float] = {}  # requests: the time that their prompt spent in later stages of a pipeline
        self._leaving: list[tuple[float, int]] = []  # heap of (end, request): their last token may be in a later stage

    @property
    def outstanding(self) -> int:
        """Requests that were given to this engine and have not ended."""
        return len(self.requests) - self.finished

    @property
    def busy_from(self) -> float:
        """When something can happen next: now, or when the front end passes a request on or a last token leaves."""
        if self._running or self._waiting or self._prefilling:
            return self.now
        return max(self.now, min(self._arrival(), self._leaving[0][0] if self._leaving else inf))

    def submit(self, requests: Sequence[Request]) -> None:
        """Add requests; their due times must not decrease."""
        self.requests += requests
        empty = [0.0] * len(requests)
        self.sent += empty
        self.first += empty
        self.end += empty

    def advance(self, until: float = inf, until_finished: float = inf) -> None:
        """Run until the clock reaches `until`, `until_finished` requests have ended, or all have."""
        while self.finished < until_finished:
            self._take(self.now)
            if not (self._running or self._waiting or self._prefilling):
                coming = self._transit[0][0] if self._transit else self._due()
                if self._leaving:
                    coming = min(coming, self._leaving[0][0])
                if coming == inf or coming >= until:
                    self.now = max(self.now, until) if until < inf else self.now
                    return
                self.now = max(self.now, coming)
                self._take(self.now)
                if not self._waiting:
                    continue
            if self.now >= until:
                return
            chunks = self._schedule() if self._waiting or self._prefilling else []
            if chunks:
                self._prefill_step(chunks)
            else:
                self._jump(until)

    def _arrival(self) -> float:
        """Return when the engine gets the next request that is in transit or will be submitted."""
        if self._transit:
            return self._transit[0][0]
        start = max(self._due(), self._front_free)
        return start + self.policy.front_serial_seconds + self.policy.front_seconds

    def _due(self) -> float:
        """Return when the next request can be submitted, as far as that is known."""
        if self._next >= len(self.requests):
            return inf
        due = self.requests[self._next].due
        if self._next - self.finished < self.max_concurrency:
            return due
        return max(due, self._leaving[0][0]) if self._leaving else inf

    def _take(self, now: float) -> None:
        """Submit the requests that are due, end those with all tokens, and queue those that have reached the engine.

        A client at its concurrency limit sends the next request when one ends.
        """
        self._send(now, 0.0)
        while self._leaving and self._leaving[0][0] <= now:
            end, i = heappop(self._leaving)
            self.ended.append(i)
            self.finished += 1
            self._send(now, end)
        transit = self._transit
        while transit and transit[0][0] <= now:
            self._waiting.append(transit.popleft()[1])

    def _send(self, now: float, not_before: float) -> None:
        """Submit the requests that are due, up to the concurrency limit."""
        requests, policy = self.requests, self.policy
        while self._next < len(requests) and self._next - self.finished < self.max_concurrency:
            due = requests[self._next].due
            if due > now:
                break
            sent = due if due > not_before else not_before
            self.sent[self._next] = sent
            start = sent if sent > self._front_free else self._front_free
            self._front_free = start + policy.front_serial_seconds
            self._transit.append((self._front_free + policy.front_seconds, self._next))
            self._next += 1

    def _schedule(self) -> list[Chunk]:
        """Return the prefill work of the next step within its budget: prompts that are begun, then waiting ones."""
        p = self.policy
        budget = p.max_num_batched_tokens - (self._running * self.times.speculation.checked if p.mixed else 0)
        chunks: list[Chunk] = []
        for prompt in self._prefilling:
            if budget <= 0:
                break
            left = prompt.total - prompt.done
            chunk = Chunk(prompt.request, min(budget, left), prompt.done, prompt.total)
            prompt.done += chunk.tokens
            budget -= chunk.tokens
            chunks.append(chunk)
        while self._waiting and budget > 0 and self._running + len(self._prefilling) < p.max_num_seqs:
            admitted = self._admit(budget, alone=not chunks and not (p.mixed and self._running))
            if admitted is None:
                break
            budget -= admitted.tokens
            chunks.append(admitted)
        return chunks

    def _admit(self, budget: float, alone: bool) -> Chunk | None:
        """Return the first chunk of the first waiting request, and admit it; None if it has to wait.

        It waits for KV cache or, uncut beyond the budget, for a step of its own (`alone`).
        """
        p, i = self.policy, self._waiting[0]
        total, to_come = self._tokens_of(i)
        count = self._running + len(self._prefilling)
        used = self._context + self._held + p.block_tokens / 2 * (count + 1)
        if used + total + p.reserve * (self._reserved + to_come) > p.kv_tokens and count:
            return None
        # What a preempted request had in the cache is lost; a new one of a decode worker comes with its cache.
        if i in self._recompute:
            done = 0.0
        elif self.decode_only:
            done = total - ((total - 1) % p.block_tokens + 1 if p.last_block_again else 0)
        else:
            done = min(int(total * p.cached_prefix + SLACK), total - 1)
        tokens = total - done
        if tokens > budget:
            if not p.chunked and not alone:
                return None
            tokens = budget if p.chunked else tokens
        self._waiting.popleft()
        self._held += total
        self._reserved += to_come
        self._prefilling.append(Prompt(i, done + tokens, total))
        return Chunk(i, tokens, done, total)

    def _prefill_step(self, chunks: list[Chunk]) -> None:
        """Run one step with prefill; under `mixed` the running sequences get a token too.

        Requests that come with their cache, without tokens to prefill, join at once, without a step.
        """
        parts = [(chunk.tokens, chunk.done) for chunk in chunks if chunk.tokens]
        n = self._running if self.policy.mixed and parts else 0
        if n and self._full(n):
            self._preempt()
            n = self._running
        ending = [chunk.request for chunk in chunks if chunk.done + chunk.tokens >= chunk.total]
        seconds = later = 0.0
        if parts:
            seconds = self.times.step_seconds(n, self._context, parts, len(ending))
            if self.times.stages > 1 and ending:
                later = max(self.times.passage_seconds(n, self._context, parts, len(ending)) - seconds, 0.0)
            self.prefill_steps += 1
            self.steps += 1
        self.sequence_seconds += seconds * (self._running + len(self._prefilling))
        self.gpu_seconds += seconds
        self._note_peaks()
        now = self.now = self.now + seconds
        self._take(now)
        if n:
            self._tokens(1, n, seconds)
        elif self._running and parts and not self._stalled:
            self._stalled.append((now - seconds, float(self._running)))
        if ending:
            self._join(ending, now, later)
        self._finish(now)

    def _note_peaks(self) -> None:
        """Raise the peaks to the sequences and cached tokens of now."""
        self.peak_sequences = max(self.peak_sequences, self._running + len(self._prefilling))
        self.peak_kv_tokens = max(self.peak_kv_tokens, self._context + self._held)

    def _join(self, ending: list[int], now: float, later: float) -> None:
        """Move requests with a complete prompt to the running ones; each has its first token.

        On a pipeline the first stage is free for other work while the prompt passes the others: all tokens of the
        request come `later`.
        """
        done = set(ending)
        self._prefilling = [prompt for prompt in self._prefilling if prompt.request not in done]
        if self.policy.late_tokens:
            later += self._next_decode_seconds(ending)
        joined = 0
        for i in ending:
            total, to_come = self._tokens_of(i)
            self._recompute.pop(i, None)
            self._held -= total
            self._reserved -= to_come
            if not self.first[i]:
                self.first[i] = now + later
                self._later[i] = later
            elif i in self._lost:
                self.gaps.append((now, now - self._lost.pop(i), 1.0))
            if to_come <= 1:
                self._close(i, now)
                continue
            end = self._step + ceil((to_come - 1) / self._pace - SLACK)
            self._end_step[i] = end
            self._start[i] = (self._step, total, to_come - 1)
            heappush(self._ends, (end, i))
            self._admitted.append(i)
            self._running += 1
            self._context += total
            self._reserved += to_come - 1
            joined += 1
        if self._stalled and joined:
            self._stalled.append((now, float(joined)))

    def _next_decode_seconds(self, ending: list[int]) -> float:
        """Return the seconds of a decode step of the running sequences and those with a complete prompt."""
        n = self._running + len(ending)
        base, _ = self.times.decode_seconds(n, self._context + sum(self._tokens_of(i)[0] for i in ending))
        return self.times.with_host(base, n, 0.0)

    def _tokens_of(self, i: int) -> tuple[float, float]:
        """Return the tokens that a request has to prefill, and those that it then generates."""
        return self._recompute.get(i) or (self.requests[i].input_tokens, self.requests[i].output_tokens)

    def _jump(self, until: float) -> None:
        """Decode until the next event in one go."""
        p, times = self.policy, self.times
        n, full = self._running, self._full(self._running)
        if full:
            self._preempt()
            n = self._running
        ends = self._ends
        while self._end_step.get(ends[0][1]) != ends[0][0]:
            heappop(ends)
        # A preempted request may fit again after one step if a step adds more than the one token of its recomputation.
        m = 1 if full and self._pace > 1 else ends[0][0] - self._step
        free, grown = p.kv_tokens - self._context - self._held - p.block_tokens / 2 * n, n * self._pace
        if free < grown * m:
            m = max(int(free // grown), 1)
        base, slope = times.decode_seconds(n, self._context)
        a, g = times.with_host(base, n, 0.0), slope * grown
        shown = base + float(times.host.waits(float(n)))
        if a > shown:
            # The host's work beside the GPU is slower, until the attention has grown.
            m = min(m, max(int((a - shown) / g), 1)) if g > 0 else m
            g = 0.0
        if len(times.kinks) > 2:
            mean = self._context / n
            edge = next((k for k in times.kinks if k > mean), inf)
            m = min(m, max(ceil((edge - mean) / self._pace), 1))
        limit = until
        if n < p.max_num_seqs and not self._waiting:  # otherwise an arrival changes nothing before the next end
            limit = min(limit, self._arrival())
        wait = limit - self.now
        if wait < m * a + g * m * (m - 1) / 2:
            m = min(m, _steps_in(wait, a, g))
        seconds = m * a + g * m * (m - 1) / 2
        self.now += seconds
        self.steps += m
        self.gpu_seconds += seconds
        self.sequence_seconds += seconds * n
        self._tokens(m, n, seconds)
        self._take(self.now)
        self._finish(self.now)

    def _tokens(self, m: int, n: int, seconds: float) -> None:
        """Give each of the running sequences the tokens of `m` steps over `seconds`."""
        each = seconds / m
        if self._stalled:
            first_end = self.now - seconds + each
            self.gaps += [(first_end, first_end - since, count) for since, count in self._stalled]
            self._stalled = []
            if m > 1:
                self.gaps.append((self.now, each, float(n * (m - 1))))
        else:
            self.gaps.append((self.now, each, float(n * m)))
        self._step += m
        self._context += n * m * self._pace
        self._reserved -= n * m * self._pace
        self._note_peaks()

    def _finish(self, now: float) -> None:
        """End the sequences that have all their tokens."""
        ends, step = self._ends, self._step
        while ends and ends[0][0] <= step:
            end, i = heappop(ends)
            if self._end_step.get(i) == end:
                del self._end_step[i]
                start, held, to_come = self._start.pop(i)
                made = (step - start) * self._pace
                self._running -= 1
                self._context -= held + made
                self._reserved -= to_come - made  # below zero if the last step had more tokens than were to come
                self._close(i, now)
        if self._leaving:
            self._take(now)

    def _close(self, i: int, now: float) -> None:
        """Record the end of a request. Its last token leaves the pipeline as much later as its first one."""
        self.end[i] = now + self._later.pop(i, 0.0)
        heappush(self._leaving, (self.end[i], i))

    def _full(self, n: int) -> bool:
        """Return whether the next token of `n` sequences does not fit in the KV cache."""
        p = self.policy
        return self._context + self._held + n * self._pace + p.block_tokens / 2 * n > p.kv_tokens and n > 1

    def _preempt(self) -> None:
        """Preempt the sequences that were admitted last until the others' next tokens fit."""
        while self._full(self._running):
            i = self._admitted.pop()
            if i not in self._end_step:
                continue
            del self._end_step[i]
            start, held, to_come = self._start.pop(i)
            made = (self._step - start) * self._pace
            cached, to_come = held + made, to_come - made
            self._running -= 1
            self._context -= cached
            self._reserved -= to_come
            self._recompute[i] = (cached + 1, to_come)
            self._waiting.appendleft(i)
            self._lost[i] = self.now
            if self._stalled:
                self._lost[i], count = self._stalled.pop()
                if count > 1:
                    self._stalled.append((self._lost[i], count - 1))
            self.preemptions += 1


def _steps_in(wait: float, a: float, g: float) -> int:
    """Return the least number of steps, at least one, that take `wait` seconds or more."""
    if g <= 0:
        return max(ceil(wait / a - SLACK), 1)
    half = a - g / 2
    return max(ceil((sqrt(half * half + 2 * g * wait) - half) / g - SLACK), 1)
