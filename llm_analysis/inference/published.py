"""The block-level model of the published FasterTransformer example, as `--method published` computes it.

b batch, q new tokens, s prompt, n generated; L layers, h hidden, H heads, K KV heads, d head size, f FFN, V vocabulary;
t tensor-parallel GPUs; w, a, c, e bytes per weight and per element of activations, KV cache and embedding; F, B
achieved FLOP/s and bytes/s; N achieved bytes/s of the link; l the least seconds of an all-reduce.

    attention   max((4 b q h^2 (1 + K/H) + 4 b q^2 h) / tF,
                    (2 h^2 (1 + K/H) w/t + b q h a + (4 b q h + 2 H q^2 b) a/t) / B)
    mlp         max(4 b q h f / tF,  (2 h f w/t + b q h a + 2 b q f a/t) / B)     gated: 6 for 4, and 3 h f w/t
    norms       2 b q h 4 / B
    all-reduce  2 max(2 b q h (t-1)/t a / N, l)
    pass        L (attention + mlp + norms + all-reduce) + V h e / B + one all-reduce of e bytes + 2 b q h V / tF
    KV cache    2 (2 b (s+n) K d L c / t) / B
    prefill     pass(q = s)       decode     pass(q = 1) + KV cache       total     prefill + n decode

`ideal` and `calibrated` differ from it: they read the KV cache once and write one token of it; they look up q rows of
the embedding, and read V h weights of the output head (at t = 1 the two errors cancel in decode); decode attention
computes over the context, not over one token; the causal mask halves prefill attention; norms move activations at their
own width; only the last position gets logits; n tokens take n - 1 decode steps.
"""

from __future__ import annotations

from llm_analysis.errors import Unsupported
from llm_analysis.inference.workload import Workload
from llm_analysis.models.config import ModelConfig
from llm_analysis.physics.dtypes import Dtypes
from llm_analysis.physics.operators import Op, Step
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.units import Quantity

_NORM_BYTES = 4.0
LEAST_LATENCY = 8e-6  # l, seconds of an all-reduce: the value of the example's A100s, for every GPU


def check(model: ModelConfig, dtypes: Dtypes, layout: Parallelism) -> None:
    """Raise Unsupported for a scenario outside of the published model."""
    sizes = {name: getattr(layout, name) for name in ("cp_size", "pp_size", "dp_size", "sp_size", "ep_size")}
    for flag, size in sizes.items():
        if size > 1:
            raise Unsupported(f"method published has no {flag}: it covers tensor parallelism alone; try --method ideal")
    if dtypes.norm_bytes:
        raise Unsupported("method published has no layernorm_dtype_bytes: its norms move 4 bytes; try --method ideal")
    if dtypes.notes:
        raise Unsupported(f"method published needs a rate of its own for each format: {dtypes.notes[0]}")
    if set(model.layer_kinds) != {("full_attention", "dense")}:
        raise Unsupported(
            f"method published covers dense layers with full attention, not {model.name}; try --method ideal"
        )
    if layout.tp_size > layout.gpus_per_node:
        raise Unsupported(
            f"method published covers one node of {layout.gpus_per_node} GPUs, not tp_size {layout.tp_size}"
        )


def check_workload(workload: Workload) -> None:
    """Raise Unsupported for serving options, which the published model does not have."""
    limited = workload.gpu_memory_utilization != 1
    given = [*workload.served, *(["gpu_memory_utilization"] if limited else [])]
    given += ["max_num_seqs"] if workload.max_num_seqs else []
    if given:
        raise Unsupported(f"method published has no {given[0]}: it covers a plain static batch; try --method ideal")


def _block_pass(model: ModelConfig, b: Quantity, q: Quantity, dtypes: Dtypes, t: int) -> list[Op]:
    """Return the published pass over `q` new tokens of each of `b` sequences."""
    L, h, f, V = model.num_hidden_layers, model.hidden_size, model.intermediate_size, model.vocab_size
    H, kv_share = model.num_attention_heads, model.num_key_value_heads / model.num_attention_heads
    matrices = 2 + model.gated_mlp
    w, a, e = dtypes.weight_bits / 8, dtypes.activation_bits / 8, dtypes.embedding_bits / 8
    stream, rate = b * q * h * a, dtypes.math
    return [
        Op(
            "attention",
            "attention",
            count=L,
            rate=rate,
            flops=(4 * b * q * h**2 * (1 + kv_share) + 4 * b * q**2 * h) / t,
            weight_bytes=2 * h**2 * (1 + kv_share) * w / t,
            activation_bytes=stream + (4 * b * q * h + 2 * H * q**2 * b) * a / t,
        ),
        Op(
            "mlp",
            "mlp",
            count=L,
            rate=rate,
            flops=2 * matrices * b * q * h * f / t,
            weight_bytes=matrices * h * f * w / t,
            activation_bytes=stream + 2 * b * q * f * a / t,
        ),
        Op("norms", "elementwise", count=L, activation_bytes=2 * b * q * h * _NORM_BYTES),
        _reduction("all_reduce", b * q * h * a, t, count=2 * L),
        Op("embedding", "embedding", weight_bytes=V * h * e),
        _reduction("embedding_all_reduce", b * q * h * e, t, count=1),
        Op("output_head", "gemm", rate=rate, flops=2 * b * q * h * V / t),
    ]


def _reduction(name: str, message_bytes: Quantity, t: int, count: int) -> Op:
    """Return the published all-reduce of `t` GPUs; at t = 1 it sends nothing."""
    wire = 2 * message_bytes * (t - 1) / t
    return Op(name, "all_reduce", count=count, span=t, messages=t - 1.0, wire_bytes=wire)


def prefill_ops(model: ModelConfig, workload: Workload, dtypes: Dtypes, t: int) -> list[Op]:
    """Return the published pass over the prompt."""
    return _block_pass(model, workload.batch_size_per_gpu, workload.seq_len, dtypes, t)


def decode_ops(model: ModelConfig, workload: Workload, dtypes: Dtypes, t: int) -> list[Op]:
    """Return the published pass for one generated token."""
    b, s, n = workload.batch_size_per_gpu, workload.seq_len, workload.num_tokens_to_generate
    if not workload.use_kv_cache:
        return _block_pass(model, b, (s + n) // 2, dtypes, t)
    return step_ops(model, Step(b, 1, s + n - 1, "decode"), dtypes, t)


def step_ops(model: ModelConfig, step: Step, dtypes: Dtypes, t: int) -> list[Op]:
    """Return the published operators of one pass; a decode step reads and writes the whole cache after it."""
    ops = _block_pass(model, step.batch, step.new_tokens, dtypes, t)
    if step.phase == "prefill":
        return ops
    row = model.num_key_value_heads * model.head_dim * dtypes.kv_bytes / t
    cache = 2 * (2 * step.batch * step.total * row * model.num_hidden_layers)
    return [*ops, Op("kv_cache", "kv_cache", kv_bytes=cache)]
