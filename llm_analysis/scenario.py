"""The question: a layout of GPUs and a workload. (The model, the GPU and the formats have rooms of their own.)"""

from itertools import pairwise
from math import isqrt
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llm_analysis.errors import Unsupported
from llm_analysis.model_config import ModelConfig
from llm_analysis.operators import Step
from llm_analysis.units import maximum

# Layers that context parallelism cannot share by tokens, with what keeps it from that.
STATE = "the recurrent layers pass a state on from token to token, through all GPUs"
NOT_SHARED = dict.fromkeys(("mamba", "mamba2", "gated_delta_net", "lightning_attention"), STATE) | {
    "sparse_latent_attention": "the sparse attention picks its tokens from those of all GPUs together"
}
GATHERED = "cp_size: attention waits for all keys and values, an upper bound of ring attention, which overlaps the two"

Count = Annotated[int, Field(gt=0, le=10**9)]


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
    gpus_per_node: Count = 8  # the same, as found for the GPU

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

    def check(self, model: ModelConfig) -> tuple[str, ...]:
        """Notes on how the model is laid out. Raises Unsupported for a layout that cannot be."""
        heads, kv_heads, t = model.num_attention_heads, model.num_key_value_heads, self.tp_size
        if heads % t:
            possible = nearest_sizes(t, divisors(heads))
            raise Unsupported(
                f"tp_size {t} does not divide the {heads} attention heads of {model.name}; try {possible}"
            )
        if self.pp_size > model.num_hidden_layers:
            raise Unsupported(
                f"pp_size {self.pp_size} is more than the {model.num_hidden_layers} layers of {model.name}"
            )
        if self.sp_size not in (1, t):
            raise Unsupported(f"sp_size must be 1 or tp_size ({t}), not {self.sp_size}")
        if kv_heads % t and t % kv_heads:
            near = nearest_sizes(t, [i for i in divisors(heads) if kv_heads % i == 0 or i % kv_heads == 0])
            raise Unsupported(
                f"tp_size {t} neither divides nor is a multiple of the {kv_heads} KV heads of {model.name}; try {near}"
            )
        self.check_experts(model)
        self.check_context(model)
        few = f"{kv_heads} KV heads are fewer than tp_size {t}: each is held by {t // kv_heads} GPUs"
        return (*((few,) if kv_heads < t else ()), *((GATHERED,) if self.cp_size > 1 else ()))

    def check_context(self, model: ModelConfig) -> None:
        """Raises Unsupported for layers whose tokens cannot be shared out."""
        t, n, heads, kv_heads = self.tp_size, self.cp_size, model.num_attention_heads, model.num_key_value_heads
        kinds = [why for kind, why in NOT_SHARED.items() if any(mixer == kind for mixer, _ in model.layer_kinds)]
        if n > 1 and kinds:
            wide = [i for i in divisors(heads) if i <= t * n and (kv_heads % i == 0 or i % kv_heads == 0)]
            raise Unsupported(f"cp_size {n}: {kinds[0]} of {model.name}; try cp_size 1 with tp_size {max(wide)}")

    def check_prompt(self, workload: "Workload") -> None:
        """Raises Unsupported for passes with fewer tokens of a prompt than there are GPUs to share them."""
        least = min(workload.new_prompt_tokens, workload.prefill_chunk_size or workload.new_prompt_tokens)
        if self.cp_size > least:
            tokens = f"{least} tokens" if least > 1 else "one token"
            raise Unsupported(
                f"cp_size {self.cp_size} is more than the {tokens} of a prompt that a pass has to share; "
                f"try cp_size {least}"
            )

    def check_experts(self, model: ModelConfig) -> None:
        """Raises Unsupported for experts that cannot be spread over `ep_size` GPUs."""
        ep, t, experts, imbalance = self.ep_size, self.tp_size, model.num_experts, self.expert_imbalance
        if ep == 1 and imbalance == 1:
            return
        if not experts:
            asked = f"ep_size {ep}" if ep > 1 else f"expert_imbalance {imbalance:g}"
            raise Unsupported(f"{asked}: {model.name} has no experts to spread")
        if ep == 1:
            raise Unsupported(f"expert_imbalance {imbalance:g} is of GPUs that share the experts: give ep_size too")
        group = t * self.cp_size
        gpus, ranks = group * self.dp_size, f" times cp_size {self.cp_size}" if self.cp_size > 1 else ""
        even = [i for i in divisors(experts) if gpus % i == 0 and (t % i == 0 or i % t == 0)]
        possible = [i for i in even if group % i == 0 or i % group == 0]
        if ep not in possible:
            raise Unsupported(
                f"ep_size {ep} cannot spread the {experts} experts of {model.name} over the {gpus} GPUs of tp_size {t}"
                f"{ranks} times dp_size {self.dp_size}; try {nearest_sizes(ep, possible)}"
            )

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


def divisors(n: int) -> list[int]:
    """The divisors of `n`, the least first."""
    small = [i for i in range(1, isqrt(n) + 1) if n % i == 0]
    return sorted({*small, *(n // i for i in small)})


def nearest_sizes(near: int, possible: list[int]) -> str:
    """The possible sizes around `near`, as text."""
    below, above = [i for i in possible if i < near][-2:], [i for i in possible if i > near][:1]
    return " or ".join(str(i) for i in below + above)


class Workload(BaseModel):
    """A static batch, from start to end, and how it is served (see `serving`)."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    batch_size_per_gpu: Count = 1  # prompts in a batch of one replica
    seq_len: Count = 512  # tokens of each
    num_tokens_to_generate: Count = 32
    use_kv_cache: bool = True
    num_samples: Annotated[int, Field(gt=0, le=10**6)] = 1  # continuations of each prompt, which share its KV cache
    cached_prefix_len: Annotated[int, Field(ge=0, le=10**9)] = 0  # prompt tokens whose KV is in the cache already
    prefill_chunk_size: Count | None = None  # most tokens of a prefill pass, all prompts together
    num_draft_tokens: Annotated[int, Field(ge=0, le=1000)] = 0  # proposed by the draft model in each decode step
    acceptance_rate: Annotated[float, Field(ge=0, le=1)] | None = None  # of a drafted token
    disaggregated: bool = False  # prefill and decode on GPUs of their own
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 1.0  # the fraction of the memory that may be used

    @model_validator(mode="after")
    def consistent(self) -> "Workload":
        """Raises ValueError for options that contradict each other."""
        if self.cached_prefix_len >= self.seq_len:
            raise ValueError(f"cached_prefix_len {self.cached_prefix_len} must be below seq_len {self.seq_len}")
        if not self.use_kv_cache and (given := self.served):
            raise ValueError(f"{given[0]} needs the KV cache, which use_kv_cache False does without")
        if (self.acceptance_rate is None) != (self.num_draft_tokens == 0):
            raise ValueError("num_draft_tokens and acceptance_rate need each other")
        return self

    @property
    def served(self) -> list[str]:
        """The serving options that differ from a plain static batch."""
        return [name for name in SERVING if getattr(self, name) != Workload.model_fields[name].default]

    @property
    def num_sequences(self) -> int:
        """Sequences that are decoded together."""
        return self.batch_size_per_gpu * self.num_samples

    @property
    def new_prompt_tokens(self) -> int:
        """Tokens of a prompt that the prefill computes."""
        return self.seq_len - self.cached_prefix_len

    @property
    def widest_pass(self) -> Step:
        """The prefill pass with most activations: the whole batch, the prompts that a chunk holds, or a last chunk."""
        b, new, chunk = float(self.batch_size_per_gpu), float(self.new_prompt_tokens), self.prefill_chunk_size
        if chunk is None or b * new <= chunk:
            return Step(b, new, float(self.cached_prefix_len))
        if new <= chunk:
            return Step(chunk / new, new, float(self.cached_prefix_len))
        return Step(1.0, float(chunk), float(self.seq_len - chunk))


SERVING = ("num_samples", "cached_prefix_len", "prefill_chunk_size", "num_draft_tokens", "disaggregated")
