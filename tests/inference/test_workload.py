"""Serving options against laws and against cases computed by hand."""

from math import isclose
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_analysis import LLMAnalysis, Parallelism, Step, estimate, get_dtypes, get_gpu, get_model
from llm_analysis.errors import BadValue, Unsupported
from llm_analysis.inference.estimate import Estimate
from llm_analysis.inference.passes import mixed_step_ops
from llm_analysis.inference.question import own_draft
from llm_analysis.inference.runtimes import DEFAULT_RUNTIME, NONE, get_runtime
from llm_analysis.inference.scenario import Scenario
from llm_analysis.inference.workload import Workload, prefill_passes
from llm_analysis.models.forward import forward, num_params

MODELS = ("llama-3.1-8b", "gemma-2-9b", "mixtral-8x7b", "deepseek-v2-lite")
models = st.sampled_from(MODELS)
methods = st.sampled_from(["ideal", "calibrated"])
batches, prompts, chunks = st.integers(1, 64), st.integers(2, 6000), st.integers(16, 9000)


def analysis(model: str = "llama-3.1-8b", method: str = "ideal", draft: str = "", **sizes: int) -> LLMAnalysis:
    drafting = get_model(draft) if draft else None
    formats, layout = get_dtypes("bf16"), Parallelism(**sizes)
    return LLMAnalysis(
        get_model(model), get_gpu("h200-sxm-141gb"), formats, layout, method=method, draft_config=drafting
    )


def asked(model: str = "llama-3.1-8b", method: str = "ideal", **question: Any) -> Estimate:
    return analysis(model, method).inference(**question)


# Cached prefix


@given(model=models, method=methods, b=batches, s=prompts, data=st.data())
def test_a_longer_prefix_is_never_slower(model: str, method: str, b: int, s: int, data: st.DataObject) -> None:
    """Every operator gets shorter, except the indexer and MLA's expansion of cached rows, which process all tokens."""
    short, long = sorted(data.draw(st.tuples(st.integers(0, s - 1), st.integers(0, s - 1))))
    question = {"batch_size_per_gpu": b, "seq_len": s, "prefill_chunk_size": 0}
    none, some = (asked(model, method, **question, cached_prefix_len=p) for p in (short, long))
    assert some.prefill_latency <= none.prefill_latency * (1 + 1e-12)
    assert some.decode_latency == none.decode_latency
    assert some.kv_cache_memory_per_gpu == none.kv_cache_memory_per_gpu


def test_a_cached_prefix_saves_the_flop_of_its_prefill() -> None:
    """llama-3.1-8b: 1,000 tokens after 7,000 take the FLOP of 8,000 minus those of 7,000, except the output head."""
    flops = {}
    for prefix, s in ((0, 7000), (0, 8000), (7000, 8000)):
        e = asked(seq_len=s, cached_prefix_len=prefix)
        flops[prefix, s] = sum(op.flops for op in e.operators if op.phase == "prefill" and op.name != "output_head")
    assert isclose(flops[7000, 8000], flops[0, 8000] - flops[0, 7000])


# Chunked prefill


@given(b=batches, s=prompts, chunk=chunks, prefix=st.integers(0, 5000))
def test_chunks_compute_every_token_once_and_stay_within_their_size(b: int, s: int, chunk: int, prefix: int) -> None:
    workload = Workload(batch_size_per_gpu=b, seq_len=s, prefill_chunk_size=chunk, cached_prefix_len=min(prefix, s - 1))
    passes = list(prefill_passes(workload))
    assert sum(times * step.rows for times, step in passes) == pytest.approx(b * workload.new_prompt_tokens)
    assert max(step.rows for _, step in passes) <= chunk * (1 + 1e-12)
    assert max(step.total for _, step in passes) <= s + 1e-6


@given(model=models, method=methods, b=batches, s=prompts, chunk=chunks)
def test_chunks_are_never_faster_than_one_pass(model: str, method: str, b: int, s: int, chunk: int) -> None:
    whole, cut = (
        asked(model, method, batch_size_per_gpu=b, seq_len=s, prefill_chunk_size=size)
        for size in (b * s, min(chunk, b * s))
    )
    assert cut.prefill_latency >= whole.prefill_latency * (1 - 1e-9)
    assert cut.decode_latency == whole.decode_latency


def test_chunks_cost_little_if_compute_bound() -> None:
    """8 prompts of 16,384 tokens in chunks of 8,192: reading the weights 16 times is hidden behind the FLOP."""
    whole, cut = (asked(batch_size_per_gpu=8, seq_len=16384, prefill_chunk_size=chunk) for chunk in (0, 8192))
    assert 1 <= cut.prefill_latency / whole.prefill_latency < 1.03


def test_a_token_beyond_the_chunk_shares_a_pass_with_those_of_other_prompts() -> None:
    """Sixteen prompts of 2,049 tokens in chunks of 2,048 take one pass of 16 tokens more, not 16 passes of one."""
    question: dict[str, Any] = {"batch_size_per_gpu": 16, "prefill_chunk_size": 2048, "num_tokens_to_generate": 1}
    fits, beyond = (
        estimate("llama-3.1-8b", "h100-sxm-80gb", seq_len=s, **question).prefill_latency for s in (2048, 2049)
    )
    assert fits < beyond < fits * (1 + 1.5 / 16)


def test_chunks_fill_a_pipeline() -> None:
    """64 chunks on 4 stages of 8 layers take 67 slots of a quarter of a chunk's time each, not 256."""
    question = {"seq_len": 131072, "num_tokens_to_generate": 1, "prefill_chunk_size": 2048}
    one, four = (analysis(pp_size=pp).inference(**question) for pp in (1, 4))  # type: ignore[arg-type]
    assert 1 / 4 < four.prefill_latency / one.prefill_latency < 1.05 * 67 / 256


@given(model=models, method=methods, b=batches, s=prompts, chunk=chunks, pp=st.integers(2, 5))
def test_chunks_take_at_least_their_share_of_the_stages(
    model: str, method: str, b: int, s: int, chunk: int, pp: int
) -> None:
    alone, together = (
        analysis(model, method, pp_size=n).inference(batch_size_per_gpu=b, seq_len=s, prefill_chunk_size=chunk)
        for n in (1, pp)
    )
    assert together.prefill_latency * pp >= alone.prefill_latency * (1 - 1e-9)


# Several samples per prompt


def test_samples_share_one_prefill_and_decode_separately() -> None:
    one, four = (asked(batch_size_per_gpu=2, seq_len=1000, num_samples=n) for n in (1, 4))
    eight = asked(batch_size_per_gpu=8, seq_len=1000)
    assert four.prefill_latency == one.prefill_latency
    assert four.decode_latency == eight.decode_latency
    assert four.decode_tokens_per_sec == eight.decode_tokens_per_sec
    assert one.kv_cache_memory_per_gpu < four.kv_cache_memory_per_gpu < eight.kv_cache_memory_per_gpu


# Speculative decoding


def speculated(model: str, draft: str, k: int, a: float, method: str = "ideal", **question: int) -> Estimate:
    return analysis(model, method, draft).inference(num_draft_tokens=k, acceptance_rate=a, **question)  # type: ignore[arg-type]


def test_tokens_per_step_by_hand() -> None:
    """Leviathan et al. (2023), equation 1: (1 - a^(k+1)) / (1 - a); k + 1 for a = 1."""
    for k, a, expected in ((4, 0.8, (1 - 0.8**5) / 0.2), (3, 0.0, 1.0), (5, 1.0, 6.0)):
        assert Workload(num_draft_tokens=k, acceptance_rate=a).tokens_per_step == pytest.approx(expected)
    assert Workload().tokens_per_step == 1


def test_a_step_with_a_draft_is_k_draft_passes_and_one_check() -> None:
    """One decode step of one sequence with 4 drafted tokens, at a context of 512."""
    big, small = analysis("llama-3.1-70b", "calibrated"), analysis("llama-3.2-1b", "calibrated")
    check, draft = big.seconds(Step(1.0, 5.0, 512.0, "decode")), small.seconds(Step(1.0, 1.0, 512.0, "decode"))
    engine = get_runtime(DEFAULT_RUNTIME)
    draft -= engine.step_seconds + engine.sequence_seconds  # the host prepares a step once, not for each draft pass
    answer = speculated("llama-3.1-70b", "llama-3.2-1b", 4, 0.8, "calibrated", seq_len=512, num_tokens_to_generate=2)
    assert answer.decode_latency == pytest.approx((check + 4 * draft) * 0.2 / (1 - 0.8**5))
    names = {op.name for op in answer.operators if op.phase == "decode"}
    assert {"qkv", "draft_qkv"} <= names
    first = big.seconds(Step(1.0, 512.0)) + small.seconds(Step(1.0, 512.0))
    assert answer.prefill_latency == pytest.approx(first)


@given(k=st.integers(1, 8), a=st.floats(0, 0.9), more=st.floats(0, 0.1), b=batches)
def test_a_better_draft_is_never_slower(k: int, a: float, more: float, b: int) -> None:
    slow, fast = (speculated("llama-3.1-70b", "llama-3.2-1b", k, rate, batch_size_per_gpu=b) for rate in (a, a + more))
    assert fast.decode_latency <= slow.decode_latency * (1 + 1e-12)


def test_speculation_saves_time_for_one_sequence_and_not_for_a_full_batch() -> None:
    def gain(batch: int) -> float:
        plain = asked("llama-3.1-8b", batch_size_per_gpu=batch)
        drafted = speculated("llama-3.1-8b", "llama-3.2-1b", 4, 0.7, batch_size_per_gpu=batch)
        return float(plain.decode_latency / drafted.decode_latency)

    assert gain(1) > 1.5
    assert gain(1024) < 1


def test_mtp_uses_an_additional_layer_of_the_model() -> None:
    """deepseek-v3 predicts a second token with one more layer of the kind of its last layer, with experts."""
    model = get_model("deepseek-v3")
    draft = own_draft(model)
    assert (draft.num_hidden_layers, draft.mlp_layer_types) == (1, model.mlp_layer_types[-1:])
    assert 11e9 < num_params(draft) < 14e9  # 11.5e9 in the layer; embedding and head are shared with the model
    assert num_params(model) > 600e9
    with pytest.raises(Unsupported, match=r"llama-3\.1-8b has no layer for multi-token prediction"):
        own_draft(get_model("llama-3.1-8b"))


@pytest.mark.parametrize(("name", "draft"), [("llama-3.1-8b", "eagle"), ("deepseek-v3", "mtp")])
def test_a_model_that_was_counted_before_gives_the_same_draft(name: str, draft: str) -> None:
    model = get_model(name)
    first = num_params(own_draft(model, draft))
    assert num_params(model) > first
    assert num_params(own_draft(model, draft)) == first


def test_a_draft_runs_inside_the_step_of_the_model() -> None:
    """The scheduler's time of a step is counted once, for any number of drafted tokens."""
    slow = NONE.model_copy(update={"name": "slow", "step_seconds": 1.0, "layer_seconds": 1e-6})
    model, draft, h200 = get_model("llama-3.1-8b"), get_model("llama-3.2-1b"), get_gpu("h200-sxm-141gb")
    found = LLMAnalysis(model, h200, get_dtypes("bf16"), method="calibrated", runtime=slow, draft_config=draft)
    answer = found.inference(num_draft_tokens=4, acceptance_rate=0.0, num_tokens_to_generate=2)
    assert 1.0 < answer.decode_latency < 1.1
    assert "draft_host_layer" in {op.name for op in answer.operators if op.phase == "decode"}


def test_ngrams_cost_the_check_alone() -> None:
    parts = get_model("llama-3.1-8b"), get_gpu("h200-sxm-141gb"), get_dtypes("bf16")
    found = LLMAnalysis(*parts, method="ideal", draft_config="ngram")
    answer = found.inference(num_draft_tokens=3, acceptance_rate=0.0, num_tokens_to_generate=2, seq_len=512)
    assert answer.decode_latency == pytest.approx(found.seconds(Step(1.0, 4.0, 512.0, "decode")))
    assert answer.draft_model_name == "ngram"
    assert answer.weight_memory_per_gpu == found.inference().weight_memory_per_gpu


def test_an_eagle_head_has_the_published_number_of_weights() -> None:
    """EAGLE (Li et al. 2024, table 2): 0.24 B for LLaMA2-Chat 7B, embedding and head being the model's (recalled)."""
    assert num_params(own_draft(get_model("llama-2-7b"), "eagle")) == pytest.approx(0.24e9, rel=0.03)
    head = own_draft(get_model("mixtral-8x7b"), "eagle")
    assert (head.num_hidden_layers, head.num_experts) == (1, 0)


def drafted(draft: str, layout: Parallelism, model: str = "qwen3-30b-a3b") -> Parallelism:
    """Return the layout of a draft model for a layout of the model."""
    parts = get_model(model), get_gpu("h200-sxm-141gb"), get_dtypes("bf16"), layout
    found = Scenario.of(*parts, draft=get_model(draft)).of_draft()
    assert found
    return found.layout


def test_a_draft_with_indivisible_heads_runs_unsplit_on_each_gpu() -> None:
    eight = Parallelism(tp_size=8)
    assert drafted("llama-3.2-1b", eight, "llama-3.1-8b").tp_size == 8
    assert drafted("qwen2.5-0.5b", eight, "llama-3.1-8b").tp_size == 1  # 14 heads
    uneven = Parallelism(tp_size=4, ep_size=4, expert_imbalance=1.5)
    dense, sparse = drafted("llama-3.2-1b", uneven), drafted("qwen3-30b-a3b", uneven)
    assert (dense.tp_size, dense.ep_size, dense.expert_imbalance) == (4, 1, 1.0)
    assert (sparse.tp_size, sparse.ep_size, sparse.expert_imbalance) == (4, 4, 1.5)
    with pytest.raises(Unsupported, match="needs pp_size 1"):
        drafted("llama-3.2-1b", Parallelism(pp_size=2), "llama-3.1-8b")


# Disaggregated prefill and decode


def test_disaggregation_sends_the_cache_between_servers() -> None:
    """llama-3.1-8b: 4 prompts of 1,000 tokens of 131,072 bytes over 50 GB/s; each of two GPUs sends half."""
    for tp in (1, 2):
        together, apart = (
            analysis(tp_size=tp).inference(batch_size_per_gpu=4, seq_len=1000, disaggregated=d) for d in (False, True)
        )
        sent = 4 * 1000 * 131_072 / tp / 50e9
        assert apart.prefill_latency - together.prefill_latency == pytest.approx(sent)
        assert apart.decode_latency == together.decode_latency
        assert (together.num_gpus, apart.num_gpus) == (tp, 2 * tp)


def test_disaggregation_needs_an_inter_node_bandwidth() -> None:
    with pytest.raises(
        Unsupported, match="disaggregation needs the inter-node bandwidth of l4-24gb, which is not known"
    ):
        LLMAnalysis(get_model("llama-3.1-8b"), get_gpu("l4-24gb"), method="ideal").inference(disaggregated=True)


# Invalid questions


@pytest.mark.parametrize(
    ("question", "complaint"),
    [
        ({"cached_prefix_len": 512}, "cached_prefix_len 512 must be below seq_len 512"),
        ({"cached_prefix_len": -1}, "cached_prefix_len must be greater than or equal to 0"),
        ({"prefill_chunk_size": -1}, "prefill_chunk_size must be greater than 0"),
        ({"num_samples": 0}, "num_samples must be greater than 0"),
        ({"num_draft_tokens": 3}, "give num_draft_tokens and acceptance_rate together"),
        ({"acceptance_rate": 0.5}, "give num_draft_tokens and acceptance_rate together"),
        ({"num_draft_tokens": 3, "acceptance_rate": 1.5}, "acceptance_rate must be less than or equal to 1"),
        ({"num_draft_tokens": 3, "acceptance_rate": 0.5}, "needs a draft model"),
        ({"use_kv_cache": False, "num_samples": 2}, "num_samples needs the KV cache"),
    ],
)
def test_invalid_serving_options_are_rejected(question: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadValue, match=complaint):
        asked(**question)


@pytest.mark.parametrize(
    "question",
    [
        {"num_samples": 2},
        {"cached_prefix_len": 2},
        {"prefill_chunk_size": 64},
        {"disaggregated": True},
        {"num_draft_tokens": 2, "acceptance_rate": 0.5},
        {"gpu_memory_utilization": 0.9},
    ],
)
def test_published_rejects_serving_options(question: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match=f"method published has no {next(iter(question))}"):
        analysis("llama-2-7b", "published").inference(**question)


# Continuous batching: decode steps that also prefill prompts


@given(model=models, b=batches, s=prompts)
def test_a_mixed_step_does_the_work_of_both_and_reads_dense_weights_once(model: str, b: int, s: int) -> None:
    asked = analysis(model)
    parts = asked.model, asked.dtypes, asked.layout
    decode = forward(parts[0], Step(float(b), 1.0, 500.0, "decode"), *parts[1:])
    prefill = forward(parts[0], Step(1.0, float(s)), *parts[1:])
    both = mixed_step_ops(decode, prefill)
    for quantity in ("flops", "kv_bytes", "wire_bytes"):
        alone = sum(float(op.count * getattr(op, quantity)) for op in (*decode, *prefill))
        assert sum(float(op.count * getattr(op, quantity)) for op in both) == pytest.approx(alone, rel=1e-12)
    dense = {op.name: float(op.weight_bytes) for op in decode if op.kind == "gemm"}
    shared = {op.name for op in prefill} & set(dense)
    assert {op.name: float(op.weight_bytes) for op in both if op.name in shared} == {n: dense[n] for n in shared}
