"""How far published figures lie from the estimates, for each runtime and phase: the bands, written anew.

    python -m llm_analysis.bands measurements.csv

A band is taken from the rows as `validate` scores them: each estimated with its runtime as fitted without the rows of
the same source and GPU; pipelines and steady states, to which nothing was fitted, as they are. GPUs whose chip's
kernels were measured have bands apart from the others, and each vendor its own. Rows weigh as in the fit, those of a
long table less. Rows that are set apart, and this project's first benchmark, are in none.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llm_analysis.fit_runtime import table_weights
from llm_analysis.measurements import Measurement, gpu_named
from llm_analysis.profile import same_chip
from llm_analysis.runtime import FOLDER, Band, build_for, place
from llm_analysis.runtimes import LIKE, OWN_BENCHMARK, rounded
from llm_analysis.validate import phase_of, runtime_named, score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

LEAST_ROWS = 10  # that a band rests on


def fit_bands(path: Path, folder: Path = FOLDER) -> dict[str, dict[str, Band]]:
    """Writes the bands of all runtimes that the rows of a table tell, by phase; gives them back."""
    ratios: dict[str, dict[str, list[tuple[Measurement, float]]]] = {}
    for m, scored in score(path).rows:
        if m.source != OWN_BENCHMARK:
            of_build = ratios.setdefault(build_of(m), {})
            gpu = gpu_named(m.gpu_name)
            phase = phase_of(m) + place(gpu, same_chip(gpu))
            of_build.setdefault(phase, []).append((m, m.seconds / scored.estimated_seconds))
    found = {name: bands_of(by_phase) for name, by_phase in ratios.items()}
    found |= {twin: found[like] for twin, like in LIKE.items() if like in found}
    for name, bands in found.items():
        write_bands(folder / f"{name}.json", bands)
    return found


def build_of(m: Measurement) -> str:
    """The name of the runtime's build that a row ran."""
    return build_for(runtime_named(m.engine), gpu_named(m.gpu_name)).name


def bands_of(by_phase: dict[str, list[tuple[Measurement, float]]]) -> dict[str, Band]:
    """The band of each phase that has rows enough; of measured / estimated."""
    import numpy as np

    enough = {phase: rows for phase, rows in sorted(by_phase.items()) if len(rows) >= LEAST_ROWS}
    return {
        phase: band(np.array([ratio for _, ratio in rows]), table_weights([m for m, _ in rows]))
        for phase, rows in enough.items()
    }


def band(ratios: Array, weights: Array | None = None) -> Band:
    """The 10th and the 90th percentile of measured / estimated, each row with its weight."""
    import numpy as np

    order = np.argsort(ratios)
    shares = (np.ones(len(ratios)) if weights is None else weights)[order]
    low, high = np.interp([0.1, 0.9], (np.cumsum(shares) - shares / 2) / shares.sum(), ratios[order])
    return Band(low=rounded(min(float(low), 1.0)), high=rounded(max(float(high), 1.0)), rows=len(ratios))


def write_bands(path: Path, bands: dict[str, Band]) -> None:
    """The same runtime file with other bands, which come last."""
    if not path.is_file():
        return
    plain = json.loads(path.read_text(encoding="utf-8"))
    plain.pop("bands", None)
    plain["bands"] = {phase: found.model_dump() for phase, found in bands.items()}
    path.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for runtime_name, runtime_bands in fit_bands(Path(sys.argv[1])).items():
        told = ", ".join(f"{phase} {b.low:g} to {b.high:g} ({b.rows})" for phase, b in runtime_bands.items())
        print(f"{runtime_name}: {told}")
