"""The decode steps of one answer, as a few passes that stand for all of them.

Step i of n - 1 (the prefill gives the first token) sees s + i cached tokens. Its time is smooth in the context, but for
kinks and jumps where a window fills up or a chunk begins. So the steps are cut into stretches there; a short stretch is
taken step by step, a longer one by Gauss-Legendre with four nodes, each step standing for the unit interval around it:
exact for a time that is linear in the context, as it is under `ideal`. Without a cache operators turn from one bound to
the other inside a stretch: within 1e-3 of the token loop in the tests. No answer is taken "at the average context".

Serving options, as passes through the same operators.

cached prefix     p of the s prompt tokens are in the cache: the prefill computes s - p new ones that see them
chunked prefill   passes of at most C tokens: whole prompts together where they fit, else chunks of one prompt after
                  the other, each seeing the ones before; the prefill ends when the whole batch has its first token
samples           n continuations of each prompt: one prefill, n sequences to decode that share the prompt's cache
speculation       a draft model proposes k tokens, one pass of the model checks them (Leviathan et al. 2023); where
                  each is accepted with probability a, independently, such a step yields
                      1 + a + ... + a^k = (1 - a^(k+1)) / (1 - a)  tokens
                  and a token takes (check of k + 1 tokens + k draft passes) / that many
steady state      b requests in flight, each taking a new prompt's place after n tokens: on the average b / n prompts
                  join a step, and their tokens go through the same matrices as the b decoded ones (Orca, Yu et al.
                  2022), each sequence through an attention of its own
disaggregation    prefill and decode on GPUs of their own: the prompt's cache goes over the network between servers,
                  each GPU sending its share, before the second token
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from math import floor
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llm_analysis.errors import Unsupported
from llm_analysis.hardware.gpu import GPU
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.forward import cached_bytes
from llm_analysis.models.sharding import check_layout
from llm_analysis.physics.dtypes import Dtypes
from llm_analysis.physics.operators import Op, Step
from llm_analysis.physics.parallelism import Count, Parallelism
from llm_analysis.units import maximum


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
    def consistent(self) -> Workload:
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

    def check_shared_by(self, cp_size: int) -> None:
        """Raise Unsupported if a prefill pass has fewer tokens of a prompt than context-parallel ranks."""
        least = min(self.new_prompt_tokens, self.prefill_chunk_size or self.new_prompt_tokens)
        if cp_size > least:
            tokens = f"{least} tokens" if least > 1 else "one token"
            raise Unsupported(
                f"cp_size {cp_size} is more than the {tokens} of a prompt that a pass has to share; try cp_size {least}"
            )

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


# Abscissae and weights of the four-point Gauss-Legendre rule on (-1, 1); weights halved, so that they sum to 1.
# Abramowitz and Stegun, Handbook of Mathematical Functions, table 25.4.
FOUR_POINTS = (
    (-0.861136311594052575224, 0.173927422568726928687),
    (-0.339981043584856264803, 0.326072577431273071313),
    (0.339981043584856264803, 0.326072577431273071313),
    (0.861136311594052575224, 0.173927422568726928687),
)
# Steps in a stretch up to which each is taken by itself; beyond, all four nodes lie between the first and the last.
FEW = 8
# Stretches of a decode without a cache, where every matrix turns from memory-bound to compute-bound on the way.
STRETCHES = 16


def nodes(first: int, count: int, kinks: Iterable[float] = ()) -> Iterator[tuple[float, float]]:
    """(weight, x) that average a function over x = first, first + 1, ... (`count` points). The weights sum to 1.

    A point at a kink belongs to the stretch before it.
    """
    edges = {floor(kink) + 1 for kink in kinks if first <= kink < first + count - 1}
    for start, end in pairwise([first, *sorted(edges), first + count]):
        if end - start <= FEW:
            yield from ((1 / count, float(x)) for x in range(start, end))
            continue
        middle, half = (start + end - 1) / 2, (end - start) / 2
        for abscissa, weight in FOUR_POINTS:
            yield weight * (end - start) / count, middle + half * abscissa


def decode_passes(model: ModelConfig, workload: Workload) -> Iterator[tuple[float, Step]]:
    """(weight, pass) whose weighted sum is the mean decode step of `workload`; weights sum to 1.

    Without a KV cache each step computes the whole sequence anew.
    """
    b, s = float(workload.num_sequences), workload.seq_len
    steps = max(workload.num_tokens_to_generate - 1, 1)
    if not workload.use_kv_cache:
        cuts = [s + steps * i / STRETCHES for i in range(1, STRETCHES)]
        yield from ((weight, Step(b, x + 1)) for weight, x in nodes(s, steps, cuts))
        return
    for weight, context in nodes(s, steps, model.decode_kinks):
        yield weight, Step(b, 1.0, context, "decode")


MTP = "mtp"  # the name of a model's own multi-token-prediction layer as its draft


def prefill_passes(workload: Workload) -> Iterator[tuple[float, Step]]:
    """(how often, pass) of the prefill of the whole batch."""
    w = workload
    b, new, prefix, chunk = w.batch_size_per_gpu, w.new_prompt_tokens, float(w.cached_prefix_len), w.prefill_chunk_size
    if chunk is None or b * new <= chunk:
        yield 1.0, Step(float(b), float(new), prefix)
        return
    if new <= chunk:
        passes, rest = divmod(b, chunk // new)
        yield float(passes), Step(float(chunk // new), float(new), prefix)
        if rest:
            yield 1.0, Step(float(rest), float(new), prefix)
        return
    chunks, rest = divmod(new, chunk)
    for weight, i in nodes(0, chunks):
        yield weight * chunks * b, Step(1.0, float(chunk), prefix + i * chunk)
    if rest:
        yield float(b), Step(1.0, float(rest), prefix + chunks * chunk)


def tokens_per_step(workload: Workload) -> float:
    """Tokens that a decode step is expected to give each sequence."""
    return sum((workload.acceptance_rate or 0.0) ** i for i in range(workload.num_draft_tokens + 1))


def checking_passes(model: ModelConfig, workload: Workload) -> Iterator[tuple[float, Step]]:
    """(weight, pass) of the model for one token: the mean decode step, or its share of a step that checks a draft."""
    share, checked = 1.0 / tokens_per_step(workload), 1.0 + workload.num_draft_tokens
    for weight, step in decode_passes(model, workload):
        yield weight * share, step if checked == 1.0 else step._replace(new_tokens=checked)


def drafting_passes(draft: ModelConfig, workload: Workload) -> Iterator[tuple[float, Step]]:
    """(weight, pass) of the draft model for one token."""
    share = workload.num_draft_tokens / tokens_per_step(workload)
    for weight, step in decode_passes(draft, workload):
        yield weight * share, step


def carried(decode: list[Op], prefill: list[Op]) -> list[Op]:
    """The operators of a decode step that carries prompts along: where both run the same kernel it runs once.

    Its weights are read once then (of experts those of the pass that touches more), its rows are those of both.
    """
    own: dict[tuple[str, str], list[Op]] = {}
    for op in decode:
        own.setdefault((op.name, op.kind), []).append(op)  # several where layers differ, in the order of the layers
    both = [together(waiting.pop(0) if (waiting := own.get((op.name, op.kind))) else None, op) for op in prefill]
    return [*both, *(op for left in own.values() for op in left)]


def together(one: Op | None, other: Op) -> Op:
    """One run of a kernel over the rows of two."""
    if one is None:
        return other
    return other._replace(
        flops=one.flops + other.flops,
        weight_bytes=maximum(one.weight_bytes, other.weight_bytes),
        activation_bytes=one.activation_bytes + other.activation_bytes,
        kv_bytes=one.kv_bytes + other.kv_bytes,
        parallelism=one.parallelism + other.parallelism,
        wire_bytes=one.wire_bytes + other.wire_bytes,
    )


def own_draft(model: ModelConfig) -> ModelConfig:
    """A model's layer for multi-token prediction, as a model of one layer that has the same embedding and head.

    Raises Unsupported for a model without one.
    """
    if not model.num_nextn_predict_layers:
        raise Unsupported(f"{model.name} has no layer for multi-token prediction; give a draft model")
    one = {"name": f"{model.name} {MTP}", "num_hidden_layers": 1}
    last = {"layer_types": model.layer_types[-1:], "mlp_layer_types": model.mlp_layer_types[-1:]}
    return ModelConfig(**(dict(model) | one | last))


def draft_layout(draft: ModelConfig, layout: Parallelism) -> Parallelism:
    """The draft model on the same GPUs: sharded like the model where its heads allow, else whole on each.

    Raises Unsupported for a pipeline, whose stages would wait for one another at each drafted token.
    """
    if layout.pp_size > 1:
        raise Unsupported("a draft model needs pp_size 1: the stages would wait for each drafted token")
    whole = {"ep_size": 1, "expert_imbalance": 1.0}
    spread = layout if draft.num_experts else layout.model_copy(update=whole)
    try:
        check_layout(spread, draft)
    except Unsupported:
        return layout.model_copy(update={"tp_size": 1, "cp_size": 1, "sp_size": 1, **whole})
    return spread


def cache_transfer(model: ModelConfig, workload: Workload, dtypes: Dtypes, layout: Parallelism, gpu: GPU) -> list[Op]:
    """The prompts' cache from the GPUs of the prefill to those of the decode, if these are others.

    Raises Unsupported where the GPU has no network between servers on record.
    """
    if not workload.disaggregated:
        return []
    span = gpu.gpus_per_node + 1
    if not gpu.link_over(span)[1]:
        raise Unsupported(f"{gpu.name} has no inter-node bandwidth on record, which disaggregation needs")
    step = Step(float(workload.batch_size_per_gpu), 1.0, workload.seq_len - 1.0, "decode")
    stages = layout.stages(model.num_hidden_layers)
    sent = max(cached_bytes(model, step, dtypes, layout, first, last) for first, last in stages)
    return [Op("kv_transfer", "send", span=span, messages=1.0, wire_bytes=sent)]
