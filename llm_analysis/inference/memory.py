"""What fits: weights, KV cache, activations and the runtime's own, of one GPU, counted on the operators that are timed.

    weights       of the fullest stage of a pipeline, by class; group scales of narrow formats and biases included
    KV cache      at the end of the generation; samples of one prompt share that of the prompt
    activations   at the peak of the prefill: the residual stream, and the operator with most going in and out; of all
                  prompts together, or of one chunk where the prefill is cut into chunks
    runtime       under `calibrated`: what a serving process holds besides (see OVERHEAD)

All of it must fit into the fraction of the GPU's memory that may be used. vLLM's `gpu_memory_utilization` is 0.9; here
it is 1 unless asked for, so that `fits` says what the GPU can hold, not what an engine's default leaves.

What does not fit, and what would make it fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice, product
from math import inf
from typing import Any, NamedTuple

from llm_analysis.errors import LLMAnalysisError, Unsupported
from llm_analysis.hardware.gpu import GPU
from llm_analysis.inference.methods import check
from llm_analysis.inference.workload import Workload
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.forward import cached_bytes, stage_ops
from llm_analysis.models.sharding import check_layout
from llm_analysis.physics.dtypes import Dtypes, get_dtypes
from llm_analysis.physics.operators import PARTS, Op, Step
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.units import GB

# Bytes that a serving process holds on a GPU beside its tensors. Assumptions, rounded from what engines log: the CUDA
# context and loaded kernels of a PyTorch process, 0.5 GB; captured CUDA graphs, 1 GB (vLLM's log announces 1 to 3 GiB);
# NCCL's buffers, where there is another GPU, 0.4 GB (24 channels to 2 peers, each way, of NCCL_BUFFSIZE = 4 MiB).
OVERHEAD = {"cuda_context": 0.5e9, "cuda_graphs": 1.0e9}
NCCL_BYTES = 24 * 2 * 2 * 4 * 2.0**20

MOST_SEQUENCES = 10**9  # the largest batch that can be asked for


def runtime_bytes(layout: Parallelism) -> float:
    """What a serving process holds on each GPU beside weights, cache and activations."""
    return sum(OVERHEAD.values()) + (NCCL_BYTES if layout.num_gpus > 1 else 0.0)


class Stage(NamedTuple):
    """Bytes on a GPU of one pipeline stage, for the workload asked for."""

    weights: dict[str, float]  # by class
    kv_cache: float
    rows: float  # tokens of the widest prefill pass
    row_bytes: float  # what each keeps and moves at most: the stream, an operator's input and output
    head_bytes: float  # the same of the output head and the like, which see few rows; without the stream
    stream_bytes: float  # of each row, this GPU's part
    layers: tuple[int, int]

    @property
    def activations(self) -> float:
        """Bytes at the peak of the prefill."""
        return self.activations_of(self.rows)

    def activations_of(self, rows: float) -> float:
        """The same for a pass of as many sequences, but `rows` tokens."""
        return max(rows * self.row_bytes, rows * self.stream_bytes + self.head_bytes)

    @property
    def tensors(self) -> float:
        """All of it."""
        return sum(self.weights.values()) + self.kv_cache + self.activations


class Memory(NamedTuple):
    """Bytes on the fullest GPU. KV cache at the end of the generation; activations at the peak of the prefill."""

    weights: float
    kv_cache: float
    activations: float
    capacity: float  # the fraction of the GPU's that may be used
    max_batch: int
    max_context: int  # tokens of each sequence of the batch, generated ones included
    overhead: float
    by_class: dict[str, float]  # of the weights

    @property
    def left(self) -> float:
        """What remains; negative where it does not fit."""
        return self.capacity - self.weights - self.kv_cache - self.activations - self.overhead

    @property
    def fits(self) -> bool:
        """Whether all of it fits."""
        return self.left >= 0

    def fields(self) -> dict[str, Any]:
        """The same under the names of the answer."""
        held = {
            "weight": self.weights,
            **{f"{name}_weight": size for name, size in self.by_class.items()},
            "kv_cache": self.kv_cache,
            "activation": self.activations,
            "runtime": self.overhead,
        }
        return {f"{name}_memory_per_gpu": size for name, size in held.items()} | {
            "memory_left_per_gpu": self.left,
            "fits": self.fits,
            "max_batch_size_per_gpu": self.max_batch,
            "max_context_len": self.max_context,
        }


class Question(NamedTuple):
    """All that the memory of a GPU depends on."""

    model: ModelConfig
    workload: Workload
    dtypes: Dtypes
    layout: Parallelism
    gpu: GPU
    method: str = "ideal"  # under calibrated a serving process holds memory of its own
    draft: tuple[ModelConfig, Parallelism] | None = None  # held beside the model, its bytes counted with the model's

    @property
    def overhead(self) -> float:
        """Bytes of the process beside weights, cache and activations."""
        return runtime_bytes(self.layout) if self.method == "calibrated" else 0.0

    @property
    def room(self) -> float:
        """Bytes for weights, cache and activations."""
        return self.gpu.memory_bytes * self.workload.gpu_memory_utilization - self.overhead

    def stage(self, first: int, last: int) -> Stage:
        """What a GPU holds of layers `first` .. `last` - 1 and of what goes with them."""
        w = self.workload
        step = w.widest_pass
        prefill = stage_ops(self.model, step, self.dtypes, self.layout, first, last)
        weights = dict.fromkeys(PARTS, 0.0)
        for op in prefill:
            if op.stored_bytes:
                weights[op.part] += float(op.count) * op.stored_bytes
        if self.draft:
            for name, held in self.of_draft().stage(0, self.draft[0].num_hidden_layers).weights.items():
                weights[name] += held
        tokens = w.seq_len + w.num_tokens_to_generate
        rows, shared = float(step.rows), float(self.layout.share(step).rows)
        stream = self.model.hidden_size * self.dtypes.stream_bytes * (shared / rows)
        widest = peak([op for op in prefill if not op.last_only]) / rows
        head = peak([op for op in prefill if op.last_only])
        cache = self.kv_cache((first, last), tokens)
        return Stage(weights, cache, rows, stream + widest, head, stream, (first, last))

    def of_draft(self) -> Question:
        """The same of the draft model alone."""
        model, layout = self.draft or (self.model, self.layout)
        return self._replace(model=model, layout=layout, draft=None)

    def kv_cache(self, layers: tuple[int, int], tokens: int) -> float:
        """Bytes of cache and state at the end, when there are `tokens` of each sequence.

        Samples share what is of the prompt: each but the first adds what it generated, as if that were all.
        """
        w = self.workload
        if not w.use_kv_cache:
            return 0.0
        b, asked = float(w.batch_size_per_gpu), (self.dtypes, self.layout, *layers)
        one = cached_bytes(self.model, Step(b, 1.0, tokens - 1.0, "decode"), *asked)
        if self.draft:
            one += self.of_draft().kv_cache((0, self.draft[0].num_hidden_layers), tokens)
        if w.num_samples == 1:
            return one
        own = Step(b, 1.0, w.num_tokens_to_generate - 1.0, "decode")
        return one + (w.num_samples - 1) * cached_bytes(self.model, own, *asked)


def footprint(question: Question) -> Memory:
    """The memory of the fullest pipeline stage."""
    stages = [question.stage(first, last) for first, last in question.layout.stages(question.model.num_hidden_layers)]
    fullest = max(stages, key=lambda stage: stage.tensors)
    return Memory(
        weights=sum(fullest.weights.values()),
        kv_cache=fullest.kv_cache,
        activations=fullest.activations,
        capacity=question.room + question.overhead,
        max_batch=min(largest_batch(question, stage) for stage in stages),
        max_context=min(longest_context(question, stage) for stage in stages),
        overhead=question.overhead,
        by_class=fullest.weights,
    )


def largest_batch(question: Question, stage: Stage) -> int:
    """The most sequences that fit on a stage. All but the weights grows with them; activations up to a chunk."""
    w = question.workload
    room = question.room - sum(stage.weights.values())
    cache, row = stage.kv_cache / w.batch_size_per_gpu, stage.activations / stage.rows
    fitting = max(room, 0.0) / (cache + row * w.new_prompt_tokens)
    if w.prefill_chunk_size and fitting * w.new_prompt_tokens > w.prefill_chunk_size:
        fitting = max(room - row * w.prefill_chunk_size, 0.0) / cache if cache else MOST_SEQUENCES
    return int(min(fitting, MOST_SEQUENCES))


def longest_context(question: Question, stage: Stage) -> int:
    """The most tokens, prompt and generated ones, that each sequence of the batch can have; 0 where none fit.

    At most the model's positions. Activations are taken in proportion to the prompt's tokens, or to a chunk's; what a
    chunk expands or gathers of the tokens before it as at the prompt asked for.
    """
    w, weights = question.workload, sum(stage.weights.values())

    def over(tokens: int) -> float:
        prompt = tokens - w.num_tokens_to_generate - w.cached_prefix_len
        rows = min(float(w.batch_size_per_gpu * max(prompt, 1)), float(w.prefill_chunk_size or inf))
        return weights + question.kv_cache(stage.layers, tokens) + stage.activations_of(rows) - question.room

    low, high = w.num_tokens_to_generate + w.cached_prefix_len, question.model.max_position_embeddings
    if high <= low or (at_low := over(low + 1)) > 0:
        return 0
    return high if (at_high := over(high)) <= 0 else last_below(over, (low + 1, at_low), (high, at_high))


def last_below(over: Callable[[int], float], below: tuple[int, float], above: tuple[int, float]) -> int:
    """The last number at which a growing function is not above 0, between two numbers with their values.

    By false position and bisection in turn: the first finds the root of a straight line at once.
    """
    (low, at_low), (high, at_high), bisect = below, above, False
    while high - low > 1:
        share = 0.5 if bisect else -at_low / (at_high - at_low)
        middle = min(max(low + int(share * (high - low)), low + 1), high - 1)
        for guess in (middle, middle + 1):
            if low < guess < high:
                value = over(guess)
                low, at_low, high, at_high = (
                    (guess, value, high, at_high) if value <= 0 else (low, at_low, guess, value)
                )
        bisect = not bisect
    return low


def peak(ops: list[Op]) -> float:
    """The operator that has most activations in flight: its inputs and outputs together, in bytes."""
    return max((float(op.activation_bytes) for op in ops), default=0.0)


def weights_fit(model: ModelConfig, dtypes: Dtypes, layout: Parallelism, gpu: GPU) -> None:
    """Raises Unsupported where the weights alone are more than a GPU holds."""
    step = Step(1.0, 1.0)
    for first, last in layout.stages(model.num_hidden_layers):
        weights = sum(float(op.count) * op.stored_bytes for op in stage_ops(model, step, dtypes, layout, first, last))
        if weights > gpu.memory_bytes * PHYSICAL:
            need, have = weights / GB, gpu.memory_bytes / GB
            raise Unsupported(f"does not fit: {need:.1f} GB of weights per GPU on {have:.1f} GB of {gpu.name}")


# Memory is sold in GB and made in GiB: an "80 GB" GPU has up to 7 % more.
PHYSICAL = 2**30 / 1e9


MOST_GPUS = 64  # that share a layer or the tokens
CHUNK = 8192  # tokens of a prefill pass: the default of TensorRT-LLM and of a vLLM server


def remedies(short: Memory, question: Question) -> tuple[str, ...]:
    """What is missing, and what would make it fit: chunks, a smaller batch, more GPUs, narrower weights, or these two.

    GPUs that share the tokens are named where no number of those that share the layers would do. The same
    question with the flags that are named makes sense.
    """
    dtypes, layout, gpu = question.dtypes, question.layout, question.gpu
    wider, longer = accepted(question, wider_layouts(layout)), accepted(question, longer_layouts(layout))
    narrower = [f for f in narrower_formats(dtypes, gpu) if accepts(question._replace(dtypes=f))]
    found = [f"prefill_chunk_size {CHUNK}"] if fits_in_chunks(question) else []
    found += [f"batch_size_per_gpu {short.max_batch}"] if short.max_batch else []
    wide = [named(p) for _, p in first(question, [dtypes], wider)]
    found += wide or [f"cp_size {p.cp_size}" for _, p in first(question, [dtypes], longer)]
    found += [f"dtype_name {f.name}" for f, _ in first(question, narrower, [layout])]
    if not found:
        both = first(question, narrower[-1:], wider)
        found = [f"{named(p)} with dtype_name {f.name}" for f, p in both]
    need = (short.capacity - short.left) / GB
    would = f"would fit: {', or '.join(found)}" if found else in_vain(longer, narrower)
    return (f"does not fit: needs {need:,.1f} GB of the {short.capacity / GB:,.1f} GB of {gpu.name}; {would}",)


def first(
    question: Question, formats: list[Dtypes], layouts: list[Parallelism]
) -> Iterable[tuple[Dtypes, Parallelism]]:
    """The first of the formats with the first of the layouts that fit; none where none do."""
    pairs = product(formats, layouts)
    return islice(((d, p) for d, p in pairs if footprint(question._replace(dtypes=d, layout=p)).fits), 1)


def fits_in_chunks(question: Question) -> bool:
    """Whether a prefill in passes of CHUNK tokens would be enough, where it is in one."""
    whole = question.workload.prefill_chunk_size is None and question.method != "published"
    chunked = question._replace(workload=question.workload.model_copy(update={"prefill_chunk_size": CHUNK}))
    return whole and accepts(chunked) and footprint(chunked).fits


def in_vain(longer: list[Parallelism], narrower: list[Dtypes]) -> str:
    """What was tried, where nothing would do."""
    sizes = "tp_size or cp_size" if longer else "tp_size"
    return f"no possible {sizes} would do" + (f", nor {narrower[-1].name}" if narrower else "")


def named(layout: Parallelism) -> str:
    """The flags of a layout with more tensor-parallel GPUs."""
    return f"tp_size {layout.tp_size}" + (f" and sp_size {layout.sp_size}" if layout.sp_size > 1 else "")


def wider_layouts(layout: Parallelism) -> Iterator[Parallelism]:
    """The layouts with more tensor-parallel GPUs, and the same norms and residuals split over them."""
    for t in range(layout.tp_size + 1, MOST_GPUS + 1):
        yield layout.model_copy(update={"tp_size": t, "sp_size": t if layout.sp_size > 1 else 1})


def longer_layouts(layout: Parallelism) -> Iterator[Parallelism]:
    """The layouts with more GPUs that share the tokens, up to `MOST_GPUS` in all."""
    for n in range(layout.cp_size + 1, MOST_GPUS // layout.tp_size + 1):
        yield layout.model_copy(update={"cp_size": n})


def accepted(question: Question, layouts: Iterable[Parallelism]) -> list[Parallelism]:
    """Those of the layouts in which the same question makes sense."""
    return [layout for layout in layouts if accepts(question._replace(layout=layout))]


def accepts(question: Question) -> bool:
    """Whether the model, the GPU's links, the prompts and the method take the question."""
    try:
        check_layout(question.layout, question.model)
        question.workload.check_shared_by(question.layout.cp_size)
        check(question.method, question.model, question.dtypes, question.layout, question.gpu)
    except LLMAnalysisError:
        return False
    return True


def narrower_formats(dtypes: Dtypes, gpu: GPU) -> list[Dtypes]:
    """Formats with narrower weights, the widest first."""
    formats = [get_dtypes(name) for name in ("fp8", "int8", "int4")]
    return [f.on(gpu.peak_flops, gpu.name) for f in formats if f.weight_bits < dtypes.weight_bits]
