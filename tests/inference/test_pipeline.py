"""Pipelines: micro-batches, stages and the links between groups of GPUs, by laws and by hand."""

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_analysis import LLMAnalysis, Parallelism, Step, get_dtypes, get_gpu, get_model
from llm_analysis.errors import Unsupported
from llm_analysis.hardware.roofline import Timed
from llm_analysis.inference.pipeline import micro_batches, schedule
from llm_analysis.physics.collectives import all_reduce

MODELS = ("llama-2-7b", "llama-3.1-70b", "gemma-2-9b", "mixtral-8x7b", "deepseek-v2-lite")
ROUNDING = 1e-12  # sums of some hundred terms

models = st.sampled_from(MODELS)
stage_counts = st.integers(2, 8)
batches = st.integers(1, 512)
prompts = st.integers(1, 3000)


def laid_out(model: str = "llama-2-7b", gpu: str = "a100-sxm-80gb", method: str = "ideal", **sizes: Any) -> LLMAnalysis:
    return LLMAnalysis(get_model(model), get_gpu(gpu), get_dtypes("bf16"), Parallelism(**sizes), method=method)


# Micro-batches


@given(model=models, pp=stage_counts, b=batches, s=prompts)
def test_stages_that_work_together_gain_at_most_their_number(model: str, pp: int, b: int, s: int) -> None:
    step = Step(float(b), float(s))
    alone, together = laid_out(model).seconds(step), laid_out(model, pp_size=pp).seconds(step)
    assert together * pp >= alone * (1 - ROUNDING)


@given(model=models, pp=stage_counts, s=prompts, context=prompts)
def test_one_sequence_goes_through_all_stages(model: str, pp: int, s: int, context: int) -> None:
    for step in (Step(1.0, float(s)), Step(1.0, 1.0, float(context), "decode")):
        assert laid_out(model, pp_size=pp).seconds(step) >= laid_out(model).seconds(step) * (1 - ROUNDING)


def test_a_prefill_bound_by_compute_takes_the_flush_and_no_more() -> None:
    """llama-2-7b, 32 layers on 4 stages, 64 x 2,048 tokens: with m = 16 micro-batches 19 slots of 1/64 of the whole."""
    step = Step(64.0, 2048.0)
    whole, piped = float(laid_out().seconds(step)), float(laid_out(pp_size=4).seconds(step))
    assert 19 / 64 < piped / whole < 19 / 64 * 1.05  # the embedding and the head make one stage longer


@given(model=models, pp=stage_counts, s=prompts, data=st.lists(batches, min_size=1, max_size=5))
def test_an_array_of_batches_is_cut_like_each_of_them(model: str, pp: int, s: int, data: list[int]) -> None:
    asked = laid_out(model, pp_size=pp)
    together = np.asarray(asked.seconds(Step(np.array(data, dtype=float), float(s))))
    alone = [float(asked.seconds(Step(float(b), float(s)))) for b in data]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


@pytest.mark.parametrize(("pp", "b"), [*product((1, 2, 4), (1, 3, 64))])
def test_micro_batches_double_and_hold_one_sequence_at_least(pp: int, b: int) -> None:
    counts = micro_batches(laid_out(pp_size=pp).scenario, [(1.0, Step(float(b), 512.0))])
    assert counts[0] == 1
    assert all(later == 2 * earlier for earlier, later in pairwise(counts))
    assert counts[-1] <= max(1, 4 * pp)
    assert counts[-1] < 2 * b


def shortest(asked: LLMAnalysis, step: Step) -> Timed:
    return schedule(asked.scenario, [(1.0, step)])


@given(model=models, pp=stage_counts, b=batches, s=prompts, chunk=st.integers(16, 9000))
def test_a_chunked_prefill_is_no_faster_than_the_work_of_its_stages(
    model: str, pp: int, b: int, s: int, chunk: int
) -> None:
    """At the speed of light the stages share the work of one GPU at best, with any chunk size."""
    question: dict[str, Any] = {"batch_size_per_gpu": b, "seq_len": s}
    alone = laid_out(model).inference(**question).prefill_latency
    piped = laid_out(model, pp_size=pp).inference(**question, prefill_chunk_size=chunk).prefill_latency
    assert piped * pp >= alone * (1 - ROUNDING)


@given(model=models, pp=stage_counts, b=batches, s=prompts)
def test_a_chunk_that_covers_the_whole_batch_changes_nothing(model: str, pp: int, b: int, s: int) -> None:
    asked = laid_out(model, pp_size=pp)
    question: dict[str, Any] = {"batch_size_per_gpu": b, "seq_len": s}
    whole = asked.inference(**question).prefill_latency
    assert asked.inference(**question, prefill_chunk_size=b * s).prefill_latency == whole


def test_one_token_more_than_a_chunk_does_not_save_the_flush() -> None:
    """llama-3.1-70b on 4 stages: the chunk of 2,048 tokens goes through all stages, with or without a second one."""
    asked = LLMAnalysis(
        get_model("llama-3.1-70b"), get_gpu("h100-sxm-80gb"), None, Parallelism(pp_size=4), method="ideal"
    )
    chunks = {s: asked.inference(seq_len=s, prefill_chunk_size=2048).prefill_latency for s in (2048, 2049, 4096)}
    assert chunks[2048] < chunks[2049] < chunks[2048] * 1.1
    assert chunks[4096] == pytest.approx(chunks[2048] * 5 / 4, rel=0.05)  # (2 + 4 - 1) slots for 4


@pytest.mark.parametrize(
    ("tp", "pp", "spans"),
    [
        (1, 1, {}),
        (1, 4, {4: 3}),  # GPUs 0-3 of one node
        (2, 4, {8: 3}),
        (4, 4, {8: 2, 9: 1}),  # stages 0, 1 | 2, 3
        (8, 3, {16: 2}),  # a node each
        (1, 16, {8: 14, 9: 1}),
        (16, 2, {32: 1}),
        (3, 4, {8: 1, 9: 2}),  # GPUs 0-2, 3-5, 6-8 across the edge, 9-11
    ],
)
def test_sends_between_stages_use_the_link_that_lies_between(tp: int, pp: int, spans: dict[int, int]) -> None:
    assert Parallelism(tp_size=tp, pp_size=pp).send_spans == spans


def test_replicas_that_share_experts_lie_inside_a_stage() -> None:
    """4 GPUs of each stage hold its experts: two stages fill a node of 8, and the third is in another."""
    assert Parallelism(pp_size=3, dp_size=4, ep_size=4).send_spans == {8: 1, 9: 1}


# Nodes


def test_a_collective_inside_the_rack_needs_no_network_between_servers() -> None:
    """NVL72: 72 GPUs on the fast link. The same chips in nodes of 8 reduce over the network too."""
    step = Step(8.0, 1024.0)
    asked = get_model("llama-3.1-405b"), get_gpu("gb200-nvl72"), get_dtypes("bf16")
    rack = LLMAnalysis(*asked, Parallelism(tp_size=16), method="ideal")
    nodes = LLMAnalysis(*asked, Parallelism(tp_size=16, num_gpus_per_node=8), method="ideal")
    links = [
        {asked.gpu.link_over(op.span)[0] for _, op, _ in shortest(asked, step) if op.span > 1}
        for asked in (rack, nodes)
    ]
    assert links == [{"NVLink5+NVSwitch (rack)"}, {"NVLink5+NVSwitch (rack)", "inter-node"}]
    assert nodes.seconds(step) > rack.seconds(step)


def test_a_pair_reaches_further_over_pcie() -> None:
    """a100-pcie-80gb: bridges join pairs; four GPUs reduce over PCIe, and sixteen over the network too."""
    for tp, slowest in ((2, "NVLink3 bridge (pair) else PCIe4"), (4, "PCIe"), (16, "inter-node")):
        timed = shortest(laid_out("llama-2-7b", "a100-pcie-80gb", tp_size=tp), Step(1.0, 16.0))
        assert get_gpu("a100-pcie-80gb").link_over(max(op.span for _, op, _ in timed))[0] == slowest


@given(node=st.sampled_from([1, 2, 4]), tp=st.sampled_from([2, 4, 8, 16]), s=prompts)
def test_larger_nodes_are_never_slower(node: int, tp: int, s: int) -> None:
    step = Step(4.0, float(s))
    small, large = (laid_out(tp_size=tp, num_gpus_per_node=n).seconds(step) for n in (node, 2 * node))
    assert large <= small * (1 + ROUNDING)


def test_a_group_that_does_not_fill_its_nodes_reduces_over_the_network_too() -> None:
    """12 GPUs in nodes of 8 take two nodes, as 6 and 6: each sends 10/6 of the message inside, and then 1/6 of it."""
    inside, across = all_reduce("sum", 6.0, 12, node=8)
    assert (inside.span, inside.wire_bytes) == (6, 10)
    assert (across.span, across.wire_bytes, across.messages) == (12, 1, 1)
    step = Step(1.0, 512.0)
    for tp in (4, 8):
        uneven, one = (laid_out(tp_size=tp, num_gpus_per_node=node).seconds(step) for node in (3, 8))
        assert uneven > one


# Experts


def test_experts_inside_the_group_need_no_exchange() -> None:
    """All tensor-parallel GPUs have all tokens; the all-reduce that ends the layer adds up the experts' outputs."""
    step = Step(8.0, 256.0)
    for ep in (1, 2, 4):
        timed = shortest(laid_out("mixtral-8x7b", tp_size=4, ep_size=ep), step)
        assert not [op for _, op, _ in timed if op.kind == "all_to_all"]


def test_experts_of_replicas_get_their_tokens_over_the_link() -> None:
    """8 replicas of attention, experts spread over all 8 GPUs: each holds 32 of 256, and sends 8 rows of each token.

    Of deepseek-v3's 7,168 numbers, in bf16, 7 of 8 go to other GPUs; the same on the way back. 58 layers have experts.
    """
    asked = laid_out("deepseek-v3", "h200-sxm-141gb", dp_size=8, ep_size=8)
    sent = [op for _, op, _ in shortest(asked, Step(16.0, 1.0, 1000.0, "decode")) if op.kind == "all_to_all"]
    assert [op.wire_bytes for op in sent] == [16 * 8 * 7168 * 2 * 7 / 8] * 2
    assert [op.count for op in sent] == [58, 58]
    answer = asked.inference(batch_size_per_gpu=16)
    assert answer.num_gpus == 8
    whole = laid_out("deepseek-v3", "h200-sxm-141gb").inference().weight_memory_per_gpu
    assert answer.weight_memory_per_gpu < whole / 5  # attention, dense layers and shared experts are on every GPU


def test_all_gpus_wait_for_the_one_with_an_expert_to_read() -> None:
    """mixtral-8x7b, one token on 8 GPUs of an expert each: 2 of them read theirs, whole; 1/4 each is no one's time."""
    one, spread = (
        sum(
            op.weight_bytes
            for _, op, _ in shortest(laid_out("mixtral-8x7b", tp_size=8, ep_size=ep), step)
            if op.kind == kind
        )
        for kind, step, ep in (("grouped_gemm", Step(1.0, 1.0, 9.0, "decode"), ep) for ep in (1, 8))
    )
    assert one == 2 / 8 * spread


def test_tokens_for_other_nodes_take_the_network_between_nodes() -> None:
    """32 GPUs in nodes of 8: a token goes once to each of 3 (1 - (3/4)^8) = 2.7 other nodes, and to 8 GPUs inside."""
    asked = laid_out("deepseek-v3", "h200-sxm-141gb", dp_size=32, ep_size=32)
    sent = {op.name: op for _, op, _ in shortest(asked, Step(4.0, 1.0, 100.0, "decode")) if op.kind == "all_to_all"}
    near, far = sent["experts_dispatch"], sent["experts_dispatch_inter_node"]
    assert far.wire_bytes / (4 * 7168 * 2) == pytest.approx(3 * (1 - 0.75**8))
    assert near.wire_bytes / (4 * 7168 * 2) == 8 * 7 / 8
    assert (near.span, far.span) == (8, 32)


# Impossible layouts


@pytest.mark.parametrize(
    ("model", "sizes", "complaint"),
    [
        ("llama-2-7b", {"ep_size": 2}, "llama-2-7b has no experts to spread"),
        ("mixtral-8x7b", {"ep_size": 3}, "ep_size 3 cannot spread the 8 experts .* over the 1 GPUs .*try 1"),
        ("mixtral-8x7b", {"dp_size": 4, "ep_size": 8}, "4 GPUs of tp_size 1 times dp_size 4; try 2 or 4"),
        ("llama-3.1-70b", {"tp_size": 7}, "does not divide the 64 attention heads of llama-3.1-70b; try 2, 4 or 8"),
        (
            "qwen2.5-7b",
            {"tp_size": 7},
            "neither divides nor is a multiple of the 4 KV heads of qwen2.5-7b; try 2, 4 or 28",
        ),
        ("qwen3.5-27b", {"tp_size": 12}, "divide the 16 linear_num_key_heads of qwen3.5-27b; try 4 or 8"),
        ("zamba2-7b", {"tp_size": 32}, "divide the 112 mamba_num_heads of zamba2-7b; try 8 or 16"),
        ("deepseek-v4-flash", {"tp_size": 16}, "divide the 8 o_groups of deepseek-v4-flash; try 4 or 8"),
        (
            "llama-2-7b",
            {"tp_size": 4, "num_gpus_per_node": 2},
            "4 GPUs need the inter-node bandwidth of l4-24gb, which is not known",
        ),
    ],
)
def test_an_impossible_layout_is_refused_with_the_nearest_possible(
    model: str, sizes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(Unsupported, match=complaint):
        laid_out(model, "l4-24gb", **sizes)


def test_published_rejects_expert_parallelism() -> None:
    with pytest.raises(Unsupported, match="published has no ep_size"):
        laid_out("mixtral-8x7b", "a100-sxm-80gb", "published", tp_size=2, ep_size=2)
