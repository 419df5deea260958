"""Read tables of measured kernels into operators (with arrays of sizes) and the seconds of each row.

The folder has one sub-folder per GPU with gzipped CSV files, as published in aiconfigurator-core (NVIDIA, Apache-2.0):
milliseconds of one kernel in a CUDA graph. The operators are built by `physics.operators`, so a fit counts the same
FLOP and bytes as an estimate.

The experts of an MoE layer were measured as one block: router, permutation, up and gate, activation, down, weighted
sum. The number of experts that a row reads depends on the distribution of its tokens. `balanced` assigns tokens to
experts in turn, so r tokens with k experts each reach min(r k, E) of E experts; random routing reaches about 63 % of
that at r k = E. Rows with power-law routing are used only where the distribution hardly matters.
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
from llm_analysis.physics.attention import attention
from llm_analysis.physics.collectives import all_reduce, collective
from llm_analysis.physics.dtypes import get_dtypes
from llm_analysis.physics.operators import MatmulFormat, Op, Step, elementwise, matmul
from llm_analysis.units import Array, Quantity

Mask = NDArray[np.bool_]
Table = dict[str, Any]  # column name -> array of numbers or of text


@dataclass(frozen=True, slots=True)
class Samples:
    """Operators of one kind, format and rate, as arrays, with their measured seconds.

    The seconds may include other kernels: `twin` has the same numbers as `op`; `before` quantizes the input, and its
    numbers are fitted too; those of `known` have fixed numbers.
    """

    op: Op
    seconds: Array
    shape: Array  # rows with the same value go to the same fold
    source: str
    note: str = ""
    twin: Op | None = None
    before: Op | None = None
    known: tuple[Op, ...] = ()

    def part(self, keep: Mask) -> Samples:
        """Return the samples with only the rows that `keep` marks."""
        twin, before = (None if op is None else _rows_of(op, keep) for op in (self.twin, self.before))
        op, known = _rows_of(self.op, keep), tuple(_rows_of(op, keep) for op in self.known)
        seconds, shape = self.seconds[keep], self.shape[keep]
        return replace(self, op=op, twin=twin, before=before, known=known, seconds=seconds, shape=shape)


def read_table(path: Path) -> Table:
    """Return the columns of a CSV file, gzipped or not: arrays of float64 if all cells are numbers, else of text."""
    reading = gzip.open if path.suffix == ".gz" else open
    with reading(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return {name: column(cells) for name, cells in zip(rows[0], zip(*rows[1:], strict=True), strict=True)}


def column(cells: tuple[str, ...]) -> NDArray[Any]:
    """Return the cells as numbers if all of them are, else as text."""
    try:
        return np.array(cells, dtype=np.float64)
    except ValueError:
        return np.array(cells)


def where(table: Table, keep: Mask) -> Table:
    """Return the rows of a table that `keep` marks."""
    return {name: values[keep] for name, values in table.items()}


def hashed(*columns: Array) -> Array:
    """Return one number per row, equal for rows with equal columns: a golden-ratio hash."""
    mixed = sum(np.log2(values + 1.0) * factor for values, factor in zip(columns, (1.0, 7.3, 31.7, 97.1), strict=False))
    return np.floor((np.asarray(mixed) * 1e3 * 0.6180339887498949) % 1.0 * 1e6)


def _rows_of(op: Op, keep: Mask) -> Op:
    """Return an operator with only the rows that `keep` marks."""
    values: dict[str, Any] = {k: v[keep] if isinstance(v, np.ndarray) else v for k, v in op._asdict().items()}
    return Op(**values)


# Folder name -> the GPU it was measured on.
SYSTEMS = {
    "a100_sxm": "a100-sxm-80gb",
    "h100_sxm": "h100-sxm-80gb",
    "b200_sxm": "b200-sxm",
    "l40s": "l40s-48gb",
}

# Format in the tables -> name in physics/dtypes.py. `fp8_block` has one scale per 128 x 128 weights.
DTYPE_NAMES = {
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "nvfp4": "nvfp4",
    "int8_wo": "w8a16",
    "int4_wo": "w4a16",
    "sq": "int8",
}

_QUANTISED_APART = ("fp8", "fp8_block", "nvfp4")  # measured together with the kernel that quantizes their inputs
LEAST_WIDTH = 512  # models have no smaller matrices

# A repeated kernel finds small data in L2; in a model the data comes from memory. Only on an L40S (96 MB of L2,
# 864 GB/s of GDDR6) is this faster than the memory's peak, so such rows say nothing about memory there.
_LARGE_L2_PER_BANDWIDTH = 96e6 / 864e9


def matmul_format(name: str, gpu: GPU) -> MatmulFormat:
    """Return how a GPU multiplies the format `name` of the tables."""
    linear = get_dtypes(DTYPE_NAMES[name]).on(gpu.peak_flops, gpu.name).linear
    return linear._replace(format=name) if name == "fp8_block" else linear


def _served_by_l2(gpu: GPU, op: Op) -> Mask:
    """Mark memory-bound rows that fit into L2, on GPUs with an L2 much faster than the memory."""
    l2 = gpu.l2_bytes or 0.0
    if l2 / gpu.memory_bandwidth < _LARGE_L2_PER_BANDWIDTH * 0.99:
        return np.zeros(np.shape(op.bytes), dtype=bool)
    bound = op.bytes / gpu.memory_bandwidth > op.flops / gpu.peak_flops[op.rate]
    return np.asarray((op.bytes < 1.25 * l2) & bound & (op.bytes > 0.02 * l2))


def gemms(folder: Path, gpu: GPU) -> Iterator[Samples]:
    """Yield the matrix multiplications of each format: m tokens, k inputs, n outputs."""
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
            before=quantize(rows["m"], rows["k"], numbers) if name in _QUANTISED_APART else None,
        )
        yield _from_memory(gpu, samples)


def quantize(rows: Any, width: Any, numbers: MatmulFormat) -> Op:
    """Return the kernel that reads inputs of a matrix multiplication in 16 bits and writes them in its format."""
    return elementwise("quantize", rows, 2.0 * width, numbers.input_bytes * width, 1.0, kind="quantize")


def _from_memory(gpu: GPU, samples: Samples) -> Samples:
    """Return the samples without the rows that L2 served, and a note with their number."""
    aside = _served_by_l2(gpu, samples.op)
    if not aside.any():
        return samples
    note = f"{int(aside.sum())} rows set aside: served by L2"
    return replace(samples.part(~aside), note="; ".join(t for t in (samples.note, note) if t))


_ATTENTION_FORMATS = {("bfloat16", "bfloat16"): "bf16", ("bfloat16", "fp8"): "bf16_kv8", ("fp8", "fp8"): "fp8"}
_MAIN_HEAD_DIM = 128
_PAGE = 64  # tokens; a cache is read in whole pages, so all shorter prompts and contexts take the same time


def attentions(folder: Path, gpu: GPU, phase: str) -> Iterator[Samples]:
    """Yield attention by math format, cache format and head size: bf16, bf16_kv8, fp8, bf16_d64, ..."""
    source = "context_attention_perf" if phase == "prefill" else "generation_attention_perf"
    table = read_table(folder / f"{source}.csv.gz")
    table = where(table, (table["window_size"] == 0) & (table["kernel_source"] == "torch_flow"))
    for (math, cache), name in _ATTENTION_FORMATS.items():
        for head_dim in sorted(set(table["head_dim"])):
            same = (table["attn_dtype"] == math) & (table["kv_cache_dtype"] == cache) & (table["head_dim"] == head_dim)
            suffix = "" if head_dim == _MAIN_HEAD_DIM else f"_d{head_dim:g}"
            rows = where(table, same & _believable(table, gpu, phase))
            if len(rows["latency"]):
                op = attention_op(rows, phase, name + suffix, gpu, head_dim, cache)
                note = _ATTENTION_NOTES.get((gpu.name, phase), "")
                samples = Samples(op, rows["latency"] * 1e-3, _attention_shape(rows), source, note)
                yield _from_memory(gpu, samples)


_ATTENTION_NOTES = {
    ("a100-sxm-80gb", "decode"): "multi-head rows from 512 cached tokens alone: in the others the cache was read at up "
    "to 1.65 times the bandwidth of the memory, which it cannot have come from",
}


def _believable(table: Table, gpu: GPU, phase: str) -> Mask:
    """Mark the rows with shapes of real models: up to 16 query heads per KV head, at least one page of tokens."""
    heads, kv_heads = table["num_heads"], _kv_heads_of(table)
    if phase == "prefill":
        return np.asarray(table["isl"] >= _PAGE)
    cached = table["isl"] + table["step"]
    usual = (heads / kv_heads <= 16) & (cached >= _PAGE)
    if gpu.name == "a100-sxm-80gb":
        usual &= (heads == kv_heads) & (cached >= 512)
    return np.asarray(usual)


def _kv_heads_of(table: Table) -> Array:
    """Return the number of KV heads; the tables write 0 for multi-head attention."""
    given: Array = table["num_key_value_heads"]
    return np.where(given > 0, given, table["num_heads"]).astype(np.float64)


def _attention_shape(rows: Table) -> Array:
    """Return the number that rows of attention with equal sizes share."""
    return hashed(rows["batch_size"], rows["isl"] + rows["step"], rows["num_heads"], _kv_heads_of(rows))


def attention_op(rows: Table, phase: str, name: str, gpu: GPU, head_dim: float, cache: str) -> Op:
    """Return causal attention over the prompt, or of one new token over isl + step tokens."""
    rate = "fp8" if name.startswith("fp8") else "bf16"
    seen = rows["isl"] + rows["step"]
    prompt = Step(rows["batch_size"], rows["isl"])
    step = prompt if phase == "prefill" else Step(rows["batch_size"], 1.0, seen - 1, phase)
    kv_heads: Any = _kv_heads_of(rows)
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


# Multi-head latent attention of DeepSeek: 512 latent and 64 rotary elements per token, key heads of 128 + 64 elements,
# value heads of 128.
LATENT, ROTARY, KEY, VALUE = 512.0, 64.0, 192.0, 128.0


def latent_attentions(folder: Path, gpu: GPU, phase: str) -> Iterator[Samples]:
    """Yield multi-head latent attention: expanded keys and values in prefill, absorbed ones in decode."""
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


COLLECTIVES = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
}


def collectives(folder: Path, algorithm: str) -> Iterator[tuple[int, Samples]]:
    """Yield the collectives of NCCL, or the engine's own all-reduce, with the number of GPUs: 2, 4 or 8."""
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
                op = _collective_op(kind, message, group)
                yield group, Samples(op, rows["latency"] * 1e-3, np.log2(message), source)


def _collective_op(kind: str, message: Any, group: int) -> Op:
    """Return a collective; `message` is the size in bytes of the whole tensor."""
    if kind == "all_reduce":
        return all_reduce(kind, message, group, node=group)[0]
    return collective(kind, kind, message * (group - 1) / group, group)[0]


# microsoft/vidur (MIT): the kernels of one layer of vLLM on three GPUs. Column of the table -> kind of operator.
_VIDUR = {"a100-sxm-80gb": "a100", "h100-sxm-80gb": "h100", "a40-48gb": "a40"}
_ELEMENTWISE = {
    "input_layernorm": "elementwise",
    "attn_rope": "rotary",
    "mlp_act": "elementwise",
    "post_attention_layernorm": "elementwise",
    "add": "residual",
    "emb": "embedding",
}


def elementwises(vidur: Path, gpu: GPU) -> Iterator[Samples]:
    """Yield norms, rotary embeddings and activations; residual additions; embedding look-ups."""
    paths = sorted((vidur / _VIDUR.get(gpu.name, "none")).glob("*/*/mlp.csv*"))
    tables = [read_table(path) for path in paths]
    for kind in dict.fromkeys(_ELEMENTWISE.values()) if tables else ():
        parts = [
            moved for t in tables for name, of in _ELEMENTWISE.items() if of == kind for moved in [_pass_of(t, name)]
        ]
        moved, seconds = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        op = Op(name=kind, kind=kind, activation_bytes=moved)
        yield Samples(op, seconds, hashed(moved), "vidur, mlp.csv")


def _pass_of(table: Table, name: str) -> tuple[Array, Array]:
    """Return the bytes that an elementwise kernel moves and its seconds, for the rows in which it was measured."""
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
_SKEWED = "rows that memory binds: tokens were spread over the experts by a power law, which tells nothing of compute"

# nvfp4 was measured with two kernels. Engines run the one for few tokens, which is two to four times as fast. Its rows
# with several experts per token are faster than the memory allows, so fewer experts were read than stated. Rows with
# one expert per token, or with one token, do not have this problem.
_FASTEST = {"nvfp4": "moe_torch_flow_min_latency"}
_FASTEST_NOTE = "the kernel for few tokens; rows of one token, of one expert a token, or of many tokens"
_LEAST_EXPERT_WIDTH = 128  # of the part of an expert on one GPU: models are not split further
_MANY_TOKENS = 8192  # all experts are read, and their weights hardly matter


def grouped_gemms(folder: Path, gpu: GPU) -> Iterator[Samples]:
    """Yield gated experts, all on one GPU, by format."""
    path = folder / "moe_perf.csv.gz"
    table = read_table(path) if path.is_file() else {"moe_dtype": np.array([])}
    for name in sorted(set(table["moe_dtype"])):
        kernels = (_FASTEST[name],) if name in _FASTEST else GATED
        wide = table["inter_size"] >= _LEAST_EXPERT_WIDTH * table["moe_tp_size"]
        same = (table["moe_dtype"] == name) & np.isin(table["kernel_source"], kernels)
        rows = where(table, same & wide & (table["moe_ep_size"] == 1))
        even = rows["distribution"] == "balanced"
        yield _even_routing(where(rows, even), name, gpu) if even.any() else _power_law_routing(rows, name, gpu)


def _even_routing(rows: Table, name: str, gpu: GPU) -> Samples:
    """Return the rows with tokens assigned to experts in turn."""
    tokens, k = rows["num_tokens"], rows["topk"]
    note = ""
    if name in _FASTEST:
        rows, note = where(rows, (tokens == 1) | (k == 1) | (tokens >= _MANY_TOKENS)), _FASTEST_NOTE
    touched = np.minimum(rows["num_tokens"] * rows["topk"], rows["num_experts"])
    return experts(rows, matmul_format(name, gpu), touched, note)


def _power_law_routing(rows: Table, name: str, gpu: GPU) -> Samples:
    """Return the power-law rows with one token, or with enough tokens to reach nearly all experts in any case."""
    tokens, held = rows["num_tokens"], rows["num_experts"]
    rows = where(rows, (tokens == 1) | (tokens * rows["topk"] >= 2 * held))
    touched = distinct_experts(rows["num_tokens"], rows["num_experts"], rows["topk"])
    samples = experts(rows, matmul_format(name, gpu), touched, _SKEWED)
    return samples.part(_memory_bound(samples.op, gpu))


def _memory_bound(op: Op, gpu: GPU) -> Mask:
    """Mark the rows that take three times as long for their bytes as for their FLOP, at the peaks."""
    return np.asarray(op.bytes / gpu.memory_bandwidth > 3 * op.flops / gpu.peak_flops[op.rate])


def experts(rows: Table, numbers: MatmulFormat, touched: Quantity, note: str) -> Samples:
    """Return all kernels of the measured block, counted as in models/layers/feed_forward.py."""
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
