"""One GPU in full: its facts, and the measurements behind its estimates, as JSON keys and as tables."""

from __future__ import annotations

from textwrap import fill
from typing import Any

from llm_analysis.hardware.gpu import GPU
from llm_analysis.hardware.profiles import Basis, collective_basis, kernel_basis, profile_for, same_chip
from llm_analysis.report.tables import table
from llm_analysis.units import GB

_WIDTH = 80
_UNITS = {
    "memory_bytes": (GB, "GB"),
    "driver_memory_bytes": (GB, "GB"),
    "memory_bandwidth": (GB, "GB/s"),
    "l2_bytes": (1e6, "MB"),
    "boost_clock_hz": (1e6, "MHz"),
    "link_bandwidth": (GB, "GB/s"),
    "peer_bandwidth": (GB, "GB/s"),
    "pcie_bandwidth": (GB, "GB/s"),
    "inter_node_bandwidth": (GB, "GB/s"),
    "tdp_watts": (1.0, "W"),
}
_LEGEND = (
    "measured on: the GPU or architecture of the fitted kernels; *: this GPU, this link. rows: measurements of the "
    "fit; median, p90 and bias of estimated / measured - 1 on rows held out. A kernel without errors was scaled from "
    "another one."
)


def gpu_entry(gpu: GPU) -> dict[str, Any]:
    """Return the facts of a GPU by their JSON keys, and the measurements behind its estimates under `evidence`."""
    profile, kernels = profile_for(gpu), kernel_basis(gpu)
    evidence = {
        "profile": profile.name,
        "fallback_profiles": [name for name in dict.fromkeys(row.profile for row in kernels) if name != profile.name],
        "same_chip_measured": same_chip(gpu),
        "note": profile.note,
        "kernels": [_entry(row, "format", "profile") for row in kernels],
        "collectives": [_entry(row, "algorithm", "link") for row in collective_basis(gpu)],
    }
    return gpu.model_dump(mode="json", exclude_defaults=True) | {"evidence": evidence}


def gpu_text(gpu: GPU, style: str) -> str:
    """Return the facts of a GPU, the basis of its estimates, and its source, as tables and paragraphs."""
    facts = gpu.model_dump(exclude_defaults=True)
    plain = [(key, _fact(key, value)) for key, value in facts.items() if isinstance(value, (str, int, float))]
    peaks = [(f"peak {rate}", f"{peak / 1e12:,g} TFLOP/s") for rate, peak in gpu.peak_flops.items()]
    shown = [row for row in [*plain, *peaks] if row[0] != "source"]
    collectives = [_cells(row) for row in collective_basis(gpu)]
    profile = profile_for(gpu)
    remarks = [f"note: {note}" for note in (*gpu.all_notes, profile.note) if note] + [f"source: {gpu.source}"]
    return "\n\n".join(
        [
            table(shown, ["fact", "value"], style, last="left"),
            table([_cells(row) for row in kernel_basis(gpu)], ["kernel and format", "measured on", *_ERRORS], style),
            *([table(collectives, ["collective and library", "link", *_ERRORS], style)] if collectives else []),
            fill(_LEGEND, _WIDTH),
            *(fill(remark, _WIDTH, break_on_hyphens=False) for remark in remarks),
        ]
    )


_ERRORS = ("rows", "median", "p90", "bias")


def _entry(row: Basis, format: str, profile: str) -> dict[str, Any]:
    """Return a kernel or a collective by its JSON keys."""
    names = {"kind": row.kind, format: row.format, profile: row.profile, "measured": row.measured}
    return names | row.evidence._asdict()


def _cells(row: Basis) -> list[str]:
    """Return the cells of a table's row."""
    e = row.evidence
    errors = ["" if value is None else f"{value:.1%}" for value in (e.median_error, e.p90_error)]
    bias = "" if e.bias is None else f"{e.bias:+.1%}"
    return [
        f"{row.kind} {row.format}",
        row.profile + "*" * row.measured,
        f"{e.rows:,}" if e.rows else "",
        *errors,
        bias,
    ]


def _fact(name: str, value: object) -> str:
    """Return a fact in the unit of its field."""
    if name not in _UNITS or not isinstance(value, (int, float)):
        return str(value)
    unit, text = _UNITS[name]
    return f"{value / unit:,g} {text}"
