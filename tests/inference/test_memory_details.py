"""Memory that people trust: weights by class, the runtime's own, what fits; chunks, samples and drafts included."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_analysis import LLMAnalysis, Parallelism, get_dtypes, get_gpu, get_model
from llm_analysis.errors import BadValue, Unsupported
from llm_analysis.inference.estimate import Estimate
from llm_analysis.inference.memory import NCCL_BYTES, OVERHEAD
from llm_analysis.models.forward import num_params
from llm_analysis.physics.operators import PARTS

MODELS = ("llama-3.1-8b", "mistral-7b-v0.1", "gemma-3-4b", "mixtral-8x7b", "deepseek-v2-lite", "gpt-oss-20b")


def estimate(model: str, gpu: str = "h200-sxm-141gb", method: str = "ideal", **asked: Any) -> Estimate:
    sizes = {key: asked.pop(key) for key in list(asked) if key in Parallelism.model_fields}
    found = LLMAnalysis(
        get_model(model),
        get_gpu(gpu),
        get_dtypes("bf16"),
        Parallelism(**sizes),
        method=method,
    )
    return found.inference(**asked)


# Weights


def test_classes_of_weights_by_hand() -> None:
    """llama-3.1-8b, 32 layers of 4,096, 8 of 32 heads of 128 for keys and values, 14,336 wide, 128,256 tokens, bf16."""
    e = estimate("llama-3.1-8b")
    assert e.attention_weight_memory_per_gpu == 32 * (4096 * (32 + 2 * 8) * 128 + 4096 * 4096) * 2
    assert e.feed_forward_weight_memory_per_gpu == 32 * 3 * 4096 * 14336 * 2
    assert e.expert_weight_memory_per_gpu == 0
    assert e.embedding_weight_memory_per_gpu == 2 * 128256 * 4096 * 2
    assert e.norm_weight_memory_per_gpu == 65 * 4096 * 2


def test_experts_by_hand() -> None:
    """mixtral-8x7b: 8 experts of three matrices of 4,096 x 14,336 on each of 32 layers; the router is feed-forward."""
    e = estimate("mixtral-8x7b")
    assert e.expert_weight_memory_per_gpu == 32 * 8 * 3 * 4096 * 14336 * 2
    assert e.feed_forward_weight_memory_per_gpu == 32 * 4096 * 8 * 2


@pytest.mark.parametrize("model", [*MODELS, "opt-13b", "deepseek-v3", "qwen3-30b-a3b"])
@pytest.mark.parametrize("pp", [1, 2])
def test_classes_add_up(model: str, pp: int) -> None:
    e = estimate(model, pp_size=pp)
    parts = sum(getattr(e, f"{name}_weight_memory_per_gpu") for name in PARTS)
    assert parts == pytest.approx(e.weight_memory_per_gpu)
    if pp == 1:
        assert parts == pytest.approx(2 * num_params(get_model(model)), rel=2e-3)


# The runtime's own


def test_a_serving_process_holds_more_than_tensors() -> None:
    alone, shared = (estimate("llama-3.1-8b", method="calibrated", tp_size=t) for t in (1, 2))
    assert alone.runtime_memory_per_gpu == sum(OVERHEAD.values()) == 1.5e9
    assert shared.runtime_memory_per_gpu == 1.5e9 + NCCL_BYTES
    assert estimate("llama-3.1-8b").runtime_memory_per_gpu == 0
    held = alone.weight_memory_per_gpu + alone.kv_cache_memory_per_gpu + alone.activation_memory_per_gpu
    assert alone.memory_left_per_gpu == pytest.approx(alone.memory_per_gpu - held - 1.5e9)


def test_a_fraction_of_the_memory() -> None:
    """The rule of vLLM: what is below 0.9 of the memory and neither weights nor activations is cache."""
    whole, most = (estimate("llama-3.1-8b", gpu_memory_utilization=u) for u in (1, 0.9))
    assert whole.memory_left_per_gpu - most.memory_left_per_gpu == pytest.approx(0.1 * 141e9)
    assert most.max_batch_size_per_gpu < whole.max_batch_size_per_gpu
    assert most.memory_per_gpu == 141e9
    for wrong in (0.0, 1.1, -1.0):
        with pytest.raises(BadValue, match="gpu_memory_utilization must be"):
            estimate("llama-3.1-8b", gpu_memory_utilization=wrong)


# What fits


@given(
    model=st.sampled_from(MODELS),
    gpu=st.sampled_from(["h100-sxm-80gb", "l40s-48gb", "mi300x-192gb"]),
    b=st.integers(1, 200),
    s=st.integers(1, 3000),
    pp=st.sampled_from([1, 2, 3]),
    method=st.sampled_from(["ideal", "calibrated"]),
)
def test_the_longest_context_fits_and_one_token_more_does_not(
    model: str, gpu: str, b: int, s: int, pp: int, method: str
) -> None:
    def left(tokens: int) -> float:
        e = estimate(model, gpu, method, batch_size_per_gpu=b, seq_len=tokens - 32, pp_size=pp)
        return float(e.memory_left_per_gpu / e.memory_per_gpu)

    longest = estimate(model, gpu, method, batch_size_per_gpu=b, seq_len=s, pp_size=pp).max_context_len
    limit = get_model(model).max_position_embeddings
    assert 0 <= longest <= limit
    if longest:
        assert left(longest) >= -1e-9
    if longest < limit:
        assert left(max(longest, 32) + 1) < 1e-9


def test_the_longest_context_by_hand() -> None:
    """llama-3.1-8b on 24 GB: each token keeps 131,072 bytes, and while it is prefilled 2 x 4,096 for the stream and
    2 x (28,672 + 14,336) going through the activation between up, gate and down."""
    e = estimate("llama-3.1-8b", "l4-24gb", num_tokens_to_generate=1)
    room = 24e9 - e.weight_memory_per_gpu
    assert e.max_context_len == int((room + 94_208) // (131_072 + 94_208))


def test_chunks_bound_the_activations() -> None:
    whole, cut = (
        estimate("llama-3.1-8b", batch_size_per_gpu=8, seq_len=16000, prefill_chunk_size=c) for c in (None, 2048)
    )
    assert whole.activation_memory_per_gpu / cut.activation_memory_per_gpu == pytest.approx(8 * 16000 / 2048)
    assert cut.kv_cache_memory_per_gpu == whole.kv_cache_memory_per_gpu
    assert cut.max_batch_size_per_gpu > whole.max_batch_size_per_gpu
    assert cut.max_context_len > whole.max_context_len


@given(model=st.sampled_from(MODELS), b=st.integers(1, 300), s=st.integers(1, 4000), chunk=st.integers(1, 9000))
def test_the_largest_batch_fits_with_chunks_too(model: str, b: int, s: int, chunk: int) -> None:
    def asked(batch: int) -> Estimate:
        return estimate(model, batch_size_per_gpu=batch, seq_len=s, prefill_chunk_size=chunk)

    largest = asked(b).max_batch_size_per_gpu
    # Between two batches of which the smaller fills no chunk, whole prompts or tokens of one are in flight.
    if largest and s <= chunk:
        assert asked(largest).memory_left_per_gpu >= -1e-6 * 141e9


def test_samples_share_the_cache_of_the_prompt() -> None:
    """llama-3.1-8b: 1,000 tokens once, and 24 for each of 4 samples; mistral's window keeps 4,096 of each sample."""
    e = estimate("llama-3.1-8b", seq_len=1000, num_tokens_to_generate=24, num_samples=4)
    assert e.kv_cache_memory_per_gpu == (1000 + 4 * 24) * 131_072
    e = estimate("mistral-7b-v0.1", seq_len=4000, num_tokens_to_generate=5000, num_samples=4)
    assert e.kv_cache_memory_per_gpu == 4 * 4096 * 131_072


def test_a_draft_model_is_held_too() -> None:
    model, draft = get_model("llama-3.1-70b"), get_model("llama-3.2-1b")
    asked = LLMAnalysis(model, get_gpu("h200-sxm-141gb"), get_dtypes("fp8"), method="ideal", draft_config=draft)
    plain, drafted = asked.inference(), asked.inference(num_draft_tokens=3, acceptance_rate=0.7)
    alone = LLMAnalysis(draft, get_gpu("h200-sxm-141gb"), get_dtypes("fp8"), method="ideal").inference()
    for name in ("weight_memory_per_gpu", "kv_cache_memory_per_gpu"):
        assert getattr(drafted, name) == pytest.approx(getattr(plain, name) + getattr(alone, name))


# Formats


@pytest.mark.parametrize(("model", "size"), [("gpt-oss-120b", 60.8), ("gpt-oss-20b", 12.8)])
def test_a_quantised_checkpoint_has_the_size_that_is_published(model: str, size: float) -> None:
    """Experts in mxfp4, 4.25 bits a weight, the rest in bf16: sizes in GiB of OpenAI's model card, table 1 (2025)."""
    asked = LLMAnalysis(get_model(model), get_gpu("h100-sxm-80gb"), method="ideal")
    answer = asked.inference()
    assert answer.weight_memory_per_gpu == pytest.approx(size * 2**30, rel=0.005)
    assert answer.dtype_name == "w16a16e16+mxfp4"
    assert "no dtype_name was given: w16a16e16+mxfp4, as the checkpoint is published" in answer.notes
    assert any("no fp4 rate: multiplied at its fp16 rate" in note for note in answer.notes)


def test_the_user_decides_on_the_format() -> None:
    model, gpu = get_model("gpt-oss-20b"), get_gpu("h100-sxm-80gb")
    wide, same, other = (
        LLMAnalysis(model, gpu, get_dtypes(name), method="ideal").inference() for name in ("bf16", "mxfp4", "fp8")
    )
    assert wide.weight_memory_per_gpu == pytest.approx(2 * num_params(model), rel=1e-3)
    assert same.dtype_name == "w16a16e16+mxfp4"
    assert other.attention_weight_memory_per_gpu == pytest.approx(wide.attention_weight_memory_per_gpu / 2, rel=0.01)
    mixed = LLMAnalysis(model, gpu, get_dtypes("fp8+int4"), method="ideal").inference()
    assert mixed.attention_weight_memory_per_gpu == other.attention_weight_memory_per_gpu
    assert mixed.expert_weight_memory_per_gpu == pytest.approx(wide.expert_weight_memory_per_gpu * 4.125 / 16, rel=0.01)
    with pytest.raises(Unsupported, match=r"llama-3\.1-8b has no experts"):
        LLMAnalysis(get_model("llama-3.1-8b"), gpu, get_dtypes("bf16+mxfp4"))


@pytest.mark.parametrize(
    ("name", "bits"), [("fp6", 6.25), ("w4a8", 4.125), ("w8a16", 8), ("nvfp4", 4.5), ("mxfp4", 4.25)]
)
def test_bits_of_a_weight_count_its_groups_scale(name: str, bits: float) -> None:
    e = LLMAnalysis(get_model("llama-2-7b"), get_gpu("b200-sxm"), get_dtypes(name), method="ideal").inference()
    assert e.feed_forward_weight_memory_per_gpu == 32 * 3 * 4096 * 11008 * bits / 8
