"""What fits: weights, KV cache and activations, against numbers worked out by hand and against each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_analysis import LLMAnalysis, Parallelism, get_dtypes, get_gpu, get_model
from llm_analysis.inference.estimate import Estimate
from llm_analysis.models.forward import num_params

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
    ("llama-3.1-8b", "int4", 131_072),  # weights alone are narrow
]


def estimate(model: str, gpu: str = "h200-sxm-141gb", dtype: str = "w16a16e16", **question: int) -> Estimate:
    sizes = {key: question.pop(key) for key in ("tp_size", "pp_size", "dp_size", "sp_size") if key in question}
    arguments = get_model(model), get_gpu(gpu), get_dtypes(dtype), Parallelism(**sizes)
    return LLMAnalysis(*arguments, method="ideal").inference(**question)  # type: ignore[arg-type]


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


def test_a_window_bounds_the_cache() -> None:
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
    """Tied embeddings are held once: llama is untied, opt and the small qwen are tied."""
    assert estimate(model).weight_memory_per_gpu == pytest.approx(2 * num_params(get_model(model)), rel=1e-3)
    assert estimate(model).num_params_total == num_params(get_model(model))


def test_narrow_weights_count_their_scales_and_spare_embedding_and_head() -> None:
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
    # Norms are held by each GPU: 161 of 8,192 weights in 70 billion.
    assert shared.weight_memory_per_gpu * tp == pytest.approx(alone.weight_memory_per_gpu, rel=2e-4)


def test_more_gpus_than_kv_heads_hold_copies() -> None:
    eight, sixteen = (estimate("llama-2-70b", tp_size=t) for t in (8, 16))
    assert eight.kv_cache_memory_per_gpu == sixteen.kv_cache_memory_per_gpu
    assert eight.weight_memory_per_gpu / 2 < sixteen.weight_memory_per_gpu < eight.weight_memory_per_gpu


def test_a_pipeline_divides_layers_and_its_fullest_stage_counts() -> None:
    one, two = estimate("llama-3.1-8b"), estimate("llama-3.1-8b", pp_size=2)
    assert two.kv_cache_memory_per_gpu == one.kv_cache_memory_per_gpu / 2
    assert one.weight_memory_per_gpu / 2 <= two.weight_memory_per_gpu < one.weight_memory_per_gpu * 0.55
    replicas = estimate("llama-3.1-8b", dp_size=4)
    assert replicas.weight_memory_per_gpu == one.weight_memory_per_gpu


def test_a_tied_table_is_held_at_both_ends_of_a_pipeline() -> None:
    """qwen2.5-0.5b: 151,936 x 896 weights that one GPU holds once, and the first and last stage hold each."""
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
    # A division may round to the neighbouring whole number where the last byte decides.
    assert abs(asked(b + 1).max_batch_size_per_gpu - largest) <= 1
    if largest:
        assert asked(largest).memory_left_per_gpu >= -1e-6 * answer.memory_per_gpu
    assert not asked(largest + 1).fits or asked(largest + 1).memory_left_per_gpu < 1e-6 * answer.memory_per_gpu


@given(b=sizes, s=st.integers(1, 4000), tp=st.sampled_from([1, 2, 4, 8]))
def test_what_is_left_is_what_remains(b: int, s: int, tp: int) -> None:
    e = estimate("llama-3.1-8b", "a100-sxm-40gb", batch_size_per_gpu=b, seq_len=s, tp_size=tp)
    held = e.weight_memory_per_gpu + e.kv_cache_memory_per_gpu + e.activation_memory_per_gpu
    assert e.memory_left_per_gpu == pytest.approx(e.memory_per_gpu - held, abs=1.0)
    assert e.memory_per_gpu == 40e9
    assert e.activation_memory_per_gpu > 0
