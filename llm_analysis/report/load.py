"""The answer of `load` as text, JSON, CSV and Markdown: for one rate the block of `vllm bench serve`, else a table."""

from __future__ import annotations

import json

from llm_analysis.report.tables import csv_of, drafting, table, wrapped
from llm_analysis.serving.load import Load, Point
from llm_analysis.serving.metrics import Distribution, tpot

_WIDTH = 62
_COLUMNS = 80  # width of a note
_LEAST_FIXED = 0.1  # smallest rate that two decimals show
METRICS = (
    ("ttft", "Time to First Token", "TTFT"),
    ("tpot", "Time per Output Token (excl. 1st token)", "TPOT"),
    ("itl", "Inter-token Latency", "ITL"),
    ("e2e", "End-to-end Latency", "E2EL"),
)


def rendered(load: Load, style: str, width: int = _COLUMNS) -> str:
    """Return the answer in one of the output formats; CSV lists requests, or rates if there are several.

    A table of rates that is wider than `width` has its last column below it.
    """
    if style == "json":
        return json.dumps(load.as_dict(), indent=2)
    if style == "csv":
        return csv_of(_curve_rows(load) if len(load.points) > 1 else _request_rows(load.points[0]))
    body = block(load) if len(load.points) == 1 and style == "table" else curve(load, style, width)
    return "\n".join([body, *(wrapped(f"note: {note}", _COLUMNS) for note in all_notes(load))])


def all_notes(load: Load) -> list[str]:
    """Return the notes on the server and those on its rates, each once."""
    return list(dict.fromkeys([*load.notes, *(note for point in load.points for note in point.notes)]))


def _line(label: str, value: str) -> str:
    """Return one line of the block."""
    return f"{label:<40}{value:>{_WIDTH - 40}}"


def _rate(value: float) -> str:
    """Return a rate in two decimals, or in three significant digits if it is small."""
    return f"{value:,.2f}" if value >= _LEAST_FIXED or not value else f"{value:.3g}"


def _heading(text: str) -> str:
    """Return a heading of the block."""
    return f"{text:-^{_WIDTH}}"


def block(load: Load) -> str:
    """Return the result block of `vllm bench serve`, with further results of the simulation."""
    point = load.points[0]
    s = point.summary
    rate = "all at once" if point.request_rate is None else _rate(point.request_rate)
    drafted = drafting(load.draft_model_name, load.num_draft_tokens)
    lines = [
        f"{load.model_name} on {load.num_gpus} x {load.gpu_name}, {load.dtype_name}, "
        f"{f'runtime {load.runtime}' if load.runtime else load.method}",
        *([f"{drafted}, {load.tokens_per_step:.2f} tokens per step"] if drafted else []),
        f"{' Serving Benchmark Result ':=^{_WIDTH}}",
        _line("Successful requests:", f"{s.num_requests:,}"),
        _line("Request rate configured (req/s):", rate),
    ]
    if point.max_concurrency is not None:
        lines.append(_line("Maximum request concurrency:", f"{point.max_concurrency:,}"))
    lines += [
        _line("Benchmark duration (s):", f"{s.duration:,.2f}"),
        _line("Total input tokens:", f"{s.total_input_tokens:,}"),
        _line("Total generated tokens:", f"{s.total_output_tokens:,}"),
        _line("Request throughput (req/s):", _rate(s.request_throughput)),
    ]
    if point.request_goodput is not None:
        lines.append(_line("Request goodput (req/s):", _rate(point.request_goodput)))
    lines += [
        _line("Output token throughput (tok/s):", _rate(s.output_token_throughput)),
        _line("Total Token throughput (tok/s):", _rate(s.total_token_throughput)),
    ]
    for name, title, short in METRICS:
        values: Distribution = getattr(s, name)
        lines.append(_heading(title))
        for statistic, value in values._asdict().items():
            label = statistic.capitalize() if statistic in ("mean", "median") else statistic.upper()
            lines.append(_line(f"{label} {short} (ms):", f"{value * 1e3:,.2f}"))
    lines += [
        _heading("Capacity"),
        *_capacity(load, point),
        "=" * _WIDTH,
    ]
    return "\n".join(lines)


def _capacity(load: Load, point: Point) -> list[str]:
    """Return the lines on saturation, goodput, KV cache and cost."""
    lines = []
    if load.saturation_rate is not None:
        lines.append(_line("Saturation rate (req/s):", _rate(load.saturation_rate)))
    if point.fraction_of_saturation is not None:
        lines.append(_line("Rate / saturation rate:", f"{point.fraction_of_saturation:.1%}"))
    if load.goodput_rate is not None:
        limits = ", ".join(f"{name} {value * 1e3:g} ms" for name, value in (load.goodput_limits or {}).items())
        lines.append(_line("Goodput, highest rate (req/s):", _rate(load.goodput_rate)))
        lines.append(_line(f"  of {load.goodput_attainment:.3g} of requests:", limits))
    lines += [
        _line("Limiting resource:", point.limiting_resource),
        _line("Mean running sequences per replica:", f"{point.mean_running_sequences:,.1f}"),
        _line("Peak running sequences per replica:", f"{point.peak_running_sequences:,}"),
        _line("KV cache per replica (tokens):", f"{load.kv_cache_tokens:,.0f}"),
        _line("Peak KV cache usage:", f"{point.peak_kv_cache_usage:.1%}"),
        _line("Preemptions:", f"{point.preemptions:,}"),
        _line("Time with a step running:", f"{point.busy_fraction:.1%}"),
    ]
    if point.cost_per_million_tokens is not None:
        lines.append(_line("Cost per million output tokens:", f"{point.cost_per_million_tokens:,.3f}"))
    return lines


def curve(load: Load, style: str, width: int = _COLUMNS) -> str:
    """Return a table with one row for each rate; below it the limiting resources if the table is too wide."""
    heads = ["req/s", "done/s", "tokens/s", "TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99", "running", "KV", "limit"]
    rows = [
        [
            "inf" if p.request_rate is None else f"{p.request_rate:g}",
            _rate(p.summary.request_throughput),
            f"{p.summary.output_token_throughput:,.0f}",
            *(f"{v * 1e3:,.1f}" for m in (p.summary.ttft, p.summary.tpot) for v in (m.median, m.p99)),
            f"{p.mean_running_sequences:,.0f}",
            f"{p.peak_kv_cache_usage:.0%}",
            p.limiting_resource,
        ]
        for p in load.points
    ]
    last = []
    if load.saturation_rate is not None:
        last.append(f"saturation rate {_rate(load.saturation_rate)} req/s")
    if load.goodput_rate is not None:
        last.append(f"goodput {_rate(load.goodput_rate)} req/s")
    title = f"{load.model_name} on {load.num_gpus} x {load.gpu_name}; latencies in ms"
    text = table(rows, heads, style, "left")
    if style != "markdown" and max(map(len, text.splitlines())) > width:
        text = "\n".join([table([row[:-1] for row in rows], heads[:-1], style), wrapped(_limits(rows), width)])
    return "\n".join([title, text, "; ".join(last)])


def _limits(rows: list[list[str]]) -> str:
    """Return the limiting resource of the rows of a curve, with the rates of each if there are several."""
    rates: dict[str, list[str]] = {}
    for row in rows:
        rates.setdefault(row[-1], []).append(row[0])
    if len(rates) == 1:
        return f"limit: {rows[0][-1]}"
    return f"limit: {'; '.join(f'{limit} at {_joined(each)} req/s' for limit, each in rates.items())}"


def _joined(words: list[str]) -> str:
    """Return words joined by commas, the last one by `and`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _request_rows(point: Point) -> list[dict[str, float]]:
    """Return one row for each request; times in seconds since the start of the run."""
    return [
        {
            "request": i,
            "sent": r.sent,
            "first_token": r.first,
            "end": r.end,
            "ttft": r.first - r.sent,
            "tpot": tpot(r),
            "e2e": r.end - r.sent,
            "input_tokens": r.input_tokens,
            "output_tokens": r.output_tokens,
            "replica": r.replica,
        }
        for i, r in enumerate(point.run.requests)
    ]


def _curve_rows(load: Load) -> list[dict[str, object]]:
    """Return one row for each rate, with all metrics."""
    rows = []
    for point in load.points:
        plain = point.as_dict()
        row = {name: value for name, value in plain.items() if not isinstance(value, (dict, list))}
        for name, _, _ in METRICS:
            row |= {f"{name}_{statistic}": value for statistic, value in plain[name].items()}
        rows.append(row)
    return rows
