"""The commands `infer` and `explain`: estimate a workload, and explain the estimate."""

from collections.abc import Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Annotated, Any

from llm_analysis.cli.flags import OUTPUT, Flag, with_flags_of
from llm_analysis.cli.output import Format, Output, set_log_level
from llm_analysis.cli.terminal import columns, has_colours
from llm_analysis.cli.writing import name_part, output_folder
from llm_analysis.errors import BadValue, DoesNotFit, Unsupported, choice, whole_number
from llm_analysis.inference.analysis import check_positions, estimate, hourly_cost
from llm_analysis.inference.engines import engine_for
from llm_analysis.inference.estimate import Estimate
from llm_analysis.inference.methods import METHODS
from llm_analysis.inference.question import check_generates, question
from llm_analysis.inference.scenario import Scenario
from llm_analysis.inference.workload import Workload
from llm_analysis.report.estimate import check_finite, does_not_fit, rendered, summary_files
from llm_analysis.report.tables import FORMATS, View

_model = partial(Flag, group="Model, GPU and number format")
_work = partial(Flag, group="Workload")
_layout = partial(Flag, group="Parallel layout")
_method = partial(Flag, group="Method")
_draft = partial(Flag, group="Speculative decoding")
_memory = partial(Flag, group="Memory")
_efficiency = partial(Flag, group="Efficiency (method published)")
_output = partial(Flag, group=OUTPUT)
MOST_REQUESTS = 10**6  # requests in flight
# Flags of infer that other commands do not have: its output, and the steady state of a server.
SUMMARIES = ("operators", "summary", "output_dir", "output_file_prefix", "output_file_suffix")
PRINTING = (*SUMMARIES, "max_concurrency")
# Flags of infer that a server with continuous batching does not have.
OF_A_BATCH = ("batch_size_per_gpu", "num_samples", "use_kv_cache", "disaggregated", *SUMMARIES)


def infer(
    *,
    model_name: Annotated[
        str | None, _model("name from `llm-analysis models`, JSON file, its folder, or Hugging Face org/name")
    ] = None,
    gpu_name: Annotated[str | None, _model("name from `llm-analysis gpus`, or a JSON file")] = None,
    dtype_name: Annotated[
        str | None,
        _model(
            "bf16, fp8, int4 (weights only), ...; bits such as w4a16e16kv8; bf16+mxfp4 for experts in mxfp4; the "
            "default is the format of the checkpoint"
        ),
    ] = None,
    allow_download: Annotated[bool, _model("download the config.json of org/name if no cache has it")] = False,
    batch_size_per_gpu: Annotated[int, _work("sequences in the batch of one replica")] = 1,
    seq_len: Annotated[int, _work("prompt length of each sequence", unit="tokens")] = 512,
    num_tokens_to_generate: Annotated[int, _work("output length of each sequence", unit="tokens")] = 32,
    max_concurrency: Annotated[
        int | None,
        _work(
            "requests in flight at a server with continuous batching; gives TTFT, TPOT and throughput in steady state"
        ),
    ] = None,
    num_samples: Annotated[int, _work("outputs for each prompt; they share the KV cache of the prompt")] = 1,
    cached_prefix_len: Annotated[int, _work("prompt tokens that are already in the KV cache", unit="tokens")] = 0,
    prefill_chunk_size: Annotated[
        int | None,
        _work(
            "chunked prefill: most tokens in one pass, over all prompts; the default is the engine's, 0 is no limit",
            unit="tokens",
        ),
    ] = None,
    max_num_seqs: Annotated[
        int | None, _work("most sequences that the server runs at a time; the default is the engine's")
    ] = None,
    use_kv_cache: Annotated[bool, _work("False recomputes the whole sequence for each token")] = True,
    disaggregated: Annotated[
        bool, _work("prefill and decode on separate GPUs, twice as many in all; the KV cache is sent between them")
    ] = False,
    tp_size: Annotated[int, _layout("tensor parallel: GPUs that share each layer", unit="GPUs")] = 1,
    pp_size: Annotated[int, _layout("pipeline parallel: stages of consecutive layers", unit="stages")] = 1,
    dp_size: Annotated[int, _layout("data parallel: replicas, each with its own batch", unit="replicas")] = 1,
    cp_size: Annotated[
        int, _layout("context parallel: groups of tp_size GPUs that share the tokens of a prompt", unit="groups")
    ] = 1,
    sp_size: Annotated[int, _layout("sequence parallel: 1, or tp_size to split norms and residuals too")] = 1,
    ep_size: Annotated[
        int, _layout("expert parallel: GPUs that share the experts; divides tp_size * cp_size * dp_size", unit="GPUs")
    ] = 1,
    expert_imbalance: Annotated[
        float, _layout("tokens on the busiest expert-parallel GPU, as a multiple of the mean")
    ] = 1.0,
    num_gpus_per_node: Annotated[
        int | None,
        _layout("GPUs in one server; the default is 8, or the NVLink domain if larger", unit="GPUs"),
    ] = None,
    method: Annotated[
        str | None,
        _method(
            "calibrated (what you would measure; the default), ideal (speed of light) or published (block model)",
            words=METHODS,
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        _method(
            "serving engine for method calibrated: vllm-v1 (default) is vLLM from 0.14 on, vllm-0.13 is 0.8 to 0.13, "
            "vllm is 0.3 to 0.7; sglang, tensorrt-llm (from 1.0 on), ..., none (kernels only), or a file from "
            "`llm-analysis calibrate`; `--runtime list` prints all names"
        ),
    ] = None,
    draft_model_name: Annotated[
        str | None,
        _draft(
            "model that proposes tokens; mtp for the model's own multi-token-prediction layer, eagle for an EAGLE "
            "head, ngram for n-grams of the text"
        ),
    ] = None,
    num_draft_tokens: Annotated[int, _draft("tokens proposed in each decode step", unit="tokens")] = 0,
    acceptance_rate: Annotated[
        float | None, _draft("probability that a proposed token is accepted if all earlier ones are")
    ] = None,
    gpu_memory_utilization: Annotated[
        float | None, _memory("usable fraction of the GPU memory; the default is the engine's, 1 without an engine")
    ] = None,
    must_fit: Annotated[bool, _memory("exit with status 3 if the model does not fit")] = False,
    kv_cache_dtype_bytes: Annotated[
        float | None,
        _memory("size of one KV cache element; the default is the engine's, else the activation format", unit="bytes"),
    ] = None,
    layernorm_dtype_bytes: Annotated[
        float | None,
        _memory("size of one element in norm traffic; the default is the activation format", unit="bytes"),
    ] = None,
    flops_efficiency: Annotated[
        float | None, _efficiency("achieved fraction of the peak FLOP/s, above 0 and at most 1")
    ] = None,
    hbm_memory_efficiency: Annotated[
        float | None, _efficiency("achieved fraction of the memory bandwidth, above 0 and at most 1")
    ] = None,
    achieved_tflops: Annotated[
        float | None, _efficiency("achieved compute rate, instead of flops_efficiency", unit="TFLOP/s")
    ] = None,
    achieved_memory_bandwidth_GBs: Annotated[
        float | None, _efficiency("achieved bandwidth, instead of hbm_memory_efficiency", unit="GB/s")
    ] = None,
    intra_node_memory_efficiency: Annotated[
        float | None, _efficiency("achieved fraction of the bandwidth between GPUs of one server")
    ] = None,
    inter_node_memory_efficiency: Annotated[
        float | None, _efficiency("achieved fraction of the bandwidth between servers")
    ] = None,
    cost_per_gpu_hour: Annotated[
        float | None, _output("price of one GPU for one hour; adds the cost per million tokens")
    ] = None,
    format: Format = "table",
    operators: Annotated[bool, _output("show all operators, not only the largest; in CSV one row for each")] = False,
    summary: Annotated[bool, _output("show latencies and memory, no operators")] = False,
    output_dir: Annotated[str | None, _output("folder for two summary files, JSON and text; created if needed")] = None,
    output_file_prefix: Annotated[str, _output("prefix of the names of these files")] = "",
    output_file_suffix: Annotated[str, _output("suffix of the names of these files")] = "",
    log_level: Annotated[
        str, _output("INFO lists the files that are read and written; DEBUG shows the traceback of an internal error")
    ] = "WARNING",
) -> Output:
    """Estimate prefill and decode latency, memory, cost and the share of each operator."""
    flags = locals()
    if operators and summary:
        raise BadValue("give --operators or --summary, not both")
    scenario, workload = asked(flags)
    if max_concurrency is not None:
        check_generates(scenario.model, workload.num_tokens_to_generate, "give --num_tokens_to_generate 1")
        return _in_steady_state(scenario, workload, flags)
    found = estimate(scenario, workload, cost_per_gpu_hour)
    check_finite(found)
    view = View(columns(), has_colours(), "all" if operators else "none" if summary else "largest")
    output = _delivered(rendered(found, format, view), found, found.notes, flags)
    if output_dir is None:
        if output_file_prefix or output_file_suffix:
            raise BadValue("--output_file_prefix and --output_file_suffix need --output_dir")
        return output
    affixes = name_part("output_file_prefix", output_file_prefix), name_part("output_file_suffix", output_file_suffix)
    return output._replace(folder=output_folder(output_dir), files=summary_files(found, *affixes))


def _check_served(scenario: Scenario, workload: Workload, flags: Mapping[str, Any]) -> None:
    """Raise BadValue for a prompt beyond the positions, and for flags that would have no effect on a server."""
    check_positions(scenario.model, workload)
    plain = {name: parameter.default for name, parameter in signature(infer).parameters.items()}
    wrong = next((name for name in OF_A_BATCH if flags[name] != plain[name]), None)
    wrong = "prefill_chunk_size 0" if wrong is None and flags["prefill_chunk_size"] == 0 else wrong
    if wrong:
        raise BadValue(f"max_concurrency is a server with continuous batching, which takes no {wrong}; leave it out")


def _in_steady_state(scenario: Scenario, workload: Workload, flags: Mapping[str, Any]) -> Output:
    """Return the answer for a server with `max_concurrency` requests in flight. Raises LLMAnalysisError."""
    from llm_analysis.report.steady_state import as_dict
    from llm_analysis.report.steady_state import rendered as steady_text
    from llm_analysis.serving.policies import check_method, check_room, policy_of
    from llm_analysis.serving.steady_state import steady_state
    from llm_analysis.serving.step_times import Speculation

    requests = whole_number("max_concurrency", flags["max_concurrency"], MOST_REQUESTS)
    hourly = hourly_cost(flags["cost_per_gpu_hour"])
    check_method(scenario)
    _check_served(scenario, workload, flags)
    changed: dict[str, Any] = {"cached_prefix": workload.cached_prefix_len / workload.seq_len}
    settings = {"prefill_chunk_size": "max_num_batched_tokens"}
    for name in ("gpu_memory_utilization", "max_num_seqs", "prefill_chunk_size"):
        if flags[name]:
            changed[settings.get(name, name)] = getattr(workload, name)
    inputs, outputs = float(workload.seq_len), float(workload.num_tokens_to_generate)
    policy = policy_of(engine_for(scenario.runtime.engine_name), scenario, inputs + outputs / 2, **changed)
    try:
        check_room(scenario, float(policy.kv_tokens), inputs + outputs, workload.gpu_memory_utilization)
    except Unsupported as error:
        if flags["must_fit"]:
            raise DoesNotFit(str(error)) from None
        raise
    speculation = Speculation.of(workload)
    state = steady_state(scenario, inputs, outputs, float(requests), policy=policy, speculation=speculation)
    found = as_dict(scenario, workload, requests, state, hourly)
    return Output(steady_text(found, flags["format"])).noting(found["notes"], flags["format"])


@with_flags_of(infer, without=("cost_per_gpu_hour", *PRINTING))
def explain(**flags: Any) -> Output:
    """Compare the estimate with the speed of light, and list changes that would make it faster."""
    from llm_analysis.inference.explain import explanation
    from llm_analysis.report.explanation import rendered as explanation_text

    found = explanation(*asked(flags))
    check_finite(found.estimate)
    view = View(columns(), has_colours())
    return _delivered(explanation_text(found, flags["format"], view), found.estimate, found.notes, flags)


def asked(flags: Mapping[str, Any]) -> tuple[Scenario, Workload]:
    """Return the scenario and the workload of a command's flags; set the log level. Raises LLMAnalysisError."""
    choice("format", flags["format"], FORMATS)
    set_log_level(flags["log_level"])
    chunk = flags.get("prefill_chunk_size")
    if isinstance(chunk, int) and chunk < 0:
        raise BadValue(f"prefill_chunk_size must be at least 0, which is no limit, not {chunk}")
    return question(flags)


def _delivered(text: str, estimate: Estimate, notes: Sequence[str], flags: Mapping[str, Any]) -> Output:
    """Return the output with a line on stderr if the model does not fit; with status 3 under --must_fit."""
    misfit = does_not_fit(estimate)
    output = Output(text, failure=misfit, status=3 if misfit and flags["must_fit"] else 0)
    return output.noting([note for note in notes if note != misfit], flags["format"])
