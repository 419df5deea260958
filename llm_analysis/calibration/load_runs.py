"""Read published runs of benchmarks under load.

In the table a row states model, GPU, engine, arrivals, lengths and the value of one metric; rows with the same `run`
are one run, and the first of them describes it.
"""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import NamedTuple

from llm_analysis.calibration.columns import (
    Row,
    Skipped,
    read_count,
    read_filled,
    read_number,
    read_positive,
    read_server,
    read_text,
    read_word,
    skipped_row,
)
from llm_analysis.errors import BadValue, shown
from llm_analysis.files import DATA, read_table

THROUGHPUTS = ("request_throughput", "output_token_throughput", "total_token_throughput")
REQUIRED = ("id", "runtime", "model_name", "gpu_name", "dtype_name", "arrival", "metric", "value")
LOAD_EVIDENCE = DATA / "load.csv"
_LATENCIES = ("ttft", "tpot", "itl", "e2e")
_STATISTICS = ("mean", "median", "p90", "p95", "p99")
_UNKNOWN_INPUT = 300.0  # tokens of a prompt if the source states no length
_ARRIVALS = ("poisson", "burst", "closed", "offline", "constant")
_AT_ONCE = ("burst", "offline")
# Words in the notes of a run for the way in which requests reached the engine; the default is HTTP.
_IN_PROCESS = ("in-process", "one request at a time", "LoadGen")
_OFFLINE = ("offline engine", "offline batch")
_SAME_PROMPTS = "seed 0"  # the same in the statement of the lengths: the benchmark draws the same prompts in each run


class LoadRun(NamedTuple):
    """One run of a benchmark, with its measured values as (id, metric, value): seconds, requests/s or tokens/s.

    What the source does not state is 0 or empty; the rate and the concurrency are infinite then.
    """

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
    num_requests: float
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
    cached_prefix: float | None = None  # fraction of each prompt in the prefix cache; None: not stated
    repeats_prompts: bool = False  # the server had the same prompts before, in a run at another load

    @property
    def of_mlperf(self) -> bool:
        """Whether MLPerf's LoadGen sent the requests, through a harness in the engine's process."""
        return "LoadGen" in self.notes

    @property
    def at_once(self) -> bool:
        """Whether all requests were sent at the start."""
        return self.arrival in _AT_ONCE


def read_runs(path: Path) -> tuple[list[LoadRun], list[Skipped]]:
    """Return the runs of a table, and (id, reason) of the rows that cannot be read. Raises BadConfig."""
    rows = read_table(path, REQUIRED)
    runs: dict[str, LoadRun] = {}
    skipped = []
    for number, row in enumerate(rows, 1):
        try:
            value = _value(row)
            run = row.get("run") or row["id"]
            runs[run] = runs[run] if run in runs else _run(row)
        except BadValue as error:
            skipped.append(skipped_row(row, number, error))
            continue
        runs[run] = runs[run]._replace(values=(*runs[run].values, value))
    return _with_repeated_prompts([_with_data_parallel_attention(run) for run in runs.values()]), skipped


def _with_repeated_prompts(runs: list[LoadRun]) -> list[LoadRun]:
    """Return the runs, marked if they repeat the prompts of another run.

    `vllm bench serve` draws the same prompts for each run with the same seed. Of the runs that send them to one server
    the one with the highest load is taken to be the first: that of IOG's tables (32 requests/s), the only one with
    whole prompts in its steps.
    """
    first: dict[LoadRun, tuple[float, float]] = {}
    for run in runs:
        key, load = _series(run), (run.rate, run.concurrency)
        first[key] = max(first.get(key, load), load)
    return [
        run._replace(repeats_prompts=(run.rate, run.concurrency) < first[_series(run)])
        if _SAME_PROMPTS in run.lengths
        else run
        for run in runs
    ]


def _series(run: LoadRun) -> LoadRun:
    """Return a run without what differs between runs with the same prompts on one server.

    With the load the mean output differs too, by a few tokens.
    """
    return run._replace(rate=0.0, concurrency=0.0, mean_output=0.0, values=())


def _with_data_parallel_attention(run: LoadRun) -> LoadRun:
    """Return the run with each GPU as a replica of the attention, if that is how the engine ran the model.

    A latent cache has one head, so tensor parallelism would hold all of it on each GPU. MLPerf's submitters, and SGLang
    with data-parallel attention, instead give each GPU requests of its own and share only the experts.
    """
    replicas = "deepseek" in run.model_name and (run.of_mlperf or "data-parallel attention" in run.notes)
    if not replicas or run.tp_size == 1:
        return run
    return run._replace(tp_size=1, dp_size=run.dp_size * run.tp_size, ep_size=run.tp_size)


def _value(row: Row) -> tuple[str, str, float]:
    """Return (id, metric, value) of a row. Raises BadValue."""
    metric = read_filled(row, "metric")
    kind, _, statistic = metric.partition("_")
    if metric not in THROUGHPUTS and (kind not in _LATENCIES or statistic not in _STATISTICS):
        raise BadValue(f"metric {shown(metric)} is not estimated here")
    return read_filled(row, "id"), metric, read_positive(row, "value")


def _run(row: Row) -> LoadRun:
    """Return the run that a row describes. Raises BadValue."""
    if not read_text(row, "tp_size") and read_number(row, "num_gpus", 1.0) > 1:
        raise BadValue("tp_size is not given for more than one GPU")
    return LoadRun(
        dp_size=read_count(row, "dp_size"),
        arrival=read_word(row, "arrival", _ARRIVALS),
        rate=read_number(row, "request_rate_per_s", inf),
        concurrency=read_number(row, "concurrency", inf),
        num_requests=read_number(row, "num_requests", 0.0),
        dataset=read_text(row, "dataset"),
        lengths=read_text(row, "length_distribution"),
        mean_input=read_number(row, "mean_input_tokens", _UNKNOWN_INPUT),
        mean_output=read_number(row, "mean_output_tokens"),
        max_num_batched_tokens=read_number(row, "max_num_batched_tokens", 0.0),
        max_num_seqs=read_number(row, "max_num_seqs", 0.0),
        disagg=read_text(row, "disagg"),
        notes=read_text(row, "notes"),
        values=(),
        cached_prefix=_cached_prefix(row),
        **read_server(row),
    )


def _cached_prefix(row: Row) -> float | None:
    """Return the fraction of each prompt that the prefix cache held; None if it is not stated. Raises BadValue."""
    if not read_text(row, "prefix_cache_hit_rate"):
        return None
    found = read_number(row, "prefix_cache_hit_rate")
    if found >= 1:
        raise BadValue(f"prefix_cache_hit_rate must be from 0 to below 1, not {found:g}")
    return found


def transport_of(run: LoadRun) -> str:
    """Return how requests reached the engine: `http`, `in-process` (streamed too) or `offline` (not streamed)."""
    if any(words in run.notes for words in _OFFLINE):
        return "offline"
    return "in-process" if any(words in run.notes for words in _IN_PROCESS) else "http"
