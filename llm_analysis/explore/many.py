"""Estimates of many GPUs at once: the numbers of the GPUs are an array axis.

The operators of a pass depend on a GPU only through its formats, and through its node size if the layout is larger than
a node. GPUs with the same formats, node size and runtime are estimated together: peak rates, bandwidths, capacities and
kernel efficiencies are arrays with one entry for each GPU, and the code of a single estimate computes all of them. Each
estimate is identical to that of its GPU alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_analysis.catalog import get_gpu, get_model
from llm_analysis.errors import BadConfig, LLMAnalysisError, UnknownName, Unsupported
from llm_analysis.explore.columns import array_of, joined
from llm_analysis.explore.ranges import Value
from llm_analysis.hardware.gpu import GPU
from llm_analysis.hardware.roofline import Efficiency
from llm_analysis.inference.analysis import estimate
from llm_analysis.inference.bands import band_for
from llm_analysis.inference.engines import engine_of
from llm_analysis.inference.estimate import Estimate
from llm_analysis.inference.methods import Method
from llm_analysis.inference.question import scenario_of, workload_of
from llm_analysis.inference.runtimes import DEFAULT_RUNTIME, Runtime, build_for, get_runtime
from llm_analysis.inference.scenario import Scenario, check_links, formats_for
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.sharding import check_layout
from llm_analysis.physics.dtypes import get_dtypes
from llm_analysis.physics.operators import Op
from llm_analysis.physics.parallelism import Parallelism

if TYPE_CHECKING:
    from llm_analysis.explore.columns import Column

_LEAST_GPUS = 4  # fewer are estimated one by one
_AXES = 3  # open axes after the axis of GPUs
_NUMBERS = tuple(Efficiency.model_fields)


class _Numbers(NamedTuple):
    """An `Efficiency` with one entry for each GPU; a number where all GPUs have the same."""

    launch: Any
    flops: Any
    memory: Any
    sharpness: Any
    fill: Any
    score_bytes: Any
    latency: Any
    link: Any


class _GPUs:
    """A `GPU` with arrays for the numbers that the cost line and the memory read."""

    def __init__(self, gpus: Sequence[GPU]) -> None:
        self._gpus = gpus
        self.name, self.vendor = gpus[0].name, gpus[0].vendor  # a vendor with other defaults is in another group
        self.memory_bandwidth = _axis([gpu.memory_bandwidth for gpu in gpus])
        self.memory_bytes = _axis([gpu.memory_bytes for gpu in gpus])
        shared = set.intersection(*(set(gpu.peak_flops) for gpu in gpus))
        self.peak_flops = {rate: _axis([gpu.peak_flops[rate] for gpu in gpus]) for rate in shared}
        self._links: dict[tuple[Any, ...], tuple[str, Any]] = {}

    def link_over(self, span: int, *more: Any) -> tuple[str, Any]:
        """Return the link of the first GPU, and the bandwidth of all."""
        key = (span, *more)
        if key not in self._links:
            links = [gpu.link_over(span, *more) for gpu in self._gpus]
            self._links[key] = links[0][0], _axis([bandwidth for _, bandwidth in links])
        return self._links[key]


class _Kernels(Method):
    """The kernel efficiencies of several GPUs, as arrays."""

    def __init__(self, methods: Sequence[Method]) -> None:
        first = methods[0]
        self.name, self.total_is, self.serves = first.name, first.total_is, first.serves  # type: ignore[misc]
        self.efficiencies = first.efficiencies
        self._methods = methods
        self._numbers: dict[tuple[object, ...], _Numbers] = {}

    def efficiency(self, op: Op) -> Any:
        """Return the numbers that `op` is timed with on each GPU."""
        key = (op.kind, op.format, op.rate, op.group, op.span, op.messages)
        if key not in self._numbers:
            found = [method.efficiency(op) for method in self._methods]
            self._numbers[key] = _Numbers(*(_axis([getattr(each, name) for each in found]) for name in _NUMBERS))
        return self._numbers[key]


def _axis(values: Sequence[Any]) -> Any:
    """Return values as an array on the axis of GPUs; a number if all are the same."""
    import numpy as np

    if all(value == values[0] for value in values):
        return values[0]
    return np.array(values, dtype=np.float64).reshape(-1, *(1,) * _AXES)


class _Group(NamedTuple):
    """GPUs that are estimated together for one combination of the other flags."""

    rows: list[int]  # positions of the GPUs
    inner: int  # position of the combination
    estimate: Estimate
    names: list[str]
    bands: dict[str, Any]  # error bands by column, which depend on the GPU


class ManyGPUs(NamedTuple):
    """A block of all GPUs, all combinations of the other flags, and the open axes, in the order of a sweep."""

    number: int
    shape: tuple[int, ...]  # GPUs, combinations, and the open axes
    groups: list[_Group]

    @property
    def points(self) -> int:
        """The number of points, without those that were skipped."""
        return sum(len(group.rows) for group in self.groups) * prod(self.shape[2:])

    def column(self, name: str) -> Column:
        """Return a column of all points."""
        import numpy as np

        parts, places = [], []
        each = prod(self.shape[2:])
        for group in self.groups:
            value = group.bands.get(name, getattr(group.estimate, name))
            if name == "gpu_name":
                parts.append(np.repeat(np.array(group.names), each))
            else:
                parts.append(array_of(name, value, (len(group.rows), *self.shape[2:])))
            places += [row * self.shape[1] + group.inner for row in group.rows]
        order = np.argsort(np.array(places), kind="stable")
        column = joined(parts).reshape(len(places), each)
        return column[order].reshape(-1)


class Grouping:
    """Groups GPUs and estimates each group; methods of GPUs and arrays of groups are built once."""

    def __init__(self, known: dict[tuple[str, object], Any]) -> None:
        self._known = known
        self._formats: dict[tuple[object, ...], Any] = {}
        self._methods: dict[tuple[object, ...], Method] = {}
        self._packed: dict[tuple[object, ...], tuple[_GPUs, _Kernels]] = {}
        self.skipped: dict[str, int] = {}

    def block(
        self,
        number: int,
        given: Sequence[str],
        choices: Sequence[Mapping[str, Value]],
        open_axes: Mapping[str, Any],
        sizes: tuple[int, ...],
    ) -> ManyGPUs:
        """Return the estimates of the GPUs `given` by name for all choices of the other flags.

        Raises UnknownName and BadConfig; other errors are counted in `skipped`.
        """
        groups: list[_Group] = []
        gpus = [self._read("gpu", name, get_gpu) for name in given]
        for inner, choice in enumerate(choices):
            for rows in self._alike(gpus, choice, sizes):
                flags = {**choice, "gpu_name": given[rows[0]]}
                try:
                    groups.append(self._estimated(gpus, rows, inner, flags, open_axes))
                except (UnknownName, BadConfig):
                    raise
                except LLMAnalysisError as error:
                    self._skip(error, len(rows) * prod(sizes))
        return ManyGPUs(number, (len(given), len(choices), *sizes), groups)

    def _read(self, kind: str, name: Any, read: Callable[[Any], Any]) -> Any:
        """Return the model or GPU of a name, which is read once."""
        if (kind, name) not in self._known:
            self._known[kind, name] = read(name)
        return self._known[kind, name]

    def _model(self, choice: Mapping[str, Any]) -> ModelConfig:
        """Return the model of a choice."""
        found: ModelConfig = self._read(
            "model", choice["model_name"], lambda name: get_model(name, choice["allow_download"])
        )
        return found

    def _runtime(self, choice: Mapping[str, Any]) -> Runtime:
        """Return the runtime of a choice."""
        found: Runtime = self._read("runtime", choice["runtime"] or DEFAULT_RUNTIME, get_runtime)
        return found

    def _engine_runtime(self, gpu: GPU, choice: Mapping[str, Any]) -> Runtime | None:
        """Return the runtime of a choice on a GPU; None under a method without one."""
        return build_for(self._runtime(choice), gpu) if choice["method"] in (None, "calibrated") else None

    def _server(self, gpu: GPU, choice: Mapping[str, Any]) -> tuple[object, ...]:
        """Return the runtime and the defaults of its server for the model on a GPU."""
        runtime = self._engine_runtime(gpu, choice)
        engine = engine_of(runtime.engine_name) if runtime else None
        return runtime and runtime.name, engine and engine.serving(self._model(choice), gpu).defaults_on(gpu)

    def _skip(self, error: LLMAnalysisError, points: int) -> None:
        """Count the points of an invalid combination."""
        self.skipped[str(error)] = self.skipped.get(str(error), 0) + points

    def _alike(self, gpus: Sequence[GPU], choice: Mapping[str, Value], sizes: tuple[int, ...]) -> Iterator[list[int]]:
        """Yield the positions of GPUs that have the same formats, runtime and, for the layout, node size."""
        found: dict[tuple[object, ...], list[int]] = {}
        sizes_of: dict[str, Any] = {name: choice[name] for name in Parallelism.model_fields if name in choice}
        layout, wrong = Parallelism(**sizes_of), None
        try:
            check_layout(layout, self._model(choice))
        except Unsupported as error:
            wrong = error
        for row, gpu in enumerate(gpus):
            try:
                device = self._device(gpu, layout.num_gpus_per_node)
                formats = self._formats_of(device, choice)
                if wrong is not None:
                    raise wrong
                check_links(device, layout.model_copy(update={"num_gpus_per_node": device.gpus_per_node}))
            except LLMAnalysisError as error:
                self._skip(error, prod(sizes))
                continue
            nodes = min(device.gpus_per_node, layout.num_gpus)
            found.setdefault((formats, nodes, self._server(device, choice)), []).append(row)
        yield from found.values()

    def _device(self, gpu: GPU, gpus_per_node: int | None) -> GPU:
        """Return the device of a GPU that software sees, in nodes of a size."""
        key = ("device", (gpu.name, gpus_per_node))
        if key not in self._known:
            self._known[key] = gpu.per_device().in_nodes_of(gpus_per_node)
        found: GPU = self._known[key]
        return found

    def _formats_of(self, gpu: GPU, choice: Mapping[str, Any]) -> object:
        """Return the formats as a GPU multiplies them, without the notes. Raises BadValue, Unsupported."""
        names = ("model_name", "dtype_name", "kv_cache_dtype_bytes", "layernorm_dtype_bytes", "method", "runtime")
        key = (gpu.name, *(choice[name] for name in names))
        if key not in self._formats:
            model = self._model(choice)
            asked = None if choice["dtype_name"] is None else get_dtypes(choice["dtype_name"])
            runtime = self._engine_runtime(gpu, choice)
            widths = choice["kv_cache_dtype_bytes"], choice["layernorm_dtype_bytes"]
            found, _ = formats_for(model, asked, gpu, runtime, *widths)
            experts = found.experts._replace(notes=()) if found.experts else None
            self._formats[key] = found._replace(notes=(), experts=experts)
        return self._formats[key]

    def _estimated(
        self, gpus: Sequence[GPU], rows: list[int], inner: int, flags: Mapping[str, Any], open_axes: Mapping[str, Any]
    ) -> _Group:
        """Return the estimates of GPUs that are alike. Raises LLMAnalysisError."""
        scenario = scenario_of(flags, self._known)
        devices = [self._device(gpus[row], flags["num_gpus_per_node"]) for row in rows]
        names = [device.name for device in devices]
        key = (scenario.runtime.name, scenario.method.name, flags["num_gpus_per_node"], *names)
        if key not in self._packed:
            methods = [self._method(scenario, device) for device in devices]
            self._packed[key] = _GPUs(devices), _Kernels(methods)
        packed, kernels = self._packed[key]
        together = scenario._replace(gpu=packed, method=kernels)  # type: ignore[arg-type]
        found = estimate(together, workload_of({**flags, **open_axes}, scenario), flags.get("cost_per_gpu_hour"))
        return _Group(rows, inner, found, names, _bands(scenario, devices, found))

    def _method(self, scenario: Scenario, gpu: GPU) -> Method:
        """Return the method of a scenario for another GPU."""
        key = (scenario.method.name, scenario.runtime.name, gpu.name, gpu.gpus_per_node)
        if key not in self._methods:
            runtime = build_for(scenario.runtime, gpu) if scenario.method.serves else scenario.runtime
            efficiencies = scenario.method.efficiencies
            self._methods[key] = (
                type(scenario.method)(gpu, runtime)  # type: ignore[call-arg]
                if efficiencies is None
                else scenario.method
            )
        return self._methods[key]


def _bands(scenario: Scenario, gpus: Sequence[GPU], found: Estimate) -> dict[str, Any]:
    """Return the error bands of each latency by column, which depend on which kernels were measured."""
    columns = {}
    for phase in ("prefill", "decode", "total"):
        kind = "prefill" if phase == "prefill" else "total"
        bands = [band_for(scenario._replace(gpu=gpu), kind) for gpu in gpus]
        if not any(bands):
            continue
        seconds = getattr(found, f"{phase}_latency")
        for edge in ("low", "high"):
            factors = _axis([getattr(band, edge) if band else float("nan") for band in bands])
            columns[f"{phase}_latency_{edge}"] = seconds * factors
    return columns


def can_be_grouped(values: Mapping[str, tuple[Value, ...]]) -> bool:
    """Return whether a sweep has enough GPUs, and no option with passes that differ by GPU."""
    plain: dict[str, set[Any]] = {
        "method": {None, "calibrated", "ideal"},
        "draft_model_name": {None},
        "num_draft_tokens": {0},
        "disaggregated": {False},
        "use_kv_cache": {True},
        "pp_size": {1},
        **{name: {None} for name in ("flops_efficiency", "hbm_memory_efficiency", "achieved_tflops")},
        **{name: {None} for name in ("achieved_memory_bandwidth_GBs", "intra_node_memory_efficiency")},
        "inter_node_memory_efficiency": {None},
    }
    return len(values["gpu_name"]) >= _LEAST_GPUS and all(set(values[name]) <= kept for name, kept in plain.items())
