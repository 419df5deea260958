"""Build the error bands from tables of published latencies: `data/residuals.json` and `data/bands.json`.

    python -m llm_analysis.calibration.fitting.build_bands measurements.csv [measurements.csv ...]

Every row is estimated as `validate` does it, by a runtime fitted without the rows of the same source and GPU. Rows
scored apart, the first benchmark and engines without a runtime are left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from llm_analysis.calibration.fitting.build_runtimes import FIT_DATE, OWN_BENCHMARK
from llm_analysis.calibration.measurements import read_measurements
from llm_analysis.calibration.residuals import FILE as RESIDUALS
from llm_analysis.calibration.residuals import bands_of, residuals_of
from llm_analysis.calibration.validation import score_rows
from llm_analysis.inference.bands import FILE as BANDS
from llm_analysis.inference.runtimes import runtime_names


def build_bands(paths: Sequence[Path]) -> None:
    """Write the residuals and the bands of the rows of all tables."""
    known = set(runtime_names())
    measurements = [m for path in paths for m in read_measurements(path)[0]]
    found = score_rows(m for m in measurements if m.source != OWN_BENCHMARK and m.engine in known)
    residuals = residuals_of((m, 1.0 / (1.0 + scored.error)) for m, scored in found.rows)
    groups = [entry._asdict() | {"batch": list(entry.batch), "ratios": list(entry.ratios)} for entry in residuals]
    lines = ",\n".join(json.dumps(group) for group in groups)
    RESIDUALS.write_text(f'{{"date": "{FIT_DATE}", "groups": [\n{lines}\n]}}\n', encoding="utf-8")
    cells = {name: band.model_dump() for name, band in bands_of(residuals).items()}
    BANDS.write_text(json.dumps({"date": FIT_DATE, "cells": cells}, indent=2) + "\n", encoding="utf-8")
    for name, band in bands_of(residuals).items():
        print(f"{name}: {band.low:g} to {band.high:g} ({band.rows} rows, {band.groups} groups)", flush=True)


if __name__ == "__main__":
    build_bands([Path(argument) for argument in sys.argv[1:]])
