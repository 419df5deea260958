"""The inputs of the functions that return the operators of a layer, and operators common to all kinds of layers."""

from __future__ import annotations

from typing import NamedTuple

from llm_analysis.models.config import ModelConfig
from llm_analysis.physics.collectives import all_reduce
from llm_analysis.physics.dtypes import Dtypes
from llm_analysis.physics.operators import MatmulFormat, Op, Step, elementwise, matmul
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.units import Quantity

SKIPPED = "skipped"  # kind of an operator with weights that a pass holds and does not use


class Pass(NamedTuple):
    """The inputs of a layer's operators; made by `start_pass`."""

    model: ModelConfig
    whole: Step  # the pass over all context-parallel ranks
    step: Step  # the part that this GPU computes (see `context_parallel`)
    rows: Quantity  # tokens of this part: rows of the GPU's matrix products
    dtypes: Dtypes
    linear: MatmulFormat  # format of the layers' matrices
    layout: Parallelism
    count: int = 1  # type: ignore[assignment]  # layers of the kind; hides the method of that name of tuple
    part: str = ""  # class of the weights of the layer's matrices (see operators.PARTS)

    @property
    def stream_rows(self) -> Quantity:
        """Return the rows of the residual stream in the norms and residuals of this GPU."""
        return self.rows / self.layout.sp_size

    def for_part(self, part: str) -> Pass:
        """Return the same pass for matrices of another part of the model, in the format of that part."""
        return self._replace(part=part, linear=self.dtypes.linear_of(part))

    def reduced(self, name: str) -> list[Op]:
        """Return the all-reduce that sums a row-sharded product over the tensor-parallel group."""
        message = self.rows * self.model.hidden_size * self.dtypes.stream_bytes
        t, node = self.layout.tp_size, self.layout.gpus_per_node
        return all_reduce(name, message, t, node=node, count=self.count)

    def matmul(
        self,
        name: str,
        inputs: float,
        outputs: float,
        numbers: MatmulFormat | None = None,
        *,
        rows: Quantity | None = None,
        heads: float = 1.0,
        params: float | None = None,
        bias: bool = False,
    ) -> Op:
        """Return the product of this GPU's rows with one matrix of the layer, or with one matrix for each head.

        `numbers` defaults to `linear`, `rows` to the tokens of this GPU.
        """
        return matmul(
            name,
            (self.rows if rows is None else rows) * heads,
            inputs,
            outputs,
            numbers or self.linear,
            part=self.part,
            count=self.count,
            params=params,
            read=heads,
            held=heads,
            bias=bias,
        )

    def skipped(self, name: str, params: float) -> Op:
        """Return the weights of a part of the layer that this pass does not run."""
        held = params / self.layout.tp_size * self.linear.weight_bytes
        return Op(name, SKIPPED, self.part, count=self.count, params=params, stored_bytes=held)

    def norm(self, name: str) -> Op:
        """Return one norm over the hidden size."""
        h, width = self.model.hidden_size, self.dtypes.norm_bytes or self.dtypes.stream_bytes
        return elementwise(name, self.stream_rows, h, h, width, count=self.count, params=self.model.norm_params)

    def small_norm(self, name: str, size: float, params: float | None = None) -> Op:
        """Return a norm over `size` elements of each token inside a layer, on every GPU."""
        width, weights = self.dtypes.stream_bytes, size if params is None else params
        return elementwise(name, self.rows, size, size, width, count=self.count, params=weights)

    def residual(self, name: str) -> Op:
        """Return the addition of the output of a block to the stream."""
        h, width = self.model.hidden_size, self.dtypes.stream_bytes
        return elementwise(name, self.stream_rows, 2 * h, h, width, count=self.count, kind="residual")


def start_pass(model: ModelConfig, step: Step, dtypes: Dtypes, layout: Parallelism, part: str = "") -> Pass:
    """Return the inputs of the operators of one layer in a pass."""
    share = layout.share(step)
    return Pass(model, step, share, share.rows, dtypes, dtypes.linear, layout, 1, part)
