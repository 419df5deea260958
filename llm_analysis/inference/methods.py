"""Which four numbers an operator is timed with: the methods, and the user's efficiencies.

`--method calibrated`: the fitted kernels of a GPU, and what a runtime adds to them.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from math import inf
from typing import NamedTuple

from llm_analysis.errors import BadValue, Unsupported, number, one_of, unknown
from llm_analysis.hardware.gpu import GPU
from llm_analysis.hardware.profiles import collective, kernel, profile_for
from llm_analysis.hardware.roofline import IDEAL, Efficiency
from llm_analysis.inference.published import LEAST_MESSAGE_LATENCY
from llm_analysis.inference.published import check as check_published
from llm_analysis.inference.runtimes import COLLECTIVES, MATMULS, Runtime
from llm_analysis.models.config import ModelConfig
from llm_analysis.physics.dtypes import Dtypes, get_dtypes, of_checkpoint
from llm_analysis.physics.operators import Op
from llm_analysis.physics.parallelism import Parallelism

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
    """Return the efficiencies of the published example: one latency for each all-reduce, whatever the group."""
    if op.kind == "all_reduce":
        return Efficiency(latency=LEAST_MESSAGE_LATENCY / max(op.messages, 1.0), link=efficiencies.intra_node or 1.0)
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


# The measured attention kernels rotate Q and K and write the cache themselves.
FUSED = Efficiency(memory=inf)


class Calibrated:
    """Chooses an operator's numbers: the kernel profile of the GPU, adjusted by the runtime.

    `notes` tell each fall-back that was made on the way.
    """

    def __init__(self, gpu: GPU, runtime: Runtime) -> None:
        self.gpu, self.runtime, self.profile = gpu, runtime, profile_for(gpu)
        self.notes: dict[str, None] = {self.profile.note: None} if self.profile.note else {}
        self.known: dict[tuple[str, str, str, float, int, float], Efficiency] = {}

    def under(self, runtime: Runtime) -> Calibrated:
        """The same kernels under another runtime."""
        other = copy(self)
        other.runtime, other.known = runtime, {}
        return other

    def __call__(self, op: Op) -> Efficiency:
        """The numbers for `op`."""
        key = (op.kind, op.format, op.rate, op.group, op.span, op.messages)
        if key not in self.known:
            self.known[key] = self.find(op)
        return self.known[key]

    def find(self, op: Op) -> Efficiency:
        """The numbers for the kind of kernel that `op` is, under the runtime."""
        if op.kind.startswith("host_"):
            return Efficiency(launch=self.runtime.host_seconds(op.kind))
        usual = kernel(self.profile, op.kind, "bf16").numbers.launch if op.kind in MATMULS else 0.0
        return self.runtime.adjusted(op, self.gpu, self.bare(op), usual)

    def bare(self, op: Op) -> Efficiency:
        """The same without a runtime; fall-backs are noted."""
        if op.kind == "rotary":
            return FUSED
        if op.kind in COLLECTIVES:
            found = collective(self.gpu.link_over(op.span)[0], op.kind, op.messages + 1, self.runtime.collective)
        else:
            found = kernel(self.profile, op.kind, op.format)
        self.notes |= dict.fromkeys(found.notes)
        return found.numbers
