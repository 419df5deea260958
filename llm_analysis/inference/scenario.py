"""The scenario: a model on GPUs, in number formats, sharded by a layout, timed by a method. Validated once.

    scenario = Scenario.of(get_model("llama-2-7b"), get_gpu("a100-sxm-80gb"), get_dtypes("bf16"))
    answer = estimate(scenario, Workload(seq_len=512, num_tokens_to_generate=128))

Everything that is a choice is in the scenario; everything that is a quantity is in the `Workload`.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from llm_analysis.errors import BadValue, Unsupported, shown
from llm_analysis.hardware.gpu import GPU
from llm_analysis.hardware.roofline import Timed, cost
from llm_analysis.inference.engines import Engine, engine_of
from llm_analysis.inference.methods import (
    Calibrated,
    Efficiencies,
    Method,
    choose_method,
    formats_for,
    gguf_notes,
    with_cache,
    with_norms,
)
from llm_analysis.inference.runtimes import DEFAULT_RUNTIME, NONE, Runtime, build_for, get_runtime, runtime_notes
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.sharding import check_layout
from llm_analysis.physics.dtypes import Dtypes
from llm_analysis.physics.operators import Op
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.units import Quantity

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
        formats, format_notes = formats_for(model, dtypes, gpu)
        efficiencies = (efficiencies or Efficiencies()).on(gpu, formats)
        name = choose_method(method, efficiencies, runtime)
        if name == "calibrated":
            runtime = build_for(runtime or get_runtime(DEFAULT_RUNTIME), gpu)
        formats, cache_notes = with_cache(formats, gpu, kv_cache_dtype_bytes, runtime)
        formats = with_norms(formats, layernorm_dtype_bytes)
        notes = (
            *model.notes,
            *gpu.all_notes,
            *format_notes,
            *formats.notes,
            *cache_notes,
            *gguf_notes(formats, runtime),
            *check_layout(layout, model),
        )
        check_links(gpu, layout)
        used = runtime or NONE
        chosen = Method.of(name, gpu, used, efficiencies)
        chosen.check(model, formats, layout)
        return cls(model, gpu, formats, layout, chosen, used, draft, notes, kv_cache_dtype_bytes, layernorm_dtype_bytes)

    @property
    def engine(self) -> Engine | None:
        """The serving engine of the runtime; None for a method or runtime without one."""
        return engine_of(self.runtime.engine_name) if self.method.serves else None

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
