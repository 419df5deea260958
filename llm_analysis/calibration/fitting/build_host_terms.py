"""Fit the host times of serving engines to published runs under load: `data/host_terms.json`.

    python -m llm_analysis.calibration.fitting.build_host_terms load.csv measurements.csv [measurements.csv ...]

The residuals are the logarithms of estimated to measured TTFT, TPOT, ITL (mean, median) and output tokens/s of the
runs, and of the TPOT of serving rows (the other tables) in the closed form. Each source, model, GPU and class of
metrics weighs the same. The loss is Cauchy's, log(1 + (r / 0.3)^2): a run with a queue that is estimated a hundred
times too long or too short, which no host time explains, hardly counts. A term x of engine e is regularized (Tikhonov),
in units of its logarithm:

    log x_e = prior_e + shared + own_e        shared ~ N(0, _SHARED^2), the same for all engines;  own_e ~ N(0, _OWN^2)

The priors are orders of magnitude. An engine with few runs gets about the terms of the others, but for kernel launches
and the preparation of a step: Python, compiled graphs and C++ take times of their own. Each source, model and
GPU has a factor on its latencies, near 1, that takes up the error of its kernels: host time is what changes with the
load and from one metric to the next. The factors are not kept. The simulation is made linear in the logarithms of the
terms by finite differences, first around the priors, then around the terms that this gives (Gauss-Newton).
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from math import log
from pathlib import Path
from typing import Any, NamedTuple

from llm_analysis.calibration.fitting.build_runtimes import FIT_DATE
from llm_analysis.calibration.load_estimates import Prepared, metric_of, prepare
from llm_analysis.calibration.load_runs import LoadRun, read_runs
from llm_analysis.calibration.measurements import Measurement, apart, gpu_named, read_measurements
from llm_analysis.calibration.residuals import rounded
from llm_analysis.calibration.steady_rows import is_steady, steady_seconds
from llm_analysis.errors import LLMAnalysisError
from llm_analysis.inference.engines import engine_for, version_in
from llm_analysis.inference.host_terms import FILE, HostTerms
from llm_analysis.inference.runtimes import DEFAULT_RUNTIME, Runtime, build_for, get_runtime, runtime_names
from llm_analysis.serving.server_bands import class_of
from llm_analysis.units import Array

Terms = dict[str, HostTerms]  # by the name of the first runtime of an engine

_METRICS = (*(f"{kind}_{part}" for kind in ("ttft", "tpot", "itl") for part in ("mean", "median")),)
_THROUGHPUT = "output_token_throughput"
_ROUNDS = 1
_STEP = 0.25  # step of the logarithm of a term, for finite differences
_STEEPEST = 3.0  # largest derivative: beyond it a queue grows, and the linear model does not hold
_SOFT = 0.3  # residual from which the pull of a value falls
_TINY = 1e-9
# Spreads of the logarithms; 1e-3: the engines share no shift.
_SHARED = HostTerms(*[0.5] * len(HostTerms._fields))._replace(beside_seconds=1e-3, launch_seconds=1e-3)
# Requests are taken in by the process that schedules (vLLM before 0.8) or by another: the times differ by engine.
_OWN = HostTerms(*[0.3] * len(HostTerms._fields))._replace(front_seconds=0.5)
# Spread of the factor on the latencies of a group: kernels of other versions differ by up to a factor of 2.
_KERNELS = 0.7

# Orders of magnitude: milliseconds per step and request, tens of microseconds per sequence, token and kernel launch.
# A kernel called from Python takes 50 us; compiled graphs (vLLM from 0.8) and C++ (TensorRT-LLM) launch faster.
_USUAL = HostTerms(2e-3, 1e-5, 3e-5, 2e-5, 5e-3, 1e-2, 1e-3)
_PRIOR: Terms = {
    "vllm-v1": _USUAL,
    "vllm-0.13": _USUAL,
    "vllm": _USUAL._replace(launch_seconds=5e-5),
    "sglang": _USUAL._replace(launch_seconds=5e-5),
    "tensorrt-llm": _USUAL._replace(launch_seconds=1e-5),
    "tensorrt-llm-0.20": _USUAL._replace(launch_seconds=1e-5),
}


class Steady(NamedTuple):
    """Serving rows of one source and scenario, as `Prepared` is a run."""

    rows: tuple[Measurement, ...]
    runtime: Runtime
    terms: HostTerms = HostTerms()

    def under(self, terms: HostTerms) -> Steady:
        """Return the rows with other host terms."""
        return self._replace(terms=terms)


Job = Prepared | Steady


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


def _key(job: Job) -> str:
    """Return the engine of a job as the terms name it."""
    engine = (
        engine_for(job.runtime.engine_name, version_in(job.rows[0].version)) if isinstance(job, Steady) else job.engine
    )
    name = engine.runtimes[0]
    return name if name in _PRIOR else DEFAULT_RUNTIME


def _group(job: Job) -> tuple[str, str, str]:
    """Return the source, model and GPU of a job."""
    of = job.rows[0] if isinstance(job, Steady) else job.run
    return of.source, of.model_name, of.gpu_name


def _prepared(run: LoadRun) -> Prepared | None:
    """Return a run ready for simulation; None if it cannot be estimated."""
    try:
        return prepare(run)
    except LLMAnalysisError:
        return None


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
        found += group if len(group) == 1 else [group[0], group[-1]]
    return found


def _steady_jobs(paths: Iterable[Path]) -> list[Job]:
    """Return the serving rows of tables that can be estimated, under runtimes fitted without their source and GPU."""
    found: dict[tuple[Any, ...], list[Measurement]] = {}
    known = runtime_names()
    for path in paths:
        for m in read_measurements(path)[0]:
            if is_steady(m) and not apart(m) and m.engine in known:
                found.setdefault((m.source, m.engine, m.version, m.model_name, m.gpu_name), []).append(m)
    jobs: list[Job] = []
    for rows in found.values():
        m = rows[0]
        runtime = build_for(get_runtime(m.engine), gpu_named(m.gpu_name)).without(m.source, m.gpu_name, m.model_name)
        jobs.append(Steady(tuple(rows), runtime))
    return jobs


def _terms_in(job: Job) -> Any:
    """Return the values of a job that the host terms change."""
    return job.terms if isinstance(job, Steady) else (job.times.host, job.policy)


def _values(job: Job) -> dict[str, tuple[str, float]]:
    """Return (metric, logarithm of estimated to measured) of a job, by id."""
    try:
        if isinstance(job, Steady):
            tpots = steady_seconds(job.rows, job.runtime, job.terms)
            return {m.id: ("tpot_mean", log(tpot / m.seconds)) for m, tpot in zip(job.rows, tpots, strict=True)}
        run, summary = job, job.summary()
    except LLMAnalysisError:
        return {}
    found = {}
    for name, metric, value in run.run.values:
        estimated = metric_of(summary, metric) if metric in (*_METRICS, _THROUGHPUT) else 0.0
        if estimated > 0:
            found[name] = metric, log(estimated / value)
    return found


def _line(runs: Sequence[Job], at: Array, pool: ProcessPoolExecutor) -> Line:
    """Return the residuals of all jobs around the logarithms `at`."""
    import numpy as np

    names = list(_PRIOR)
    number = [names.index(_key(run)) for run in runs]
    moves = np.vstack([np.zeros(at.shape[1]), _STEP * np.eye(at.shape[1])])
    under: list[list[Job]] = [
        [run.under(HostTerms(*np.exp(at[k] + move))) for run, k in zip(runs, number, strict=True)] for move in moves
    ]
    tables = [list(pool.map(_values, under[0], chunksize=4))]
    for moved in under[1:]:
        # A term that does not apply to a job, as the front end to an offline run, changes nothing: no simulation.
        jobs = [j for j, run in enumerate(moved) if _terms_in(run) != _terms_in(under[0][j])]
        changed = dict(zip(jobs, pool.map(_values, [moved[j] for j in jobs], chunksize=4), strict=True))
        tables.append([changed.get(j, tables[0][j]) for j in range(len(runs))])
    keys = [(j, name) for j in range(len(runs)) for name in tables[0][j] if all(name in table[j] for table in tables)]
    values = np.array([[table[j][name][1] for table in tables] for j, name in keys])
    groups = [(*_group(runs[j]), class_of(tables[0][j][name][0])) for j, name in keys]
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

    prior, own_spread = np.log(np.array(list(_PRIOR.values()))), np.array(_OWN)
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
        pulls[rows, terms + rows] = 1.0 / own_spread
        pulls[rows, np.arange(terms)] = -1.0 / own_spread
    own = engines * terms
    pulls[own + np.arange(terms), np.arange(terms)] = 1.0 / np.array(_SHARED)
    pulls[own + terms + np.arange(factors), count + np.arange(factors)] = 1.0 / _KERNELS
    still = np.concatenate([((line.at - prior) / own_spread).ravel(), np.zeros(terms + factors)])

    def loss(x: Array) -> Array:
        now = (r + moves @ x) / _SOFT
        return np.concatenate([root * np.sign(now) * np.sqrt(np.log1p(now**2)), still + pulls @ x])

    def slope(x: Array) -> Array:
        now = np.abs((r + moves @ x) / _SOFT) + _TINY
        steep = now / (1.0 + now**2) / np.sqrt(np.log1p(now**2))  # of sqrt(log(1 + now^2)); 1 at 0
        return np.vstack([(root * steep / _SOFT)[:, None] * moves, pulls])

    found = least_squares(loss, np.zeros(count + factors), slope, method="lm")
    return np.asarray(line.at + found.x[terms:count].reshape(engines, terms))


def _terms(logs: Array) -> dict[str, dict[str, float]]:
    """Return the terms of each engine, to three digits."""
    import numpy as np

    rows = zip(_PRIOR, np.exp(logs), strict=True)
    return {name: HostTerms(*(float(f"{x:.3g}") for x in row))._asdict() for name, row in rows}


def _errors(line: Line, logs: Mapping[str, Array]) -> dict[str, float]:
    """Return the weighted median of |residual| of the values of each source under the terms for that source.

    The residuals are those of the linear model: nothing is simulated again.
    """
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


def _line_of(runs: Path, tables: Iterable[Path] = (), processes: int | None = None) -> Line:
    """Return the residuals of the runs of a table, and of the serving rows of others, around the prior."""
    import numpy as np

    with ProcessPoolExecutor(processes) as pool:
        prepared = pool.map(_prepared, _selected(read_runs(runs)[0]), chunksize=4)
        jobs = [*(run for run in prepared if run is not None), *_steady_jobs(tables)]
        line = _line(jobs, np.log(np.array(list(_PRIOR.values()))), pool)
        print(f"mean |log error| of the prior, at most 1 each: {_mean_error(line):.3f}", flush=True)
        for _ in range(_ROUNDS):
            line = _line(jobs, _solved(line), pool)
        return line


def _mean_error(line: Line) -> float:
    """Return the weighted mean of |residual|, each at most 1, at the terms around which a line was made."""
    import numpy as np

    return float(np.average(np.minimum(np.abs(line.residuals), 1.0), weights=line.weights))


def build_host_terms(line: Line) -> None:
    """Fit the terms to a line, with all sources and without each of them, and write the file."""
    held_out = {source: _solved(line, source) for source in sorted(set(line.sources))}
    data: dict[str, Any] = {
        "about": "Host time of serving engines in seconds (the terms of inference/host_terms.py), fitted to published "
        "runs under load; held_out: the terms of a fit without the runs of a source, by which validate --load "
        "scores that source",
        "date": FIT_DATE,
        "evidence": {
            "values": dict(Counter(line.sources)),
            "median_log_error_held_out": _errors(line, held_out),
        },
        "terms": _terms(_solved(line)),
        "held_out": {source: _terms(logs) for source, logs in held_out.items()},
    }
    FILE.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    for name, terms in data["terms"].items():
        print(name, terms, flush=True)
    print(f"mean |log error| of the fit, at most 1 each: {_mean_error(line):.3f}", flush=True)


if __name__ == "__main__":
    build_host_terms(_line_of(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]]))
