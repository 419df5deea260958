"""Simulate published runs of serving under load: find the engine of a run, and estimate its metrics."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import ceil, inf
from typing import NamedTuple

from llm_analysis.calibration.load_definitions import (
    cached_prefix,
    lengths_of,
    longest_context,
    requests_of,
    settings_of,
    stated_version,
)
from llm_analysis.calibration.load_runs import THROUGHPUTS, LoadRun, transport_of
from llm_analysis.calibration.measurements import formats_of, gpu_named, model_named
from llm_analysis.errors import unknown
from llm_analysis.inference.engines import Engine, engine_for, version_in
from llm_analysis.inference.host_terms import HostTerms, host_terms
from llm_analysis.inference.memory import weights_fit
from llm_analysis.inference.runtimes import build_for, get_runtime, runtime_for_version, runtime_names
from llm_analysis.inference.scenario import Scenario
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.serving.metrics import Summary, median_summary, summarize
from llm_analysis.serving.policies import host_from, policy_of
from llm_analysis.serving.scheduler import Policy
from llm_analysis.serving.server import (
    Server,
    Workload,
    goodput_rate,
    kv_link,
    saturation_rate,
)
from llm_analysis.serving.simulation import Link
from llm_analysis.serving.steady_state import steady_state
from llm_analysis.serving.step_times import Host, StepTimes, build_step_times

MOST_REQUESTS = 4000  # most simulated requests of a run; of a longer run only the steady part is used
_LEAST_REQUESTS = 1000  # least simulated requests of a run, in one simulation or several
_WAVES = 8  # a shortened run has this many times the sequences that a replica runs at a time
_CHAT = "chat endpoint"  # words in the notes of a run
_WORKERS = re.compile(r"(\d+)P(\d+)D")
_ATTAINMENT = 0.99  # MLPerf limits the 99th percentile


def scenario_of(run: LoadRun) -> Scenario:
    """Return one replica of a run. Raises LLMAnalysisError."""
    model, gpu = model_named(run.model_name), gpu_named(run.gpu_name)
    context = longest_context(run)
    if context:
        model = model.model_copy(update={"max_position_embeddings": context})
    layout = Parallelism(
        tp_size=run.tp_size,
        pp_size=run.pp_size,
        ep_size=run.ep_size,
        dp_size=run.dp_size if run.ep_size > run.tp_size else 1,
    )
    name = runtime_for_version(run.runtime, stated_version(run))
    if name not in runtime_names():
        raise unknown("runtime", run.runtime, runtime_names())
    runtime = build_for(get_runtime(name), gpu).without(run.source, gpu.name, model.name)
    scenario = Scenario.of(
        model,
        gpu,
        formats_of(run.model_name, run.dtype_name, run.kv_dtype),
        layout,
        method="calibrated",
        runtime=runtime,
    )
    weights_fit(scenario)
    return scenario


class Prepared(NamedTuple):
    """A run as its simulation needs it."""

    run: LoadRun
    scenario: Scenario  # of one replica
    engine: Engine
    times: StepTimes
    policy: Policy
    workload: Workload
    num_requests: int  # of one replica
    rate: float
    concurrency: float
    steady: bool  # whether ramp-up and drain are left out
    link: Link | None = None  # link between prefill and decode workers

    def under(self, terms: HostTerms) -> Prepared:
        """Return the run with other host terms.

        Only HTTP runs have the serial front-end time; offline runs and MLPerf's have no front-end time.
        """
        transport = transport_of(self.run)
        front = 0.0 if transport == "offline" or self.run.of_mlperf else terms.front_seconds
        front += terms.chat_seconds if _CHAT in self.run.notes else 0.0
        serial = terms.front_serial_seconds if transport == "http" else 0.0
        late = self.engine.late_tokens and transport == "in-process" and not self.run.of_mlperf
        return self._replace(
            times=self.times._replace(host=host_from(self.engine, terms, self.scenario, transport)),
            policy=self.policy._replace(front_seconds=front, front_serial_seconds=serial, late_tokens=late),
        )

    def summary(self) -> Summary:
        """Return the metrics of the simulation, throughputs of all replicas.

        A short run is simulated with several seeds, and each metric is the median: with 100 requests the mean length
        of their answers differs by 10 % from one seed to the next.
        """
        # A workload with seed n draws its arrivals with n and its lengths with n + 1.
        seeds = range(ceil(_LEAST_REQUESTS / self.num_requests))
        return median_summary([self._summary(self.workload._replace(seed=2 * seed)) for seed in seeds])

    def _summary(self, workload: Workload) -> Summary:
        """Return the metrics of one simulation."""
        server = Server(self.times, self.policy)
        workers = _WORKERS.fullmatch(self.run.disagg)
        if workers and self.link:
            server = server._replace(
                link=self.link, num_prefill_workers=int(workers[1]), num_decode_workers=int(workers[2])
            )
        requests = workload.requests(self.num_requests, self.rate)
        found = summarize(server.run(requests, self.concurrency), steady=self.steady)
        return found._replace(**{name: getattr(found, name) * self.run.dp_size for name in THROUGHPUTS})


def saturation_of(prepared: Prepared) -> float:
    """Return the requests per second at which a replica of a run saturates, in closed form.

    Requests have the mean lengths. With separate prefill workers there is no such form: infinity.
    """
    if prepared.link:
        return inf
    w, scenario = prepared.workload, prepared.scenario
    found = steady_state(
        scenario,
        w.inputs.mean,
        w.outputs.mean,
        1.0,
        policy=prepared.policy,
        host=prepared.times.host,
        output_spread=w.outputs.spread,
    )
    return float(found.saturation_rate) / scenario.layout.dp_size


def goodput_of(prepared: Prepared, limits: Mapping[str, float]) -> float:
    """Return the highest request rate at which 99 % of the requests meet the limits, of all replicas."""
    server = Server(prepared.times, prepared.policy)
    w = prepared.workload
    rate = goodput_rate(server, w, limits, _ATTAINMENT, saturation_rate(server, w))
    return rate * prepared.run.dp_size


def prepare(run: LoadRun) -> Prepared:
    """Return what the simulation of a run needs, with host terms fitted without its source. Raises LLMAnalysisError."""
    scenario = scenario_of(run)
    inputs, outputs = lengths_of(run)
    version = version_in(stated_version(run))
    engine = engine_for(run.runtime, version)
    context = run.mean_input + run.mean_output / 2
    policy = policy_of(
        engine,
        scenario,
        context,
        version=version,
        **settings_of(run, engine.serving(scenario.model, scenario.gpu, version).defaults_on(scenario.gpu, version)),
    )
    policy = policy._replace(cached_prefix=cached_prefix(run, engine, policy))
    dp = run.dp_size
    sent = requests_of(run) / dp
    concurrency = max(float(round(run.concurrency / dp)), 1.0) if run.concurrency < inf else inf
    most = max(MOST_REQUESTS, int(_WAVES * min(policy.max_num_seqs, concurrency)))
    count = most if sent > most else max(round(sent), 1)
    rate = run.rate / dp if run.arrival in ("poisson", "constant") else inf
    shape = inf if run.arrival == "constant" else float(dp)  # every dp-th Poisson arrival has gaps of that shape
    rows = policy.max_num_batched_tokens + policy.max_num_seqs
    longest = inputs.longest + outputs.longest
    prepared = Prepared(
        run=run,
        scenario=scenario,
        engine=engine,
        times=build_step_times(scenario, Host(), rows, min(policy.max_num_seqs, count), longest),
        policy=policy,
        workload=Workload(inputs, outputs, shape),
        num_requests=count,
        rate=rate,
        concurrency=concurrency,
        steady=sent > most or "genai-perf" in run.notes,
        link=kv_link(scenario, context) if _WORKERS.fullmatch(run.disagg) else None,
    )
    return prepared.under(host_terms(engine.runtimes[0], run.source))


def metric_of(summary: Summary, metric: str) -> float:
    """Return a metric by the name that rows have for it."""
    if metric in THROUGHPUTS:
        return float(getattr(summary, metric))
    kind, _, statistic = metric.partition("_")
    return float(getattr(getattr(summary, kind), statistic))
