"""Estimate many measurements at once, with arrays of operators and the same `cost` function as single estimates.

Rows of one scenario (model, GPU, number formats, layout) are passed to `forward` together, as arrays over their passes.
The operators are then grouped by GPU and by the fields that select a kernel's efficiency (kind, format, rate, ...).
Timing the same table under a runtime with other terms then takes a few dozen array operations.

Passes of a row, by its kind (b: batch size, s: prompt tokens, n: generated tokens):

    static     prefill: one pass over all prompts. Decode: the passes of `nodes`, with weights that add up to all steps.
    serving    decode steps at a fixed concurrency. On average a step of b sequences also prefills (b - 1) / n prompts:
               each of the other b - 1 requests is replaced by a new one every n steps. b is the concurrency, or the
               number of sequences that fit in the KV cache if that is smaller; the remaining requests wait.
    waves      all c requests have one length and start together, so the server alternates between prefilling all of
               them and decoding. In chunks of C tokens the prefill takes k = ceil(c s / C) passes, W seconds in all. On
               average a request waits W (k + 1) / (2 k) for its first token, and W (k - 1) / (2 k) between its first
               and second tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil
from typing import Any, NamedTuple

from llm_analysis.calibration.measurements import Measurement, gpu_named, model_named
from llm_analysis.errors import LLMAnalysisError
from llm_analysis.hardware.gpu import GPU
from llm_analysis.hardware.roofline import Efficiency, cost, pass_seconds
from llm_analysis.inference.engines import engine_for, engine_of, memory_limits
from llm_analysis.inference.host_terms import host_terms
from llm_analysis.inference.memory import runtime_bytes, weights_fit
from llm_analysis.inference.methods import Calibrated, Method
from llm_analysis.inference.passes import mixed_step_ops
from llm_analysis.inference.pipeline import schedule
from llm_analysis.inference.runtimes import COLLECTIVES, NONE, Runtime, RuntimeEvidence, leaves_package
from llm_analysis.inference.scenario import Scenario
from llm_analysis.inference.workload import nodes
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.forward import forward
from llm_analysis.physics.operators import Op, Step
from llm_analysis.units import Array

CHUNK = 8192.0  # tokens of a server's prefill pass: max_num_batched_tokens of vLLM, chunked_prefill_size of SGLang
_QUANTITIES = [
    n for n, default in Op._field_defaults.items() if isinstance(default, float) and n not in ("group", "messages")
]
_SECONDS = ("step_seconds", "layer_seconds", "sequence_seconds", "collective_seconds")
_IRRELEVANT = {"name": "", "date": "", "note": "", "evidence": RuntimeEvidence(), "bands": {}, "held_out": {}}
_EVERYTHING = Runtime(name="all", step_seconds=1.0, layer_seconds=1.0, sequence_seconds=1.0)


class _Pass(NamedTuple):
    """A pass of one row: decode, prefill, or both together; it runs `times` times within the measured seconds."""

    row: int
    times: float
    decode: Step | None
    prefill: Step | None
    waits: bool = False  # prefill of a wave, for which a request waits on average


class _Group(NamedTuple):
    """Operators that use the same kernel efficiency; element i of each array belongs to pass `at[i]`."""

    gpu_name: str
    gpu: GPU
    op: Op
    at: Any


class Rows:
    """Measurements prepared for estimates under any runtime; `skipped` has (id, reason) of rows without an estimate."""

    def __init__(self, measurements: Iterable[Measurement], by_model: bool = False) -> None:
        self.by_model = by_model  # whether each model of a source and GPU is a separate fold when a fit is scored
        self.measurements: list[Measurement] = []
        self.skipped: list[tuple[str, str]] = []
        self.decoding: list[float] = []  # of each row: sequences in a decode step
        self._times: list[float] = []
        self._row_of_pass: list[int] = []
        self._pipelines: list[tuple[Scenario, list[_Pass]]] = []
        self._kernels: dict[str, Calibrated] = {}
        self._timed: tuple[Runtime, Array] | None = None  # last runtime (terms in seconds set to 0), seconds by pass
        self._seconds_of_groups: dict[int, tuple[Efficiency, Array]] = {}  # by group: efficiency, seconds by pass
        self._decoding: list[float] = []  # of each pass: sequences in its decode step, 0 without one
        self._least: list[float] = []  # of each pass: least seconds, at the datasheet's peaks
        gathered: dict[tuple[Any, ...], list[tuple[GPU, Any, Op]]] = {}
        by_scenario: dict[tuple[Any, ...], list[tuple[int, Measurement]]] = {}
        for i, m in enumerate(measurements):
            key = (m.model_name, m.gpu_name, m.dtype_name, m.kv_dtype, m.tp_size, m.pp_size, m.ep_size)
            by_scenario.setdefault(key, []).append((i, m))
        kept: dict[int, tuple[Measurement, float]] = {}
        for rows in by_scenario.values():
            try:
                scenario = _scenario(rows[0][1])
            except LLMAnalysisError as error:
                self.skipped += [(m.id, str(error)) for _, m in rows]
                continue
            kept |= self._add(scenario, rows, gathered)
        self._groups = [_joined(entries) for entries in gathered.values()]
        self._number(kept)
        self._counts = self._count()

    def _add(
        self, scenario: Scenario, rows: list[tuple[int, Measurement]], gathered: dict[tuple[Any, ...], Any]
    ) -> dict[int, tuple[Measurement, float]]:
        """Add the passes and operators of one scenario's rows; return (row, sequences in a decode step) by index."""
        import numpy as np

        limits = _sequences_held(scenario, [m for _, m in rows])
        passes: list[_Pass] = []
        kept: dict[int, tuple[Measurement, float]] = {}
        for (i, m), held in zip(rows, limits, strict=True):
            found = list(_passes(m, scenario.model, i, held))
            if not found:
                self.skipped.append((m.id, "nothing to estimate: no pass in this row"))
                continue
            passes += found
            kept[i] = (m, min(m.batch_size, held) if m.kind == "serving" else m.batch_size)
        if scenario.layout.pp_size > 1:
            self._pipelines.append((scenario, passes))
            return kept
        for kind in ((True, False), (False, True), (True, True)):
            alike = [p for p in passes if (p.decode is not None, p.prefill is not None) == kind]
            if not alike:
                continue
            at = range(len(self._times), len(self._times) + len(alike))
            self._times += [p.times for p in alike]
            self._row_of_pass += [p.row for p in alike]
            self._decoding += [float(p.decode.batch) if p.decode is not None else 0.0 for p in alike]
            operators = _operators(scenario, alike)
            compute, memory = _light(operators, scenario.gpu, len(alike))
            bound = np.maximum(compute, memory)
            # The wait for a wave's prefill is mostly for other requests, so it sets no lower bound.
            self._least += [0.0 if p.waits else float(least) for p, least in zip(alike, bound, strict=True)]
            for op in operators:
                key = (scenario.gpu.name, op.kind, op.format, op.rate, op.group, op.span, op.messages)
                gathered.setdefault(key, []).append((scenario.gpu, at, op))
        return kept

    def _number(self, kept: dict[int, tuple[Measurement, float]]) -> None:
        """Set `measurements` to the rows with estimates, in input order, and renumber the passes to match."""
        import numpy as np

        order = sorted(kept)
        number = {i: n for n, i in enumerate(order)}
        self.measurements = [kept[i][0] for i in order]
        self.decoding = [kept[i][1] for i in order]
        self._row_of_pass = [number[i] for i in self._row_of_pass]
        self._pipelines = [
            (scenario, [p._replace(row=number[p.row]) for p in passes]) for scenario, passes in self._pipelines
        ]
        self.measured: Array = np.array([m.seconds for m in self.measurements])

    def seconds(self, runtime: Runtime, method: str = "calibrated") -> Array:
        """Return the estimates of all rows under a runtime, in seconds.

        A pass is linear in the runtime's terms in seconds: the coefficient of a term is the number of its host
        operators or collectives. No decode step of an asynchronous engine is shorter than the host's preparation.
        Kernels are timed again only if a factor or fact of the runtime changes.
        """
        import numpy as np

        if method != "calibrated":
            return self._of_rows(self._kernel_seconds(runtime, method)) + self._pipeline_seconds(runtime, method)
        bare = runtime.model_copy(update=dict.fromkeys(_SECONDS, 0.0) | _IRRELEVANT)
        if self._timed is None or self._timed[0] != bare:
            self._timed = (bare, self._kernel_seconds(bare, method))
        passes: Array = np.array(self._timed[1])
        for term, counts in self._counts.items():
            passes += getattr(runtime, term) * counts
        passes = np.maximum(passes, self._beside_seconds(runtime))
        return self._of_rows(passes) + self._pipeline_seconds(runtime, method)

    def _beside_seconds(self, runtime: Runtime) -> Any:
        """Return the seconds in which the host prepares the decode step of each pass; 0.0 if the GPU waits for that.

        The terms are those of a fit without the row's source.
        """
        import numpy as np

        engine = engine_of(runtime.engine_name)
        if engine is None or not engine.host_overlapped:
            return 0.0
        terms = [host_terms(engine.runtimes[0], m.source) for m in self.measurements]
        step, sequence = (np.array([term[i] for term in terms])[self._row_of_pass] for i in range(2))
        decoding = np.array(self._decoding)
        return np.where(decoding > 0, step + sequence * decoding, 0.0)

    def _kernel_seconds(self, runtime: Runtime, method: str) -> Array:
        """Return the seconds of kernels and collectives in each pass, without host time and pipelines."""
        import numpy as np

        passes, methods = np.zeros(len(self._times)), dict[str, Method]()
        for i, g in enumerate(self._groups):
            if g.op.kind.startswith("host_"):
                continue
            if g.gpu_name not in methods:
                methods[g.gpu_name] = self._method(g.gpu_name, runtime, method)
            numbers = methods[g.gpu_name].efficiency(g.op)
            known = self._seconds_of_groups.get(i)
            if known is None or known[0] != numbers:
                times = np.broadcast_to(g.op.count * cost(g.op, g.gpu, numbers).seconds, g.at.shape)
                known = numbers, np.bincount(g.at, weights=times, minlength=len(passes)).astype(float)
                self._seconds_of_groups[i] = known
            passes += known[1]
        return passes

    def _count(self) -> dict[str, Array]:
        """Return the coefficients of each term in seconds by pass."""
        import numpy as np

        found = {term: np.zeros(len(self._times)) for term in _SECONDS}
        for g in self._groups:
            kind = g.op.kind
            term = f"{kind.removeprefix('host_')}_seconds" if kind.startswith("host_") else "collective_seconds"
            if kind.startswith("host_") or (kind in COLLECTIVES and leaves_package(g.op, g.gpu)):
                found[term] += np.bincount(g.at, weights=g.op.count, minlength=len(self._times))
        return found

    def _of_rows(self, passes: Array) -> Array:
        """Return the sum of a quantity over the passes of each row, weighted by how often each pass runs."""
        import numpy as np

        weights, rows = np.array(self._times) * passes, np.array(self._row_of_pass, dtype=int)
        return np.bincount(rows, weights=weights, minlength=len(self.measurements)).astype(float)

    def _pipeline_seconds(self, runtime: Runtime, method: str) -> Array:
        """Return the seconds of the rows with pipeline parallelism; zero for all others."""
        import numpy as np

        total: Array = np.zeros(len(self.measurements))
        for scenario, found in self._pipelines:
            used = self._method(scenario.gpu.name, runtime, method)
            _add_pipeline(total, scenario._replace(method=used, runtime=runtime), found)
        return total

    def impossible(self) -> dict[int, str]:
        """Return the rows that the datasheet rules out, by index, with the reason.

        A row is ruled out if its measured time is shorter than the time of its FLOP at the peak rate, or of reading its
        weights and KV cache at the peak bandwidth. With c requests in flight, a server starts
        c / (TTFT + (n - 1) TPOT) requests per second. A TTFT that was not published counts as zero: all c requests are
        then assumed to be decoding.
        """
        import numpy as np

        least = self._of_rows(np.array(self._least))
        found = {}
        for i, m in enumerate(self.measurements):
            decoding = max(m.num_tokens - 1.0, 1.0) * m.seconds
            share = decoding / (m.ttft + decoding) if m.kind == "serving" and m.ttft else 1.0
            needed = least[i] * share / m.seconds
            if needed > 1.0:
                found[i] = "impossible: faster than the FLOP/s or the bandwidth of the datasheet allow"
        return found

    def _method(self, gpu_name: str, runtime: Runtime, method: str) -> Method:
        """Return the method that times operators on a GPU; the GPU's profile is cached."""
        if method != "calibrated":
            return Method()
        if gpu_name not in self._kernels:
            self._kernels[gpu_name] = Calibrated(gpu_named(gpu_name), NONE)
        return self._kernels[gpu_name].under(runtime)


def _scenario(m: Measurement) -> Scenario:
    """Return the scenario of a row. Raises LLMAnalysisError if it is invalid or the weights do not fit in memory."""
    model, gpu = model_named(m.model_name), gpu_named(m.gpu_name)
    scenario = Scenario.of(model, gpu, m.dtypes(), m.layout(), method="calibrated", runtime=NONE)
    weights_fit(scenario)
    return scenario


def _passes(m: Measurement, model: ModelConfig, row: int, held: float) -> Iterable[_Pass]:
    """Yield the passes within a row's measured seconds; `held` is the number of sequences that fit in the KV cache."""
    b, s, n = m.batch_size, m.seq_len, max(m.num_tokens, 1.0)
    if m.kind == "waves":
        chunks = ceil(b * s / CHUNK)
        waits = (chunks + 1) / 2.0 if m.metric == "ttft" else (chunks - 1) / 2.0 / max(n - 1.0, 1.0)
        if waits:
            # A chunk has whole prompts, up to CHUNK tokens; a prompt longer than CHUNK is split.
            chunk = Step(min(b, CHUNK / s), s) if s <= CHUNK else Step(1.0, CHUNK)
            yield _Pass(row, waits, None, chunk, waits=True)
    elif m.metric != "tpot":
        yield _Pass(row, 1.0, None, Step(b, s))
    if m.metric == "ttft" or m.decode_steps <= 0:
        return
    times = 1.0 if m.metric == "tpot" else m.decode_steps
    decoding = min(b, held) if m.kind == "serving" else b
    for weight, context in nodes(int(s), int(m.decode_steps), model.decode_kinks):
        step = Step(decoding, 1.0, context, "decode")
        # A request's own prefill is not between its tokens, so only the other requests' prompts count.
        joining = (decoding - 1.0) / n if m.kind == "serving" else 0.0
        often, prompts = min(joining, 1.0), max(joining, 1.0)
        if often < 1.0:
            yield _Pass(row, times * float(weight) * (1.0 - often), step, None)
        if often > 0.0:
            yield _Pass(row, times * float(weight) * often, step, Step(prompts, s))


def _operators(scenario: Scenario, passes: Sequence[_Pass]) -> list[Op]:
    """Return the operators of passes with the same parts, as arrays over the passes; host operators are included."""
    model, dtypes, layout = scenario.model, scenario.dtypes, scenario.layout
    decode, prefill = (_stacked([getattr(p, part) for p in passes]) for part in ("decode", "prefill"))
    steps = [step for step in (decode, prefill) if step is not None]
    of_each = [forward(model, step, dtypes, layout) for step in steps]
    kernels = mixed_step_ops(*of_each) if len(of_each) == 2 else of_each[0]
    return kernels + _EVERYTHING.host_ops(steps[0], model.num_hidden_layers)


def _light(operators: Sequence[Op], gpu: GPU, n: int) -> tuple[Array, Array]:
    """Return the least seconds of n passes: FLOP at the datasheet's rate; weights and KV cache at its bandwidth."""
    import numpy as np

    compute, memory = np.zeros(n), np.zeros(n)
    for op in operators:
        compute += op.count * op.flops / gpu.fastest(op.rate) if op.rate else 0.0
        memory += op.count * (op.weight_bytes + op.kv_bytes) / gpu.memory_bandwidth
    return compute, memory


def _stacked(steps: Sequence[Step | None]) -> Step | None:
    """Return steps of one phase as one step with arrays; None if there are no steps."""
    import numpy as np

    some = [step for step in steps if step is not None]
    if not some:
        return None
    batch, new, context = (np.array([float(step[i]) for step in some]) for i in range(3))
    # A decode step has one new token per sequence, so a scalar is enough.
    return Step(batch, 1.0 if some[0].phase == "decode" else new, context, some[0].phase)


def _sequences_held(scenario: Scenario, rows: Sequence[Measurement]) -> list[float]:
    """Return the number of sequences of each row that fit in a server's KV cache, halfway through their generation."""
    import numpy as np

    if all(m.kind != "serving" for m in rows):
        return [float("inf")] * len(rows)
    model, gpu, dtypes, layout = scenario.model, scenario.gpu, scenario.dtypes, scenario.layout
    middle = np.array([m.seq_len + m.num_tokens / 2 for m in rows])
    ops = forward(model, Step(1.0, 1.0, middle, "decode"), dtypes, layout)
    weights = sum(float(op.count) * op.stored_bytes for op in ops) / layout.pp_size
    cache = sum(op.count * op.cached_bytes for op in ops) / layout.pp_size + np.zeros(len(rows))
    free = np.array([_cache_bytes(m.engine, gpu, weights, runtime_bytes(layout)) for m in rows])
    return [max(float(held), 1.0) for held in free / np.maximum(cache, 1.0)]


def _cache_bytes(runtime: str, gpu: GPU, weights: float, process: float) -> float:
    """Return the bytes that a runtime's server with default settings has for its KV cache; activations are left out."""
    defaults = engine_for(runtime).defaults_on(gpu)
    memory, fraction = gpu.usable_memory_bytes, defaults.gpu_memory_utilization
    limits = memory_limits(defaults.fraction_of, fraction, memory, process)
    return min((float(limit.size) - weights) / limit.cache for limit in limits)


def _add_pipeline(total: Array, scenario: Scenario, passes: Sequence[_Pass]) -> None:
    """Add the seconds of pipeline-parallel passes to `total`; decode and prefill of a pass are timed separately."""
    import numpy as np

    for part in ("decode", "prefill"):
        alike = [p for p in passes if getattr(p, part) is not None]
        step = _stacked([getattr(p, part) for p in alike])
        if step is not None:
            times = np.array([p.times for p in alike]) * pass_seconds(schedule(scenario, [(1.0, step)]))
            np.add.at(total, [p.row for p in alike], times)


def _joined(entries: list[tuple[GPU, Any, Op]]) -> _Group:
    """Return the entries as one group: one operator with arrays over all entries."""
    import numpy as np

    def whole(name: str) -> Any:
        parts = [np.broadcast_to(np.asarray(getattr(op, name), dtype=float), len(at)) for _, at, op in entries]
        return np.concatenate(parts)

    gpu, _, op = entries[0]
    arrays = {name: whole(name) for name in _QUANTITIES}
    return _Group(gpu.name, gpu, op._replace(**arrays), np.concatenate([np.asarray(at) for _, at, _ in entries]))
