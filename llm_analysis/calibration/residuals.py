"""Residuals of the published measurements, and the error bands computed from them.

A group is the rows of one source, GPU and model. A cell is a kind of estimate that has an error band: phase, kind of
model, and whether kernels were measured on the chip. `data/residuals.json` holds the ratios measured / estimated of
each group in each cell, as `_MOST` quantiles if there are more rows. In a band each group has the same weight. The
band that scores a measured row is built without the group of that row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from llm_analysis.calibration.measurements import Measurement, gpu_named
from llm_analysis.files import DATA, read_json
from llm_analysis.hardware.profiles import same_chip
from llm_analysis.inference.bands import LEAST_GROUPS, LEAST_ROWS, cell_name
from llm_analysis.inference.runtimes import Band
from llm_analysis.units import Array

FILE = DATA / "residuals.json"
_MOST = 19  # largest number of ratios kept for a group in a cell


class Residuals(NamedTuple):
    """The ratios measured / estimated of one group in one cell."""

    cell: str
    group: str
    gpu_name: str
    rows: int
    batch: tuple[float, float]
    ratios: tuple[float, ...]


def rounded(value: float) -> float:
    """Return a value rounded to four digits; at most 1e-9 (a nanosecond, for times) becomes zero."""
    return float(f"{value:.4g}") if abs(value) > 1e-9 else 0.0


def cell_of(m: Measurement) -> str:
    """Return the name of the cell that a row belongs to."""
    return cell_name(m.phase, m.is_dense, same_chip(gpu_named(m.gpu_name)))


def residuals_of(pairs: Iterable[tuple[Measurement, float]]) -> list[Residuals]:
    """Return the residuals by cell and group; `pairs` are (measurement, measured / estimated)."""
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
    """Return the band of each cell with at least LEAST_ROWS rows and LEAST_GROUPS groups, leaving out `without`."""
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
    """Return the band of one cell: 10th to 90th percentile of the ratios, each group with total weight 1."""
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
    """Return the 10th and the 90th percentile of numbers in groups, each group with the same total weight."""
    import numpy as np

    values = np.concatenate([np.asarray(group, dtype=float) for group in groups])
    return weighted_percentiles(values, np.concatenate([np.full(len(group), 1.0 / len(group)) for group in groups]))


def weighted_percentiles(values: Array, weights: Array) -> tuple[float, float]:
    """Return the 10th and the 90th percentile of weighted numbers."""
    import numpy as np

    order = np.argsort(values, kind="stable")
    shares = weights[order]
    low, high = np.interp([0.1, 0.9], (np.cumsum(shares) - shares / 2) / shares.sum(), values[order])
    return float(low), float(high)


@cache
def residuals() -> tuple[Residuals, ...]:
    """Return the residuals in `data/residuals.json`."""
    return tuple(_read(entry) for entry in read_json(FILE)["groups"])


def _read(entry: Mapping[str, Any]) -> Residuals:
    """Return one entry of the JSON file as a record."""
    low, high = entry["batch"]
    return Residuals(**{**entry, "batch": (float(low), float(high)), "ratios": tuple(map(float, entry["ratios"]))})


@cache
def _bands_without(group: str) -> dict[str, Band]:
    """Return the bands of all cells, computed without the rows of `group`."""
    return bands_of(residuals(), group)


@cache
def _groups() -> frozenset[str]:
    """Return the names of all groups in `data/residuals.json`."""
    return frozenset(entry.group for entry in residuals())


def held_out_band(m: Measurement) -> Band | None:
    """Return the band of a row's cell, computed without the row's group; None if too few rows remain.

    If the cell has too few rows, the cell of the other kind of chips (measured or not) is used.
    """
    known = _bands_without(m.group if m.group in _groups() else "")
    names = (cell_name(m.phase, m.is_dense, chip) for chip in _chips(m.gpu_name))
    return next((known[name] for name in names if name in known), None)


@cache
def _chips(gpu_name: str) -> tuple[bool, bool]:
    """Return whether kernels were measured on a GPU's chip, then the opposite: the order in which cells are tried."""
    measured = same_chip(gpu_named(gpu_name))
    return measured, not measured
