"""A picture of a server over the request rate: TTFT and TPOT percentiles, throughput. Needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_analysis.report.plots import COLOURS, DASHES, GREY, MARKERS, plain_log_ticks, styled
from llm_analysis.serving.load import Load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE = 10.0  # a ratio of largest to least latency from which the axis is logarithmic


@styled
def curve_figure(load: Load) -> Figure:
    """Return TTFT, TPOT and completed requests over the request rates. Raises LLMAnalysisError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = [point for point in load.points if point.request_rate is not None]
    rates = [point.request_rate for point in points]
    figure = Figure(figsize=(9.5, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    for axis, name, title in zip(axes, ("ttft", "tpot"), ("TTFT (ms)", "TPOT (ms)"), strict=False):
        drawn: list[float] = []
        for i, statistic in enumerate(("median", "p90", "p99")):
            values = [getattr(getattr(point.summary, name), statistic) * 1e3 for point in points]
            style = {"color": COLOURS[i], "linestyle": DASHES[i], "marker": MARKERS[i], "markersize": 4}
            axis.plot(rates, values, label=statistic, **style)
            drawn += values
        axis.set_title(title)
        if max(drawn) > WIDE * min(drawn) > 0:
            axis.set_yscale("log")
            plain_log_ticks(axis)
        axis.legend()
    axes[2].plot(rates, [point.summary.request_throughput for point in points], color=COLOURS[0], marker=MARKERS[0])
    axes[2].plot(rates, rates, color=GREY, linestyle=DASHES[2], label="offered")
    axes[2].set_title("completed requests/s")
    for axis in axes:
        axis.set_xlabel("requests/s")
        if load.saturation_rate is not None:
            label = f"saturation: {load.saturation_rate:.3g}/s"
            axis.axvline(load.saturation_rate, color=GREY, linestyle=DASHES[1], linewidth=1.2, label=label)
    axes[2].legend()
    figure.suptitle(f"{load.model_name} on {load.num_gpus} x {load.gpu_name}")
    return figure
