"""Read published measurements: one row says what was run, on which GPUs, and how long it took.

The input is a CSV file with at least the columns of `REQUIRED`. docs/accuracy.md lists all columns; others are ignored.

`metric` is `ttft` (prefill of the whole batch), `tpot` (seconds per decode step) or `total_latency` (ttft +
decode_steps * tpot). `kind` says how requests arrived:

    static     one batch, from start to end
    serving    a steady state with `batch_size` requests in flight; a new request replaces each finished one
    waves      `batch_size` requests of one length that start together, again and again
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import inf
from pathlib import Path

from llm_analysis.calibration.columns import (
    Row,
    Skipped,
    read_filled,
    read_number,
    read_positive,
    read_server,
    read_word,
    skipped_row,
)
from llm_analysis.catalog import get_gpu, get_model
from llm_analysis.errors import BadValue, LLMAnalysisError
from llm_analysis.files import DATA, read_table
from llm_analysis.hardware.gpu import GPU
from llm_analysis.inference.bands import is_dense
from llm_analysis.inference.engines import engine_of
from llm_analysis.inference.runtimes import VERSION, runtime_for_version
from llm_analysis.models.config import ModelConfig
from llm_analysis.physics.dtypes import Dtypes, get_dtypes
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.units import Array

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
KINDS = ("static", "serving", "waves")
EVIDENCE = DATA / "published.csv"

# Rows that another published number, or arithmetic, contradicts: scored apart and never fitted.
_ONE_PROMPT = (
    "the benchmark repeats one prompt: all sequences of a batch choose the same two experts, so that batch 16 takes "
    "hardly longer than batch 1"
)
_SET_APART = {("argonne-llm-inference-bench", "tensorrt-llm", "mixtral-8x7b"): _ONE_PROMPT}
_GRADE_C = "grade C: the source leaves out something that changes the latency"

# The engine of sources that do not print it. Splitwise (ISCA 2024, arXiv:2311.18677) is built on vLLM; recalled.
_ENGINES = {"splitwise-sim": "vllm"}
# The engine version of sources that do not print it, from the date of the publication or of the rows beside it.
_DATED = {
    ("splitwise-sim", "vllm"): "0.2",  # November 2023
    ("mlc-ai llm-perf-bench README", "vllm"): "0.2",  # October 2023
    ("argonne-llm-inference-bench", "vllm"): "0.6",  # the rows of the same repository that print a version: 0.6.1
    ("argonne-llm-inference-bench", "tensorrt-llm"): "0.12",  # the paper is of October 2024
    ("aiconfigurator-silicon-inferencex", "vllm"): "0.11",  # InferenceMAX started in October 2025, with vLLM 0.11
    ("aiconfigurator-silicon-inferencex", "tensorrt-llm"): "1.1",  # the same
    ("aiconfigurator-silicon-inferencex-2", "tensorrt-llm"): "1.2",  # early 2026; other rows print 1.1 to 1.3
}
# Sources that print the version of another product: the README of TinyChat 2.0 is of October 2024.
_VERSIONS_OF_OTHERS = {("llm-awq TinyChat README", "hf-transformers"): "4.46"}
# Sources whose requests have one length and start together, although their tables call it a fixed concurrency. TPOT
# there does not grow with the prompt as the prefill of later requests would make it.
_IN_WAVES = {("aiconfigurator-silicon-nvidia", "sglang")}

# Names of the tables for weight-only formats; the rest are those of `dtypes`.
_DTYPE_NAMES = {"w4a16": "int4", "w8a16": "w8a16e16", "w16a16": "w16a16e16"}
# Families whose published FP8 checkpoints have a scale for each block of 128 x 128 weights (`weight_block_size` in the
# quantization_config of Qwen3, DeepSeek-V3 and R1, Kimi-K2, MiniMax-M2 and GLM-5 on the Hugging Face hub).
_BLOCK_SCALED = ("qwen3", "deepseek-v3", "deepseek-r1", "kimi-k2", "minimax-m2", "glm-5")
_KV_BITS = {"fp8": 8, "int8": 8, "fp16": 16, "bf16": 16, "16-bit": 16}


@dataclass(frozen=True, slots=True)
class Measurement:
    """One published number, in seconds."""

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
    grade: str = ""  # A: precisely defined, B: one unknown, C: something that matters is missing
    ttft: float | None = None  # of the same run, seconds

    @property
    def engine(self) -> str:
        """Name of the runtime for the version of the engine that was measured."""
        name = _ENGINES.get(self.source, self.runtime)
        version = _VERSIONS_OF_OTHERS.get((self.source, name), self.version)
        return runtime_for_version(name, version if VERSION.search(version) else _DATED.get((self.source, name), ""))

    @property
    def phase(self) -> str:
        """What was measured: `prefill`, `total` (decode or the whole batch) or `serving`."""
        return "prefill" if self.metric == "ttft" else "total" if self.kind == "static" else "serving"

    @property
    def is_dense(self) -> bool:
        """Whether the model has no experts and its weights have 16 bits or are fp8."""
        return is_dense(model_named(self.model_name), self.dtypes())

    @property
    def group(self) -> str:
        """Source, GPU and model: rows that share them are not independent evidence."""
        return f"{self.source} | {self.gpu_name} | {self.model_name}"

    @property
    def longest(self) -> float:
        """Tokens of prompt and output in the last pass that was measured."""
        return self.seq_len + (self.num_tokens if self.metric != "ttft" else 0.0)

    def dtypes(self) -> Dtypes:
        """Return the number formats of the run."""
        found = formats_of(self.model_name, self.dtype_name, self.kv_dtype)
        engine = None if self.kv_dtype in _KV_BITS else engine_of(self.engine)
        return engine.cache_formats(found) if engine else found

    def layout(self) -> Parallelism:
        """Return the layout of the run.

        If the experts are spread over more GPUs than the attention, the attention is taken as spread over these too.
        """
        return Parallelism(tp_size=max(self.tp_size, self.ep_size), pp_size=self.pp_size, ep_size=self.ep_size)


def formats_of(model_name: str, dtype_name: str, kv_dtype: str) -> Dtypes:
    """Return the number formats that a table names; fp8 weights with block scales in the families that publish them."""
    name = _DTYPE_NAMES.get(dtype_name, dtype_name)
    found = get_dtypes("fp8_block" if name == "fp8" and model_name.startswith(_BLOCK_SCALED) else name)
    return found.with_kv_bits(_KV_BITS[kv_dtype]) if kv_dtype in _KV_BITS else found


def apart(m: Measurement) -> str:
    """Return why a row is scored apart and never fitted; empty if it is not."""
    return _GRADE_C if m.grade == "C" else _SET_APART.get((m.source, m.runtime, m.model_name), "")


@cache
def model_named(name: str) -> ModelConfig:
    """Return a model, read once."""
    return get_model(name)


@cache
def positions(name: str) -> float:
    """Return the positions of a model; infinity if it is unknown, which is an error where the row is estimated."""
    try:
        return model_named(name).max_position_embeddings
    except LLMAnalysisError:
        return inf


@cache
def gpu_named(name: str) -> GPU:
    """Return a GPU as software sees it, read once."""
    return get_gpu(name).per_device()


def read_measurements(path: Path) -> tuple[list[Measurement], list[Skipped]]:
    """Return the rows of a table, and (id, reason) of rows that cannot be read. Raises BadConfig if it is no table."""
    rows = read_table(path, REQUIRED)
    good: dict[Measurement, Measurement] = {}
    bad = []
    for number, row in enumerate(rows, 1):
        try:
            found = _read_row(row)
        except BadValue as error:
            bad.append(skipped_row(row, number, error))
            continue
        first = good.setdefault(_run_of(found), found)
        if first is not found:
            bad.append((found.id, f"the same run as {first.id}"))
    return list(good.values()), bad


def _run_of(m: Measurement) -> Measurement:
    """Return a row with an empty id and a time of three digits: equal for two prints of the same run.

    Only a run with a TTFT is recognized. One time alone can be the same in two runs.
    """
    return replace(m, id="", seconds=float(f"{m.seconds:.3g}")) if m.ttft else m


def _read_row(row: Row) -> Measurement:
    """Return one row of a table. Raises BadValue."""
    metric = read_word(row, "metric", METRICS)
    kind = read_word(row, "kind", KINDS, KINDS[0])
    server = read_server(row)
    if kind == "serving" and (server["source"], server["runtime"]) in _IN_WAVES:
        kind = "waves"
    if kind == "serving" and metric != "tpot":
        raise BadValue(f"kind serving has a tpot; its {metric} depends on when requests arrive and is not estimated")
    if kind == "waves" and metric == "total_latency":
        raise BadValue("kind waves has a ttft and a tpot, and no total_latency")
    tokens = read_number(row, "num_tokens_to_generate", None if metric == "total_latency" else 1.0)
    usual = max(tokens - 1.0, 1.0 if metric == "tpot" else 0.0)
    ttft_ms = read_number(row, "ttft_ms", 0.0)
    return Measurement(
        id=read_filled(row, "id"),
        kind=kind,
        batch_size=read_number(row, "batch_size", least=1.0),
        seq_len=max(read_number(row, "seq_len"), 1.0),
        num_tokens=tokens,
        decode_steps=read_number(row, "decode_steps", usual),
        metric=metric,
        seconds=read_positive(row, "measured_s"),
        ttft=ttft_ms / 1e3 if ttft_ms else None,
        **server,
    )


def table_weights(measurements: Sequence[Measurement]) -> Array:
    """Return n^(-1/4) for each row of a table of n rows, so that a long table does not outweigh the others."""
    import numpy as np

    tables = [(m.source, m.gpu_name, m.model_name, m.tp_size, m.dtype_name, m.metric) for m in measurements]
    sizes = Counter(tables)
    return np.array([sizes[table] ** -0.25 for table in tables])
