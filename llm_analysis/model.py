"""Physics 3: a model as a list of operators. Prefill and decode are the same code: decode has one new token.

    forward(model, step, dtypes, layout) -> [Op]

    token embedding -> L layers -> final norm -> output head (the last position of each sequence alone)
    layer: norm, QKV, rotary, attention, output projection, all-reduce, residual,
           norm, up (and gate), activation, down, all-reduce, residual

Weights, their traffic, the KV cache, FLOP and the parameter count are all read off this one list.
Sharding over t tensor-parallel GPUs: QKV, up and gate by columns, output projection and down by rows (Megatron-LM),
so that one all-reduce ends each half of a layer. KV heads fewer than t are replicated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llm_analysis.dtypes import Dtypes
from llm_analysis.model_config import ModelConfig
from llm_analysis.operators import Op, Step, all_reduce, attention, collective, elementwise, lookup, matmul
from llm_analysis.scenario import Parallelism
from llm_analysis.units import Quantity


@dataclass(frozen=True, slots=True)
class Pass:
    """All that a layer's operators depend on. `count` is how many layers of the kind the pass runs through."""

    model: ModelConfig
    step: Step
    dtypes: Dtypes
    layout: Parallelism
    count: int = 1

    @property
    def stream_rows(self) -> Quantity:
        """Rows of the residual stream that this GPU normalises and adds."""
        return self.step.rows / self.layout.sp_size

    def reduced(self, name: str) -> list[Op]:
        """The all-reduce that sums a row-sharded product over the tensor-parallel group."""
        message = self.step.rows * self.model.hidden_size * self.dtypes.stream_bytes
        t, node = self.layout.tp_size, self.layout.gpus_per_node
        return all_reduce(name, message, t, node=node, count=self.count)

    def norm(self, name: str) -> Op:
        """One norm over the hidden size: the stream in, the normalised stream out."""
        h, width = self.model.hidden_size, self.dtypes.norm_bytes or self.dtypes.stream_bytes
        return elementwise(name, self.stream_rows, h, h, width, count=self.count, params=self.model.norm_params)

    def residual(self, name: str) -> Op:
        """The stream plus a block's output."""
        h, width = self.model.hidden_size, self.dtypes.stream_bytes
        return elementwise(name, self.stream_rows, 2 * h, h, width, count=self.count, kind="residual")


def attention_block(p: Pass, mixer: str) -> list[Op]:
    """Multi-head, grouped-query or multi-query attention; `mixer` says what a token sees."""
    m, t = p.model, p.layout.tp_size
    h, d, heads, kv_heads = m.hidden_size, m.head_dim, m.num_attention_heads, m.num_key_value_heads
    mine, kv_mine = heads / t, max(kv_heads / t, 1.0)
    qkv_params = (h + m.qkv_bias) * (heads + 2 * kv_heads) * d
    out_params = heads * d * h + m.attention_output_bias * h
    window = {"window": float(m.sliding_window)} if mixer == "sliding_attention" and m.sliding_window else {}
    linear, stream = p.dtypes.linear, p.dtypes.stream
    ops = [matmul("qkv", p.step.rows, h, (mine + 2 * kv_mine) * d, linear, count=p.count, params=qkv_params)]
    if m.rotary or m.qk_norm != "none":
        norm_params = {"none": 0, "head": 2 * d, "full": (heads + kv_heads) * d}[m.qk_norm]
        rotated = (mine + kv_mine) * d
        width = p.dtypes.stream_bytes
        ops.append(elementwise("rotary", p.step.rows, rotated, rotated, width, count=p.count, params=norm_params))
    ops.append(
        attention(
            "attention",
            p.step,
            mine,
            kv_mine,
            d,
            d,
            format=stream,
            rate=stream,
            element_bytes=p.dtypes.stream_bytes,
            kv_element_bytes=p.dtypes.kv_bytes,
            count=p.count,
            **window,
        )
    )
    ops.append(matmul("attention_output", p.step.rows, mine * d, h, linear, count=p.count, params=out_params))
    return ops


def dense_block(p: Pass, feed_forward: str) -> list[Op]:
    """Feed-forward of two matrices, or of three with a gate."""
    m, t = p.model, p.layout.tp_size
    h, f, columns = m.hidden_size, m.intermediate_size, 2 if m.gated_mlp else 1
    linear, width = p.dtypes.linear, p.dtypes.stream_bytes
    up_params, down_params = (h + m.mlp_bias) * columns * f, (f + m.mlp_bias) * h
    up = "mlp_up_gate" if m.gated_mlp else "mlp_up"
    return [
        matmul(up, p.step.rows, h, columns * f / t, linear, count=p.count, params=up_params),
        elementwise("mlp_activation", p.step.rows, columns * f / t, f / t, width, count=p.count),
        matmul("mlp_down", p.step.rows, f / t, h, linear, count=p.count, params=down_params),
    ]


def nothing(p: Pass, kind: str) -> list[Op]:
    """A layer without this half."""
    return []


MIXERS: dict[str, Callable[[Pass, str], list[Op]]] = {
    "full_attention": attention_block,
    "sliding_attention": attention_block,
    "none": nothing,
}
FEED_FORWARDS: dict[str, Callable[[Pass, str], list[Op]]] = {"dense": dense_block, "none": nothing}


def layer(p: Pass, mixer: str, feed_forward: str) -> list[Op]:
    """The operators of one layer."""
    mix, feed = MIXERS[mixer](p, mixer), FEED_FORWARDS[feed_forward](p, feed_forward)
    if p.model.parallel_block:
        norms = [p.norm("norm") for _ in range(p.model.norms_per_layer)]
        return [*norms, *mix, *feed, *p.reduced("all_reduce"), p.residual("residual")]
    ops: list[Op] = []
    for name, half in (("attention", mix), ("mlp", feed)):
        if half:
            after = [p.norm(f"{name}_post_norm")] if p.model.norms_per_layer == 4 else []
            ops += [
                p.norm(f"{name}_norm"),
                *half,
                *p.reduced(f"{name}_all_reduce"),
                *after,
                p.residual(f"{name}_residual"),
            ]
    return ops


def embedding(p: Pass) -> list[Op]:
    """Token (and learned position) embeddings: `rows` look-ups in a table whose entries are spread over the GPUs."""
    m, t, stream = p.model, p.layout.tp_size, p.dtypes.stream_bytes
    width, entry = m.embedding_width, p.dtypes.embedding_bits / 8
    ops = [lookup("embedding", p.step.rows, width, m.vocab_size / t, entry, stream, params=m.vocab_size * width)]
    if m.position_embedding_rows:
        rows, h = m.position_embedding_rows, m.hidden_size
        ops.append(lookup("position_embedding", p.step.rows, h, rows, entry, stream, params=rows * h))
    if width != m.hidden_size:
        ops.append(matmul("embedding_in", p.step.rows, width, m.hidden_size, p.dtypes.router))
    if m.embedding_norm:
        ops.append(p.norm("embedding_norm"))
    return ops + p.reduced("embedding_all_reduce")


def output_head(p: Pass) -> list[Op]:
    """Final norm and logits of the last position of each sequence."""
    m, t, width = p.model, p.layout.tp_size, p.model.embedding_width
    last = p.step.batch
    tied = m.tie_word_embeddings and p.layout.pp_size == 1
    params = 0.0 if m.tie_word_embeddings else m.vocab_size * (width + m.head_bias)
    ops = [p.norm("final_norm")] if m.final_norm else []
    if width != m.hidden_size:
        ops.append(matmul("embedding_out", last, m.hidden_size, width, p.dtypes.router))
    ops.append(matmul("output_head", last, width, m.vocab_size / t, p.dtypes.head, params=params, stored=not tied))
    logits = last * m.vocab_size * p.dtypes.stream_bytes * (t - 1) / t
    return ops + collective("logits_all_gather", "all_gather", logits, t)


def stage_ops(model: ModelConfig, step: Step, dtypes: Dtypes, layout: Parallelism, first: int, last: int) -> list[Op]:
    """Operators of layers `first` .. `last` - 1; with the embedding before the first, the head after the last."""
    once = Pass(model, step, dtypes, layout)
    ops = embedding(once) if first == 0 else []
    for (mixer, feed_forward), count in model.kinds_between(first, last).items():
        ops += layer(Pass(model, step, dtypes, layout, count), mixer, feed_forward)
    return ops + (output_head(once) if last == model.num_hidden_layers else [])


def forward(model: ModelConfig, step: Step, dtypes: Dtypes, layout: Parallelism) -> list[Op]:
    """All operators of one pass, as one GPU of each stage runs them; the stages of a pipeline follow one another."""
    ops = stage_ops(model, step, dtypes, layout, 0, model.num_hidden_layers)
    sends = layout.pp_size - 1
    if sends:
        message = step.rows * model.hidden_size * dtypes.stream_bytes / layout.tp_size
        ops += collective("stage_send", "send", message, 2, count=sends, span=2 * layout.tp_size)
    return ops


def num_params(model: ModelConfig) -> float:
    """Weights of the whole model, counted on its operators."""
    return sum(float(op.count) * op.params for op in forward(model, Step(1, 1), COUNTING, Parallelism()))


COUNTING = Dtypes("", "bf16", 16, 0, "bf16", "bf16", 16, 16, 16)
