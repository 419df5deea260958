"""The operators of one pass of a model. Prefill and decode use the same code: decode has one new token.

    forward(model, step, dtypes, layout) -> [Op]

    token embedding -> L layers -> final norm -> output head (in a prefill only the last position of each sequence)
    layer: norm, mixer (attention, or a recurrence), all-reduce, residual,
           norm, feed-forward (dense, or experts), all-reduce, residual

Weights, memory traffic, KV cache, FLOP and the parameter count all come from this list.
A layer is a mixer and a feed-forward; `MIXERS` and `FEED_FORWARDS` give the function for the operators of each kind.
Each of the two is sharded over the tensor-parallel GPUs and ends in an all-reduce.
"""

from __future__ import annotations

from functools import partial

from llm_analysis.models.config import ModelConfig
from llm_analysis.models.layers.base import SKIPPED, Pass, start_pass
from llm_analysis.models.layers.feed_forward import experts_per_token
from llm_analysis.models.layers.kinds import FEED_FORWARDS, MIXERS, base_name
from llm_analysis.models.layers.streams import (
    alternating_updates,
    altup_projections,
    hyper_connection,
    layer_input,
    low_rank_residual,
    stream_sum,
)
from llm_analysis.physics.collectives import collective
from llm_analysis.physics.dtypes import BITS, Dtypes
from llm_analysis.physics.operators import Op, Step, lookup, matmul
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.units import Quantity


def layer(p: Pass, mixer: str, feed_forward: str) -> list[Op]:
    """Return the operators of one layer."""
    m = p.model
    mix = MIXERS[base_name(mixer)].ops(p, mixer)
    feed = FEED_FORWARDS[base_name(feed_forward)].ops(p, feed_forward)
    if m.parallel_block:
        norms = [p.norm("norm") for _ in range(m.norms_per_layer)]
        return [*norms, *mix, *feed, *p.reduced("all_reduce"), p.residual("residual")]
    ops: list[Op] = []
    for name, half in (("attention", mix), ("mlp", feed)):
        if half and all(op.kind == SKIPPED for op in half):
            ops += [_weights_alone(p.norm(f"{name}_norm")), *half]
        elif half:
            before = [p.norm(f"{name}_norm")] if m.norms_per_layer else []
            after = [p.norm(f"{name}_post_norm")] if m.norms_per_layer >= 4 else []
            added = hyper_connection(p, name) if m.hc_mult else [p.residual(f"{name}_residual")]
            ops += [*before, *half, *p.reduced(f"{name}_all_reduce"), *after, *added]
    further = m.norms_per_layer - (4 if m.norms_per_layer >= 4 else 2)
    ops += [p.norm("mlp_inner_norm") for _ in range(further)]
    for needed, more in (
        (m.laurel_rank, low_rank_residual),
        (m.altup_num_inputs, alternating_updates),
        (m.hidden_size_per_layer_input, layer_input),
    ):
        ops += more(p) if needed else []
    return ops


def _weights_alone(op: Op) -> Op:
    """Return the weights of an operator that the pass does not run."""
    return op._replace(kind=SKIPPED, weight_bytes=0.0, activation_bytes=0.0)


def _embedding(p: Pass) -> list[Op]:
    """Return the token (and learned position) embeddings: look-ups in a table that is sharded over the GPUs."""
    m, t, stream = p.model, p.layout.tp_size, p.dtypes.stream_bytes
    width, entry = m.embedding_width, p.dtypes.embedding_bits / 8
    ops = [lookup("embedding", p.rows, width, m.vocab_size / t, entry, stream, params=m.vocab_size * width)]
    if m.position_embedding_rows:
        rows, h = m.position_embedding_rows, m.hidden_size
        ops.append(lookup("position_embedding", p.rows, h, rows, entry, stream, params=rows * h))
    if width != m.hidden_size:
        ops.append(p.matmul("embedding_in", width, m.hidden_size, p.dtypes.router))
    if m.token_type_rows:
        params = m.token_type_rows * m.hidden_size
        ops.append(lookup("token_type", p.rows, m.hidden_size, m.token_type_rows, entry, stream, params=params))
    if m.num_draft_inputs:
        ops = [op._replace(params=0.0, stored_bytes=0.0) for op in ops]  # the table is the model's
        ops.append(p.matmul("draft_inputs", m.num_draft_inputs * m.hidden_size, m.hidden_size, p.dtypes.router))
    if m.hidden_size_per_layer_input:
        ops += _layer_embedding(p)
    if m.altup_num_inputs:
        ops += altup_projections(p, "altup_in")
    if m.embedding_norm:
        ops.append(p.norm("embedding_norm"))
    return ops + p.reduced("embedding_all_reduce")


def _layer_embedding(p: Pass) -> list[Op]:
    """Return the embedding table with one row per layer, and the projection of the stream to the same size."""
    m, stream = p.model, p.dtypes.stream_bytes
    width = m.num_hidden_layers * m.hidden_size_per_layer_input
    tokens, entry = m.vocab_size_per_layer_input or m.vocab_size, p.dtypes.embedding_bits / 8
    entries = tokens / p.layout.tp_size
    return [
        lookup("layer_embedding", p.rows, width, entries, entry, stream, params=tokens * width),
        p.matmul("layer_embedding_in", m.hidden_size, width, p.dtypes.router),
        p.small_norm("layer_embedding_norm", width, m.hidden_size_per_layer_input),
    ]


def _output_head(p: Pass) -> list[Op]:
    """Return the final norm and the logits; for an encoder, the pooler.

    A prefill needs the logits of the last position of each sequence. A decode pass needs those of all its tokens: it
    has several per sequence if it checks drafted ones.
    """
    m, t, width = p.model, p.layout.tp_size, p.model.embedding_width
    rows = p.rows if p.step.phase == "decode" else p.step.batch
    product = partial(matmul, rows=rows, part="embedding", last_only=True)
    tied = m.tie_word_embeddings and p.layout.pp_size == 1
    params = 0.0 if m.tie_word_embeddings else m.vocab_size * (width + m.head_bias)
    ops = stream_sum(p) if m.hc_mult else []
    ops += altup_projections(p, "altup_out") if m.altup_num_inputs else []
    ops += [p.norm("final_norm")] if m.final_norm else []
    if m.pooler:
        h = m.hidden_size
        ops.append(product("pooler", inputs=h, outputs=h, numbers=p.dtypes.router, params=(h + 1) * h, bias=True))
    if not m.output_head:
        return ops
    if width != m.hidden_size:
        ops.append(product("embedding_out", inputs=m.hidden_size, outputs=width, numbers=p.dtypes.router))
    head = product("output_head", inputs=width, outputs=m.vocab_size / t, numbers=p.dtypes.head, bias=m.head_bias)
    if m.num_draft_inputs:
        tied, params = True, 0.0  # the head is the model's
    ops.append(head._replace(params=params, stored_bytes=0.0 if tied else head.stored_bytes))
    logits = rows * m.vocab_size * p.dtypes.stream_bytes * (t - 1) / t
    return ops + collective("logits_all_gather", "all_gather", logits, t)


def stage_ops(model: ModelConfig, step: Step, dtypes: Dtypes, layout: Parallelism, first: int, last: int) -> list[Op]:
    """Return the operators of layers `first` .. `last` - 1, with the embedding and head if these include the ends."""
    once = start_pass(model, step, dtypes, layout, "embedding")
    ops = _embedding(once) if first == 0 else []
    for (mixer, feed_forward), count in model.kinds_between(first, last).items():
        ops += layer(once._replace(count=count), mixer, feed_forward)
    return ops + (_output_head(once) if last == model.num_hidden_layers else [])


def growing_ops(model: ModelConfig, step: Step, dtypes: Dtypes, layout: Parallelism) -> list[Op]:
    """Return the operators of all layers with a cost that depends on the cached tokens, such as attention."""
    once = start_pass(model, step, dtypes, layout, "embedding")
    return [
        op
        for (mixer, _), count in model.kinds_between(0, model.num_hidden_layers).items()
        for op in MIXERS[base_name(mixer)].ops(once._replace(count=count), mixer)
        if op.grows
    ]


def forward(model: ModelConfig, step: Step, dtypes: Dtypes, layout: Parallelism) -> list[Op]:
    """Return all operators of one pass, as one GPU of each stage runs them, stage after stage."""
    ops = stage_ops(model, step, dtypes, layout, 0, model.num_hidden_layers)
    return ops + stage_sends(model, step, dtypes, layout) if layout.pp_size > 1 else ops


def stage_sends(model: ModelConfig, step: Step, dtypes: Dtypes, layout: Parallelism) -> list[Op]:
    """Return the sends of the residual stream from each stage to the next, those between nodes last."""
    message = layout.share(step).rows * model.stream_width * dtypes.stream_bytes / layout.tp_size
    spans = layout.send_spans.items()
    return [op for span, n in spans for op in collective("stage_send", "send", message, 2, count=float(n), span=span)]


def num_params(model: ModelConfig) -> float:
    """Return the number of weights of the whole model, from its operators."""
    if "num_params" not in model.counts:
        model.counts["num_params"] = sum(float(op.count) * op.params for op in _smallest_pass(model))
    return model.counts["num_params"]


def stored_bytes(model: ModelConfig, dtypes: Dtypes) -> float:
    """Return the bytes of the weights of the whole model in these formats, on a GPU that has their rates."""
    every_rate = dict.fromkeys(BITS, 1.0)
    ops = forward(model, Step(1.0, 1.0), dtypes.on(every_rate, "any GPU"), Parallelism())
    return sum(float(op.count) * op.stored_bytes for op in ops)


def num_active_params(model: ModelConfig) -> float:
    """Return the number of weights that one token is multiplied with: chosen experts, no embedding tables.

    A tied embedding counts once, as the output head; layers that a text prompt skips do not count.
    """
    chosen = experts_per_token(model) / max(model.num_experts, 1)
    share = {"grouped_gemm": chosen, "embedding": 0.0, SKIPPED: 0.0}
    active = sum(float(op.count) * op.params * share.get(op.kind, 1.0) for op in _smallest_pass(model))
    tied = model.output_head and model.tie_word_embeddings
    return active + (model.vocab_size * model.embedding_width if tied else 0.0)


def kv_bytes_per_token(model: ModelConfig, dtypes: Dtypes) -> float:
    """Return the bytes that one more token adds to the KV cache of a sequence in which all windows are full."""
    key = f"kv_bytes_per_token {dtypes.kv_bits} {dtypes.stream}"
    if key not in model.counts:
        model.counts[key] = _added_by_a_token(model, dtypes)
    return model.counts[key]


def _added_by_a_token(model: ModelConfig, dtypes: Dtypes) -> float:
    """Return `kv_bytes_per_token` without the cache of counts."""
    long = 2.0**24
    now, before = (Step(1.0, 1.0, context, "decode") for context in (long, long - 1))
    return float(_cached(model, now, dtypes) - _cached(model, before, dtypes))


def _cached(model: ModelConfig, step: Step, dtypes: Dtypes) -> Quantity:
    """Return the bytes of KV cache and state of all layers after a pass."""
    return cached_bytes(model, step, dtypes, Parallelism(), 0, model.num_hidden_layers)


def cached_bytes(
    model: ModelConfig, step: Step, dtypes: Dtypes, layout: Parallelism, first: int, last: int
) -> Quantity:
    """Return the bytes of KV cache and state of layers `first` .. `last` - 1 on one GPU after a pass."""
    once = start_pass(model, step, dtypes, layout)
    ops = (
        op
        for (mixer, _), count in model.kinds_between(first, last).items()
        for op in MIXERS[base_name(mixer)].ops(once._replace(count=count), mixer)
    )
    return sum((op.count * op.cached_bytes for op in ops), 0.0)


def _smallest_pass(model: ModelConfig) -> list[Op]:
    """Return the operators of the smallest pass, to count weights."""
    return forward(model, Step(1.0, 1.0), _COUNTING, Parallelism())


_COUNTING = Dtypes("", "bf16", 16, 0, "bf16", "bf16", 16, 16, 16)
