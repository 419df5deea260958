"""Pictures: roofline, breakdown, batch, pareto, cost, parity. Needs matplotlib, the `plot` extra.

Each function returns a matplotlib Figure; `drawn` turns it into PNG or SVG. Colours are those of Okabe and Ito, which
colour-blind readers can tell apart; markers, dashes and hatches repeat the distinction for print in black and white.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from itertools import product
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_analysis.calibration.validation import Score, statistics
from llm_analysis.errors import BadValue, LLMAnalysisError
from llm_analysis.hardware.gpu import GPU
from llm_analysis.inference.estimate import Estimate, OperatorTime

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.transforms import Bbox

KINDS = ("roofline", "breakdown", "batch", "pareto", "cost", "parity")
FORMATS = ("png", "svg")
# Okabe and Ito, Color Universal Design (2008): blue, vermillion, green, purple, orange, sky blue, black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (8, 3)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY, LIGHT = "#555555", "#ECECEC"
_DOTS_PER_INCH = 200
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#D8D8D8",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "llm-analysis",
    "svg.fonttype": "path",
}


def drawn(figure: Figure, format: str) -> bytes:
    """Return a figure as a PNG or SVG file. The same figure gives the same bytes."""
    import matplotlib

    out = io.BytesIO()
    metadata = {"Date": None, "Creator": "llm-analysis"} if format == "svg" else {"Software": "llm-analysis"}
    with matplotlib.rc_context(STYLE):
        figure.savefig(out, format=format, dpi=_DOTS_PER_INCH, metadata=metadata)
    return out.getvalue()


def check_matplotlib() -> None:
    """Raise LLMAnalysisError if matplotlib is missing."""
    if find_spec("matplotlib") is None:
        raise LLMAnalysisError("plots need matplotlib: pip install 'llm-analysis[plot]'")


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Return `draw` with the style of this file. Raises LLMAnalysisError if matplotlib is missing."""

    def inner(*arguments: Any, **options: Any) -> Figure:
        check_matplotlib()
        import matplotlib

        with matplotlib.rc_context(STYLE):
            figure = draw(*arguments, **options)
            _fix_layout(figure)
        return figure

    inner.__doc__, inner.__name__ = draw.__doc__, draw.__name__
    return inner


def _fix_layout(figure: Figure) -> None:
    """Arrange the figure once, because drawing it again would move its parts."""
    figure.canvas.draw()
    figure.set_layout_engine("none")


def _figure(width: float, height: float) -> Figure:
    """Return an empty figure of that size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _titled(figure: Figure, question: str, setting: str = "") -> None:
    """Write the question in bold at the top left and the setting below it, in lines that fit the figure."""
    width = figure.get_figwidth()
    figure.suptitle(fill(question, int(width * 8.4)), x=0.01, ha="left", fontsize=11.5, fontweight="bold")
    if setting:
        lines = fill(setting, int((width - 0.9) * 13.5))
        figure.axes[0].set_title(lines, fontsize=9, fontweight="normal", color=GREY, loc="left")


def short_name(name: str) -> str:
    """Return a GPU's name without memory size and form factor: h200-sxm-141gb is H200."""
    base, _, rest = name.partition("-")
    return "-".join([base.upper(), *(part for part in rest.split("-") if part in ("pcie", "nvl", "nvl72", "ada"))])


def _layout(e: Estimate) -> str:
    """Return the sizes of a layout that are above 1: tp4 pp2."""
    sizes = (("tp", e.tp_size), ("cp", e.cp_size), ("pp", e.pp_size), ("dp", e.dp_size), ("ep", e.ep_size))
    return " ".join(f"{name}{size}" for name, size in sizes if size > 1)


def on_gpus(e: Estimate) -> str:
    """Return model, format and GPUs of an estimate."""
    layout = f" ({_layout(e)})" if _layout(e) else ""
    return f"{e.model_name} {e.dtype_name} on {e.num_gpus} x {short_name(e.gpu_name)}{layout}"


# Roofline


@styled
def roofline(estimate: Estimate, gpu: GPU, rates: Sequence[str]) -> Figure:
    """Return where each operator with matrix work lies under the GPU's roofs; `rates` are the peaks to draw."""
    figure = _figure(6.2, 4.4)
    ax = figure.add_subplot()
    phases = [(phase, _with_work(estimate, phase)) for phase in ("prefill", "decode")]
    rows = [row for _, found in phases for row in found]
    if not rows:
        raise BadValue("roofline: no operator of this estimate does matrix work")
    intensities, achieved = [_intensity(row) for row in rows], [_achieved(row) for row in rows]
    peaks = {rate: gpu.peak_flops[rate] / 1e12 for rate in dict.fromkeys(rates) if rate in gpu.peak_flops}
    bandwidth = gpu.memory_bandwidth / 1e12
    left, right = min(intensities) / 3, max(*intensities, max(peaks.values()) / bandwidth) * 30
    bottom = min(*achieved, left * bandwidth * 3) / 2.5
    ax.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, max(peaks.values()) * 6))
    ax.set_xlabel("arithmetic intensity, FLOP per byte of memory traffic")
    ax.set_ylabel("achieved TFLOP/s of one GPU")
    for (rate, peak), dashes in zip(sorted(peaks.items(), key=lambda item: -item[1]), DASHES, strict=False):
        ax.plot([peak / bandwidth, right], [peak, peak], color="black", linestyle=dashes, linewidth=1.5)
        ax.annotate(
            f"{rate} {peak:,.0f} TFLOP/s", (right, peak), (-4, 3), textcoords="offset points", ha="right", va="bottom"
        )
    knee = max(peaks.values()) / bandwidth
    ax.plot([left, knee], [left * bandwidth, knee * bandwidth], color="black", linewidth=1.5)
    shares = [sum(row.share for row in found) for _, found in phases]
    for (phase, found), share, colour, marker in zip(phases, shares, COLOURS, ("o", "s"), strict=False):
        size = [max(900 * row.share, 18) for row in found]
        where = [_intensity(row) for row in found], [_achieved(row) for row in found]
        ax.scatter(*where, s=size, color=colour, marker=marker, alpha=0.6, edgecolors="white", linewidths=0.7)
        ax.scatter(
            [], [], s=60, color=colour, marker=marker, alpha=0.7, label=f"{phase}: {share:.0%} of its time is shown"
        )
    ax.legend(loc="upper left", handletextpad=0.3)
    about = "area: share of the phase's time; operators without matrix work are left out"
    _titled(figure, "What bounds each operator?", f"{on_gpus(estimate)}, {_work(estimate)}; {about}")
    _fix_layout(figure)
    _label_slope(ax, left, bandwidth, f"memory {bandwidth:,.1f} TB/s")
    slope = [(x, x * bandwidth) for x in _spaced(left, knee)]
    roofs = [(x, peak) for peak in peaks.values() for x in _spaced(peak / bandwidth, right)]
    labels = [
        Label(_intensity(row), _achieved(row), f"{row.name} {row.share:.0%}", colour, max(900 * row.share, 18) ** 0.5)
        for (_, found), colour in zip(phases, COLOURS, strict=False)
        for row in found
    ]
    _place_labels(ax, labels, slope + roofs)
    return figure


def _spaced(low: float, high: float, count: int = 120) -> list[float]:
    """Return `count` values between two, evenly spaced on a logarithmic axis."""
    return [low * (high / low) ** (i / (count - 1)) for i in range(count)]


def _work(e: Estimate) -> str:
    """Return the workload of an estimate."""
    return f"batch {e.batch_size_per_gpu:,}, {e.seq_len:,} tokens in, {e.num_tokens_to_generate:,} out"


def _with_work(e: Estimate, phase: str) -> list[OperatorTime]:
    """Return the operators of a phase that multiply matrices and take 1 % of its time or more, largest first."""
    rows = [row for row in e.operators if row.phase == phase and row.flops and row.bytes and row.share >= 0.01]
    return sorted(rows, key=lambda row: -row.share)


def _intensity(row: OperatorTime) -> float:
    """Return FLOP per byte of memory traffic."""
    return float(row.flops / row.bytes)


def _achieved(row: OperatorTime) -> float:
    """Return the achieved TFLOP/s."""
    return float(row.flops / row.seconds / 1e12)


def _label_slope(ax: Axes, left: float, bandwidth: float, text: str) -> None:
    """Write the memory bandwidth along the slope."""
    from math import atan2, degrees

    start, end = (ax.transData.transform((x, x * bandwidth)) for x in (left * 1.2, left * 12))
    angle = degrees(atan2(end[1] - start[1], end[0] - start[0]))
    x = left * 1.35
    ax.annotate(
        text,
        (x, x * bandwidth),
        (0, 5),
        textcoords="offset points",
        rotation=angle,
        rotation_mode="anchor",
        va="bottom",
    )


class Label(NamedTuple):
    """A text for a point of a plot; `size` is the width of the point's marker in points."""

    x: float
    y: float
    text: str
    colour: str
    size: float


def _place_labels(ax: Axes, labels: Sequence[Label], lines: Sequence[tuple[float, float]]) -> None:
    """Write each label at the first free place around its point, with a line to the point if it is not next to it.

    Labels avoid markers, the legend, other texts, and `lines`, points along the lines of the plot.
    """
    from matplotlib.transforms import Bbox

    figure = ax.figure
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]  # an Agg canvas has one
    scale = figure.dpi / 72
    taken: list[Bbox] = []
    written: list[Bbox] = []
    for label in labels:
        x, y = ax.transData.transform((label.x, label.y))
        half = label.size * scale / 2
        taken.append(Bbox.from_extents(x - half, y - half, x + half, y + half))
    for x, y in (ax.transData.transform(point) for point in lines):
        taken.append(Bbox.from_extents(x - 1, y - 1, x + 1, y + 1))
    legend = ax.get_legend()
    taken += [legend.get_window_extent(renderer)] if legend else []
    taken += [text.get_window_extent(renderer) for text in ax.texts]
    frame = ax.get_window_extent(renderer)
    for label in labels:
        text = ax.annotate(label.text, (label.x, label.y), color=label.colour, fontsize=8.5)
        box = text.get_window_extent(renderer)
        point = tuple(ax.transData.transform((label.x, label.y)))
        place = next(
            (
                found
                for found in _places(label, box, scale, ax)
                if _free(found[1], taken, frame) and not (found[0][2] and _crosses(point, found[1], written))
            ),
            None,
        )
        text.remove()
        if place is None:
            continue
        (dx, dy, far), found = place
        arrow = {"arrowstyle": "-", "color": label.colour, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 0}
        ax.annotate(
            label.text,
            (label.x, label.y),
            (dx / scale, dy / scale),
            textcoords="offset points",
            color=label.colour,
            fontsize=8.5,
            va="bottom",
            ha="left",
            arrowprops=arrow if far else None,
        )
        taken.append(found)
        written.append(found)
        if far:
            taken += [Bbox.from_extents(x - 1, y - 1, x + 1, y + 1) for x, y in _leader(point, found)]


def _places(label: Label, box: Bbox, scale: float, ax: Axes) -> Iterator[tuple[tuple[float, float, bool], Bbox]]:
    """Yield offsets of a label's lower left corner in pixels, nearest first, with the box that it would cover."""
    from matplotlib.transforms import Bbox

    x, y = ax.transData.transform((label.x, label.y))
    half, width, height = label.size * scale / 2, box.width, box.height
    for ring, (right, up) in product(range(14), ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))):
        gap = half + (3 + 7 * ring) * scale
        dx = gap if right > 0 else -gap - width if right < 0 else -width / 2
        dy = gap if up > 0 else -gap - height if up < 0 else -height / 2
        found = Bbox.from_extents(x + dx, y + dy, x + dx + width, y + dy + height)
        yield (dx, dy, ring > 0), found


def _leader(point: Sequence[float], box: Bbox) -> list[tuple[float, float]]:
    """Return points along the line from a marker to the centre of its label."""
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    return [(point[0] + (x - point[0]) * i / 24, point[1] + (y - point[1]) * i / 24) for i in range(2, 24)]


def _crosses(point: Sequence[float], box: Bbox, written: Sequence[Bbox]) -> bool:
    """Return whether the line from a marker to its label runs through a label that is written already."""
    return any(other.contains(x, y) for other in written for x, y in _leader(point, box))


def _free(box: Bbox, taken: Sequence[Bbox], frame: Bbox) -> bool:
    """Return whether a box lies inside the frame and overlaps no other."""
    inside = frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
    return inside and not any(box.overlaps(other) for other in taken)


# Breakdown

_GROUPS = {
    "feed-forward": (COLOURS[0], ""),
    "attention matrices": (COLOURS[5], "///"),
    "attention": (COLOURS[1], ""),
    "collectives": (COLOURS[4], "..."),
    "norms, residuals, activation": (COLOURS[2], ""),
    "embedding, head": (COLOURS[3], "xx"),
    "host": ("#7F7F7F", ""),
}
COLLECTIVES = ("all_reduce", "all_gather", "all_to_all", "reduce_scatter", "send")


def _group_of(row: OperatorTime) -> str:
    """Return the key of `_GROUPS` that an operator belongs to."""
    if row.kind.startswith("host"):
        return "host"
    if row.kind in COLLECTIVES:
        return "collectives"
    if row.kind == "embedding" or row.name.startswith(("output_head", "embedding", "pooler", "layer_embedding")):
        return "embedding, head"
    if row.kind in ("elementwise", "expert_rows", "quantize_activations", "residual", "rotary"):
        return "norms, residuals, activation"
    if row.kind.startswith(("prefill_", "decode_")):
        return "attention"
    if row.kind == "grouped_gemm" or row.name.removeprefix("draft_").startswith(("mlp", "router", "shared_expert")):
        return "feed-forward"
    return "attention matrices"


@styled
def breakdown(estimates: Sequence[Estimate]) -> Figure:
    """Return stacked bars of the time of prefill and decode by group of operators, one bar for each estimate."""
    names = [_bar_name(e, estimates) for e in estimates]
    figure = _figure(7.4, 1.9 + 0.52 * len(estimates))
    axes = figure.subplots(1, 2, sharey=True)
    shown: dict[str, Patch] = {}
    for ax, phase, title in zip(
        axes, ("prefill", "decode"), ("prefill of the batch, ms", "decode step, ms"), strict=True
    ):
        sums = [_by_group(e, phase) for e in estimates]
        longest = max(sum(each.values()) for each in sums)
        for i, each in enumerate(sums):
            start = 0.0
            for group, value in each.items():
                colour, hatch = _GROUPS[group]
                bars = ax.barh(i, value, left=start, color=colour, hatch=hatch, edgecolor="white", height=0.74)
                shown.setdefault(group, bars[0])
                if value > 0.1 * longest:
                    box = {"facecolor": "black", "alpha": 0.55, "edgecolor": "none", "pad": 1.2} if hatch else None
                    ax.text(
                        start + value / 2,
                        i,
                        _three(value),
                        ha="center",
                        va="center",
                        color="white",
                        fontsize=8,
                        bbox=box,
                    )
                start += value
            ax.text(start + longest * 0.015, i, _three(start), va="center", fontweight="bold", fontsize=9)
        ax.set(xlim=(0, longest * 1.17), title=title)
        ax.set_yticks(range(len(estimates)), names)
        ax.grid(axis="y", visible=False)
    axes[0].invert_yaxis()
    ordered = [name for name in _GROUPS if name in shown]
    figure.legend([shown[name] for name in ordered], ordered, loc="outside lower center", ncols=4, fontsize=8.5)
    work = " / ".join(dict.fromkeys(_work(e) for e in estimates))
    models = ", ".join(dict.fromkeys(e.model_name for e in estimates))
    figure.suptitle(fill(f"Where does the time go? {models}, {work}", 66), x=0.01, ha="left", fontsize=11)
    return figure


def _bar_name(e: Estimate, others: Sequence[Estimate]) -> str:
    """Return GPU, format and layout, with the model if the bars are of several."""
    model = f"{e.model_name} " if len({o.model_name for o in others}) > 1 else ""
    return " ".join(f"{model}{short_name(e.gpu_name)} {e.dtype_name} {_layout(e)}".split())


def _by_group(e: Estimate, phase: str) -> dict[str, float]:
    """Return milliseconds of each group of operators in a phase, in the order of `_GROUPS`."""
    sums = dict.fromkeys(_GROUPS, 0.0)
    for row in e.operators:
        if row.phase == phase:
            sums[_group_of(row)] += row.seconds * 1e3
    return {group: value for group, value in sums.items() if value}


def _three(value: float) -> str:
    """Return three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


# Batch


class Curves(NamedTuple):
    """Columns of a sweep over batch sizes: seconds, tokens/s; `fits` as 0 or 1; a band of None is not drawn."""

    batch: Sequence[float]
    tpot: Sequence[float]
    ttft: Sequence[float]
    tpot_band: tuple[Sequence[float], Sequence[float]] | None
    ttft_band: tuple[Sequence[float], Sequence[float]] | None
    decode_rate: Sequence[float]  # generated tokens/s of one GPU
    total_rate: Sequence[float]
    fits: Sequence[float]


@styled
def batch(curves: Curves, subject: str, setting: str, max_tpot: float | None = None) -> Figure:
    """Return latency and throughput by batch size, with error bands; batches that do not fit are shaded."""
    figure = _figure(6.0, 5.9)
    top, middle, low = figure.subplots(3, 1, sharex=True)
    x = list(curves.batch)
    panels = (
        (top, curves.tpot, curves.tpot_band, "TPOT, ms", COLOURS[0], "o", 1e3),
        (middle, curves.ttft, curves.ttft_band, "TTFT of the batch, s", COLOURS[1], "s", 1.0),
    )
    for ax, values, band, name, colour, marker, unit in panels:
        if band:
            edges = [[value * unit for value in edge] for edge in band]
            ax.fill_between(x, *edges, color=colour, alpha=0.17, linewidth=0, label="80 % of published measurements")
        ax.plot(x, [v * unit for v in values], color=colour, marker=marker, markersize=3.5, label="estimate")
        ax.set(yscale="log", ylabel=name)
        ax.legend(loc="upper left", fontsize=8.5)
    if max_tpot is not None:
        top.axhline(max_tpot * 1e3, color=GREY, linestyle="--", linewidth=1.2)
        top.annotate(
            f"limit {max_tpot * 1e3:g} ms",
            (1, max_tpot * 1e3),
            (-4, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            color=GREY,
        )
    low.plot(x, curves.decode_rate, color=COLOURS[2], marker="^", markersize=4, label="decode alone")
    both = "prefill and decode in turn"
    low.plot(x, curves.total_rate, color=COLOURS[3], marker="D", linestyle=DASHES[1], markersize=3.5, label=both)
    low.set(ylabel="generated tokens/s\nof one GPU", ylim=(0, None), xscale="log", xlabel="batch: sequences at a time")
    low.legend(loc="upper left", fontsize=8.5)
    ticks = _powers_of_two(x)
    low.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    low.minorticks_off()
    for ax in (top, middle):
        plain_log_ticks(ax)
    beyond = [b for b, fits in zip(x, curves.fits, strict=True) if not fits]
    if beyond:
        largest = max((b for b, fits in zip(x, curves.fits, strict=True) if fits), default=None)
        edge = min(beyond) if largest is None else (min(beyond) * largest) ** 0.5
        for ax in (top, middle, low):
            ax.axvspan(edge, max(x) * 1.05, color=LIGHT, zorder=0)
        note = "no batch fits" if largest is None else f"batch {largest:g} fits, {min(beyond):g} does not"
        low.annotate(
            note,
            (edge, 0.06),
            (-4, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            color=GREY,
        )
    top.set_xlim(min(x) * 0.95, max(x) * 1.05)
    _titled(figure, "How does the batch size trade latency for throughput?", f"{subject}, {setting}")
    return figure


def plain_log_ticks(ax: Axes) -> None:
    """Label the 1, 2 and 5 of each decade of a logarithmic vertical axis, in plain numbers, if they are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = ax.get_ylim()
    subs = (1.0, 2.0, 5.0) if high / low < 150 else (1.0,)
    ax.yaxis.set_major_locator(LogLocator(base=10, subs=subs))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _powers_of_two(values: Sequence[float]) -> list[float]:
    """Return the powers of two between the least and the largest value; both ends if there are none."""
    found = [2.0**i for i in range(31) if min(values) <= 2.0**i <= max(values)]
    while len(found) > 11:
        found = found[::2]
    return found or [min(values), max(values)]


# Pareto and cost


class Series(NamedTuple):
    """Points of one GPU: tokens/s of one user and, for each, a height; `best` is the point chosen, with its label."""

    name: str
    users: Sequence[float]
    heights: Sequence[float]
    best: tuple[float, float, str] | None = None


def front(x: Sequence[float], y: Sequence[float], *, highest: bool) -> tuple[list[float], list[float]]:
    """Return the Pareto front of points, by x: more x is better, and more y (or less)."""
    sign = 1.0 if highest else -1.0
    kept: list[tuple[float, float]] = []
    for a, b in sorted(zip(x, y, strict=True), key=lambda point: (-point[0], -sign * point[1])):
        if not kept or sign * b > sign * kept[-1][1]:
            kept.append((a, b))
    kept.reverse()
    return [a for a, _ in kept], [b for _, b in kept]


@styled
def pareto(series: Sequence[Series], subject: str, setting: str, max_tpot: float | None = None) -> Figure:
    """Return the front of tokens/s/GPU over tokens/s/user for each GPU, all points as dots, the best one marked."""
    figure = _figure(6.4, 4.5)
    ax = figure.add_subplot()
    for one, colour, dashes, marker in _cycled(series):
        ax.scatter(one.users, one.heights, s=3, color=colour, alpha=0.18, linewidths=0, rasterized=True)
        ax.plot(*front(one.users, one.heights, highest=True), color=colour, linestyle=dashes)
        label = one.name if one.best is None else f"{one.name} {one.best[2]}: {one.best[1]:,.0f}"
        ax.plot([], [], color=colour, linestyle=dashes, marker=marker if one.best else None, label=label, mec="black")
        if one.best:
            ax.plot(*one.best[:2], color=colour, marker=marker, markersize=8, mec="black", zorder=5)
    tops = [max(one.heights, default=0.0) for one in series]
    ax.set(xlim=(0, _widest(series, max_tpot)), ylim=(0, max(tops, default=1.0) * 1.12))
    ax.set_xlabel("tokens/s of one user (1 / TPOT)")
    ax.set_ylabel("generated tokens/s of one GPU")
    if max_tpot:
        ax.axvspan(0, 1 / max_tpot, color=LIGHT, zorder=0)
        ax.axvline(1 / max_tpot, color=GREY, linewidth=1.2)
        ax.annotate(
            f"TPOT above {max_tpot * 1e3:g} ms",
            (1 / max_tpot, 0.965),
            (-4, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            va="top",
            color=GREY,
        )
    chosen = any(one.best for one in series)
    title = "most tokens/s/GPU within the limits" if chosen else None
    ax.legend(loc="upper right", fontsize=8.5, title=title, title_fontsize=8.5, alignment="left")
    _titled(figure, "Which GPU serves most at each speed of one user?", f"{subject}, {setting}")
    return figure


@styled
def cost(series: Sequence[Series], subject: str, setting: str, max_tpot: float | None = None) -> Figure:
    """Return the least cost per million tokens over tokens/s/user for each GPU."""
    figure = _figure(6.4, 4.3)
    ax = figure.add_subplot()
    lowest, highest = [], []
    for one, colour, dashes, marker in _cycled(series):
        x, y = front(one.users, one.heights, highest=False)
        ax.plot(x, y, color=colour, linestyle=dashes, marker=marker, markersize=4, markevery=0.12, label=one.name)
        lowest += [min(y, default=1.0)]
        highest += [max(y, default=1.0)]
    base = min(lowest)
    ax.set(yscale="log", xlim=(0, _widest(series, max_tpot)), ylim=(base / 1.7, min(max(highest) * 1.3, base * 60)))
    plain_log_ticks(ax)
    ax.set_xlabel("tokens/s of one user (1 / TPOT)")
    ax.set_ylabel("cost of 1M generated tokens")
    if max_tpot:
        ax.axvline(1 / max_tpot, color=GREY, linewidth=1.2)
        ax.annotate(
            f"TPOT {max_tpot * 1e3:g} ms",
            (1 / max_tpot, 0.02),
            (4, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=GREY,
        )
    ax.legend(loc="best", fontsize=8.5)
    _titled(figure, "What does the speed of one user cost?", f"{subject}, {setting}")
    return figure


def _cycled(series: Sequence[Series]) -> Iterator[tuple[Series, str, Any, str]]:
    """Yield each series with a colour, dashes and a marker."""
    for i, one in enumerate(series):
        yield one, COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)]


def _widest(series: Sequence[Series], max_tpot: float | None) -> float:
    """Return the end of the horizontal axis: the fastest user of any series."""
    fastest = max((max(one.users, default=0.0) for one in series), default=1.0)
    return max(fastest * 1.03, 1.3 / max_tpot if max_tpot else 0.0) or 1.0


# Parity

METRICS = {"ttft": "prefill (TTFT)", "tpot": "one decode step (TPOT)", "total_latency": "a whole answer"}


@styled
def parity(score: Score) -> Figure:
    """Return estimated over measured seconds of all scored rows, and their ratio below."""
    figure = _figure(5.6, 6.1)
    ax, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.1, 1])
    times = [value for _, s in score.rows for value in (s.measured_seconds, s.estimated_seconds)]
    low, high = min(times) / 1.4, max(times) * 1.4
    line = [low, high]
    for share, shade in ((0.2, "#E6E6E6"), (0.1, "#C8C8C8")):
        ax.fill_between(
            line, [v * (1 - share) for v in line], [v * (1 + share) for v in line], color=shade, linewidth=0
        )
        below.axhspan(1 - share, 1 + share, color=shade, linewidth=0)
    ax.plot(line, line, color="black", linewidth=1)
    below.axhline(1, color="black", linewidth=1)
    for (metric, name), colour, marker in zip(METRICS.items(), COLOURS, ("o", "s", "D"), strict=False):
        rows = [scored for m, scored in score.rows if m.metric == metric]
        if not rows:
            continue
        measured = [row.measured_seconds for row in rows]
        look: dict[str, Any] = {"s": 13, "color": colour, "marker": marker, "alpha": 0.5, "linewidths": 0}
        error = statistics(rows).median_abs_error
        ax.scatter(
            measured, [r.estimated_seconds for r in rows], **look, label=f"{name}: {len(rows)}, median {error:.1%}"
        )
        below.scatter(measured, [r.estimated_seconds / r.measured_seconds for r in rows], **look)
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), ylabel="estimated, s")
    ratios = [s.estimated_seconds / s.measured_seconds for _, s in score.rows]
    below.set(yscale="log", xlabel="measured, s", ylabel="estimated / measured")
    ticks = (0.1, 0.25, 0.5, 0.8, 1, 1.25, 2, 4, 10)
    below.set_ylim(min(*ratios, 0.5) / 1.15, max(*ratios, 2.0) * 1.15)
    inside = [tick for tick in ticks if below.get_ylim()[0] <= tick <= below.get_ylim()[1]]
    below.set_yticks(inside, [f"{tick:g}" for tick in inside])
    below.minorticks_off()
    ax.legend(loc="upper left", fontsize=8.5, handletextpad=0.2, title="|error| by metric", alignment="left")
    ax.annotate(
        "dark: within 10 %, light: 20 %", (0.98, 0.03), xycoords="axes fraction", ha="right", color=GREY, fontsize=8.5
    )
    overall = score.overall
    _titled(
        figure,
        f"How close are estimates to {overall.n} published figures?",
        f"median |error| {overall.median_abs_error:.1%}, p90 {overall.p90_abs_error:.0%}; "
        "each row is estimated by a fit that leaves it out",
    )
    return figure
