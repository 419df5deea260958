"""Many measurements at once, for fitting: the operators of all of them, as arrays through the same `cost` line.

A fit changes a runtime's numbers a hundred times, and each time all rows are timed anew. So the operators of all rows
are gathered by GPU, phase and all that chooses a kernel's numbers; each group is one `Op` whose quantities are arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_analysis.calibrated import Calibrated
from llm_analysis.errors import LLMAnalysisError, Unsupported
from llm_analysis.hardware import cost
from llm_analysis.measurements import Measurement, gpu_named, model_named
from llm_analysis.memory import weights_fit
from llm_analysis.model import forward
from llm_analysis.model_config import ModelConfig
from llm_analysis.operators import Op, Step
from llm_analysis.runtime import NONE, Runtime

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

QUANTITIES = [
    name for name in Op._fields if name not in ("name", "kind", "format", "rate", "group", "span", "messages")
]
EVERYTHING = Runtime(name="all", step_seconds=1.0, layer_seconds=1.0, sequence_seconds=1.0)


@dataclass(frozen=True)
class Group:
    """Operators of one kind, format and GPU, over all rows: element i belongs to pass `at[i]`."""

    gpu_name: str
    op: Op
    at: Any


class Rows:
    """Measurements ready to be timed under any runtime; `skipped` holds (id, reason) of those that cannot be."""

    def __init__(self, measurements: list[Measurement], by_model: bool = False) -> None:
        import numpy as np

        self.by_model = by_model  # whether each model is a fold of its own when a fit is scored

        self.measurements: list[Measurement] = []
        self.skipped: list[tuple[str, str]] = []
        gathered: dict[tuple[Any, ...], list[tuple[int, Op]]] = {}
        passes: list[tuple[int, float]] = []
        for measurement in measurements:
            try:
                entries = row_passes(measurement)
            except LLMAnalysisError as error:
                self.skipped.append((measurement.id, str(error)))
                continue
            for weight, phase, ops in entries:
                for op in ops:
                    key = (measurement.gpu_name, op.kind, op.format, op.rate, op.group, op.span, op.messages, phase)
                    gathered.setdefault(key, []).append((len(passes), op))
                passes.append((len(self.measurements), weight))
            self.measurements.append(measurement)
        self.groups = [group(key, entries) for key, entries in gathered.items()]
        self.row_of_pass = np.array([row for row, _ in passes], dtype=int)
        self.weight_of_pass = np.array([weight for _, weight in passes], dtype=float)
        self.measured = np.array([m.seconds for m in self.measurements])
        self.bare: dict[str, Calibrated] = {}

    def seconds(self, runtime: Runtime) -> Array:
        """Estimates of all rows, in seconds."""
        import numpy as np

        passes = np.zeros(len(self.weight_of_pass))
        for g in self.groups:
            choose = self.kernels(g.gpu_name, runtime)
            times = np.broadcast_to(g.op.count * cost(g.op, choose.gpu, choose(g.op)).seconds, g.at.shape)
            passes += np.bincount(g.at, weights=times, minlength=len(passes))
        weighted = self.weight_of_pass * passes
        total: Array = np.bincount(self.row_of_pass, weights=weighted, minlength=len(self.measurements)).astype(float)
        return total

    def kernels(self, gpu_name: str, runtime: Runtime) -> Calibrated:
        """The kernels of a GPU under a runtime; the look-up of its profile is kept."""
        if gpu_name not in self.bare:
            self.bare[gpu_name] = Calibrated(gpu_named(gpu_name), NONE)
        return self.bare[gpu_name].under(runtime)


def row_passes(measurement: Measurement) -> list[tuple[float, str, list[Op]]]:
    """(weight, phase, operators) of all passes that a figure covers, the host's part included.

    Raises LLMAnalysisError for a row that cannot be estimated, one whose weights are more than the GPUs hold included.
    """
    if measurement.pp_size > 1 or measurement.kind != "static":
        raise Unsupported("pipelines and serving are scored, not fitted")
    model, gpu = model_named(measurement.model_name), gpu_named(measurement.gpu_name)
    dtypes = measurement.dtypes().on(gpu.peak_flops, gpu.name)
    layout = measurement.layout().model_copy(update={"gpus_per_node": gpu.gpus_per_node})
    layout.check(model)
    weights_fit(model, dtypes, layout, gpu)
    return [
        (weight, step.phase, pass_operators(model, step, dtypes, layout)) for weight, step in measurement.passes(model)
    ]


def pass_operators(model: ModelConfig, step: Step, dtypes: Any, layout: Any) -> list[Op]:
    """The kernels of a pass and all that a runtime may add."""
    return forward(model, step, dtypes, layout) + EVERYTHING.host_ops(step, model.num_hidden_layers)


def group(key: tuple[Any, ...], entries: list[tuple[int, Op]]) -> Group:
    """One `Op` of arrays."""
    import numpy as np

    arrays: dict[str, Any] = {name: np.array([float(getattr(op, name)) for _, op in entries]) for name in QUANTITIES}
    return Group(key[0], entries[0][1]._replace(**arrays), np.array([at for at, _ in entries]))
