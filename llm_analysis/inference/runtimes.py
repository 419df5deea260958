"""Runtimes: the time that an inference engine adds to the bare kernels.

Terms, in seconds; each can be seen in a profiler:
    step_seconds          the host between two passes (scheduler, sampling, detokenization), once per pass
    layer_seconds         per layer: small kernels that are not fused, gaps between kernels
    sequence_seconds      the host's work per sequence of a decode step
    collective_seconds    per collective, beyond its measured kernel: ranks that wait for one another, copies
Factors on the fraction of peak of the measured kernels (1: as good as those):
    matmul_flops          matrix multiplications bound by compute
    matmul_memory         matrix multiplications bound by memory
    narrow_memory         in addition, with weights of 8 bits or fewer and 16-bit activations
    fp4_matmul            in addition, matrix multiplications in nvfp4 outside experts; may exceed 1, as engines time
                          several kernels and run the fastest, while the table has one. The same for all engines
    attention             attention, prefill and decode
    decode_attention      in addition, decode attention
    cuda_core_flops       FLOP per clock and SM of a decode attention that runs on CUDA cores, one block per query head
                          (0: on tensor cores, as measured)
    sm_bytes              bytes of 16-bit weights that an SM of an NVIDIA GPU reads per clock at most (0: no limit)
Facts:
    tensor_core_groups    query heads per KV head for which this attention has a tensor-core kernel
    score_bytes           bytes moved for each attention score at the full bandwidth, where attention is several kernels
                          (0: one, as measured)
    collective            the all-reduce: the engine's own kernel, or NCCL's
    narrow_launch         whether matrix multiplications with weights of 8 bits or fewer launch like 16-bit ones
    fp16_accumulate       whether 16-bit matrix multiplications accumulate in fp16, at twice the rate on GeForce GPUs
    fused_quantize        whether attention writes its output in the 8 or 4 bits of the next product
    dequantizes           whether weights of 8 bits or fewer are written to memory in 16 bits before each product
    ports                 the runtime for GPUs of another vendor, or of one of its architectures
    base                  the runtime that `calibrate` started from: the engine with its scheduler and its defaults

A runtime is one JSON file in `data/runtimes/`, with the published rows that it was fitted to and its errors on other
rows. A term that did not lower those errors is left out. `held_out` has, for each source and GPU, the terms
fitted without its rows; `validate` scores those rows with them. The runtime `none` is the kernels alone, one after
another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf, isfinite
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from llm_analysis.errors import BadConfig, BadValue, UnknownName, one_line, printable, shown, unknown
from llm_analysis.files import DATA, problem_of, read_json, user_path
from llm_analysis.hardware.gpu import GPU
from llm_analysis.hardware.profiles import same_chip
from llm_analysis.hardware.roofline import Efficiency
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.layers.kinds import MIXERS, base_name
from llm_analysis.names import folded
from llm_analysis.physics.operators import Op, Step
from llm_analysis.units import Quantity, some

FOLDER = DATA / "runtimes"
DEFAULT_RUNTIME = "vllm-v1"
UNKNOWN = "unknown"  # the terms fitted to all engines together, for an engine without a runtime
# Runtimes of the versions of an engine, each with its first version.
_VERSIONS = {
    "vllm": (((0, 0), "vllm-0.2"), ((0, 3), "vllm"), ((0, 8), "vllm-0.13"), ((0, 14), "vllm-v1")),
    "vllm-v1": (((0, 0), "vllm-0.13"), ((0, 14), "vllm-v1")),  # the V1 engine, which 0.7 to 0.13 have too
    "vllm-rocm": (((0, 0), "vllm-rocm"), ((0, 8), "vllm-0.13"), ((0, 14), "vllm-v1")),
    "vllm-mi200": (((0, 0), "vllm-mi200"), ((0, 8), "vllm-0.13"), ((0, 14), "vllm-v1")),
    # attention is one kernel from 4.36 on (scaled_dot_product_attention by default; release notes, recalled)
    "hf-transformers": (((0, 0), "hf-transformers-4.35"), ((4, 36), "hf-transformers")),
    "tensorrt-llm": (
        ((0, 0), "tensorrt-llm-0.6"),
        ((0, 7), "tensorrt-llm-0.9"),
        ((0, 10), "tensorrt-llm-0.20"),
        ((1, 0), "tensorrt-llm"),
    ),
}
COLLECTIVES = {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send"}
_NOT_FACTORS = {"cuda_core_flops", "sm_bytes"}  # numbers that are 0 where they do not apply
_NARROW = re.compile(r"w(\d)a16")  # weight-only formats of 8 bits or fewer, with the bits
_SIXTEEN_BITS = ("fp16", "bf16")
MATMULS = {"gemm", "grouped_gemm"}
_ONLY_VERSION = re.compile(r"[-=: @]*v?\d+\.[\w.]+")
VERSION = re.compile(r"(?<![\d.])(\d{1,2})\.(\d+)")
_Factor = Annotated[float, Field(gt=0, le=2)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RuntimeEvidence(BaseModel):
    """Rows fitted to, and the errors on rows held out (each source and GPU left out in turn)."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    rows: Annotated[int, Field(ge=0)] = 0
    sources: dict[str, int] = {}
    largest_batch: Annotated[float, Field(ge=0)] | None = None
    median_error: Annotated[float, Field(ge=0)] | None = None
    p90_error: Annotated[float, Field(ge=0)] | None = None
    bias: float | None = None
    note: str = ""


class Band(BaseModel):
    """Factors on an estimate that enclose 80 % of published measurements, and the number of these measurements."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    low: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    high: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    rows: Annotated[int, Field(ge=0)] = 0
    groups: Annotated[int, Field(ge=0)] = 0  # number of combinations of source, GPU and model
    gpus: list[str] = []
    batch: list[float] = []  # the smallest and the largest batch

    @model_validator(mode="after")
    def _ordered(self) -> Band:
        """Raises ValueError if low is above high."""
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        return self

    @property
    def bias(self) -> str:
        """`low` if estimates are too low (the whole band is above 1), `high` if too high, otherwise empty."""
        return "low" if self.low > 1 else "high" if self.high < 1 else ""


class Runtime(BaseModel):
    """An inference engine's own time; the start of this file explains the fields."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: Annotated[str, AfterValidator(printable)]
    date: str = ""
    note: Annotated[str, AfterValidator(printable)] = ""
    step_seconds: _Seconds = 0.0
    layer_seconds: _Seconds = 0.0
    sequence_seconds: _Seconds = 0.0
    collective_seconds: _Seconds = 0.0
    matmul_flops: _Factor = 1.0
    matmul_memory: _Factor = 1.0
    narrow_memory: _Factor = 1.0
    fp4_matmul: _Factor = 1.0
    attention: _Factor = 1.0
    decode_attention: _Factor = 1.0
    cuda_core_flops: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    sm_bytes: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    tensor_core_groups: list[int] = []
    score_bytes: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    collective: Literal["engine", "nccl"] = "nccl"
    narrow_launch: bool = False
    fp16_accumulate: bool = False
    fused_quantize: bool = False
    dequantizes: bool = False
    ports: dict[str, str] = {}
    base: Annotated[str, AfterValidator(printable)] = ""
    evidence: RuntimeEvidence = RuntimeEvidence()
    bands: dict[str, Band] = {}
    held_out: dict[str, dict[str, float]] = {}

    @property
    def engine_name(self) -> str:
        """Name of the runtime with the same engine: the base of a fitted file, or the runtime itself."""
        return self.base or self.name

    def without(self, source: str, gpu_name: str, model_name: str) -> Runtime:
        """Return this runtime as fitted without the rows of a source and GPU; or itself.

        The folds of a runtime whose rows are of one source and GPU are models.
        """
        fold = f"{source} | {gpu_name}"
        return self.model_copy(update=self.held_out.get(fold) or self.held_out.get(f"{fold} | {model_name}") or {})

    def band(self, phase: str) -> Band | None:
        """Return the band of `prefill`, `total` or `serving` that `calibrate` wrote, else that of `total`; or None."""
        return self.bands.get(phase) or self.bands.get("total")

    def host_ops(self, step: Step, num_layers: int) -> list[Op]:
        """Return the runtime's own part of a pass as operators of kind `host_...`: all launch, no FLOP, no bytes."""
        counts = {"host_step": 1.0, "host_layer": float(num_layers), "host_sequence": step.batch}
        if step.phase == "prefill":
            del counts["host_sequence"]
        return [Op(kind, kind, count=count) for kind, count in counts.items() if self.host_seconds(kind)]

    def host_seconds(self, kind: str) -> float:
        """Return the seconds of one operator of kind `host_step`, `host_layer` or `host_sequence`."""
        seconds: float = getattr(self, kind.removeprefix("host_") + "_seconds")
        return seconds

    def adjusted(self, op: Op, gpu: GPU, numbers: Efficiency, usual_launch: float) -> Efficiency:
        """Return a kernel's numbers under this runtime; `usual_launch` is the launch time of the 16-bit kernel."""
        kind = op.kind
        if kind in COLLECTIVES:
            added = self.collective_seconds if leaves_package(op, gpu) else 0.0
            return numbers.model_copy(update={"launch": numbers.launch + added})
        if "attention" in kind:
            factor = self.attention * (self.decode_attention if kind.startswith("decode") else 1.0)
            factor = _at_most_measured(factor, gpu)
            numbers = self._on_cuda_cores(op, gpu, _scaled(numbers, factor, factor))
            return numbers.model_copy(update={"score_bytes": self.score_bytes}) if self.score_bytes else numbers
        if kind not in MATMULS:
            return numbers
        narrow = _NARROW.fullmatch(op.format)
        fp4 = self.fp4_matmul if op.format == "nvfp4" and kind == "gemm" else 1.0
        memory = _at_most_measured(self.matmul_memory * (self.narrow_memory if narrow else 1.0), gpu) * fp4
        if narrow and self.dequantizes:  # w bits are read, 16 written, and 16 read by the product
            memory *= int(narrow[1]) / (int(narrow[1]) + 2 * 16)
        launch = min(numbers.launch, usual_launch) if self.narrow_launch else numbers.launch
        if op.format in _SIXTEEN_BITS and isfinite(numbers.memory):
            memory = self._within_reach_of_sms(gpu, numbers.memory * memory) / numbers.memory
        gain = gpu.fastest(op.rate) / gpu.peak_flops[op.rate] if self.fp16_accumulate else 1.0
        flops = _at_most_measured(self.matmul_flops, gpu) * fp4 * gain
        return _scaled(numbers, flops, memory, launch, most=gain)

    def _within_reach_of_sms(self, gpu: GPU, fraction: float) -> float:
        """Return a fraction of the memory bandwidth, at most that of `sm_bytes` per clock on all SMs.

        Units of other vendors are no SMs, and none of them is among the rows of the fit.
        """
        most = self.sm_bytes * _clocks(gpu) / gpu.memory_bandwidth
        return min(fraction, most) if most and gpu.vendor == "NVIDIA" else fraction

    def _on_cuda_cores(self, op: Op, gpu: GPU, numbers: Efficiency) -> Efficiency:
        """Return the numbers of a decode attention on CUDA cores, if the attention of this runtime runs there.

        Its compute fraction is `cuda_core_flops` per clock over the peak; the time is the larger of compute and memory.
        """
        rate = self.cuda_core_flops * _clocks(gpu)
        if op.kind != "decode_attention" or not rate or op.group in self.tensor_core_groups:
            return numbers
        fraction = rate / gpu.peak_flops[op.rate]
        return numbers.model_copy(update={"flops": fraction, "sharpness": inf, "fill": 0.0})


def _clocks(gpu: GPU) -> float:
    """Return the clocks of all SMs per second; 0 if their number or their rate is unknown."""
    return (gpu.num_sms or 0) * (gpu.boost_clock_hz or 0.0)


def _at_most_measured(factor: float, gpu: GPU) -> float:
    """Return a factor, at most 1 on a GPU with measured kernels: an engine's kernels are not faster than those."""
    return 1.0 if factor > 1.0 and same_chip(gpu) else factor


def _scaled(
    numbers: Efficiency, flops: float, memory: float, launch: float | None = None, most: float = 1.0
) -> Efficiency:
    """Return `numbers` with factors on the fractions of peak; the compute fraction stays at most `most`."""
    if flops == memory == 1.0 and launch in (None, numbers.launch):
        return numbers
    changed = {"flops": min(numbers.flops * flops, most), "memory": numbers.memory * memory}
    return numbers.model_copy(update=changed | ({} if launch is None else {"launch": launch}))


NONE = Runtime(name="none", note="the kernels alone, one after another")


def runtime_notes(runtime: Runtime, model: ModelConfig, batch: Quantity = 1.0) -> tuple[str, ...]:
    """Return notes on the evidence of a runtime: terms of another one, layers or a batch without measurements."""
    note = runtime.evidence.note or _taken_from(runtime)
    notes: tuple[str, ...] = (f"runtime {runtime.name}: {note}",) if note else ()
    kinds = {base_name(mixer) for mixer, _ in model.layer_kinds}
    unlike = list(dict.fromkeys(k.unpublished for name, k in MIXERS.items() if name in kinds and k.unpublished))
    if unlike and runtime.name != NONE.name:
        notes += (f"no published measurement here is of a model with {' and '.join(unlike)}, so errors may be larger",)
    largest = runtime.evidence.largest_batch
    if runtime.sequence_seconds and largest and some(batch > largest):
        notes += (
            f"runtime {runtime.name} was fitted to batches up to {largest:g}: its host time per sequence is assumed "
            "to be the same in larger ones",
        )
    return notes


def _taken_from(runtime: Runtime) -> str:
    """Return a note if a runtime uses the terms of another one, because its own fit had no lower error; else empty."""
    rows, fitted = runtime.evidence.rows, runtime.held_out or terms(runtime) == terms(NONE)
    if not rows or fitted or runtime.name not in runtime_names():
        return ""
    others = (get_runtime(name) for name in runtime_names())
    same = next((r.name for r in others if r.held_out and terms(r) == terms(runtime)), "")
    used = f"uses the terms of {same}" if same else "uses the terms fitted to vLLM and TensorRT-LLM together"
    if len(runtime.evidence.sources) == 1:
        return f"{used}; its own {rows} measurements have one source, so a fit to them could not be checked"
    return f"{used}; a fit to its own {rows} measurements had no lower error on rows left out"


def terms(runtime: Runtime) -> dict[str, float]:
    """Return the terms and factors of a runtime that can be fitted."""
    return {name: value for name, value in runtime if isinstance(value, float) and name not in _NOT_FACTORS}


def runtime_for_version(name: str, version: str) -> str:
    """Return the runtime of a version of an engine: `vllm` 0.9.1 is `vllm-0.13`. Without a version, `name`."""
    found = VERSION.search(version)
    if found is None or name not in _VERSIONS:
        return name
    return [runtime for since, runtime in _VERSIONS[name] if since <= (int(found[1]), int(found[2]))][-1]


def leaves_package(op: Op, gpu: GPU) -> bool:
    """Return whether a collective reaches over more than the devices of one package (two of an MI250)."""
    return op.span > gpu.package_devices


def build_for(runtime: Runtime, gpu: GPU) -> Runtime:
    """Return the runtime's port for the architecture or the vendor of a GPU, or the runtime itself."""
    name = port_name(runtime.ports, gpu)
    return get_runtime(name) if name else runtime


def port_name(ports: Mapping[str, str], gpu: GPU) -> str:
    """Return the port for a GPU, that for its architecture before that for its vendor; empty if there is none."""
    return ports.get(gpu.architecture) or ports.get(gpu.vendor, "")


def _of_version(name: str) -> str:
    """Return the runtime of an engine with a version, such as vllm-0.9 or vllm==0.9.1; empty for any other name."""
    plain = name.lower().replace("_", "-")
    engine = next((known for known in sorted(_VERSIONS, key=len, reverse=True) if plain.startswith(known)), "")
    stated = plain.removeprefix(engine)
    return runtime_for_version(engine, stated) if engine and _ONLY_VERSION.fullmatch(stated) else ""


def runtime_names() -> list[str]:
    """Return the names of all runtimes."""
    return sorted({"none", *(path.stem for path in FOLDER.glob("*.json"))})


def get_runtime(name: object) -> Runtime:
    """Return the runtime of that name, or in that JSON file. Raises UnknownName, BadConfig or BadValue."""
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise BadValue(f"runtime must be a known name or the path of a JSON file, not {shown(name)}")
    name = next((known for known in runtime_names() if folded(known) == folded(name)), name)
    if name == "none":
        return NONE
    path = user_path(name) if name.endswith(".json") else FOLDER / f"{name}.json"
    if not name.endswith(".json") and problem_of(path):
        versioned = _of_version(name)
        if versioned:
            raise UnknownName(f"unknown runtime {shown(name)}; this version is runtime {versioned}")
        raise unknown("runtime", name, runtime_names(), f"known: {', '.join(runtime_names())}")
    raw = read_json(path)
    try:
        return Runtime(**raw)
    except ValidationError as error:
        raise BadConfig(one_line(error, Runtime.model_fields, str(path))) from None
