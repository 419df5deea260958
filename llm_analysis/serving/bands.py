"""Error bands of servers: factors on an estimate that enclose 80 % of the published values of its class.

A class is a metric: the mean, the median or the tail of TTFT, TPOT, ITL or E2E, or a throughput. Runs that send all
requests at once have classes of their own. A band runs from the 10th to the 90th percentile of measured / estimated
over published runs, which were estimated with host terms fitted without their source; each source, model and GPU has
weight 1. `data/load_bands.json` holds the bands; `calibration.fitting.build_load_bands` writes it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llm_analysis.files import DATA, read_json
from llm_analysis.inference.runtimes import NONE
from llm_analysis.inference.scenario import Scenario

FILE = DATA / "load_bands.json"
_NOTED = ("request_throughput", "ttft_median", "ttft_p99", "tpot_median", "tpot_p99")  # metrics in the note


def class_of(metric: str, at_once: bool = False) -> str:
    """Return the class of a metric such as ttft_p99 or request_throughput."""
    suffix = ", all at once" if at_once else ""
    if metric.endswith("_throughput"):
        return f"throughput{suffix}"
    kind, _, statistic = metric.partition("_")
    tail = {"mean": "mean", "median": "median"}.get(statistic, "tail")
    return f"{kind} {tail}{suffix}"


def band_of(metric: str, at_once: bool = False) -> tuple[float, float] | None:
    """Return the band of a metric; None if too few values of its class were published."""
    return _bands().get(class_of(metric, at_once))


def bands_of(scenario: Scenario, values: dict[str, float], at_once: bool = False) -> dict[str, Any]:
    """Return [low, high] of each estimate by metric, in its unit; None for one without a band."""
    found = {metric: band_of(metric, at_once) if has_bands(scenario) else None for metric in values}
    return {metric: [value * factor for factor in found[metric] or ()] or None for metric, value in values.items()}


def has_bands(scenario: Scenario) -> bool:
    """Return whether the published runs are evidence for a scenario: timed by measured kernels and an engine."""
    return scenario.method.name == "calibrated" and scenario.runtime.name != NONE.name


def evidence_notes(scenario: Scenario) -> tuple[str, ...]:
    """Return notes on the published values behind the bands; empty if there is no band."""
    return (f"error bands: from {_evidence()}", *_unlike(scenario)) if has_bands(scenario) else ()


def band_notes(scenario: Scenario, at_once: bool) -> tuple[str, ...]:
    """Return notes on the bands of throughput, TTFT and TPOT, and the published values behind them."""
    known = {metric: band_of(metric, at_once) for metric in _NOTED} if has_bands(scenario) else {}
    parts = [f"{_label(metric)} {band[0]:.2g} to {band[1]:.2g}" for metric, band in known.items() if band]
    if not parts:
        return ()
    lie = f"error bands: 80 % lie within these multiples of the estimate: {', '.join(parts)}; from {_evidence()}"
    return (lie, *_unlike(scenario))


def _unlike(scenario: Scenario) -> tuple[str, ...]:
    """Return a note if no published run is of the GPU."""
    gpu = scenario.gpu.name
    known = gpu in read_json(FILE)["evidence"]["gpus"]
    return () if known else (f"error bands: none of the published runs is of {gpu}, so errors may be larger",)


def _evidence() -> str:
    """Return the number of published values and what makes the bands wide."""
    evidence = read_json(FILE)["evidence"]
    return (
        f"{evidence['values']:,} published values of {evidence['sources']} sources, at loads up to and beyond "
        "saturation, where TTFT has no bound (docs/serving.md)"
    )


def _label(metric: str) -> str:
    """Return a metric as the result block writes it: throughput, median TTFT, P99 TTFT."""
    kind, _, statistic = metric.partition("_")
    if statistic == "throughput":
        return statistic
    return f"{statistic.upper() if statistic[1:].isdigit() else statistic} {kind.upper()}"


@cache
def _bands() -> dict[str, tuple[float, float]]:
    """Return the bands by class."""
    raw: dict[str, list[float]] = read_json(FILE)["bands"]
    return {name: (low, high) for name, (low, high) in raw.items()}
