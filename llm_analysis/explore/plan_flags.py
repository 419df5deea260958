"""A plan from names and keywords: the flags of the command line, or keywords of the Python API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llm_analysis import catalog
from llm_analysis.errors import MAX_NAMES, BadConfig, BadValue, LLMAnalysisError, choice, number, shown, without_unit
from llm_analysis.explore.plan import MODES, Demand, Limits, Plan
from llm_analysis.explore.plan import plan as searched
from llm_analysis.explore.ranges import values_of
from llm_analysis.explore.where import time_limit
from llm_analysis.files import read_table
from llm_analysis.hardware.gpu import GPU
from llm_analysis.inference.methods import METHODS
from llm_analysis.inference.question import check_generates
from llm_analysis.inference.runtimes import get_runtime
from llm_analysis.serving.lengths import read_trace

_ALL = "all"
_WITHIN = ("estimate", "band")
# The flags with their defaults.
DEFAULTS: dict[str, Any] = {
    "model_name": None,
    "gpu_name": None,
    "dtype_name": None,
    "allow_download": False,
    "seq_len": 512,
    "num_tokens_to_generate": 32,
    "request_rate": None,
    "max_concurrency": None,
    "trace": None,
    "max_ttft": None,
    "max_tpot": None,
    "max_request_latency": None,
    "min_tokens_per_second": None,
    "max_cost_per_hour": None,
    "max_gpus": None,
    "within": "estimate",
    "prices": None,
    "cost_per_gpu_hour": None,
    "mode": None,
    "method": None,
    "runtime": None,
    "gpu_memory_utilization": 0.9,
}


def planned(flags: Mapping[str, Any], progress: Callable[[int], Callable[[int], None]] | None = None) -> Plan:
    """Return the plan of the flags. Flags that are missing have their `DEFAULTS`. Raises LLMAnalysisError.

    `progress` gets the number of GPUs to search, and returns a function that counts those that are done.
    """
    flags = DEFAULTS | dict(flags)
    for name, listing in (("model_name", "models"), ("gpu_name", "gpus")):
        if flags[name] is None:
            raise BadValue(f"--{name} is missing; `llm-analysis {listing}` lists the known names")
    choice("within", flags["within"], _WITHIN)
    if flags["mode"] is not None:
        choice("mode", flags["mode"], MODES)
    if flags["method"] is not None:
        choice("method", flags["method"], [name for name in METHODS if name != "published"])
    model = catalog.get_model(flags["model_name"], flags["allow_download"])
    check_generates(model, 2, "infer and load take an encoder")
    gpus = _gpus_named(flags["gpu_name"])
    formats = flags["dtype_name"]
    return searched(
        model,
        gpus,
        _demand(flags),
        _limits(flags),
        formats=None if formats is None else [str(each) for each in values_of("dtype_name", formats, text=True)],
        prices=_prices(flags, gpus),
        runtime=None if flags["runtime"] is None else get_runtime(flags["runtime"]),
        method=flags["method"],
        modes=MODES if flags["mode"] is None else (flags["mode"],),
        within=flags["within"],
        gpu_memory_utilization=flags["gpu_memory_utilization"],
        progress=progress(len(gpus)) if progress else None,
    )


def _gpus_named(names: object) -> list[GPU]:
    """Return the GPUs of a list of names, or all of the catalogue. Raises LLMAnalysisError."""
    given = values_of("gpu_name", names, text=True)
    if any(str(name).lower() == _ALL for name in given):
        return [catalog.get_gpu(name) for name in catalog.names("gpu_configs")]
    found = [catalog.get_gpu(name) for name in given]
    return list({gpu.name: gpu for gpu in found}.values())


_MIN_RATE = 1e-4  # requests/s: about nine a day
_OF_TRACE = ("request_rate", "max_concurrency", "seq_len", "num_tokens_to_generate")  # what a trace gives


def _demand(flags: Mapping[str, Any]) -> Demand:
    """Return the demand of the flags: lengths and a load. Raises BadValue."""
    rate, concurrency = flags["request_rate"], flags["max_concurrency"]
    if flags["trace"] is not None:
        if unused := [name for name in _OF_TRACE if flags[name] != DEFAULTS[name]]:
            raise BadValue(f"a trace has its own rate and lengths: leave out {' and '.join(unused)}")
        return _demand_of_trace(Path(flags["trace"]).expanduser())
    whole = {name: flags[name] for name in ("seq_len", "num_tokens_to_generate")}
    for name, value in (*whole.items(), *([("max_concurrency", concurrency)] if concurrency is not None else [])):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            hint = without_unit(value, whole=True)
            raise BadValue(f"{name} must be a whole number from 1 up, not {shown(value)}{hint}")
    if rate is None and concurrency is None:
        raise BadValue("the load is missing: give --request_rate, --max_concurrency or --trace")
    rate = None if rate is None else number("request_rate", rate)
    if rate is not None and rate < _MIN_RATE:
        raise BadValue(f"request_rate must be at least {_MIN_RATE:g} requests/s, not {rate:g}")
    return Demand(whole["seq_len"], whole["num_tokens_to_generate"], rate, concurrency)


def _demand_of_trace(path: Path) -> Demand:
    """Return the mean rate and the mean lengths of a trace. Raises BadConfig."""
    requests = read_trace(path)
    span = requests[-1].due - requests[0].due
    if len(requests) < 2 or span <= 0:
        raise BadConfig(f"{path}: a trace needs two requests or more, at different times")
    inputs = sum(each.input_tokens for each in requests) / len(requests)
    outputs = sum(each.output_tokens for each in requests) / len(requests)
    return Demand(max(round(inputs), 1), max(round(outputs), 2), (len(requests) - 1) / span)


def _limits(flags: Mapping[str, Any]) -> Limits:
    """Return the limits of the flags, in SI units. Raises BadValue for one that is not above 0."""
    readers: dict[str, tuple[str, Callable[[str, Any], float]]] = {
        "ttft": ("max_ttft", time_limit),
        "tpot": ("max_tpot", time_limit),
        "request_latency": ("max_request_latency", time_limit),
        "tokens_per_second": ("min_tokens_per_second", number),
        "cost_per_hour": ("max_cost_per_hour", number),
        "gpus": ("max_gpus", number),
    }
    found = {}
    for field, (name, read) in readers.items():
        if flags.get(name) is not None:
            found[field] = read(name, flags[name])
            if found[field] <= 0:
                raise BadValue(f"{name} must be above 0, not {found[field]:g}")
    if "cost_per_hour" in found and flags["prices"] is None and flags["cost_per_gpu_hour"] is None:
        raise BadValue("max_cost_per_hour needs prices: give --prices or --cost_per_gpu_hour")
    return Limits(**found)


def _prices(flags: Mapping[str, Any], gpus: list[GPU]) -> dict[str, float] | None:
    """Return the price of an hour by GPU; None without prices. Raises BadValue, BadConfig."""
    if flags["prices"] is not None and flags["cost_per_gpu_hour"] is not None:
        raise BadValue("give prices or cost_per_gpu_hour, not both")
    if flags["cost_per_gpu_hour"] is not None:
        return dict.fromkeys((gpu.name for gpu in gpus), _price("cost_per_gpu_hour", flags["cost_per_gpu_hour"]))
    given = flags["prices"]
    if given is None:
        return None
    found: dict[str, float] = {}
    if isinstance(given, Mapping):
        where = "prices"
        for name, price in given.items():
            gpu = catalog.get_gpu(name).name
            if gpu in found:
                raise BadValue(f"prices has two prices of {gpu}; keep one")
            found[gpu] = _price(f"the price of {name}", price)
    else:
        where = str(Path(given).expanduser())
        found = _read_prices(Path(where))
    _check_priced(gpus, found, where)
    return found


def _check_priced(gpus: list[GPU], prices: Mapping[str, float], where: str) -> None:
    """Raise BadValue if none of the GPUs to search has a price, so that all would be left out."""
    if any(gpu.name in prices for gpu in gpus):
        return
    names = ", ".join(gpu.name for gpu in gpus[:MAX_NAMES]) + (", ..." if len(gpus) > MAX_NAMES else "")
    what = "it" if len(gpus) == 1 else "one of them"
    raise BadValue(f"{where}: no price of {names}; add {what}, or give --cost_per_gpu_hour instead")


def _read_prices(path: Path) -> dict[str, float]:
    """Return the prices in a CSV of gpu_name,cost_per_hour. Raises BadConfig, BadValue, UnknownName."""
    rows = read_table(path, ("gpu_name", "cost_per_hour"), "prices")
    found: dict[str, float] = {}
    lines: dict[str, int] = {}
    for line, row in enumerate(rows, 2):
        # csv.DictReader keeps the cells beyond the columns under the key None.
        beyond = [cell for key, cells in row.items() if not isinstance(key, str) for cell in cells if cell.strip()]
        if beyond:
            raise BadConfig(f"{path}, line {line}: more cells than columns; write a number without commas")
        cell = str(row["cost_per_hour"] or "").strip()
        try:
            value = float(cell)
        except ValueError:
            raise BadConfig(
                f"{path}, line {line}: cost_per_hour must be a number, not {shown(cell)}{without_unit(cell)}"
            ) from None
        try:
            gpu = catalog.get_gpu(str(row["gpu_name"] or "").strip()).name
        except LLMAnalysisError as error:
            raise type(error)(f"{path}, line {line}: {error}") from None
        if gpu in lines:
            raise BadConfig(f"{path}, line {line}: a second price of {gpu}, after that of line {lines[gpu]}; keep one")
        found[gpu], lines[gpu] = _price(f"{path}, line {line}: cost_per_hour", value), line
    return found


def _price(name: str, value: object) -> float:
    """Return a price. Raises BadValue for a number that is not above 0."""
    found = number(name, value)
    if found <= 0:
        raise BadValue(f"{name} must be above 0, not {found:g}")
    return found
