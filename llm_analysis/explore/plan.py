"""Search for the cheapest way to serve a model: GPU, format, layout, batch, and number of replicas.

For each GPU, format and layout, continuous batching is computed at a grid of batch sizes up to 1024 at once (`steady`),
and at a finer grid between the last point within the limits and the next. The batch of the formula is the mean number
of sequences in flight. The largest one within the limits gives the rate of one replica; the demand divided by it,
rounded up, the number of replicas. With prefill and decode on separate GPUs, prefill workers and decode workers are
matched to the same rate. Prompts queue for the prefill workers; the steps of the decode workers have no prompts.

The configurations, and those with some more replicas, are then simulated in the order of their price (`verify`); the
first one whose simulated means meet the limits is the best. Without prices the order is that of the number of GPUs.
A server that runs no more sequences at a time than the mean of the formula keeps requests waiting in bursts: if the
TTFT is too long for this reason, the simulation is repeated with room for bursts, and the launch commands ask for it.
Where the prompts of others make the TPOT too long, replicas that run one request at a time are considered too.
The best configuration at the high edge of the error band is found in the same way, with slower servers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from math import ceil, inf, isfinite, sqrt
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from llm_analysis.errors import BadValue, LLMAnalysisError
from llm_analysis.explore.steady import Steady, steady_state
from llm_analysis.explore.verify import PREFILL_SEQUENCES, Servers, Simulated, Slower, simulated
from llm_analysis.hardware.gpu import GPU
from llm_analysis.hardware.roofline import pass_seconds
from llm_analysis.inference.analysis import estimate
from llm_analysis.inference.bands import band_for
from llm_analysis.inference.memory import Memory
from llm_analysis.inference.methods import Efficiencies, choose_method
from llm_analysis.inference.passes import prefill
from llm_analysis.inference.runtimes import Runtime
from llm_analysis.inference.scenario import Scenario
from llm_analysis.inference.workload import Workload
from llm_analysis.models.config import ModelConfig
from llm_analysis.physics.dtypes import Dtypes, get_dtypes, of_checkpoint
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.serving.steady_state import mean_wait

if TYPE_CHECKING:
    from llm_analysis.units import Array

_MOST_BATCH = 1024  # most sequences in flight per replica: the largest default of the engines
CHUNK = 8192  # most tokens of a prefill pass; limits the activations
MOST_BUSY = 0.95  # largest utilization of a prefill worker
FORMATS = ("fp8", "int8", "nvfp4")  # formats to try besides the checkpoint's, on GPUs that support them
MODES = ("aggregated", "disaggregated")
_FRACTIONS = (0.0, 0.25, 0.5, 0.75)  # mean numbers of sequences in flight below one in the grid
_LEAST = 1 / 16  # least mean number within the limits: replicas that are nearly always idle are no answer
_FINE = 16  # steps of the finer grid up to 16 sequences in flight; above, it has all whole numbers
_BURSTS = 4  # standard deviations of the sequences in flight (Poisson) for which a server has room in bursts
_MOST_SIMULATED = 8  # most configurations that are simulated
_SPARE = (0.15, 0.3)  # fractions of the capacity that further candidates leave unused, for bursts of Poisson arrivals
CLOSED_FORM = "limits apply to means, and arrivals are assumed to be Poisson; `llm-analysis load` gives percentiles"
_USUAL_CACHE_BITS = 16
NARROW_CACHE = (
    "KV cache in 8 bits: the commands of vLLM and SGLang set it, TensorRT-LLM follows the checkpoint; "
    "--kv_cache_dtype_bytes 1 gives it in infer and load"
)
_WIDE = 32  # most GPUs of one engine with experts spread over several servers that are not one link domain
# Of a number of requests in flight without these limits, the latencies that give the rate of disaggregated workers:
_USUAL_TTFT, _USUAL_TPOT = 1.0, 0.05  # seconds


class Limits(NamedTuple):
    """The limits on a configuration: seconds, tokens/s of one user, cost per hour, GPUs."""

    ttft: float = inf
    tpot: float = inf
    request_latency: float = inf
    tokens_per_second: float = 0.0
    cost_per_hour: float = inf
    gpus: float = inf


class Demand(NamedTuple):
    """Requests to serve: their tokens, and either requests per second or requests in flight."""

    input_tokens: int
    output_tokens: int
    request_rate: float | None = None
    concurrency: int | None = None


class Configuration(NamedTuple):
    """A way to serve the demand. Latencies are those at the demand.

    Per data-parallel rank, `most_in_flight` is the largest mean number of sequences in flight within the limits,
    `in_flight` the mean number at the demand, and `batch` the most sequences that run at a time, as simulated and
    launched. `load` is the demand as a share of what the replicas can serve. In disaggregated mode `replicas` counts
    decode workers.
    """

    gpu_name: str
    dtype_name: str
    mode: str
    layout: Parallelism
    replicas: int
    batch: int
    prefill_layout: Parallelism | None
    prefill_workers: int
    num_gpus: int
    cost_per_hour: float | None
    load: float
    most_in_flight: float
    in_flight: float
    ttft: float
    tpot: float
    request_latency: float
    request_rate: float
    tokens_per_sec: float
    tokens_per_sec_per_gpu: float
    limited_by: str  # the limit that a larger batch would exceed
    scenario: Scenario
    cost_per_million_tokens: float | None = None
    simulated: Simulated | None = None  # only for the best configuration and the best one at the band edge

    @property
    def price(self) -> float:
        """What is minimized: the cost per hour, or the number of GPUs without prices."""
        return self.num_gpus if self.cost_per_hour is None else self.cost_per_hour

    @property
    def margin(self) -> float:
        """The share of its capacity that the demand leaves unused."""
        return 1 - self.load

    def as_dict(self) -> dict[str, Any]:
        """Return plain values in SI units."""
        plain = self._asdict()
        del plain["scenario"]
        sizes = ("tp_size", "pp_size", "dp_size", "ep_size")
        plain["layout"] = {size: getattr(self.layout, size) for size in sizes}
        if self.prefill_layout is not None:
            plain["prefill_layout"] = {size: getattr(self.prefill_layout, size) for size in sizes}
        simulation = None if self.simulated is None else self.simulated.as_dict()
        return plain | {"margin": self.margin, "simulated": simulation}


class Miss(NamedTuple):
    """The configuration nearest to the limits, and the values of the violated limits that it needs."""

    description: str
    needed: dict[str, float]  # limit -> value that the configuration needs
    excess: float  # largest ratio of a value to its limit; infinite if nothing fits in memory

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; None for an infinite excess."""
        return self._asdict() | {"excess": self.excess if isfinite(self.excess) else None}


class Rejected(NamedTuple):
    """The best configuration of another GPU, format or layout, and the reason why it needs more."""

    configuration: Configuration
    excess: float  # relative additional price compared with the best
    reason: str


class Points(NamedTuple):
    """Points of one GPU, format and layout within memory and TTFT: tokens/s of a user and of a GPU, by batch."""

    gpu_name: str
    dtype_name: str
    layout: Parallelism
    batch: Array
    users: Array
    per_gpu: Array
    price: float | None = None  # price of one GPU for an hour


class Plan(NamedTuple):
    """The answer: the best configuration, the other ones, the Pareto front, and how many points were searched."""

    model_name: str
    demand: Demand
    limits: Limits
    best: Configuration | None
    at_band_edge: Configuration | None  # the best one with latencies at the high edge of their error band
    rejected: tuple[Rejected, ...]
    miss: Miss | None
    misses: dict[str, Miss]  # nearest configuration of each GPU that does not meet the limits
    curves: tuple[Points, ...]
    points: int
    notes: tuple[str, ...]

    @property
    def front(self) -> list[dict[str, Any]]:
        """The Pareto front of tokens/s/user and tokens/s/GPU, slowest user first."""
        found: list[tuple[float, float, int, Points]] = []
        for curve in self.curves:
            rows = zip(curve.users.tolist(), curve.per_gpu.tolist(), curve.batch.tolist(), strict=True)
            found += [(user, per_gpu, int(batch), curve) for user, per_gpu, batch in rows]
        kept: list[dict[str, Any]] = []
        highest = 0.0
        for user, per_gpu, batch, curve in sorted(found, key=lambda each: (-each[0], -each[1])):
            if per_gpu > highest:
                highest = per_gpu
                kept.append(
                    {
                        "gpu_name": curve.gpu_name,
                        "dtype_name": curve.dtype_name,
                        "tp_size": curve.layout.tp_size,
                        "pp_size": curve.layout.pp_size,
                        "dp_size": curve.layout.dp_size,
                        "ep_size": curve.layout.ep_size,
                        "batch": batch,
                        "tokens_per_sec_per_user": user,
                        "tokens_per_sec_per_gpu": per_gpu,
                    }
                )
        return kept[::-1]

    @property
    def commands(self) -> dict[str, list[str]]:
        """The launch commands of the best configuration by engine: one, or prefill and decode worker."""
        from llm_analysis.explore.launch import launch_commands

        found: dict[str, list[str]] = {}
        for server in self.servers:
            for engine, command in launch_commands(server).items():
                found.setdefault(engine, []).append(command)
        return found

    @property
    def servers(self) -> list[Any]:
        """The servers to launch: one kind, or prefill and decode workers."""
        from llm_analysis.explore.launch import Server

        best = self.best
        if best is None:
            return []
        s, tokens = best.scenario, self.demand.input_tokens + self.demand.output_tokens
        if best.prefill_layout is None:
            return [Server(s.model, s.dtypes, best.layout, best.batch, tokens, CHUNK, vendor=s.gpu.vendor)]
        prefill = Server(s.model, s.dtypes, best.prefill_layout, PREFILL_SEQUENCES, tokens, CHUNK, role="prefill")
        decode = Server(s.model, s.dtypes, best.layout, best.batch, tokens, role="decode")
        return [each._replace(vendor=s.gpu.vendor) for each in (prefill, decode)]


class _Curve(NamedTuple):
    """One scenario at all batch sizes that fit."""

    scenario: Scenario
    batch: Array
    steady: Steady
    price: float | None  # price of one GPU for an hour
    ttft_edge: float  # factor to the high edge of the error band
    tpot_edge: float

    @property
    def gpus(self) -> int:
        """GPUs of one replica: of all its data-parallel ranks."""
        return self.scenario.layout.num_gpus

    @property
    def ranks(self) -> int:
        """Data-parallel ranks of one replica, each with its own batch."""
        return self.scenario.layout.dp_size

    @property
    def busy(self) -> _Curve:
        """The curve from one sequence in flight on."""
        some = self.batch >= 1
        columns = {name: getattr(self.steady, name)[some] for name in Steady._fields if name != "front"}
        return self._replace(batch=self.batch[some], steady=self.steady._replace(**columns))


def plan(
    model: ModelConfig,
    gpus: Sequence[GPU],
    demand: Demand,
    limits: Limits | None = None,
    *,
    formats: Sequence[str] | None = None,
    prices: Mapping[str, float] | None = None,
    runtime: Runtime | None = None,
    method: str | None = None,
    modes: Sequence[str] = MODES,
    within: str = "estimate",
    gpu_memory_utilization: float = 0.9,
    simulate: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Plan:
    """Return the cheapest configurations that serve the demand within the limits.

    `formats` are names of number formats; by default the checkpoint's own and those of `FORMATS` that the GPU
    multiplies. `prices` maps GPU names to the cost of an hour. `within` band applies the limits to the high edge of
    the error band. With `simulate` the best candidates are simulated in the order of their price, and the first one
    that meets the limits in the simulation too is the best; the band edge has a simulation too. Raises LLMAnalysisError
    for an invalid demand, for settings that no layout can have, and if each layout is refused.
    """
    _check(demand)
    choose_method(method, Efficiencies(), runtime)
    Workload(gpu_memory_utilization=gpu_memory_utilization)
    bounds = limits or Limits()
    search = _Search(model, demand, bounds, prices, runtime, method, gpu_memory_utilization, modes)
    for gpu in gpus:
        search.add(gpu, formats)
        if progress:
            progress(1)
    return search.result(within, simulate)


def _check(demand: Demand) -> None:
    """Raise BadValue unless a demand has one load, and two output tokens or more."""
    if (demand.request_rate is None) == (demand.concurrency is None):
        raise BadValue("give the load as request_rate or as max_concurrency, one of the two")
    load = demand.request_rate if demand.concurrency is None else demand.concurrency
    if load is None or not 0 < load < inf:
        raise BadValue(f"the load must be a number above 0, not {load}")
    if demand.output_tokens < 2:
        raise BadValue(f"num_tokens_to_generate must be 2 or more for continuous batching, not {demand.output_tokens}")


_Key: TypeAlias = tuple[object, ...]


class _Search:
    """The state of a search."""

    def __init__(
        self,
        model: ModelConfig,
        demand: Demand,
        limits: Limits,
        prices: Mapping[str, float] | None,
        runtime: Runtime | None,
        method: str | None,
        utilization: float,
        modes: Sequence[str],
    ) -> None:
        self.model, self.demand, self.limits, self.prices = model, demand, limits, prices
        self.runtime, self.method, self.utilization, self.modes = runtime, method, utilization, modes
        self.points = 0
        self.curves: list[_Curve] = []
        # prefill workers, each with the seconds of one prompt, the transfer included and HTTP and tokenizer not
        self.prefills: list[tuple[_Curve, float]] = []
        self.unfit: dict[tuple[str, str], float] = {}  # GPU and format -> bytes missing on the best layout
        self.refusal: LLMAnalysisError | None = None  # why the first layout that was refused has no answer
        self.refinements: dict[_Key, _Curve] = {}
        self.notes: dict[str, None] = {}

    def add(self, gpu: GPU, formats: Sequence[str] | None) -> None:
        """Compute all formats and layouts of a GPU at all batch sizes."""
        import numpy as np

        gpu = gpu.as_reported  # as the simulations and the engines have it
        price = None if self.prices is None else self.prices.get(gpu.name)
        if self.prices is not None and price is None:
            self.notes[f"{gpu.name} has no price and was left out"] = None
            return
        # Of a number of requests in flight, a replica has one at least.
        grid = np.array([*(_FRACTIONS if self.demand.concurrency is None else ()), *_batch_sizes()])
        for dtypes, layout in product(_formats(self.model, gpu, formats), _layouts(self.model, gpu)):
            try:
                # With 8-bit activations the launch command asks for an 8-bit KV cache: no engine has it by default.
                stated = dtypes.with_kv_bits(dtypes.kv_bits)
                scenario = Scenario.of(self.model, gpu, stated, layout, method=self.method, runtime=self.runtime)
                fits = self._fitting(scenario)
            except LLMAnalysisError as error:
                self.refusal = self.refusal or error
                continue
            if fits == 0:
                continue
            batch = np.append(grid[grid < fits], float(fits))
            curve = _Curve(scenario, batch, self._steady(scenario, batch), price, *_band_factors(scenario))
            self.curves.append(curve)
            if "disaggregated" in self.modes:
                self._add_prefill(curve)

    def _steady(self, scenario: Scenario, batch: Array) -> Steady:
        """Return continuous batching at some batch sizes, and count them."""
        self.points += len(batch)
        return steady_state(scenario, batch, self.demand.input_tokens, self.demand.output_tokens, CHUNK)

    def _refined(self, curve: _Curve, meets: Callable[[_Curve], dict[str, Any]]) -> _Curve:
        """Return the curve with a finer grid between the last batch size that meets the limits and the next."""
        import numpy as np

        all_met = np.logical_and.reduce(list(meets(curve).values()))
        last = int(np.flatnonzero(all_met)[-1]) if all_met.any() else -1
        if last == -1 or last + 1 == len(curve.batch):
            return curve
        # The spares, the modes and the band edge ask for many of them again.
        key = (curve.scenario.gpu.name, curve.scenario.dtypes.name, curve.scenario.layout, last)
        if key not in self.refinements:
            self.refinements[key] = self._refinement(curve, last)
        return self.refinements[key]

    def _refinement(self, curve: _Curve, last: int) -> _Curve:
        """Return the curve with a finer grid between one of its batch sizes and the next."""
        import numpy as np

        low, high = curve.batch[last : last + 2]
        if self.demand.concurrency is None and high <= _FINE:
            between = np.linspace(low, high, _FINE + 1)[1:-1]
        else:
            between = np.arange(low + 1, high)
        if not len(between):
            return curve
        more = self._steady(curve.scenario, between)
        columns: dict[str, Any] = {
            name: np.insert(getattr(curve.steady, name), last + 1, getattr(more, name))
            for name in Steady._fields
            if name != "front"
        }
        return curve._replace(batch=np.insert(curve.batch, last + 1, between), steady=curve.steady._replace(**columns))

    def _add_prefill(self, curve: _Curve) -> None:
        """Add a prefill worker with the layout of a curve, if the GPU has a link for the cache."""
        prompt = Workload(seq_len=self.demand.input_tokens, disaggregated=True)
        try:
            seconds = float(pass_seconds(prefill(curve.scenario, prompt)))
        except LLMAnalysisError:
            return
        self.points += 1
        self.prefills.append((curve, seconds))

    def _fitting(self, scenario: Scenario) -> int:
        """Return the number of sequences in flight that fit, and record the missing bytes if none do."""
        workload = Workload(
            seq_len=self.demand.input_tokens,
            num_tokens_to_generate=self.demand.output_tokens,
            prefill_chunk_size=CHUNK,
            gpu_memory_utilization=self.utilization,
        )
        memory = Memory(scenario, workload)
        if not memory.fits:
            key = scenario.gpu.name, scenario.dtypes.name
            missing = -float(memory.left)
            self.unfit[key] = min(self.unfit.get(key, inf), missing)
            return 0
        return int(min(float(memory.max_batch), _MOST_BATCH))

    def result(self, within: str, simulate: bool) -> Plan:
        """Return the plan from all curves. Raises the error of the first layout if each layout is refused."""
        if self.refusal is not None and not self.curves and not self.unfit:
            raise self.refusal
        edges = within == "band"
        found = self._configurations(edges)
        admitted = [c for c in found if self._affordable(c)]
        best, failed = self._verified(self._candidates(admitted, edges, simulate), edges, simulate)
        edge = best if edges else self._at_edge(best, simulate)
        rejected = () if best is None else tuple(self._rejected_ones(best, admitted, failed))
        names = dict.fromkeys([curve.scenario.gpu.name for curve in self.curves] + [gpu for gpu, _ in self.unfit])
        without = [name for name in names if name not in {c.gpu_name for c in admitted}]
        misses = {name: self._miss(found, edges, name) for name in without}
        return Plan(
            model_name=self.model.name,
            demand=self.demand,
            limits=self.limits,
            best=best,
            at_band_edge=edge,
            rejected=rejected,
            miss=None if best is not None else min(misses.values(), key=lambda each: each.excess, default=None),
            misses=misses,
            curves=tuple(self._front_points()),
            points=self.points,
            notes=(*self.notes, *(self._assumed(best) if best else ())),
        )

    def _candidates(self, admitted: Sequence[Configuration], edges: bool, simulate: bool) -> list[Configuration]:
        """Return the configurations and, for a simulation, those that leave some capacity unused, in their order."""
        spares = _SPARE if simulate else ()
        with_reserve = [c for spare in spares for c in self._configurations(edges, spare) if self._affordable(c)]
        return sorted([*admitted, *with_reserve], key=_order)

    def _at_edge(self, best: Configuration | None, simulate: bool) -> Configuration | None:
        """Return the best configuration at the high edge of the error band.

        Those that cost less than the best one at the estimate fail in its simulation, so that they fail here too.
        """
        if best is None:
            return None
        admitted = [c for c in self._configurations(True) if self._affordable(c)]
        ordered = [c for c in self._candidates(admitted, True, simulate) if c.price >= best.price]
        return self._verified(ordered, True, simulate)[0]

    def _verified(
        self, ordered: Sequence[Configuration], edges: bool, simulate: bool
    ) -> tuple[Configuration | None, dict[_Key, str]]:
        """Return the first configuration that meets the limits in a simulation too, and why others do not.

        If none of the first `_MOST_SIMULATED` does, the cheapest one is returned, with a note.
        """
        failed: dict[_Key, str] = {}
        for each in ordered if simulate else ():
            if _key(each) in failed:
                continue
            for tried in self._with_room(each):
                run = self._simulated(tried, edges)
                if not (wrong := self._exceeded(run)):
                    return tried._replace(simulated=run), failed
                if run.tpot.mean > self._tpot_limit:  # more sequences at a time make it longer
                    break
            failed[_key(each)] = wrong
            if len(failed) == _MOST_SIMULATED:
                break
        if failed:
            why = failed[_key(ordered[0])]
            where = " at the high edge of the error band" if edges else ""
            self.notes[
                f"none of the {len(failed)} best candidates{where} meets the limits in the simulation; the best one: "
                f"{why}"
            ] = None
        return (ordered[0] if ordered else None), failed

    def _with_room(self, c: Configuration) -> Iterator[Configuration]:
        """Yield a configuration, and then the one that runs more sequences at a time in bursts."""
        yield c
        decoding = (self.demand.output_tokens - 1) * c.tpot
        present = c.most_in_flight * (1 if c.prefill_layout else 1 + c.ttft / decoding)  # those in prefill too
        batch = min(ceil(present + _BURSTS * sqrt(present)), self._fitting(c.scenario))
        if batch > c.batch:
            yield c._replace(batch=batch)

    def _simulated(self, c: Configuration, edges: bool) -> Simulated:
        """Return the simulation of a configuration at the demand; with `edges` at the high edge of the error band."""
        d, ranks = self.demand, c.layout.dp_size
        prefill = None if c.prefill_layout is None else c.scenario.changed(layout=c.prefill_layout)
        workers = c.prefill_workers * (c.prefill_layout.dp_size if c.prefill_layout else 0)
        servers = Servers(c.scenario, c.replicas * ranks, c.batch, prefill, workers)
        limits = {"max_num_batched_tokens": CHUNK, "gpu_memory_utilization": self.utilization}
        in_flight = c.in_flight * c.replicas * ranks
        slower = Slower()
        if edges:
            slower = Slower(_band_factors(prefill or c.scenario)[0], _band_factors(c.scenario)[1])
        return simulated(servers, (d.input_tokens, d.output_tokens), c.request_rate, in_flight, limits, slower)

    @property
    def _tpot_limit(self) -> float:
        """The limit on TPOT, and on the speed of one user."""
        limits = self.limits
        return min(limits.tpot, 1 / limits.tokens_per_second if limits.tokens_per_second else inf)

    def _exceeded(self, run: Simulated) -> str:
        """Return the limit that the means of a simulation exceed; empty if there is none."""
        for name, value, limit in (
            ("TTFT", run.ttft.mean, self.limits.ttft),
            ("TPOT", run.tpot.mean, self._tpot_limit),
            ("request latency", run.e2e.mean, self.limits.request_latency),
        ):
            if value > limit:
                return f"the simulation gives a {name} of {value * 1e3:,.1f} ms"
        return ""

    def _assumed(self, best: Configuration) -> tuple[str, ...]:
        """Return the notes on the estimate of a configuration, and on the limits of the closed form."""
        workload = Workload(
            batch_size_per_gpu=best.batch,
            seq_len=self.demand.input_tokens,
            num_tokens_to_generate=self.demand.output_tokens,
            prefill_chunk_size=CHUNK,
            gpu_memory_utilization=self.utilization,
        )
        narrow = [NARROW_CACHE] if best.scenario.dtypes.kv_bits < _USUAL_CACHE_BITS else []
        return (*narrow, *estimate(best.scenario, workload).notes, CLOSED_FORM)

    def _affordable(self, c: Configuration) -> bool:
        """Whether a configuration is within the limits on cost and GPUs."""
        return c.num_gpus <= self.limits.gpus and (c.cost_per_hour or 0.0) <= self.limits.cost_per_hour

    def _configurations(self, edges: bool, spare: float = 0.0) -> list[Configuration]:
        """Return the best configuration of each scenario and mode that meets the limits on latency.

        At least the fraction `spare` of the capacity is left unused.
        """
        shared = self.curves if "aggregated" in self.modes else []
        found = [c for curve in shared if (c := self._replicated(curve, edges, spare)) is not None]
        if "disaggregated" not in self.modes:
            return found
        groups: dict[tuple[str, str], list[_Curve]] = {}
        for curve in self.curves:
            groups.setdefault((curve.scenario.gpu.name, curve.scenario.dtypes.name), []).append(curve)
        for key, curves in groups.items():
            prefills = [(c, s) for c, s in self.prefills if (c.scenario.gpu.name, c.scenario.dtypes.name) == key]
            found += self._disaggregated(curves, prefills, edges, spare)
        return found

    def _replicated(self, curve: _Curve, edges: bool, spare: float) -> Configuration | None:
        """Return the replicas that prefill and decode; fewer, if they need no other request beside one that runs."""
        together = self._aggregated(curve, edges, spare)
        if self.demand.concurrency is not None or (together is not None and together.most_in_flight >= 1):
            return together
        alone = self._one_at_a_time(curve, edges, spare)
        if together is None or (alone is not None and alone.replicas < together.replicas):
            return alone
        return together

    def _one_at_a_time(self, curve: _Curve, edges: bool, spare: float) -> Configuration | None:
        """Return replicas that run one request at a time; None if that is too slow.

        Its steps have no prompts of others. Requests queue, M/D/1, as long as the limit on TTFT allows.
        """
        import numpy as np

        ttft_edge, tpot_edge = (curve.ttft_edge, curve.tpot_edge) if edges else (1.0, 1.0)
        s, steps = curve.steady, self.demand.output_tokens - 1
        step, prompt = float(s.step[0]), float(s.prompt[0])
        tpot, alone, service = step * tpot_edge, s.front + prompt, prompt + steps * step
        if not all(met.all() for met in self._meets(np.array([alone * ttft_edge]), np.array([tpot])).values()):
            return None
        longest = min(self.limits.ttft, self.limits.request_latency - steps * tpot)
        wait = max(longest / ttft_edge - alone, 0.0)
        busy = min(2 * wait / (2 * wait + service), MOST_BUSY) if isfinite(wait) else MOST_BUSY
        most = busy * steps * step / service
        if most < _LEAST:
            return None
        capacity, rate = busy / (service * tpot_edge), float(self.demand.request_rate or 0.0)
        replicas = ceil(rate / (capacity * curve.ranks * (1 - spare)) - 1e-12)
        own = rate / (replicas * curve.ranks)
        return self._configured(
            curve,
            None,
            0,
            mode="aggregated",
            replicas=replicas,
            most_in_flight=most,
            in_flight=own * steps * tpot,
            rate=rate,
            capacity=capacity * replicas * curve.ranks,
            ttft=(alone + float(mean_wait(own * tpot_edge, service))) * ttft_edge,
            tpot=tpot,
            limited_by="TTFT" if longest == self.limits.ttft else "request latency",
        )

    def _aggregated(self, curve: _Curve, edges: bool, spare: float) -> Configuration | None:
        """Return replicas that prefill and decode, at the largest batch within the limits; None if there is none."""
        import numpy as np

        ttft_edge, tpot_edge = (curve.ttft_edge, curve.tpot_edge) if edges else (1.0, 1.0)

        def meets(of: _Curve) -> dict[str, Any]:
            return self._meets(of.steady.ttft(of.steady.rate / tpot_edge) * ttft_edge, of.steady.tpot * tpot_edge)

        curve = self._refined(curve, meets)
        s = curve.steady
        most, limited_by = _largest(meets(curve), curve.batch)
        if most < _LEAST:
            return None
        rates = s.rate / tpot_edge
        capacity = float(np.interp(most, curve.batch, rates)) * curve.ranks
        if self.demand.concurrency is not None:
            replicas = ceil(self.demand.concurrency / (most * curve.ranks * (1 - spare)))
            in_flight = self.demand.concurrency / (replicas * curve.ranks)
            rate = float(np.interp(in_flight, curve.batch, rates)) * replicas * curve.ranks
        else:
            rate = float(self.demand.request_rate or 0.0)
            replicas = ceil(rate / (capacity * (1 - spare)) - 1e-12)
            in_flight = float(np.interp(rate / (replicas * curve.ranks), rates, curve.batch))
        own = float(np.interp(in_flight, curve.batch, s.tpot)) * tpot_edge
        first = float(np.interp(in_flight, curve.batch, s.ttft(rate / (replicas * curve.ranks)))) * ttft_edge
        return self._configured(
            curve,
            None,
            0,
            mode="aggregated",
            replicas=replicas,
            most_in_flight=most,
            in_flight=in_flight,
            rate=rate,
            capacity=capacity * replicas,
            ttft=first,
            tpot=own,
            limited_by=limited_by,
        )

    def _disaggregated(
        self, curves: Sequence[_Curve], prefills: Sequence[tuple[_Curve, float]], edges: bool, spare: float
    ) -> Iterator[Configuration]:
        """Yield, for each decode layout, decode workers with the cheapest matching prefill workers."""
        import numpy as np

        rate = self._rate()
        matched = self._prefill_workers(prefills, rate, edges, spare)
        if matched is None:
            return
        first, workers, prefill = matched
        for coarse in curves:
            tpot_edge = coarse.tpot_edge if edges else 1.0

            def meets(of: _Curve, tpot_edge: float = tpot_edge) -> dict[str, Any]:
                return self._meets(np.full_like(of.steady.step, first), of.steady.step * tpot_edge)

            curve = self._refined(coarse, meets)
            step = curve.steady.step * tpot_edge
            most, limited_by = _largest(meets(curve), curve.batch)
            self.points += 1
            if most == 0:
                continue
            rates = curve.batch * curve.ranks / ((self.demand.output_tokens - 1) * step)
            capacity = float(np.interp(most, curve.batch, rates))
            replicas = ceil(rate / (capacity * (1 - spare)) - 1e-12)
            in_flight = float(np.interp(rate / replicas, rates, curve.batch))
            tpot = float(np.interp(in_flight, curve.batch, step))
            yield self._configured(
                curve,
                prefill,
                workers,
                mode="disaggregated",
                replicas=replicas,
                most_in_flight=most,
                in_flight=in_flight,
                rate=rate,
                capacity=capacity * replicas,
                ttft=first,
                tpot=tpot,
                limited_by=limited_by,
            )

    def _prefill_workers(
        self, prefills: Sequence[tuple[_Curve, float]], rate: float, edges: bool, spare: float
    ) -> tuple[float, int, _Curve] | None:
        """Return mean TTFT, number and curve of the cheapest prefill workers for a rate; None if all are too slow.

        A worker is busy at most for the share of the time at which its queue, M/D/1, still meets the limit on TTFT.
        """
        matched = []
        for curve, seconds in prefills:
            engine = curve.scenario.engine
            fronts = 2 if engine and engine.last_block_again else 1  # front ends that a request passes
            edge = curve.ttft_edge if edges else 1.0
            own, alone = seconds * edge, (seconds + fronts * curve.steady.front) * edge
            service, wait = own / curve.ranks, self.limits.ttft - alone
            if wait < 0:
                continue
            busy = min(2 * wait / (2 * wait + service), MOST_BUSY) if isfinite(wait) else MOST_BUSY
            busy *= 1 - spare
            workers = ceil(rate * service / max(busy, 1e-9) - 1e-12)
            first = alone + float(mean_wait(rate / workers, service))
            matched.append((workers * curve.gpus, first, workers, curve))
        return min(matched, key=lambda each: each[:2])[1:] if matched else None

    def _rate(self) -> float:
        """Return the requests per second; of a number in flight, as if each met the limits on latency."""
        d, limits = self.demand, self.limits
        if d.request_rate is not None:
            return d.request_rate
        tpot = limits.tpot if isfinite(limits.tpot) else _USUAL_TPOT
        first = limits.ttft if isfinite(limits.ttft) else _USUAL_TTFT
        return float(d.concurrency or 0) / (first + (d.output_tokens - 1) * tpot)

    def _meets(self, ttft: Array, tpot: Array) -> dict[str, Any]:
        """Return, for each limit on latency, whether it is met at each batch."""
        limits, steps = self.limits, self.demand.output_tokens - 1
        return {
            "TTFT": ttft <= limits.ttft,
            "TPOT": tpot <= limits.tpot,
            "request latency": ttft + steps * tpot <= limits.request_latency,
            "tokens/s of one user": tpot * limits.tokens_per_second <= 1.0,
        }

    def _configured(
        self,
        curve: _Curve,
        prefill: _Curve | None,
        workers: int,
        *,
        mode: str,
        replicas: int,
        most_in_flight: float,
        in_flight: float,
        rate: float,
        capacity: float,
        ttft: float,
        tpot: float,
        limited_by: str,
    ) -> Configuration:
        """Return a configuration with its totals. `rate` and `capacity` are requests per second of all replicas."""
        gpus = replicas * curve.gpus + (workers * prefill.gpus if prefill else 0)
        hourly = None if curve.price is None else gpus * curve.price
        tokens = rate * self.demand.output_tokens
        return Configuration(
            gpu_name=curve.scenario.gpu.name,
            dtype_name=curve.scenario.dtypes.name,
            mode=mode,
            layout=curve.scenario.layout,
            replicas=replicas,
            batch=max(ceil(most_in_flight), 1),
            prefill_layout=prefill.scenario.layout if prefill else None,
            prefill_workers=workers,
            num_gpus=gpus,
            cost_per_hour=hourly,
            load=rate / capacity,
            most_in_flight=most_in_flight,
            in_flight=in_flight,
            ttft=ttft,
            tpot=tpot,
            request_latency=ttft + (self.demand.output_tokens - 1) * tpot,
            request_rate=rate,
            tokens_per_sec=tokens,
            tokens_per_sec_per_gpu=tokens / gpus,
            limited_by=limited_by,
            scenario=curve.scenario,
            cost_per_million_tokens=None if hourly is None else hourly / 3600 / tokens * 1e6,
        )

    def _rejected_ones(
        self, best: Configuration, found: Sequence[Configuration], failed: Mapping[_Key, str]
    ) -> Iterator[Rejected]:
        """Yield the best configuration of each other GPU, then of each other format, layout and mode of this GPU."""
        by: dict[tuple[object, ...], Configuration] = {}
        for c in sorted(found, key=_order):
            own = c.gpu_name == best.gpu_name
            key = ("own", c.dtype_name, c.mode, c.layout.tp_size, c.layout.pp_size) if own else (c.gpu_name,)
            by.setdefault(key, c)
        kept = [c for c in by.values() if c.scenario is not best.scenario or c.mode != best.mode]
        for c in sorted(kept, key=lambda each: (each.gpu_name == best.gpu_name, _order(each))):
            excess = c.price / best.price - 1
            yield Rejected(c, excess, failed.get(_key(c)) or _reason(c))

    def _miss(self, found: Sequence[Configuration], edges: bool, gpu: str) -> Miss:
        """Return the nearest miss of a GPU: beyond the cost or the number of GPUs, else nearest to the latencies."""
        limits, own = self.limits, [c for c in found if c.gpu_name == gpu]
        if own:
            nearest = min(own, key=_order)
            hourly = nearest.cost_per_hour or 0.0
            needed: dict[str, float] = {}
            if nearest.num_gpus > limits.gpus:
                needed["max_gpus"] = nearest.num_gpus
            if hourly > limits.cost_per_hour:
                needed["max_cost_per_hour"] = hourly
            return Miss(_described(nearest), needed, max(nearest.num_gpus / limits.gpus, hourly / limits.cost_per_hour))
        misses = [self._miss_of(curve, edges) for curve in self.curves if curve.scenario.gpu.name == gpu]
        if misses and "aggregated" not in self.modes and gpu not in {c.scenario.gpu.name for c, _ in self.prefills}:
            return Miss(f"{gpu}: its bandwidth between servers is unknown; leave out mode disaggregated", {}, inf)
        if misses:
            return min(misses, key=lambda each: each.excess)
        missing, dtype = min((bytes_, dtype) for (name, dtype), bytes_ in self.unfit.items() if name == gpu)
        return Miss(f"{gpu} {dtype}, which needs {missing / 1e9:,.1f} GB more per GPU for one sequence", {}, inf)

    def _miss_of(self, curve: _Curve, edges: bool) -> Miss:
        """Return the batch of a scenario that is nearest to the limits, with the replicas that serve the load.

        Fewer than one sequence in flight on average is left out: it meets hardly lower limits, with many more GPUs.
        """
        import numpy as np

        curve = curve.busy
        ttft_edge, tpot_edge = (curve.ttft_edge, curve.tpot_edge) if edges else (1.0, 1.0)
        s, limits, steps = curve.steady, self.limits, self.demand.output_tokens - 1
        rates = s.rate / tpot_edge
        ttft, tpot = s.ttft(rates) * ttft_edge, s.tpot * tpot_edge
        ratios = {
            "max_ttft": (ttft, ttft / limits.ttft),
            "max_tpot": (tpot, tpot / limits.tpot),
            "max_request_latency": (ttft + steps * tpot, (ttft + steps * tpot) / limits.request_latency),
            "min_tokens_per_second": (1 / tpot, tpot * limits.tokens_per_second),
        }
        replicas = np.ceil(self._rate() / (rates * curve.ranks) - 1e-12)
        gpus = replicas * curve.gpus
        hourly = gpus * (curve.price or 0.0)
        ratios |= {"max_gpus": (gpus, gpus / limits.gpus), "max_cost_per_hour": (hourly, hourly / limits.cost_per_hour)}
        worst = np.max(np.stack([ratio for _, ratio in ratios.values()]), axis=0)
        i = int(np.argmin(worst))
        needed = {name: float(value[i]) for name, (value, ratio) in ratios.items() if ratio[i] > 1}
        of = curve.scenario
        name = f"{gpus[i]:.0f} x {of.gpu.name} {of.dtypes.name} {layout_text(of.layout)}"
        return Miss(f"{name} at batch {curve.batch[i]:.0f}", needed, float(worst[i]))

    def _front_points(self) -> Iterator[Points]:
        """Yield the points of each scenario that are within the limit on TTFT."""
        for curve in (each.busy for each in self.curves):
            s = curve.steady
            within = s.ttft(s.rate) <= self.limits.ttft
            users = 1 / s.tpot[within]
            per_gpu = curve.batch[within] * curve.ranks * users / curve.gpus
            name = curve.scenario
            yield Points(name.gpu.name, name.dtypes.name, name.layout, curve.batch[within], users, per_gpu, curve.price)


def _largest(meets: Mapping[str, Any], batch: Array) -> tuple[float, str]:
    """Return the largest batch that meets all limits, and the limit that the next one exceeds."""
    import numpy as np

    all_met = np.logical_and.reduce(list(meets.values()))
    if not all_met.any():
        return 0.0, ""
    last = int(np.flatnonzero(all_met)[-1])
    largest = float(batch[last])
    if last + 1 == len(batch):
        return largest, "memory" if largest < _MOST_BATCH else "the largest batch searched"
    return largest, next(name for name, met in meets.items() if not met[last + 1])


def _batch_sizes() -> list[float]:
    """Return 1, 2, 3, ... and then batch sizes with a ratio of 2^(1/4), to the first that reaches `_MOST_BATCH`."""
    found = [1.0]
    while found[-1] < _MOST_BATCH:
        found.append(max(found[-1] + 1, float(round(found[-1] * 2**0.25))))
    return found


def _key(c: Configuration) -> _Key:
    """Return what a simulation depends on, besides the most sequences at a time."""
    return (c.gpu_name, c.dtype_name, c.layout, c.prefill_layout, c.replicas, c.prefill_workers)


def _order(c: Configuration) -> tuple[float, ...]:
    """Return the key that orders configurations: price, GPUs, load, TPOT."""
    return (c.price, c.num_gpus, c.load, c.tpot)


def _reason(c: Configuration) -> str:
    """Return the reason for the number of GPUs of a configuration."""
    if c.limited_by == "the largest batch searched":
        text = f"no batch above {count_text(c.most_in_flight)} was searched"
    else:
        text = f"{c.limited_by} limits the batch to {count_text(c.most_in_flight)}"
    if c.load < 0.6:
        text += f"; {c.load:.0%} of the capacity is used"
    return text


def count_text(sequences: float) -> str:
    """Return a mean number of sequences, which need not be whole, in three digits at least."""
    return f"{sequences:.0f}" if sequences == int(sequences) else f"{sequences:.3g}"


def _described(c: Configuration) -> str:
    """Return a configuration in a few words."""
    return f"{c.num_gpus} x {c.gpu_name} {c.dtype_name} {layout_text(c.layout)}, {c.mode}, batch {c.batch}"


def layout_text(layout: Parallelism) -> str:
    """Return the sizes of a layout: tp4, tp8 pp2, dp8 ep8."""
    sizes = (("tp", layout.tp_size), ("pp", layout.pp_size), ("dp", layout.dp_size), ("ep", layout.ep_size))
    return " ".join(f"{name}{size}" for name, size in sizes if size > 1) or "tp1"


def _band_factors(scenario: Scenario) -> tuple[float, float]:
    """Return the factors from an estimate to the high edge of its error band, for TTFT and TPOT; 1 without a band."""
    bands = (band_for(scenario, phase) for phase in ("prefill", "serving"))
    first, token = (band.high if band else 1.0 for band in bands)
    return first, token


def _formats(model: ModelConfig, gpu: GPU, asked: Sequence[str] | None) -> list[Dtypes]:
    """Return the formats to try: those asked for, else the checkpoint's own and those that the GPU multiplies."""
    if asked is not None:
        return [get_dtypes(name) for name in asked]
    half = get_dtypes("bf16" if "bf16" in gpu.peak_flops else "fp16")
    own = of_checkpoint(model.weight_format) if model.weight_format else half
    if own.math != "half" and own.math not in gpu.peak_flops:
        own = half
    found = [own]
    for name in FORMATS:
        dtypes = get_dtypes(name)
        narrower = dtypes.weight_bits < own.weight_bits
        if narrower and dtypes.math in gpu.peak_flops and not (name == "int8" and "fp8" in gpu.peak_flops):
            found.append(dtypes)
    return found


def _layouts(model: ModelConfig, gpu: GPU) -> list[Parallelism]:
    """Return the layouts to try: tensor and pipeline parallel, and for experts also expert and data parallel."""
    node = max(gpu.link_domain_size, 8)
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size <= node]
    found = [Parallelism(tp_size=tp, pp_size=pp) for tp in sizes for pp in (1, 2, 4)]
    if model.num_experts:
        for ep in [size for size in (2, 4, 8, 16, 32, 64) if size <= max(node, _WIDE)]:
            found += [
                Parallelism(tp_size=tp, dp_size=ep // tp, ep_size=ep) for tp in sizes if tp <= ep and ep % tp == 0
            ]
    return list(dict.fromkeys(found))
