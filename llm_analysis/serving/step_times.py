"""Step times of a serving engine as tables, built once per scenario from the operators that `infer` times.

A step runs n decode sequences and the chunks of k prompts together. Matrix products, norms and collectives see the rows
of both; the output head sees one row per sequence that gets a token; each attention sees its own sequences:

    seconds = body(n + chunk tokens) + head(sequences) + decode(n, cached tokens) + sum over chunks of prefill(chunk)

    body      operators that prefill and decode share, by rows
    head      final logits, by sequences
    decode    operators of a decode pass alone (attention, the absorbed products of MLA), by sequences and context
    prefill   operators of a prefill pass alone (attention, the expanded products of MLA), by tokens and context

For a given number of sequences the decode part is linear in the cached tokens between two kinks (where a window fills
up), so two points per stretch are exact. The prefill part divided by the chunk's tokens is linear in both arguments for
the same reason. The other tables are linear between grid points whose ratio is 2^(1/4).

With speculative decoding a step checks the k drafted tokens of each sequence beside its last one: n (k + 1) rows pass
the body and the head. The k passes of the draft model, and its prefill of the prompts, have tables of their own.

The engine's host time is added where the GPU waits for it; work beside the GPU counts if it is the slower of the two.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

from llm_analysis.hardware.roofline import pass_seconds
from llm_analysis.inference.scenario import Scenario
from llm_analysis.inference.workload import Workload
from llm_analysis.models.forward import stage_ops, stage_sends
from llm_analysis.physics.operators import Op, Step
from llm_analysis.units import Quantity, maximum

_GRID_RATIO = 2 ** (1 / 4)
HEAD = {"final_norm", "embedding_out", "output_head", "logits_all_gather", "pooler"}
_DIGITS = 12  # seconds to which table entries are rounded, because pow of a platform may differ in the last bits


class Host(NamedTuple):
    """Host time of an engine in seconds.

    The GPU waits for `step` and `sequence`. `beside`, `beside_sequence` and `stream` pass while it works: a step is not
    shorter than they are.
    """

    step: float = 0.0  # per step
    sequence: float = 0.0  # per sequence of a step
    beside: float = 0.0  # per step: preparation of the next one
    beside_sequence: float = 0.0
    stream: float = 0.0  # per output token, in the process that streams the answers
    prefill: float = 0.0  # least seconds of a step with prefill beyond the CUDA-graph size, the time of its launches
    graph_rows: float = 512.0  # most rows of a step that is replayed from a CUDA graph

    def waits(self, sequences: Quantity) -> Quantity:
        """Return the seconds of a step in which the GPU waits."""
        return self.step + self.sequence * sequences

    def least(self, sequences: Quantity) -> Quantity:
        """Return the seconds of the host's work beside the GPU, which a step is not shorter than."""
        return maximum(self.beside + self.beside_sequence * sequences, self.stream * sequences)

    def around(self, seconds: Quantity, sequences: Quantity) -> Quantity:
        """Return the seconds of a step, host time included; its GPU work takes `seconds`."""
        return maximum(seconds + self.waits(sequences), self.least(sequences))


class Table:
    """A function of one number, linear between grid points and beyond the last. Values are cached."""

    __slots__ = ("_known", "x", "y")

    def __init__(self, x: list[float], y: list[float]) -> None:
        self.x, self.y = x, y
        self._known: dict[float, float] = {}

    def __call__(self, x: float) -> float:
        """Return the value at `x`."""
        found = self._known.get(x)
        if found is None:
            i = min(max(bisect_right(self.x, x) - 1, 0), len(self.x) - 2)
            x0, y0 = self.x[i], self.y[i]
            found = self._known[x] = y0 + (self.y[i + 1] - y0) * (x - x0) / (self.x[i + 1] - x0)
        return found


class Speculation(NamedTuple):
    """Speculative decoding: drafted tokens of a sequence in each step, and the tokens that the step adds on average."""

    drafted: int = 0
    tokens: float = 1.0

    @staticmethod
    def of(workload: Workload) -> Speculation:
        """Return that of a workload."""
        return Speculation(workload.num_draft_tokens, workload.tokens_per_step)

    @property
    def checked(self) -> float:
        """Rows of a sequence in a step: its last token and the drafted ones."""
        return 1.0 + self.drafted


PLAIN = Speculation()


class StepTimes(NamedTuple):
    """Seconds of the parts of a step (see the head of this file)."""

    body: Table
    head: Table
    kinks: list[float]  # contexts between which the attention parts are linear
    decode: list[Table]  # by sequences, at each of `kinks`
    prefill: list[Table]  # seconds per token of the chunk, by its tokens, at each of `kinks`
    prefill_launch: float  # once for all chunks of a step
    host: Host
    stages: int = 1  # of a pipeline, which a chunk passes in turn
    speculation: Speculation = PLAIN
    draft: Any = None  # StepTimes of the draft model; None without one, or for n-grams

    def decode_line(self, n: int, total_context: float) -> tuple[float, float]:
        """Return (seconds, seconds per cached token) of the decode part at `n` sequences.

        The slope is that between the kinks around the mean context.
        """
        kinks = self.kinks
        mean = total_context / n
        j = 0 if len(kinks) == 2 else min(max(bisect_right(kinks, mean) - 1, 0), len(kinks) - 2)
        low, high = self.decode[j](n), self.decode[j + 1](n)
        slope = (high - low) / (kinks[j + 1] - kinks[j])
        return low + slope * (mean - kinks[j]), slope / n

    def chunk_seconds(self, tokens: float, context: float) -> float:
        """Return the seconds of the prefill part of one chunk that sees `context` cached tokens."""
        kinks = self.kinks
        j = 0 if len(kinks) == 2 else min(max(bisect_right(kinks, context) - 1, 0), len(kinks) - 2)
        low, high = self.prefill[j](tokens), self.prefill[j + 1](tokens)
        return tokens * (low + (high - low) * (context - kinks[j]) / (kinks[j + 1] - kinks[j]))

    def step_seconds(self, n: int, total_context: float, chunks: Sequence[tuple[float, float]], ending: int) -> float:
        """Return the seconds of one step.

        It runs `n` decode sequences with `total_context` cached tokens, and `chunks` as (tokens, context of each), of
        which `ending` complete a prompt.
        """
        checked = n * self.speculation.checked
        rows = checked + sum(tokens for tokens, _ in chunks)
        seconds = self.body(rows) + (self.head(checked + ending) if n + ending else 0.0)
        if n:
            seconds += self.decode_line(n, total_context)[0]
        if chunks:
            seconds += self._own_seconds(chunks)
        if self.draft:
            seconds += self._draft_seconds(n, total_context)[0] if n else 0.0
            seconds += self.draft.step_seconds(0, 0.0, chunks, 0) if chunks else 0.0
        return self.with_host(seconds, n + ending, rows if chunks else 0.0)

    def decode_seconds(self, n: int, total_context: float) -> tuple[float, float]:
        """Return (seconds, seconds per cached token) of the GPU in a step of `n` decode sequences alone."""
        checked = n * self.speculation.checked
        line, slope = self.decode_line(n, total_context)
        drafted, more = self._draft_seconds(n, total_context) if self.draft else (0.0, 0.0)
        return self.body(checked) + self.head(checked) + line + drafted, slope + more

    def _draft_seconds(self, n: int, total_context: float) -> tuple[float, float]:
        """Return (seconds, seconds per cached token) of the draft model's passes in a step of `n` sequences."""
        seconds, slope = self.draft.decode_seconds(n, total_context)
        return self.speculation.drafted * seconds, self.speculation.drafted * slope

    def _own_seconds(self, chunks: Sequence[tuple[float, float]]) -> float:
        """Return the seconds of the prefill part of chunks in one stage."""
        return self.prefill_launch + sum(self.chunk_seconds(tokens, context) for tokens, context in chunks)

    def passage_seconds(
        self, n: int, total_context: float, chunks: Sequence[tuple[float, float]], ending: int
    ) -> float:
        """Return the seconds in which chunks pass all stages of a pipeline, beside the sequences of one micro-batch.

        `body`, `head` and `decode` divide their `n` sequences by the stages, because those of a step are in as many
        micro-batches; the chunks are in one.
        """
        checked = n * self.speculation.checked
        rows = checked + self.stages * sum(tokens for tokens, _ in chunks)
        seconds = self.body(rows) + self.head(checked + ending) + self.stages * self._own_seconds(chunks)
        if n:
            seconds += self.decode_line(n, total_context)[0]
        return self.with_host(seconds, n + ending, rows)

    def with_host(self, seconds: float, sequences: int, prefill_rows: float) -> float:
        """Return the seconds of a step, host time included; its GPU work takes `seconds`."""
        if prefill_rows > self.host.graph_rows:
            seconds = max(seconds, self.host.prefill)
        return float(self.host.around(seconds, float(sequences)))


def build_step_times(
    scenario: Scenario,
    host: Host,
    max_rows: float,
    max_sequences: float,
    max_context: float,
    speculation: Speculation = PLAIN,
) -> StepTimes:
    """Return the tables of a scenario, up to the given rows, sequences and context. Raises LLMAnalysisError."""
    draft = scenario.of_draft() if speculation.drafted else None
    bends = [*scenario.model.decode_kinks, *(draft.model.decode_kinks if draft else ())]
    kinks = sorted({0.0, max_context, *(k for k in bends if 0 < k < max_context)})
    checked = speculation.checked
    times = _tables(scenario, kinks, _grid(max_rows * checked), _grid(max_sequences * checked), checked)
    return times._replace(
        host=host._replace(stream=host.stream * speculation.tokens),
        speculation=speculation,
        draft=None if draft is None else _tables(draft, kinks, _grid(max_rows), _grid(max_sequences)),
    )


def _tables(
    scenario: Scenario, kinks: list[float], rows: list[float], sequences: list[float], checked: float = 1.0
) -> StepTimes:
    """Return the tables of one model without host time; a decode step has `checked` rows per sequence."""
    common = {(op.name, op.kind) for op in pass_ops(scenario, Step(1.0, 2.0))}
    common &= {(op.name, op.kind) for op in pass_ops(scenario, Step(1.0, 1.0, 2.0, "decode"))}

    def seconds(step: Step, part: str) -> float:
        ops = [op for op in pass_ops(scenario, step) if _part(op, common) == part]
        return round(float(pass_seconds(scenario.timed(ops))), _DIGITS)

    def decode_at(context: float) -> Table:
        return Table(sequences, [seconds(Step(n, checked, context, "decode"), "own") for n in sequences])

    launch = sum(
        float(op.count) * float(cost.launch)
        for _, op, cost in scenario.timed(
            [op for op in pass_ops(scenario, Step(1.0, 2.0)) if _part(op, common) == "own"]
        )
    )

    stages = scenario.layout.pp_size

    def prefill_at(context: float) -> Table:
        return Table(rows, [(seconds(Step(1.0, tokens, context), "own") - launch) / stages / tokens for tokens in rows])

    return StepTimes(
        body=Table(rows, [seconds(Step(r, 1.0, 1.0, "decode"), "body") for r in rows]),
        head=Table(sequences, [seconds(Step(n, 1.0, 1.0, "decode"), "head") for n in sequences]),
        kinks=kinks,
        decode=[decode_at(context) for context in kinks],
        prefill=[prefill_at(context) for context in kinks],
        prefill_launch=round(launch / stages, _DIGITS),
        host=Host(),
        stages=stages,
    )


def pass_ops(scenario: Scenario, step: Step) -> list[Op]:
    """Return the operators of a pass through all layers.

    Each stage of a pipeline works on one micro-batch at a time, so it has its share of the rows.
    """
    a, pp = scenario, scenario.layout.pp_size
    if pp == 1:
        return stage_ops(a.model, step, a.dtypes, a.layout, 0, a.model.num_hidden_layers)
    batch = maximum(step.batch / pp, 1.0) if step.phase == "decode" else step.batch
    micro = step._replace(batch=batch)
    ops = stage_ops(a.model, micro, a.dtypes, a.layout, 0, a.model.num_hidden_layers)
    return ops + stage_sends(a.model, micro, a.dtypes, a.layout)


def _part(op: Op, common: set[tuple[str, str]]) -> str:
    """Return the part of a step that an operator belongs to."""
    if op.name in HEAD:
        return "head"
    return "body" if (op.name, op.kind) in common else "own"


def _grid(most: float) -> list[float]:
    """Return 1, 2, 3, ... and then points whose ratio is `_GRID_RATIO`, up to `most` or beyond."""
    points, x = [1.0, 2.0], 2.0
    while x < most and x < inf:
        x = max(float(round(x * _GRID_RATIO)), x + 1.0)
        points.append(x)
    return points
