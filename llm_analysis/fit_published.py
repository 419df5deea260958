"""Profiles of GPUs of which others have published some kernels: those fitted, the rest scaled from a relative's.

The rows are in `microbench.csv`: DeepGEMM, FlashInfer and FlashAttention-3 on an H20, matrix multiplications of PyTorch
on an MI210. The ratio of the fitted GEMM's fraction of peak to the relative's scales every kernel that is not there:
an H20 is a Hopper chip sold with a sixth of its arithmetic, so that it gets closer to what is left of the peak.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_analysis.catalog import get_gpu
from llm_analysis.fit_kernel import COMPUTE, kernels_of
from llm_analysis.fit_scaled import Scaled, numbers, scaled, times
from llm_analysis.hardware import GPU
from llm_analysis.kernel_data import LEAST_WIDTH, attention_op, matmul_format
from llm_analysis.kernel_tables import Array, Samples, Table, hashed, read_table, where
from llm_analysis.operators import matmul
from llm_analysis.profile import Profile

HEADS = re.compile(r"heads (\d+), kv heads (\d+), head_dim (\d+)")
SOURCE = "published kernel timings, {}"


@dataclass(frozen=True, slots=True)
class Published:
    """A GPU of the table, the relative that lends the rest, and the format of the table's GEMM, its name and ours.

    `relative` is the relative's GEMM to compare with, and the format that the measured one stands for besides its own.
    Where kernels were `host_timed`, the launch is the relative's.
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


SETS = (
    Published("h20-96gb", "h20-96gb", "h20-96gb", "h100-sxm-80gb", "fp8", "fp8_block", "fp8", gpu_name="h20-96gb"),
    Published("cdna2", "mi210-64gb", "mi210-64gb", "h100-sxm-80gb", "bf16/fp16", "bfloat16", "bf16", host_timed=True),
)


def published_samples(p: Published, gpu: GPU, table: Table) -> list[Samples]:
    """What the table holds of a GPU's kernels."""
    mine = where(table, table["gpu"] == p.table_name)
    found = [gemm_samples(p, gpu, mine)]
    for kind, phase in (("attention_prefill", "prefill"), ("attention_decode", "decode")):
        for cache in ("bf16", "fp8"):
            dtype = np.char.endswith(mine["dtype"].astype(str), cache if phase == "decode" else "bf16")
            rows = where(mine, (mine["kind"] == kind) & dtype)
            if len(rows["kind"]) and (cache == "bf16" or phase == "decode"):
                found.append(attention_samples(rows, gpu, phase, cache))
    return found


def gemm_samples(p: Published, gpu: GPU, mine: Table) -> Samples:
    """Matrix multiplications of usual width."""
    rows = where(mine, (mine["kind"] == "gemm") & (mine["dtype"] == p.gemm_dtype))
    m, n, k = (numbers(rows[c]) for c in ("m", "n", "k"))
    inputs: Any = k
    outputs: Any = n
    op = matmul("gemm", m, inputs, outputs, matmul_format(p.gemm_format, gpu))
    samples = Samples(op, seconds_of(rows), np.arange(len(m), dtype=float), "gemm")
    return samples.part((n >= LEAST_WIDTH) & (k >= LEAST_WIDTH))


def seconds_of(rows: Table) -> Array:
    """Measured seconds: the table's are ms or us."""
    return np.asarray(numbers(rows["value"]) * np.where(rows["unit"] == "ms", 1e-3, 1e-6))


def attention_samples(rows: Table, gpu: GPU, phase: str, cache: str) -> Samples:
    """Attention with heads as the notes say, query groups up to 16; single sequences of decode are noisy, they say."""
    heads, kv_heads, head_dim = (numbers(np.array(c)) for c in zip(*map(heads_of, rows["notes"]), strict=True))
    seen = numbers(rows["n"])
    shapes: dict[str, Any] = {"num_heads": heads, "num_key_value_heads": kv_heads, "latency": seconds_of(rows)}
    batch = np.ones(len(seen)) if phase == "prefill" else numbers(rows["m"])
    shapes |= {"batch_size": batch, "isl": seen, "step": 0.0 * seen}
    keep = (heads / kv_heads <= 16) & (head_dim == 128) & ((batch > 1) | (phase == "prefill"))
    shapes = where(shapes, keep)
    name = "bf16_kv8" if cache == "fp8" else "bf16"
    op = attention_op(shapes, phase, name, gpu, 128.0, "fp8" if cache == "fp8" else "bfloat16")
    return Samples(op, shapes["latency"], hashed(shapes["isl"], shapes["batch_size"], shapes["num_heads"]), phase)


def heads_of(note: str) -> tuple[str, ...]:
    """Heads, KV heads and head size in a note; none, as empty text."""
    match = HEADS.search(note)
    return match.groups() if match else ("", "", "")


def published_profiles(microbench: Path, bases: dict[str, Profile], date: str) -> list[Profile]:
    """All profiles of this kind."""
    table = read_table(microbench)
    return [published_profile(p, bases[p.base], table, date) for p in SETS]


def published_profile(p: Published, base: Profile, table: Table, date: str) -> Profile:
    """The relative's profile, scaled, with the fitted kernels put in its place."""
    gpu, relative = get_gpu(p.measured_on), base.kernels["gemm"][p.relative].numbers
    fixed, names = ({"launch": relative.launch}, COMPUTE[1:]) if p.host_timed else ({}, COMPUTE)
    fits = {}
    for samples in published_samples(p, gpu, table):
        entry, _ = kernels_of([samples], gpu, names, fixed)
        evidence = entry.evidence._replace(source=SOURCE.format(samples.source))
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
