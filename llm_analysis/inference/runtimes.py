"""What a runtime (an inference engine) adds to the bare kernels: a few numbers, each a thing that a profiler shows.

Added, in seconds:
    step_seconds          the host between two passes: scheduler, sampling, detokenisation, Python; once per pass
    layer_seconds         what each layer takes beyond its kernels: small unfused kernels, gaps between them
    sequence_seconds      the host's work for each sequence of a decode step
    collective_seconds    what each collective takes beyond its measured kernel: ranks waiting for one another, copies
Kernels of its own, as factors on the profile's fractions of peak (1: as good as those the profile was measured on):
    matmul_flops          matrix multiplications where they are bound by compute
    matmul_memory         matrix multiplications where they are bound by memory
    narrow_memory         the same for weights of 8 or 4 bits, on top: the quality of its dequantisation
    attention             attention, prefill and decode
    cuda_core_flops       FLOP per clock and SM of a decode attention that runs on CUDA cores, each query head for
                          itself (0: on tensor cores, as measured)
And facts about it:
    tensor_core_groups    query heads per KV head for which such a runtime has a kernel on tensor cores all the same
    collective            whose all-reduce it runs: the engine's own kernel, or NCCL's
    narrow_launch         whether matrix multiplications of 8 or 4 bits launch like 16-bit ones

A runtime is one JSON file in `data/runtimes/`, with the published rows it was fitted to and its errors on rows that
the fit did not see; a term that did not lower those is left out. `held_out` keeps, for each source and GPU, the terms
as fitted without its rows: what `validate` scores them with. `none` is no runtime: the kernels alone, back to back.
"""

from __future__ import annotations

import re
from math import inf
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llm_analysis.errors import BadConfig, BadValue, one_line, shown, unknown
from llm_analysis.files import DATA, problem_of, read_json, user_path
from llm_analysis.hardware.gpu import GPU
from llm_analysis.hardware.roofline import Efficiency
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.layers.kinds import MIXERS, base_name
from llm_analysis.physics.operators import Op, Step


def runtime_notes(runtime: Runtime, model: ModelConfig) -> tuple[str, ...]:
    """What to know of the evidence of a runtime's numbers, and of its bands for a model unlike all that were scored."""
    note = runtime.evidence.note or lent(runtime)
    kinds = {base_name(mixer) for mixer, _ in model.layer_kinds}
    unlike = list(dict.fromkeys(k.unpublished for name, k in MIXERS.items() if name in kinds and k.unpublished))
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


COLLECTIVES = {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send"}
MATMULS = {"gemm", "grouped_gemm"}
FOLDER = DATA / "runtimes"
ELSEWHERE = " elsewhere"  # of a band: on GPUs of NVIDIA whose chip's kernels were not measured
DEFAULT_RUNTIME = "vllm-v1"
# Engines of which some versions are runtimes of their own here: those, and the version that each starts with.
VERSIONS = {
    "vllm": (((0, 0), "vllm"), ((0, 8), "vllm-v1")),
    "tensorrt-llm": (((0, 0), "tensorrt-llm-0.6"), ((0, 7), "tensorrt-llm-0.9"), ((0, 10), "tensorrt-llm")),
}
VERSION = re.compile(r"(?<![\d.])(\d{1,2})\.(\d+)")
Factor = Annotated[float, Field(gt=0, le=2)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Band(BaseModel):
    """Factors on an estimate between which 80 % of published rows like it lie, on rows that the fit did not see."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    low: Annotated[float, Field(gt=0)]
    high: Annotated[float, Field(gt=0)]
    rows: Annotated[int, Field(ge=0)] = 0


class RuntimeEvidence(BaseModel):
    """Rows fitted to, and the errors on rows held out (each source and GPU left out in turn)."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    rows: Annotated[int, Field(ge=0)] = 0
    sources: dict[str, int] = {}
    median_error: Annotated[float, Field(ge=0)] | None = None
    p90_error: Annotated[float, Field(ge=0)] | None = None
    bias: float | None = None
    note: str = ""


class Runtime(BaseModel):
    """An inference engine's own time, in seconds; see the head of this file."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: str
    date: str = ""
    note: str = ""
    step_seconds: Seconds = 0.0
    layer_seconds: Seconds = 0.0
    sequence_seconds: Seconds = 0.0
    collective_seconds: Seconds = 0.0
    matmul_flops: Factor = 1.0
    matmul_memory: Factor = 1.0
    narrow_memory: Factor = 1.0
    attention: Factor = 1.0
    cuda_core_flops: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    tensor_core_groups: list[int] = []
    collective: Literal["engine", "nccl"] = "nccl"
    narrow_launch: bool = False
    evidence: RuntimeEvidence = RuntimeEvidence()
    bands: dict[str, Band] = {}
    held_out: dict[str, dict[str, float]] = {}

    def without(self, source: str, gpu_name: str, model_name: str) -> Runtime:
        """This runtime as it was fitted without the rows of a source and GPU (and model); itself where it saw none."""
        fold = f"{source} | {gpu_name}"
        return self.model_copy(update=self.held_out.get(fold) or self.held_out.get(f"{fold} | {model_name}") or {})

    def as_server(self) -> Runtime:
        """This runtime as a server with continuous batching: its host at work while the GPU is."""
        return self.model_copy(update={"step_seconds": 0.0, "layer_seconds": 0.0, "sequence_seconds": 0.0})

    def band(self, phase: str, where: str = "") -> Band | None:
        """The band of `prefill`, `total` or `serving` at a place (see `place`).

        Where it has none, that of all phases there; among GPUs of NVIDIA that of the other place. None where no
        published rows tell one.
        """
        places = [where, *({"": [ELSEWHERE], ELSEWHERE: [""]}.get(where, []))]
        names = [part + each for each in places for part in (phase, "total")]
        return next((self.bands[name] for name in names if name in self.bands), None)

    def host_ops(self, step: Step, num_layers: int) -> list[Op]:
        """The runtime's own part of a pass, as operators of kind `host_...`: all launch, no FLOP, no bytes."""
        counts = {"host_step": 1.0, "host_layer": float(num_layers), "host_sequence": step.batch}
        if step.phase == "prefill":
            del counts["host_sequence"]
        return [Op(kind, kind, count=count) for kind, count in counts.items() if self.host_seconds(kind)]

    def host_seconds(self, kind: str) -> float:
        """Seconds of one run of an operator of kind `host_step`, `host_layer` or `host_sequence`."""
        seconds: float = getattr(self, kind.removeprefix("host_") + "_seconds")
        return seconds

    def adjusted(self, op: Op, gpu: GPU, numbers: Efficiency, usual_launch: float) -> Efficiency:
        """A kernel's numbers as this runtime's own kernel has them; `usual_launch` is that of the 16-bit kernel."""
        kind = op.kind
        if kind in COLLECTIVES:
            return numbers.model_copy(update={"launch": numbers.launch + self.collective_seconds})
        if "attention" in kind:
            return self.on_cuda_cores(op, gpu, scaled(numbers, self.attention, self.attention))
        if kind not in MATMULS:
            return numbers
        narrow = op.format.startswith(("w8", "w4"))
        memory = self.matmul_memory * (self.narrow_memory if narrow else 1.0)
        launch = min(numbers.launch, usual_launch) if self.narrow_launch else numbers.launch
        return scaled(numbers, self.matmul_flops, memory, launch)

    def on_cuda_cores(self, op: Op, gpu: GPU, numbers: Efficiency) -> Efficiency:
        """The numbers of a decode attention that has only CUDA cores to run on, where this runtime's does.

        Its compute fraction is then that of so many FLOP a clock, and the slower of compute and memory counts.
        """
        clocks = (gpu.num_sms or 0) * (gpu.boost_clock_hz or 0.0)
        if op.kind != "decode_attention" or not self.cuda_core_flops * clocks or op.group in self.tensor_core_groups:
            return numbers
        fraction = self.cuda_core_flops * clocks / gpu.peak_flops[op.rate]
        return numbers.model_copy(update={"flops": fraction, "sharpness": inf, "fill": 0.0})


def scaled(numbers: Efficiency, flops: float, memory: float, launch: float | None = None) -> Efficiency:
    """`numbers` with factors on its fractions of peak, which stay at most 1 for compute."""
    if flops == memory == 1.0 and launch in (None, numbers.launch):
        return numbers
    changed = {"flops": min(numbers.flops * flops, 1.0), "memory": numbers.memory * memory}
    return numbers.model_copy(update=changed | ({} if launch is None else {"launch": launch}))


def place(gpu: GPU, measured: bool) -> str:
    """Whose bands a GPU has: those of GPUs whose chip's kernels were measured, of NVIDIA's others, or of its vendor."""
    if measured:
        return ""
    return ELSEWHERE if gpu.vendor == "NVIDIA" else f" on {gpu.vendor}"


def of_version(name: str, version: str) -> str:
    """The runtime that a version of an engine is: `vllm` 0.9.1 is `vllm-v1`. As named where the version is not told."""
    told = VERSION.search(version)
    if told is None or name not in VERSIONS:
        return name
    return [runtime for since, runtime in VERSIONS[name] if since <= (int(told[1]), int(told[2]))][-1]


def build_for(runtime: Runtime, gpu: GPU) -> Runtime:
    """The build of a runtime that a GPU runs: on AMD its ROCm port, where one was fitted."""
    port = FOLDER / f"{runtime.name}-rocm.json"
    return get_runtime(port.stem) if gpu.vendor == "AMD" and port.is_file() else runtime


NONE = Runtime(name="none", note="the kernels alone, back to back")


def runtime_names() -> list[str]:
    """The runtimes that are known."""
    return sorted({"none", *(path.stem for path in FOLDER.glob("*.json"))})


def get_runtime(name: object) -> Runtime:
    """The runtime of that name, or in that JSON file. Raises UnknownName, BadConfig or BadValue."""
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise BadValue(f"runtime must be a known name or the path of a JSON file, not {shown(name)}")
    if name == "none":
        return NONE
    path = user_path(name) if name.endswith(".json") else FOLDER / f"{name}.json"
    if not name.endswith(".json") and problem_of(path):
        raise unknown("runtime", name, runtime_names())
    raw = read_json(path)
    try:
        return Runtime(**raw)
    except ValidationError as error:
        raise BadConfig(one_line(error, Runtime.model_fields, str(path))) from None
