"""The memory of one GPU, counted from the timed operators, and changes that would make a model fit.

    weights       of the fullest stage of a pipeline, by class; group scales of narrow formats and biases included
    KV cache      at the end of the generation; samples of one prompt share the cache of the prompt
    activations   at the peak of the prefill: the residual stream, and the operator with the largest inputs and outputs;
                  of all prompts together, or of one chunk if the prefill is cut into chunks
    runtime       with `calibrated`: other memory of the serving process (see OVERHEAD)

The sum must fit into the usable fraction of the GPU's memory; engines apply that fraction to different parts
(`engines.memory_limits`). Quantities may be arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import NamedTuple

from llm_analysis.errors import LLMAnalysisError, Unsupported
from llm_analysis.hardware.roofline import Timed
from llm_analysis.inference.engines import Limit, memory_limits
from llm_analysis.inference.scenario import Scenario
from llm_analysis.inference.workload import Workload
from llm_analysis.models.forward import cached_bytes, stage_ops
from llm_analysis.physics.dtypes import get_dtypes
from llm_analysis.physics.operators import PARTS, Op, Step
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.units import GB, Mask, Quantity, floor, maximum, minimum, real, some, where, whole

# Bytes that a serving process holds on a GPU beside its tensors. Assumptions, rounded from logs of engines: the CUDA
# context and loaded kernels of a PyTorch process, 0.5 GB; captured CUDA graphs, 1 GB (vLLM's log announces 1 to 3 GiB);
# NCCL's buffers, if there is another GPU, 0.4 GB (24 channels to 2 peers, each way, of NCCL_BUFFSIZE = 4 MiB).
OVERHEAD = {"cuda_context": 0.5e9, "cuda_graphs": 1.0e9}
NCCL_BYTES = 24 * 2 * 2 * 4 * 2.0**20

_ROUNDING = 1e-9  # relative rounding error of a sum of bytes
_MOST_SEQUENCES = 10**9  # the largest batch that can be asked for
_PHYSICAL = 2**30 / 1e9  # memory is sold in GB and made in GiB: an "80 GB" GPU has up to 7 % more


def runtime_bytes(layout: Parallelism) -> float:
    """Return the bytes that a serving process holds on each GPU beside weights, cache and activations."""
    # Replicas do not exchange data, unless experts are spread over them.
    communicating = max(layout.gpus_of_replica, layout.ep_size)
    return sum(OVERHEAD.values()) + (NCCL_BYTES if communicating > 1 else 0.0)


class Memory:
    """Bytes on the fullest GPU. KV cache at the end of the generation; activations at the peak of the prefill.

    `prefill` holds the operators of a prefill that is one pass through one stage, to avoid building them again.
    `max_batch` and `max_context` are computed when they are read.
    """

    def __init__(self, scenario: Scenario, workload: Workload, prefill: Timed | None = None) -> None:
        self._budget = _Budget(scenario, workload)
        layers = scenario.model.num_hidden_layers
        built = None if prefill is None else [op for _, op, _ in prefill]
        self._stages = [_Stage.of(self._budget, *span, built) for span in scenario.layout.stages(layers)]
        fullest = self._stages[0]
        for stage in self._stages[1:]:
            fullest = _fuller(fullest, stage)
        self.by_class = fullest.weights
        self.weights = sum(fullest.weights.values())
        self.kv_cache = fullest.kv_cache
        self.activations = fullest.activations
        self.overhead = self._budget.overhead
        self.left = self._budget.left(self.weights, self.kv_cache, self.activations)  # negative if it does not fit

    @property
    def needed(self) -> Quantity:
        """Weights, KV cache, activations and other bytes of the process."""
        return self.weights + self.kv_cache + self.activations + self.overhead

    @property
    def capacity(self) -> Quantity:
        """The bytes that may be used: those needed, and those left for more KV cache."""
        return self.needed + self.left

    @property
    def fits(self) -> Mask:
        """Whether all of it fits."""
        return self.left >= 0

    @property
    def max_batch(self) -> Quantity:
        """The largest batch of the workload's lengths that fits."""
        return _least_whole(_largest_batch(self._budget, stage) for stage in self._stages)

    @property
    def max_context(self) -> Quantity:
        """The most tokens, prompt and generated ones, that each sequence of the batch can have."""
        return _least_whole(_longest_context(self._budget, stage) for stage in self._stages)


def weights_fit(scenario: Scenario) -> None:
    """Raise Unsupported if the weights alone are more than a GPU holds."""
    weights = Memory(scenario, Workload(seq_len=1, num_tokens_to_generate=1)).weights
    if some(weights > scenario.gpu.memory_bytes * _PHYSICAL):
        need, have = weights / GB, scenario.gpu.memory_bytes / GB
        raise Unsupported(f"does not fit: {need:.1f} GB of weights per GPU, {have:.1f} GB usable ({scenario.gpu.name})")


class _Budget(NamedTuple):
    """A scenario and a workload, and the limits on their memory."""

    scenario: Scenario
    workload: Workload

    @property
    def overhead(self) -> float:
        """Bytes of the process beside weights, cache and activations."""
        return runtime_bytes(self.scenario.layout) if self.scenario.method.serves else 0.0

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits on weights, cache and activations."""
        s, fraction = self.scenario, self.workload.gpu_memory_utilization
        meaning = s.engine.fraction_of if s.engine else "everything"
        return memory_limits(meaning, fraction, s.gpu.memory_bytes, self.overhead)

    def left(self, weights: Quantity, kv_cache: Quantity, activations: Quantity) -> Quantity:
        """Return the bytes by which the KV cache could grow; negative if it does not fit."""
        least: Quantity = inf
        for limit in self.limits:
            room = limit.size - weights - limit.cache * kv_cache - limit.activations * activations
            least = minimum(least, room / limit.cache)
        return least

    @property
    def draft(self) -> _Budget | None:
        """The inputs of the draft model's memory, which is held beside the model; None without a draft model."""
        if not self.workload.num_draft_tokens or self.scenario.draft is None:
            return None
        draft = self.scenario.of_draft()
        return _Budget(draft, self.workload) if draft else None

    def kv_cache(self, layers: tuple[int, int], tokens: Quantity) -> Quantity:
        """Return the bytes of cache and state at the end, when there are `tokens` of each sequence.

        Samples share the cache of the prompt: each after the first adds only its generated tokens.
        """
        s, w = self.scenario, self.workload
        if not w.use_kv_cache:
            return 0.0
        b, asked = real(w.batch_size_per_gpu), (s.dtypes, s.layout, *layers)
        one: Quantity = cached_bytes(s.model, Step(b, 1.0, tokens - 1.0, "decode"), *asked)
        if draft := self.draft:
            one = one + draft.kv_cache((0, draft.scenario.model.num_hidden_layers), tokens)
        if w.num_samples == 1:
            return one
        own = Step(b, 1.0, w.num_tokens_to_generate - 1.0, "decode")
        return one + (w.num_samples - 1) * cached_bytes(s.model, own, *asked)


class _Stage(NamedTuple):
    """Bytes on a GPU of one pipeline stage."""

    weights: dict[str, Quantity]  # bytes by class of weights
    kv_cache: Quantity
    rows: Quantity  # rows (tokens) of the widest prefill pass
    sequences: Quantity  # sequences with tokens in the widest prefill pass
    row_bytes: Quantity  # bytes per row: residual stream, inputs and outputs of the largest operator
    head_bytes: Quantity  # bytes per sequence: inputs and outputs of the output head, without the stream
    stream_bytes: Quantity  # bytes per row of the residual stream on this GPU
    layers: tuple[int, int]

    @classmethod
    def of(cls, budget: _Budget, first: int, last: int, built: list[Op] | None = None) -> _Stage:
        """Return the bytes of layers `first` .. `last` - 1 on a GPU, with embedding and head at the ends."""
        s, w = budget.scenario, budget.workload
        step = w.widest_pass
        prefill = built or stage_ops(s.model, step, s.dtypes, s.layout, first, last)
        weights: dict[str, Quantity] = dict.fromkeys(PARTS, 0.0)
        for op in prefill:
            if op.stored_bytes:
                weights[op.part] += op.count * op.stored_bytes
        if draft := budget.draft:
            for name, held in _Stage.of(draft, 0, draft.scenario.model.num_hidden_layers).weights.items():
                weights[name] += held
        rows, shared = step.rows, s.layout.share(step).rows
        stream = s.model.stream_width * s.dtypes.stream_bytes * (shared / rows)
        widest = _peak(op for op in prefill if not op.last_only) / rows
        head = _peak(op for op in prefill if op.last_only) / step.batch
        cache = budget.kv_cache((first, last), w.seq_len + w.num_tokens_to_generate)
        return cls(weights, cache, rows, step.batch, stream + widest, head, stream, (first, last))

    @property
    def activations(self) -> Quantity:
        """Bytes at the peak of the prefill."""
        return self.activations_of(self.rows, self.sequences)

    def activations_of(self, rows: Quantity, sequences: Quantity) -> Quantity:
        """Return the bytes at the peak of a pass over `rows` tokens of `sequences`."""
        return maximum(rows * self.row_bytes, rows * self.stream_bytes + sequences * self.head_bytes)

    @property
    def tensors(self) -> Quantity:
        """Weights, cache and activations."""
        return sum(self.weights.values()) + self.kv_cache + self.activations


def _fuller(one: _Stage, other: _Stage) -> _Stage:
    """Return the stage with more bytes, element by element; the first of two equal ones."""
    more = other.tensors > one.tensors
    if isinstance(more, bool):
        return other if more else one
    weights = {name: where(more, other.weights[name], held) for name, held in one.weights.items()}
    return _Stage(
        weights,
        where(more, other.kv_cache, one.kv_cache),
        where(more, other.rows, one.rows),
        where(more, other.sequences, one.sequences),
        where(more, other.row_bytes, one.row_bytes),
        where(more, other.head_bytes, one.head_bytes),
        where(more, other.stream_bytes, one.stream_bytes),
        one.layers,
    )


def _peak(ops: Iterable[Op]) -> Quantity:
    """Return the largest inputs and outputs of one operator, in bytes."""
    largest: Quantity = 0.0
    for op in ops:
        largest = maximum(largest, op.activation_bytes)
    return largest


def _least_whole(values: Iterable[Quantity]) -> Quantity:
    """Return the least of some quantities, as whole numbers."""
    least: Quantity = inf
    for value in values:
        least = minimum(least, value)
    return whole(least)


def _largest_batch(budget: _Budget, stage: _Stage) -> Quantity:
    """Return the most sequences that fit on a stage. KV cache and activations grow with them, these up to a chunk."""
    w = budget.workload
    most: Quantity = float(_MOST_SEQUENCES)
    for limit in budget.limits:
        free = limit.size - sum(stage.weights.values())
        cache, new = limit.cache * stage.kv_cache / w.batch_size_per_gpu, w.new_prompt_tokens
        row = limit.activations * stage.activations / stage.rows
        each = cache + row * new
        fitting = maximum(free, 0.0) / each if some(each > 0) else where(free >= 0, most, 0.0)
        if chunk := w.prefill_chunk_size:
            in_chunks = maximum(free - row * chunk, 0.0) / cache if some(cache > 0) else most
            fitting = where(fitting * new > chunk, in_chunks, fitting)
        most = minimum(most, fitting)
    return floor(most)


def _longest_context(budget: _Budget, stage: _Stage) -> Quantity:
    """Return the most tokens that each sequence of the batch can have on a stage; 0 if none fit.

    It is at most the model's positions, or the tokens asked for if these are more. Activations grow with the tokens of
    the prompt, or of a chunk. The operators are built again for each context only if the bytes per token depend on the
    context: in a model that expands or scores the whole context, or with a cached prefix that is gathered.
    """
    w, weights, model = budget.workload, sum(stage.weights.values()), budget.scenario.model
    generated = 0 if model.is_encoder else w.num_tokens_to_generate
    asked = real(w.seq_len + generated)
    low, high = generated + w.cached_prefix_len + 1.0, real(maximum(asked, model.max_position_embeddings))

    def longer(tokens: Quantity) -> Workload:
        """Return the workload with a prompt that makes sequences of `tokens`."""
        return w.model_copy(update={"seq_len": maximum(tokens - generated, w.cached_prefix_len + 1.0)})

    def stage_for(tokens: Quantity) -> _Stage:
        """Return the stage for sequences of `tokens`."""
        return _Stage.of(budget._replace(workload=longer(tokens)), *stage.layers)

    now = stage.row_bytes
    ends = [stage_for(tokens).row_bytes for tokens in (low, high)]
    changing = any(some(end > (1 + _ROUNDING) * now) or some(end < (1 - _ROUNDING) * now) for end in ends)

    def over(tokens: Quantity) -> Quantity:
        """Return the bytes beyond what is available, for sequences of `tokens`."""
        if changing:
            grown = stage_for(tokens)
            return -budget.left(weights, grown.kv_cache, grown.activations)
        step = longer(tokens).widest_pass
        activations = stage.activations_of(step.rows, step.batch)
        return -budget.left(weights, budget.kv_cache(stage.layers, tokens), activations)

    at_low, at_high = over(low), over(high)
    if some(at_low > 0):
        # More of the shorter prompts share a pass. If each gathers a cached prefix, they can need more memory than the
        # prompts asked for.
        at_asked = over(asked)
        longer_fits = where(at_low > 0, 1.0, 0.0) * where(at_asked <= 0, 1.0, 0.0) > 0
        low, at_low = where(longer_fits, asked, low), where(longer_fits, at_asked, at_low)
    none, all_fit = at_low > 0, at_high <= 0
    searched = where(none | all_fit, 0.0, 1.0) > 0
    found = _last_below(over, (low, at_low), (high, at_high), searched) if some(searched) else low
    return where(none, 0.0, where(all_fit, high, found))


Point = tuple[Quantity, Quantity]


def _last_below(over: Callable[[Quantity], Quantity], below: Point, above: Point, searched: Mask) -> Quantity:
    """Return the last whole number at which a growing function is not above 0, between two numbers with their values.

    Alternates false position, which finds the root of a straight line at once, and bisection. Elements that are not
    `searched` keep a bracket of width 1.
    """
    (low, at_low), (high, at_high), bisect = below, above, False
    high, at_low, at_high = where(searched, high, low + 1), where(searched, at_low, -1.0), where(searched, at_high, 1.0)
    while some(high - low > 1):
        share = 0.5 if bisect else -at_low / (at_high - at_low)
        middle = minimum(maximum(low + floor(share * (high - low)), low + 1), high - 1)
        for guess in (middle, middle + 1):
            inside = (low < guess) & (guess < high)
            if some(inside):
                value = over(guess)
                lower, upper = inside & (value <= 0), inside & (value > 0)
                low, at_low = where(lower, guess, low), where(lower, value, at_low)
                high, at_high = where(upper, guess, high), where(upper, value, at_high)
        bisect = not bisect
    return low


# What would make a model fit

_MOST_GPUS = 64  # most GPUs that a remedy suggests for a layer or for the tokens
_CHUNK = 8192  # tokens of a prefill pass: the default of TensorRT-LLM and of a vLLM server


def remedies(memory: Memory, scenario: Scenario, workload: Workload) -> tuple[str, ...]:
    """Return a note on the missing memory and on changes that would make the model fit.

    Tried in turn: chunks; a smaller batch; more tensor-parallel GPUs, or else context-parallel ones; narrower weights;
    and, if these alone do not fit, narrower weights on fewer GPUs than the weights as they are need. Each remedy is
    checked: with the named flags the same question is accepted, and fits.
    """
    found = []
    chunked = workload.model_copy(update={"prefill_chunk_size": _CHUNK})
    if workload.prefill_chunk_size is None and _fits(scenario, chunked):
        found.append(f"prefill_chunk_size {_CHUNK}")
    batch = memory.max_batch
    if batch and _fits(scenario, workload.model_copy(update={"batch_size_per_gpu": batch})):
        found.append(f"batch_size_per_gpu {batch}")
    wider = [*_accepted(scenario, _wider_layouts(scenario.layout))]
    longer = [*_accepted(scenario, _longer_layouts(scenario.layout))]
    narrower = [*_narrower_formats(scenario)]
    more = next((_flags_of(s.layout) for s in wider if _fits(s, workload)), "")
    more = more or next((f"cp_size {s.layout.cp_size}" for s in longer if _fits(s, workload)), "")
    less = next((f"dtype_name {name}" for name, s in narrower if _fits(s, workload)), "")
    found += [text for text in (more, less) if text]
    if not less and (both := _fewer_gpus(workload, narrower, wider)):
        found.append(both)
    need, have = memory.needed / GB, memory.capacity / GB
    would = f"would fit: {', or '.join(found)}" if found else _no_remedy(bool(longer), [name for name, _ in narrower])
    fraction = workload.gpu_memory_utilization
    share = "" if fraction == 1 else f"{fraction:.3g} of "
    return (f"does not fit: needs {need:,.1f} GB per GPU, {have:,.1f} GB usable ({share}{scenario.gpu.name}); {would}",)


def _fewer_gpus(workload: Workload, narrower: list[tuple[str, Scenario]], wider: list[Scenario]) -> str:
    """Return flags: the widest of the narrower formats that fits on fewer GPUs than the weights as they are need.

    `wider` are scenarios with more GPUs, the fewest first. Empty if there is none.
    """
    enough = next((i for i, s in enumerate(wider) if _fits(s, workload)), len(wider))
    for name, s in narrower:
        for other in wider[:enough]:
            if (both := _changed(s, layout=other.layout)) and _fits(both, workload):
                return f"{_flags_of(other.layout)} with dtype_name {name}"
    return ""


def _fits(scenario: Scenario, workload: Workload) -> bool:
    """Return whether the question is accepted and fits."""
    try:
        workload.check_shared_by(scenario.layout.cp_size)
        scenario.method.check_workload(workload)
        return bool(Memory(scenario, workload).fits)
    except LLMAnalysisError:
        return False


def _changed(scenario: Scenario, **parts: object) -> Scenario | None:
    """Return the scenario with other parts; None if it is then rejected."""
    try:
        return scenario.changed(**parts)
    except LLMAnalysisError:
        return None


def _accepted(scenario: Scenario, layouts: Iterable[Parallelism]) -> Iterator[Scenario]:
    """Yield the scenario in those of the layouts that are accepted."""
    for layout in layouts:
        if (changed := _changed(scenario, layout=layout)) is not None:
            yield changed


def _no_remedy(longer: bool, narrower: list[str]) -> str:
    """Return the end of the note if none of the remedies fits."""
    sizes = "tp_size or cp_size" if longer else "tp_size"
    return f"no larger {sizes} would fit either" + (f", nor would {narrower[-1]}" if narrower else "")


def _flags_of(layout: Parallelism) -> str:
    """Return the flags of a layout with more tensor-parallel GPUs."""
    return f"tp_size {layout.tp_size}" + (f" and sp_size {layout.sp_size}" if layout.sp_size > 1 else "")


def _wider_layouts(layout: Parallelism) -> Iterator[Parallelism]:
    """Yield the layouts with more tensor-parallel GPUs, norms and residuals split over them as before."""
    for t in range(layout.tp_size + 1, _MOST_GPUS + 1):
        yield layout.model_copy(update={"tp_size": t, "sp_size": t if layout.sp_size > 1 else 1})


def _longer_layouts(layout: Parallelism) -> Iterator[Parallelism]:
    """Yield the layouts with two, four, ... times the context-parallel ranks, up to `_MOST_GPUS` in all."""
    n = 2 * layout.cp_size
    while n * layout.tp_size <= _MOST_GPUS:
        yield layout.model_copy(update={"cp_size": n})
        n *= 2


def _narrower_formats(scenario: Scenario) -> Iterator[tuple[str, Scenario]]:
    """Yield (name, scenario) of formats with narrower weights, the widest first; a KV width that was given stays."""
    for name in ("fp8", "int8", "int4"):
        if get_dtypes(name).weight_bits < scenario.dtypes.weight_bits:
            changed = _changed(scenario, dtypes=get_dtypes(name))
            if changed is not None:
                yield name, changed
