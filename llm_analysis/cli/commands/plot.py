"""The command `plot`: pictures of estimates and of their accuracy."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from llm_analysis.cli.commands.compare import SINGLE, estimates_of
from llm_analysis.cli.commands.infer import PRINTING, asked, infer
from llm_analysis.cli.flags import OUTPUT, Flag, with_flags_of
from llm_analysis.cli.output import Output
from llm_analysis.cli.pictures import pareto_figure, picture_path, with_picture
from llm_analysis.cli.writing import path_of
from llm_analysis.errors import BadValue, choice
from llm_analysis.explore.combinations import axes, combinations
from llm_analysis.explore.plan_flags import planned
from llm_analysis.explore.ranges import values_of
from llm_analysis.explore.where import time_limit
from llm_analysis.inference.estimate import Estimate

MOST_BARS, MOST_BATCHES = 12, 4096
DEFAULT_BATCHES = "1:1024,3:768,5:640,7:896"


@with_flags_of(infer, without=(*PRINTING, "format"), raw=True)
def plot(
    *,
    kind: Annotated[str, Flag("roofline, breakdown, batch, pareto, cost or parity", OUTPUT)] = "roofline",
    output_file: Annotated[str | None, Flag("picture to write, .png or .svg; the default is KIND.png", OUTPUT)] = None,
    max_tpot: Annotated[str | None, Flag("limit on TPOT to draw, such as 20ms", OUTPUT)] = None,
    max_ttft: Annotated[str | None, Flag("kinds pareto and cost: limit on TTFT, such as 1s", OUTPUT)] = None,
    prices: Annotated[str | None, Flag("kind cost: CSV of gpu_name,cost_per_hour", OUTPUT)] = None,
    measurements: Annotated[str | None, Flag("kind parity: CSV file of your measurements", OUTPUT)] = None,
    **flags: Any,
) -> Output:
    """Draw a picture and write it to a file. Flags may list values: --batch_size_per_gpu 1:256."""
    from llm_analysis.report import plots

    choice("kind", kind, plots.KINDS)
    target = picture_path("output_file", f"{kind}.png" if output_file is None else output_file)
    limit = None if max_tpot is None else time_limit("max_tpot", max_tpot)
    flags |= {"format": "table"}
    if kind == "parity":
        figure = plots.parity(_scored(measurements))
    elif kind == "roofline":
        estimate = estimates_of(flags, 1)[0]
        scenario, _ = asked(next(combinations(axes(flags, SINGLE))))
        rates = (scenario.dtypes.math, scenario.dtypes.stream)
        figure = plots.roofline(estimate, scenario.gpu, rates)
    elif kind == "breakdown":
        figure = plots.breakdown(estimates_of(flags, MOST_BARS))
    elif kind == "batch":
        figure = batch_figure(flags, limit)
    else:
        figure = _searched(kind, flags, {"max_tpot": max_tpot, "max_ttft": max_ttft, "prices": prices})
    return with_picture(Output(""), target, figure)


def _searched(kind: str, flags: Mapping[str, Any], limits: Mapping[str, Any]) -> Any:
    """Return the Pareto front of each GPU, or its cost, from the search of plan. Raises LLMAnalysisError."""
    if kind == "cost" and limits["prices"] is None and flags["cost_per_gpu_hour"] is None:
        raise BadValue("plot --kind cost needs prices: give --prices or --cost_per_gpu_hour")
    shared = ("model_name", "gpu_name", "dtype_name", "allow_download", "method", "runtime")
    asked: dict[str, Any] = {name: flags[name] for name in shared}
    for name in ("seq_len", "num_tokens_to_generate", "gpu_memory_utilization", "cost_per_gpu_hour"):
        values = values_of(name, flags[name])
        if len(values) > 1:
            raise BadValue(f"plot --kind {kind} takes one value of {name}, not {len(values)}")
        if values[0] is not None:
            asked[name] = values[0]
    asked |= {"request_rate": 1.0, "mode": "aggregated", **limits}
    return pareto_figure(planned(asked), cost=kind == "cost")


def _scored(measurements: str | None) -> Any:
    """Return the score of a table of measurements. Raises BadValue if no row can be estimated."""
    from llm_analysis.calibration.measurements import EVIDENCE
    from llm_analysis.calibration.validation import score

    found = score(EVIDENCE if measurements is None else path_of("measurements", measurements))
    if not found.rows:
        raise BadValue(f"no row could be estimated: {found.skipped[0][1] if found.skipped else 'all are set apart'}")
    return found


def batch_figure(flags: Mapping[str, Any], max_tpot: float | None) -> Any:
    """Return latency and throughput over batch sizes: those given, else 1 to 1024. Raises LLMAnalysisError."""
    from llm_analysis.report import plots

    given = flags["batch_size_per_gpu"]
    batches = {"batch_size_per_gpu": DEFAULT_BATCHES if given == 1 else given}
    found = estimates_of({**flags, **batches}, MOST_BATCHES)
    estimates = sorted(found, key=lambda e: e.batch_size_per_gpu)
    if len({e.batch_size_per_gpu for e in estimates}) < len(estimates):
        raise BadValue("plot --kind batch takes several values of batch_size_per_gpu, and one of every other flag")
    first, gpus = estimates[0], estimates[0].num_gpus
    curves = plots.Curves(
        [e.batch_size_per_gpu for e in estimates],
        [e.decode_latency for e in estimates],
        [e.prefill_latency for e in estimates],
        _band(estimates, "decode"),
        _band(estimates, "prefill"),
        [e.decode_tokens_per_sec / gpus for e in estimates],
        [e.total_tokens_per_sec / gpus for e in estimates],
        [e.fits for e in estimates],
    )
    work = f"{first.seq_len:,} tokens in, {first.num_tokens_to_generate:,} out"
    return plots.batch(curves, plots.on_gpus(first), work, max_tpot)


def _band(estimates: Sequence[Estimate], phase: str) -> Any:
    """Return the low and the high edges of a latency; None without a band."""
    edges = tuple([getattr(e, f"{phase}_latency_{end}") for e in estimates] for end in ("low", "high"))
    return None if None in edges[0] else edges
