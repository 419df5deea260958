"""Published runs of benchmarks under load, as a table: one row is one value, rows with the same `run` are one run.

A row states model, GPU, engine, arrivals, lengths and one metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isfinite
from pathlib import Path
from typing import NamedTuple

from llm_analysis.errors import BadValue, shown
from llm_analysis.files import DATA, read_table

METRICS = ("ttft", "tpot", "itl", "e2e")
THROUGHPUTS = ("request_throughput", "output_token_throughput", "total_token_throughput")
REQUIRED = ("id", "runtime", "model_name", "gpu_name", "dtype_name", "arrival", "metric", "value")
LOAD_EVIDENCE = DATA / "load.csv"
_STATISTICS = ("mean", "median", "p90", "p95", "p99")
_UNKNOWN_INPUT = 300.0  # tokens of a prompt if the source states no length
_ARRIVALS = ("poisson", "burst", "closed", "offline", "constant")
_AT_ONCE = ("burst", "offline")
# Words in the notes of a run for the way in which requests reached the engine; the default is HTTP.
_IN_PROCESS = ("in-process", "one request at a time", "LoadGen")
_OFFLINE = ("offline engine", "offline batch", "offline batches")


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

    @property
    def at_once(self) -> bool:
        """Whether all requests were sent at the start."""
        return self.arrival in _AT_ONCE


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
    """Return a run of a model with latent attention with data-parallel attention, if the engine uses it.

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
    if metric not in THROUGHPUTS and (kind not in METRICS or statistic not in _STATISTICS):
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


def transport_of(run: LoadRun) -> str:
    """Return how requests reached the engine: `http`, `in-process` (streamed too) or `offline` (not streamed)."""
    if any(words in run.notes for words in _OFFLINE):
        return "offline"
    return "in-process" if any(words in run.notes for words in _IN_PROCESS) else "http"
