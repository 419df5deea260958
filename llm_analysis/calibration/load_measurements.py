"""Serving rows for a calibration from published or measured runs under load.

A run in steady state with X requests/s, o output tokens each and a mean TPOT of T seconds has on average

    b = X (o - 1) T        running sequences (Little's law), those of one replica at its share of X

so that T is the time of a decode step at b sequences with the prompts that join, as in a table of latencies.
"""

from __future__ import annotations

from math import inf
from pathlib import Path

from llm_analysis.calibration.columns import SERVER, Skipped
from llm_analysis.calibration.load_runs import LoadRun, read_runs
from llm_analysis.calibration.measurements import Measurement, read_measurements
from llm_analysis.errors import BadValue
from llm_analysis.files import read_table

_TPOTS = ("tpot_mean", "tpot_median", "itl_mean", "itl_median")  # the first that a run has


def read_rows(path: Path) -> tuple[list[Measurement], list[Skipped]]:
    """Return the rows of a table of latencies or of runs under load, and (id, reason) of those that cannot be used.

    A table of runs has a column `arrival`. Raises BadConfig.
    """
    rows = read_table(path, ("id",))
    if not rows or "arrival" not in rows[0]:
        return read_measurements(path)
    runs, skipped = read_runs(path)
    found = []
    for run in runs:
        try:
            row = serving_row(run)
        except BadValue as error:
            skipped += [(name, str(error)) for name, _, _ in run.values]
            continue
        found.append(row)
        others = [name for name, _, _ in run.values if name != row.id]
        skipped += [(name, f"its run is fitted by the TPOT of {row.id}") for name in others]
    return found, skipped


def serving_row(run: LoadRun) -> Measurement:
    """Return the TPOT of a run as a row of a table of latencies. Raises BadValue if the run does not determine it."""
    if run.at_once or run.disagg:
        raise BadValue("all requests at once, or separate prefill workers: no steady state of one engine")
    values = {metric: (name, value) for name, metric, value in run.values}
    known = next((metric for metric in _TPOTS if metric in values), None)
    if known is None:
        raise BadValue("a calibration takes a run's tpot or itl, mean or median, and this run has none")
    if not run.mean_output > 1:
        raise BadValue("mean_output_tokens must be above 1")
    name, seconds = values[known]
    each = _requests_per_second(run, {metric: value for metric, (_, value) in values.items()})
    # Ranks with attention of their own that share experts are one layout here (`Measurement.layout`).
    replicas = max(run.dp_size * run.tp_size / max(run.tp_size, run.ep_size), 1.0)
    running = max(each / replicas * (run.mean_output - 1) * seconds, 1.0)
    return Measurement(
        id=name,
        kind="serving",
        batch_size=running,
        seq_len=run.mean_input,
        num_tokens=run.mean_output,
        decode_steps=run.mean_output - 1,
        metric="tpot",
        seconds=seconds,
        **{name: getattr(run, name) for name in SERVER},
    )


def _requests_per_second(run: LoadRun, values: dict[str, float]) -> float:
    """Return the requests per second of a run. Raises BadValue if neither throughput nor rate is stated."""
    if "request_throughput" in values:
        return values["request_throughput"]
    if "output_token_throughput" in values:
        return values["output_token_throughput"] / run.mean_output
    if run.rate < inf:
        return run.rate
    raise BadValue("a calibration needs a run's throughput or request rate, and this run has neither")
