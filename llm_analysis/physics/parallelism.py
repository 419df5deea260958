"""The question: a layout of GPUs and a workload. (The model, the GPU and the formats have rooms of their own.)"""

from itertools import pairwise
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from llm_analysis.physics.operators import Step
from llm_analysis.units import maximum

Count = Annotated[int, Field(gt=0, le=10**9)]

USUAL_GPUS_PER_NODE = 8


class Parallelism(BaseModel):
    """How many GPUs share one model (`tp` inside a layer, `pp` by layers), and how many copies there are (`dp`).

    `cp_size` groups of `tp_size` GPUs share the tokens of a sequence, prompt and cache (see `context_parallel`).
    `sp_size` is sequence parallelism in Megatron's sense: norms and residuals split over the tensor-parallel group.
    `ep_size` GPUs share a layer's experts; the busiest of them gets `expert_imbalance` times its even share of rows.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    tp_size: Count = 1
    cp_size: Count = 1
    pp_size: Count = 1
    dp_size: Count = 1
    sp_size: Count = 1
    ep_size: Count = 1
    expert_imbalance: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    num_gpus_per_node: Count | None = None  # that need no network between servers; None: as the GPU is usually built in

    @property
    def gpus_per_node(self) -> int:
        """GPUs that need no network between servers. A `Scenario` takes the GPU's where none are given."""
        return self.num_gpus_per_node or USUAL_GPUS_PER_NODE

    @property
    def num_gpus(self) -> int:
        """GPUs of all replicas together."""
        return self.gpus_of_replica * self.dp_size

    @property
    def gpus_of_replica(self) -> int:
        """GPUs that share one copy of the model and its batch."""
        return self.tp_size * self.cp_size * self.pp_size

    def share(self, step: Step) -> Step:
        """What of a pass each GPU of a context-parallel group computes, as one that comes after all the others' parts.

        In prefill a part of the new tokens of each sequence, in decode a part of the sequences; one at least.
        """
        if self.cp_size == 1:
            return step
        if step.phase == "decode":
            return step._replace(batch=maximum(step.batch / self.cp_size, 1.0))
        mine = maximum(step.new_tokens / self.cp_size, 1.0)
        return step._replace(new_tokens=mine, context=step.total - mine)

    @property
    def expert_span(self) -> int:
        """Consecutive GPUs that tokens travel over to their experts; 1 where each GPU has all tokens."""
        return self.ep_size if self.ep_size > self.tp_size else 1

    @property
    def context_span(self) -> int:
        """Consecutive GPUs that those which share a sequence's tokens lie in; 1 where one has all of them."""
        return self.tp_size * self.cp_size if self.cp_size > 1 else 1

    @property
    def send_spans(self) -> dict[int, int]:
        """GPUs that a send from one stage to the next reaches over, with how many sends; between nodes last.

        GPUs are numbered with tensor parallelism innermost, then those that share the tokens, then the replicas that
        share experts, then the stages: a stage is as many consecutive GPUs as share its layers and experts.
        """
        t, node = max(self.tp_size, self.context_span, self.expert_span), self.gpus_per_node
        across = sum((t * (i + 1) - 1) // node > t * (i - 1) // node for i in range(1, self.pp_size))
        within = self.pp_size - 1 - across
        spans = {min(t * self.pp_size, node): within, max(2 * t, node + 1): across}
        return {span: count for span, count in spans.items() if count}

    def stages(self, num_layers: int) -> list[tuple[int, int]]:
        """First and last-plus-one layer of each pipeline stage; earlier stages take the remainder."""
        base, extra = divmod(num_layers, self.pp_size)
        starts = [i * base + min(i, extra) for i in range(self.pp_size + 1)]
        return list(pairwise(starts))
