"""The three methods: the efficiencies of an operator, and the scenarios and workloads that each method supports.

ideal        datasheet peaks, no launch, no latency: the speed of light, kernel by kernel
published    the block-level model of the published FasterTransformer example, with the user's efficiencies
calibrated   fitted kernels of the GPU, adjusted by the runtime (inference engine)
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from math import inf
from typing import ClassVar, NamedTuple

from llm_analysis.errors import BadValue, Unsupported, number, unknown
from llm_analysis.hardware.gpu import GPU
from llm_analysis.hardware.profiles import Evidence, Found, collective, kernel, profile_for
from llm_analysis.hardware.roofline import IDEAL, Efficiency
from llm_analysis.inference import published
from llm_analysis.inference.engines import engine_of
from llm_analysis.inference.host_terms import BESIDE, beside_seconds
from llm_analysis.inference.runtimes import COLLECTIVES, MATMULS, Runtime
from llm_analysis.inference.workload import Workload
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.layers.attention import QUANTIZE
from llm_analysis.models.layers.base import SKIPPED
from llm_analysis.physics.dtypes import Dtypes
from llm_analysis.physics.operators import Op
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.units import Quantity

METHODS = ("calibrated", "published", "ideal")
_DEFAULT_METHOD = "calibrated"
_LEAST_FRACTION = 1e-6  # a smaller efficiency is a typing error, and its times would overflow
# Takes no time: the measured attention kernels include rotary embedding and the write to the KV cache.
_FREE = Found(Efficiency(memory=inf), Evidence())


class Efficiencies(NamedTuple):
    """The user's fractions of the datasheet's peaks, or the achieved rates; None if not given."""

    flops: float | None = None
    memory: float | None = None
    intra_node: float | None = None
    inter_node: float | None = None
    achieved_tflops: float | None = None
    achieved_memory_bandwidth_GBs: float | None = None  # noqa: N815  # the flag has this name

    @property
    def given(self) -> bool:
        """Whether the user gave any."""
        return any(value is not None for value in self)

    def on(self, gpu: GPU, dtypes: Dtypes) -> Efficiencies:
        """Return all of them as checked fractions of this GPU's peaks. Raises BadValue."""
        if not self.given:
            return self
        tflops, gbs = gpu.peak_flops[dtypes.math] / 1e12, gpu.memory_bandwidth / 1e9
        achieved = "achieved_memory_bandwidth_GBs"
        return Efficiencies(
            _fraction("flops_efficiency", self.flops, "achieved_tflops", self.achieved_tflops, tflops),
            _fraction("hbm_memory_efficiency", self.memory, achieved, self.achieved_memory_bandwidth_GBs, gbs),
            _fraction("intra_node_memory_efficiency", self.intra_node),
            _fraction("inter_node_memory_efficiency", self.inter_node),
        )


class Method:
    """How operators are timed and passes are counted. This base class times kernels at the speed of light."""

    name: ClassVar[str] = "ideal"
    total_is: ClassVar[str] = "prefill + (n - 1) * decode"
    per_kernel: ClassVar[bool] = True  # whether an operator is a kernel, not a block of several
    serves: ClassVar[bool] = False  # whether a serving process holds memory beside weights, cache and activations
    efficiencies: Efficiencies | None = Efficiencies()  # the user's; None if the method has no such numbers

    @staticmethod
    def of(name: str, gpu: GPU, runtime: Runtime, efficiencies: Efficiencies) -> Method:
        """Return the method of that name, for a GPU, a runtime (calibrated) and efficiencies (published)."""
        if name == "calibrated":
            return Calibrated(gpu, runtime)
        return Published(efficiencies) if name == "published" else Method()

    def efficiency(self, op: Op) -> Efficiency:
        """Return the numbers that `op` is timed with."""
        return IDEAL

    def notes(self, ops: Iterable[Op]) -> tuple[str, ...]:
        """Return notes on the fallbacks behind the efficiencies of `ops`, each once."""
        return ()

    def check(self, model: ModelConfig, dtypes: Dtypes, layout: Parallelism) -> None:
        """Raise Unsupported for a scenario that the method does not support."""

    def check_workload(self, workload: Workload) -> None:
        """Raise Unsupported for a workload that the method does not support."""

    def decode_steps(self, tokens: Quantity) -> Quantity:
        """Return the decode steps after the prefill for `tokens` generated tokens. The prefill gives the first."""
        return tokens - 1


class Published(Method):
    """The block-level model of the published example, with the user's efficiencies."""

    name = "published"
    per_kernel = False
    total_is = "prefill + n * decode"

    def __init__(self, efficiencies: Efficiencies) -> None:
        self.efficiencies: Efficiencies = efficiencies

    def efficiency(self, op: Op) -> Efficiency:
        """Return the user's fractions; an all-reduce takes at least `LEAST_LATENCY`, for a group of any size."""
        e = self.efficiencies
        if op.kind == "all_reduce":
            each = published.LEAST_LATENCY / max(op.messages, 1.0)  # `cost` counts the latency of each message
            return Efficiency(latency=each, link=e.intra_node or 1.0)
        return Efficiency(flops=e.flops or 1.0, memory=e.memory or 1.0)

    def check(self, model: ModelConfig, dtypes: Dtypes, layout: Parallelism) -> None:
        """Raise Unsupported for a scenario outside of the published model."""
        if self.efficiencies.inter_node is not None:
            raise Unsupported("method published covers one node, so it takes no inter_node_memory_efficiency")
        published.check(model, dtypes, layout)

    def check_workload(self, workload: Workload) -> None:
        """Raise Unsupported for serving options, which the published model does not have."""
        published.check_workload(workload)

    def decode_steps(self, tokens: Quantity) -> Quantity:
        """Return as many steps as tokens: the published model charges one for the first token too."""
        return tokens


class Calibrated(Method):
    """The fitted kernel profile of the GPU, adjusted by the runtime."""

    name = "calibrated"
    serves = True
    efficiencies = None

    def __init__(self, gpu: GPU, runtime: Runtime) -> None:
        self._gpu, self.runtime, self._profile = gpu, runtime, profile_for(gpu)
        self._numbers: dict[tuple[object, ...], Efficiency] = {}  # cache of the look-ups

    def under(self, runtime: Runtime) -> Calibrated:
        """Return the same kernels under another runtime, without looking up the profile again."""
        other = copy(self)
        other.runtime, other._numbers = runtime, {}
        return other

    def efficiency(self, op: Op) -> Efficiency:
        """Return the numbers of the kernel of `op`, adjusted by the runtime."""
        key = (op.kind, op.format, op.rate, op.group, op.span, op.messages)
        numbers = self._numbers.get(key)
        if numbers is None:
            numbers = self._numbers[key] = self._adjusted(op)
        return numbers

    def notes(self, ops: Iterable[Op]) -> tuple[str, ...]:
        """Return notes on kernels of other GPUs and formats that are used for `ops`."""
        found = [self._profile.note] if self._profile.note else []
        distinct = {(op.kind, op.format, op.span, op.messages): op for op in ops}
        for op in distinct.values():
            if not op.kind.startswith("host_"):
                found += self._bare(op).notes
        return tuple(dict.fromkeys(found))

    def _adjusted(self, op: Op) -> Efficiency:
        """Return the numbers of an operator under the runtime."""
        if op.kind in BESIDE:
            engine = engine_of(self.runtime.engine_name)
            return Efficiency(launch=beside_seconds(engine, op.kind) if engine else 0.0)
        if op.kind.startswith("host_"):
            return Efficiency(launch=self.runtime.host_seconds(op.kind))
        usual = kernel(self._profile, op.kind, "bf16").numbers.launch if op.kind in MATMULS else 0.0
        return self.runtime.adjusted(op, self._gpu, self._bare(op).numbers, usual)

    def _bare(self, op: Op) -> Found:
        """Return the numbers of a kernel or collective without a runtime."""
        if op.kind in ("rotary", SKIPPED) or (op.kind == QUANTIZE and self.runtime.fused_quantize):
            return _FREE
        if op.kind in COLLECTIVES:
            return collective(self._gpu.link_over(op.span)[0], op.kind, op.messages + 1, self.runtime.collective)
        return kernel(self._profile, "elementwise" if op.kind == QUANTIZE else op.kind, op.format)


def choose_method(method: object, efficiencies: Efficiencies, runtime: Runtime | None = None) -> str:
    """Return the method asked for, or the default: `published` with efficiencies, otherwise `calibrated`.

    Raises UnknownName, or Unsupported if the method takes no efficiencies or no runtime and some are given.
    """
    if method is None and efficiencies.given and runtime is not None:
        raise Unsupported(
            "efficiencies belong to method published and a runtime to method calibrated: give one of the two"
        )
    if method is None:
        method = "published" if efficiencies.given else _DEFAULT_METHOD
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if efficiencies.given and method != "published":
        raise Unsupported(f"method {method} takes no efficiencies; leave them out or use --method published")
    if runtime is not None and method != "calibrated":
        raise Unsupported(f"method {method} has no runtime; use --method calibrated")
    return str(method)


def _fraction(
    name: str, value: object, achieved_name: str = "", achieved: object = None, peak: float = 1.0
) -> float | None:
    """Return an efficiency in (0, 1], from a fraction or an achieved rate in units of `peak`; None if neither is given.

    Raises BadValue if both are given, for anything but a number, and for a number out of range.
    """
    if value is not None and achieved is not None:
        raise BadValue(f"give {name} or {achieved_name}, not both")
    if achieved is not None:
        rate = number(achieved_name, achieved)
        if rate <= 0:
            raise BadValue(f"{achieved_name} must be above 0, not {rate:g}")
        if rate > peak:
            raise BadValue(f"{achieved_name} {rate:g} is above the datasheet's peak of {peak:g}")
        name, value = achieved_name, rate / peak
    if value is None:
        return None
    share = number(name, value)
    if not 0 < share <= 1:
        raise BadValue(f"{name} must be above 0 and at most 1, not {share:g}")
    if share < _LEAST_FRACTION:
        raise BadValue(f"{name} is less than a millionth of the peak, below any kernel")
    return share
