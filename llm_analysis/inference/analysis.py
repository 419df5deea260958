"""One estimate: the passes of a workload, summed up.

    answer = estimate(scenario, workload)                       # quantities of the workload may be arrays

    analysis = LLMAnalysis(get_model("llama-2-7b"), get_gpu("a100-sxm-80gb"), get_dtypes("bf16"))
    answer = analysis.inference(batch_size_per_gpu=1, seq_len=512, num_tokens_to_generate=128)

prefill is the pass over the prompt, decode the mean step over the growing context. For `published`
total = prefill + n decode; for the others the prefill gives the first token: total = prefill + (n - 1) decode.
"""

from __future__ import annotations

from typing import Literal

from llm_analysis.errors import BadValue, number
from llm_analysis.hardware.gpu import GPU
from llm_analysis.hardware.roofline import Timed, pass_seconds
from llm_analysis.inference import passes
from llm_analysis.inference.bands import latency_bands
from llm_analysis.inference.estimate import Basis, Estimate
from llm_analysis.inference.memory import Memory
from llm_analysis.inference.methods import Efficiencies
from llm_analysis.inference.runtimes import Runtime
from llm_analysis.inference.scenario import Scenario
from llm_analysis.inference.workload import Workload
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.forward import kv_bytes_per_token, num_params
from llm_analysis.physics.dtypes import Dtypes
from llm_analysis.physics.operators import Op, Step
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.units import NUMBER, Quantity, some


def estimate(scenario: Scenario, workload: Workload, cost_per_gpu_hour: float | None = None) -> Estimate:
    """Return latency, throughput, memory and cost of a static batch.

    `cost_per_gpu_hour` is the price of one GPU in any currency. Raises LLMAnalysisError for a workload that the model
    or the method does not support.
    """
    s, w, layout = scenario, workload, scenario.layout
    check_positions(s.model, w)
    s.method.check_workload(w)
    n = w.num_tokens_to_generate
    prefill, decode = passes.prefill(s, w), passes.decode(s, w)
    one_pass = s.method.per_kernel and layout.pp_size == 1 and w.fits_one_pass and not w.num_draft_tokens
    memory = Memory(s, w, prefill if one_pass else None)
    prefill_latency, decode_latency = pass_seconds(prefill), pass_seconds(decode)
    total_decode = s.method.decode_steps(n) * decode_latency
    total = prefill_latency + total_decode
    efficiencies = s.method.efficiencies
    return Estimate(
        model_name=s.model.name,
        gpu_name=s.gpu.name,
        dtype_name=s.dtypes.name,
        method=s.method.name,
        runtime=s.runtime.name if s.method.serves else None,
        engine=_engine(s),
        flops_efficiency=None if efficiencies is None else efficiencies.flops or 1.0,
        hbm_memory_efficiency=None if efficiencies is None else efficiencies.memory or 1.0,
        batch_size_per_gpu=w.batch_size_per_gpu,
        seq_len=w.seq_len,
        num_tokens_to_generate=n,
        use_kv_cache=w.use_kv_cache,
        num_samples=w.num_samples,
        cached_prefix_len=w.cached_prefix_len,
        prefill_chunk_size=w.prefill_chunk_size,
        max_num_seqs=w.max_num_seqs,
        draft_model_name=s.draft_name if w.num_draft_tokens else None,
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
        total_latency_is=s.method.total_is,
        **latency_bands(s, prefill_latency, decode_latency, total),
        prefill_tokens_per_sec=layout.dp_size * w.batch_size_per_gpu * w.new_prompt_tokens / prefill_latency,
        decode_tokens_per_sec=layout.dp_size * w.num_sequences / decode_latency,
        total_tokens_per_sec=layout.dp_size * w.num_sequences * n / total,
        request_tokens_per_sec=n / total,
        num_params_total=num_params(s.model),
        weight_memory_per_gpu=memory.weights,
        **{f"{name}_weight_memory_per_gpu": size for name, size in memory.by_class.items()},
        kv_cache_memory_per_gpu=memory.kv_cache,
        kv_cache_bytes_per_token=kv_bytes_per_token(s.model, s.dtypes),
        activation_memory_per_gpu=memory.activations,
        runtime_memory_per_gpu=memory.overhead,
        memory_left_per_gpu=memory.left,
        memory_per_gpu=s.gpu.memory_bytes,
        gpu_memory_utilization=w.gpu_memory_utilization,
        fits=memory.fits,
        cost_per_million_tokens=_price(cost_per_gpu_hour, layout.gpus_of_replica, total / (w.num_sequences * n)),
        basis=Basis(s, w, prefill, decode, memory),
    )


def _engine(scenario: Scenario) -> str | None:
    """Return the name of the engine and the version of its defaults; None without an engine."""
    engine = scenario.engine
    return f"{engine.name} {engine.in_version().version}" if engine else None


def check_positions(model: ModelConfig, workload: Workload) -> None:
    """Raise BadValue for a prompt with more tokens than the model has positions, and for an encoder's in chunks."""
    longest, limit = workload.seq_len, model.max_position_embeddings
    if some(longest > limit):
        shown = longest if isinstance(longest, NUMBER) else int(longest.max())
        raise BadValue(f"seq_len {shown} is more than the {limit} positions of {model.name}")
    if model.is_encoder and workload.prefill_chunk_size and some(workload.seq_len > workload.prefill_chunk_size):
        raise BadValue(
            f"{model.name} is an encoder, in which each token attends to the whole prompt: prefill_chunk_size "
            f"{workload.prefill_chunk_size} must be at least seq_len"
        )


_MAX_COST = 1e12  # per GPU and hour: more is a typing error in any currency


def hourly_cost(cost_per_gpu_hour: object) -> float | None:
    """Return the price of one GPU for one hour; None for None. Raises BadValue."""
    if cost_per_gpu_hour is None:
        return None
    hourly = number("cost_per_gpu_hour", cost_per_gpu_hour)
    if hourly < 0:
        raise BadValue(f"cost_per_gpu_hour must not be negative, not {hourly:g}")
    if hourly > _MAX_COST:
        raise BadValue(f"cost_per_gpu_hour must be at most {_MAX_COST:g}, not {hourly:g}")
    return hourly


def _price(cost_per_gpu_hour: object, num_gpus: int, seconds_per_token: Quantity) -> Quantity | None:
    """Return the cost of a million generated tokens, in the currency of `cost_per_gpu_hour`. Raises BadValue."""
    hourly = hourly_cost(cost_per_gpu_hour)
    return None if hourly is None else hourly / 3600 * num_gpus * seconds_per_token * 1e6


class LLMAnalysis:
    """Estimates for one model on one kind of GPU: a `Scenario` built from keywords, and questions to it.

    Efficiencies are fractions of the datasheet's peak in (0, 1]; `achieved_tflops` (TFLOP/s) and
    `achieved_memory_bandwidth_GBs` (GB/s) give the same in absolute terms. With any of them the method is `published`.
    Raises LLMAnalysisError for an invalid question.
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
        draft_config: ModelConfig | Literal["ngram"] | None = None,
    ) -> None:
        self.scenario = Scenario.of(
            model_config,
            gpu_config,
            dtype_config,
            parallelism_config,
            method=method,
            efficiencies=Efficiencies(
                flops_efficiency,
                hbm_memory_efficiency,
                intra_node_memory_efficiency,
                inter_node_memory_efficiency,
                achieved_tflops,
                achieved_memory_bandwidth_GBs,
            ),
            runtime=runtime,
            draft=draft_config,
            kv_cache_dtype_bytes=kv_cache_dtype_bytes,
            layernorm_dtype_bytes=layernorm_dtype_bytes,
        )

    @property
    def model(self) -> ModelConfig:
        """The model."""
        return self.scenario.model

    @property
    def gpu(self) -> GPU:
        """One GPU as software sees it."""
        return self.scenario.gpu

    @property
    def dtypes(self) -> Dtypes:
        """The number formats, as the GPU multiplies them."""
        return self.scenario.dtypes

    @property
    def layout(self) -> Parallelism:
        """The layout, with the size of a node."""
        return self.scenario.layout

    @property
    def runtime(self) -> Runtime:
        """The inference engine's terms; `none` unless the method is calibrated."""
        return self.scenario.runtime

    def estimate(self, workload: Workload, cost_per_gpu_hour: float | None = None) -> Estimate:
        """Return the answer for a workload."""
        return estimate(self.scenario, workload, cost_per_gpu_hour)

    def seconds(self, step: Step) -> Quantity:
        """Return the seconds of one pass under the method: an array if the quantities of `step` are arrays."""
        return passes.step_seconds(self.scenario, step)

    def timed(self, ops: list[Op], weight: float = 1.0) -> Timed:
        """Return operators with their costs under the method."""
        return self.scenario.timed(ops, weight)

    def inference(
        self,
        *,
        batch_size_per_gpu: Quantity = 1,
        seq_len: Quantity = 512,
        num_tokens_to_generate: Quantity = 32,
        use_kv_cache: bool = True,
        num_samples: int = 1,
        cached_prefix_len: Quantity = 0,
        prefill_chunk_size: int | None = None,
        num_draft_tokens: int = 0,
        acceptance_rate: float | None = None,
        disaggregated: bool = False,
        gpu_memory_utilization: float | None = None,
        max_num_seqs: int | None = None,
        cost_per_gpu_hour: float | None = None,
    ) -> Estimate:
        """Return the answer for a static batch: `seq_len` prompt and `num_tokens_to_generate` new tokens per sequence.

        Batch, lengths and cached prefix may be numpy arrays that broadcast. prefill_chunk_size, gpu_memory_utilization
        and max_num_seqs have the engine's defaults if they are None; a prefill_chunk_size of 0 takes whole prompts in
        one pass.
        """
        given = {
            "batch_size_per_gpu": batch_size_per_gpu,
            "seq_len": seq_len,
            "num_tokens_to_generate": num_tokens_to_generate,
            "use_kv_cache": use_kv_cache,
            "num_samples": num_samples,
            "cached_prefix_len": cached_prefix_len,
            "num_draft_tokens": num_draft_tokens,
            "acceptance_rate": acceptance_rate,
            "disaggregated": disaggregated,
            "prefill_chunk_size": prefill_chunk_size,
            "gpu_memory_utilization": gpu_memory_utilization,
            "max_num_seqs": max_num_seqs,
        }
        return self.estimate(Workload(**self.scenario.workload_settings(given)), cost_per_gpu_hour)
