"""Context parallelism: FLOP, memory and traffic of a rank, by hand, by laws, and against a publication."""

from itertools import product
from math import inf, isclose
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_analysis import GPU, LLMAnalysis, ModelConfig, Op, Parallelism, Step, get_dtypes, get_gpu, get_model
from llm_analysis.errors import Unsupported
from llm_analysis.hardware.roofline import pass_seconds
from llm_analysis.inference.estimate import Estimate
from llm_analysis.inference.explain import explanation
from llm_analysis.inference.pipeline import schedule
from llm_analysis.inference.workload import Workload
from llm_analysis.models.forward import forward
from llm_analysis.models.sharding import check_layout
from llm_analysis.physics.collectives import all_gather, all_to_all

# Grouped-query; windows on some layers; chunks on some; experts; latent attention.
MODELS = ("llama-2-7b", "llama-3.1-70b", "gemma-3-4b", "llama-4-scout", "mixtral-8x7b", "deepseek-v2-lite")
ROUNDING = 1e-12  # sums of about a hundred terms, with shares that are divided and multiplied again

models = st.sampled_from(MODELS)
ranks = st.sampled_from([2, 3, 4, 8])
batches = st.integers(1, 64)
prompts = st.integers(16, 100_000)


def ops_of(model: str, step: Step, **sizes: int) -> list[Op]:
    return forward(get_model(model), step, get_dtypes("bf16"), Parallelism(**sizes))


def named(ops: list[Op], name: str) -> Op:
    (op,) = [op for op in ops if op.name == name]
    return op


def total(ops: list[Op], field: str, *kinds: str) -> float:
    return sum(float(op.count * getattr(op, field)) for op in ops if op.kind in kinds and op.name != "output_head")


def laid_out(model: str = "llama-3.1-8b", gpu: GPU | str = "h100-sxm-80gb", **sizes: Any) -> LLMAnalysis:
    hardware = get_gpu(gpu) if isinstance(gpu, str) else gpu
    return LLMAnalysis(get_model(model), hardware, get_dtypes("bf16"), Parallelism(**sizes), method="ideal")


def free_network() -> GPU:
    return get_gpu("h100-sxm-80gb").model_copy(update={"link_bandwidth": inf, "inter_node_bandwidth": inf})


# By hand: llama-3.1-8b has 32 layers, 32 heads and 8 KV heads of 128, a hidden size of 4,096


def test_a_rank_gathers_the_keys_and_values_of_the_others() -> None:
    """3 prompts of 1,024 tokens, 4 ranks of 2 GPUs in a node of 8: rows of 4 KV heads x 2 x 128 in 16 bits."""
    step = Step(3.0, 1024.0)
    alone, ops = ops_of("llama-3.1-8b", step, tp_size=2), ops_of("llama-3.1-8b", step, tp_size=2, cp_size=4)
    row = 4 * 2 * 128 * 2
    gather, attention = named(ops, "kv_all_gather"), named(ops, "attention")
    assert (gather.kind, gather.count, gather.span, gather.messages) == ("all_gather", 32, 8, 3)
    assert gather.wire_bytes == 3 * 1024 * row * 3 / 4
    assert attention.flops * 4 == named(alone, "attention").flops
    queries_and_outputs = 3 * 256 * 16 * 256 * 2
    assert (
        attention.activation_bytes == queries_and_outputs + 3 * 1024 * row
    )  # the gathered keys and values are a buffer
    assert attention.kv_bytes == attention.cached_bytes == 3 * 256 * row
    assert named(ops, "qkv").flops * 4 == named(alone, "qkv").flops
    assert named(ops, "qkv").weight_bytes == named(alone, "qkv").weight_bytes
    assert named(ops, "mlp_all_reduce").wire_bytes * 4 == named(alone, "mlp_all_reduce").wire_bytes
    assert (
        named(ops, "output_head").flops == named(alone, "output_head").flops
    )  # one rank has the last position of every prompt


def test_an_all_gather_over_nodes_starts_with_the_network() -> None:
    """8 ranks of 2 GPUs in nodes of 8 GPUs: one part from the other node, then two parts from each of 3 ranks."""
    ops = ops_of("llama-3.1-8b", Step(1.0, 1024.0), tp_size=2, cp_size=8)
    near, far = named(ops, "kv_all_gather"), named(ops, "kv_all_gather_inter_node")
    part = 128 * 4 * 2 * 128 * 2
    assert (far.wire_bytes, far.span, far.messages) == (part, 16, 1)
    assert (near.wire_bytes, near.span, near.messages) == (3 * 2 * part, 8, 3)


@pytest.mark.parametrize(("stride", "spans"), [(1, [8, 16]), (2, [8, 32]), (8, [128]), (16, [256])])
def test_the_distance_of_ranks_is_their_number_of_gpus(stride: int, spans: list[int]) -> None:
    for ops in (
        all_gather("gather", 16.0, 16, node=8, stride=stride),
        all_to_all("exchange", 16.0, 1.0, 16, node=8, stride=stride),
    ):
        assert [op.span for op in ops] == spans
    assert sum(float(op.wire_bytes) for op in all_gather("gather", 16.0, 16, node=8, stride=stride)) == 15


def test_a_decode_step_sends_queries_and_partial_outputs() -> None:
    """8 sequences at 1,000 tokens, 4 ranks of 2 GPUs: 2 sequences each; 16 heads of 128 in 16 bits, 4 bytes per sum."""
    step = Step(8.0, 1.0, 999.0, "decode")
    alone, ops = ops_of("llama-3.1-8b", step, tp_size=2), ops_of("llama-3.1-8b", step, tp_size=2, cp_size=4)
    queries, outputs = named(ops, "query_all_gather"), named(ops, "output_all_to_all")
    assert (queries.wire_bytes, queries.span, queries.messages) == (6 * 16 * 128 * 2, 8, 3)
    assert (outputs.wire_bytes, outputs.kind) == (6 * 16 * (128 * 2 + 4), "all_to_all")
    one, part = named(alone, "attention"), named(ops, "attention")
    for field in ("flops", "kv_bytes", "cached_bytes"):
        assert getattr(part, field) * 4 == getattr(one, field)
    assert part.activation_bytes == one.activation_bytes
    assert named(ops, "attention_merge").activation_bytes == 2 * (4 + 1) * 16 * 128 * 2
    assert named(ops, "qkv").flops * 4 == named(alone, "qkv").flops
    assert named(ops, "output_head").flops * 4 == named(alone, "output_head").flops


def test_one_sequence_keeps_one_rank_busy() -> None:
    """All ranks compute its attention, one rank its matrices, which takes as long as without other ranks."""
    step = Step(1.0, 1.0, 999.0, "decode")
    alone, ops = ops_of("llama-3.1-8b", step), ops_of("llama-3.1-8b", step, cp_size=4)
    assert named(ops, "qkv") == named(alone, "qkv")
    assert named(ops, "attention").kv_bytes * 4 == named(alone, "attention").kv_bytes
    assert named(ops, "query_all_gather").wire_bytes == 3 * 32 * 128 * 2


def test_sliding_layers_send_only_the_window() -> None:
    """gemma-3-4b, 4 KV heads: 29 of 34 layers see 1,024 tokens: 1,023 before each of two pieces of 4,096 per rank."""
    gathers = [op for op in ops_of("gemma-3-4b", Step(1.0, 32768.0), cp_size=4) if op.name == "kv_all_gather"]
    row = 4 * 2 * 256 * 2
    assert {op.count: op.wire_bytes for op in gathers} == {29: 2 * 1023 * row, 5: 32768 * 3 / 4 * row}
    attends = [op for op in ops_of("gemma-3-4b", Step(1.0, 32768.0), cp_size=4) if op.name == "attention"]
    queries = 8192 * 8 * 2 * 256 * 2
    assert {op.count: op.activation_bytes - queries for op in attends} == {
        29: (8192 + 2 * 1023) * row,
        5: 32768 * row,
    }


@pytest.mark.parametrize(
    ("model", "tokens", "held", "read"),
    [
        ("gemma-3-4b", 800, 200, 200),  # all 800 are in the window of 1,024: a quarter on each of 4 ranks
        ("gemma-3-4b", 2400, 600, 600),  # a rank has two pieces of 300
        ("gemma-3-4b", 32768, 1024, 1024),  # the last piece of 4,096 holds the whole window
        ("llama-4-scout", 8192, 2048, 2048),  # the first chunk, full
        ("llama-4-scout", 66536, 8192, 1000),  # 1,000 tokens of the ninth chunk, in the last piece; 8,192 kept
    ],
)
def test_one_rank_holds_the_end_of_a_window(model: str, tokens: int, held: int, read: int) -> None:
    """Decode of 8 sequences on 4 ranks, rows of 4 KV heads of 256 or 8 of 128; full attention reads a quarter."""
    step, row = Step(8.0, 1.0, tokens - 1.0, "decode"), 2048 * 2
    (near, full) = (op for op in ops_of(model, step, cp_size=4) if op.name == "attention")
    assert near.count > full.count
    assert near.cached_bytes == 8 * held * row
    assert near.kv_bytes == pytest.approx(8 * read * row, rel=0.006)  # the new token is written too
    assert full.cached_bytes == 8 * tokens / 4 * row
    after = [op for op in ops_of(model, Step(8.0, float(tokens)), cp_size=4) if op.name == "attention"]
    assert [op.cached_bytes for op in after] == [near.cached_bytes, full.cached_bytes]


def test_mla_sends_latent_rows_and_every_rank_expands_them() -> None:
    """deepseek-v2-lite: 512 + 64 elements per token in 27 layers; each GPU expands all 4,096 tokens."""
    step = Step(1.0, 4096.0)
    alone, ops = ops_of("deepseek-v2-lite", step), ops_of("deepseek-v2-lite", step, cp_size=4)
    assert {op.wire_bytes for op in ops if op.name == "kv_all_gather"} == {3072 * 576 * 2}
    up = {
        name: {(op.flops, op.bytes) for op in found if op.name == "kv_up"} for name, found in (("1", alone), ("4", ops))
    }
    assert up["1"] == up["4"]


def test_ranks_can_share_experts() -> None:
    """mixtral-8x7b: two ranks with half of the tokens each use the same experts, like two replicas."""
    step = Step(4.0, 512.0)
    alone, ops = ops_of("mixtral-8x7b", step), ops_of("mixtral-8x7b", step, cp_size=2, ep_size=2)
    assert total(ops, "flops", "grouped_gemm") * 2 == total(alone, "flops", "grouped_gemm")
    assert total(ops, "stored_bytes", "grouped_gemm") * 2 == total(alone, "stored_bytes", "grouped_gemm")
    assert named(ops, "experts_dispatch").wire_bytes == 4 * 256 * 4096 * 2 * 2 / 2
    one = Step(1.0, 1.0, 100.0, "decode")
    busiest = named(ops_of("mixtral-8x7b", one, cp_size=8, ep_size=8), "experts_down")
    assert busiest.flops == 2 * 14336 * 4096  # one row, although eight ranks have experts


@pytest.mark.parametrize(
    ("sizes", "spans"), [({"cp_size": 4}, {8: 1, 9: 1}), ({"tp_size": 2, "cp_size": 2}, {8: 1, 9: 1}), ({}, {3: 2})]
)
def test_ranks_lie_inside_a_stage(sizes: dict[str, int], spans: dict[int, int]) -> None:
    layout = Parallelism(pp_size=3, **sizes)
    assert layout.send_spans == spans
    shared = layout.tp_size * layout.cp_size
    assert layout.num_gpus == 3 * shared
    sends = [op for op in ops_of("llama-3.1-8b", Step(1.0, 1024.0), pp_size=3, **sizes) if op.name == "stage_send"]
    assert {op.wire_bytes for op in sends} == {1024 * 4096 * 2 / shared}


# Laws


@given(model=models, n=ranks, b=batches, s=prompts, context=st.integers(0, 50_000))
def test_ranks_share_the_work(model: str, n: int, b: int, s: int, context: int) -> None:
    """The FLOP and scores of all ranks add up to those of one GPU; but every rank expands all latent rows."""
    prefill, decode = Step(float(b), float(s), float(context)), Step(float(b * n), 1.0, float(s), "decode")
    for step in (prefill, decode):
        alone, ops = (
            [op for op in found if op.name != "kv_up"]
            for found in (ops_of(model, step), ops_of(model, step, cp_size=n))
        )
        attends = tuple({op.kind for op in alone if op.kind.startswith("prefill_")})
        for kinds in (("gemm",), ("grouped_gemm",), attends):
            for field in ("flops", "scores"):
                assert isclose(n * total(ops, field, *kinds), total(alone, field, *kinds), rel_tol=ROUNDING)
        kinds = tuple({op.kind for op in alone})
        assert total(ops, "stored_bytes", *kinds) == total(alone, "stored_bytes", *kinds)


@given(model=models, n=ranks, b=batches, s=prompts, data=st.data())
def test_the_busiest_rank_holds_and_reads_its_share_of_the_tokens_or_the_whole_window(
    model: str, n: int, b: int, s: int, data: st.DataObject
) -> None:
    """At least an even share, at most all; exactly an even share while the context is shorter than the window."""
    step = data.draw(st.sampled_from([Step(float(b), float(s)), Step(float(b), 1.0, float(s), "decode")]))
    alone, ops = (
        [op for op in found if op.name == "attention"]
        for found in (ops_of(model, step), ops_of(model, step, cp_size=n))
    )
    m = get_model(model)
    window = float(m.sliding_window or m.attention_chunk_size or inf)
    fields = ("cached_bytes", "kv_bytes", "flops") if step.phase == "decode" else ("cached_bytes",)
    for (one, part), field in product(zip(alone, ops, strict=True), fields):
        whole, share = getattr(one, field), getattr(part, field)
        assert whole / n * (1 - ROUNDING) <= share <= whole * (1 + ROUNDING)
        if step.total <= window:
            assert isclose(share, whole / n, rel_tol=ROUNDING)
    even = {one.count for one, part in zip(alone, ops, strict=True) if isclose(part.cached_bytes * n, one.cached_bytes)}
    full = {count for (kind, _), count in m.kinds_between(0, m.num_hidden_layers).items() if not windowed(kind)}
    assert even >= full


def windowed(kind: str) -> bool:
    return "sliding" in kind or kind == "chunked_attention"


@given(model=models, n=ranks, more=st.sampled_from([2, 4]), b=batches, s=prompts)
def test_more_ranks_are_never_slower_with_a_free_network(model: str, n: int, more: int, b: int, s: int) -> None:
    """Nor faster than their share of the time of one rank. Decode also pays for merging the partial outputs."""
    prefill, decode = Step(float(b), float(max(s, n * more))), Step(float(b), 1.0, float(s), "decode")
    for step in (prefill, decode):
        laid = [laid_out(model, free_network(), cp_size=k).scenario for k in (1, n, n * more)]
        one, few, many = (schedule(scenario, [(1.0, step)]) for scenario in laid)
        assert pass_seconds(many) >= pass_seconds(one) / (n * more) * (1 - ROUNDING)
        merges = [
            pass_seconds([entry for entry in timed if entry[1].name == "attention_merge"]) for timed in (few, many)
        ]
        assert all(bool(merge) == (step.phase == "decode") for merge in merges)
        assert pass_seconds(many) - merges[1] <= (pass_seconds(few) - merges[0]) * (1 + ROUNDING)
        assert pass_seconds(few) - merges[0] <= pass_seconds(one) * (1 + ROUNDING)


AXES = st.lists(st.floats(1.0, 1e5), min_size=1, max_size=6)


@given(model=models, n=ranks, tp=st.sampled_from([1, 4]), b=AXES, q=AXES, c=AXES, decode=st.booleans())
def test_array_elements_equal_scalars(
    model: str, n: int, tp: int, b: list[float], q: list[float], c: list[float], decode: bool
) -> None:
    ask, size = laid_out(model, cp_size=n, tp_size=tp), min(len(b), len(q), len(c))
    new, phase = ([1.0] * size, "decode") if decode else (q[:size], "prefill")
    points = list(zip(b[:size], new, c[:size], strict=True))
    together = np.asarray(ask.seconds(Step(np.array(b[:size]), np.array(new), np.array(c[:size]), phase)))
    alone = [float(ask.seconds(Step(*point, phase))) for point in points]
    np.testing.assert_allclose(np.broadcast_to(together, size), alone, rtol=1e-12, atol=0)


@given(n=ranks, b=batches, s=st.integers(64, 8000), chunk=st.integers(16, 9000), tp=st.sampled_from([1, 2]))
def test_chunks_are_shared_too(n: int, b: int, s: int, chunk: int, tp: int) -> None:
    """Each chunk gathers the keys and values of all chunks before it, so chunks are never faster than one pass."""
    whole, cut = (
        laid_out(cp_size=n, tp_size=tp).inference(batch_size_per_gpu=b, seq_len=s, prefill_chunk_size=size)
        for size in (None, chunk)
    )
    assert cut.prefill_latency >= whole.prefill_latency * (1 - 1e-9)
    assert cut.decode_latency == whole.decode_latency


@pytest.mark.parametrize("model", MODELS)
def test_a_long_prompt_takes_its_share_of_the_time(model: str) -> None:
    """100,000 tokens on 4 ranks of a node are compute-bound; with MLA, each rank expands all tokens."""
    step = Step(1.0, 100_000.0)
    one, four = (float(laid_out(model, cp_size=n).seconds(step)) for n in (1, 4))
    assert 1 / 4 <= four / one < 1.15 / 4


# Memory, serving, answers


def answered(model: str = "llama-3.1-8b", gpu: str = "h200-sxm-141gb", **question: Any) -> Estimate:
    sizes = {
        key: question.pop(key) for key in ("tp_size", "cp_size", "pp_size", "dp_size", "sp_size") if key in question
    }
    return laid_out(model, gpu, **sizes).inference(**question)


@pytest.mark.parametrize("model", ["llama-3.1-8b", "gemma-3-4b", "deepseek-v2-lite", "mixtral-8x7b"])
@pytest.mark.parametrize("n", [2, 8])
def test_ranks_share_the_cache_and_the_activations_and_not_the_weights(model: str, n: int) -> None:
    question: dict[str, Any] = {"batch_size_per_gpu": 4, "seq_len": 30000}
    one, many = answered(model, **question), answered(model, cp_size=n, **question)
    windows = 29 * 4 * 1024 * 4 * 2 * 256 * 2 if model == "gemma-3-4b" else 0  # one rank holds the end of each window
    assert (many.kv_cache_memory_per_gpu - windows) * n == one.kv_cache_memory_per_gpu - windows
    assert many.weight_memory_per_gpu == one.weight_memory_per_gpu
    assert many.activation_memory_per_gpu < one.activation_memory_per_gpu
    assert many.max_batch_size_per_gpu > 1.5 * one.max_batch_size_per_gpu
    assert many.max_context_len >= one.max_context_len
    assert many.num_gpus == n * one.num_gpus
    assert many.kv_cache_bytes_per_token == one.kv_cache_bytes_per_token


def test_gathered_keys_and_values_count_as_activations() -> None:
    """llama-2-7b, 4 prompts of 4,000 tokens on 8 ranks: 32 heads x 2 x 128 of all tokens, and 1/8 of the queries."""
    rows, row = 4 * 4000, 32 * 2 * 128 * 2
    answer = answered("llama-2-7b", cp_size=8, batch_size_per_gpu=4, seq_len=4000)
    stream, queries_and_outputs = rows / 8 * 4096 * 2, rows / 8 * row
    assert answer.activation_memory_per_gpu == pytest.approx(stream + queries_and_outputs + rows * row)


def test_more_context_fits() -> None:
    """With 8 KV heads, 16 GPUs hold copies under tp_size 16 and different tokens under cp_size 2."""
    question: dict[str, Any] = {"batch_size_per_gpu": 64, "seq_len": 100, "num_tokens_to_generate": 28}
    wide = answered("llama-3.1-70b", tp_size=16, prefill_chunk_size=4096, **question)
    long = answered("llama-3.1-70b", tp_size=8, cp_size=2, prefill_chunk_size=4096, **question)
    assert long.max_context_len > 1.5 * wide.max_context_len


def test_the_longest_context_counts_the_windows_of_one_rank() -> None:
    """gemma-3-27b, 16 KV heads x 2 x 128: 52 of 62 layers hold 1,024 tokens on one of two ranks, 10 share all."""
    question: dict[str, Any] = {"batch_size_per_gpu": 16, "seq_len": 100, "prefill_chunk_size": 4096}
    answer, row = answered("gemma-3-27b", cp_size=2, **question), 16 * 16 * 2 * 128 * 2
    longest = answer.max_context_len
    held = answer.weight_memory_per_gpu + (52 * 1024 + 10 * longest / 2) * row
    assert 10_000 < longest < 131_072
    assert held < answer.memory_per_gpu < held + 52 * 1024 * row / 2


def test_a_rank_sends_its_own_part_of_the_cache_to_the_decode() -> None:
    rows = {
        n: [op for op in answered(cp_size=n, seq_len=1000, disaggregated=True).operators if op.name == "kv_transfer"]
        for n in (1, 4)
    }
    assert rows[4][0].wire_bytes * 4 == rows[1][0].wire_bytes == 1000 * 131_072


def test_ranks_share_the_check_of_drafted_tokens_by_sequence() -> None:
    """8 sequences of 1 + 3 tokens on 4 ranks: 2 sequences, 8 rows each."""
    ops = ops_of("llama-3.1-8b", Step(8.0, 4.0, 500.0, "decode"), cp_size=4)
    assert named(ops, "qkv").flops == 2 * 8 * 4096 * 6144
    assert named(ops, "query_all_gather").wire_bytes == 3 * 8 * 32 * 128 * 2


def test_the_answer_counts_all_gpus() -> None:
    question = {"seq_len": 8192, "batch_size_per_gpu": 2}
    asked = laid_out(tp_size=2, cp_size=4, pp_size=2, dp_size=3)
    answer = asked.inference(**question, cost_per_gpu_hour=3.6)  # type: ignore[arg-type]
    assert (answer.cp_size, answer.num_gpus) == (4, 48)
    assert answer.cost_per_million_tokens == pytest.approx(16 * 1e-3 * answer.total_latency / (2 * 32) * 1e6)
    assert answer.prefill_tokens_per_sec == pytest.approx(3 * 2 * 8192 / answer.prefill_latency)
    assert any("ring attention overlaps the two" in note for note in answer.notes)


def test_an_explanation_adds_up() -> None:
    found = explanation(laid_out(tp_size=2, cp_size=4).scenario, Workload(seq_len=4096))
    assert sum(line.prefill_seconds for line in found.terms) == pytest.approx(found.estimate.prefill_latency)
    assert sum(line.decode_seconds for line in found.terms) == pytest.approx(found.estimate.decode_latency)


def test_context_parallelism_holds_what_tensor_parallelism_cannot() -> None:
    """llama-3.1-8b has 8 KV heads: 2,000 x 8,000 tokens of 131,072 bytes are 262 GB on each of 8 GPUs or of 32."""
    answer = answered(batch_size_per_gpu=2000, seq_len=8000, prefill_chunk_size=8000, tp_size=8)
    assert any(", or cp_size 2" in note for note in answer.notes if note.startswith("does not fit"))


# Invalid questions


def with_layers(kind: str) -> ModelConfig:
    model = get_model("llama-3.1-8b")
    return model.model_copy(update={"layer_types": (kind,) * 32, "name": "mine"})


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("mamba2", "the recurrent layers pass a state on"),
        ("gated_delta_net", "the recurrent layers pass a state on"),
        ("sparse_latent_attention", "the sparse attention picks its tokens"),
    ],
)
def test_layers_without_context_parallelism_are_rejected(kind: str, why: str) -> None:
    with pytest.raises(Unsupported, match=f"cp_size 4: {why}.*of mine; try cp_size 1 with tp_size 8"):
        check_layout(Parallelism(tp_size=2, cp_size=4), with_layers(kind))
    assert check_layout(Parallelism(tp_size=8), with_layers(kind)) == ()


@pytest.mark.parametrize(
    ("sizes", "question", "complaint"),
    [
        ({"cp_size": 16}, {"seq_len": 8}, "cp_size 16 is more than the 8 tokens of a prompt .*try cp_size 8"),
        ({"cp_size": 2}, {"seq_len": 1}, "more than the one token of a prompt .*try cp_size 1"),
        ({"cp_size": 8}, {"cached_prefix_len": 508}, "more than the 4 tokens"),
        ({"cp_size": 8}, {"prefill_chunk_size": 4}, "more than the 4 tokens"),
        ({"cp_size": 3, "ep_size": 2}, {}, "over the 3 GPUs of tp_size 1 times cp_size 3 times dp_size 1; try 1"),
        ({"cp_size": 4, "dp_size": 3, "ep_size": 6}, {}, "try 2 or 4"),
    ],
)
def test_impossible_cp_sizes_are_rejected(sizes: dict[str, Any], question: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Unsupported, match=complaint):
        laid_out("mixtral-8x7b", **sizes).inference(**question)


def test_a_missing_inter_node_bandwidth_is_an_error() -> None:
    with pytest.raises(Unsupported, match="16 GPUs need the inter-node bandwidth of l4-24gb, which is not known"):
        laid_out("llama-3.1-8b", "l4-24gb", tp_size=8, cp_size=2)


# A publication: Llama 3 405B on 16 nodes of 8 H100s (arXiv:2411.01783, recalled), 8-bit weights of the feed-forward


@pytest.mark.parametrize(("tokens", "measured"), [(128 * 1024.0, 3.8), (1e6, 77.0)])
def test_prefill_of_a_million_tokens_on_128_gpus(tokens: float, measured: float) -> None:
    """Its GPUs had a lower power limit and thus a lower peak, so compute-bound estimates are a tenth too low."""
    layout = Parallelism(tp_size=8, cp_size=16)
    model, gpu, formats = get_model("llama-3.1-405b"), get_gpu("h100-sxm-80gb"), get_dtypes("fp8").with_kv_bits(16)
    found = float(LLMAnalysis(model, gpu, formats, layout).seconds(Step(1.0, tokens)))
    assert 0.6 < found / measured < 1.0
    light = float(LLMAnalysis(model, gpu, formats, layout, method="ideal").seconds(Step(1.0, tokens)))
    assert light < found
