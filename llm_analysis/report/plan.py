"""A plan as text: the best configuration, the other ones with their limits, the front, launch commands."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from math import isfinite
from textwrap import fill
from typing import TYPE_CHECKING, Any

from llm_analysis.explore.launch import ENGINES, launch_notes
from llm_analysis.explore.plan import Configuration, Demand, Limits, Miss, Plan, Rejected, count_text, layout_text
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.report.tables import csv_of, seconds, table

if TYPE_CHECKING:
    from llm_analysis.report.plots import Series

_MOST_REJECTED = 10
_MOST_FRONT = 8
_LATENCIES = ("max_ttft", "max_tpot", "max_request_latency")


def rendered(found: Plan, style: str) -> str:
    """Return the plan in one of `report.tables.FORMATS`."""
    if style == "json":
        return json.dumps(as_dict(found), indent=2, allow_nan=False)
    if style == "csv":
        rows = [] if found.best is None else [found.best, *(other.configuration for other in found.rejected)]
        return csv_of([_flat(c) for c in rows]) if rows else ""
    parts = [wrapped(f"{found.model_name}: {_demand_text(found.demand)}{_limits_text(found.limits)}")]
    parts += [nearest_text(found.miss)] if found.best is None else _answer(found, found.best, style)
    parts.append(f"searched {found.points:,} points")
    return "\n\n".join([*parts, *(wrapped(f"note: {note}") for note in found.notes)])


def as_dict(found: Plan) -> dict[str, Any]:
    """Return plain values in SI units. A limit that was not given is None."""
    return {
        "model_name": found.model_name,
        "demand": found.demand._asdict(),
        "limits": {
            name: value if isfinite(value) and value else None for name, value in found.limits._asdict().items()
        },
        "best": None if found.best is None else found.best.as_dict(),
        "at_band_edge": None if found.at_band_edge is None else found.at_band_edge.as_dict(),
        "rejected": [
            {"excess": each.excess, "reason": each.reason, **each.configuration.as_dict()} for each in found.rejected
        ],
        "nearest_miss": None if found.miss is None else found.miss.as_dict(),
        "misses": {name: miss.as_dict() for name, miss in found.misses.items()},
        "front": found.front,
        "commands": found.commands,
        "points": found.points,
        "notes": list(found.notes),
    }


def _demand_text(d: Demand) -> str:
    """Return the demand in words."""
    load = f"{d.request_rate:g} requests/s" if d.request_rate is not None else f"{d.concurrency:,} requests in flight"
    return f"{d.input_tokens:,} tokens in, {d.output_tokens:,} out, {load}"


def _limits_text(limits: Limits) -> str:
    """Return the limits in words; empty if there are none."""
    found = [
        f"{name} {seconds(value)}"
        for name, value in (("TTFT", limits.ttft), ("TPOT", limits.tpot), ("request latency", limits.request_latency))
        if isfinite(value)
    ]
    found += [f"{limits.tokens_per_second:g} tokens/s of one user at least"] if limits.tokens_per_second else []
    found += [f"cost {limits.cost_per_hour:,.2f} an hour"] if isfinite(limits.cost_per_hour) else []
    found += [f"{limits.gpus:g} GPUs"] if isfinite(limits.gpus) else []
    return f"; within {', '.join(found)}" if found else ""


def _configuration_text(c: Configuration) -> str:
    """Return a configuration in words: GPUs, format, layout, replicas and batch."""
    gpus = f"{c.num_gpus} x {c.gpu_name} {c.dtype_name}"
    batch = f"batch up to {c.batch}"
    if c.prefill_layout is not None:
        prefill = f"{c.prefill_workers} prefill of {layout_text(c.prefill_layout)}"
        return f"{gpus}: {prefill}, {c.replicas} decode of {layout_text(c.layout)}, {batch}"
    return f"{gpus}: {_replicas(c)}, {batch}"


def _replicas(c: Configuration) -> str:
    """Return the number and the layout of replicas that prefill and decode."""
    return f"{c.replicas} replica{'s' if c.replicas > 1 else ''} of {layout_text(c.layout)}"


def _miss_text(miss: Miss) -> str:
    """Return a configuration outside of the limits, and the limits that it needs."""
    changes = " and ".join(f"--{name} {_limit_text(name, value)}" for name, value in miss.needed.items())
    return f"the nearest is {miss.description}" + (f"; it needs {changes}" if changes else "")


def nearest_text(miss: Miss | None) -> str:
    """Return the configuration nearest to the limits, and the limits that it needs."""
    if miss is None:
        return "no configuration was searched: no GPU supports a format and a layout of this model"
    return wrapped(f"no configuration meets the limits; {_miss_text(miss)}")


def _limit_text(name: str, value: float) -> str:
    """Return the value of a flag that just admits a configuration, rounded to the admitting side."""
    if name in _LATENCIES:
        unit, size = ("s", 1.0) if value >= 1 else ("ms", 1e-3)
        return f"{_rounded_up(value / size)}{unit}"
    return (
        f"{value:.0f}"
        if name == "max_gpus"
        else f"{int(value * 100) / 100:g}"
        if name[:3] == "min"
        else _rounded_up(value)
    )


def _rounded_up(value: float) -> str:
    """Return a number with four digits, rounded up."""
    from math import ceil, floor, log10

    scale = 10 ** (3 - floor(log10(value)))
    return f"{ceil(value * scale - 1e-9) / scale:g}"


def _answer(found: Plan, best: Configuration, style: str) -> list[str]:
    """Return the parts of the answer if there is one."""
    parts = [wrapped(f"best: {_configuration_text(best)}"), _load_table(found, best, style)]
    parts += [_edge(found, best)] if found.at_band_edge is not best else []
    others = [each for each in found.rejected if each.configuration.gpu_name != best.gpu_name]
    own = [each for each in found.rejected if each.configuration.gpu_name == best.gpu_name]
    shown = [*others, *own[: max(_MOST_REJECTED - len(others), 3)]]
    if shown:
        rows = [[_price_text(each), _named(each.configuration), each.reason] for each in shown]
        width = max(len(price) for price, _, _ in rows) + 2
        lines = "\n".join(wrapped(f"{price:>{width}}  {name}; {why}", " " * (width + 2)) for price, name, why in rows)
        parts.append(f"other configurations, their additional {_unit(best)} and the reason:\n{lines}")
    if found.misses:
        lines = "\n".join(wrapped(f"  {name}: {_miss_text(miss)}", "    ") for name, miss in found.misses.items())
        parts.append(f"GPUs without a configuration within the limits:\n{lines}")
    parts.append(_front_table(found, style))
    commands = [
        f"{ENGINES[engine]}{_role(i, each)}:\n  {command}"
        for engine, each in found.commands.items()
        for i, command in enumerate(each)
    ]
    notes = [f"note: {note}" for note in launch_notes(found.servers[-1])]
    return [*parts, "launch one replica:\n" + "\n".join(commands), *map(wrapped, notes)]


def _role(i: int, commands: Sequence[str]) -> str:
    """Return the role of a command: none, prefill or decode."""
    return "" if len(commands) == 1 else (" prefill", " decode")[i]


def _unit(best: Configuration) -> str:
    """Return the name of the minimized quantity."""
    return "GPUs" if best.cost_per_hour is None else "cost"


def _load_table(found: Plan, c: Configuration, style: str) -> str:
    """Return the table of load and latencies of the best configuration, beside the limits."""
    limits = found.limits
    of = "data-parallel rank" if c.layout.dp_size > 1 else "replica" if c.mode == "aggregated" else "decode worker"
    rows = [
        ("used", f"{c.load:.0%}", f"of the capacity; {c.margin:.0%} is left"),
        (
            "sequences in flight",
            _in_flight(c),
            f"of {count_text(c.most_in_flight)} per {of}; the limit is {c.limited_by}",
        ),
        *_latencies(found, c),
        (
            "tokens/s of one user",
            f"{1 / c.tpot:,.1f}",
            f"at least {limits.tokens_per_second:g}" if limits.tokens_per_second else "",
        ),
        ("generated tokens/s", f"{c.tokens_per_sec:,.0f}", f"{c.tokens_per_sec_per_gpu:,.0f} per GPU"),
    ]
    if c.cost_per_hour is not None:
        million = f"{c.cost_per_million_tokens:,.2f} per million tokens"
        rows.append(("cost per hour", f"{c.cost_per_hour:,.2f}", million))
    return table(rows, ("at this demand", "", ""), style, last="left")


def _in_flight(c: Configuration) -> str:
    """Return the mean number of sequences in flight."""
    return f"{c.in_flight:,.1f}" if c.in_flight >= 1 else f"{c.in_flight:.2g}"


def _time(value: float) -> str:
    """Return a time in three significant digits."""
    return f"{value:,.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def _latencies(found: Plan, c: Configuration) -> list[tuple[str, str, str]]:
    """Return the rows of latencies: closed form; limit, simulated mean and 99th percentile."""
    limits, run = found.limits, c.simulated
    rows = []
    for name, value, limit, simulated in (
        ("TTFT", c.ttft, limits.ttft, run and run.ttft),
        ("TPOT", c.tpot, limits.tpot, run and run.tpot),
        ("request latency", c.request_latency, limits.request_latency, run and run.e2e),
    ):
        cells = [f"limit {_time(limit)}"] if isfinite(limit) else []
        if simulated:
            cells.append(f"simulated {_time(simulated.mean)}, p99 {_time(simulated.p99)}")
        rows.append((name, _time(value), "; ".join(cells)))
    return rows


def _edge(found: Plan, best: Configuration) -> str:
    """Return the best configuration at the high edge of the error band, and its additional cost."""
    edge = found.at_band_edge
    if edge is None:
        return "no configuration meets the limits at the high edge of the error band"
    more = edge.price / best.price - 1
    text = _configuration_text(edge)
    return wrapped(f"at the high edge of the error band: {text} ({more:+.0%} {_unit(best)})")


def _price_text(other: Rejected) -> str:
    """Return how much more another configuration costs, and the cost of an hour if there are prices."""
    hourly = other.configuration.cost_per_hour
    return f"{other.excess:+.0%}" + (f" {hourly:,.2f}/h" if hourly is not None else "")


def _named(c: Configuration) -> str:
    """Return another configuration in few words."""
    workers = _replicas(c)
    if c.prefill_layout is not None:
        prefill = f"{c.prefill_workers} prefill of {layout_text(c.prefill_layout)}"
        workers = f"{prefill}, {c.replicas} decode of {layout_text(c.layout)}"
    return f"{c.num_gpus} x {c.gpu_name} {c.dtype_name}: {workers}"


def _front_table(found: Plan, style: str) -> str:
    """Return some points of the front, evenly spaced."""
    front = found.front
    step = max(1, -(-len(front) // _MOST_FRONT))
    rows = [
        [
            f"{p['tokens_per_sec_per_user']:,.0f}",
            f"{p['tokens_per_sec_per_gpu']:,.0f}",
            f"{p['gpu_name']} {p['dtype_name']}",
            layout_text(Parallelism(**{name: p[name] for name in ("tp_size", "pp_size", "dp_size", "ep_size")})),
            f"{p['batch']:,}",
        ]
        for p in front[::step]
    ]
    return table(rows, ("tokens/s/user", "tokens/s/GPU", "Pareto front, aggregated", "layout", "batch"), style)


def wrapped(text: str, indent: str = "  ") -> str:
    """Return a sentence in lines of at most 80 characters."""
    return fill(text, 80, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _flat(c: Configuration) -> dict[str, Any]:
    """Return a configuration as one row of a CSV."""
    plain = c.as_dict()
    for name in ("layout", "prefill_layout"):
        layout = plain.pop(name) or dict.fromkeys(("tp_size", "pp_size", "dp_size", "ep_size"))
        prefix = "" if name == "layout" else "prefill_"
        plain |= {f"{prefix}{size}": value for size, value in layout.items()}
    return plain


def as_html(found: Plan) -> str:
    """Return the plan as preformatted HTML, for notebooks."""
    return f"<pre>{html.escape(rendered(found, 'table'))}</pre>"


def series(found: Plan, *, cost: bool = False) -> list[Series]:
    """Return the points of each GPU for a plot: tokens/s/GPU, or with `cost` the cost of a million tokens."""
    from llm_analysis.report.plots import Series, short_name

    by: dict[str, list[Any]] = {}
    for points in found.curves:
        by.setdefault(points.gpu_name, []).append(points)
    result = []
    for gpu, curves in by.items():
        users = [user for each in curves for user in each.users.tolist()]
        heights = [height for each in curves for height in each.per_gpu.tolist()]
        name, best = short_name(gpu), None
        price = curves[0].price
        if cost:
            name += f" at {price:,.2f} an hour" if price is not None else ""
            heights = [(price or 0.0) / 3600 / height * 1e6 for height in heights]
        else:
            best = _best_point(found, curves)
        result.append(Series(name, users, heights, best))
    return result


def _best_point(found: Plan, curves: Sequence[Any]) -> tuple[float, float, str] | None:
    """Return the point with most tokens/s/GPU within the limit on TPOT, and its label."""
    least = 1 / found.limits.tpot if isfinite(found.limits.tpot) else 0.0
    best: tuple[float, float, str] | None = None
    for each in curves:
        rows = zip(each.users.tolist(), each.per_gpu.tolist(), each.batch.tolist(), strict=True)
        for user, height, batch in rows:
            if user >= least and (best is None or height > best[1]):
                best = (user, height, f"{each.dtype_name} {layout_text(each.layout)}, batch {batch:.0f}")
    return best
