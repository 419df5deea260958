"""Build the error bands of simulated serving from a table of published runs: `data/load_bands.json`.

    python -m llm_analysis.calibration.fitting.build_load_bands load.csv

Every run is estimated as `validate --load` does it, by host terms fitted without its source. A band holds 80 % of the
ratios of measured to estimated values of a class; each source, model and GPU weighs the same.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from llm_analysis.calibration.fitting.build_runtimes import FIT_DATE
from llm_analysis.calibration.load_estimates import scenario_of
from llm_analysis.calibration.load_runs import read_runs
from llm_analysis.calibration.load_scores import (
    Scored,
    errors_by_class,
    goodput_scores,
    score_run,
    weighted_errors,
    weighted_quantile,
)
from llm_analysis.calibration.measurements import gpu_named
from llm_analysis.inference.bands import LEAST_GROUPS, LEAST_ROWS
from llm_analysis.serving.server_bands import FILE as BANDS
from llm_analysis.serving.server_bands import class_of

_LOW, _HIGH = 0.1, 0.9


def score_all(path: Path, processes: int | None = None) -> Scored:
    """Return the scores of all runs of a table."""
    runs = read_runs(path)[0]
    with ProcessPoolExecutor(processes) as pool:
        found = pool.map(score_run, runs, chunksize=4)
        return [(run, row) for run, (rows, _) in zip(runs, found, strict=True) for row in rows]


def build_load_bands(path: Path) -> None:
    """Write the bands of the classes, and print the errors of each."""
    scored = score_all(path)
    classes = {class_of(row.metric, run.at_once) for run, row in scored}
    bands = {}
    for name, errors in weighted_errors(scored).items():
        groups = sum(weight for _, weight in errors)  # each has the weight 1
        if name not in classes or len(errors) < LEAST_ROWS or round(groups) < LEAST_GROUPS:
            continue
        ratios = [(1 / (1 + error), weight) for error, weight in errors]
        bands[name] = [float(f"{weighted_quantile(ratios, share):.3g}") for share in (_LOW, _HIGH)]
    summary = {
        found.metric_class: {
            "values": found.n,
            "median": float(f"{found.median_abs_error:.3g}"),
            "p90": float(f"{found.p90_abs_error:.3g}"),
        }
        for found in errors_by_class([*scored, *goodput_scores(read_runs(path)[0])])
    }
    counted = [run for run, _ in scored if run.grade != "C"]
    data = {
        "about": "bands: factors on an estimate between which 80 % of the published values of a class of metrics lie; "
        "errors: of the same estimates. Host terms are fitted without the source of the value; each source, model and "
        "GPU weighs the same",
        "date": FIT_DATE,
        "evidence": {
            "values": len(counted),
            "sources": len({run.source for run in counted}),
            "gpus": sorted({gpu_named(run.gpu_name).name for run in set(counted)}),
            "runtimes": sorted({scenario_of(run).runtime.name for run in set(counted)}),
        },
        "errors": summary,
        "bands": bands,
    }
    BANDS.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    for name, error in summary.items():
        print(f"{name}: {error['values']}, {error['median']:.1%} / {error['p90']:.1%}", flush=True)


if __name__ == "__main__":
    build_load_bands(Path(sys.argv[1]))
