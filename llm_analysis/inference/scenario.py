"""The scenario: a model on GPUs, in number formats, sharded by a layout, timed by a method. Validated once.

    scenario = Scenario.of(get_model("llama-2-7b"), get_gpu("a100-sxm-80gb"), get_dtypes("bf16"))
    answer = estimate(scenario, Workload(seq_len=512, num_tokens_to_generate=128))

Everything that is a choice is in the scenario; everything that is a quantity is in the `Workload`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from llm_analysis.errors import BadValue, Unsupported, one_of, shown
from llm_analysis.hardware.gpu import GPU
from llm_analysis.hardware.roofline import Timed, cost
from llm_analysis.inference.engines import Engine, engine_of
from llm_analysis.inference.methods import Calibrated, Efficiencies, Method, choose_method
from llm_analysis.inference.runtimes import DEFAULT_RUNTIME, NONE, Runtime, build_for, get_runtime, runtime_notes
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.gguf_average import with_gguf_mix
from llm_analysis.models.sharding import check_layout
from llm_analysis.physics.dtypes import Dtypes, get_dtypes, of_checkpoint
from llm_analysis.physics.gguf import MIXES
from llm_analysis.physics.operators import Op
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.units import NUMBER, Quantity, some

# engines for the GPUs of one vendor, by the start of the name
_ONLY_ON = {"tensorrt-llm": "NVIDIA", "fastertransformer": "NVIDIA", "tinychat": "NVIDIA", "optimum-habana": "Intel"}
_GGUF_RUNTIME = "llama.cpp"  # the runtime with kernels for GGUF formats
NGRAM = "ngram"  # instead of a draft model: proposes the tokens that followed the same n-gram earlier in the text


class Scenario(NamedTuple):
    """A valid combination of model, GPU, formats, layout, method and runtime.

    `gpu` is one device as software sees it, in nodes of the size that `layout` states; `dtypes` are formats that it
    multiplies. `notes` list assumptions. Build one with `Scenario.of`, which checks all parts against each other.
    """

    model: ModelConfig
    gpu: GPU
    dtypes: Dtypes
    layout: Parallelism
    method: Method
    runtime: Runtime = NONE
    draft: ModelConfig | Literal["ngram"] | None = None
    notes: tuple[str, ...] = ()
    kv_cache_dtype_bytes: float | None = None  # the flag; None if not given
    layernorm_dtype_bytes: float | None = None  # the flag; None if not given

    @classmethod
    def of(
        cls,
        model: ModelConfig,
        gpu: GPU,
        dtypes: Dtypes | None = None,
        layout: Parallelism | None = None,
        *,
        method: str | None = None,
        efficiencies: Efficiencies | None = None,
        runtime: Runtime | None = None,
        draft: ModelConfig | Literal["ngram"] | None = None,
        kv_cache_dtype_bytes: float | None = None,
        layernorm_dtype_bytes: float | None = None,
    ) -> Scenario:
        """Return the scenario, checked.

        Without `dtypes` the checkpoint's own formats are taken, without `layout` one GPU, without `method` the default:
        `published` if efficiencies are given, `calibrated` otherwise. Raises LLMAnalysisError if the parts contradict
        each other, such as a tensor-parallel size that does not divide the attention heads.
        """
        _check_types(model, gpu, dtypes, layout, runtime, draft)
        layout = layout or Parallelism()
        gpu = gpu.per_device().in_nodes_of(layout.num_gpus_per_node)
        layout = layout.model_copy(update={"num_gpus_per_node": gpu.gpus_per_node})
        efficiencies = efficiencies or Efficiencies()
        name = choose_method(method, efficiencies, runtime)
        if name == "calibrated":
            runtime = build_for(runtime or get_runtime(DEFAULT_RUNTIME), gpu)
        formats, format_notes = formats_for(model, dtypes, gpu, runtime, kv_cache_dtype_bytes, layernorm_dtype_bytes)
        notes = (
            *model.notes,
            *gpu.all_notes,
            *format_notes,
            *_vendor_notes(gpu, runtime),
            *check_layout(layout, model),
        )
        check_links(gpu, layout)
        used = runtime or NONE
        chosen = Method.of(name, gpu, used, efficiencies.on(gpu, formats))
        chosen.check(model, formats, layout)
        return cls(model, gpu, formats, layout, chosen, used, draft, notes, kv_cache_dtype_bytes, layernorm_dtype_bytes)

    @property
    def engine(self) -> Engine | None:
        """The serving engine of the runtime; None for a method or runtime without one."""
        found = engine_of(self.runtime.engine_name) if self.method.serves else None
        return found and found.serving(self.model, self.gpu)

    def workload_settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a workload with the engine's defaults for those that are missing or None.

        A prefill_chunk_size of 0 asks for all prompts in one pass; that is the default for an encoder.
        """
        settings = {name: value for name, value in given.items() if value is not None}
        chunk = settings.get("prefill_chunk_size")
        if isinstance(chunk, int) and not isinstance(chunk, bool) and chunk == 0:
            settings["prefill_chunk_size"] = None
        if self.engine is None:
            return settings
        found = self.engine.defaults_on(self.gpu)
        defaults: dict[str, Any] = {
            "max_num_seqs": found.max_num_seqs,
            "gpu_memory_utilization": found.gpu_memory_utilization,
        }
        if settings.get("use_kv_cache", True) is True and not self.model.is_encoder:
            defaults["prefill_chunk_size"] = found.max_num_batched_tokens
        return defaults | settings

    def changed(self, **parts: Any) -> Scenario:
        """Return the scenario with some of its parts replaced, checked again. Raises LLMAnalysisError."""
        names = ("model", "gpu", "dtypes", "layout", "draft", "kv_cache_dtype_bytes", "layernorm_dtype_bytes")
        own = {name: getattr(self, name) for name in names}
        own["runtime"] = self.runtime if self.method.name == "calibrated" else None
        return Scenario.of(**(own | parts), method=self.method.name, efficiencies=self.method.efficiencies)

    def timed(self, ops: list[Op], weight: Quantity = 1.0) -> Timed:
        """Return each operator with its cost, in a pass that counts `weight` times."""
        gpu, efficiency = self.gpu, self.method.efficiency
        return [(weight, op, cost(op, gpu, efficiency(op))) for op in ops]

    def runtime_notes(self, batch: Quantity = 1.0) -> tuple[str, ...]:
        """Return notes on the evidence behind the runtime's numbers."""
        return runtime_notes(self.runtime, self.model, batch) if isinstance(self.method, Calibrated) else ()

    def position_notes(self, tokens: Quantity) -> tuple[str, ...]:
        """Return a note if `tokens` of prompt and output are more than the model's positions."""
        limit = self.model.max_position_embeddings
        if not some(tokens > limit):
            return ()
        counted = f"{tokens} tokens" if isinstance(tokens, NUMBER) else f"up to {tokens.max():.0f} tokens"
        return (f"{counted} of prompt and output are more than the {limit} positions of {self.model.name}",)

    @property
    def draft_name(self) -> str | None:
        """The name of the draft model; None without one."""
        return self.draft if self.draft is None or isinstance(self.draft, str) else self.draft.name

    def of_draft(self) -> Scenario | None:
        """Return the draft model on the same GPUs, under the same method; None for n-grams, which need no model.

        It is sharded like the model if its heads allow, otherwise whole on each GPU. It runs inside the model's step,
        so the time of the scheduler is not counted again. Raises BadValue without a draft model, Unsupported in a
        pipeline, where the stages would wait for one another at each drafted token.
        """
        if self.draft is None:
            own = "mtp for the model's own layer, eagle for an EAGLE head, ngram for n-grams of the text"
            raise BadValue(f"num_draft_tokens needs a draft model: give draft_model_name, or {own}")
        if isinstance(self.draft, str):
            return None
        if self.layout.pp_size > 1:
            raise Unsupported("a draft model needs pp_size 1: the stages would wait for each drafted token")
        whole = {"ep_size": 1, "expert_imbalance": 1.0}
        layout = self.layout if self.draft.num_experts else self.layout.model_copy(update=whole)
        try:
            check_layout(layout, self.draft)
        except Unsupported:
            layout = self.layout.model_copy(update={"tp_size": 1, "cp_size": 1, "sp_size": 1, **whole})
        runtime = self.runtime.model_copy(update={"step_seconds": 0.0, "sequence_seconds": 0.0})
        return self._replace(model=self.draft, layout=layout, runtime=runtime, draft=None)


def check_links(gpu: GPU, layout: Parallelism) -> None:
    """Raise Unsupported if the layout needs a link of unknown bandwidth."""
    for span in sorted({layout.tp_size, layout.context_span, layout.expert_span, *layout.send_spans}):
        link, bandwidth = gpu.link_over(span)
        if span > 1 and not bandwidth:
            raise Unsupported(
                f"{span} GPUs need the {link or 'link'} bandwidth of {gpu.name}, which is not known; "
                "a GPU file of your own can give it"
            )


def _check_types(model: object, gpu: object, dtypes: object, layout: object, runtime: object, draft: object) -> None:
    """Raise BadValue if a part of a scenario is of another type, such as the name of a format."""
    parts: tuple[tuple[str, object, type, str], ...] = (
        ("model", model, ModelConfig, "get_model"),
        ("gpu", gpu, GPU, "get_gpu"),
        ("dtypes", dtypes, Dtypes, "get_dtypes"),
        ("layout", layout, Parallelism, "Parallelism"),
        ("runtime", runtime, Runtime, "get_runtime"),
        ("draft", draft, ModelConfig, "get_model"),
    )
    for name, value, kind, maker in parts:
        if name == "draft" and value == NGRAM:
            continue
        if not isinstance(value, kind) and (value is not None or name in ("model", "gpu")):
            raise BadValue(f"{name} must be a value that {maker}(...) returns, not {shown(value)}")


def formats_for(
    model: ModelConfig,
    asked: Dtypes | None,
    gpu: GPU,
    runtime: Runtime | None,
    kv_cache_dtype_bytes: object,
    layernorm_dtype_bytes: object,
) -> tuple[Dtypes, tuple[str, ...]]:
    """Return the number formats of a scenario, as the GPU multiplies them, and notes. Raises BadValue, Unsupported.

    A value of None stands for the default: the formats of the checkpoint, the runtime's format of the KV cache.
    """
    formats, notes = _with_checkpoint(model, asked, gpu)
    formats, cache_notes = _with_cache(formats, gpu, kv_cache_dtype_bytes, runtime)
    if layernorm_dtype_bytes is not None:
        norm_bytes = one_of("layernorm_dtype_bytes", layernorm_dtype_bytes, (1, 2, 4))
        formats = formats._replace(norm_bytes=norm_bytes)
    return formats, (*notes, *formats.notes, *cache_notes, *_gguf_notes(formats, runtime))


def _with_checkpoint(model: ModelConfig, asked: Dtypes | None, gpu: GPU) -> tuple[Dtypes, tuple[str, ...]]:
    """Return the formats asked for, else those of the checkpoint, as the GPU multiplies them; and notes.

    If the checkpoint has only its experts in the format asked for, the other weights keep the checkpoint's format.
    Raises Unsupported for a format of experts if the model has none.
    """
    own = of_checkpoint(model.weight_format)
    notes: tuple[str, ...] = ()
    if asked is None and model.weight_format:
        notes = (f"no dtype_name given: {own.name}, the format of the published checkpoint",)
    elif asked and own.experts and asked.name == own.experts.name:
        notes = (f"dtype_name {asked.name}: taken as {own.name}, the format of the published checkpoint",)
        asked = own if asked == get_dtypes(asked.name) else own._replace(kv_width=asked.kv_width)
    if asked and asked.experts and not model.num_experts:
        raise Unsupported(f"dtype_name {asked.name} gives the experts a format, but {model.name} has no experts")
    return with_gguf_mix(asked or own, model).on(gpu.peak_flops, gpu.name), notes


def _with_cache(
    dtypes: Dtypes, gpu: GPU, kv_cache_dtype_bytes: object, runtime: Runtime | None
) -> tuple[Dtypes, tuple[str, ...]]:
    """Return `dtypes` with the given bytes per element of the KV cache, else the engine's default; and notes."""
    notes: tuple[str, ...] = ()
    if kv_cache_dtype_bytes is not None:
        bits = int(8 * one_of("kv_cache_dtype_bytes", kv_cache_dtype_bytes, (0.5, 1, 2, 4)))
        dtypes = dtypes.with_kv_bits(bits)
    elif runtime is not None and (engine := engine_of(runtime.engine_name)):
        by_default = engine.cache_formats(dtypes)
        if by_default.kv_bits != dtypes.kv_bits:
            notes = (f"KV cache in 16 bits, the default of {engine.name}; --kv_cache_dtype_bytes 1 for fp8",)
        dtypes = by_default
    if dtypes.kv_bits == 8 and "fp8" not in gpu.peak_flops:
        notes += (
            f"8-bit KV cache: int8 is assumed; {gpu.name} expands fp8 in software, which is slower than a 16-bit cache",
        )
    return dtypes, notes


def _vendor_notes(gpu: GPU, runtime: Runtime | None) -> tuple[str, ...]:
    """Return a note if the engine asked for does not run on GPUs of this vendor."""
    name = runtime.engine_name if runtime else ""
    vendor = next((only for engine, only in _ONLY_ON.items() if name.startswith(engine)), gpu.vendor)
    if vendor == gpu.vendor:
        return ()
    return (f"{name} runs on {vendor} GPUs only: on {gpu.name} the times are hypothetical",)


def _gguf_notes(dtypes: Dtypes, runtime: Runtime | None) -> tuple[str, ...]:
    """Return a note if the weights are in a GGUF format and another engine than llama.cpp is assumed."""
    if dtypes.weights not in MIXES or runtime is None or runtime.engine_name in (_GGUF_RUNTIME, NONE.name):
        return ()
    return (f"{dtypes.weights} is a format of llama.cpp; --runtime {_GGUF_RUNTIME} gives the times of that engine",)
