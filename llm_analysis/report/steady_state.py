"""The steady state of a server as text, JSON, CSV and Markdown: the answer of `infer --max_concurrency`."""

from __future__ import annotations

import json
from typing import Any

from llm_analysis.inference.engines import engine_for, server_notes
from llm_analysis.inference.passes import served_notes
from llm_analysis.inference.scenario import Scenario
from llm_analysis.inference.workload import Workload
from llm_analysis.report.tables import csv_of, drafting, rate, seconds, seconds_range, significant, table, wrapped
from llm_analysis.serving.server_bands import CLOSED, bands_of, evidence_notes
from llm_analysis.serving.steady_state import SteadyState

# Figures with an error band, and the metric of published runs that they estimate.
_BANDED = {
    "ttft": "ttft_mean",
    "tpot": "tpot_mean",
    "e2e": "e2e_mean",
    "request_throughput": "request_throughput",
    "output_token_throughput": "output_token_throughput",
}
_NO_CACHE = 1e12  # tokens: a capacity that only a model without a cache has
_CLOSED_FORM = "a formula: requests are spread over time; `llm-analysis load` simulates them, and gives percentiles"

_NEARLY_FULL = (
    "these requests fit in the KV cache; with more, the engine preempts some and computes them again, so that it "
    "serves fewer requests/s: the saturation rate"
)
_PREEMPTING = (
    "the KV cache is full, and running sequences are preempted: their wait counts in TTFT here, though it comes after "
    "the first token, so that TPOT is too low; `llm-analysis load --max_concurrency` simulates it"
)
_ABOVE = 1.02  # throughput over saturation rate from which the note is given


def as_dict(
    scenario: Scenario, workload: Workload, max_concurrency: int, state: SteadyState, cost_per_gpu_hour: float | None
) -> dict[str, Any]:
    """Return the plain values: the question, the steady state, and the price of a million output tokens."""
    s, layout = scenario, scenario.layout
    hourly = None if cost_per_gpu_hour is None else cost_per_gpu_hour * layout.gpus_of_replica * layout.dp_size
    noted = [_NEARLY_FULL] if state.request_throughput > _ABOVE * state.saturation_rate else []
    if s.method.serves:
        preempts = engine_for(s.runtime.engine_name).reserve == 0 and state.limiting_resource == "KV cache"
        noted += [*server_notes(s.runtime.engine_name), *([_PREEMPTING] if preempts else [])]
    tokens = workload.seq_len + workload.num_tokens_to_generate
    evidence = (*s.runtime_notes(state.running_sequences), *s.position_notes(tokens), *evidence_notes(s))
    return {
        "model_name": s.model.name,
        "gpu_name": s.gpu.name,
        "dtype_name": s.dtypes.name,
        "method": s.method.name,
        "runtime": s.runtime.name if s.method.serves else None,
        "num_gpus": layout.gpus_of_replica * layout.dp_size,
        "tp_size": layout.tp_size,
        "pp_size": layout.pp_size,
        "dp_size": layout.dp_size,
        "max_concurrency": max_concurrency,
        "seq_len": workload.seq_len,
        "num_tokens_to_generate": workload.num_tokens_to_generate,
        "draft_model_name": s.draft_name if workload.num_draft_tokens else None,
        "num_draft_tokens": workload.num_draft_tokens,
        "tokens_per_step": workload.tokens_per_step,
        **state._asdict(),
        **_bands(s, state),
        "cost_per_million_tokens": None if hourly is None else hourly / 3600 / state.output_token_throughput * 1e6,
        "notes": list(dict.fromkeys([*s.notes, *noted, _CLOSED_FORM, *served_notes(s, workload), *evidence])),
    }


def _bands(scenario: Scenario, state: SteadyState) -> dict[str, float | None]:
    """Return both ends of the error bands of latencies and throughput."""
    ends = bands_of(scenario, {metric: float(getattr(state, name)) for name, metric in _BANDED.items()}, CLOSED)
    found: dict[str, float | None] = {}
    for name, metric in _BANDED.items():
        found[f"{name}_low"], found[f"{name}_high"] = ends[metric] or (None, None)
    return found


def rendered(answer: dict[str, Any], style: str) -> str:
    """Return the answer of `as_dict` in one of the output formats."""
    if style == "json":
        return json.dumps(answer, indent=2)
    if style == "csv":
        return csv_of([{key: value for key, value in answer.items() if key != "notes"}])
    a = answer
    engine = f"runtime {a['runtime']}" if a["runtime"] else f"method {a['method']}"
    heading = (
        f"{a['model_name']} on {a['num_gpus']} x {a['gpu_name']}, {a['dtype_name']}, {engine}\n"
        f"continuous batching, {a['max_concurrency']} requests in flight, {a['seq_len']} tokens in, "
        f"{a['num_tokens_to_generate']} out"
    )
    if drafted := drafting(a["draft_model_name"], a["num_draft_tokens"]):
        heading += f"\n{drafted}, {a['tokens_per_step']:.2f} tokens per step"
    rows = [
        ["TTFT (mean)", seconds(a["ttft"]), _latency_band(a, "ttft")],
        ["TPOT (mean)", seconds(a["tpot"]), _latency_band(a, "tpot")],
        ["request latency (mean)", seconds(a["e2e"]), _latency_band(a, "e2e")],
        ["throughput", f"{a['request_throughput']:,.2f} requests/s", _rate_band(a, "request_throughput")],
        ["output throughput", rate(a["output_token_throughput"]), _rate_band(a, "output_token_throughput")],
        ["running sequences per replica", f"{a['running_sequences']:,.1f}"],
        ["KV cache per replica", _cache(a["kv_capacity_tokens"], a["kv_used_fraction"])],
        ["saturation rate", f"{a['saturation_rate']:,.2f} requests/s"],
        ["throughput / saturation rate", f"{a['request_throughput'] / a['saturation_rate']:.0%}"],
        ["limiting resource", a["limiting_resource"]],
    ]
    banded = a["ttft_low"] is not None
    if a["cost_per_million_tokens"] is not None:
        rows.append(["cost per million output tokens", f"{a['cost_per_million_tokens']:,.3f}"])
    notes = [wrapped(f"note: {note}", 80) for note in a["notes"]]
    columns = ["", "steady state", "80 % within"][: 3 if banded else 2]
    cells = [[*row, ""][: len(columns)] for row in rows]
    return "\n".join([heading, "", table(cells, columns, style), "", *notes])


def _latency_band(a: dict[str, Any], name: str) -> str:
    """Return the error band of a latency, in one unit; empty if there is none."""
    if a[f"{name}_low"] is None:
        return ""
    return seconds_range(a[f"{name}_low"], a[f"{name}_high"], a[name])


def _rate_band(a: dict[str, Any], name: str) -> str:
    """Return the error band of a throughput; empty if there is none."""
    if a[f"{name}_low"] is None:
        return ""
    return f"{significant(a[f'{name}_low'], 3)} to {significant(a[f'{name}_high'], 3)}"


def _cache(tokens: float, used: float) -> str:
    """Return the capacity of a KV cache in words; an encoder keeps none."""
    return "none" if tokens > _NO_CACHE else f"{tokens:,.0f} tokens, {used:.0%} used"
