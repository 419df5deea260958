"""Read tables of measured kernels into operators (with arrays of sizes) and the seconds of each row.

The folder has one sub-folder per GPU with gzipped CSV files, as published in aiconfigurator-core (NVIDIA, Apache-2.0):
milliseconds of one kernel in a CUDA graph. `physics.operators` builds the operators, so that a fit counts the same FLOP
and bytes as an estimate.

The experts of an MoE layer were measured as one block: router, permutation, up and gate, activation, down, weighted
sum. The number of experts read depends on the routing. `balanced` routing assigns tokens to experts in turn, so r
tokens with k experts each read min(r k, E) of E experts; random routing reads about 63 % of that at r k = E. Rows with
power-law routing are used only where the routing hardly changes the time.
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
from llm_analysis.models.layers.feed_forward import AROUND_EXPERTS, distinct_experts
from llm_analysis.physics.attention import attention
from llm_analysis.physics.collectives import all_reduce, collective
from llm_analysis.physics.dtypes import get_dtypes
from llm_analysis.physics.operators import MatmulFormat, Op, Step, elementwise, matmul
from llm_analysis.units import Array, Quantity

Mask = NDArray[np.bool_]
Table = dict[str, Any]  # column name -> array of float64 or of text


@dataclass(frozen=True, slots=True)
class Samples:
    """Operators of one kind, format and rate, as arrays, with their measured seconds.

    The seconds may include other kernels: `twin` has the same efficiency as `op`; those in `along` (which quantize the
    input, or prepare and add the rows of experts) have a fitted efficiency of their own, the same for all; those in
    `known` have fixed efficiencies.
    """

    op: Op
    seconds: Array
    shape: Array  # rows with the same value go to the same fold
    source: str
    note: str = ""
    twin: Op | None = None
    along: tuple[Op, ...] = ()
    known: tuple[Op, ...] = ()

    def part(self, keep: Mask) -> Samples:
        """Return the samples of the rows where `keep` is true."""
        op, twin = _rows_of(self.op, keep), None if self.twin is None else _rows_of(self.twin, keep)
        along, known = (tuple(_rows_of(op, keep) for op in ops) for ops in (self.along, self.known))
        seconds, shape = self.seconds[keep], self.shape[keep]
        return replace(self, op=op, twin=twin, along=along, known=known, seconds=seconds, shape=shape)


def read_table(path: Path) -> Table:
    """Return the columns of a CSV file (plain or gzipped): float64 if all cells are numbers, else text."""
    reading = gzip.open if path.suffix == ".gz" else open
    with reading(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return {name: column(cells) for name, cells in zip(rows[0], zip(*rows[1:], strict=True), strict=True)}


def column(cells: tuple[str, ...]) -> NDArray[Any]:
    """Return the cells as an array of float64 if all are numbers, else of text."""
    try:
        return np.array(cells, dtype=np.float64)
    except ValueError:
        return np.array(cells)


def where(table: Table, keep: Mask) -> Table:
    """Return the rows of a table where `keep` is true."""
    return {name: values[keep] for name, values in table.items()}


def hashed(*columns: Array) -> Array:
    """Return a hash of the columns (golden-ratio method): rows with equal values get the same number."""
    mixed = sum(np.log2(values + 1.0) * factor for values, factor in zip(columns, (1.0, 7.3, 31.7, 97.1), strict=False))
    return np.floor((np.asarray(mixed) * 1e3 * 0.6180339887498949) % 1.0 * 1e6)


def _rows_of(op: Op, keep: Mask) -> Op:
    """Return an operator with only the elements of its arrays where `keep` is true."""
    values: dict[str, Any] = {k: v[keep] if isinstance(v, np.ndarray) else v for k, v in op._asdict().items()}
    return Op(**values)


# Folder name -> name of the measured GPU.
SYSTEMS = {
    "a100_sxm": "a100-sxm-80gb",
    "h100_sxm": "h100-sxm-80gb",
    "b200_sxm": "b200-sxm",
    "l40s": "l40s-48gb",
}

# Format name in the tables -> name in physics/dtypes.py. `fp8_block` has one scale per block of 128 x 128 weights.
DTYPE_NAMES = {
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "nvfp4": "nvfp4",
    "int8_wo": "w8a16",
    "int4_wo": "w4a16",
    "sq": "int8",
}

_QUANTISED_APART = ("fp8", "fp8_block", "nvfp4")  # the measured time includes quantizing the inputs
LEAST_WIDTH = 512  # of k and n; matrices of models are at least this wide

# A benchmark repeats one kernel, so small matrices stay in L2; in a model they are read from HBM or GDDR. On an L40S
# (96 MB of L2, 864 GB/s of GDDR6) such rows are faster than the peak memory bandwidth, so they are left out of the fit.
# The ratio of L2 size to memory bandwidth (bytes over bytes/s) selects the GPUs where this matters.
_LARGE_L2_PER_BANDWIDTH = 96e6 / 864e9


def matmul_format(name: str, gpu: GPU) -> MatmulFormat:
    """Return the rate and byte sizes with which a GPU multiplies matrices in the tables' format `name`."""
    linear = get_dtypes(DTYPE_NAMES[name]).on(gpu.peak_flops, gpu.name).linear
    return linear._replace(format=name) if name == "fp8_block" else linear


def _served_by_l2(gpu: GPU, op: Op) -> Mask:
    """Return a mask of the memory-bound rows with data that fits into L2; all false on GPUs with a small L2."""
    l2 = gpu.l2_bytes or 0.0
    if l2 / gpu.memory_bandwidth < _LARGE_L2_PER_BANDWIDTH * 0.99:
        return np.zeros(np.shape(op.bytes), dtype=bool)
    bound = op.bytes / gpu.memory_bandwidth > op.flops / gpu.peak_flops[op.rate]
    return np.asarray((op.bytes < 1.25 * l2) & bound & (op.bytes > 0.02 * l2))


def gemms(folder: Path, gpu: GPU) -> Iterator[Samples]:
    """Yield the GEMM samples of each format: m tokens, k inputs, n outputs."""
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
            along=(quantize(rows["m"], rows["k"], numbers),) if name in _QUANTISED_APART else (),
        )
        yield _from_memory(gpu, samples)


def quantize(rows: Any, width: Any, numbers: MatmulFormat) -> Op:
    """Return the kernel that quantizes GEMM inputs: reads 16-bit elements, writes elements of the GEMM's format."""
    return elementwise("quantize", rows, 2.0 * width, numbers.input_bytes * width, 1.0, kind="quantize")


def _from_memory(gpu: GPU, samples: Samples) -> Samples:
    """Return the samples without the rows read from L2; the note says how many were left out."""
    aside = _served_by_l2(gpu, samples.op)
    if not aside.any():
        return samples
    note = f"{int(aside.sum())} rows left out: the cache was read from L2"
    return replace(samples.part(~aside), note="; ".join(t for t in (samples.note, note) if t))


_ATTENTION_FORMATS = {("bfloat16", "bfloat16"): "bf16", ("bfloat16", "fp8"): "bf16_kv8", ("fp8", "fp8"): "fp8"}
_MAIN_HEAD_DIM = 128
_PAGE = 64  # tokens; the KV cache is read in whole pages, so all contexts shorter than a page take the same time


def attentions(folder: Path, gpu: GPU, phase: str) -> Iterator[Samples]:
    """Yield attention samples by math format, cache format and head size: bf16, bf16_kv8, fp8, bf16_d64, ..."""
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
    ("a100-sxm-80gb", "decode"): "only multi-head rows from 512 cached tokens: the others read the cache at up "
    "to 1.65 times the memory bandwidth, so it was in L2",
}


def _believable(table: Table, gpu: GPU, phase: str) -> Mask:
    """Return a mask of the attention rows to fit.

    Prefill: at least one page of tokens. Decode: also at most 16 query heads per KV head, as in real models. On the
    A100 only multi-head decode from 512 cached tokens on is used; _ATTENTION_NOTES has the reason.
    """
    heads, kv_heads = table["num_heads"], _kv_heads_of(table)
    if phase == "prefill":
        return np.asarray(table["isl"] >= _PAGE)
    cached = table["isl"] + table["step"]
    usual = (heads / kv_heads <= 16) & (cached >= _PAGE)
    if gpu.name == "a100-sxm-80gb":
        usual &= (heads == kv_heads) & (cached >= 512)
    return np.asarray(usual)


def _kv_heads_of(table: Table) -> Array:
    """Return the number of KV heads of each row; in the tables 0 means multi-head attention."""
    given: Array = table["num_key_value_heads"]
    return np.where(given > 0, given, table["num_heads"]).astype(np.float64)


def _attention_shape(rows: Table) -> Array:
    """Return a hash of batch, context, heads and KV heads; rows with equal sizes go to the same fold."""
    return hashed(rows["batch_size"], rows["isl"] + rows["step"], rows["num_heads"], _kv_heads_of(rows))


def attention_op(rows: Table, phase: str, name: str, gpu: GPU, head_dim: float, cache: str) -> Op:
    """Return causal attention over a prompt of isl tokens (prefill), or of one new token over isl + step (decode)."""
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


# Multi-head latent attention (MLA) of DeepSeek, in elements: 512 latent and 64 rotary per token, 128 + 64 per key head,
# 128 per value head.
LATENT, ROTARY, KEY, VALUE = 512.0, 64.0, 192.0, 128.0


def latent_attentions(folder: Path, gpu: GPU, phase: str) -> Iterator[Samples]:
    """Yield the MLA samples by cache format: keys and values are expanded in prefill, absorbed in decode."""
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
    """Yield (number of GPUs, samples) of NCCL's collectives or of an engine's all-reduce, for 2, 4 and 8 GPUs."""
    source = "nccl_perf" if algorithm == "nccl" else "custom_allreduce_perf"
    table = read_table(folder / f"{source}.csv.gz")
    if algorithm == "nccl":
        table = where(table, table["nccl_dtype"] == "half")
    kinds = table.get("op_name", np.full(len(table["latency"]), "all_reduce"))
    for theirs, kind in COLLECTIVES.items():
        for group in (2, 4, 8):
            rows = where(table, (kinds == theirs) & (table["num_gpus"] == group))
            message = rows["message_size"] * 2.0  # from elements of 16 bits to bytes
            if len(message):
                op = _collective_op(kind, message, group)
                yield group, Samples(op, rows["latency"] * 1e-3, np.log2(message), source)


def _collective_op(kind: str, message: Any, group: int) -> Op:
    """Return a collective over `group` GPUs; `message` is the size of the whole tensor in bytes."""
    if kind == "all_reduce":
        return all_reduce(kind, message, group, node=group)[0]
    return collective(kind, kind, message * (group - 1) / group, group)[0]


# microsoft/vidur (MIT): profiled kernels of one vLLM layer on three GPUs.
_VIDUR = {"a100-sxm-80gb": "a100", "h100-sxm-80gb": "h100", "a40-48gb": "a40"}
# Column of vidur's table -> kind of operator.
_ELEMENTWISE = {
    "input_layernorm": "elementwise",
    "attn_rope": "rotary",
    "mlp_act": "elementwise",
    "post_attention_layernorm": "elementwise",
    "add": "residual",
    "emb": "embedding",
}


def elementwises(vidur: Path, gpu: GPU) -> Iterator[Samples]:
    """Yield the samples of each kind in _ELEMENTWISE: norms and activations, rotary embedding, residual, embedding."""
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
    """Return the bytes read and written by an elementwise kernel and its seconds, in the rows with a time for it."""
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
_SKEWED = "memory-bound rows only: the routing was skewed, so the compute fraction was not measured"

# nvfp4 was measured with two kernels. Engines run the low-latency kernel, which is two to four times as fast. Its rows
# with several experts per token are faster than the memory bandwidth allows, so they read fewer experts than the table
# says and are left out. Rows with one token, or with one expert per token, are within the bandwidth. With _MANY_TOKENS
# or more, all experts are read, and reading them is a small part of the time.
_FASTEST = {"nvfp4": "moe_torch_flow_min_latency"}
_FASTEST_NOTE = "the kernel for few tokens; fitted to rows of one token, of one expert per token, and of many tokens"
_LEAST_EXPERT_WIDTH = 128  # of an expert's slice on one GPU; experts are not split into narrower slices
_MANY_TOKENS = 8192


def grouped_gemms(folder: Path, gpu: GPU) -> Iterator[Samples]:
    """Yield the samples of gated experts by format, without expert parallelism (all experts on each GPU)."""
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
    """Return the samples of rows with `balanced` routing."""
    tokens, k = rows["num_tokens"], rows["topk"]
    note = ""
    if name in _FASTEST:
        rows, note = where(rows, (tokens == 1) | (k == 1) | (tokens >= _MANY_TOKENS)), _FASTEST_NOTE
    touched = np.minimum(rows["num_tokens"] * rows["topk"], rows["num_experts"])
    return experts(rows, matmul_format(name, gpu), touched, note)


def _power_law_routing(rows: Table, name: str, gpu: GPU) -> Samples:
    """Return the memory-bound samples of power-law rows with one token, or with at least two copies per expert.

    In these rows the number of experts read hardly depends on the routing. Rows bound by compute are left out, because
    power-law routing overloads one expert.
    """
    tokens, held = rows["num_tokens"], rows["num_experts"]
    rows = where(rows, (tokens == 1) | (tokens * rows["topk"] >= 2 * held))
    touched = distinct_experts(rows["num_tokens"], rows["num_experts"], rows["topk"])
    samples = experts(rows, matmul_format(name, gpu), touched, _SKEWED)
    return samples.part(_memory_bound(samples.op, gpu))


def _memory_bound(op: Op, gpu: GPU) -> Mask:
    """Return a mask of the rows with bytes / bandwidth > 3 FLOP / rate, both at the datasheet's peaks."""
    return np.asarray(op.bytes / gpu.memory_bandwidth > 3 * op.flops / gpu.peak_flops[op.rate])


def experts(rows: Table, numbers: MatmulFormat, touched: Quantity, note: str) -> Samples:
    """Return the samples of the measured MoE block, with FLOP and bytes as in models/layers/feed_forward.py."""
    tokens, h, k, held = rows["num_tokens"], rows["hidden_size"], rows["topk"], rows["num_experts"]
    width, copies = rows["inter_size"] / rows["moe_tp_size"], tokens * k
    product = partial(matmul, kind="grouped_gemm", read=touched, held=held, numbers=numbers)
    around = partial(elementwise, kind=AROUND_EXPERTS, format=numbers.format)
    along = (
        around("experts_permute", tokens, h, k * h, numbers.input_bytes),
        around("experts_activation", copies, 2.0 * width, width, 2.0),
        around("expert_sum", tokens, k * h, h, 2.0),
    )
    return Samples(
        op=product("up", copies, h, 2.0 * width),
        twin=product("down", copies, width, h),
        along=along,
        known=(elementwise("router_topk", tokens, held, 2.0 * k, 2.0),),
        seconds=rows["latency"] * 1e-3,
        shape=hashed(h, width, held),
        source="moe_perf",
        note=note,
    )
