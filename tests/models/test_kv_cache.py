"""KV cache and recurrent state against numbers computed by hand: bytes per token and bytes per sequence."""

import pytest
from conftest import catalogued, published

from llm_analysis.models.config import ModelConfig
from llm_analysis.models.forward import forward, kv_bytes_per_token
from llm_analysis.physics.dtypes import get_dtypes
from llm_analysis.physics.operators import Step
from llm_analysis.physics.parallelism import Parallelism

BF16 = get_dtypes("bf16").on({"bf16": 1.0, "fp16": 1.0}, "any")
# Bytes that one more token adds to the KV cache of a long sequence in bf16, computed by hand.
BY_HAND: list[tuple[str, float, str]] = [
    ("llama-2-7b", 32 * 2 * 32 * 128 * 2, "MHA: 32 layers, K and V, 32 heads of 128"),
    ("llama-3-8b", 32 * 2 * 8 * 128 * 2, "GQA: 8 heads"),
    ("falcon-7b", 32 * 2 * 1 * 64 * 2, "MQA: one head of 64"),
    ("starcoder-15.5b", 40 * 2 * 1 * 128 * 2, "MQA"),
    ("qwen3-0.6b", 28 * 2 * 8 * 128 * 2, "head_dim 128, where hidden / heads is 64"),
    ("mixtral-8x7b", 32 * 2 * 8 * 128 * 2, "experts have no cache"),
    ("deepseek-v3", 61 * (512 + 64) * 2, "MLA: one latent row of 512 and 64 rotary elements in each of 61 layers"),
    ("deepseek-v2-lite", 27 * (512 + 64) * 2, "MLA"),
    ("gemma-2-9b", 21 * 2 * 8 * 256 * 2, "half of the 42 layers see a window of 4096, which is full"),
    ("gemma-3-27b", 10 * 2 * 16 * 128 * 2, "62 layers, of which each sixth is full: 10"),
    ("gpt-oss-120b", 18 * 2 * 8 * 64 * 2, "half of the 36 layers see a window of 128"),
    ("llama-4-scout", 12 * 2 * 8 * 128 * 2, "each fourth of 48 layers is full, the others restart every 8192"),
    ("mistral-7b-v0.1", 0, "every layer has a window of 4096"),
    ("phi-3.5-mini", 32 * 2 * 32 * 96 * 2, "a window longer than the context has no effect"),
]


@pytest.mark.parametrize(("name", "bytes_per_token", "why"), BY_HAND, ids=[row[0] for row in BY_HAND])
def test_kv_bytes_per_token_by_hand(name: str, bytes_per_token: float, why: str) -> None:
    assert kv_bytes_per_token(catalogued(name), BF16) == bytes_per_token, why


def kept(model: ModelConfig, tokens: float) -> float:
    """Return the cached bytes of one sequence of `tokens` tokens."""
    ops = forward(model, Step(1.0, tokens), BF16, Parallelism())
    return sum(float(op.count * op.cached_bytes) for op in ops)


JAMBA = {
    "vocab_size": 65536,
    "num_key_value_heads": 8,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_dt_rank": 256,
    "attn_layer_period": 8,
    "attn_layer_offset": 4,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
}
NEXT = {
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 4,
}
LATENT = {"kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}


def test_a_window_and_a_chunk_limit_the_cache() -> None:
    row = 2 * 16 * 128 * 2
    assert kept(catalogued("gemma-3-27b"), 8192) == 10 * 8192 * row + 52 * 1024 * row
    assert kept(catalogued("gemma-3-27b"), 500) == 62 * 500 * row
    row = 2 * 8 * 128 * 2
    assert kept(catalogued("llama-4-scout"), 20000) == 12 * 20000 * row + 36 * 8192 * row


def test_hybrid_models_have_a_state_and_a_cache_in_few_layers() -> None:
    jamba, delta = published("jamba", **JAMBA), published("qwen3_next", **NEXT)
    assert kv_bytes_per_token(jamba, BF16) == 4 * 2 * 8 * 128 * 2  # attention in 4 of 32 layers
    state = 28 * (8192 * 16 + 8192 * 4) * 2  # a state of 16 and 4 convolution inputs for each of 8192 channels
    assert kept(jamba, 1000) == 1000 * 16384 + state
    assert kv_bytes_per_token(delta, BF16) == 12 * 2 * 2 * 256 * 2  # attention in 12 of 48 layers
    matrices, inputs = 32 * 128 * 128 * 4, (2 * 16 + 32) * 128 * 4 * 2  # fp32 states of 32 value heads
    assert kept(delta, 1000) == 1000 * 24576 + 36 * (matrices + inputs)


def test_the_state_of_a_state_space_model_does_not_grow() -> None:
    keys = {"num_attention_heads": None, "num_heads": 128, "head_dim": 64, "state_size": 128, "n_groups": 8}
    model = published("mamba2", **keys | {"num_hidden_layers": 64})
    # 64 layers: 128 heads of 64 x 128 numbers, and 4 inputs of 8192 + 2 x 8 x 128 channels
    assert kept(model, 10.0) == kept(model, 1e5) == 64 * (128 * 64 * 128 + 4 * (8192 + 2 * 8 * 128)) * 2


def test_sparse_attention_caches_all_tokens_and_the_keys_of_its_indexer() -> None:
    keys = LATENT | {"index_n_heads": 64, "index_head_dim": 128, "index_topk": 2048}
    model = published("deepseek_v32", **keys)
    indexer = 128 + 4  # fp8 elements, and a 32-bit scale for the 128 of them
    assert kv_bytes_per_token(model, BF16) == 32 * ((512 + 64) * 2 + indexer)


def test_every_tensor_parallel_gpu_holds_the_whole_latent_cache() -> None:
    one, eight = (
        sum(
            float(op.count * op.cached_bytes)
            for op in forward(catalogued("deepseek-v3"), Step(1.0, 100.0), BF16, Parallelism(tp_size=t))
        )
        for t in (1, 8)
    )
    assert one == eight == 100 * 61 * 576 * 2
