"""The answer of `infer` as text: tables, Markdown, CSV, JSON; and the summary files."""

from __future__ import annotations

import json
from math import isfinite

from llm_analysis.errors import BadValue
from llm_analysis.inference.estimate import Estimate, OperatorTime
from llm_analysis.report.tables import (
    View,
    csv_of,
    drafting,
    gigabytes,
    rate,
    scaled,
    seconds,
    seconds_range,
    significant,
    table,
    time_unit,
    wrapped,
)

LARGEST = 4  # operators of a phase in the short form
_WIDE = 112  # columns that an operator table with the four times of each operator needs
_FLOP_UNITS = {1e9: "GFLOP", 1e12: "TFLOP", 1e15: "PFLOP"}
_BYTE_UNITS = {1e6: "MB", 1e9: "GB", 1e12: "TB"}
_FIGURES = 3  # significant digits of a number with a band, which is some 30 % wide


def rendered(estimate: Estimate, style: str, view: View = View()) -> str:  # noqa: B008 - an immutable tuple
    """Return the answer in one of `FORMATS`. JSON holds everything, for any view."""
    if style == "json":
        return json.dumps(estimate.as_dict(), indent=2, allow_nan=False)
    if style == "csv":
        return as_csv(estimate, view.operators == "all")
    width = 0 if style == "markdown" else view.width
    parts = [heading(estimate, style, view), summary(estimate, style), _memory_table(estimate, style, width)]
    if view.operators != "none":
        phases = ("prefill",) if _is_encoder(estimate) else ("prefill", "decode")
        parts += [_operator_table(estimate, phase, style, view) for phase in phases]
    if view.operators == "largest":
        parts[-1] += "\n\n--operators shows all operators, --format json everything"
    return "\n\n".join([*parts, *(note_text(note, style, view) for note in estimate.notes)])


def _is_encoder(e: Estimate) -> bool:
    """Return whether the model reads a batch in one pass and generates nothing."""
    return e.basis.scenario.model.is_encoder


def note_text(note: str, style: str, view: View) -> str:
    """Return a note, wrapped to the terminal. Markdown is left in one line."""
    return f"note: {note}" if style == "markdown" else wrapped(f"note: {note}", view.width)


def check_finite(e: Estimate) -> None:
    """Raise BadValue if a value of the answer is infinite or not a number, which JSON cannot hold.

    The values are sums of positive terms: if they are finite, each operator's share is finite too.
    """
    values = e._asdict()
    wrong = next((name for name, value in values.items() if isinstance(value, float) and not isfinite(value)), None)
    if wrong:
        raise BadValue(f"{wrong} is not finite: a value in the question is far too large or too small")


def does_not_fit(e: Estimate) -> str:
    """Return the note that the model does not fit, with changes that would fit; empty if it fits."""
    if e.fits:
        return ""
    return next((note for note in e.notes if note.startswith("does not fit")), "does not fit in the GPU's memory")


def heading(e: Estimate, style: str = "table", view: View = View()) -> str:  # noqa: B008 - an immutable tuple
    """Return the question and the method, one line each, after a line that the model does not fit if so."""
    sizes = [(name, getattr(e, f"{name}_size")) for name in ("tp", "cp", "pp", "dp", "sp", "ep")]
    layout = ", ".join(f"{name} {size}" for name, size in sizes if size > 1)
    gpus = f"{e.num_gpus} x {e.gpu_name}" + (f" ({layout})" if layout else "")
    tokens = f"{e.seq_len} tokens each" if _is_encoder(e) else f"{e.seq_len} tokens in, {e.num_tokens_to_generate} out"
    work = f"batch {e.batch_size_per_gpu}, {tokens}{_served(e)}"
    question = f"{e.model_name} {e.dtype_name} on {gpus}"
    lines = [f"{question}: {work}", f"method {e.method}{_basis(e)}", *([_server(e)] if e.engine else [])]
    if style != "markdown":
        if len(lines[0]) > view.width:
            lines[:1] = [question, work]
        lines = [wrapped(line, view.width) for line in lines]
    if misfit := does_not_fit(e).partition(";")[0]:
        lines.insert(0, misfit.replace("does not fit", view.coloured("DOES NOT FIT"), 1))
    return "\n".join(lines)


def _served(e: Estimate) -> str:
    """Return the serving options of the workload, where there are any."""
    parts = [
        f"{e.num_samples} samples of each prompt" if e.num_samples > 1 else "",
        f"{e.cached_prefix_len} of the prompt tokens cached" if e.cached_prefix_len else "",
        f"prefill in chunks of {e.prefill_chunk_size}" if _is_chunked(e) else "",
        drafting(e.draft_model_name, e.num_draft_tokens),
        "prefill and decode on separate GPUs" if e.disaggregated else "",
    ]
    return "".join(f"; {part}" for part in parts if part)


def _is_chunked(e: Estimate) -> bool:
    """Return whether the prefill takes more than one pass."""
    tokens = e.batch_size_per_gpu * (e.seq_len - e.cached_prefix_len)
    return e.prefill_chunk_size is not None and tokens > e.prefill_chunk_size


def _server(e: Estimate) -> str:
    """Return the settings of the server, which are the defaults of its engine unless flags give others."""
    chunk = f"{e.prefill_chunk_size:,} tokens/pass" if e.prefill_chunk_size else "whole prompts"
    sequences = f", {e.max_num_seqs:,} sequences" if e.max_num_seqs else ""
    cache = "" if _is_encoder(e) else f", {e.basis.scenario.dtypes.kv_bits}-bit KV cache"
    return f"{e.engine}: {chunk}{sequences}{cache}, {100 * e.gpu_memory_utilization:.3g}% of memory"


def _basis(e: Estimate) -> str:
    """Return the runtime or the efficiencies of the answer, and the definition of its total."""
    runtime = f", runtime {e.runtime}" if e.runtime else ""
    if e.method == "published":
        runtime = f", FLOP efficiency {e.flops_efficiency:g}, memory efficiency {e.hbm_memory_efficiency:g}"
    return runtime if _is_encoder(e) else f"{runtime}; total = {e.total_latency_is}"


def summary(e: Estimate, style: str) -> str:
    """Return the table of latencies and throughput."""
    digits = 4 if e.total_latency_low is None else _FIGURES
    rows = [
        ("prefill (TTFT)", *_latency(e, "prefill"), rate(e.prefill_tokens_per_sec, digits)),
        ("decode per token (TPOT)", *_latency(e, "decode"), rate(e.decode_tokens_per_sec, digits)),
        ("total", *_latency(e, "total"), f"{rate(e.total_tokens_per_sec, digits)} out"),
    ]
    if _is_encoder(e):
        sequences = e.dp_size * e.batch_size_per_gpu / e.prefill_latency
        rows = [("one pass", *rows[0][1:]), ("", "", "", f"{significant(sequences, digits)} sequences/s")]
    elif e.num_gpus > 1 or e.batch_size_per_gpu > 1:
        rows.append(("- of one request", "", "", rate(e.request_tokens_per_sec, digits)))
    if e.cost_per_million_tokens is not None and not _is_encoder(e):
        rows.append(("cost per million tokens", f"{e.cost_per_million_tokens:,.2f}", "", "generated, all GPUs"))
    headers = ("", "latency", "80 % within", "throughput")
    columns = [0, 1, 3] if e.total_latency_low is None else [0, 1, 2, 3]
    return table([[row[i] for i in columns] for row in rows], [headers[i] for i in columns], style, last="left")


def _latency(e: Estimate, phase: str) -> tuple[str, str]:
    """Return a latency, and the band around it in the same unit if there is one."""
    middle, low, high = (getattr(e, f"{phase}_latency{part}") for part in ("", "_low", "_high"))
    if low is None:
        return seconds(middle), ""
    return seconds(middle, _FIGURES), seconds_range(low, high, middle, _FIGURES)


def _memory_table(e: Estimate, style: str, width: int) -> str:
    """Return the table of the memory of one GPU."""
    rows = [
        ("weights", gigabytes(e.weight_memory_per_gpu), f"the model has {e.num_params_total / 1e9:,.2f} B parameters"),
        *_weight_rows(e),
        (
            "KV cache",
            gigabytes(e.kv_cache_memory_per_gpu),
            f"at the end; {e.kv_cache_bytes_per_token:,.0f} bytes per token (whole model)",
        ),
        ("activations", gigabytes(e.activation_memory_per_gpu), "at the peak of the prefill"),
    ]
    if e.runtime_memory_per_gpu:
        rows.append(("runtime", gigabytes(e.runtime_memory_per_gpu), "CUDA context, graphs, buffers (assumed)"))
    part = f"{e.gpu_memory_utilization:.0%} of " if e.gpu_memory_utilization < 1 else ""
    fit = "sequences of this length fit" if e.fits else "DOES NOT FIT"
    rows += [
        ("left", gigabytes(e.memory_left_per_gpu), f"{part}{gigabytes(e.memory_per_gpu)} may be used"),
        ("largest batch", f"{e.max_batch_size_per_gpu:,}", fit),
        ("longest context", f"{e.max_context_len:,}", "tokens of each sequence, at this batch size"),
    ]
    return table(rows, ("memory per GPU", "GB", ""), style, last="left", width=width)


def _weight_rows(e: Estimate) -> list[tuple[str, str, str]]:
    """Return a row for each class of weights that the GPU holds."""
    names = {
        "attention": "attention",
        "feed_forward": "feed-forward",
        "expert": "experts",
        "embedding": "embeddings, head",
    }
    sizes = {shown: getattr(e, f"{name}_weight_memory_per_gpu") for name, shown in names.items()}
    return [(f"- {shown}", gigabytes(size), "") for shown, size in sizes.items() if size]


def _operator_table(e: Estimate, phase: str, style: str, view: View) -> str:
    """Return the operators of a phase: all in the order of the pass, or the largest and the sum of the others.

    On a wide terminal each row also shows the time of each resource.
    """
    operators = [row for row in e.operators if row.phase == phase and row.seconds]
    others: list[OperatorTime] = []
    if view.operators == "largest" and len(operators) > LARGEST + 1:
        operators.sort(key=lambda row: -row.seconds)
        operators, others = operators[:LARGEST], operators[LARGEST:]
    groups = [*([row] for row in operators), others]
    flops, flop_unit = scaled([sum(row.flops for row in group) for group in groups], _FLOP_UNITS)
    moved, byte_unit = scaled([sum(map(_traffic, group)) for group in groups], _BYTE_UNITS)
    wide = view.width >= _WIDE and style != "markdown"
    rows = [_operator_cells(*cells, wide, view) for cells in zip(operators, flops, moved, strict=False)]
    if others:
        sums = (seconds(sum(row.seconds for row in others), _FIGURES), f"{sum(row.share for row in others):.1%}")
        rest = (f"{len(others)} others", *sums, flops[-1], moved[-1], "", "")
        rows.append([*rest, *("" for _ in range(4 if wide else 0))])
    headers = [phase, "time", "share", flop_unit, byte_unit, "peak", "bound"]
    return table(rows, [*headers, *(("compute", "memory", "launch", "network") if wide else ())], style)


def _traffic(row: OperatorTime) -> float:
    """Return the bytes of HBM traffic of an operator; of a collective the bytes on the wire."""
    return float(row.bytes or row.wire_bytes)


def _operator_cells(row: OperatorTime, flops: str, moved: str, wide: bool, view: View) -> list[str]:
    """Return the cells of one operator."""
    name = f"{row.name} x{row.count:g}" if row.count != 1 else row.name
    bound = view.coloured(row.bound)
    peak = f"{row.achieved_fraction:.0%}"
    cells = [name, seconds(row.seconds, _FIGURES), f"{row.share:.1%}", flops, moved, peak, bound]
    if not wide:
        return cells
    size, unit = time_unit([row.seconds], _FIGURES)
    times = (row.compute_seconds, row.memory_seconds, row.launch_seconds, row.network_seconds)
    return [*cells, *(f"{significant(each / size, _FIGURES)} {unit}" if each else "-" for each in times)]


def as_csv(e: Estimate, operators: bool = False) -> str:
    """Return the plain fields of the answer as one CSV row; with `operators` a row per operator that repeats them."""
    plain = {key: value for key, value in e.as_dict().items() if key not in ("operators", "notes")}
    return csv_of([plain | row._asdict() for row in e.operators] if operators else [plain])


def _file_name(e: Estimate) -> str:
    """Return the question as part of a file name: model, GPU, format, layout, workload, method or efficiencies."""
    context = f"-cp{e.cp_size}" if e.cp_size > 1 else ""
    experts = f"-ep{e.ep_size}" if e.ep_size > 1 else ""
    layout = f"tp{e.tp_size}{context}-pp{e.pp_size}-dp{e.dp_size}-sp{e.sp_size}{experts}"
    options = {
        "-n": e.num_samples if e.num_samples > 1 else 0,
        "-prefix": e.cached_prefix_len,
        "-chunk": e.prefill_chunk_size if _is_chunked(e) else 0,
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
        f"{name}-summary-readable.txt": rendered(e, "table", View(operators="all")) + "\n",
    }
