"""Build the profiles of GPUs with few or no measured kernels by scaling the profile of a similar GPU.

All measurements come from `microbench.csv`.

GPUs without any measured kernel: two factors, one on `flops` and one on `memory`, scale every kernel. For A100-40GB,
V100, T4 and L4 the factors are chosen so that the profile matches published times of one Llama-2-70B layer at many
batch sizes. For MI300X they are ratios of the fractions of peak reached by the same tools on MI300X and on the similar
GPU: the best matrix multiplication (mamf-finder) and the mean of BabelStream's five bandwidths.

The decode steps of a layer read a KV cache of unknown length. The time of the weights alone is therefore extrapolated
to zero sequences with a straight line through the batches up to 16 or up to 32, whichever has the smaller standard
error (a T4 and an L4 change kernels at 17). LLaMA-30B in the same table is not used in the fit and gives similar memory
factors: 1.04 instead of 1.06 on A100-40GB, 1.06 and 1.06 on L4, 0.93 instead of 0.96 on T4, 0.91 instead of 1.06 on
V100.

GPUs with some published kernels (H20: DeepGEMM, FlashInfer, FlashAttention-3; MI210: PyTorch GEMMs): these kernels are
fitted. All others are scaled by the fitted GEMM's fraction of peak divided by that of the similar GPU. On an H20 this
ratio is above 1: the H20 is a Hopper chip with a sixth of the peak FLOP/s, so its kernels get closer to the peak.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_analysis.calibration.fitting.kernel_fit import COMPUTE, kernels_of
from llm_analysis.calibration.fitting.measured_kernels import (
    LEAST_WIDTH,
    Samples,
    Table,
    attention_op,
    hashed,
    matmul_format,
    read_table,
    where,
)
from llm_analysis.catalog import get_gpu, get_model
from llm_analysis.hardware.gpu import GPU
from llm_analysis.hardware.profiles import Kernel, Profile, kernel
from llm_analysis.hardware.roofline import cost
from llm_analysis.models.forward import layer
from llm_analysis.models.layers.base import start_pass
from llm_analysis.physics.dtypes import get_dtypes
from llm_analysis.physics.operators import Step, matmul
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.units import Array

LAYER_MODEL, LAYER_SOURCE = "llama-2-70b", "simulator/model_manager/llama2_70b"
MEMORY_BOUND, COMPUTE_BOUND = (
    (16, 32),
    1000,
)  # tokens in a pass: up to 16 or 32 it is memory-bound, from 1000 on compute-bound

MODELS = "Helix (ASPLOS 2025) artifact: one layer of Llama-2-70B under vLLM"
_BLOGS = "mamf-finder (ml-engineering) and BabelStream figures"


@dataclass(frozen=True, slots=True)
class Scaled:
    """A profile `name` scaled from the profile `base`; with `gpu_name` None it applies to the whole architecture."""

    name: str
    base: str
    measured_on: str  # name of the GPU in gpu_configs
    table_name: str  # name of the GPU in the table
    gpu_name: str | None = None


_FROM_LAYERS = (
    Scaled("a100-sxm-40gb", "a100-sxm-80gb", "a100-sxm-40gb", "a100-sxm-40gb", gpu_name="a100-sxm-40gb"),
    Scaled("volta", "a100-sxm-80gb", "v100-sxm2-16gb", "v100-sxm-16gb"),
    Scaled("turing", "a100-sxm-80gb", "t4", "t4-16gb"),
    Scaled("l4-24gb", "l40s-48gb", "l4-24gb", "l4-24gb", gpu_name="l4-24gb"),
)
_FROM_PEAKS = (Scaled("cdna", "h100-sxm-80gb", "mi300x-192gb", "mi300x-192gb"),)
_PEAK_REFERENCES = {"gemm_max_tflops": "h100-sxm-80gb", "stream_": "a100-sxm-80gb"}


def scaled_profiles(microbench: Path, bases: dict[str, Profile], date: str) -> list[Profile]:
    """Return the profiles of GPUs without any measured kernel; all their kernels are scaled."""
    table = read_table(microbench)
    made = [scaled(s, bases[s.base], *layer_factors(s, bases[s.base], table), MODELS, date) for s in _FROM_LAYERS]
    return made + [scaled(s, bases[s.base], *_peak_factors(s, bases[s.base], table), _BLOGS, date) for s in _FROM_PEAKS]


def layer_factors(s: Scaled, base: Profile, table: dict[str, Any]) -> tuple[float, float, int]:
    """Return the factors on `flops` and `memory`, each predicted / measured layer time, and the number of rows used."""
    mine = (table["gpu"] == s.table_name) & (np.char.find(table["source_ref"], LAYER_SOURCE) >= 0)
    rows, seconds = numbers(table["m"][mine]), numbers(table["value"][mine]) * 1e-3
    gpu, wide = get_gpu(s.measured_on), rows >= COMPUTE_BOUND
    decode = table["kind"][mine] == "layer_decode"
    lines = [_at_no_sequences(rows[few], seconds[few]) for few in (decode & (rows <= most) for most in MEMORY_BOUND)]
    _, weights_alone, used = min(lines)
    flops = float(np.median(layer_seconds(gpu, base, rows[wide]) / seconds[wide]))
    memory = float(layer_seconds(gpu, base, np.ones(1))[0] / weights_alone)
    return flops, memory, used + int(wide.sum())


def _at_no_sequences(rows: Array, seconds: Array) -> tuple[float, float, int]:
    """Return (standard error, seconds, number of points) of a straight line's intercept at zero sequences."""
    line, spread = np.polyfit(rows, seconds, 1, cov=True)
    return float(np.sqrt(spread[1, 1])), float(line[1]), len(rows)


def layer_seconds(gpu: GPU, base: Profile, rows: Array) -> Array:
    """Return the predicted seconds of one LAYER_MODEL layer in a decode step of `rows` sequences with `base`."""
    dtypes = get_dtypes("fp16").on(gpu.peak_flops, gpu.name)
    ops = layer(
        start_pass(get_model(LAYER_MODEL), Step(rows, 1.0, 0.0, "decode"), dtypes, Parallelism()),
        "full_attention",
        "dense",
    )
    seconds = [cost(op, gpu, kernel(base, op.kind, op.format).numbers).seconds for op in ops if op.kind in base.kernels]
    return np.asarray(sum(seconds), dtype=np.float64)


def _peak_factors(s: Scaled, base: Profile, table: dict[str, Any]) -> tuple[float, float, int]:
    """Return the factors on `flops` and `memory` and the number of rows used.

    Each factor is the fraction of peak reached on the GPU divided by that reached on the reference GPU.
    """
    found, rows = [], 0
    for kind, reference in _PEAK_REFERENCES.items():
        fractions = []
        for table_name, gpu_name in ((s.table_name, s.measured_on), (reference, reference)):
            known = np.char.startswith(table["kind"], kind) & (table["gpu"] == table_name) & (table["dtype"] != "fp8")
            gpu, reached = get_gpu(gpu_name), numbers(table["value"][known])
            peak = gpu.peak_flops["bf16"] / 1e12 if kind == "gemm_max_tflops" else gpu.memory_bandwidth / 1e9
            fractions.append(float(reached.mean()) / peak)
            rows += len(reached)
        found.append(fractions[0] / fractions[1])
    return found[0], found[1], rows


def numbers(cells: Any) -> Array:
    """Return cells as floats; an empty cell becomes nan."""
    return np.array([float(c or "nan") for c in cells]) if cells.dtype.kind == "U" else np.asarray(cells, dtype=float)


def scaled(s: Scaled, base: Profile, flops: float, memory: float, rows: int, source: str, date: str) -> Profile:
    """Return `base` with `flops` and `memory` of every kernel multiplied by the factors."""
    gpu = get_gpu(s.measured_on)
    note = f"numbers of {base.name}, flops x {flops:.2f}, memory x {memory:.2f}: fitted to {rows} rows of {source}"
    made = {k: {f: times(e, flops, memory, rows, source) for f, e in v.items()} for k, v in base.kernels.items()}
    return Profile(
        name=s.name,
        architecture=gpu.architecture,
        gpu_name=s.gpu_name,
        num_sms=base.num_sms,
        date=date,
        note=note,
        flops_per_clock=base.flops_per_clock,
        bytes_per_clock=base.bytes_per_clock,
        kernels=made,
    )


def times(entry: Kernel, flops: float, memory: float, rows: int, source: str) -> Kernel:
    """Return a kernel with its fractions of peak multiplied; its evidence has the factors' source and no errors."""
    n = entry.numbers
    update = {"flops": _at_most(n.flops * flops, n.flops), "memory": _at_most(n.memory * memory, n.memory)}
    unknown = dict.fromkeys(UNKNOWN)
    evidence = entry.evidence._replace(rows=rows, source=source, note="scaled, not measured", **unknown)
    return Kernel(numbers=n.model_copy(update=update), evidence=evidence)


def _at_most(fraction: float, unscaled: float) -> float:
    """Return a scaled fraction, limited to _BEST or to the unscaled fraction if that is higher."""
    return round(min(fraction, max(_BEST, unscaled)), 4)


_BEST = 0.95  # fraction of peak of the best measured kernels
UNKNOWN = ("median_error", "p90_error", "bias")


_HEADS = re.compile(r"heads (\d+), kv heads (\d+), head_dim (\d+)")
_SOURCE = "published kernel timings, {}"


@dataclass(frozen=True, slots=True)
class Published:
    """A GPU with some published kernels; all other kernels are scaled from the profile `base`.

    The format of the published GEMM is `gemm_dtype` in the table and `gemm_format` in measured_kernels. It is compared
    with the GEMM format `relative` of `base`, and its fitted numbers are used for `relative` as well. If the kernels
    were timed on the host (`host_timed`), the launch time is that of `base`.
    """

    name: str
    measured_on: str
    table_name: str
    base: str
    gemm_dtype: str
    gemm_format: str
    relative: str
    gpu_name: str | None = None
    host_timed: bool = False


_SETS = (
    Published("h20-96gb", "h20-96gb", "h20-96gb", "h100-sxm-80gb", "fp8", "fp8_block", "fp8", gpu_name="h20-96gb"),
    Published("cdna2", "mi210-64gb", "mi210-64gb", "h100-sxm-80gb", "bf16/fp16", "bfloat16", "bf16", host_timed=True),
)


def _published_samples(p: Published, gpu: GPU, table: Table) -> list[Samples]:
    """Return the samples of a GPU's published kernels: GEMM, prefill attention, decode attention by cache format."""
    mine = where(table, table["gpu"] == p.table_name)
    found = [_gemm_samples(p, gpu, mine)]
    for kind, phase in (("attention_prefill", "prefill"), ("attention_decode", "decode")):
        for cache in ("bf16", "fp8"):
            dtype = np.char.endswith(mine["dtype"].astype(str), cache if phase == "decode" else "bf16")
            rows = where(mine, (mine["kind"] == kind) & dtype)
            if len(rows["kind"]) and (cache == "bf16" or phase == "decode"):
                found.append(_attention_samples(rows, gpu, phase, cache))
    return found


def _gemm_samples(p: Published, gpu: GPU, mine: Table) -> Samples:
    """Return the GEMM samples with k and n of at least LEAST_WIDTH."""
    rows = where(mine, (mine["kind"] == "gemm") & (mine["dtype"] == p.gemm_dtype))
    m, n, k = (numbers(rows[c]) for c in ("m", "n", "k"))
    inputs: Any = k
    outputs: Any = n
    op = matmul("gemm", m, inputs, outputs, matmul_format(p.gemm_format, gpu))
    samples = Samples(op, seconds_of(rows), np.arange(len(m), dtype=float), "gemm")
    return samples.part((n >= LEAST_WIDTH) & (k >= LEAST_WIDTH))


def seconds_of(rows: Table) -> Array:
    """Return the measured times, in ms or us in the table, in seconds."""
    return np.asarray(numbers(rows["value"]) * np.where(rows["unit"] == "ms", 1e-3, 1e-6))


def _attention_samples(rows: Table, gpu: GPU, phase: str, cache: str) -> Samples:
    """Return the attention samples with head size 128 and at most 16 query heads per KV head.

    Decode of one sequence is left out because its times are noisy.
    """
    heads, kv_heads, head_dim = (numbers(np.array(c)) for c in zip(*map(_heads_of, rows["notes"]), strict=True))
    seen = numbers(rows["n"])
    shapes: dict[str, Any] = {"num_heads": heads, "num_key_value_heads": kv_heads, "latency": seconds_of(rows)}
    batch = np.ones(len(seen)) if phase == "prefill" else numbers(rows["m"])
    shapes |= {"batch_size": batch, "isl": seen, "step": 0.0 * seen}
    keep = (heads / kv_heads <= 16) & (head_dim == 128) & ((batch > 1) | (phase == "prefill"))
    shapes = where(shapes, keep)
    name = "bf16_kv8" if cache == "fp8" else "bf16"
    op = attention_op(shapes, phase, name, gpu, 128.0, "fp8" if cache == "fp8" else "bfloat16")
    return Samples(op, shapes["latency"], hashed(shapes["isl"], shapes["batch_size"], shapes["num_heads"]), phase)


def _heads_of(note: str) -> tuple[str, ...]:
    """Return the heads, KV heads and head size written in a note, as text; empty strings if there are none."""
    match = _HEADS.search(note)
    return match.groups() if match else ("", "", "")


def published_profiles(microbench: Path, bases: dict[str, Profile], date: str) -> list[Profile]:
    """Return the profiles of the GPUs with some published kernels."""
    table = read_table(microbench)
    return [_published_profile(p, bases[p.base], table, date) for p in _SETS]


def _published_profile(p: Published, base: Profile, table: Table, date: str) -> Profile:
    """Return the scaled profile of `base` with the fitted kernels in place of scaled ones."""
    gpu, relative = get_gpu(p.measured_on), base.kernels["gemm"][p.relative].numbers
    fixed, names = ({"launch": relative.launch}, COMPUTE[1:]) if p.host_timed else ({}, COMPUTE)
    fits = {}
    for samples in _published_samples(p, gpu, table):
        entry, _ = kernels_of([samples], gpu, names, fixed)
        evidence = entry.evidence._replace(source=_SOURCE.format(samples.source))
        fits[samples.op.kind, samples.op.format] = entry._replace(evidence=evidence)
    (gemm,) = (entry for (kind, _), entry in fits.items() if kind == "gemm")
    flops = gemm.numbers.flops / relative.flops
    where_from = Scaled(p.name, p.base, p.measured_on, p.table_name, p.gpu_name)
    profile = scaled(where_from, base, flops, 1.0, gemm.evidence.rows, "published GEMM timings", date)
    for kind in ("gemm", "grouped_gemm"):
        memory = min(gemm.numbers.memory / relative.memory, 1.0)
        rest = {f: times(e, 1.0, memory, e.evidence.rows, e.evidence.source) for f, e in profile.kernels[kind].items()}
        profile.kernels[kind] |= rest
    for (kind, format), entry in fits.items():
        profile.kernels[kind][format] = entry
    profile.kernels["gemm"][p.relative] = gemm
    return profile._replace(note=f"{len(fits)} kernels fitted; the rest {profile.note}")
