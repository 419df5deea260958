"""What does not fit, and what would make it fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice, product

from llm_analysis.dtypes import Dtypes, get_dtypes
from llm_analysis.errors import LLMAnalysisError
from llm_analysis.hardware import GPU
from llm_analysis.memory import Memory, Question, footprint
from llm_analysis.methods import check
from llm_analysis.scenario import Parallelism
from llm_analysis.units import GB

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
        question.layout.check(question.model)
        question.layout.check_prompt(question.workload)
        check(question.method, question.model, question.dtypes, question.layout, question.gpu)
    except LLMAnalysisError:
        return False
    return True


def narrower_formats(dtypes: Dtypes, gpu: GPU) -> list[Dtypes]:
    """Formats with narrower weights, the widest first."""
    formats = [get_dtypes(name) for name in ("fp8", "int8", "int4")]
    return [f.on(gpu.peak_flops, gpu.name) for f in formats if f.weight_bits < dtypes.weight_bits]
