"""Estimate published serving rows (TPOT at a fixed concurrency) with the steady state of `infer --max_concurrency`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_analysis.calibration.measurements import Measurement, gpu_named, model_named
from llm_analysis.inference.engines import engine_for, version_in
from llm_analysis.inference.host_terms import HostTerms, host_terms
from llm_analysis.inference.runtimes import Runtime
from llm_analysis.inference.scenario import Scenario
from llm_analysis.serving.policies import host_from, policy_of
from llm_analysis.serving.steady_state import steady_state


def is_steady(m: Measurement) -> bool:
    """Return whether a row is the TPOT of a steady state; of single tokens there is none."""
    return m.kind == "serving" and m.metric == "tpot" and m.num_tokens > 1


def steady_seconds(rows: Sequence[Measurement], runtime: Runtime, terms: HostTerms | None = None) -> list[float]:
    """Return the TPOT of rows under a runtime, in seconds.

    `terms` replaces the host terms of the engine, which are fitted without the source of each row.
    """
    alike: dict[tuple[Any, ...], list[int]] = {}
    for i, m in enumerate(rows):
        scenario = (m.model_name, m.gpu_name, m.dtypes(), m.layout())
        alike.setdefault((*scenario, m.source, version_in(m.version)), []).append(i)
    found = [0.0] * len(rows)
    for indices in alike.values():
        for i, seconds in zip(indices, _tpots([rows[i] for i in indices], runtime, terms), strict=True):
            found[i] = seconds
    return found


def _tpots(rows: Sequence[Measurement], runtime: Runtime, terms: HostTerms | None) -> list[float]:
    """Return the TPOT of rows of one scenario, source and version."""
    import numpy as np

    first, version = rows[0], version_in(rows[0].version)
    scenario = Scenario.of(
        model_named(first.model_name),
        gpu_named(first.gpu_name),
        first.dtypes(),
        first.layout(),
        method="calibrated",
        runtime=runtime,
    )
    engine = engine_for(runtime.engine_name, version)
    terms = terms or host_terms(engine.runtimes[0], first.source)
    tokens, outputs, requests = (
        np.array([getattr(m, name) for m in rows]) for name in ("seq_len", "num_tokens", "batch_size")
    )
    policy = policy_of(engine, scenario, tokens + outputs / 2, version=version)
    policy = policy._replace(front_seconds=terms.front_seconds, front_serial_seconds=terms.front_serial_seconds)
    host = host_from(engine, terms, scenario)
    found = steady_state(scenario, tokens, outputs, requests, policy=policy, host=host)
    return [float(seconds) for seconds in np.broadcast_to(found.tpot, len(rows))]
