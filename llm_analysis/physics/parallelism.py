"""The layout: how many GPUs share a model, and in which ways."""

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llm_analysis.errors import BadValue, one_line
from llm_analysis.physics.operators import Step
from llm_analysis.units import maximum

Count = Annotated[int, Field(gt=0, le=10**9)]

_USUAL_GPUS_PER_NODE = 8


class Parallelism(BaseModel):
    """Sizes of the groups of GPUs. Raises BadValue for a size that is not a whole number from 1 up.

    Tensor parallelism (`tp_size`) splits the matrices of a layer, pipeline parallelism (`pp_size`) the layers, data
    parallelism (`dp_size`) the requests: each replica has a copy of the model. Context parallelism (`cp_size`) splits
    the tokens of a sequence and its KV cache over groups of `tp_size` GPUs. Sequence parallelism (`sp_size`) splits
    norms and residuals over the tensor-parallel group, as Megatron does. Expert parallelism (`ep_size`) splits the
    experts of a layer; the GPU with the most tokens gets `expert_imbalance` times the average.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    tp_size: Count = 1
    cp_size: Count = 1
    pp_size: Count = 1
    dp_size: Count = 1
    sp_size: Count = 1
    ep_size: Count = 1
    expert_imbalance: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    num_gpus_per_node: Count | None = None  # GPUs that need no network between servers; None: those of the GPU's server

    if not TYPE_CHECKING:  # type checkers take the parameters from the fields

        def __init__(self, **sizes: Any) -> None:
            try:
                super().__init__(**sizes)
            except ValidationError as error:
                raise BadValue(one_line(error, type(self).model_fields)) from None

    @property
    def gpus_per_node(self) -> int:
        """Number of GPUs that need no network between servers; a `Scenario` sets that of the GPU if none is given."""
        return self.num_gpus_per_node or _USUAL_GPUS_PER_NODE

    @property
    def num_gpus(self) -> int:
        """Number of GPUs of all replicas together."""
        return self.gpus_of_replica * self.dp_size

    @property
    def gpus_of_replica(self) -> int:
        """Number of GPUs that share one copy of the model."""
        return self.tp_size * self.cp_size * self.pp_size

    def share(self, step: Step) -> Step:
        """Return the part of a pass that one context-parallel rank computes.

        In prefill a rank has 1/cp_size of the new tokens of each sequence. The part returned is the last one, with
        tokens that attend to the most context. In decode a rank has 1/cp_size of the sequences, at least one.
        """
        if self.cp_size == 1:
            return step
        if step.phase == "decode":
            return step._replace(batch=maximum(step.batch / self.cp_size, 1.0))
        new_tokens = maximum(step.new_tokens / self.cp_size, 1.0)
        return step._replace(new_tokens=new_tokens, context=step.total - new_tokens)

    @property
    def expert_span(self) -> int:
        """Number of consecutive GPUs that exchange tokens with their experts; 1 if each GPU has all tokens."""
        return self.ep_size if self.ep_size > self.tp_size else 1

    @property
    def context_span(self) -> int:
        """Number of consecutive GPUs that share the tokens of a sequence; 1 without context parallelism."""
        return self.tp_size * self.cp_size if self.cp_size > 1 else 1

    @property
    def send_spans(self) -> dict[int, int]:
        """Number of sends between pipeline stages by the consecutive GPUs that a send spans; between nodes last.

        GPUs are numbered with tensor parallelism innermost, then context parallelism, then the replicas that share
        experts, then the stages. A stage is the consecutive GPUs that share its layers and experts.
        """
        t, node = max(self.tp_size, self.context_span, self.expert_span), self.gpus_per_node
        across = sum((t * (i + 1) - 1) // node > t * (i - 1) // node for i in range(1, self.pp_size))
        within = self.pp_size - 1 - across
        spans = {min(t * self.pp_size, node): within, max(2 * t, node + 1): across}
        return {span: count for span, count in spans.items() if count}

    def stages(self, num_layers: int) -> list[tuple[int, int]]:
        """Return the first layer and the end of each pipeline stage; earlier stages get the remaining layers."""
        base, extra = divmod(num_layers, self.pp_size)
        starts = [i * base + min(i, extra) for i in range(self.pp_size + 1)]
        return list(pairwise(starts))
