"""Parameters and KV caches of small models, against the ones that transformers 5.23 builds from the same keys.

Every file has the sizes in BASE unless it gives its own; none is a published one. The counts were read off the modules
that `AutoModelForCausalLM.from_config` makes on the meta device.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_analysis.errors import BadConfig
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.forward import forward, kv_bytes_per_token, num_active_params, num_params
from llm_analysis.models.reading.reader import read_model
from llm_analysis.physics.dtypes import get_dtypes
from llm_analysis.physics.operators import Step
from llm_analysis.physics.parallelism import Parallelism

BF16 = get_dtypes("bf16").on({"bf16": 1.0, "fp16": 1.0}, "any")
BASE: dict[str, Any] = {
    "architectures": ["X"],
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
ROUTED = {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
SHARED_EXPERT = {"num_experts_per_token": 2, "num_shared_experts": 1, "first_k_dense_replace": 1}
LATENT = {"kv_lora_rank": 64, "qk_nope_head_dim": 48, "qk_rope_head_dim": 16, "v_head_dim": 32}
LATENT |= {"num_key_value_heads": 4}
INDEX = {"index_n_heads": 4, "index_head_dim": 32, "index_topk": 64}
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 64, "mamba_d_state": 32, "mamba_n_groups": 2, "mamba_d_ssm": 512}
NEMOTRON = {"mamba_num_heads": 8, "mamba_head_dim": 64, "ssm_state_size": 32, "n_groups": 2, "use_conv_bias": True}
KDA = {"full_attn_layers": [4], "kda_layers": [1, 2, 3], "head_dim": 64, "num_heads": 4, "short_conv_kernel_size": 4}
DELTA = {"linear_num_key_heads": 4, "linear_num_value_heads": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 64}
BLOCKS = {"sparse_index_dim": 32, "sparse_num_index_heads": 2, "sparse_topk_blocks": 4, "sparse_block_size": 16}
GEMMA3N = {"hidden_size_per_layer_input": 32, "vocab_size_per_layer_input": 900, "laurel_rank": 16}
ZAMBA2 = {"mamba_d_state": 32, "mamba_headdim": 64, "n_mamba_heads": 8, "mamba_ngroups": 2, "num_mem_blocks": 2}

# model_type, parameters, bytes of KV cache that a token adds at 16 bits, keys. Counts hold the routers' biases too,
# which transformers keeps as buffers: 8 for each layer with experts.
SMALL: list[tuple[str, int, float, dict[str, Any]]] = [
    (
        "lfm2",
        3_072_640,
        512,
        {"full_attn_idxs": [2], "block_ff_dim": 768, "block_multiple_of": 64, "conv_L_cache": 3},
    ),
    (
        "lfm2_moe",
        4_258_432 + 3 * 8,
        512,
        {"layer_types": ["conv", "conv", "full_attention", "conv"], "conv_L_cache": 3, "num_dense_layers": 1} | EXPERTS,
    ),
    ("falcon_h1", 4_598_624, 2048, MAMBA2 | {"head_dim": 64, "mamba_rms_norm": False}),
    (
        "nemotron_h",
        1_670_040 + 2 * 8,
        512,
        {"hybrid_override_pattern": "ME*E", "head_dim": 64, "moe_latent_size": 64}
        | {"moe_shared_expert_intermediate_size": 192}
        | NEMOTRON
        | ROUTED,
    ),
    (
        "nemotron_h",
        1_670_040 + 2 * 8,
        512,
        {"layers_block_type": ["mamba", "moe", "attention", "moe"], "num_hidden_layers": None}
        | {"head_dim": 64, "moe_latent_size": 64, "moe_shared_expert_intermediate_size": 192}
        | NEMOTRON
        | ROUTED,
    ),
    ("kimi_linear", 4_703_500 + 3 * 8, 160, {"linear_attn_config": KDA} | EXPERTS | LATENT | SHARED_EXPERT),
    (
        "bailing_hybrid",
        4_901_132 + 3 * 8,
        160,
        {"layer_group_size": 4, "linear_num_heads": 4, "linear_head_dim": 64, "head_dim": 64}
        | EXPERTS
        | LATENT
        | SHARED_EXPERT,
    ),
    ("recurrent_gemma", 2_197_248, 0, {"lru_width": 256, "attention_window_size": 1024, "head_dim": 64}),
    (
        "zamba2",
        5_035_360,
        4096,
        {"layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "num_key_value_heads": 4}
        | {"adapter_rank": 16, "use_shared_mlp_adapter": True}
        | ZAMBA2,
    ),
    ("olmo_hybrid", 3_083_096, 512, {"layer_types": ["linear_attention"] * 3 + ["full_attention"]} | DELTA),
    (
        "deepseek_v4",
        4_938_605,
        2 * (2 * 64 + 32 + 1) / 4 + 2 * 64 / 128,
        {"head_dim": 64, "num_key_value_heads": 1, "q_lora_rank": 96, "o_groups": 2, "o_lora_rank": 48}
        | {"qk_rope_head_dim": 16, "compress_ratios": [0, 4, 128, 4], "num_hash_layers": 1, "intermediate_size": None}
        | INDEX
        | ROUTED,
    ),
    (
        "glm_moe_dsa",
        4_103_168 + 3 * 8,
        4 * 2 * 80 + 2 * (32 + 1),
        {"indexer_types": ["full", "shared", "full", "shared"], "q_lora_rank": 96, "first_k_dense_replace": 1}
        | LATENT
        | INDEX
        | ROUTED,
    ),
    (
        "minimax_m3_vl_text",
        4_428_736 + 3 * 8,
        4 * 2 * 2 * 2 * 64 + 3 * 2 * 32,
        {"intermediate_size": 128, "dense_intermediate_size": 512, "shared_intermediate_size": 128, "head_dim": 64}
        | {"num_local_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1, "use_qk_norm": True}
        | {"moe_layer_freq": [0, 1, 1, 1], "sparse_attention_config": BLOCKS | {"sparse_attention_freq": [0, 1, 1, 1]}},
    ),
    (
        "gemma3n_text",
        3_202_592,
        512,
        {"intermediate_size": [512] * 4, "num_kv_shared_layers": 1, "sliding_window": 512, "head_dim": 64}
        | {"layer_types": ["sliding_attention", "full_attention"] * 2, "tie_word_embeddings": True}
        | GEMMA3N,
    ),
    (
        "afmoe",
        4_619_032,
        512,
        {"head_dim": 64, "num_dense_layers": 1, "num_shared_experts": 1, "sliding_window": 512} | EXPERTS,
    ),
    (
        "hunyuan_v1_moe",
        15_465_216,
        2048,
        {"num_experts": 8, "moe_topk": [2] * 4, "num_shared_expert": [1] * 4, "moe_intermediate_size": [512] * 4}
        | {"head_dim": 64, "use_qk_norm": True},
    ),
    ("apertus", 2_349_832 - 4 * 2, 2048, {"qk_norm": True, "hidden_act": "xielu"}),  # without xIELU's two numbers
    (
        "mimo_v2_flash",
        3_887_372 + 3 * 8 - 3 * 4,  # without the sinks of windowed layers, one per head
        320,
        {"head_dim": 48, "v_head_dim": 32, "hybrid_layer_pattern": [0, 1, 1, 1], "moe_layer_freq": [0, 1, 1, 1]}
        | {"swa_num_key_value_heads": 4, "sliding_window": 128}
        | ROUTED
        | {"n_shared_experts": None},
    ),
    (
        "vaultgemma",
        2_617_600,
        1024,
        {"head_dim": 64, "sliding_window": 128, "tie_word_embeddings": True, "hidden_activation": "gelu_pytorch_tanh"},
    ),
    ("solar_open", 4_847_872 + 4 * 8, 2048, {"head_dim": 64, "intermediate_size": None} | ROUTED),
    (
        "persimmon",
        2_621_952 - 4 * 2 * 64,  # without the biases of the norms of queries and keys
        4096,
        {"hidden_act": "relu2", "qk_layernorm": True, "num_key_value_heads": 4},
    ),
    ("arcee", 2_349_312, 2048, {"hidden_act": "relu2"}),
    ("nanochat", 2_347_008, 2048, {"hidden_act": "relu2"}),
    ("jais2", 2_357_760, 2048, {"hidden_act": "relu2"}),
    ("bitnet", 2_876_672, 2048, {"hidden_act": "relu2"}),
    (
        "minicpm3",
        2_743_168,
        640,
        {"q_lora_rank": 96} | {key: size for key, size in LATENT.items() if key != "v_head_dim"},
    ),
    ("smollm3", 2_617_600, 2048, {"no_rope_layers": [1, 1, 1, 0], "tie_word_embeddings": None}),
    ("nomic_bert", 2_882_560, 0, {"type_vocab_size": 2, "num_key_value_heads": 4}),
]


SAVED = Path(__file__).with_name("saved_by_transformers_5.jsonl").read_text(encoding="utf-8").splitlines()


def small(model_type: str, **keys: Any) -> ModelConfig:
    raw = BASE | {"model_type": model_type} | keys
    return read_model({key: value for key, value in raw.items() if value is not None}, model_type)


@pytest.mark.parametrize(("model_type", "params", "kv", "keys"), SMALL, ids=[row[0] for row in SMALL])
def test_a_small_model_has_the_parameters_and_the_cache_of_its_class(
    model_type: str, params: int, kv: float, keys: dict[str, Any]
) -> None:
    model = small(model_type, **keys)
    assert num_params(model) == params
    assert kv_bytes_per_token(model, BF16) == kv


@pytest.mark.parametrize(("model_type", "params", "kv", "keys"), SMALL, ids=[row[0] for row in SMALL])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_the_weights_that_a_pass_stores_are_those_of_the_model(
    model_type: str, params: int, kv: float, keys: dict[str, Any], phase: str
) -> None:
    """At 16 bits every weight takes two bytes; biases and norms too. More than one GPU store more, not less."""
    model = small(model_type, **keys)
    step = Step(2.0, 8.0, 100.0) if phase == "prefill" else Step(2.0, 1.0, 100.0, "decode")
    one = sum(float(op.count) * op.stored_bytes for op in forward(model, step, BF16, Parallelism()))
    two = sum(float(op.count) * op.stored_bytes for op in forward(model, step, BF16, Parallelism(tp_size=2)))
    assert one == pytest.approx(2 * params, rel=2e-3)  # some kernels hold small weights without bytes of their own
    assert one / 2 <= two <= one


# Keys that change no size: which layers route by a table, which have rotary positions, the head of latent attention.
UNUSED = {"architectures", "num_hash_layers", "no_rope_layers", "head_dim"}


def changed(raw: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each number of a file, also in a list or an object, and the file with other numbers in its place."""
    for key, value in raw.items():
        if isinstance(value, dict):
            for inner, files in changed(value):
                yield f"{key}.{inner}", [raw | {key: file} for file in files]
        elif isinstance(value, list):
            doubled = [2 * each if isinstance(each, int) else each for each in value]
            yield key, [raw | {key: other} for other in (value[:-1], [*value, value[-1]], doubled)]
        elif isinstance(value, int) and not isinstance(value, bool):
            yield key, [raw | {key: other} for other in (2 * value + 1, value // 2, value + 1)]


@pytest.mark.parametrize(("model_type", "params", "kv", "keys"), SMALL, ids=[row[0] for row in SMALL])
def test_no_number_of_a_file_is_ignored(model_type: str, params: int, kv: float, keys: dict[str, Any]) -> None:
    """Another number changes the answer, adds a note, or is an error."""

    def answer(raw: dict[str, Any]) -> object:
        try:
            return read_model(raw, "x")
        except BadConfig as error:
            return str(error)

    raw = {key: value for key, value in (BASE | {"model_type": model_type} | keys).items() if value is not None}
    usual = answer(raw)
    ignored = [key for key, files in changed(raw) if all(answer(file) == usual for file in files)]
    assert set(ignored) <= UNUSED
    assert "head_dim" not in ignored or "kv_lora_rank" in keys


@pytest.mark.parametrize("row", range(len(SMALL)), ids=[row[0] for row in SMALL])
def test_a_file_that_transformers_has_saved_again_is_the_same_model(row: int) -> None:
    """The saved forms of the files above are those that transformers 5.23 writes: all keys of the class, new names."""
    model_type, params, kv, keys = SMALL[row]
    model = read_model(json.loads(SAVED[row]), model_type)
    assert num_params(model) == params
    assert kv_bytes_per_token(model, BF16) == kv
    original = small(model_type, **keys)
    assert model.layer_kinds == original.layer_kinds
    assert num_active_params(model) == num_active_params(original)
    assert not any("not read" in note or "contradict" in note or "differ" in note for note in model.notes)


def test_longer_contexts_cost_no_less_in_any_new_kind_of_layer() -> None:
    for model_type, _, _, keys in SMALL:
        model = small(model_type, **keys)
        near, far = (forward(model, Step(2.0, 1.0, c, "decode"), BF16, Parallelism()) for c in (1000.0, 3000.0))
        for before, after in zip(near, far, strict=True):
            assert before.name == after.name
            assert float(before.bytes) <= float(after.bytes)
            assert float(before.flops) <= float(after.flops)


def test_longcat_counts_no_weights_for_experts_that_return_their_input() -> None:
    """Two layers of two attentions and two feed-forwards, and 8 experts of 3 x 256 x 128 next to 4 without weights.

    With even routing 8 of 12 choices go to experts with weights: 2 of a token's 3.
    """
    keys = {"num_layers": 2, "ffn_hidden_size": 512, "intermediate_size": None, "num_hidden_layers": None}
    keys |= {"expert_ffn_hidden_size": 128, "n_routed_experts": 8, "moe_topk": 3, "zero_expert_num": 4}
    model = small("longcat_flash", q_lora_rank=96, router_bias=False, **keys, **LATENT)
    attention = 256 * (96 + 80) + 96 + 64 + 96 * 4 * 64 + 64 * 4 * 80 + 4 * 32 * 256
    half = attention + 3 * 256 * 512 + 2 * 256
    assert num_params(model) == 4 * half + 2 * (8 * 3 * 256 * 128 + 256 * 12) + 2 * 1000 * 256 + 256
    assert num_params(model) - num_active_params(model) == 2 * 6 * 3 * 256 * 128 + 1000 * 256
    assert kv_bytes_per_token(model, BF16) == 4 * 80 * 2


def test_layers_that_attend_to_images_are_stored_and_not_run() -> None:
    """Llama 3.2 Vision: one of 4 layers, with norms for each head and two gates."""
    model = small("mllama_text_model", cross_attention_layers=[1])
    plain = small("llama")
    assert num_params(model) == num_params(plain) + 2 * 64 + 2
    assert kv_bytes_per_token(model, BF16) == kv_bytes_per_token(plain, BF16) * 3 / 4
    steps = Step(1.0, 1.0, 10.0, "decode")
    flops, all_flops = (
        sum(float(op.count * op.flops) for op in forward(m, steps, BF16, Parallelism())) for m in (model, plain)
    )
    head = 2 * 1000 * 256
    assert flops - head == pytest.approx((all_flops - head) * 3 / 4)
    assert "attend to images" in model.notes[0]


def test_arctic_has_a_dense_feed_forward_beside_its_experts() -> None:
    """snowflake-arctic: 128 experts of 4,864 and a dense part of 7,168 in 35 layers: 480 B, 17 B of them active."""
    sizes = {"hidden_size": 7168, "num_hidden_layers": 35, "num_attention_heads": 56, "num_key_value_heads": 8}
    sizes |= {"intermediate_size": 4864, "vocab_size": 32000, "num_local_experts": 128, "num_experts_per_tok": 2}
    model = small("arctic", **sizes, moe_layer_frequency=1, parallel_attn_mlp_res=True)
    attention = 7168 * (56 + 2 * 8) * 128 + 56 * 128 * 7168
    layer = attention + 128 * 3 * 7168 * 4864 + 7168 * 128 + 3 * 7168 * 7168 + 3 * 7168
    assert num_params(model) == 35 * layer + 2 * 32000 * 7168 + 7168
    assert num_params(model) == pytest.approx(480e9, rel=0.005)
    assert num_active_params(model) == pytest.approx(17e9, rel=0.02)


def test_windowed_layers_may_have_more_heads() -> None:
    """Step 3.5: 6 heads instead of 4 in three layers, each with a gate; entries of layers for prediction follow."""
    other = {"attention_type": "sliding_attention", "num_attention_heads": 6, "num_attention_groups": 2, "head_dim": 64}
    kinds = ["full_attention"] + ["sliding_attention"] * 3 + ["full_attention"]
    keys = {"layer_types": kinds, "num_attention_groups": 2, "num_key_value_heads": None, "sliding_window": 128}
    same = small("step3p5", head_dim=64, moe_layers_enum="", **keys)
    more = small("step3p5", head_dim=64, moe_layers_enum="", attention_other_setting=other, **keys)
    assert num_params(more) - num_params(same) == 3 * 2 * (2 * 256 * 64 + 256)
    assert kv_bytes_per_token(more, BF16) == kv_bytes_per_token(same, BF16) == 2 * 2 * 64 * 2


def test_a_model_without_an_output_head_is_known_by_its_class() -> None:
    """e5-mistral is a `MistralModel`; `GPT2LMHeadModel` ends with the same word and has a head."""
    embedding = small("mistral", architectures=["MistralModel"])
    assert num_params(small("mistral")) - num_params(embedding) == 1000 * 256
    assert small("gpt2", architectures=["GPT2LMHeadModel"]).output_head


@pytest.mark.parametrize("model_type", ["jetmoe", "jina_embeddings_v3"])
def test_types_that_look_like_a_llama_and_are_not_are_rejected(model_type: str) -> None:
    with pytest.raises(BadConfig, match=f"model_type '{model_type}' is not supported: its "):
        small(model_type)


def test_an_encoder_keeps_no_keys_and_values() -> None:
    for model in (small("nomic_bert", num_key_value_heads=4), small("modernbert", local_attention=128)):
        assert kv_bytes_per_token(model, BF16) == 0
        assert "an encoder" in model.notes[0]


def test_the_language_model_of_a_model_with_audio() -> None:
    """Qwen-Omni keeps it in `thinker_config`, beside a talker."""
    text = {key: value for key, value in BASE.items() if key != "architectures"} | {"model_type": "qwen2_5_omni_text"}
    raw = {"architectures": ["X"], "model_type": "qwen2_5_omni", "thinker_config": {"text_config": text}}
    raw["talker_config"] = {"hidden_size": 64, "num_hidden_layers": 99}
    assert num_params(read_model(raw, "x")) == num_params(small("qwen2"))


def test_sizes_that_a_text_part_leaves_to_its_class() -> None:
    """PaliGemma 2 and Qwen2-Audio publish few keys: the rest are defaults of Gemma 2 (2B) and Qwen2 (7B)."""
    gemma = {"architectures": ["X"], "model_type": "paligemma", "text_config": {"model_type": "gemma2"}}
    assert num_params(read_model(gemma, "x")) == 2_614_341_888
    text = {"model_type": "qwen2", "intermediate_size": 11008, "vocab_size": 156_032}
    qwen = {"architectures": ["X"], "model_type": "qwen2_audio", "text_config": text}
    assert num_params(read_model(qwen, "x")) == 7_754_878_976


@pytest.mark.parametrize(
    ("model_type", "keys", "complaint"),
    [
        ("hunyuan_v1_moe", EXPERTS | {"moe_topk": [2, 2, 1, 2], "num_experts_per_tok": None}, "differs between layers"),
        ("hunyuan_v1_dense", {"use_cla": True}, "shares KV caches across layers"),
        ("zamba2", ZAMBA2 | {"use_shared_attention_adapter": True}, "adapters of the shared attention"),
        ("deepseek_v4", {"compress_ratios": [0, 4, 16, 4], "q_lora_rank": 96}, "layer_types has '16'"),
        ("deepseek_v4", {"compress_ratios": [0, 4, [1], 4], "q_lora_rank": 96}, "layer_types has '\\[1\\]'"),
    ],
)
def test_unsupported_variants_are_named(model_type: str, keys: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadConfig, match=complaint):
        small(model_type, **keys)
