"""Serving options, as passes through the same operators.

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

from collections.abc import Iterator

from llm_analysis.dtypes import Dtypes
from llm_analysis.errors import Unsupported
from llm_analysis.hardware import GPU
from llm_analysis.model import cached_bytes
from llm_analysis.model_config import ModelConfig
from llm_analysis.operators import Op, Step
from llm_analysis.quadrature import decode_passes, nodes
from llm_analysis.scenario import Parallelism, Workload
from llm_analysis.units import maximum

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
        spread.check(draft)
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
