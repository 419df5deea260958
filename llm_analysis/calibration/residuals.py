"""Residuals of the published measurements by cell, from which error bands are computed.

`data/residuals.json` holds, for each source, GPU and model, the ratios measured / estimated of its rows (at most
`_MOST` quantiles of them). A band weighs each of these groups alike; a band for a row of a group is built without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from llm_analysis.calibration.measurements import Measurement, gpu_named
from llm_analysis.files import DATA, read_json
from llm_analysis.hardware.profiles import same_chip
from llm_analysis.inference.bands import LEAST_GROUPS, LEAST_ROWS, Band, cell_name
from llm_analysis.units import Array

FILE = DATA / "residuals.json"
_MOST = 19  # ratios kept of a group


class Residuals(NamedTuple):
    """The ratios measured / estimated of one source, GPU and model in one cell."""

    cell: str
    group: str
    gpu_name: str
    rows: int
    batch: tuple[float, float]
    ratios: tuple[float, ...]


def rounded(value: float) -> float:
    """Return a value to four digits; a time below a nanosecond as zero."""
    return float(f"{value:.4g}") if abs(value) > 1e-9 else 0.0


def cell_of(m: Measurement) -> str:
    """Return the cell of a row's band."""
    return cell_name(m.phase, m.is_dense, same_chip(gpu_named(m.gpu_name)))


def residuals_of(pairs: Iterable[tuple[Measurement, float]]) -> list[Residuals]:
    """Return the residuals of rows, given as (measurement, measured / estimated)."""
    import numpy as np

    found: dict[tuple[str, str], list[tuple[Measurement, float]]] = {}
    for m, ratio in pairs:
        found.setdefault((cell_of(m), m.group), []).append((m, ratio))
    made = []
    for (cell, group), entries in sorted(found.items()):
        ratios = np.sort([ratio for _, ratio in entries])
        kept = ratios if len(ratios) <= _MOST else np.quantile(ratios, (np.arange(_MOST) + 0.5) / _MOST)
        batches = [m.batch_size for m, _ in entries]
        numbers = tuple(rounded(float(ratio)) for ratio in kept)
        made.append(Residuals(cell, group, entries[0][0].gpu_name, len(entries), (min(batches), max(batches)), numbers))
    return made


def bands_of(residuals: Sequence[Residuals], without: str = "") -> dict[str, Band]:
    """Return the band of each cell with enough rows and groups, without the rows of one group."""
    by_cell: dict[str, list[Residuals]] = {}
    for entry in residuals:
        if entry.group != without:
            by_cell.setdefault(entry.cell, []).append(entry)
    enough = {
        cell: found
        for cell, found in sorted(by_cell.items())
        if len(found) >= LEAST_GROUPS and sum(entry.rows for entry in found) >= LEAST_ROWS
    }
    return {cell: _band(found) for cell, found in enough.items()}


def _band(found: Sequence[Residuals]) -> Band:
    """Return the band of the residuals of a cell: 10th to 90th percentile, each group with weight 1."""
    low, high = percentiles([entry.ratios for entry in found])
    return Band(
        low=rounded(low),
        high=rounded(high),
        rows=sum(entry.rows for entry in found),
        groups=len(found),
        gpus=sorted({entry.gpu_name for entry in found}),
        batch=[min(entry.batch[0] for entry in found), max(entry.batch[1] for entry in found)],
    )


def percentiles(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the 10th and the 90th percentile of numbers in groups that have the same weight."""
    import numpy as np

    values = np.concatenate([np.asarray(group, dtype=float) for group in groups])
    return weighted_percentiles(values, np.concatenate([np.full(len(group), 1.0 / len(group)) for group in groups]))


def weighted_percentiles(values: Array, weights: Array) -> tuple[float, float]:
    """Return the 10th and the 90th percentile of numbers with weights."""
    import numpy as np

    order = np.argsort(values, kind="stable")
    shares = weights[order]
    low, high = np.interp([0.1, 0.9], (np.cumsum(shares) - shares / 2) / shares.sum(), values[order])
    return float(low), float(high)


@cache
def residuals() -> tuple[Residuals, ...]:
    """Return the residuals of the package's data."""
    return tuple(_read(entry) for entry in read_json(FILE)["groups"])


def _read(entry: Mapping[str, Any]) -> Residuals:
    """Return one entry of the file."""
    low, high = entry["batch"]
    return Residuals(**{**entry, "batch": (float(low), float(high)), "ratios": tuple(map(float, entry["ratios"]))})


@cache
def _bands_without(group: str) -> dict[str, Band]:
    """Return the bands of all cells without the rows of a group."""
    return bands_of(residuals(), group)


@cache
def _groups() -> frozenset[str]:
    """Return the names of all groups."""
    return frozenset(entry.group for entry in residuals())


def held_out_band(m: Measurement) -> Band | None:
    """Return the band of a row, built without the rows of its source, GPU and model; None if too few remain."""
    known = _bands_without(m.group if m.group in _groups() else "")
    names = (cell_name(m.phase, m.is_dense, chip) for chip in _chips(m.gpu_name))
    return next((known[name] for name in names if name in known), None)


@cache
def _chips(gpu_name: str) -> tuple[bool, bool]:
    """Return whether a GPU's chip was measured, and the opposite: the order in which cells are tried."""
    measured = same_chip(gpu_named(gpu_name))
    return measured, not measured
