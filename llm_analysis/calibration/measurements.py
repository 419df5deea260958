"""Published figures, one per row: what was run, on what, and how long it took.

A CSV with at least the columns of `REQUIRED`; others are ignored. `metric` is `ttft` (prefill of the whole batch),
`tpot` (seconds per decode step) or `total_latency` (ttft + decode_steps * tpot). `kind` is `static`, one batch from
start to end, or `serving`: a steady state of `batch_size` requests in flight, where each decode step also carries the
prefill of the requests that take the place of finished ones: batch / tokens-per-request prompts a step.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path

from llm_analysis.catalog import get_gpu, get_model
from llm_analysis.errors import BadConfig, BadValue, shown
from llm_analysis.files import DATA, MAX_TABLE_BYTES, path_text, read_text
from llm_analysis.hardware.gpu import GPU
from llm_analysis.inference.runtimes import of_version
from llm_analysis.inference.workload import nodes
from llm_analysis.models.config import ModelConfig
from llm_analysis.physics.dtypes import Dtypes, get_dtypes
from llm_analysis.physics.operators import Step
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.units import Array, Quantity

REQUIRED = (
    "id",
    "runtime",
    "model_name",
    "gpu_name",
    "dtype_name",
    "batch_size",
    "seq_len",
    "num_tokens_to_generate",
    "metric",
    "measured_s",
)
METRICS = ("ttft", "tpot", "total_latency")
KINDS = ("static", "serving")
LARGEST = 1e9  # of any figure: beyond it stands a slip of the keyboard
EVIDENCE = DATA / "published.csv"

# Rows that another published number or the arithmetic contradicts: scored apart, never fitted.
SET_APART = {
    ("argonne-llm-inference-bench", "tensorrt-llm", "mixtral-8x7b"): "a batch of one and the same prompt: all of its "
    "sequences choose the same two experts, so that batch 16 takes hardly longer than batch 1",
}

# Names of the tables for weight-only formats; the rest are those of `dtypes`.
DTYPE_NAMES = {"w4a16": "int4", "w8a16": "w8a16e16", "w16a16": "w16a16e16"}
KV_BITS = {"fp8": 8, "int8": 8, "fp16": 16, "bf16": 16, "16-bit": 16}


@dataclass(frozen=True, slots=True)
class Measurement:
    """One published number. Seconds."""

    id: str
    source: str
    kind: str
    runtime: str
    model_name: str
    gpu_name: str
    dtype_name: str
    kv_dtype: str
    tp_size: int
    pp_size: int
    ep_size: int
    batch_size: float
    seq_len: float
    num_tokens: float
    decode_steps: float
    metric: str
    seconds: float
    version: str = ""  # of the engine

    @property
    def engine(self) -> str:
        """The name of the runtime, as of its version."""
        return of_version(self.runtime, self.version)

    def dtypes(self) -> Dtypes:
        """The formats of the run."""
        found = get_dtypes(DTYPE_NAMES.get(self.dtype_name, self.dtype_name))
        return found._replace(kv_bits=KV_BITS[self.kv_dtype]) if self.kv_dtype in KV_BITS else found

    def layout(self) -> Parallelism:
        """The GPUs of the run; those that share the experts, where they are more, share the attention too."""
        shared = max(self.tp_size, self.ep_size)
        return Parallelism(tp_size=shared, pp_size=self.pp_size, ep_size=self.ep_size)

    def passes(self, model: ModelConfig) -> Iterator[tuple[Quantity, Step]]:
        """(how often, pass) of everything that the figure covers; prompts that a step carries along are `joining`."""
        b, s, steps = self.batch_size, self.seq_len, self.decode_steps
        if self.metric != "tpot":
            yield 1.0, Step(b, s)
        times = 1.0 if self.metric == "tpot" else steps
        if self.metric != "ttft" and steps > 0:
            for weight, context in nodes(int(s), int(steps), model.decode_kinks):
                yield times * weight, Step(b, 1.0, context, "decode")

    @property
    def joining(self) -> float:
        """Prompts that join a decode step on the average."""
        return self.batch_size / max(self.num_tokens, 1.0) if self.kind == "serving" else 0.0


def apart(m: Measurement) -> str:
    """Why a row is scored apart; empty where it is not."""
    return SET_APART.get((m.source, m.runtime, m.model_name), "")


@cache
def model_named(name: str) -> ModelConfig:
    """A model, read once."""
    return get_model(name)


@cache
def gpu_named(name: str) -> GPU:
    """A GPU as software sees it, read once."""
    return get_gpu(name).per_device()


def read_measurements(path: Path) -> tuple[list[Measurement], list[tuple[str, str]]]:
    """The rows of a table, and (id, reason) of those that cannot be read. Raises BadConfig for no such table."""
    try:
        table = csv.DictReader(StringIO(read_text(path, MAX_TABLE_BYTES, "utf-8-sig"), newline=""))
        rows, columns = list(table), table.fieldnames or ()
    except csv.Error as error:
        raise BadConfig(f"{path_text(path)}: cannot be read as CSV: {error}") from None
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise BadConfig(f"{path}: no column {missing[0]!r}; needed are {', '.join(REQUIRED)}")
    if not rows:
        raise BadConfig(f"{path}: no rows")
    good, bad = [], []
    for row in rows:
        try:
            good.append(read_row(row))
        except BadValue as error:
            bad.append((str(row.get("id")), str(error)))
    return good, bad


def read_row(row: Mapping[str, str | None]) -> Measurement:
    """One row of a table. Raises BadValue."""
    metric = text(row, "metric")
    if metric not in METRICS:
        raise BadValue(f"metric {shown(metric)} is not one of {', '.join(METRICS)}")
    kind = text(row, "kind") or KINDS[0]
    if kind not in KINDS:
        raise BadValue(f"kind {shown(kind)} is not one of {', '.join(KINDS)}")
    if kind == "serving" and metric != "tpot":
        raise BadValue(f"a steady state (kind serving) has a tpot, and no {metric} that is estimated here")
    tokens = figure(row, "num_tokens_to_generate", 1.0)
    usual = max(tokens - 1.0, 1.0 if metric == "tpot" else 0.0)
    seconds = figure(row, "measured_s")
    if seconds <= 0:
        raise BadValue(f"measured_s must be above 0, not {seconds:g}")
    return Measurement(
        id=text(row, "id"),
        source=text(row, "source"),
        kind=kind,
        runtime=text(row, "runtime") or "none",
        model_name=text(row, "model_name"),
        gpu_name=text(row, "gpu_name"),
        dtype_name=text(row, "dtype_name"),
        kv_dtype=text(row, "kv_dtype"),
        tp_size=count(row, "tp_size"),
        pp_size=count(row, "pp_size"),
        ep_size=count(row, "ep_size"),
        batch_size=figure(row, "batch_size", least=1.0),
        seq_len=max(figure(row, "seq_len", 1.0), 1.0),
        num_tokens=tokens,
        decode_steps=figure(row, "decode_steps", usual),
        metric=metric,
        seconds=seconds,
        version=text(row, "runtime_version"),
    )


def text(row: Mapping[str, str | None], name: str) -> str:
    """A cell as text; empty where the column is missing."""
    return (row.get(name) or "").strip()


def figure(row: Mapping[str, str | None], name: str, empty: float | None = None, least: float = 0.0) -> float:
    """A cell as a number from `least` to `LARGEST`; `empty` where the cell is. Raises BadValue."""
    cell = text(row, name)
    if not cell and empty is not None:
        return empty
    try:
        value = float(cell)
    except ValueError:
        raise BadValue(f"{name} must be a number, not {shown(cell)}") from None
    if not least <= value <= LARGEST:
        raise BadValue(f"{name} must be a number from {least:g} to {LARGEST:g}, not {shown(cell)}")
    return value


def count(row: Mapping[str, str | None], name: str) -> int:
    """A cell as a whole number from 1 up; 1 where it is empty. Raises BadValue."""
    value = figure(row, name, 1.0)
    if value < 1 or value != int(value):
        raise BadValue(f"{name} must be a whole number from 1 up, not {shown(text(row, name))}")
    return int(value)


def table_weights(measurements: Sequence[Measurement]) -> Array:
    """n^(-1/4) for each row of a table of n."""
    import numpy as np

    tables = [(m.source, m.gpu_name, m.model_name, m.tp_size, m.dtype_name, m.metric) for m in measurements]
    sizes = Counter(tables)
    return np.array([sizes[table] ** -0.25 for table in tables])
