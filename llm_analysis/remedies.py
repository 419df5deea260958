"""What does not fit, and what would make it fit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, product

from llm_analysis.dtypes import Dtypes, get_dtypes
from llm_analysis.errors import Unsupported
from llm_analysis.hardware import GPU
from llm_analysis.memory import Memory, Question, footprint
from llm_analysis.model_config import ModelConfig
from llm_analysis.scenario import Parallelism
from llm_analysis.units import GB


def remedies(short: Memory, question: Question) -> tuple[str, ...]:
    """What is missing, and what would make it fit: a smaller batch, more GPUs, narrower weights, or the last two.

    GPUs that share the tokens are named where no number of those that share the layers would do.
    """
    dtypes, layout, model, gpu = question.dtypes, question.layout, question.model, question.gpu

    def ways(formats: list[Dtypes], layouts: list[Parallelism]) -> Iterator[tuple[Dtypes, Parallelism]]:
        pairs = product(formats, layouts)
        return ((d, p) for d, p in pairs if footprint(question._replace(dtypes=d, layout=p)).fits)

    layouts, narrower = wider_layouts(layout, model, gpu), narrower_formats(dtypes, gpu)
    found = [f"batch_size_per_gpu {short.max_batch}"] if short.max_batch else []
    wide = [f"tp_size {wider.tp_size}" for _, wider in islice(ways([dtypes], layouts), 1)]
    longer = longer_layouts(question) if not wide else []
    found += wide or [f"cp_size {layout.cp_size}" for _, layout in islice(ways([dtypes], longer), 1)]
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


def longer_layouts(question: Question) -> list[Parallelism]:
    """The layouts with more GPUs that share the tokens, up to 64 in all, that the model and the GPU's links allow."""
    layout, w, found = question.layout, question.workload, []
    for n in range(layout.cp_size + 1, 64 // layout.tp_size + 1):
        longer = layout.model_copy(update={"cp_size": n})
        try:
            longer.check(question.model)
            longer.check_prompt(w)
        except Unsupported:
            continue
        if question.gpu.link_over(longer.context_span)[1]:
            found.append(longer)
    return found


def narrower_formats(dtypes: Dtypes, gpu: GPU) -> list[Dtypes]:
    """Formats with narrower weights, the widest first."""
    formats = [get_dtypes(name) for name in ("fp8", "int8", "int4")]
    return [f.on(gpu.peak_flops, gpu.name) for f in formats if f.weight_bits < dtypes.weight_bits]
