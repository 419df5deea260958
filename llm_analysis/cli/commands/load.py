"""The command `load`: a server under arriving requests, simulated."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from time import monotonic
from typing import Annotated, Any

from llm_analysis.cli.commands.infer import PRINTING, asked, infer
from llm_analysis.cli.flags import OUTPUT, Flag, flags_of, with_flags_of
from llm_analysis.cli.output import Output
from llm_analysis.cli.pictures import picture_path, with_picture
from llm_analysis.cli.terminal import columns
from llm_analysis.cli.writing import path_of
from llm_analysis.errors import BadValue, choice, number, shown, whole_number, without_unit
from llm_analysis.explore.ranges import is_one_number, values_of
from llm_analysis.inference.analysis import hourly_cost
from llm_analysis.inference.passes import served_notes
from llm_analysis.inference.question import check_generates
from llm_analysis.report.load import all_notes, rendered
from llm_analysis.serving.lengths import Lengths, check_lengths, fixed, read_trace, uniform, workload
from llm_analysis.serving.load import Question, answer, parse_limits
from llm_analysis.serving.scheduler import Request
from llm_analysis.serving.server import Workload, build_server
from llm_analysis.serving.simulation import ROUTERS
from llm_analysis.serving.step_times import Speculation

NOT_SHARED = (  # flags of infer that do not apply to a server
    "batch_size_per_gpu",
    "seq_len",
    "num_tokens_to_generate",
    "num_samples",
    "cached_prefix_len",
    "prefill_chunk_size",
    "use_kv_cache",
    "disaggregated",
    *PRINTING,
    "must_fit",
    "max_num_seqs",
    "gpu_memory_utilization",
    "flops_efficiency",
    "hbm_memory_efficiency",
    "achieved_tflops",
    "achieved_memory_bandwidth_GBs",
    "intra_node_memory_efficiency",
    "inter_node_memory_efficiency",
)
QUIET_SECONDS = 1.0  # seconds before a progress bar appears
BAR = 40  # longest text of request rates
MOST_PROMPTS = 10**6
MOST_REPLICAS = 256  # replicas, or workers of each kind: the router compares all of them for each request

_arrivals = partial(Flag, group="Arrivals")
_requests = partial(Flag, group="Requests")
_engine = partial(Flag, group="Engine")


@with_flags_of(infer, without=NOT_SHARED)
def load(
    *,
    request_rate: Annotated[
        str,
        _arrivals(
            "requests per second; inf: all at once; a list 2,4,8 or 1:16 (powers of two) gives a curve", raw=True
        ),
    ] = "inf",
    burstiness: Annotated[
        float, _arrivals("shape of gamma gaps: 1 Poisson, below 1 burstier; inf gives equal gaps")
    ] = 1.0,
    max_concurrency: Annotated[int | None, _arrivals("most requests in the server at a time (closed loop)")] = None,
    num_prompts: Annotated[int, _requests("number of requests")] = 1000,
    seed: Annotated[int, _requests("seed of arrivals and lengths")] = 0,
    dataset: Annotated[
        str | None, _requests("lengths of a public workload: azure-conv, azure-code, sharegpt, ...")
    ] = None,
    random_input_len: Annotated[int, _requests("mean prompt length", unit="tokens")] = 1024,
    random_output_len: Annotated[int, _requests("mean output length", unit="tokens")] = 128,
    random_range_ratio: Annotated[float, _requests("lengths vary from 1 - ratio to 1 + ratio times the mean")] = 0.0,
    trace: Annotated[str | None, _requests("CSV file: arrival_time (seconds), input_tokens, output_tokens")] = None,
    prefix_cache_hit_rate: Annotated[float, _requests("fraction of each prompt that the prefix cache holds")] = 0.0,
    max_num_seqs: Annotated[int | None, _engine("most running sequences; the default is the engine's own")] = None,
    max_num_batched_tokens: Annotated[
        int | None, _engine("most tokens in a step; the default is the engine's own", unit="tokens")
    ] = None,
    gpu_memory_utilization: Annotated[
        float | None, _engine("usable fraction of the GPU memory; the default is the engine's own")
    ] = None,
    router: Annotated[str, _engine("round_robin or least_loaded, over dp_size replicas")] = "round_robin",
    num_prefill_workers: Annotated[int, _engine("disaggregated prefill: workers of tp_size * pp_size GPUs")] = 0,
    num_decode_workers: Annotated[int, _engine("disaggregated decode: workers of tp_size * pp_size GPUs")] = 0,
    goodput: Annotated[
        str | None, Flag("limits in ms, ttft:500,tpot:50; adds the highest rate that meets them", OUTPUT, raw=True)
    ] = None,
    goodput_attainment: Annotated[float, Flag("fraction of requests that must meet the limits", OUTPUT)] = 0.99,
    plot: Annotated[str | None, Flag("PNG or SVG file of the curve over the rates", OUTPUT)] = None,
    **flags: Any,
) -> Output:
    """Simulate a server under load: TTFT, TPOT, ITL and latency percentiles, saturation rate and goodput.

    The result block is that of `vllm bench serve`, and so are most flags.
    """
    given = locals()
    scenario, served = asked(flags | _no_efficiencies())
    choice("router", router, ROUTERS)
    whole_number("dp_size", scenario.layout.dp_size, MOST_REPLICAS)
    _check_unused(given)
    rates = [inf] if trace is not None else _rates(request_rate)
    picture = None if plot is None else picture_path("plot", plot)
    if picture is not None and len(rates) < 2:
        raise BadValue("plot needs several rates: give --request_rate 2,4,8")
    burst, hit = number_above("burstiness", burstiness), number("prefix_cache_hit_rate", prefix_cache_hit_rate)
    if not 0 <= hit < 1:
        raise BadValue(f"prefix_cache_hit_rate must be from 0 to below 1, not {hit:g}")
    share = number("goodput_attainment", goodput_attainment)
    if not 0 < share <= 1:
        raise BadValue(f"goodput_attainment must be above 0 and at most 1, not {share:g}")
    _check_arrivals(given, rates)
    count = whole_number("num_prompts", num_prompts, MOST_PROMPTS)
    inputs, outputs = _lengths(dataset, random_input_len, random_output_len, random_range_ratio)
    requests: Sequence[Request] = read_trace(path_of("trace", trace)) if trace is not None else ()
    asked_for = Workload(inputs, outputs, burst, whole_number("seed", seed, 2**63, 0))
    sample = list(requests) or asked_for.requests(count, inf)
    check_lengths(sample, scenario.model.max_position_embeddings, scenario.model.name)
    longest = max(request.output_tokens for request in sample)
    check_generates(scenario.model, longest, "give --random_output_len 1, or a trace with 1 as output_tokens")
    changed = _changed(max_num_seqs, max_num_batched_tokens, gpu_memory_utilization) | {"cached_prefix": hit}
    server = build_server(
        scenario,
        float(max(r.input_tokens + r.output_tokens for r in sample)),
        sum(r.input_tokens + r.output_tokens / 2 for r in sample) / len(sample),
        changed=changed,
        router=router,
        num_prefill_workers=whole_number("num_prefill_workers", num_prefill_workers, MOST_REPLICAS, 0),
        num_decode_workers=whole_number("num_decode_workers", num_decode_workers, MOST_REPLICAS, 0),
        speculation=Speculation.of(served),
    )
    question = Question(
        scenario=scenario,
        server=server,
        workload=asked_for,
        rates=rates,
        num_prompts=count,
        max_concurrency=inf if max_concurrency is None else whole_number("max_concurrency", max_concurrency),
        trace=requests,
        limits=None if goodput is None else parse_limits(goodput),
        share=share,
        cost_per_gpu_hour=hourly_cost(flags["cost_per_gpu_hour"]),
        kernel_notes=served_notes(scenario, served.model_copy(update={"disaggregated": server.link is not None})),
    )
    with_bar = _bar() if sys.stderr.isatty() else None
    found = answer(question, with_bar)
    output = Output(rendered(found, flags["format"], columns())).noting(all_notes(found), flags["format"])
    if picture is None:
        return output
    from llm_analysis.report.load_plot import curve_figure

    return with_picture(output, picture, curve_figure(found), flags["format"])


_OF_LENGTHS: tuple[str, ...] = ("random_input_len", "random_output_len", "random_range_ratio")
_OF_ARRIVALS: tuple[str, ...] = ("request_rate", "burstiness", "num_prompts", "dataset")


def _check_unused(given: Mapping[str, object]) -> None:
    """Raise BadValue for a flag that a trace or a dataset would leave without effect."""
    what, unused = f"dataset {given['dataset']} has its own lengths", _OF_LENGTHS
    if given["trace"] is not None:
        what, unused = "a trace has its own arrivals and lengths", _OF_ARRIVALS + _OF_LENGTHS
    elif given["dataset"] in (None, "random"):
        return
    defaults = {name: flag.default for name, flag in flags_of(load).items()}
    wrong = next((name for name in unused if given[name] != defaults[name]), None)
    if wrong:
        raise BadValue(f"{what}: leave out {wrong}")


def _check_arrivals(given: Mapping[str, object], rates: Sequence[float]) -> None:
    """Raise BadValue for a burstiness or a share of requests that the other flags would leave without effect."""
    defaults = {name: flag.default for name, flag in flags_of(load).items()}
    if given["goodput_attainment"] != defaults["goodput_attainment"]:
        if given["goodput"] is None:
            raise BadValue("goodput_attainment needs limits: give --goodput, such as ttft:500,tpot:50")
        if given["trace"] is not None:
            raise BadValue("a trace has one rate, and goodput_attainment is for the highest one: leave it out")
    # The search for the highest rate within the limits of goodput has finite rates.
    at_once = given["goodput"] is None and all(rate == inf for rate in rates)
    if at_once and given["burstiness"] != defaults["burstiness"]:
        raise BadValue("burstiness has no effect on requests that arrive all at once: give --request_rate, such as 8")


def _no_efficiencies() -> dict[str, None]:
    """Return the flags of method published, which has no serving engine, as not given."""
    return dict.fromkeys(name for name in NOT_SHARED if "efficiency" in name or "achieved" in name)


def _rates(text: str) -> list[float]:
    """Return the request rates of a flag. Raises BadValue."""
    rates: list[float] = []
    rate: float | None
    parts = text.strip("[]() ").split(",")
    for part in [value for each in parts for value in (values_of("request_rate", each) if ":" in each else [each])]:
        try:
            rate = float(part)  # type: ignore[arg-type]  # a number, or text
        except ValueError:
            rate = None
        if rate is None or not rate > 0:
            raise BadValue(
                f"request_rate must be requests per second above 0, inf, or a list of them, not {shown(text)}"
                f"{without_unit(text) if is_one_number(text) else without_unit(part) if rate is None else ''}"
            )
        rates.append(rate)
    return rates


def number_above(flag: str, value: object) -> float:
    """Return a number above 0; infinity is allowed. Raises BadValue."""
    if value == inf or value == "inf":
        return inf
    found = number(flag, value)
    if found <= 0:
        raise BadValue(f"{flag} must be above 0, not {found:g}")
    return found


def _lengths(dataset: str | None, tokens_in: int, tokens_out: int, ratio: float) -> tuple[Lengths, Lengths]:
    """Return the length distributions of the requests. Raises BadValue, UnknownName."""
    if dataset is not None and dataset != "random":
        return workload({"azure": "azure-conv"}.get(dataset, dataset))
    most = 10**8
    pair = whole_number("random_input_len", tokens_in, most), whole_number("random_output_len", tokens_out, most)
    spread = number("random_range_ratio", ratio)
    if not 0 <= spread < 1:
        raise BadValue(f"random_range_ratio must be from 0 to below 1, not {spread:g}")
    return (uniform(pair[0], spread), uniform(pair[1], spread)) if spread else (fixed(pair[0]), fixed(pair[1]))


def _changed(max_num_seqs: object, max_num_batched_tokens: object, utilization: object) -> dict[str, float]:
    """Return the engine's settings that the user gave. Raises BadValue."""
    changed: dict[str, float] = {}
    if max_num_seqs is not None:
        changed["max_num_seqs"] = whole_number("max_num_seqs", max_num_seqs, 10**5)
    if max_num_batched_tokens is not None:
        changed["max_num_batched_tokens"] = whole_number("max_num_batched_tokens", max_num_batched_tokens)
    if utilization is not None:
        found = number("gpu_memory_utilization", utilization)
        if not 0 < found <= 1:
            raise BadValue(f"gpu_memory_utilization must be above 0 and at most 1, not {found:g}")
        changed["gpu_memory_utilization"] = found
    return changed


def _bar() -> Callable[[float], None]:
    """Return a function that draws a progress bar on stderr once the work has taken more than a second."""
    start = monotonic()

    def draw(done: float) -> None:
        if monotonic() - start < QUIET_SECONDS:
            return
        end = "\r" if done < 1 else "\r" + " " * (BAR + 8) + "\r"
        full = int(BAR * done)
        print(f"\r[{'#' * full}{'.' * (BAR - full)}] {done:4.0%}", end=end, file=sys.stderr, flush=True)

    return draw
