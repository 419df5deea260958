"""Serving engines: how they schedule, and the defaults of their servers (`data/engines.json`).

The defaults were read in the engines' packages; each entry has its version and its source. Engines limit the memory of
the KV cache by a fraction f, which applies to one of three things (`fraction_of`):

    everything          weights, cache, activations and the process take at most f of the memory (vLLM)
    weights_and_cache   weights and cache take at most f of the memory (SGLang)
    free                the cache takes f of the memory that weights, activations and the process leave free
                        (TensorRT-LLM)
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from llm_analysis.files import DATA, read_json
from llm_analysis.hardware.gpu import GPU
from llm_analysis.inference.runtimes import DEFAULT_RUNTIME, VERSION, runtime_for_version
from llm_analysis.models.config import ModelConfig
from llm_analysis.physics.dtypes import Dtypes
from llm_analysis.units import Quantity

Version = tuple[int, int]
_FIRST_VLLM = "vllm-0.2"
_OLD_TENSORRT_LLM = "tensorrt-llm-"  # before 1.0, with the number of the version
_SIXTEEN = 16
_Count = Annotated[int, Field(gt=0)]


def version_in(text: str) -> Version | None:
    """Return the (major, minor) version in a text; None if there is none."""
    found = VERSION.search(text)
    return (int(found[1]), int(found[2])) if found else None


class Limit(NamedTuple):
    """A limit on the memory of a GPU: weights + `cache` * cache bytes + `activations` * activation bytes <= `size`."""

    cache: float
    activations: float
    size: Quantity  # bytes


def memory_limits(fraction_of: str, fraction: float, memory: Quantity, process: float) -> tuple[Limit, ...]:
    """Return the limits for a `fraction` of `memory` bytes, with `process` bytes taken by the process."""
    if fraction_of == "weights_and_cache":
        return Limit(1.0, 0.0, fraction * memory), Limit(1.0, 1.0, memory - process)
    if fraction_of == "free":
        return (Limit(1.0 / fraction, 1.0, memory - process),)
    return (Limit(1.0, 1.0, fraction * memory - process),)


class GPUDefaults(BaseModel):
    """Defaults on GPUs with at least `least_memory_bytes`, except for names that contain a word of `except_for`.

    The memory is that reported by the driver, which engines read. The fraction is `gpu_memory_utilization`, or all but
    `reserved_bytes`.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    least_memory_bytes: Annotated[float, Field(ge=0)] = 0.0
    except_for: list[str] = []
    max_num_batched_tokens: _Count | None = None  # None: the longest context of the model
    max_num_seqs: _Count
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 1.0
    reserved_bytes: Annotated[float, Field(ge=0)] = 0.0

    def covers(self, gpu: GPU) -> bool:
        """Return whether these are the defaults on a GPU."""
        excluded = any(name in gpu.name for name in self.except_for)
        return not excluded and gpu.usable_memory_bytes >= self.least_memory_bytes


class VersionDefaults(BaseModel):
    """Defaults of an engine's server from version `since` on: on a GPU, the first entry of `by_gpu` that covers it."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    since: Annotated[list[int], Field(min_length=2, max_length=2)] = [0, 0]
    version: str  # the version in which the defaults were read
    source: str
    by_gpu: Annotated[list[GPUDefaults], Field(min_length=1)]


class LongContext(BaseModel):
    """Models for which an engine cuts prompts, and mixes them with decoding, although it does neither for others."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    beyond: _Count  # tokens of context
    vendor: str  # of the GPUs
    since: Annotated[list[int], Field(min_length=2, max_length=2)]
    max_num_batched_tokens: _Count
    source: str

    def covers(self, model: ModelConfig, gpu: GPU, version: Version) -> bool:
        """Return whether the engine cuts the prompts of a model; not with windowed or latent attention."""
        full_attention = model.sliding_window is None and not model.kv_lora_rank
        applies = gpu.vendor == self.vendor and version >= tuple(self.since)
        return applies and full_attention and model.max_position_embeddings > self.beyond


class ServerDefaults(NamedTuple):
    """Defaults of a server on one GPU. `max_num_batched_tokens` None: the longest context of the model."""

    engine: str
    version: str
    source: str
    max_num_batched_tokens: int | None
    max_num_seqs: int
    gpu_memory_utilization: float
    fraction_of: str


class Engine(BaseModel):
    """How an engine schedules, and its defaults by version and GPU."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: str
    runtimes: list[str]  # runtimes of this engine
    mixed: bool = True  # prefill and decode share a step
    chunked: bool = True
    reserve: Annotated[float, Field(ge=0, le=1)] = 0.0
    fraction_of: Literal["everything", "weights_and_cache", "free"] = "everything"
    # how the engine chooses the format of the KV cache without a flag
    kv_cache: Literal["activations", "checkpoint"] = "activations"
    host_overlapped: bool = False  # the next step is prepared while the GPU works
    prefix_caching: bool = False  # the KV cache of earlier prompts is kept and reused, without a flag
    one_process: bool = False  # a program that imports the engine runs it in its own process
    # Such a program gets the tokens of a step at the end of the next one: the thread of the step puts them in a queue,
    # which does not wake the event loop.
    late_tokens: bool = False
    graph_rows: Annotated[int, Field(ge=0)] = 512  # most rows of a step with prompts that is replayed from a CUDA graph
    last_block_again: bool = False  # a decode worker computes the last block of a prompt that another has prefilled
    source: str = ""
    long_context: LongContext | None = None
    chunk_tokens: _Count | None = None  # replaces `max_num_batched_tokens` of the defaults
    usual_version: Annotated[list[int], Field(min_length=2, max_length=2)]  # the version to assume if none is given
    defaults: Annotated[list[VersionDefaults], Field(min_length=1)]  # oldest first

    def in_version(self, version: Version | None = None) -> VersionDefaults:
        """Return the defaults of a version; of the usual one by default."""
        known = [entry for entry in self.defaults if tuple(entry.since) <= (version or tuple(self.usual_version))]
        return (known or self.defaults[:1])[-1]

    def serving(self, model: ModelConfig, gpu: GPU, version: Version | None = None) -> Engine:
        """Return the engine as it serves a model on a GPU: prompts of models with a long context may be cut."""
        long = self.long_context
        if long is None or not long.covers(model, gpu, version or (self.usual_version[0], self.usual_version[1])):
            return self
        cut = {"mixed": True, "chunked": True, "chunk_tokens": long.max_num_batched_tokens}
        return self.model_copy(update=cut)

    def defaults_on(self, gpu: GPU, version: Version | None = None) -> ServerDefaults:
        """Return the defaults of a version's server on a GPU; of the usual version if none is given."""
        entry = self.in_version(version)
        found = next(each for each in entry.by_gpu if each.covers(gpu))
        reserved = found.reserved_bytes / gpu.usable_memory_bytes
        return ServerDefaults(
            self.name,
            entry.version,
            entry.source,
            self.chunk_tokens or found.max_num_batched_tokens,
            found.max_num_seqs,
            round(found.gpu_memory_utilization - reserved, 3),
            self.fraction_of,
        )

    def cache_formats(self, formats: Dtypes) -> Dtypes:
        """Return the formats with the engine's default KV cache, unless a flag or the checkpoint gives its width."""
        if formats.kv_width is not None or self.kv_cache == "checkpoint" or formats.kv_bits >= _SIXTEEN:
            return formats
        return formats.with_kv_bits(_SIXTEEN)


@cache
def _engines() -> dict[str, Engine]:
    """Return the engines by runtime."""
    raw: list[dict[str, Any]] = read_json(DATA / "engines.json")["engines"]
    engines = [Engine(**entry) for entry in raw]
    found = {runtime: engine for engine in engines for runtime in engine.runtimes}
    # vLLM 0.2 has neither chunked prefill nor asynchronous output.
    found[_FIRST_VLLM] = found[_FIRST_VLLM].model_copy(update={"long_context": None, "late_tokens": False})
    return found


def engine_of(runtime: str) -> Engine | None:
    """Return the engine of a runtime; None for a runtime without a known server."""
    return _engines().get(runtime)


def server_notes(runtime: str) -> tuple[str, ...]:
    """Return a note if the server of a runtime is not known, so that another one is simulated."""
    if runtime.startswith(_OLD_TENSORRT_LLM):
        return (f"server: {runtime} is assumed to schedule like {_engines()['tensorrt-llm'].name} 1.0",)
    if engine_of(runtime) or engine_of(runtime.removesuffix("-rocm")):
        return ()
    return (f"server: scheduler and defaults of vLLM; those of {runtime} are not known",)


def engine_for(runtime: str, version: Version | None = None) -> Engine:
    """Return the engine of a runtime, in a version if one is given; the newest vLLM for one without a known server.

    The server of TensorRT-LLM before 1.0 is not known. It is assumed to schedule like later ones, one step at a time.
    """
    if version is not None:
        runtime = runtime_for_version(runtime, f"{version[0]}.{version[1]}")
    if runtime.startswith(_OLD_TENSORRT_LLM):
        older = {"host_overlapped": False, "runtimes": [_OLD_TENSORRT_LLM + "0.20"]}
        return _engines()["tensorrt-llm"].model_copy(update=older)
    return _engines().get(runtime) or _engines().get(runtime.removesuffix("-rocm")) or _engines()[DEFAULT_RUNTIME]
