"""The memory of one GPU against numbers computed by hand; what fits, and changes that make a model fit."""

import re
from typing import Any

import pytest
from conftest import estimate
from hypothesis import given
from hypothesis import strategies as st

from llm_analysis import Estimate, LLMAnalysis, Parallelism, get_dtypes, get_gpu, get_model
from llm_analysis.errors import BadValue, Unsupported
from llm_analysis.inference.memory import NCCL_BYTES, OVERHEAD, Memory
from llm_analysis.inference.scenario import Scenario
from llm_analysis.inference.workload import Workload
from llm_analysis.models.forward import num_params
from llm_analysis.physics.operators import PARTS

MODELS = ("llama-3.1-8b", "mistral-7b-v0.1", "gemma-3-4b", "mixtral-8x7b", "deepseek-v2-lite", "gpt-oss-20b")

# Bytes that one token of one sequence adds to the cache: layers * 2 (K and V) * KV heads * head size * bytes.
KV_BYTES_PER_TOKEN = [
    ("llama-2-7b", "w16a16e16", 524_288),  # 32 * 2 * 32 * 128 * 2
    ("llama-3.1-8b", "w16a16e16", 131_072),  # 32 * 2 * 8 * 128 * 2
    ("llama-3.1-70b", "w16a16e16", 327_680),  # 80 * 2 * 8 * 128 * 2
    ("llama-3.1-405b", "w16a16e16", 516_096),  # 126 * 2 * 8 * 128 * 2
    ("test-13b", "w16a16e16", 819_200),  # 40 * 2 * 40 * 128 * 2
    ("qwen2.5-7b", "w16a16e16", 57_344),  # 28 * 2 * 4 * 128 * 2
    ("mixtral-8x7b", "w16a16e16", 131_072),  # 32 * 2 * 8 * 128 * 2
    ("llama-3.1-8b", "w16a16e16kv8", 65_536),
    ("llama-3.1-8b", "fp8", 65_536),
    ("llama-3.1-8b", "int4", 131_072),  # only the weights have 4 bits
]


@pytest.mark.parametrize(("model", "dtype", "per_token"), KV_BYTES_PER_TOKEN)
def test_kv_bytes_per_token(model: str, dtype: str, per_token: int) -> None:
    answer = estimate(model, dtype=dtype, batch_size_per_gpu=3, seq_len=1000, num_tokens_to_generate=24)
    assert answer.kv_cache_memory_per_gpu == 3 * 1024 * per_token


def test_kv_cache_dtype_bytes_overrides_the_name() -> None:
    whole, half = (
        LLMAnalysis(get_model("llama-3.1-8b"), get_gpu("h100-sxm-80gb"), kv_cache_dtype_bytes=width).inference()
        for width in (2, 1)
    )
    assert whole.kv_cache_memory_per_gpu == 2 * half.kv_cache_memory_per_gpu


def test_a_window_limits_the_cache() -> None:
    """mistral-7b-v0.1: 32 layers, 8 KV heads of 128, a window of 4,096 tokens on each layer."""
    row, window = 32 * 2 * 8 * 128 * 2, 4096
    short, full, long = (
        estimate("mistral-7b-v0.1", seq_len=s, num_tokens_to_generate=96).kv_cache_memory_per_gpu
        for s in (1904, 4000, 20000)
    )
    assert short == 2000 * row
    assert full == long == window * row


@pytest.mark.parametrize("model", ["llama-2-7b", "llama-3.1-70b", "opt-13b", "qwen2.5-0.5b", "mixtral-8x7b"])
def test_weights_are_two_bytes_per_parameter(model: str) -> None:
    """Tied embeddings are stored once: llama is untied, opt and the small qwen are tied."""
    assert estimate(model).weight_memory_per_gpu == pytest.approx(2 * num_params(get_model(model)), rel=1e-3)
    assert estimate(model).num_params_total == num_params(get_model(model))


def test_int4_weights_include_scales_and_exclude_embedding_and_head() -> None:
    """llama-3.1-8b as int4: 4.125 bits for the layers' matrices, 16 for the two tables of 128,256 x 4,096."""
    m = get_model("llama-3.1-8b")
    tables, norms = 2 * 128_256 * 4096, 65 * 4096
    matrices = num_params(m) - tables - norms
    expected = matrices * (4 + 16 / 128) / 8 + (tables + norms) * 2
    assert estimate("llama-3.1-8b", dtype="int4").weight_memory_per_gpu == pytest.approx(expected, rel=1e-9)
    assert estimate("llama-3.1-8b", dtype="fp8").weight_memory_per_gpu == pytest.approx(
        matrices + (tables + norms) * 2, rel=1e-3
    )


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_tensor_parallelism_divides_weights_and_cache(tp: int) -> None:
    alone, shared = estimate("llama-3.1-70b"), estimate("llama-3.1-70b", tp_size=tp)
    assert shared.kv_cache_memory_per_gpu * tp == alone.kv_cache_memory_per_gpu
    # Every GPU holds the norms: 161 of 8,192 weights in 70 billion.
    assert shared.weight_memory_per_gpu * tp == pytest.approx(alone.weight_memory_per_gpu, rel=2e-4)


def test_more_gpus_than_kv_heads_replicate_the_cache() -> None:
    eight, sixteen = (estimate("llama-2-70b", tp_size=t) for t in (8, 16))
    assert eight.kv_cache_memory_per_gpu == sixteen.kv_cache_memory_per_gpu
    assert eight.weight_memory_per_gpu / 2 < sixteen.weight_memory_per_gpu < eight.weight_memory_per_gpu


def test_the_memory_of_a_pipeline_is_that_of_its_fullest_stage() -> None:
    one, two = estimate("llama-3.1-8b"), estimate("llama-3.1-8b", pp_size=2)
    assert two.kv_cache_memory_per_gpu == one.kv_cache_memory_per_gpu / 2
    assert one.weight_memory_per_gpu / 2 <= two.weight_memory_per_gpu < one.weight_memory_per_gpu * 0.55
    replicas = estimate("llama-3.1-8b", dp_size=4)
    assert replicas.weight_memory_per_gpu == one.weight_memory_per_gpu


def test_the_first_and_last_stage_both_store_a_tied_embedding() -> None:
    """qwen2.5-0.5b: 151,936 x 896 weights, stored once on one GPU, twice in a pipeline."""
    table = 2 * 151_936 * 896
    one, two = estimate("qwen2.5-0.5b"), estimate("qwen2.5-0.5b", pp_size=2)
    assert 2 * two.weight_memory_per_gpu == pytest.approx(one.weight_memory_per_gpu + table, rel=1e-3)


sizes = st.integers(1, 512)


@given(b=sizes, s=st.integers(1, 8000), n=sizes, more=sizes)
def test_memory_grows_with_batch_prompt_and_generation(b: int, s: int, n: int, more: int) -> None:
    def held(batch: int, prompt: int, tokens: int) -> tuple[float, float, float]:
        e = estimate("llama-3.1-8b", batch_size_per_gpu=batch, seq_len=prompt, num_tokens_to_generate=tokens)
        return e.weight_memory_per_gpu, e.kv_cache_memory_per_gpu, e.activation_memory_per_gpu

    weights, cache, activations = held(b, s, n)
    for bigger in (held(b + more, s, n), held(b, s + more, n), held(b, s, n + more)):
        assert bigger[0] == weights
        assert bigger[1] > cache
        assert bigger[2] >= activations
    assert held(2 * b, s, n)[1] == 2 * cache


@given(
    model=st.sampled_from(["llama-2-7b", "llama-3.1-70b", "mistral-7b-v0.1", "mixtral-8x7b"]),
    gpu=st.sampled_from(["h100-sxm-80gb", "a100-sxm-80gb", "mi300x-192gb"]),
    b=st.integers(1, 3000),
    s=st.integers(1, 4000),
    tp=st.sampled_from([1, 2, 8]),
    pp=st.sampled_from([1, 3]),
)
def test_the_largest_batch_fits_and_one_more_does_not(model: str, gpu: str, b: int, s: int, tp: int, pp: int) -> None:
    def asked(batch: int) -> Estimate:
        return estimate(model, gpu, batch_size_per_gpu=batch, seq_len=s, tp_size=tp, pp_size=pp)

    answer = asked(b)
    largest = answer.max_batch_size_per_gpu
    assert answer.fits == (answer.memory_left_per_gpu >= 0) == (b <= largest)
    # If the last byte decides, a division may round to the next whole number.
    assert abs(asked(b + 1).max_batch_size_per_gpu - largest) <= 1
    if largest:
        assert asked(largest).memory_left_per_gpu >= -1e-6 * answer.memory_per_gpu
    assert not asked(largest + 1).fits or asked(largest + 1).memory_left_per_gpu < 1e-6 * answer.memory_per_gpu


@given(b=sizes, s=st.integers(1, 4000), tp=st.sampled_from([1, 2, 4, 8]))
def test_memory_left_is_the_total_minus_all_parts(b: int, s: int, tp: int) -> None:
    e = estimate("llama-3.1-8b", "a100-sxm-40gb", batch_size_per_gpu=b, seq_len=s, tp_size=tp)
    held = e.weight_memory_per_gpu + e.kv_cache_memory_per_gpu + e.activation_memory_per_gpu
    assert e.memory_left_per_gpu == pytest.approx(e.memory_per_gpu - held, abs=1.0)
    assert e.memory_per_gpu == 40e9
    assert e.activation_memory_per_gpu > 0


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


# Runtime overhead


def test_calibrated_adds_the_overhead_of_a_serving_process() -> None:
    alone, shared = (estimate("llama-3.1-8b", method="calibrated", tp_size=t) for t in (1, 2))
    assert alone.runtime_memory_per_gpu == sum(OVERHEAD.values()) == 1.5e9
    assert shared.runtime_memory_per_gpu == 1.5e9 + NCCL_BYTES
    assert estimate("llama-3.1-8b").runtime_memory_per_gpu == 0
    held = alone.weight_memory_per_gpu + alone.kv_cache_memory_per_gpu + alone.activation_memory_per_gpu
    assert alone.memory_left_per_gpu == pytest.approx(0.9 * alone.memory_per_gpu - held - 1.5e9)


def test_gpu_memory_utilization_limits_the_cache_as_in_vllm() -> None:
    """vLLM gives the cache 0.9 of the memory minus weights and activations."""
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
        e = estimate(model, gpu, method=method, batch_size_per_gpu=b, seq_len=tokens - 32, pp_size=pp)
        return float(e.memory_left_per_gpu / e.memory_per_gpu)

    longest = estimate(model, gpu, method=method, batch_size_per_gpu=b, seq_len=s, pp_size=pp).max_context_len
    limit = get_model(model).max_position_embeddings
    assert 0 <= longest <= limit
    if longest:
        assert left(longest) >= -1e-9
    if longest < limit:
        assert left(max(longest, 32) + 1) < 1e-9


@pytest.mark.parametrize(
    ("model", "question"),
    [
        ("deepseek-v3.2", {"tp_size": 16, "batch_size_per_gpu": 8}),
        ("minimax-m3", {"tp_size": 4, "pp_size": 2, "batch_size_per_gpu": 51}),
        ("deepseek-v2-lite", {"batch_size_per_gpu": 32, "prefill_chunk_size": 512}),
    ],
)
def test_the_longest_context_counts_what_a_long_prompt_expands_or_scores(model: str, question: dict[str, Any]) -> None:
    """An indexer scores the whole context, a chunk of latent attention expands it: more bytes for each row."""
    longest = int(estimate(model, **question, seq_len=100, num_tokens_to_generate=1).max_context_len)
    assert 0 < longest < get_model(model).max_position_embeddings
    at_limit, beyond = (
        estimate(model, **question, seq_len=tokens - 1, num_tokens_to_generate=1).fits
        for tokens in (longest, longest + 1)
    )
    assert at_limit
    assert not beyond


def test_a_cached_prefix_that_context_parallel_ranks_gather_does_not_shorten_the_longest_context() -> None:
    """The bytes of a new token fall as there are more of them, since all of them share what is gathered."""
    model, layout = get_model("llama-2-13b"), Parallelism(pp_size=3, cp_size=4)
    scenario = Scenario.of(model, get_gpu("ascend-910b4-32gb"), get_dtypes("fp8"), layout, method="ideal")
    asked = Workload(batch_size_per_gpu=457, seq_len=270, num_tokens_to_generate=1, cached_prefix_len=214)
    longest = int(Memory(scenario, asked).max_context)
    assert Memory(scenario, asked.model_copy(update={"seq_len": longest - 1})).fits
    assert not Memory(scenario, asked.model_copy(update={"seq_len": longest})).fits


def test_the_longest_context_by_hand() -> None:
    """llama-3.1-8b on 24 GB: a token has 131,072 bytes of KV cache, and during prefill 2 x 4,096 bytes of residual
    stream and 2 x (28,672 + 14,336) bytes as input and output of the activation function."""
    e = estimate("llama-3.1-8b", "l4-24gb", num_tokens_to_generate=1)
    room = 24e9 - e.weight_memory_per_gpu
    assert e.max_context_len == int((room + 94_208) // (131_072 + 94_208))


def test_chunks_limit_the_activations() -> None:
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
    # If the smaller batch does not fill a chunk, the two batches differ in whole prompts or in tokens of one prompt.
    if largest and s <= chunk:
        assert asked(largest).memory_left_per_gpu >= -1e-6 * 141e9


def test_samples_share_the_cache_of_the_prompt() -> None:
    """llama-3.1-8b: 1,000 tokens once and 24 for each of 4 samples; mistral's window holds 4,096 of each sample."""
    e = estimate("llama-3.1-8b", seq_len=1000, num_tokens_to_generate=24, num_samples=4)
    assert e.kv_cache_memory_per_gpu == (1000 + 4 * 24) * 131_072
    e = estimate("mistral-7b-v0.1", seq_len=4000, num_tokens_to_generate=5000, num_samples=4)
    assert e.kv_cache_memory_per_gpu == 4 * 4096 * 131_072


def test_the_draft_model_needs_memory_too() -> None:
    model, draft = get_model("llama-3.1-70b"), get_model("llama-3.2-1b")
    asked = LLMAnalysis(model, get_gpu("h200-sxm-141gb"), get_dtypes("fp8"), method="ideal", draft_config=draft)
    plain, drafted = asked.inference(), asked.inference(num_draft_tokens=3, acceptance_rate=0.7)
    alone = LLMAnalysis(draft, get_gpu("h200-sxm-141gb"), get_dtypes("fp8"), method="ideal").inference()
    for name in ("weight_memory_per_gpu", "kv_cache_memory_per_gpu"):
        assert getattr(drafted, name) == pytest.approx(getattr(plain, name) + getattr(alone, name))


# Formats


@pytest.mark.parametrize(("model", "size"), [("gpt-oss-120b", 60.8), ("gpt-oss-20b", 12.8)])
def test_a_quantized_checkpoint_has_its_published_size(model: str, size: float) -> None:
    """Experts in mxfp4, 4.25 bits a weight, the rest in bf16: sizes in GiB of OpenAI's model card, table 1 (2025)."""
    asked = LLMAnalysis(get_model(model), get_gpu("h100-sxm-80gb"), method="ideal")
    answer = asked.inference()
    assert answer.weight_memory_per_gpu == pytest.approx(size * 2**30, rel=0.005)
    assert answer.dtype_name == "w16a16e16+mxfp4"
    assert "no dtype_name given: w16a16e16+mxfp4, the format of the published checkpoint" in answer.notes
    assert any("no fp4 rate: multiplied at its fp16 rate" in note for note in answer.notes)


def test_a_given_format_overrides_that_of_the_checkpoint() -> None:
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
def test_bits_per_weight_include_the_scale(name: str, bits: float) -> None:
    e = LLMAnalysis(get_model("llama-2-7b"), get_gpu("b200-sxm"), get_dtypes(name), method="ideal").inference()
    assert e.feed_forward_weight_memory_per_gpu == 32 * 3 * 4096 * 11008 * bits / 8


# What would make a model fit: with each remedy the same question is accepted, and fits

Question = dict[str, Any]
SIZES = ("tp_size", "cp_size", "sp_size", "ep_size", "pp_size")
LONG: Question = {"batch_size_per_gpu": 60, "seq_len": 100_000}
# The activations of all prompts in one pass do not fit.
WIDE = (
    "llama-3.1-8b",
    "h100-sxm-80gb",
    {"batch_size_per_gpu": 32, "seq_len": 11_000, "tp_size": 1, "prefill_chunk_size": 0},
)
SHORT = [
    ("llama-3.1-8b", "h100-sxm-80gb", LONG),
    ("llama-3.1-8b", "h100-sxm-80gb", LONG | {"tp_size": 8}),
    ("llama-3.1-8b", "a100-sxm-80gb", {"batch_size_per_gpu": 900}),
    ("llama-2-70b", "a100-sxm-40gb", {}),
    ("llama-3.1-405b", "h100-sxm-80gb", {"tp_size": 8}),
    ("llama-3.1-405b", "a100-sxm-40gb", {"tp_size": 2}),
    WIDE,
]


def notes_of(model: str, gpu: str, method: str, dtype_name: str = "bf16", **question: Any) -> tuple[str, ...]:
    layout = Parallelism(**{size: question.pop(size) for size in SIZES if size in question})
    arguments = get_model(model), get_gpu(gpu), get_dtypes(dtype_name), layout
    return LLMAnalysis(*arguments, method=method).inference(**question).notes


def advice(*arguments: str, **question: Any) -> str:
    (note,) = [note for note in notes_of(*arguments, **question) if note.startswith("does not fit")]
    return note.partition("; ")[2]


def flags(remedy: str) -> Question:
    found = re.findall(r"(\w+_\w+) (\w+)", remedy)
    return {flag: int(value) if value.isdigit() else value for flag, value in found}


@pytest.mark.parametrize(("model", "gpu", "question"), SHORT)
@pytest.mark.parametrize("method", ["calibrated", "ideal", "published"])
def test_each_remedy_is_accepted_and_fits(method: str, model: str, gpu: str, question: Question) -> None:
    check_remedies(model, gpu, method, question)


@pytest.mark.parametrize("method", ["calibrated", "ideal"])
def test_remedies_keep_sequence_parallelism(method: str) -> None:
    check_remedies("mixtral-8x7b", "a100-sxm-40gb", method, {"tp_size": 2, "sp_size": 2})


def test_chunked_prefill_is_the_first_remedy_if_it_is_enough() -> None:
    model, gpu, question = WIDE
    assert advice(model, gpu, "calibrated", **question).startswith("would fit: prefill_chunk_size 8192, or ")
    assert "prefill_chunk_size" not in advice(model, gpu, "published", **question)


def check_remedies(model: str, gpu: str, method: str, question: Question) -> None:
    said = advice(model, gpu, method, **question)
    assert said.startswith("would fit: ")
    for remedy in said.removeprefix("would fit: ").split(", or "):
        notes = notes_of(model, gpu, method, **(question | flags(remedy)))
        assert not [note for note in notes if note.startswith("does not fit")], remedy


@pytest.mark.parametrize(
    ("model", "gpu", "method", "question", "expected"),
    [
        ("llama-3.1-8b", "h100-sxm-80gb", "published", LONG, "would fit: batch_size_per_gpu 2"),
        # An A100 has no fp8 rate, which `published` needs, and 16 GPUs exceed the one node that it covers.
        ("llama-3.1-405b", "a100-sxm-80gb", "published", {"tp_size": 8}, "would fit: dtype_name int8"),
        # The bandwidth between servers is not known.
        ("llama-3.1-405b", "l4-24gb", "ideal", {"tp_size": 8}, "no larger tp_size would fit either, nor would int4"),
        ("llama-3.1-405b", "t4", "ideal", {}, "no larger tp_size or cp_size would fit either, nor would int4"),
        ("llama-3.1-405b", "t4", "ideal", {"dtype_name": "int4"}, "no larger tp_size or cp_size would fit either"),
        ("llama-3.1-405b", "h100-sxm-80gb", "ideal", {"tp_size": 8, "sp_size": 8}, ".*tp_size 16 and sp_size 16.*"),
        ("llama-3.1-405b", "h100-sxm-80gb", "ideal", {}, "would fit: tp_size 16, or tp_size 8 with dtype_name fp8"),
    ],
)
def test_impossible_remedies_are_not_listed(
    model: str, gpu: str, method: str, question: Question, expected: str
) -> None:
    assert re.fullmatch(expected, advice(model, gpu, method, **question))


def test_a_workload_that_fits_has_a_longest_context_although_shorter_prompts_gather_more_prefixes() -> None:
    """A chunk of 64 tokens holds the prompts of 22 sequences of one new token each, and gathers 22 cached prefixes."""
    question: dict[str, Any] = {"batch_size_per_gpu": 22, "num_tokens_to_generate": 43, "cached_prefix_len": 1994}
    question |= {"dp_size": 4, "ep_size": 4, "prefill_chunk_size": 64, "gpu_memory_utilization": 0.95}
    found = estimate("glm-4.7-flash", "rtx-3090", seq_len=2157, **question)
    assert found.fits
    assert found.max_context_len >= 2157 + 43
    assert not estimate("glm-4.7-flash", "rtx-3090", seq_len=int(found.max_context_len) - 43 + 1, **question).fits


def test_the_longest_context_does_not_depend_on_the_prompt_asked_for() -> None:
    """The bytes of a token's activations fall with the prompt, as more tokens share the gathered prefix."""
    question: dict[str, Any] = {"tp_size": 1, "pp_size": 3, "cp_size": 2, "num_samples": 2, "batch_size_per_gpu": 120}
    question |= {"gpu_memory_utilization": 0.9, "num_tokens_to_generate": 2, "cached_prefix_len": 677}
    found = [
        estimate("codellama-13b", "v100-sxm2-16gb", "int8", seq_len=length, **question).max_context_len
        for length in (700, 940, 1891)
    ]
    assert found[0] == found[1] == found[2]
