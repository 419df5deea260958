"""The answer as text: tables, markdown, CSV, JSON. The only room where seconds become ms and bytes GB (1e9)."""

from __future__ import annotations

import json
from math import isfinite

from llm_analysis.errors import BadValue
from llm_analysis.inference.estimate import Estimate, OperatorTime
from llm_analysis.report.tables import csv_of, gigabytes, rate, scaled, seconds, table


def rendered(estimate: Estimate, style: str) -> str:
    """The whole answer in one of `FORMATS`."""
    if style == "json":
        return json.dumps(estimate.as_dict(), indent=2, allow_nan=False)
    if style == "csv":
        return as_csv(estimate)
    parts = [heading(estimate), summary(estimate, style), memory_table(estimate, style)]
    parts += [operator_table(estimate, phase, style) for phase in ("prefill", "decode")]
    parts += [f"note: {note}" for note in estimate.notes]
    return "\n\n".join(parts)


def check_finite(e: Estimate) -> None:
    """Raises BadValue for an answer that holds an infinity, which neither a person nor JSON can use.

    Sums of positive terms: where they are finite, so is each operator's share.
    """
    values = e._asdict()
    wrong = next((name for name, value in values.items() if isinstance(value, float) and not isfinite(value)), None)
    if wrong:
        raise BadValue(f"{wrong} comes out as no finite number: some value asked for is far too large or too small")


def does_not_fit(e: Estimate) -> str:
    """Return the line that says that the model does not fit and what would fit; nothing if it fits."""
    if e.fits:
        return ""
    return next((note for note in e.notes if note.startswith("does not fit")), "does not fit in the GPU's memory")


def heading(e: Estimate) -> str:
    """Return the question in two lines; before them a line of its own if the model does not fit."""
    layout = ", ".join(
        f"{name} {size}"
        for name, size in (
            ("tp", e.tp_size),
            ("cp", e.cp_size),
            ("pp", e.pp_size),
            ("dp", e.dp_size),
            ("sp", e.sp_size),
            ("ep", e.ep_size),
        )
        if size > 1
    )
    gpus = f"{e.num_gpus} x {e.gpu_name}" + (f" ({layout})" if layout else "")
    work = f"batch {e.batch_size_per_gpu}, {e.seq_len} tokens in, {e.num_tokens_to_generate} out{served(e)}"
    misfit = does_not_fit(e).partition(";")[0]
    first = f"{misfit.replace('does not fit', 'DOES NOT FIT', 1)}\n" if misfit else ""
    return f"{first}{e.model_name} {e.dtype_name} on {gpus}: {work}\nmethod {e.method}{how(e)}"


def served(e: Estimate) -> str:
    """The serving options, where there are any."""
    parts = [
        f"{e.num_samples} samples of each" if e.num_samples > 1 else "",
        f"{e.cached_prefix_len} tokens in cached" if e.cached_prefix_len else "",
        f"prefill in chunks of {e.prefill_chunk_size}" if e.prefill_chunk_size else "",
        f"{e.num_draft_tokens} tokens drafted by {e.draft_model_name}" if e.num_draft_tokens else "",
        "prefill and decode on GPUs of their own" if e.disaggregated else "",
    ]
    return "".join(f"; {part}" for part in parts if part)


def how(e: Estimate) -> str:
    """Which runtime or which efficiencies the answer rests on."""
    if e.flops_efficiency is None:
        return f", runtime {e.runtime}; total = {e.total_latency_is}"
    efficiencies = f"FLOP efficiency {e.flops_efficiency:g}, memory efficiency {e.hbm_memory_efficiency:g}"
    return f", {efficiencies}; total = {e.total_latency_is}"


def summary(e: Estimate, style: str) -> str:
    """Latencies and throughput."""
    rows = [
        ("prefill (TTFT)", *spread(e, "prefill"), rate(e.prefill_tokens_per_sec)),
        ("decode per token (TPOT)", *spread(e, "decode"), rate(e.decode_tokens_per_sec)),
        ("total", *spread(e, "total"), f"{rate(e.total_tokens_per_sec)} out"),
    ]
    if e.num_gpus > 1 or e.batch_size_per_gpu > 1:
        rows.append(("of one request", "", "", rate(e.request_tokens_per_sec)))
    if e.cost_per_million_tokens is not None:
        rows.append(("cost per million tokens", f"{e.cost_per_million_tokens:,.2f}", "", "generated, all GPUs"))
    headers = ("", "latency", "80 % within", "throughput")
    shown = [0, 1, 3] if e.total_latency_low is None else [0, 1, 2, 3]
    return table([[row[i] for i in shown] for row in rows], [headers[i] for i in shown], style, last="left")


def spread(e: Estimate, phase: str) -> tuple[str, str]:
    """A latency, and the band around it where there is one."""
    middle, low, high = (getattr(e, f"{phase}_latency{part}") for part in ("", "_low", "_high"))
    return seconds(middle), "" if low is None else f"{seconds(low)} to {seconds(high)}"


def memory_table(e: Estimate, style: str) -> str:
    """What one GPU holds."""
    rows = [
        ("weights", gigabytes(e.weight_memory_per_gpu), f"{e.num_params_total / 1e9:,.2f} billion parameters in all"),
        *weight_rows(e),
        (
            "KV cache",
            gigabytes(e.kv_cache_memory_per_gpu),
            f"in the end; the model's: {e.kv_cache_bytes_per_token:,.0f} bytes a token",
        ),
        ("activations", gigabytes(e.activation_memory_per_gpu), "at the peak of the prefill"),
    ]
    if e.runtime_memory_per_gpu:
        rows.append(("runtime", gigabytes(e.runtime_memory_per_gpu), "CUDA context, graphs, buffers: an assumption"))
    of = f"{e.gpu_memory_utilization:.0%} of " if e.gpu_memory_utilization < 1 else ""
    rows += [
        ("left", gigabytes(e.memory_left_per_gpu), f"of {of}{gigabytes(e.memory_per_gpu)} per GPU"),
        ("largest batch", f"{e.max_batch_size_per_gpu:,}", "fits" if e.fits else "DOES NOT FIT"),
        ("longest context", f"{e.max_context_len:,}", "tokens of each sequence, at this batch"),
    ]
    return table(rows, ("memory per GPU", "GB", ""), style, last="left")


def weight_rows(e: Estimate) -> list[tuple[str, str, str]]:
    """The classes of weights, where a GPU has some."""
    names = {
        "attention": "attention",
        "state_space": "state space",
        "feed_forward": "feed-forward",
        "expert": "experts",
        "embedding": "embeddings, head",
    }
    sizes = {shown: getattr(e, f"{name}_weight_memory_per_gpu") for name, shown in names.items()}
    return [(f"- {shown}", gigabytes(size), "") for shown, size in sizes.items() if size]


def operator_table(e: Estimate, phase: str, style: str) -> str:
    """One row per operator of a phase; FLOP and bytes in units that suit the largest."""
    operators = [row for row in e.operators if row.phase == phase and row.seconds]
    flops, flop_unit = scaled([row.flops for row in operators], {1e9: "GFLOP", 1e12: "TFLOP", 1e15: "PFLOP"})
    moved, byte_unit = scaled([row.bytes or row.wire_bytes for row in operators], {1e6: "MB", 1e9: "GB", 1e12: "TB"})
    rows = [operator_cells(*cells) for cells in zip(operators, flops, moved, strict=True)]
    return table(rows, (phase, "time", "share", flop_unit, byte_unit, "peak", "bound"), style)


def operator_cells(row: OperatorTime, flops: str, moved: str) -> tuple[str, ...]:
    """The cells of one operator: what it moves is HBM traffic, or what goes over the wire for a collective."""
    name = f"{row.name} x{row.count:g}" if row.count != 1 else row.name
    return (name, seconds(row.seconds), f"{row.share:.1%}", flops, moved, f"{row.achieved_fraction:.0%}", row.bound)


def as_csv(e: Estimate) -> str:
    """One line of the answer's plain fields under their names."""
    return csv_of([{key: value for key, value in e.as_dict().items() if key not in ("operators", "notes")}])


def _file_name(e: Estimate) -> str:
    """Return the question as part of a file name: model, GPU, format, layout, workload, method or efficiencies."""
    context = f"-cp{e.cp_size}" if e.cp_size > 1 else ""
    experts = f"-ep{e.ep_size}" if e.ep_size > 1 else ""
    layout = f"tp{e.tp_size}{context}-pp{e.pp_size}-dp{e.dp_size}-sp{e.sp_size}{experts}"
    options = {
        "-n": e.num_samples if e.num_samples > 1 else 0,
        "-prefix": e.cached_prefix_len,
        "-chunk": e.prefill_chunk_size,
        "-draft": e.num_draft_tokens,
    }
    served = "".join(f"{name}{value}" for name, value in options.items() if value)
    served += "" if e.use_kv_cache else "-nocache"
    served += "-disaggregated" if e.disaggregated else ""
    work = f"bs{e.batch_size_per_gpu}-in{e.seq_len}-out{e.num_tokens_to_generate}{served}"
    method = e.runtime or e.method
    if e.method == "published":
        method = f"fe{e.flops_efficiency:g}-hbme{e.hbm_memory_efficiency:g}"
    name = f"{e.model_name}-{e.gpu_name}-{e.dtype_name}-{layout}-{work}-{method}"
    return "".join(c if c.isprintable() and c not in "/\\" else "_" for c in name)


def summary_files(e: Estimate, prefix: str, suffix: str) -> dict[str, str]:
    """Return the two summaries by file name."""
    name = f"{prefix}{_file_name(e)}{suffix}"
    return {
        f"{name}-summary.json": rendered(e, "json") + "\n",
        f"{name}-summary-readable.txt": rendered(e, "table") + "\n",
    }
