"""Measured experts of mixtures, read into operators: router's choice, up and gate, activation, down, weighted sum.

How many experts a row of the table reads depends on how its tokens were spread. `balanced` deals them out one by one,
so that r tokens of k experts each reach min(r k, E) of the E: twice what even but random choices reach where r k = E.
A power law's tokens are only used where hardly anything depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from llm_analysis.feed_forward import distinct_experts, grouped_matmul
from llm_analysis.hardware import GPU
from llm_analysis.kernel_data import matmul_format
from llm_analysis.kernel_tables import Mask, Samples, Table, hashed, read_table, where
from llm_analysis.operators import MatmulFormat, Op, elementwise
from llm_analysis.units import Quantity

GATED = ("moe_torch_flow", "moe_torch_flow_cutlass", "deepgemm")
SKEWED = "rows that memory binds: tokens were spread over the experts by a power law, which tells nothing of compute"

# nvfp4 was measured with two kernels; engines run the one made for few tokens, two to four times as fast. Where a token
# had several experts its rows are faster than memory delivers that many: they were routed to fewer. One expert a token
# or one token in all is beyond doubt.
FASTEST = {"nvfp4": "moe_torch_flow_min_latency"}
FASTEST_NOTE = "the kernel for few tokens; rows of one token, of one expert a token, or of many tokens"
LEAST_WIDTH = 128  # of one GPU's part of an expert: models are not cut finer
MANY_TOKENS = 8192  # all experts are read, and their weights hardly matter


def grouped_gemms(folder: Path, gpu: GPU) -> Iterator[Samples]:
    """Gated experts, all on one GPU, by format."""
    path = folder / "moe_perf.csv.gz"
    table = read_table(path) if path.is_file() else {"moe_dtype": np.array([])}
    for name in sorted(set(table["moe_dtype"])):
        kernels = (FASTEST[name],) if name in FASTEST else GATED
        wide = table["inter_size"] >= LEAST_WIDTH * table["moe_tp_size"]
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
    product = partial(grouped_matmul, touched=touched, held=held, numbers=numbers)
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
