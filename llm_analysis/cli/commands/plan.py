"""The command `plan`: the cheapest way to serve a model within limits."""

from collections.abc import Callable
from functools import partial
from typing import Annotated

from llm_analysis.cli.flags import OUTPUT, Flag
from llm_analysis.cli.output import Format, Output, set_log_level
from llm_analysis.cli.pictures import pareto_figure, picture_path, with_picture
from llm_analysis.cli.progress import Progress
from llm_analysis.errors import choice
from llm_analysis.explore.plan_flags import DEFAULTS, planned
from llm_analysis.report.plan import rendered
from llm_analysis.report.tables import FORMATS

_what = partial(Flag, group="Model, GPUs and number formats")
_demand = partial(Flag, group="Demand")
_limit = partial(Flag, group="Limits", unit="")
_search = partial(Flag, group="Search")


def plan(
    *,
    model_name: Annotated[
        str | None, _what("name from `llm-analysis models`, JSON file, or Hugging Face org/name")
    ] = None,
    gpu_name: Annotated[str | None, _what("names from `llm-analysis gpus` joined by commas, or all")] = None,
    dtype_name: Annotated[
        str | None,
        _what("number formats joined by commas; the default is the checkpoint's and those that the GPU supports"),
    ] = None,
    allow_download: Annotated[bool, _what("download the config.json of org/name if no cache has it")] = False,
    seq_len: Annotated[int, _demand("prompt length", unit="tokens")] = 512,
    num_tokens_to_generate: Annotated[int, _demand("output length", unit="tokens")] = 32,
    request_rate: Annotated[float | None, _demand("requests that arrive per second")] = None,
    max_concurrency: Annotated[int | None, _demand("requests in flight, instead of a rate")] = None,
    trace: Annotated[
        str | None, _demand("CSV of arrival_time,input_tokens,output_tokens; gives the mean rate and lengths")
    ] = None,
    max_ttft: Annotated[str | None, _limit("mean time to first token, such as 1s")] = None,
    max_tpot: Annotated[str | None, _limit("mean time per output token, such as 20ms")] = None,
    max_request_latency: Annotated[str | None, _limit("mean time of a whole request, such as 10s")] = None,
    min_tokens_per_second: Annotated[float | None, _limit("lowest generation speed of one user (1 / TPOT)")] = None,
    max_cost_per_hour: Annotated[float | None, _limit("highest cost of all GPUs per hour")] = None,
    max_gpus: Annotated[int | None, _limit("most GPUs")] = None,
    within: Annotated[
        str, _limit("estimate, or band to meet the limits at the high edge of the error band")
    ] = "estimate",
    prices: Annotated[str | None, _search("CSV of gpu_name,cost_per_hour; GPUs without a price are left out")] = None,
    cost_per_gpu_hour: Annotated[float | None, _search("one price for all GPUs")] = None,
    mode: Annotated[
        str | None, _search("aggregated, or disaggregated (prefill and decode on separate GPUs); default both")
    ] = None,
    method: Annotated[str | None, _search("calibrated (the default) or ideal")] = None,
    runtime: Annotated[str | None, _search("serving engine for method calibrated")] = None,
    gpu_memory_utilization: Annotated[float, _search("usable fraction of the GPU memory")] = 0.9,
    plot: Annotated[str | None, Flag("draw the Pareto front of each GPU into this .png or .svg file", OUTPUT)] = None,
    format: Format = "table",
    log_level: Annotated[str, Flag("DEBUG shows the traceback of an internal error", OUTPUT)] = "WARNING",
) -> Output:
    """Find the GPUs, format, layout, batch and replicas that serve a demand at the lowest cost, or with fewest GPUs."""
    flags = {name: value for name, value in locals().items() if name in DEFAULTS}
    choice("format", format, FORMATS)
    set_log_level(log_level)
    picture = None if plot is None else picture_path("plot", plot)
    bar: list[Progress] = []

    def progress(total: int) -> Callable[[int], None]:
        bar.append(Progress(total, "GPUs"))
        return bar[0].add

    try:
        found = planned(flags, progress)
    finally:
        for each in bar:
            each.clear()
    output = Output(rendered(found, format))
    if found.best is None:
        output = output._replace(failure="no configuration meets the limits", status=1)
    return output if picture is None else with_picture(output, picture, pareto_figure(found), format)
