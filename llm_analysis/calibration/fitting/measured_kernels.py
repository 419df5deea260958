"""Tables of measured kernels, and what is made of them: operators of arrays with the seconds that each row took.

Measured kernels, read from a folder of tables into operators with the seconds that each took.

The folder holds one sub-folder per GPU system and in it gzipped CSVs, as aiconfigurator-core publishes them (NVIDIA,
Apache-2.0): latency in milliseconds of one kernel under a CUDA graph. Every operator is built by `operators`, so that a
fit and an estimate count FLOP and bytes alike.

Measured experts of mixtures, read into operators: router's choice, up and gate, activation, down, weighted sum.

How many experts a row of the table reads depends on how its tokens were spread. `balanced` deals them out one by one,
so that r tokens of k experts each reach min(r k, E) of the E: twice what even but random choices reach where r k = E.
A power law's tokens are only used where hardly anything depends on it.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_analysis.hardware.gpu import GPU
from llm_analysis.models.layers.feed_forward import distinct_experts
from llm_analysis.physics.collectives import all_reduce, collective
from llm_analysis.physics.dtypes import get_dtypes
from llm_analysis.physics.operators import MatmulFormat, Op, Step, attention, elementwise, matmul
from llm_analysis.units import Array, Quantity

Mask = NDArray[np.bool_]
Table = dict[str, Any]  # column name -> array of numbers or of text


@dataclass(frozen=True, slots=True)
class Samples:
    """Operators of one kind, format and rate, as arrays, and what they took.

    Kernels measured together with each: `twin` runs with the same numbers, `before` (it quantises the input) with
    numbers of its own, to be fitted along, and those of `known` have numbers already.
    """

    op: Op
    seconds: Array
    shape: Array  # rows of equal value go to the same fold
    source: str
    note: str = ""
    twin: Op | None = None
    before: Op | None = None
    known: tuple[Op, ...] = ()

    def part(self, keep: Mask) -> Samples:
        """The rows that `keep` marks."""
        twin, before = (None if op is None else rows_of(op, keep) for op in (self.twin, self.before))
        op, known = rows_of(self.op, keep), tuple(rows_of(op, keep) for op in self.known)
        seconds, shape = self.seconds[keep], self.shape[keep]
        return replace(self, op=op, twin=twin, before=before, known=known, seconds=seconds, shape=shape)


def read_table(path: Path) -> Table:
    """Columns of a CSV, gzipped or not, as arrays: of float64 where every cell is a number, else of text."""
    reading = gzip.open if path.suffix == ".gz" else open
    with reading(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return {name: column(cells) for name, cells in zip(rows[0], zip(*rows[1:], strict=True), strict=True)}


def column(cells: tuple[str, ...]) -> NDArray[Any]:
    """Cells as numbers if all are."""
    try:
        return np.array(cells, dtype=np.float64)
    except ValueError:
        return np.array(cells)


def where(table: Table, keep: Mask) -> Table:
    """The rows of a table that `keep` marks."""
    return {name: values[keep] for name, values in table.items()}


def hashed(*columns: Array) -> Array:
    """One number per row that rows of equal columns share, spread evenly (a golden-ratio hash)."""
    mixed = sum(np.log2(values + 1.0) * factor for values, factor in zip(columns, (1.0, 7.3, 31.7, 97.1), strict=False))
    return np.floor((np.asarray(mixed) * 1e3 * 0.6180339887498949) % 1.0 * 1e6)


def rows_of(op: Op, keep: Mask) -> Op:
    """The rows of an operator of arrays that `keep` marks."""
    values: dict[str, Any] = {k: v[keep] if isinstance(v, np.ndarray) else v for k, v in op._asdict().items()}
    return Op(**values)


# Folder name -> the GPU it was measured on.
SYSTEMS = {
    "a100_sxm": "a100-sxm-80gb",
    "h100_sxm": "h100-sxm-80gb",
    "b200_sxm": "b200-sxm",
    "l40s": "l40s-48gb",
}

# The tables' names of the formats -> ours (see dtypes); `fp8_block` has a scale per 128 x 128 weights.
DTYPE_NAMES = {"bfloat16": "bf16", "fp8": "fp8", "nvfp4": "nvfp4", "int8_wo": "w8a16", "int4_wo": "w4a16", "sq": "int8"}


DTYPE_NAMES |= {"fp8_block": "fp8"}


QUANTISED_APART = ("fp8", "fp8_block", "nvfp4")  # measured together with the kernel that quantises their inputs
LEAST_WIDTH = 512  # narrower matrices are no model's

# A repeated kernel finds small data in L2, where a model would fetch it from memory. Only on an L40S does that read
# faster than the memory's peak (96 MB of L2 over 864 GB/s of GDDR6): there such rows teach nothing about memory.
LARGE_L2_PER_BANDWIDTH = 96e6 / 864e9


def matmul_format(name: str, gpu: GPU) -> MatmulFormat:
    """How a GPU multiplies the table's format `name`."""
    linear = get_dtypes(DTYPE_NAMES[name]).on(gpu.peak_flops, gpu.name).linear
    return linear._replace(format=name) if name == "fp8_block" else linear


def served_by_l2(gpu: GPU, op: Op) -> Mask:
    """Rows whose traffic fits the L2 of a GPU where it is much faster than memory, and that memory would have bound."""
    l2 = gpu.l2_bytes or 0.0
    if l2 / gpu.memory_bandwidth < LARGE_L2_PER_BANDWIDTH * 0.99:
        return np.zeros(np.shape(op.bytes), dtype=bool)
    bound = op.bytes / gpu.memory_bandwidth > op.flops / gpu.peak_flops[op.rate]
    return np.asarray((op.bytes < 1.25 * l2) & bound & (op.bytes > 0.02 * l2))


def gemms(folder: Path, gpu: GPU) -> Iterator[Samples]:
    """Matrix multiplications: m tokens, k inputs, n outputs."""
    table = read_table(folder / "gemm_perf.csv.gz")
    for name in sorted(set(table["gemm_dtype"])):
        wide = (table["gemm_dtype"] == name) & (table["n"] >= LEAST_WIDTH) & (table["k"] >= LEAST_WIDTH)
        rows = where(table, wide)
        numbers = matmul_format(name, gpu)
        samples = Samples(
            op=matmul("gemm", rows["m"], rows["k"], rows["n"], numbers),
            seconds=rows["latency"] * 1e-3,
            shape=hashed(rows["n"], rows["k"]),
            source="gemm_perf",
            before=quantize(rows["m"], rows["k"], numbers) if name in QUANTISED_APART else None,
        )
        yield from_memory(gpu, samples)


def quantize(rows: Any, width: Any, numbers: MatmulFormat) -> Op:
    """Inputs of a matrix multiplication read at 16 bits and written in its format."""
    return elementwise("quantize", rows, 2.0 * width, numbers.input_bytes * width, 1.0, kind="quantize")


def from_memory(gpu: GPU, samples: Samples) -> Samples:
    """The rows that speak of memory, not of L2."""
    aside = served_by_l2(gpu, samples.op)
    if not aside.any():
        return samples
    note = f"{int(aside.sum())} rows set aside: served by L2"
    return replace(samples.part(~aside), note="; ".join(t for t in (samples.note, note) if t))


ATTENTION_FORMATS = {("bfloat16", "bfloat16"): "bf16", ("bfloat16", "fp8"): "bf16_kv8", ("fp8", "fp8"): "fp8"}
MAIN_HEAD_DIM = 128
PAGE = 64  # tokens; a cache is read in whole pages, so that shorter prompts and contexts are all alike


def attentions(folder: Path, gpu: GPU, phase: str) -> Iterator[Samples]:
    """Attention by format of its arithmetic and its cache, and by head size: bf16, bf16_kv8, fp8, bf16_d64, ..."""
    source = "context_attention_perf" if phase == "prefill" else "generation_attention_perf"
    table = read_table(folder / f"{source}.csv.gz")
    table = where(table, (table["window_size"] == 0) & (table["kernel_source"] == "torch_flow"))
    for (math, cache), name in ATTENTION_FORMATS.items():
        for head_dim in sorted(set(table["head_dim"])):
            same = (table["attn_dtype"] == math) & (table["kv_cache_dtype"] == cache) & (table["head_dim"] == head_dim)
            suffix = "" if head_dim == MAIN_HEAD_DIM else f"_d{head_dim:g}"
            rows = where(table, same & believable(table, gpu, phase))
            if len(rows["latency"]):
                op = attention_op(rows, phase, name + suffix, gpu, head_dim, cache)
                note = ATTENTION_NOTES.get((gpu.name, phase), "")
                samples = Samples(op, rows["latency"] * 1e-3, attention_shape(rows), source, note)
                yield from_memory(gpu, samples)


ATTENTION_NOTES = {
    ("a100-sxm-80gb", "decode"): "multi-head rows from 512 cached tokens alone: in the others the cache was read at up "
    "to 1.65 times the bandwidth of the memory, which it cannot have come from",
}


def believable(table: Table, gpu: GPU, phase: str) -> Mask:
    """Rows that show what a model's attention costs: query groups up to 16, a page of tokens or more."""
    heads, kv_heads = table["num_heads"], kv_heads_of(table)
    if phase == "prefill":
        return np.asarray(table["isl"] >= PAGE)
    cached = table["isl"] + table["step"]
    usual = (heads / kv_heads <= 16) & (cached >= PAGE)
    if gpu.name == "a100-sxm-80gb":
        usual &= (heads == kv_heads) & (cached >= 512)
    return np.asarray(usual)


def kv_heads_of(table: Table) -> Array:
    """KV heads; the tables write 0 for as many as heads."""
    given: Array = table["num_key_value_heads"]
    return np.where(given > 0, given, table["num_heads"]).astype(np.float64)


def attention_shape(rows: Table) -> Array:
    """What rows of attention share."""
    return hashed(rows["batch_size"], rows["isl"] + rows["step"], rows["num_heads"], kv_heads_of(rows))


def attention_op(rows: Table, phase: str, name: str, gpu: GPU, head_dim: float, cache: str) -> Op:
    """Causal attention over the prompt, or of one new token over isl + step cached ones."""
    rate = "fp8" if name.startswith("fp8") else "bf16"
    seen = rows["isl"] + rows["step"]
    prompt = Step(rows["batch_size"], rows["isl"])
    step = prompt if phase == "prefill" else Step(rows["batch_size"], 1.0, seen - 1, phase)
    kv_heads: Any = kv_heads_of(rows)
    return attention(
        "attention",
        step,
        rows["num_heads"],
        kv_heads,
        head_dim,
        head_dim,
        format=name,
        rate=rate,
        element_bytes=2.0,
        kv_element_bytes=1.0 if cache == "fp8" else 2.0,
    )


# Multi-head latent attention of DeepSeek: 512 latent and 64 rotary elements per token, heads of 128 + 64 and 128.
LATENT, ROTARY, KEY, VALUE = 512.0, 64.0, 192.0, 128.0


def latent_attentions(folder: Path, gpu: GPU, phase: str) -> Iterator[Samples]:
    """Multi-head latent attention: expanded keys and values in prefill, absorbed ones in decode."""
    source = "context_mla_perf" if phase == "prefill" else "generation_mla_perf"
    path = folder / f"{source}.csv.gz"
    if not path.is_file():
        return
    table = read_table(path)
    for cache in sorted(set(table["kv_cache_dtype"])):
        rows = where(table, (table["kv_cache_dtype"] == cache) & (table["isl"] + table["step"] > 1))
        name = "bf16_kv8" if cache == "fp8" else "bf16"
        prefill = phase == "prefill"
        step = Step(rows["batch_size"], rows["isl"]) if prefill else Step(rows["batch_size"], 1.0, rows["step"], phase)
        key, value = (KEY, VALUE) if prefill else (LATENT + ROTARY, LATENT)
        op = attention(
            "attention",
            step,
            rows["num_heads"],
            rows["num_heads"],
            key,
            value,
            format=name,
            rate="bf16",
            element_bytes=2.0,
            kv_element_bytes=1.0 if cache == "fp8" else 2.0,
            kind="mla_attention",
            kv_row_dim=LATENT + ROTARY,
        )
        shape = hashed(rows["batch_size"], rows["isl"] + rows["step"], rows["num_heads"])
        yield Samples(op, rows["latency"] * 1e-3, shape, source)


COLLECTIVES = {"all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter"}


COLLECTIVES |= {"alltoall": "all_to_all"}


def collectives(folder: Path, algorithm: str) -> Iterator[tuple[int, Samples]]:
    """Collectives among 2, 4 and 8 GPUs, with the number of GPUs: NCCL's, or an engine's own all-reduce."""
    source = "nccl_perf" if algorithm == "nccl" else "custom_allreduce_perf"
    table = read_table(folder / f"{source}.csv.gz")
    if algorithm == "nccl":
        table = where(table, table["nccl_dtype"] == "half")
    kinds = table.get("op_name", np.full(len(table["latency"]), "all_reduce"))
    for theirs, kind in COLLECTIVES.items():
        for group in (2, 4, 8):
            rows = where(table, (kinds == theirs) & (table["num_gpus"] == group))
            message = rows["message_size"] * 2.0  # elements of 16 bits
            if len(message):
                op = collective_op(kind, message, group)
                yield group, Samples(op, rows["latency"] * 1e-3, np.log2(message), source)


def collective_op(kind: str, message: Any, group: int) -> Op:
    """A collective of `message` bytes: the whole tensor, of which each GPU starts or ends with its part."""
    if kind == "all_reduce":
        return all_reduce(kind, message, group, node=group)[0]
    return collective(kind, kind, message * (group - 1) / group, group)[0]


# microsoft/vidur (MIT): one layer's kernels of vLLM on three GPUs. Column of the table -> kind of operator.
VIDUR = {"a100-sxm-80gb": "a100", "h100-sxm-80gb": "h100", "a40-48gb": "a40"}
ELEMENTWISE = {"input_layernorm": "elementwise", "attn_rope": "rotary", "mlp_act": "elementwise"}


ELEMENTWISE |= {"post_attention_layernorm": "elementwise", "add": "residual", "emb": "embedding"}


def elementwises(vidur: Path, gpu: GPU) -> Iterator[Samples]:
    """Norms, rotary embeddings and activations; residual additions; look-ups of embeddings."""
    paths = sorted((vidur / VIDUR.get(gpu.name, "none")).glob("*/*/mlp.csv*"))
    tables = [read_table(path) for path in paths]
    for kind in dict.fromkeys(ELEMENTWISE.values()) if tables else ():
        parts = [
            moved for t in tables for name, of in ELEMENTWISE.items() if of == kind for moved in [pass_of(t, name)]
        ]
        moved, seconds = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        op = Op(name=kind, kind=kind, activation_bytes=moved)
        yield Samples(op, seconds, hashed(moved), "vidur, mlp.csv")


def pass_of(table: Table, name: str) -> tuple[Array, Array]:
    """Bytes that an elementwise kernel moves, and its seconds, where it was measured."""
    rows, h = table["num_tokens"], table["n_embd"]
    tp = table["num_tensor_parallel_workers"]
    gated = np.char.lower(table["use_gated_mlp"].astype(str)) == "true"
    width = table["n_expanded_embd"] / tp
    heads = (table["n_head"] + table["n_kv_head"]) / tp * h / table["n_head"]
    read_and_written = {"attn_rope": 2.0 * heads, "mlp_act": width * (2.0 + gated), "add": 3.0 * h}
    took = table.get(f"time_stats.{name}.median", np.zeros(len(rows)))
    took = np.array([float(t or "nan") for t in took]) if took.dtype.kind == "U" else took
    measured = took > 0
    return (2.0 * rows * read_and_written.get(name, 2.0 * h))[measured], (took * 1e-3)[measured]


GATED = ("moe_torch_flow", "moe_torch_flow_cutlass", "deepgemm")
SKEWED = "rows that memory binds: tokens were spread over the experts by a power law, which tells nothing of compute"

# nvfp4 was measured with two kernels; engines run the one made for few tokens, two to four times as fast. Where a token
# had several experts its rows are faster than memory delivers that many: they were routed to fewer. One expert a token
# or one token in all is beyond doubt.
FASTEST = {"nvfp4": "moe_torch_flow_min_latency"}
FASTEST_NOTE = "the kernel for few tokens; rows of one token, of one expert a token, or of many tokens"
LEAST_EXPERT_WIDTH = 128  # of one GPU's part of an expert: models are not cut finer
MANY_TOKENS = 8192  # all experts are read, and their weights hardly matter


def grouped_gemms(folder: Path, gpu: GPU) -> Iterator[Samples]:
    """Gated experts, all on one GPU, by format."""
    path = folder / "moe_perf.csv.gz"
    table = read_table(path) if path.is_file() else {"moe_dtype": np.array([])}
    for name in sorted(set(table["moe_dtype"])):
        kernels = (FASTEST[name],) if name in FASTEST else GATED
        wide = table["inter_size"] >= LEAST_EXPERT_WIDTH * table["moe_tp_size"]
        same = (table["moe_dtype"] == name) & np.isin(table["kernel_source"], kernels)
        rows = where(table, same & wide & (table["moe_ep_size"] == 1))
        even = rows["distribution"] == "balanced"
        yield dealt_out(where(rows, even), name, gpu) if even.any() else by_power_law(rows, name, gpu)


def dealt_out(rows: Table, name: str, gpu: GPU) -> Samples:
    """Rows whose tokens were dealt out to the experts evenly."""
    tokens, k = rows["num_tokens"], rows["topk"]
    note = ""
    if name in FASTEST:
        rows, note = where(rows, (tokens == 1) | (k == 1) | (tokens >= MANY_TOKENS)), FASTEST_NOTE
    touched = np.minimum(rows["num_tokens"] * rows["topk"], rows["num_experts"])
    return experts(rows, matmul_format(name, gpu), touched, note)


def by_power_law(rows: Table, name: str, gpu: GPU) -> Samples:
    """Rows of one token, and those of so many that random choices reach nearly all experts either way."""
    tokens, held = rows["num_tokens"], rows["num_experts"]
    rows = where(rows, (tokens == 1) | (tokens * rows["topk"] >= 2 * held))
    touched = distinct_experts(rows["num_tokens"], rows["num_experts"], rows["topk"])
    samples = experts(rows, matmul_format(name, gpu), touched, SKEWED)
    return samples.part(memory_bound(samples.op, gpu))


def memory_bound(op: Op, gpu: GPU) -> Mask:
    """Rows whose traffic would take three times as long as their FLOP at the peaks."""
    return np.asarray(op.bytes / gpu.memory_bandwidth > 3 * op.flops / gpu.peak_flops[op.rate])


def experts(rows: Table, numbers: MatmulFormat, touched: Quantity, note: str) -> Samples:
    """All kernels of the measured block, as `feed_forward` counts them."""
    tokens, h, k, held = rows["num_tokens"], rows["hidden_size"], rows["topk"], rows["num_experts"]
    width, copies = rows["inter_size"] / rows["moe_tp_size"], tokens * k
    product = partial(matmul, kind="grouped_gemm", read=touched, held=held, numbers=numbers)
    known = (
        elementwise("router_topk", tokens, held, 2.0 * k, 2.0),
        elementwise("experts_permute", tokens, h, k * h, numbers.input_bytes),
        elementwise("experts_activation", copies, 2.0 * width, width, 2.0),
        elementwise("expert_sum", tokens, k * h, h, 2.0),
    )
    return Samples(
        op=product("up", copies, h, 2.0 * width),
        twin=product("down", copies, width, h),
        known=known,
        seconds=rows["latency"] * 1e-3,
        shape=hashed(h, width, held),
        source="moe_perf",
        note=note,
    )
