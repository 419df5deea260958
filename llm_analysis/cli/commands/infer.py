"""TODO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_analysis.cli.flags import with_flags_of
from llm_analysis.cli.output import LOG, LOG_LEVELS, Output, existing_folder, name_part
from llm_analysis.cli.question import question
from llm_analysis.errors import BadValue, choice
from llm_analysis.inference.analysis import LLMAnalysis
from llm_analysis.inference.workload import Workload
from llm_analysis.report.estimate import check_finite, rendered, summary_files
from llm_analysis.report.tables import FORMATS


def infer(
    *,
    model_name: str | None = None,
    gpu_name: str | None = None,
    allow_download: bool = False,
    dtype_name: str | None = None,
    batch_size_per_gpu: int = 1,
    seq_len: int = 512,
    num_tokens_to_generate: int = 32,
    tp_size: int = 1,
    cp_size: int = 1,
    pp_size: int = 1,
    dp_size: int = 1,
    sp_size: int = 1,
    ep_size: int = 1,
    expert_imbalance: float = 1.0,
    num_gpus_per_node: int | None = None,
    method: str | None = None,
    runtime: str | None = None,
    format: str = "table",
    use_kv_cache: bool = True,
    num_samples: int = 1,
    cached_prefix_len: int = 0,
    prefill_chunk_size: int | None = None,
    draft_model_name: str | None = None,
    num_draft_tokens: int = 0,
    acceptance_rate: float | None = None,
    disaggregated: bool = False,
    gpu_memory_utilization: float = 1.0,
    kv_cache_dtype_bytes: float | None = None,
    layernorm_dtype_bytes: float | None = None,
    flops_efficiency: float | None = None,
    hbm_memory_efficiency: float | None = None,
    achieved_tflops: float | None = None,
    achieved_memory_bandwidth_GBs: float | None = None,
    intra_node_memory_efficiency: float | None = None,
    inter_node_memory_efficiency: float | None = None,
    cost_per_gpu_hour: float | None = None,
    output_dir: str | None = None,
    output_file_prefix: str = "",
    output_file_suffix: str = "",
    log_level: str = "WARNING",
) -> Output:
    """How long prefill and each decoded token take, what fits, and why.

    Args:
        model_name: a name that `llm-analysis models` lists, a JSON file or its folder, or org/name of Hugging Face
        gpu_name: a name that `llm-analysis gpus` lists, or the path of a JSON file
        allow_download: whether the config.json of org/name may be fetched; else the local cache alone is searched
        dtype_name: bf16, fp8, int4 (weights only), ..., bits (w4a16e16kv8), bf16+mxfp4 (experts); else the checkpoint's
        batch_size_per_gpu: sequences in the batch of one replica
        seq_len: prompt tokens of each sequence
        num_tokens_to_generate: tokens generated for each sequence
        tp_size: GPUs that share each layer (tensor parallel)
        cp_size: groups of tp_size GPUs that share the tokens of a prompt, and its KV cache (context parallel)
        pp_size: stages that share the layers (pipeline parallel)
        dp_size: replicas, each with its own batch (data parallel)
        sp_size: 1, or tp_size to split norms and residuals too (sequence parallel)
        ep_size: GPUs that a layer's experts are spread over, of tp_size * cp_size * dp_size (expert parallel)
        expert_imbalance: rows of the busiest of these GPUs, as a multiple of the mean
        num_gpus_per_node: GPUs that need no network between servers, if not 8 or all on the GPU's link
        method: calibrated (what you will measure), ideal (speed of light) or published (an example's model)
        runtime: of calibrated: vllm-v1 (default), vllm, sglang, tensorrt-llm[-0.9|-0.6], ..., none, or calibrate's file
        format: table, json, csv or markdown
        use_kv_cache: False computes the whole sequence anew for each token
        num_samples: continuations of each prompt, which share its part of the KV cache
        cached_prefix_len: tokens of each prompt whose keys and values are in the cache already
        prefill_chunk_size: most tokens of a prefill pass, all prompts together
        draft_model_name: model that proposes tokens (speculative decoding); mtp: the model's own layer for it
        num_draft_tokens: tokens that it proposes in each decode step
        acceptance_rate: fraction of proposed tokens that are accepted, given that those before them were
        disaggregated: prefill and decode on GPUs of their own, the KV cache sent between them
        gpu_memory_utilization: fraction of the GPU's memory that may be used (vLLM's default is 0.9)
        kv_cache_dtype_bytes: bytes per element of the KV cache, if not the activations'
        layernorm_dtype_bytes: bytes per element that norms move, if not the activations'
        flops_efficiency: achieved fraction of the peak FLOP/s, above 0 and at most 1
        hbm_memory_efficiency: achieved fraction of the memory bandwidth, above 0 and at most 1
        achieved_tflops: the same in TFLOP/s, instead of flops_efficiency
        achieved_memory_bandwidth_GBs: the same in GB/s, instead of hbm_memory_efficiency
        intra_node_memory_efficiency: achieved fraction of the link between GPUs of a node
        inter_node_memory_efficiency: achieved fraction of the link between nodes
        cost_per_gpu_hour: price of one GPU for an hour, for the cost per million tokens
        output_dir: folder to write a summary as JSON and as text into
        output_file_prefix: put before the names of these files
        output_file_suffix: put after the names of these files
        log_level: INFO tells which files are read and written, DEBUG shows where an internal error arose
    """
    analysis, workload = asked(locals())
    estimate = analysis.inference(**workload.model_dump(), cost_per_gpu_hour=cost_per_gpu_hour)
    check_finite(estimate)
    output = Output(rendered(estimate, format)).noting(estimate.notes, format)
    if output_dir is None:
        if output_file_prefix or output_file_suffix:
            raise BadValue("output_file_prefix and output_file_suffix name files: give --output_dir too")
        return output
    affixes = name_part("output_file_prefix", output_file_prefix), name_part("output_file_suffix", output_file_suffix)
    return output._replace(folder=existing_folder(output_dir), files=summary_files(estimate, *affixes))


def asked(flags: Mapping[str, Any]) -> tuple[LLMAnalysis, Workload]:
    """What the flags of a command ask for, the log started at the level they say. Raises LLMAnalysisError."""
    choice("format", flags["format"], FORMATS)
    choice("log_level", flags["log_level"], LOG_LEVELS)
    LOG.setLevel(flags["log_level"])
    return question(flags)


@with_flags_of(infer, without=("cost_per_gpu_hour", "output_dir", "output_file_prefix", "output_file_suffix"))
def explain(**flags: Any) -> Output:
    """Where the time goes against the speed of light; what would save it."""
    from llm_analysis.inference.explain import explanation
    from llm_analysis.report.explanation import rendered as explanation_text

    found = explanation(*asked(flags))
    check_finite(found.estimate)
    return Output(explanation_text(found, flags["format"])).noting(found.notes, flags["format"])
