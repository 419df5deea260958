"""Which four numbers an operator is timed with: the methods, and the user's efficiencies."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isfinite
from typing import NamedTuple

from llm_analysis.dtypes import Dtypes, get_dtypes, of_checkpoint
from llm_analysis.errors import BadValue, Unsupported, shown, unknown
from llm_analysis.hardware import GPU, IDEAL, Efficiency
from llm_analysis.model_config import ModelConfig
from llm_analysis.operators import Op
from llm_analysis.published import LEAST_MESSAGE_LATENCY
from llm_analysis.published import check as check_published
from llm_analysis.runtime import NONE, Runtime, get_runtime, runtime_names
from llm_analysis.scenario import Parallelism

METHODS = ("calibrated", "published", "ideal")
DEFAULT_METHOD = "calibrated"
LEAST_FRACTION = 1e-6  # below it an answer says nothing, and its numbers leave the range of floats
Choice = Callable[[Op], Efficiency]  # the numbers that a method times an operator with


class Efficiencies(NamedTuple):
    """The user's fractions of the datasheet's peaks; None where not given."""

    flops: float | None = None
    memory: float | None = None
    intra_node: float | None = None
    inter_node: float | None = None

    @property
    def given(self) -> bool:
        """Whether the user gave any."""
        return any(value is not None for value in (self.flops, self.memory, self.intra_node, self.inter_node))


def chosen_method(method: object, efficiencies: Efficiencies, runtime: object = None) -> str:
    """The method asked for, or the default: `published` with efficiencies, `calibrated` with a runtime.

    Raises UnknownName, or Unsupported where the method cannot honour efficiencies or a runtime.
    """
    if method is None and efficiencies.given and runtime is not None:
        raise Unsupported(
            "efficiencies are of method published, a runtime is of method calibrated: leave one of them out"
        )
    if method is None:
        method = "published" if efficiencies.given else DEFAULT_METHOD if runtime is None else "calibrated"
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if efficiencies.given and method != "published":
        raise Unsupported(f"method {method} takes no efficiencies; leave them out or use --method published")
    if method == "published" and efficiencies.inter_node is not None:
        raise Unsupported("method published covers one node, so it takes no inter_node_memory_efficiency")
    if runtime is not None and method != "calibrated":
        raise Unsupported(f"method {method} knows no runtime; use --method calibrated")
    return str(method)


def ideal(op: Op) -> Efficiency:
    """The speed of light: datasheet peaks, no launch, no latency."""
    return IDEAL


def published(efficiencies: Efficiencies, op: Op) -> Efficiency:
    """The published example's two flags, its link at full speed with a least message latency."""
    if op.kind == "all_reduce":
        return Efficiency(latency=LEAST_MESSAGE_LATENCY, link=efficiencies.intra_node or 1.0)
    return Efficiency(flops=efficiencies.flops or 1.0, memory=efficiencies.memory or 1.0)


def fraction(
    name: str, value: object, achieved_name: str = "", achieved: object = None, peak: float = 1.0
) -> float | None:
    """An efficiency in (0, 1], given as such or as the achieved rate in units of `peak`; None where neither is.

    Raises BadValue for both, for what is no number, and for one outside of the range.
    """
    if value is not None and achieved is not None:
        raise BadValue(f"give {name} or {achieved_name}, not both")
    if achieved is not None:
        rate = number(achieved_name, achieved)
        if rate > peak:
            raise BadValue(f"{achieved_name} {rate:g} is above the datasheet's peak of {peak:g}")
        name, value = achieved_name, rate / peak
    if value is None:
        return None
    share = number(name, value)
    if not 0 < share <= 1:
        raise BadValue(f"{name} must be above 0{'' if achieved else ' and at most 1'}, not {share:g}")
    if share < LEAST_FRACTION:
        raise BadValue(f"{name} is less than a millionth of the peak, which no kernel is")
    return share


def number(name: str, value: object) -> float:
    """`value` as a finite float. Raises BadValue for anything else, True and False included."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadValue(f"{name} must be a number, not {shown(value)}")
    try:
        found = float(value)
    except OverflowError:
        found = inf
    if not isfinite(found):
        raise BadValue(f"{name} must be a finite number, not {found:g}")
    return found


def formats_for(model: ModelConfig, asked: Dtypes | None, gpu: GPU) -> tuple[Dtypes, tuple[str, ...]]:
    """The formats asked for, or else the checkpoint's own, as the GPU runs them; and a note where they are the latter.

    A format in which a checkpoint holds its experts alone stands for what is published. Raises Unsupported for formats
    of experts that the model does not have.
    """
    own = of_checkpoint(model.weight_format, model.quantized_part)
    told: tuple[str, ...] = ()
    if asked is None and model.weight_format:
        cache = "; --kv_cache_dtype_bytes 2 keeps the KV cache in 16 bits" if own.kv_bits < 16 else ""
        told = (f"no dtype_name was given: {own.name}, as the checkpoint is published{cache}",)
    elif asked and own.experts and asked.name == model.weight_format:
        told = (f"dtype_name {asked.name}: {own.name}, as the checkpoint is published",)
        asked = own if asked == get_dtypes(asked.name) else own._replace(kv_bits=asked.kv_bits)
    if asked and asked.experts and not model.num_experts:
        raise Unsupported(f"dtype_name {asked.name}: {model.name} has no experts to hold in a format of their own")
    return (asked or own).on(gpu.peak_flops, gpu.name), told


# Kinds of layers that no published latency is of, and what they are called.
UNPUBLISHED = {
    "latent": "latent attention",
    "mamba": "state-space layers",
    "gated_delta": "gated delta-nets",
    "lightning": "lightning attention",
}


def runtime_notes(runtime: Runtime, model: ModelConfig) -> tuple[str, ...]:
    """What to know of the evidence of a runtime's numbers, and of its bands for a model unlike all that were scored."""
    note = runtime.evidence.note or lent(runtime)
    kinds = {mixer for mixer, _ in model.layer_kinds}
    unlike = [called for part, called in UNPUBLISHED.items() if any(part in kind for kind in kinds)]
    notes: tuple[str, ...] = (f"runtime {runtime.name}: {note}",) if note else ()
    if unlike and runtime.bands:
        notes += (f"the bands rest on other models: no published latency here is of one with {' and '.join(unlike)}",)
    return notes


def lent(runtime: Runtime) -> str:
    """Whose numbers a runtime has, where none fitted to its own rows did better; empty where they are its own."""
    rows, its_own = runtime.evidence.rows, runtime.held_out or terms(runtime) == terms(NONE)
    if not rows or its_own or runtime.name not in runtime_names():
        return ""
    others = (get_runtime(name) for name in runtime_names())
    lender = next((r.name for r in others if r.held_out and terms(r) == terms(runtime)), "")
    told = f"the numbers of {lender}" if lender else "what other engines have in common"
    if len(runtime.evidence.sources) == 1:
        return f"{told}; its own {rows} rows are of one source, so that nothing fitted to them could be checked"
    return f"{told}; none fitted to its own {rows} rows did better on rows held out"


def terms(runtime: Runtime) -> dict[str, float]:
    """The numbers of a runtime that can be fitted."""
    return {name: value for name, value in runtime if isinstance(value, float) and name != "cuda_core_flops"}


def with_bytes(dtypes: Dtypes, gpu: GPU, kv_cache_dtype_bytes: object, layernorm_dtype_bytes: object) -> Dtypes:
    """`dtypes` with the KV cache's and the norms' bytes per element replaced where given. Raises BadValue."""
    if kv_cache_dtype_bytes is not None:
        dtypes = dtypes._replace(kv_bits=int(8 * one_of("kv_cache_dtype_bytes", kv_cache_dtype_bytes, (0.5, 1, 2, 4))))
    if layernorm_dtype_bytes is not None:
        dtypes = dtypes._replace(norm_bytes=one_of("layernorm_dtype_bytes", layernorm_dtype_bytes, (1, 2, 4)))
    if dtypes.kv_bits == 8 and "fp8" not in gpu.peak_flops:
        note = f"8-bit KV cache: int8; fp8 would be expanded in software on {gpu.name}, slower than 16 bits are read"
        dtypes = dtypes._replace(notes=(*dtypes.notes, note))
    return dtypes


def one_of(name: str, value: object, allowed: tuple[float, ...]) -> float:
    """`value` if it is among `allowed`. Raises BadValue otherwise."""
    if number(name, value) not in allowed:
        raise BadValue(f"{name} must be one of {', '.join(f'{a:g}' for a in allowed)}, not {shown(value)}")
    return number(name, value)


def check(method: str, model: ModelConfig, dtypes: Dtypes, layout: Parallelism, gpu: GPU) -> None:
    """Raises Unsupported for a layout that lacks a link, or for what the method does not cover."""
    check_links(gpu, layout)
    if method == "published":
        check_published(model, dtypes, layout)


def check_links(gpu: GPU, layout: Parallelism) -> None:
    """Raises Unsupported where the layout needs a link whose bandwidth is not on record for the GPU."""
    for span in sorted({layout.tp_size, layout.context_span, layout.expert_span, *layout.send_spans}):
        link, bandwidth = gpu.link_over(span)
        if span > 1 and not bandwidth:
            raise Unsupported(f"{gpu.name} has no {link or 'link'} bandwidth on record, which {span} GPUs need")
