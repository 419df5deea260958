"""How the benchmarks behind published runs under load work: lengths, settings, repeated prompts, limits.

A table states means, and its notes the rest. This module has what is inferred from them, with the reasons.
"""

from __future__ import annotations

import re
from math import inf

from llm_analysis.calibration.load_runs import LoadRun
from llm_analysis.errors import BadValue
from llm_analysis.files import DATA, read_json
from llm_analysis.inference.engines import Engine, ServerDefaults
from llm_analysis.serving.lengths import Lengths, fixed, uniform, workload
from llm_analysis.serving.policies import LEAST_PASS
from llm_analysis.serving.scheduler import Policy

# MLPerf does not publish the lengths of its data set for Llama-3.1-405B. Prompts have up to 20,000 tokens (recalled),
# twice their mean. Of the answers, (E2E - TTFT) / TPOT is 1.07 times the mean at the median, and 1.46, 1.58 and 1.81
# times at the 90th, 95th and 99th percentile: about even from 0.3 to 1.7 times.
_SPREAD_OF_LONGBENCH = 0.7
_MOST_OF_VLLM = 1024  # default `max_num_seqs` of vLLM from 0.8 on, for offline runs that do not state theirs
_MEMORY_OF_MLPERF = 0.95  # fraction of the memory that harnesses take; assumed
_CHUNKED = "chunked prefill TRUE"  # in the notes of runs of vLLM 0.6 with chunked prefill
_CHUNK_OF_OLD_VLLM = 512  # default tokens of a step with chunked prefill (vllm/config.py of 0.6.3)
_CAPS = {"OpenOrca (": 1024.0, "capped at 512": 512.0, "capped at 256": 256.0, "out<=20000": 20000.0}
_MEDIAN = re.compile(r"in p50 (\d+)")
_LONGEST_CONTEXT = re.compile(r"max.model.len (\d+)")
_SHORT_TAIL = 0.25  # a median this close to the mean (fraction of it) excludes the long tail of ShareGPT's lengths
# AccelMark states 200 requests at random times for its long prompts. At 0.5 requests/s an H100, on which they hardly
# queue, has served all after 204 s: they are 100.
_LONG_PROMPTS, _LONG_REQUESTS = "longctx", 100.0
_LONG_CONTEXT = 30208  # `max_model_len` of these runs, stated for those at random times
# Versions of another product, or a date, and the version of TensorRT-LLM in it.
_VERSIONS = {"TensorRT 10": "0.20", "NIM 1": "0.20", "main of 2025-04": "0.20"}


def stated_version(run: LoadRun) -> str:
    """Return the version of a run's engine."""
    if run.runtime != "tensorrt-llm":
        return run.version
    return next((known for start, known in _VERSIONS.items() if run.version.startswith(start)), run.version)


def lengths_of(run: LoadRun) -> tuple[Lengths, Lengths]:
    """Return the input and output lengths of a run, scaled to its mean lengths. Raises BadValue."""
    if not run.mean_output > 0:
        raise BadValue("mean_output_tokens is missing")
    inputs, outputs = fixed(run.mean_input), fixed(run.mean_output)
    if run.lengths.startswith("uniform from 0"):
        return uniform(run.mean_input, 1.0), uniform(run.mean_output, 1.0)
    if run.lengths == "fixed" or run.dataset in ("random", "synthetic") or _LONG_PROMPTS in run.dataset:
        return inputs, outputs
    shape_in, shape_out = workload("sharegpt")
    if "CNN" in run.dataset:
        return workload("arxiv-summarization")[0].scaled_to(run.mean_input), outputs
    if "multi-turn" in run.dataset:
        shape_in, shape_out = workload("sharegpt-multiturn")
    if "deepseek_r1" in run.dataset:
        shape_out = workload("servegen-reasoning")[1]
    if "LongBench" in run.dataset:
        return uniform(run.mean_input, 1.0), uniform(run.mean_output, _SPREAD_OF_LONGBENCH)
    stated = _MEDIAN.search(run.lengths)
    if stated and abs(int(stated[1]) / run.mean_input - 1.0) < _SHORT_TAIL:
        shape_in = uniform(run.mean_input, 1.0)
    capped = next((c for name, c in _CAPS.items() if name in run.dataset or name in run.lengths), inf)
    return shape_in.scaled_to(run.mean_input), shape_out._replace(cap=capped).scaled_to(run.mean_output)


def longest_context(run: LoadRun) -> int | None:
    """Return the longest context that a server was started with; None if it is not stated."""
    stated = _LONGEST_CONTEXT.search(run.notes)
    if stated:
        return int(stated[1])
    return _LONG_CONTEXT if _LONG_PROMPTS in run.dataset else None


def requests_of(run: LoadRun) -> float:
    """Return the number of requests of a run; infinity if it is not stated."""
    stated = run.num_requests if run.num_requests > 0 else inf
    return min(stated, _LONG_REQUESTS) if _LONG_PROMPTS in run.dataset else stated


def settings_of(run: LoadRun, defaults: ServerDefaults) -> dict[str, float]:
    """Return the settings of a run that differ from the defaults of its server."""
    names = ("max_num_seqs", "max_num_batched_tokens")
    changed: dict[str, float] = {name: int(value) for name in names if (value := getattr(run, name)) > 0}
    context = longest_context(run)
    if context and defaults.max_num_batched_tokens is None:
        changed.setdefault("max_num_batched_tokens", max(context, LEAST_PASS))
    if _CHUNKED in run.notes:
        changed |= {"mixed": True, "chunked": True}
        changed.setdefault("max_num_batched_tokens", _CHUNK_OF_OLD_VLLM)
    if run.of_mlperf:
        changed["gpu_memory_utilization"] = _MEMORY_OF_MLPERF
        if run.arrival == "offline" and run.runtime.startswith("vllm"):
            changed.setdefault("max_num_seqs", _MOST_OF_VLLM)
        if all(name in changed for name in names):
            # The stated budget is for prompts: submissions with 256 tokens ran 400 sequences at a time.
            changed["max_num_batched_tokens"] += changed["max_num_seqs"]
    return changed


def cached_prefix(run: LoadRun, engine: Engine, policy: Policy) -> float:
    """Return the fraction of each prompt in the prefix cache of the engine: as stated, or because it was sent before.

    The cache drops the blocks that were used longest ago. If it holds all tokens of a run, a prompt is found but for
    its last block, because at least one token is computed; if not, each prompt is dropped before it comes again.
    """
    if run.cached_prefix is not None:
        return run.cached_prefix
    if not (run.repeats_prompts and engine.prefix_caching):
        return 0.0
    tokens = requests_of(run) / run.dp_size * (run.mean_input + run.mean_output)
    if tokens > policy.kv_tokens:
        return 0.0
    return max(1.0 - (policy.block_tokens + 1) / 2 / run.mean_input, 0.0)


def mlperf_limits(run: LoadRun) -> dict[str, float]:
    """Return MLPerf's limits on the latencies of a run, in seconds; empty for other benchmarks."""
    if not run.of_mlperf or run.arrival != "poisson":
        return {}
    scenarios: dict[str, dict[str, float]] = read_json(DATA / "mlperf_limits.json")["limits"].get(run.model_name, {})
    return next((limits for name, limits in scenarios.items() if name in run.notes), {})
