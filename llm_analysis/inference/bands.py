"""Error bands: factors on an estimate that enclose 80 % of the published measurements of its kind.

Errors depend less on the engine than on the phase (prefill, decode or a whole batch, serving), on whether the model is
dense with 16-bit or fp8 weights, and on whether kernels of the GPU's chip were measured. Each combination of the three
is a cell. A cell's band is the range from the 10th to the 90th percentile of measured / estimated, over rows that were
estimated by fits without the rows of the same source and GPU; each (source, GPU, model) has weight 1. A band need not
contain the estimate: if it does not, the estimates of the cell are biased, and the answer has a note.

`data/bands.json` holds the cells; `calibration.fitting.build_bands` writes it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llm_analysis.files import DATA, read_json
from llm_analysis.hardware.gpu import GPU
from llm_analysis.hardware.profiles import same_chip
from llm_analysis.inference.runtimes import NONE, Band
from llm_analysis.inference.scenario import Scenario
from llm_analysis.models.config import ModelConfig
from llm_analysis.physics.dtypes import Dtypes
from llm_analysis.units import Quantity, some

FILE = DATA / "bands.json"
PHASES = ("prefill", "total", "serving")
LEAST_ROWS, LEAST_GROUPS = 10, 3  # least numbers of rows and groups behind a band


def cell_name(phase: str, dense: bool, measured: bool) -> str:
    """Return the key of a cell in bands.json."""
    return f"{phase} | {'dense' if dense else 'experts, int, fp4'} | {'measured' if measured else 'other'} chips"


def is_dense(model: ModelConfig, dtypes: Dtypes) -> bool:
    """Return whether a model has no experts, and weights of 16 bits or more, or in fp8."""
    return not model.num_experts and (dtypes.weight_bits >= 16 or dtypes.weights.startswith("fp8"))


@cache
def cells() -> dict[str, Band]:
    """Return the bands of all cells that have enough rows."""
    return {name: Band(**entry) for name, entry in read_json(FILE)["cells"].items()}


def _cell_band(phase: str, model: ModelConfig, dtypes: Dtypes, gpu: GPU) -> Band | None:
    """Return the band of a cell; if it has too few rows, that of the other kind of chips; None without either."""
    dense, measured = is_dense(model, dtypes), same_chip(gpu)
    names = (cell_name(phase, dense, known) for known in (measured, not measured))
    return next((cells()[name] for name in names if name in cells()), None)


def latency_bands(scenario: Scenario, prefill: Quantity, decode: Quantity, total: Quantity) -> dict[str, Any]:
    """Return both ends of the bands of three latencies in seconds, by column; None for a latency without a band."""
    found: dict[str, Any] = {}
    for name, seconds in (("prefill", prefill), ("decode", decode), ("total", total)):
        band = band_for(scenario, "prefill" if name == "prefill" else "total")
        found[f"{name}_latency_low"] = seconds * band.low if band else None
        found[f"{name}_latency_high"] = seconds * band.high if band else None
    return found


def has_evidence(s: Scenario) -> bool:
    """Return whether published measurements cover the method, runtime and layout of a scenario.

    They do not cover other methods, the runtime `none` (the kernels alone) and context parallelism.
    """
    return s.method.name == "calibrated" and s.runtime.name != NONE.name and s.layout.cp_size <= 1


def band_for(s: Scenario, phase: str) -> Band | None:
    """Return the band of `prefill`, `total` (decode or a whole batch) or `serving` of a scenario.

    A runtime with bands of its own (`calibrate` writes them) keeps them. There is none without evidence, and none for
    a cell without enough rows.
    """
    if not has_evidence(s):
        return None
    if not isinstance(s.gpu, GPU):  # arrays over GPUs: a sweep adds the band of each
        return None
    return s.runtime.band(phase) or _cell_band(phase, s.model, s.dtypes, s.gpu)


def band_notes(scenario: Scenario, batch: Quantity) -> tuple[str, ...]:
    """Return a note on the measurements behind the error bands, and notes on what differs from them."""
    band = band_for(scenario, "total")
    if band is None or not band.groups:
        return ()
    gpu, (low, high) = scenario.gpu.name, band.batch
    found = [
        f"error bands: from {band.rows:,} published measurements on {len(band.gpus)} GPUs, batch {low:g} to {high:g} "
        f"({band.groups} combinations of source, GPU and model)"
    ]
    if some(batch < low) or some(batch > high):
        found.append(f"error bands: the batch is outside of the measured {low:g} to {high:g}, so errors may be larger")
    if gpu not in band.gpus:
        found.append(f"error bands: none of the measurements is of {gpu}, so errors may be larger")
    for name in ("prefill", "total"):
        known = band_for(scenario, name)
        if known is not None and known.bias:
            found.append(f"{name}: estimates of this kind are biased {known.bias}, beyond the band")
    return tuple(found)
