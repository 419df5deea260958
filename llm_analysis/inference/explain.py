"""Compare an estimate with the speed of light, term by term, and estimate the effect of changes.

The speed of light of an operator is its time under method `ideal`, at the peaks of the datasheet:

    light = max(flops / peak, bytes / bandwidth) + wire_bytes / link_bandwidth

It is split into light_compute or light_memory, the larger of the two, and light_network. The rest of the operator's
seconds is split into losses. `compute` and `memory` are the two times under the method, and roof is the larger one:

    lost_compute   roof - max(flops / peak, bytes / bandwidth), if compute is the roof
    lost_memory    the same if memory is the roof, or if the difference is negative (a gain: data found in a cache, or
                   work that another kernel does)
    lost_overlap   the time of compute and memory together minus the roof: near the knee neither hides the other
    lost_launch    the launch of a kernel
    lost_network   the time of a collective minus its bytes at the full link bandwidth: launch and message latency
    lost_host      operators of kind `host_...`: the host time of the runtime

The nine terms add up to the estimate. A what-if is an estimate of the same workload with one input changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import asdict, dataclass
from typing import Any

from llm_analysis.errors import LLMAnalysisError
from llm_analysis.hardware.gpu import GPU
from llm_analysis.hardware.roofline import IDEAL, Cost, Efficiency, Timed, cost
from llm_analysis.inference import analysis
from llm_analysis.inference.estimate import Estimate
from llm_analysis.inference.scenario import Scenario
from llm_analysis.inference.workload import Workload
from llm_analysis.physics.dtypes import get_dtypes
from llm_analysis.physics.operators import Op

TERMS = {
    "light_compute": "light: compute",
    "light_memory": "light: memory",
    "light_network": "light: network",
    "lost_compute": "lost to compute",
    "lost_memory": "lost to memory",
    "lost_overlap": "lost to overlap",
    "lost_launch": "lost to launch",
    "lost_network": "lost to network",
    "lost_host": "lost to host",
}
_LINKS = ("link_bandwidth", "peer_bandwidth", "pcie_bandwidth", "inter_node_bandwidth")
_Change = Callable[[Scenario], Scenario]  # the scenario with one input changed; raises LLMAnalysisError


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds of the prefill, the mean decode step and the total, and their shares of the estimate's latencies."""

    name: str
    prefill_seconds: float
    decode_seconds: float
    total_seconds: float
    prefill_share: float
    decode_share: float
    total_share: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """An estimate, the terms that add up to it, and the time that each what-if saves, largest first.

    A negative saving means that the what-if is slower.
    """

    estimate: Estimate
    terms: tuple[Line, ...]
    savings: tuple[Line, ...]
    notes: tuple[str, ...]

    @property
    def whole(self) -> Line:
        """The estimate itself, as a line."""
        return _line("estimate", self.estimate.prefill_latency, self.estimate.decode_latency, self.estimate)

    def as_dict(self) -> dict[str, Any]:
        """Return the plain values of the estimate, with the explanation in place of the operators."""
        plain = {key: value for key, value in self.estimate.as_dict().items() if key != "operators"}
        lines = {"terms": [asdict(line) for line in self.terms], "savings": [asdict(line) for line in self.savings]}
        return plain | lines | {"notes": list(self.notes)}


def explanation(scenario: Scenario, workload: Workload) -> Explanation:
    """Return where the time of a static batch goes, and the effect of changes. Raises LLMAnalysisError."""
    estimate = analysis.estimate(scenario, workload)
    gpu, basis = scenario.gpu, estimate.basis
    prefill, decode = _terms_of(basis.prefill, gpu), _terms_of(basis.decode, gpu)
    terms = tuple(_line(name, prefill[name], decode[name], estimate) for name in TERMS)
    savings, notes = [], list(estimate.notes)
    if any(min(term.prefill_seconds, term.decode_seconds) < 0 for term in terms):
        notes.append("a negative loss is a gain: data found in a cache, or work that another kernel does")
    for name, (label, change) in WHAT_IFS.items():
        if name in _APPLIES and not _APPLIES[name](scenario, estimate):
            continue
        try:
            other = analysis.estimate(change(scenario), workload)
        except LLMAnalysisError as error:
            notes.append(f"{label}: not estimated: {error}")
            continue
        saved_prefill = estimate.prefill_latency - other.prefill_latency
        saved_decode = estimate.decode_latency - other.decode_latency
        savings.append(_line(name, saved_prefill, saved_decode, estimate))
        known = _fallbacks(estimate)
        new = [note.removeprefix(f"{label}: ") for note in _fallbacks(other) if note not in known]
        notes += [f"{label}: {note}" for note in new]
    savings.sort(key=lambda saved: -saved.total_seconds)
    return Explanation(estimate, terms, tuple(savings), tuple(notes))


def _fallbacks(estimate: Estimate) -> tuple[str, ...]:
    """Return the notes on the inputs of an estimate, and on kernels that were not measured."""
    basis = estimate.basis
    ops = [op for timed in (basis.prefill, basis.decode) for _, op, _ in timed]
    return (*basis.scenario.notes, *basis.scenario.method.notes(ops))


def _line(name: str, prefill: float, decode: float, e: Estimate) -> Line:
    """Return a line of the explanation of `e`, with the total over all decode steps."""
    total = prefill + e.total_decode_latency / e.decode_latency * decode
    shares = prefill / e.prefill_latency, decode / e.decode_latency, total / e.total_latency
    return Line(name, prefill, decode, total, *shares)


def _terms_of(timed: Timed, gpu: GPU) -> dict[str, float]:
    """Return the seconds of each term, summed over the operators of a pass."""
    sums = dict.fromkeys(TERMS, 0.0)
    for weight, op, c in timed:
        for term, value in _operator_terms(op, c, cost(op, gpu, IDEAL)):
            sums[term] += float(weight * op.count * value)
    return sums


def _operator_terms(op: Op, c: Cost, light: Cost) -> Iterable[tuple[str, Any]]:
    """Yield (term, seconds) of one run of an operator with cost `c`; `light` is its cost at the speed of light."""
    bound, least = "compute" if light.compute > light.memory else "memory", max(light.compute, light.memory)
    yield f"light_{bound}", least
    yield "light_network", light.network
    roof = max(c.compute, c.memory)
    by_compute = c.compute > c.memory and roof >= least
    yield "lost_compute" if by_compute else "lost_memory", roof - least
    yield "lost_overlap", max(c.seconds - c.launch - c.network - roof, 0.0)
    yield "lost_network", c.network - light.network
    yield f"lost_{_launched_by(op)}", c.launch


def _launched_by(op: Op) -> str:
    """Return the term that an operator's launch time counts towards: `host`, `network` (a collective) or `launch`."""
    if op.kind.startswith("host_"):
        return "host"
    return "network" if op.span > 1 else "launch"


def _on_better_gpu(s: Scenario, factor: float, *names: str) -> Scenario:
    """Return the scenario on a GPU with some of its figures multiplied."""
    figures = {name: value for name in names if (value := getattr(s.gpu, name)) is not None}
    better = {name: value * factor for name, value in figures.items()}
    return s.changed(gpu=s.gpu.model_copy(update=better))


def _faster_compute(s: Scenario) -> Scenario:
    """Return the scenario on a GPU with 10 % more FLOP/s at every rate."""
    return s.changed(gpu=s.gpu.with_more_flops(1.1))


def _half_the_launch(s: Scenario, term: str) -> Scenario:
    """Return the scenario with half the launch time and message latency of the operators of one term."""
    method, usual = copy(s.method), s.method.efficiency

    def halved(op: Op) -> Efficiency:
        e = usual(op)
        return (
            e.model_copy(update={"launch": e.launch / 2, "latency": e.latency / 2}) if _launched_by(op) == term else e
        )

    method.efficiency = halved  # type: ignore[method-assign]
    return s._replace(method=method)


def _narrower_weights(s: Scenario, name: str) -> Scenario:
    """Return the scenario with weights held and multiplied in another format; the KV cache does not change."""
    new = get_dtypes(name)
    formats = {field: getattr(new, field) for field in ("name", "weights", "weight_bits", "scale_bits", "math")}
    kept = s.dtypes.with_kv_bits(s.dtypes.kv_bits)
    return s.changed(dtypes=kept._replace(**formats, activation_bits=new.activation_bits))


def _narrower_cache(s: Scenario) -> Scenario:
    """Return the scenario with a KV cache of 8 bits."""
    return s.changed(dtypes=s.dtypes.with_kv_bits(8), kv_cache_dtype_bytes=1)


def _twice_the_gpus(s: Scenario) -> Scenario:
    """Return the scenario on twice the tensor-parallel GPUs."""
    sizes = {"tp_size": 2 * s.layout.tp_size}
    if s.layout.sp_size > 1:
        sizes["sp_size"] = 2 * s.layout.sp_size
    return s.changed(layout=s.layout.model_copy(update=sizes))


def _twice_the_ranks(s: Scenario) -> Scenario:
    """Return the scenario on twice the context-parallel ranks."""
    return s.changed(layout=s.layout.model_copy(update={"cp_size": 2 * s.layout.cp_size}))


WHAT_IFS: dict[str, tuple[str, _Change]] = {
    "memory_bandwidth_x1.1": ("bandwidth + 10 %", lambda s: _on_better_gpu(s, 1.1, "memory_bandwidth")),
    "peak_flops_x1.1": ("FLOP/s + 10 %", _faster_compute),
    "launch_x0.5": ("launch / 2", lambda s: _half_the_launch(s, "launch")),
    "host_x0.5": ("host time / 2", lambda s: _half_the_launch(s, "host")),
    "link_bandwidth_x2": ("link bandwidth x 2", lambda s: _on_better_gpu(s, 2.0, *_LINKS)),
    "link_latency_x0.5": ("link latency / 2", lambda s: _half_the_launch(s, "network")),
    "fp8_weights": ("fp8 weights", lambda s: _narrower_weights(s, "fp8")),
    "int4_weights": ("int4 weights", lambda s: _narrower_weights(s, "int4")),
    "fp8_kv_cache": ("fp8 KV cache", _narrower_cache),
    "8_bit_kv_cache": ("8-bit KV cache", _narrower_cache),
    "tp_size_x2": ("tp_size x 2", _twice_the_gpus),
    "cp_size_x2": ("cp_size x 2", _twice_the_ranks),
}
_APPLIES: dict[str, Callable[[Scenario, Estimate], bool]] = {  # conditions of what-ifs that do not always apply
    "fp8_weights": lambda s, e: s.dtypes.weight_bits > get_dtypes("fp8").weight_bits,
    "int4_weights": lambda s, e: s.dtypes.weight_bits > get_dtypes("int4").weight_bits,
    "fp8_kv_cache": lambda s, e: s.dtypes.kv_bits > 8 and "fp8" in s.gpu.peak_flops,
    "8_bit_kv_cache": lambda s, e: s.dtypes.kv_bits > 8 and "fp8" not in s.gpu.peak_flops,  # int8 on these GPUs
    "cp_size_x2": lambda s, e: s.method.name != "published" and e.prefill_latency > e.total_decode_latency,
}
