"""A picture of a server over the request rate: TTFT and TPOT percentiles, throughput. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

from llm_analysis.errors import BadValue, LLMAnalysisError, shown
from llm_analysis.serving.load import Load


def curve_file(load: Load, target: Path) -> bytes:
    """Return the picture as a PNG or SVG file, by the ending of its name. Raises LLMAnalysisError."""
    from llm_analysis.report.plots import FORMATS, drawn

    kind = target.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise BadValue(f"plot must end in .png or .svg, not {shown(target.name)}")
    points = [point for point in load.points if point.request_rate is not None]
    if len(points) < 2:
        raise BadValue("plot needs several rates: give --request_rate 2,4,8")
    return drawn(_figure(load), kind)


def _figure(load: Load):  # type: ignore[no-untyped-def]  # matplotlib is optional
    """Return the figure."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise LLMAnalysisError('plots need matplotlib: pip install "llm-analysis[plot]"') from None
    from llm_analysis.report.plots import COLOURS, DASHES, GREY, MARKERS, STYLE

    points = [point for point in load.points if point.request_rate is not None]
    rates = [point.request_rate for point in points]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 3.4), layout="constrained")
        axes = figure.subplots(1, 3)
        for axis, name, title in zip(axes, ("ttft", "tpot"), ("TTFT (ms)", "TPOT (ms)"), strict=False):
            for i, statistic in enumerate(("median", "p90", "p99")):
                values = [getattr(getattr(point.summary, name), statistic) * 1e3 for point in points]
                axis.plot(
                    rates,
                    values,
                    color=COLOURS[i],
                    linestyle=DASHES[i],
                    marker=MARKERS[i],
                    markersize=4,
                    label=statistic,
                )
            axis.set_title(title)
            axis.set_yscale("log")
            axis.legend()
        axes[2].plot(rates, [point.summary.request_throughput for point in points], color=COLOURS[0], marker=MARKERS[0])
        axes[2].plot(rates, rates, color=GREY, linestyle=DASHES[2], label="offered")
        axes[2].set_title("completed requests/s")
        axes[2].legend()
        for axis in axes:
            axis.set_xlabel("requests/s")
            if load.saturation_rate is not None:
                axis.axvline(load.saturation_rate, color=GREY, linestyle=DASHES[1])
        figure.suptitle(f"{load.model_name} on {load.num_gpus} x {load.gpu_name}")
    return figure
