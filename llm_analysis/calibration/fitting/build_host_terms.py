"""Fit the host times of serving engines to published runs under load: `data/host_terms.json`.

    python -m llm_analysis.calibration.fitting.build_host_terms load.csv

The residuals are the logarithms of estimated to measured TTFT, TPOT, ITL (mean, median) and throughput. Each source,
model, GPU and class of metrics weighs the same. The loss is soft-L1, so that a run which is estimated beyond saturation
does not decide. A term x of engine e has two pulls (Tikhonov), in units of its logarithm:

    log x_e = prior_e + shared + own_e        shared ~ N(0, _SHARED^2), the same for all engines;  own_e ~ N(0, _OWN^2)

The prior is the static fit of the engine where that has the term, otherwise the size that engine developers name. So
an engine with few runs keeps to what the others say. Each source, model and GPU has a factor on its latencies, near 1,
that takes up the error of its kernels: host time is what changes with the load and from one metric to the next. The
factors are not kept. The simulation is made linear in the logarithms of the terms around the prior, by finite
differences.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from math import log
from pathlib import Path
from typing import Any, NamedTuple

from llm_analysis.calibration.fitting.build_runtimes import FIT_DATE
from llm_analysis.calibration.load_estimates import Prepared, metric_of, prepare
from llm_analysis.calibration.load_runs import LoadRun, read_runs
from llm_analysis.calibration.load_scores import class_of
from llm_analysis.calibration.residuals import rounded
from llm_analysis.errors import LLMAnalysisError
from llm_analysis.serving.host_terms import FILE, HostTerms
from llm_analysis.serving.scheduler import Policy
from llm_analysis.serving.step_times import Host
from llm_analysis.units import Array

Terms = dict[str, HostTerms]  # by the first runtime of an engine

_METRICS = (*(f"{kind}_{part}" for kind in ("ttft", "tpot", "itl") for part in ("mean", "median")),)
_THROUGHPUT = "output_token_throughput"
_PER_GROUP = 2  # runs of a source, model, GPU and kind of arrival: those with the lowest and the highest load
_MOST_REQUESTS = 600  # of a run in the fit
_STEP = 0.25  # of the logarithm of a term, for finite differences
_STEEPEST = 3.0  # derivative: beyond it a queue grows, and the line says nothing
_SOFT = 0.3  # residual from which the loss grows linearly
_SHARED, _OWN = 0.5, 0.3
_KERNELS = 0.7  # of the factor on a group's latencies: kernels of another version were seen off by a factor of 2

# Step and sequence of vLLM before 0.8: the static fit in data/runtimes/vllm.json. The others are orders of magnitude:
# milliseconds per step and request, tens of microseconds per sequence, token and kernel launch.
_USUAL = HostTerms(2e-3, 2e-5, 6e-5, 5e-5, 5e-3, 1e-2, 1e-3)
_PRIOR: Terms = {
    "vllm-v1": _USUAL,
    "vllm-0.13": _USUAL._replace(step_seconds=1e-3),
    "vllm": _USUAL._replace(step_seconds=1.9e-3, sequence_seconds=8.3e-5),
    "sglang": _USUAL,
    "tensorrt-llm": _USUAL._replace(launch_seconds=1e-5),
    "tensorrt-llm-0.20": _USUAL._replace(launch_seconds=1e-5),
}


class Line(NamedTuple):
    """Residuals as a linear function of the logarithms of the terms; one row per value."""

    residuals: Array
    slopes: Array  # by term of the value's engine
    engines: Array  # number of each value's engine
    sources: list[str]
    weights: Array
    groups: Any  # number of each value's source, model and GPU
    signs: Array  # 1 for a latency, -1 for a throughput
    at: Array  # logarithms of the terms, by engine and term


def _key(run: Prepared) -> str:
    """Return the engine of a run as the terms name it."""
    name = run.engine.runtimes[0]
    return name if name in _PRIOR else "vllm-v1"


def _prepared(run: LoadRun) -> Prepared | None:
    """Return a run ready for simulation; None if it cannot be estimated."""
    try:
        found = prepare(run)
    except LLMAnalysisError:
        return None
    return found._replace(num_requests=min(found.num_requests, _MOST_REQUESTS))


def _selected(runs: Sequence[LoadRun]) -> list[LoadRun]:
    """Return the runs of the fit: of each group those with the lowest and the highest load."""
    groups: dict[tuple[str, ...], list[LoadRun]] = {}
    for run in runs:
        if run.grade != "C":
            key = (run.source, run.model_name, run.gpu_name, run.arrival, run.runtime, run.version, run.notes[:12])
            groups.setdefault(key, []).append(run)
    found = []
    for group in groups.values():
        group.sort(key=lambda run: (run.rate, run.concurrency, run.mean_input))
        last = len(group) - 1
        found += [group[i] for i in sorted({round(j * last / (_PER_GROUP - 1)) for j in range(_PER_GROUP)})]
    return found


def _terms_in(run: Prepared) -> tuple[Host, Policy]:
    """Return what the host terms of a run change."""
    return run.times.host, run.policy


def _values(run: Prepared) -> dict[str, tuple[str, float]]:
    """Return (metric, logarithm of estimated to measured) of a run, by id."""
    try:
        summary = run.summary()
    except LLMAnalysisError:
        return {}
    found = {}
    for name, metric, value in run.run.values:
        estimated = metric_of(summary, metric) if metric in (*_METRICS, _THROUGHPUT) else 0.0
        if estimated > 0:
            found[name] = metric, log(estimated / value)
    return found


def _line(runs: Sequence[Prepared], at: Array, pool: ProcessPoolExecutor) -> Line:
    """Return the residuals of all runs around the logarithms `at`."""
    import numpy as np

    names = list(_PRIOR)
    number = [names.index(_key(run)) for run in runs]
    moves = np.vstack([np.zeros(at.shape[1]), _STEP * np.eye(at.shape[1])])
    under = [
        [run.under(HostTerms(*np.exp(at[k] + move))) for run, k in zip(runs, number, strict=True)] for move in moves
    ]
    tables = [list(pool.map(_values, under[0], chunksize=4))]
    for moved in under[1:]:
        # Requests that reach the engine in its process see no front end: nothing changes, nothing is simulated.
        jobs = [j for j, run in enumerate(moved) if _terms_in(run) != _terms_in(under[0][j])]
        changed = dict(zip(jobs, pool.map(_values, [moved[j] for j in jobs], chunksize=4), strict=True))
        tables.append([changed.get(j, tables[0][j]) for j in range(len(runs))])
    keys = [(j, name) for j in range(len(runs)) for name in tables[0][j] if all(name in table[j] for table in tables)]
    values = np.array([[table[j][name][1] for table in tables] for j, name in keys])
    groups = [
        (runs[j].run.source, runs[j].run.model_name, runs[j].run.gpu_name, class_of(tables[0][j][name][0]))
        for j, name in keys
    ]
    sizes = Counter(groups)
    return Line(
        residuals=values[:, 0],
        slopes=np.clip((values[:, 1:] - values[:, :1]) / _STEP, -_STEEPEST, _STEEPEST),
        engines=np.array([number[j] for j, _ in keys]),
        sources=[group[0] for group in groups],
        weights=np.array([1.0 / sizes[group] for group in groups]),
        groups=np.unique(["|".join(group[:3]) for group in groups], return_inverse=True)[1],
        signs=np.array([-1.0 if group[3].startswith("throughput") else 1.0 for group in groups]),
        at=at,
    )


def _solved(line: Line, left_out: str = "") -> Array:
    """Return the logarithms of the terms that fit a line best, without the values of a source."""
    import numpy as np
    from scipy.optimize import least_squares

    prior = np.log(np.array(list(_PRIOR.values())))
    engines, terms = line.at.shape
    used = np.array([source != left_out for source in line.sources])
    r, slopes, k = line.residuals[used], line.slopes[used], line.engines[used]
    root = np.sqrt(line.weights[used])

    group = np.unique(line.groups[used], return_inverse=True)[1]
    sign = line.signs[used]
    count = terms * (1 + engines)

    n, factors = len(r), int(group.max()) + 1
    moves = np.zeros((n, count + factors))  # of each residual by each unknown: shared, of each engine, of each group
    for term in range(terms):
        moves[np.arange(n), terms + k * terms + term] = slopes[:, term]
    moves[np.arange(n), count + group] = sign
    pulls = np.zeros((engines * terms + terms + factors, count + factors))
    for e in range(engines):
        rows = np.arange(terms) + e * terms
        pulls[rows, terms + rows] = 1.0 / _OWN
        pulls[rows, np.arange(terms)] = -1.0 / _OWN
    own = engines * terms
    pulls[own + np.arange(terms), np.arange(terms)] = 1.0 / _SHARED
    pulls[own + terms + np.arange(factors), count + np.arange(factors)] = 1.0 / _KERNELS
    still = np.concatenate([((line.at - prior) / _OWN).ravel(), np.zeros(terms + factors)])

    def loss(x: Array) -> Array:
        now = (r + moves @ x) / _SOFT
        soft = np.sign(now) * np.sqrt(2.0 * (np.sqrt(1.0 + now**2) - 1.0))
        return np.concatenate([root * soft, still + pulls @ x])

    def slope(x: Array) -> Array:
        now = (r + moves @ x) / _SOFT
        # d soft / d now, which is 1 at 0
        steep = np.sqrt((np.sqrt(1.0 + now**2) + 1.0) / (2.0 * (1.0 + now**2)))
        return np.vstack([(root * steep / _SOFT)[:, None] * moves, pulls])

    found = least_squares(loss, np.zeros(count + factors), slope, method="lm")
    return np.asarray(line.at + found.x[terms:count].reshape(engines, terms))


def _terms(logs: Array) -> dict[str, dict[str, float]]:
    """Return the terms of each engine, to three digits."""
    import numpy as np

    rows = zip(_PRIOR, np.exp(logs), strict=True)
    return {name: HostTerms(*(float(f"{x:.3g}") for x in row))._asdict() for name, row in rows}


def _errors(line: Line, logs: Mapping[str, Array]) -> dict[str, float]:
    """Return the weighted median of |residual| of the values of each source under the terms for that source."""
    import numpy as np

    found = {}
    for source in sorted(set(line.sources)):
        own = np.array([s == source for s in line.sources])
        moved = (logs[source] - line.at)[line.engines[own]]
        sizes = np.abs(line.residuals[own] + np.einsum("ij,ij->i", line.slopes[own], moved))
        order = np.argsort(sizes)
        share = np.cumsum(line.weights[own][order])
        found[source] = rounded(float(sizes[order][np.searchsorted(share, share[-1] / 2)]))
    return found


def _line_of(path: Path, processes: int | None = None) -> Line:
    """Return the residuals of the runs of a table around the prior."""
    import numpy as np

    with ProcessPoolExecutor(processes) as pool:
        runs = pool.map(_prepared, _selected(read_runs(path)[0]), chunksize=4)
        return _line([run for run in runs if run is not None], np.log(np.array(list(_PRIOR.values()))), pool)


def build_host_terms(line: Line) -> None:
    """Fit the terms to a line, with all sources and without each of them, and write the file."""
    import numpy as np

    held_out = {source: _solved(line, source) for source in sorted(set(line.sources))}
    start = dict.fromkeys(held_out, line.at)
    data: dict[str, Any] = {
        "about": "Host time of serving engines in seconds (serving/host_terms.py says which), fitted to published "
        "runs under load; held_out: the terms of a fit without the runs of a source, by which validate --load "
        "scores that source",
        "date": FIT_DATE,
        "evidence": {
            "values": dict(Counter(line.sources)),
            "median_log_error_of_the_prior": _errors(line, start),
            "median_log_error_held_out": _errors(line, held_out),
        },
        "terms": _terms(_solved(line)),
        "held_out": {source: _terms(logs) for source, logs in held_out.items()},
    }
    FILE.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    for name, terms in data["terms"].items():
        print(name, terms, flush=True)
    mean = float(np.average(np.minimum(np.abs(line.residuals), 1.0), weights=line.weights))
    print(f"mean |log error| of the prior, at most 1 each: {mean:.3f}", flush=True)


if __name__ == "__main__":
    build_host_terms(_line_of(Path(sys.argv[1])))
