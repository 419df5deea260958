"""Error bands of servers: factors on an estimate that enclose 80 % of the published values of its class.

A class is a metric: the mean, the median or the tail of TTFT, TPOT, ITL or E2E, or a throughput. Runs that send all
requests at once have classes of their own. A band runs from the 10th to the 90th percentile of measured / estimated
over published runs, which were estimated with host terms fitted without their source; each source, model and GPU has
weight 1. `data/load_bands.json` holds the bands; `calibration.fitting.build_load_bands` writes it.

The throughput of an open loop has no band: below saturation it is the rate of the arrivals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from llm_analysis.files import DATA, read_json
from llm_analysis.inference.bands import has_evidence
from llm_analysis.inference.scenario import Scenario

FILE = DATA / "load_bands.json"
OPEN, CLOSED, AT_ONCE = "open loop", "closed loop", "all at once"  # how requests arrive
_NOTED = ("request_throughput", "ttft_median", "ttft_p99", "tpot_median", "tpot_p99")  # metrics in the notes


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
    found = _published()["bands"].get(class_of(metric, at_once))
    return (found[0], found[1]) if found else None


def bands_of(scenario: Scenario, values: Mapping[str, float], arrivals: str) -> dict[str, list[float] | None]:
    """Return [low, high] of each estimate by metric, in its unit; None for one without a band.

    The latency of requests with one output token is their TTFT.
    """
    one_token = not any(value for metric, value in values.items() if metric.startswith("tpot"))
    found: dict[str, list[float] | None] = {}
    for metric, value in values.items():
        meant = metric.replace("e2e", "ttft") if one_token else metric
        band = _band(meant, arrivals) if value and has_bands(scenario) else None
        found[metric] = [value * factor for factor in band] if band else None
    return found


def _band(metric: str, arrivals: str) -> tuple[float, float] | None:
    """Return the band of a metric under a kind of arrivals, or None."""
    if arrivals == OPEN and metric.endswith("_throughput"):
        return None
    return band_of(metric, arrivals == AT_ONCE)


def has_bands(scenario: Scenario) -> bool:
    """Return whether the published runs are evidence for a scenario.

    They are not for a runtime that `calibrate` fitted to other measurements.
    """
    return has_evidence(scenario) and not scenario.runtime.bands


def evidence_notes(scenario: Scenario) -> tuple[str, ...]:
    """Return notes on the published values behind the bands; empty if there is no band."""
    return (f"error bands: from {_evidence()}", *_unlike(scenario)) if has_bands(scenario) else ()


def band_notes(scenario: Scenario, arrivals: Iterable[str]) -> tuple[str, ...]:
    """Return notes on the bands of throughput, TTFT and TPOT under some kinds of arrivals, and on their evidence."""
    if not has_bands(scenario):
        return ()
    kinds = list(dict.fromkeys(arrivals))
    notes = [note for kind in kinds for note in _multiples(kind, f" ({kind})" if len(kinds) > 1 else "")]
    return (*notes, f"error bands: from {_evidence()}", *_unlike(scenario))


def _multiples(arrivals: str, label: str) -> Iterable[str]:
    """Yield a note on the bands as multiples of the estimate, and one on estimates that lie outside of theirs."""
    known = {_label(metric): _band(metric, arrivals) for metric in _NOTED}
    parts = [f"{name} {band[0]:.3g} to {band[1]:.3g}" for name, band in known.items() if band]
    yield f"error bands{label}: 80 % of published values lie within these multiples of the estimate: {', '.join(parts)}"
    low = [name for name, band in known.items() if band and band[0] > 1]
    high = [name for name, band in known.items() if band and band[1] < 1]
    for names, side in ((low, "low"), (high, "high")):
        if names:
            yield f"{' and '.join(names)}{label}: estimates of this kind are biased {side}, beyond the band"


def _unlike(scenario: Scenario) -> tuple[str, ...]:
    """Return notes if no published run is of the GPU or of the engine."""
    evidence, gpu, engine = _published()["evidence"], scenario.gpu.name, scenario.runtime.engine_name
    missing = [name for name, known in ((gpu, evidence["gpus"]), (engine, evidence["runtimes"])) if name not in known]
    return tuple(f"error bands: no published run is of {name}, so errors may be larger" for name in missing)


def _evidence() -> str:
    """Return the number of published values and what makes the bands wide."""
    evidence = _published()["evidence"]
    return (
        f"{evidence['values']:,} published values of {evidence['sources']} sources; many runs are close to saturation "
        "or above it, where TTFT grows with the length of the run"
    )


def _label(metric: str) -> str:
    """Return a metric as the result block writes it: throughput, median TTFT, P99 TTFT."""
    kind, _, statistic = metric.partition("_")
    if statistic == "throughput":
        return statistic
    return f"{statistic.upper() if statistic[1:].isdigit() else statistic} {kind.upper()}"


@cache
def _published() -> dict[str, Any]:
    """Return the bands by class, and the runs behind them."""
    content: dict[str, Any] = read_json(FILE)
    return content
