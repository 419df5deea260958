"""What fits: weights, KV cache and activations of one GPU, counted on the same operators that are timed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product

from llm_analysis.dtypes import Dtypes, get_dtypes
from llm_analysis.errors import Unsupported
from llm_analysis.hardware import GPU
from llm_analysis.model import stage_ops
from llm_analysis.model_config import ModelConfig
from llm_analysis.operators import Op, Step
from llm_analysis.scenario import Parallelism, Workload
from llm_analysis.units import GB


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the fullest GPU. KV cache at the end of the generation; activations at the peak of the prefill."""

    weights: float
    kv_cache: float
    activations: float
    capacity: float
    max_batch: int

    @property
    def left(self) -> float:
        """What remains; negative where it does not fit."""
        return self.capacity - self.weights - self.kv_cache - self.activations

    @property
    def fits(self) -> bool:
        """Whether all of it fits."""
        return self.left >= 0


def footprint(model: ModelConfig, workload: Workload, dtypes: Dtypes, layout: Parallelism, gpu: GPU) -> Memory:
    """The memory of the fullest pipeline stage.

    Every byte but the weights grows with the batch, so the largest batch is a division.
    """
    stages = [
        stage(model, workload, dtypes, layout, first, last) for first, last in layout.stages(model.num_hidden_layers)
    ]
    weights, kv_cache, activations = max(stages, key=sum)
    b, room = workload.batch_size_per_gpu, gpu.memory_bytes
    max_batch = min(int(max(room - w, 0) / ((kv + act) / b)) for w, kv, act in stages)
    return Memory(weights, kv_cache, activations, room, max_batch)


def stage(
    model: ModelConfig, workload: Workload, dtypes: Dtypes, layout: Parallelism, first: int, last: int
) -> tuple[float, float, float]:
    """Bytes of weights, KV cache and peak activations of one pipeline stage's GPU."""
    b, s, n = float(workload.batch_size_per_gpu), float(workload.seq_len), float(workload.num_tokens_to_generate)
    prefill = stage_ops(model, Step(b, s), dtypes, layout, first, last)
    end = stage_ops(model, Step(b, 1.0, s + n - 1, "decode"), dtypes, layout, first, last)
    weights = sum(float(op.count) * op.stored_bytes for op in prefill)
    kv_cache = sum(float(op.count * op.cached_bytes) for op in end) if workload.use_kv_cache else 0.0
    stream = b * s * model.hidden_size * dtypes.stream_bytes
    return weights, kv_cache, stream + peak(prefill)


def peak(ops: list[Op]) -> float:
    """The operator that has most activations in flight: its inputs and outputs together, in bytes."""
    return max(float(op.activation_bytes) for op in ops)


def remedies(
    short: Memory, workload: Workload, dtypes: Dtypes, layout: Parallelism, model: ModelConfig, gpu: GPU
) -> tuple[str, ...]:
    """What is missing, and what would make it fit: a smaller batch, more GPUs, narrower weights, or the last two."""

    def ways(formats: list[Dtypes], layouts: list[Parallelism]) -> Iterator[tuple[Dtypes, Parallelism]]:
        pairs = product(formats, layouts)
        return (pair for pair in pairs if footprint(model, workload, *pair, gpu).fits)

    layouts, narrower = wider_layouts(layout, model, gpu), narrower_formats(dtypes, gpu)
    found = [f"batch_size_per_gpu {short.max_batch}"] if short.max_batch else []
    found += [f"tp_size {wider.tp_size}" for _, wider in islice(ways([dtypes], layouts), 1)]
    found += [f"dtype_name {formats.name}" for formats, _ in islice(ways(narrower, [layout]), 1)]
    if not found:
        both = islice(ways(narrower[-1:], layouts), 1)
        found = [f"tp_size {wider.tp_size} with dtype_name {formats.name}" for formats, wider in both]
    need = (short.capacity - short.left) / GB
    would = f"would fit: {', or '.join(found)}" if found else "no tp_size that its links allow would do, nor int4"
    return (f"does not fit: needs {need:,.1f} GB of the {short.capacity / GB:,.1f} GB of {gpu.name}; {would}",)


def wider_layouts(layout: Parallelism, model: ModelConfig, gpu: GPU) -> list[Parallelism]:
    """The layouts with more tensor-parallel GPUs, up to 64, that the model and the GPU's links allow."""
    heads, kv_heads = model.num_attention_heads, model.num_key_value_heads
    sizes = [t for t in range(layout.tp_size + 1, 65) if heads % t == 0 and (kv_heads % t == 0 or t % kv_heads == 0)]
    return [layout.model_copy(update={"tp_size": t, "sp_size": 1}) for t in sizes if gpu.link_over(t)[1]]


def narrower_formats(dtypes: Dtypes, gpu: GPU) -> list[Dtypes]:
    """Formats with narrower weights, the widest first."""
    formats = [get_dtypes(name) for name in ("fp8", "int8", "int4")]
    return [f.on(gpu.peak_flops, gpu.name) for f in formats if f.weight_bits < dtypes.weight_bits]


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
