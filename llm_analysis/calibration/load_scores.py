"""Score simulations of serving under load on published figures.

One run of a benchmark, several values: rows with the same `run` come from one simulation. A row states model, GPU,
engine, arrivals, lengths and one metric. The errors are fractions of the measured value.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import inf, isfinite
from pathlib import Path
from typing import NamedTuple

from llm_analysis.calibration.measurements import DTYPE_NAMES, KV_BITS, gpu_named, model_named
from llm_analysis.errors import BadValue, LLMAnalysisError, shown
from llm_analysis.files import DATA, read_json, read_table
from llm_analysis.inference.engines import engine_for
from llm_analysis.inference.memory import weights_fit
from llm_analysis.inference.runtimes import VERSION, build_for, get_runtime, of_version, runtime_names
from llm_analysis.inference.scenario import Scenario
from llm_analysis.physics.dtypes import Dtypes, get_dtypes
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.serving.lengths import Lengths, fixed, uniform, workload
from llm_analysis.serving.metrics import Summary, summarize
from llm_analysis.serving.policies import host_of, kernels_of, policy_of
from llm_analysis.serving.scheduler import Policy
from llm_analysis.serving.server import Workload, kv_link, prefill_and_decode
from llm_analysis.serving.simulation import Link, simulate, simulate_disaggregated
from llm_analysis.serving.step_times import StepTimes, build_step_times

METRICS = ("ttft", "tpot", "itl", "e2e")
_STATISTICS = ("mean", "median", "p90", "p95", "p99")
_THROUGHPUTS = ("request_throughput", "output_token_throughput", "total_token_throughput")
MOST_REQUESTS = 4000  # that stand for a longer run, whose ramp-up and drain then do not count
_WAVES = 8  # times the slots of a replica that a shortened run fills
_UNKNOWN_INPUT = 300.0  # tokens of a prompt whose length a source does not state
REQUIRED = ("id", "runtime", "model_name", "gpu_name", "dtype_name", "arrival", "metric", "value")
LOAD_EVIDENCE = DATA / "load.csv"
_ARRIVALS = ("poisson", "burst", "closed", "offline", "constant")


class LoadRun(NamedTuple):
    """One run of a benchmark, with its measured values as (id, metric, value)."""

    source: str
    runtime: str
    version: str
    model_name: str
    gpu_name: str
    dtype_name: str
    kv_dtype: str
    tp_size: int
    pp_size: int
    ep_size: int
    dp_size: int
    arrival: str
    rate: float
    concurrency: float
    num_requests: float  # nan if the source does not state it
    dataset: str
    lengths: str
    mean_input: float
    mean_output: float
    max_num_batched_tokens: float
    max_num_seqs: float
    disagg: str
    notes: str
    grade: str  # A: precisely defined, B: one unknown, C: something that matters is missing; empty if not given
    values: tuple[tuple[str, str, float], ...]


class LoadScore(NamedTuple):
    """One value: measured and estimated, in seconds, 1/s or tokens/s; `low` and `high` bound 80 % of such values."""

    id: str
    metric: str
    measured: float
    estimated: float
    error: float
    low: float | None
    high: float | None


def read_runs(path: Path) -> tuple[list[LoadRun], list[tuple[str, str]]]:
    """Return the runs of a table, and (id, reason) of the rows that cannot be read. Raises BadConfig."""
    rows = read_table(path, REQUIRED)
    runs: dict[str, LoadRun] = {}
    skipped = []
    for row in rows:
        try:
            value = _value(row)
            run = row.get("run") or row["id"]
            runs[run] = runs[run] if run in runs else _run(row)
        except BadValue as error:
            skipped.append((str(row["id"]), str(error)))
            continue
        runs[run] = runs[run]._replace(values=(*runs[run].values, value))
    return [_with_data_parallel_attention(run) for run in runs.values()], skipped


def _with_data_parallel_attention(run: LoadRun) -> LoadRun:
    """Return a run of a model with latent attention as each GPU serves its own requests, where the engine does that.

    The latent cache has one head, so that tensor parallelism would hold all of it on each GPU: MLPerf's submitters and
    SGLang with data-parallel attention give each GPU requests of its own, and share the experts.
    """
    own = "deepseek" in run.model_name and ("LoadGen" in run.notes or "data-parallel attention" in run.notes)
    if not own or run.tp_size == 1:
        return run
    return run._replace(tp_size=1, dp_size=run.dp_size * run.tp_size, ep_size=run.tp_size)


def _value(row: Mapping[str, str]) -> tuple[str, str, float]:
    """Return (id, metric, value) of a row. Raises BadValue."""
    metric = row["metric"].strip()
    kind, _, statistic = metric.partition("_")
    if metric not in _THROUGHPUTS and (kind not in METRICS or statistic not in _STATISTICS):
        raise BadValue(f"metric {shown(metric)} is not estimated here")
    value = _number(row, "value")
    if not value > 0:
        raise BadValue(f"value must be a number above 0, not {shown(row['value'])}")
    return row["id"], metric, value


def _number(row: Mapping[str, str], name: str, empty: float = float("nan")) -> float:
    """Return a cell as a number; `empty` for an empty cell. Raises BadValue."""
    text = (row.get(name) or "").strip()
    if not text:
        return empty
    try:
        value = float(text)
    except ValueError:
        raise BadValue(f"{name} must be a number, not {shown(text)}") from None
    if not isfinite(value) or value < 0:
        raise BadValue(f"{name} must be a number from 0 up, not {shown(text)}")
    return value


def _run(row: Mapping[str, str]) -> LoadRun:
    """Return the run that a row describes. Raises BadValue."""

    def text(name: str) -> str:
        return (row.get(name) or "").strip()

    def count(name: str) -> int:
        value = _number(row, name, 1.0)
        if value < 1 or value != int(value):
            raise BadValue(f"{name} must be a whole number from 1 up, not {shown(text(name))}")
        return int(value)

    arrival, gpus = text("arrival"), _number(row, "num_gpus")
    if arrival not in _ARRIVALS:
        raise BadValue(f"arrival {shown(arrival)} is not one of {', '.join(_ARRIVALS)}")
    tp, pp, dp = count("tp_size"), count("pp_size"), count("dp_size")
    if not text("tp_size") and gpus > 1:
        raise BadValue("tp_size is not given for more than one GPU")
    return LoadRun(
        source=text("source"),
        runtime=text("runtime") or "vllm-v1",
        version=text("runtime_version"),
        model_name=text("model_name"),
        gpu_name=text("gpu_name"),
        dtype_name=text("dtype_name"),
        kv_dtype=text("kv_dtype"),
        tp_size=tp,
        pp_size=pp,
        ep_size=count("ep_size"),
        dp_size=dp,
        arrival=arrival,
        rate=_number(row, "request_rate_per_s", inf),
        concurrency=_number(row, "concurrency", inf),
        num_requests=_number(row, "num_requests"),
        dataset=text("dataset"),
        lengths=text("length_distribution"),
        mean_input=_number(row, "mean_input_tokens", _UNKNOWN_INPUT),
        mean_output=_number(row, "mean_output_tokens"),
        max_num_batched_tokens=_number(row, "max_num_batched_tokens"),
        max_num_seqs=_number(row, "max_num_seqs"),
        disagg=text("disagg"),
        notes=text("notes"),
        grade=text("grade"),
        values=(),
    )


def _lengths_of(run: LoadRun) -> tuple[Lengths, Lengths]:
    """Return the input and output lengths of a run, with its means."""
    if not run.mean_output > 0:
        raise BadValue("mean_output_tokens is missing")
    inputs, outputs = fixed(run.mean_input), fixed(run.mean_output)
    if run.lengths.startswith("uniform from 0"):
        return uniform(run.mean_input, 1.0), uniform(run.mean_output, 1.0)
    if run.lengths == "fixed" or run.dataset in ("random", "synthetic") or "longctx" in run.dataset:
        return inputs, outputs
    shape_in, shape_out = workload("sharegpt")
    if "CNN" in run.dataset:
        return workload("arxiv-summarization")[0].scaled_to(run.mean_input), outputs
    if "multi-turn" in run.dataset:
        shape_in, shape_out = workload("sharegpt-multiturn")
    if "LongBench" in run.dataset:
        shape_in, shape_out = workload("mooncake-conversation")
    capped = next((c for name, c in _CAPS.items() if name in run.dataset or name in run.lengths), inf)
    return shape_in.scaled_to(run.mean_input), shape_out._replace(cap=capped).scaled_to(run.mean_output)


_WORKERS = re.compile(r"(\d+)P(\d+)D")
# Words in a run's notes that say how requests reached the engine; HTTP without one of them.
_IN_PROCESS = ("in-process", "one request at a time", "LoadGen")
_OFFLINE = ("offline engine", "offline batch")
_CAPS = {"OpenOrca (": 1024.0, "capped at 512": 512.0, "capped at 256": 256.0, "out<=20000": 20000.0}


def _dtypes_of(run: LoadRun) -> Dtypes:
    """Return the formats of a run."""
    name = {"fp8_block": "fp8"}.get(run.dtype_name, run.dtype_name)
    found = get_dtypes(DTYPE_NAMES.get(name, name))
    return found.with_kv_bits(KV_BITS[run.kv_dtype]) if run.kv_dtype in KV_BITS else found


def scenario_of(run: LoadRun) -> Scenario:
    """Return one replica of a run. Raises LLMAnalysisError."""
    model, gpu = model_named(run.model_name), gpu_named(run.gpu_name)
    layout = Parallelism(
        tp_size=run.tp_size,
        pp_size=run.pp_size,
        ep_size=run.ep_size,
        dp_size=run.dp_size if run.ep_size > run.tp_size else 1,
    )
    name = of_version(run.runtime, run.version)
    if name not in runtime_names():
        raise BadValue(f"unknown runtime {shown(run.runtime)}")
    runtime = build_for(get_runtime(name), gpu).without_host()
    scenario = Scenario.of(model, gpu, _dtypes_of(run), layout, method="calibrated", runtime=runtime)
    weights_fit(scenario)
    return scenario


def transport_of(run: LoadRun) -> str:
    """Return how requests reached the engine: `http`, `in-process` (streamed too) or `offline` (not streamed)."""
    if any(words in run.notes for words in _OFFLINE):
        return "offline"
    return "in-process" if any(words in run.notes for words in _IN_PROCESS) else "http"


class Prepared(NamedTuple):
    """A run as its simulation needs it; the host terms of `times` and `policy` may be replaced."""

    run: LoadRun
    times: StepTimes
    policy: Policy
    workload: Workload
    num_requests: int  # of one replica
    rate: float
    concurrency: float
    steady: bool  # without ramp-up and drain
    kernels: float  # launches of a pass with prefill
    link: Link | None = None  # between prefill and decode workers

    def summary(self) -> Summary:
        """Return the metrics of the simulation, throughputs of all replicas."""
        requests = self.workload.requests(self.num_requests, self.rate)
        workers = _WORKERS.fullmatch(self.run.disagg)
        if workers and self.link:
            prefill, decode = prefill_and_decode(self.policy)
            numbers = int(workers[1]), int(workers[2])
            simulated = simulate_disaggregated(
                self.times, prefill, decode, self.link, requests, *numbers, self.concurrency
            )
        else:
            simulated = simulate(self.times, self.policy, requests, self.concurrency)
        found = summarize(simulated, steady=self.steady)
        return found._replace(**{name: getattr(found, name) * self.run.dp_size for name in _THROUGHPUTS})


def estimate_run(run: LoadRun, seed: int = 0) -> Summary:
    """Return the metrics of the simulation of a run. Raises LLMAnalysisError."""
    return prepare(run, seed).summary()


def prepare(run: LoadRun, seed: int = 0) -> Prepared:
    """Return what the simulation of a run needs. Raises LLMAnalysisError."""
    scenario = scenario_of(run)
    inputs, outputs = _lengths_of(run)
    version = VERSION.search(run.version)
    stated = (int(version[1]), int(version[2])) if version else None
    engine = engine_for(of_version(run.runtime, run.version), stated)
    changed: dict[str, float] = {
        name: int(value) for name in ("max_num_seqs", "max_num_batched_tokens") if (value := getattr(run, name)) > 0
    }
    context = run.mean_input + run.mean_output / 2
    if "LoadGen" in run.notes:  # a harness of the submitter, which takes nearly all memory
        changed |= {"gpu_memory_utilization": 0.95}
        if run.max_num_batched_tokens > 0 and run.max_num_seqs > 0:
            # Of prompts: submissions with a budget of 256 tokens ran 400 sequences at a time.
            changed["max_num_batched_tokens"] = int(run.max_num_batched_tokens + run.max_num_seqs)
    policy = policy_of(engine, scenario, context, version=stated, **changed)
    host = host_of(engine, scenario)
    if transport_of(run) != "http":
        policy = policy._replace(front_seconds=0.0, front_serial_seconds=0.0)
    if transport_of(run) == "offline":
        host = host._replace(stream=0.0)
    dp = run.dp_size
    sent = run.num_requests / dp if run.num_requests > 0 else inf
    concurrency = max(float(round(run.concurrency / dp)), 1.0) if run.concurrency < inf else inf
    most = max(MOST_REQUESTS, int(_WAVES * min(policy.max_num_seqs, concurrency)))
    count = most if sent > most else max(round(sent), 1)
    rate = run.rate / dp if run.arrival in ("poisson", "constant") else inf
    shape = inf if run.arrival == "constant" else float(dp)  # every dp-th Poisson arrival has gaps of that shape
    rows = policy.max_num_batched_tokens + policy.max_num_seqs
    longest = inputs.longest + outputs.longest
    return Prepared(
        run=run,
        times=build_step_times(scenario, host, rows, min(policy.max_num_seqs, count), longest),
        policy=policy,
        workload=Workload(inputs, outputs, shape, seed),
        num_requests=count,
        rate=rate,
        concurrency=concurrency,
        steady=sent > most or "genai-perf" in run.notes,
        kernels=kernels_of(scenario),
        link=kv_link(scenario, context) if _WORKERS.fullmatch(run.disagg) else None,
    )


def metric_of(summary: Summary, metric: str) -> float:
    """Return a metric by the name that rows have for it."""
    if metric in _THROUGHPUTS:
        return float(getattr(summary, metric))
    kind, _, statistic = metric.partition("_")
    return float(getattr(getattr(summary, kind), statistic))


def score_load(
    path: Path, progress: Callable[[float], None] | None = None, keep: Callable[[LoadRun], bool] = lambda run: True
) -> tuple[list[tuple[LoadRun, LoadScore]], list[tuple[str, str]]]:
    """Return the score of each value of a table, and (id, reason) of those that are skipped. Raises BadConfig."""
    runs, skipped = read_runs(path)
    runs = [run for run in runs if keep(run)]
    bands = _load_bands()
    scored: list[tuple[LoadRun, LoadScore]] = []
    for i, run in enumerate(runs):
        try:
            summary = estimate_run(run)
        except LLMAnalysisError as error:
            skipped += [(name, str(error)) for name, _, _ in run.values]
            continue
        for name, metric, value in run.values:
            estimated = metric_of(summary, metric)
            if estimated <= 0:
                skipped.append((name, "the simulation has no such value: each request has one output token"))
                continue
            low, high = bands.get(class_of(metric), (None, None))
            row = LoadScore(
                name,
                metric,
                value,
                estimated,
                estimated / value - 1,
                None if low is None else low * estimated,
                None if high is None else high * estimated,
            )
            scored.append((run, row))
        if progress:
            progress((i + 1) / len(runs))
    return scored, skipped


def class_of(metric: str) -> str:
    """Return the class of a metric that has one band and one line of a score."""
    if metric in _THROUGHPUTS:
        return "throughput"
    kind, _, statistic = metric.partition("_")
    tail = {"mean": "mean", "median": "median"}.get(statistic, "tail")
    return f"{kind} {tail}"


@cache
def _load_bands() -> dict[str, tuple[float, float]]:
    """Return the factors on an estimate between which 80 % of the measured values of a class of metrics lie."""
    raw: dict[str, list[float]] = read_json(DATA / "load_bands.json")["bands"]
    return {name: (low, high) for name, (low, high) in raw.items()}


class ClassError(NamedTuple):
    """The errors of a class of metrics; fractions of the measured value."""

    metric_class: str
    n: int
    median_abs_error: float
    p90_abs_error: float
    bias: float


def errors_by_class(scored: Sequence[tuple[LoadRun, LoadScore]]) -> list[ClassError]:
    """Return the errors of each class. Each source, model and GPU counts the same, whatever number of values it has.

    Rows of grade C are left out.
    """
    groups: dict[str, list[tuple[tuple[str, str, str], float]]] = {}
    for run, row in scored:
        if run.grade == "C":
            continue
        key = run.source, run.model_name, run.gpu_name
        groups.setdefault(class_of(row.metric), []).append((key, row.error))
    found = []
    for name in sorted(groups):
        counts = Counter(key for key, _ in groups[name])
        signed = [(error, 1 / counts[key]) for key, error in groups[name]]
        sizes = [(abs(error), weight) for error, weight in signed]
        figures = _weighted_quantile(sizes, 0.5), _weighted_quantile(sizes, 0.9), _weighted_quantile(signed, 0.5)
        found.append(ClassError(name, len(signed), *figures))
    return found


def _weighted_quantile(pairs: list[tuple[float, float]], share: float) -> float:
    """Return the smallest value that so much of the weight does not exceed."""
    ordered, seen = sorted(pairs), 0.0
    total = sum(weight for _, weight in ordered)
    for value, weight in ordered:
        seen += weight
        if seen >= share * total - 1e-12:
            return value
    return ordered[-1][0]
