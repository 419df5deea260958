"""The core: a model, a GPU, formats and a layout; then one question after another.

    analysis = LLMAnalysis(get_model("llama-2-7b"), get_gpu("a100-sxm-80gb"), get_dtypes("bf16"))
    estimate = analysis.inference(batch_size_per_gpu=1, seq_len=512, num_tokens_to_generate=128)

prefill is the pass over the prompt, decode the mean step over the growing context. For `published`
total = prefill + n decode; for the others the prefill has made the first token: total = prefill + (n - 1) decode.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy
from functools import partial
from typing import Any

from pydantic import ValidationError

from llm_analysis import errors
from llm_analysis.errors import BadValue, one_line
from llm_analysis.hardware.gpu import GPU
from llm_analysis.hardware.roofline import Timed, cost, pass_seconds
from llm_analysis.inference import methods, pipeline, published, runtimes
from llm_analysis.inference.estimate import Estimate, operator_rows
from llm_analysis.inference.memory import Memory, Question, footprint
from llm_analysis.inference.runtimes import DEFAULT_RUNTIME, NONE, Runtime, build_for, get_runtime, place
from llm_analysis.inference.workload import (
    Workload,
    cache_transfer,
    checking_passes,
    draft_layout,
    drafting_passes,
    prefill_passes,
)
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.forward import kv_bytes_per_token, num_params
from llm_analysis.models.sharding import check_layout
from llm_analysis.physics.dtypes import Dtypes
from llm_analysis.physics.operators import Op, Step
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.units import Quantity


class LLMAnalysis:
    """Estimates for one model on one kind of GPU.

    Efficiencies are fractions of the datasheet's peak in (0, 1]; `achieved_tflops` (TFLOP/s) and
    `achieved_memory_bandwidth_GBs` (GB/s) say the same in absolute terms. Given any of them the method is `published`.
    Raises LLMAnalysisError for a question that makes no sense.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        gpu_config: GPU,
        dtype_config: Dtypes | None = None,
        parallelism_config: Parallelism | None = None,
        *,
        method: str | None = None,
        flops_efficiency: float | None = None,
        hbm_memory_efficiency: float | None = None,
        achieved_tflops: float | None = None,
        achieved_memory_bandwidth_GBs: float | None = None,
        intra_node_memory_efficiency: float | None = None,
        inter_node_memory_efficiency: float | None = None,
        kv_cache_dtype_bytes: float | None = None,
        layernorm_dtype_bytes: float | None = None,
        runtime: Runtime | None = None,
        draft_config: ModelConfig | None = None,
    ) -> None:
        layout = parallelism_config or Parallelism()
        gpu_config = gpu_config.per_device().in_nodes_of(layout.num_gpus_per_node)
        self.model, self.gpu, self.draft = model_config, gpu_config, draft_config
        formats, told = methods.formats_for(model_config, dtype_config, gpu_config)
        self.dtypes = methods.with_bytes(formats, gpu_config, kv_cache_dtype_bytes, layernorm_dtype_bytes)
        self.layout = layout.model_copy(update={"gpus_per_node": gpu_config.gpus_per_node})
        peak_tflops, peak_gbs = gpu_config.peak_flops[self.dtypes.math] / 1e12, gpu_config.memory_bandwidth / 1e9
        memory = ("hbm_memory_efficiency", hbm_memory_efficiency, "achieved_memory_bandwidth_GBs")
        self.efficiencies = methods.Efficiencies(
            methods.fraction("flops_efficiency", flops_efficiency, "achieved_tflops", achieved_tflops, peak_tflops),
            methods.fraction(*memory, achieved_memory_bandwidth_GBs, peak_gbs),
            methods.fraction("intra_node_memory_efficiency", intra_node_memory_efficiency),
            methods.fraction("inter_node_memory_efficiency", inter_node_memory_efficiency),
        )
        self.method = methods.chosen_method(method, self.efficiencies, runtime)
        self.notes = (
            *self.model.notes,
            *gpu_config.all_notes,
            *told,
            *self.dtypes.notes,
            *check_layout(self.layout, self.model),
        )
        methods.check(self.method, self.model, self.dtypes, self.layout, self.gpu)
        self.runtime = NONE
        if self.method == "calibrated":
            self.runtime = build_for(runtime or get_runtime(DEFAULT_RUNTIME), self.gpu)
        self.efficiency = self.chosen_efficiency()

    def chosen_efficiency(self) -> methods.Choice:
        """Where this method takes an operator's numbers from."""
        if self.method == "calibrated":
            from llm_analysis.inference.methods import Calibrated

            return Calibrated(self.gpu, self.runtime)
        return partial(methods.published, self.efficiencies) if self.method == "published" else methods.ideal

    def ways(self, step: Step) -> Iterator[pipeline.Cut]:
        """The operators of one pass, the runtime's host included, for each way to cut it for a pipeline."""
        return pipeline.cuts(self.model, step, self.dtypes, self.layout, self.runtime)

    def timed(self, ops: list[Op], weight: float = 1.0) -> Timed:
        """Each operator with its cost under this method, in a pass of the given weight."""
        return [(weight, op, cost(op, self.gpu, self.efficiency(op))) for op in ops]

    def seconds(self, step: Step) -> Quantity:
        """Seconds of one kernel-level pass: an array where the quantities of `step` are arrays."""
        return pipeline.seconds(self.ways(step), self.timed)

    def shortest(self, step: Step, weight: float = 1.0) -> Timed:
        """The operators of one pass, cut into the micro-batches that make it shortest."""
        return pipeline.shortest(self.ways(step), self.timed, weight)

    def prefill(self, workload: Workload) -> Timed:
        """The pass over the prompt."""
        if self.method == "published":
            return self.timed(published.prefill_ops(self.model, workload, self.dtypes, self.layout.tp_size))
        workload.check_shared_by(self.layout.cp_size)
        passes = list(prefill_passes(workload))
        if self.layout.pp_size > 1 and sum(often for often, _ in passes) > 1:
            timed = [*pipeline.chained([(often, next(self.ways(step))) for often, step in passes], self.timed)]
        else:
            timed = [entry for weight, step in passes for entry in self.shortest(step, weight)]
        if workload.num_draft_tokens:
            timed += drafted(self.draft_analysis(), prefill_passes(workload))
        transfer = cache_transfer(self.model, workload, self.dtypes, self.layout, self.gpu)
        return [*timed, *self.timed(transfer)]

    def decode(self, workload: Workload) -> Timed:
        """The mean decode step, as passes whose weights sum to 1."""
        if self.method == "published":
            return self.timed(published.decode_ops(self.model, workload, self.dtypes, self.layout.tp_size))
        passes = checking_passes(self.model, workload)
        timed = [entry for weight, step in passes for entry in self.shortest(step, weight)]
        if workload.num_draft_tokens:
            draft = self.draft_analysis()
            timed += drafted(draft, drafting_passes(draft.model, workload))
        return timed

    def draft_analysis(self) -> LLMAnalysis:
        """The draft model on the same GPUs, under the same method. Raises BadValue where there is none."""
        if self.draft is None:
            raise BadValue("num_draft_tokens needs a draft model: give draft_model_name, mtp for the model's own layer")
        twin = copy(self)
        twin.model, twin.layout, twin.draft = self.draft, draft_layout(self.draft, self.layout), None
        return twin

    def memory(self, workload: Workload) -> Memory:
        """What the fullest GPU holds."""
        return footprint(self.memory_question(workload))

    def memory_question(self, workload: Workload) -> Question:
        """All that the memory of a GPU depends on."""
        draft = self.draft_analysis() if workload.num_draft_tokens else None
        pair = (draft.model, draft.layout) if draft else None
        return Question(self.model, workload, self.dtypes, self.layout, self.gpu, self.method, pair)

    def inference(
        self,
        *,
        batch_size_per_gpu: int = 1,
        seq_len: int = 512,
        num_tokens_to_generate: int = 32,
        use_kv_cache: bool = True,
        num_samples: int = 1,
        cached_prefix_len: int = 0,
        prefill_chunk_size: int | None = None,
        num_draft_tokens: int = 0,
        acceptance_rate: float | None = None,
        disaggregated: bool = False,
        gpu_memory_utilization: float = 1.0,
        cost_per_gpu_hour: float | None = None,
    ) -> Estimate:
        """The answer for a static batch: `seq_len` prompt tokens and `num_tokens_to_generate` more of each sequence."""
        try:
            workload = Workload(
                batch_size_per_gpu=batch_size_per_gpu,
                seq_len=seq_len,
                num_tokens_to_generate=num_tokens_to_generate,
                use_kv_cache=use_kv_cache,
                num_samples=num_samples,
                cached_prefix_len=cached_prefix_len,
                prefill_chunk_size=prefill_chunk_size,
                num_draft_tokens=num_draft_tokens,
                acceptance_rate=acceptance_rate,
                disaggregated=disaggregated,
                gpu_memory_utilization=gpu_memory_utilization,
            )
        except ValidationError as error:
            raise BadValue(one_line(error)) from None
        if seq_len > self.model.max_position_embeddings:
            raise BadValue(
                f"seq_len {seq_len} is beyond the {self.model.max_position_embeddings} positions of {self.model.name}"
            )
        if self.method == "published":
            published.check_workload(workload)
        return answer(self, workload, cost_per_gpu_hour)


def answer(analysis: LLMAnalysis, workload: Workload, cost_per_gpu_hour: float | None) -> Estimate:
    """The passes of a workload, summed up."""
    a, w, layout, model = analysis, workload, analysis.layout, analysis.model
    b, s, n = w.batch_size_per_gpu, w.seq_len, w.num_tokens_to_generate
    prefill, decode, memory = a.prefill(w), a.decode(w), a.memory(w)
    prefill_latency, decode_latency = float(pass_seconds(prefill)), float(pass_seconds(decode))
    total_decode = (n if a.method == "published" else n - 1) * decode_latency
    total = prefill_latency + total_decode
    return Estimate(
        model_name=model.name,
        gpu_name=a.gpu.name,
        dtype_name=a.dtypes.name,
        method=a.method,
        runtime=a.runtime.name if a.method == "calibrated" else None,
        flops_efficiency=None if a.method == "calibrated" else a.efficiencies.flops or 1.0,
        hbm_memory_efficiency=None if a.method == "calibrated" else a.efficiencies.memory or 1.0,
        batch_size_per_gpu=b,
        seq_len=s,
        num_tokens_to_generate=n,
        use_kv_cache=w.use_kv_cache,
        num_samples=w.num_samples,
        cached_prefix_len=w.cached_prefix_len,
        prefill_chunk_size=w.prefill_chunk_size,
        draft_model_name=a.draft.name if a.draft and w.num_draft_tokens else None,
        num_draft_tokens=w.num_draft_tokens,
        acceptance_rate=w.acceptance_rate,
        disaggregated=w.disaggregated,
        tp_size=layout.tp_size,
        cp_size=layout.cp_size,
        pp_size=layout.pp_size,
        dp_size=layout.dp_size,
        sp_size=layout.sp_size,
        ep_size=layout.ep_size,
        num_gpus=layout.num_gpus * (2 if w.disaggregated else 1),
        prefill_latency=prefill_latency,
        decode_latency=decode_latency,
        total_decode_latency=total_decode,
        total_latency=total,
        total_per_token_latency=total / n,
        **bands(a.runtime, a.gpu, prefill_latency, decode_latency, total),
        total_latency_is=f"prefill + {'n' if a.method == 'published' else '(n - 1)'} * decode",
        prefill_tokens_per_sec=layout.dp_size * b * w.new_prompt_tokens / prefill_latency,
        decode_tokens_per_sec=layout.dp_size * w.num_sequences / decode_latency,
        total_tokens_per_sec=layout.dp_size * w.num_sequences * n / total,
        request_tokens_per_sec=n / total,
        num_params_total=num_params(model),
        kv_cache_bytes_per_token=kv_bytes_per_token(model, a.dtypes),
        memory_per_gpu=a.gpu.memory_bytes,
        gpu_memory_utilization=w.gpu_memory_utilization,
        **memory.fields(),
        cost_per_million_tokens=price(cost_per_gpu_hour, layout.gpus_of_replica, total / (w.num_sequences * n)),
        notes=(
            *a.notes,
            *getattr(a.efficiency, "notes", ()),
            *runtimes.runtime_notes(a.runtime, model),
            *beyond_positions(model, s + n),
            *(() if memory.fits else what_would_fit(memory, a.memory_question(w))),
        ),
        operators=(*operator_rows("prefill", prefill, a.gpu), *operator_rows("decode", decode, a.gpu)),
    )


def what_would_fit(memory: Memory, question: Question) -> tuple[str, ...]:
    """A note on what is short, and what would make it fit."""
    from llm_analysis.inference.memory import remedies

    return remedies(memory, question)


def drafted(draft: LLMAnalysis, passes: Iterable[tuple[float, Step]]) -> Timed:
    """The passes of a draft model, its operators named as such."""
    timed = [entry for weight, step in passes for entry in draft.shortest(step, weight)]
    return [(weight, op._replace(name=f"draft_{op.name}"), cost) for weight, op, cost in timed]


def beyond_positions(model: ModelConfig, tokens: int) -> tuple[str, ...]:
    """A note where the sequence outgrows the positions that the model was made for."""
    limit = model.max_position_embeddings
    return (f"{tokens} tokens in the end are beyond the {limit} positions of {model.name}",) if tokens > limit else ()


def bands(runtime: Runtime, gpu: GPU, prefill: float, decode: float, total: float) -> dict[str, Any]:
    """What 80 % of published figures of the runtime would be, for each latency."""
    where = ""
    if runtime.bands:
        from llm_analysis.hardware.profiles import same_chip

        where = place(gpu, same_chip(gpu))
    found: dict[str, Any] = {}
    for name, seconds in (("prefill", prefill), ("decode", decode), ("total", total)):
        band = runtime.band(name, where)
        found[f"{name}_latency_low"] = seconds * band.low if band else None
        found[f"{name}_latency_high"] = seconds * band.high if band else None
    return found


def price(cost_per_gpu_hour: object, num_gpus: int, seconds_per_token: float) -> float | None:
    """What a million generated tokens cost, in the currency of `cost_per_gpu_hour`. Raises BadValue."""
    if cost_per_gpu_hour is None:
        return None
    hourly = errors.number("cost_per_gpu_hour", cost_per_gpu_hour)
    if hourly < 0:
        raise BadValue(f"cost_per_gpu_hour must not be negative, not {hourly:g}")
    return hourly / 3600 * num_gpus * seconds_per_token * 1e6
