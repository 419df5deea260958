"""Notes on how a published file was read: values left to its class, and keys that contradict each other."""

from typing import Any

import pytest
from conftest import SIZES, published

from llm_analysis.models.config import ModelConfig
from llm_analysis.models.forward import num_params
from llm_analysis.models.reading.reader import read_model

MAMBA2 = {"mamba_n_heads": 128, "mamba_d_head": 64, "mamba_d_state": 64, "mamba_n_groups": 1, "mamba_d_conv": 4}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 1024}
LATENT = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
ASSUMED = "not in the file, taken from the defaults of its model_type: "


def assumed(model: ModelConfig) -> list[str]:
    """Return the values that a note lists as defaults of the class."""
    found = [note.removeprefix(ASSUMED) for note in model.notes if note.startswith(ASSUMED)]
    return found[0].split(", ") if found else []


@pytest.mark.parametrize(
    ("model_type", "keys", "expected"),
    [
        ("llama", {}, ["tie_word_embeddings false", "num_key_value_heads 32"]),
        ("llama", {"tie_word_embeddings": False, "num_key_value_heads": 8}, []),
        ("gpt2", {"tie_word_embeddings": True}, []),  # older decoders have no key for KV heads
        ("qwen3", {"tie_word_embeddings": True, "num_key_value_heads": 8}, ["head_dim 128"]),
        (
            "gemma2",
            {"tie_word_embeddings": True, "num_key_value_heads": 4, "head_dim": 128},
            ["sliding_window 4096", "sliding_window_pattern 2"],
        ),
        (
            "bamba",
            {"tie_word_embeddings": False, "num_key_value_heads": 8, "mamba_d_state": 128, "mamba_expand": 2},
            ["mamba_head_dim 64", "conv_kernel 4", "n_groups 1"],
        ),
        (
            "jamba",
            {"tie_word_embeddings": False, "num_key_value_heads": 8, "mamba_d_state": 16, **EXPERTS},
            [
                *("expand 2", "attn_layer_period 8", "attn_layer_offset 4"),
                *("expert_layer_period 2", "expert_layer_offset 1", "conv_kernel 4"),
            ],
        ),
    ],
)
def test_sizes_that_a_file_leaves_to_its_class_are_listed(
    model_type: str, keys: dict[str, Any], expected: list[str]
) -> None:
    assert assumed(published(model_type, **keys)) == expected


def test_a_file_without_its_main_sizes_is_read_with_a_note_that_lists_them() -> None:
    raw = {"architectures": ["X"], "model_type": "llama", "tie_word_embeddings": False, "num_key_value_heads": 8}
    model = read_model(raw, "x")
    assert (model.hidden_size, model.num_hidden_layers) == (4096, 32)
    sizes = ["hidden_size 4096", "intermediate_size 11008", "num_hidden_layers 32", "num_attention_heads 32"]
    assert assumed(model) == [*sizes, "vocab_size 32000", "max_position_embeddings 2048"]


def test_a_null_is_a_value_and_not_a_missing_key() -> None:
    raw = {"architectures": ["X"], "model_type": "gpt_oss"} | SIZES | EXPERTS
    assert read_model(raw, "x").sliding_window == 128
    unlimited = read_model(raw | {"sliding_window": None}, "x")
    assert unlimited.sliding_window is None
    assert set(unlimited.layer_kinds) == {("full_attention", "sparse")}


def test_a_context_under_another_name_is_not_replaced_by_that_of_the_class() -> None:
    raw = {"architectures": ["X"], "model_type": "baichuan", "model_max_length": 4096} | SIZES
    del raw["max_position_embeddings"]
    assert read_model(raw, "x").max_position_embeddings == 4096


SLIDING = ["sliding_attention", "full_attention"] * 16


@pytest.mark.parametrize(
    ("model_type", "keys", "expected"),
    [
        ("llama", {"n_layer": 30}, "n_layer 30 contradicts num_hidden_layers 32; the latter is used"),
        (
            "gemma2",
            {"layer_types": SLIDING, "sliding_window": 512, "sliding_window_pattern": 4},
            "sliding_window_pattern 4 contradicts layer_types; the latter is used",
        ),
        (
            "qwen3_next",
            {"layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 8, "full_attention_interval": 2}
            | {"linear_num_value_heads": 32, "linear_num_key_heads": 16, "linear_key_head_dim": 128}
            | {"linear_value_head_dim": 128},
            "full_attention_interval 2 contradicts layer_types; the latter is used",
        ),
        (
            "bamba",
            MAMBA2 | {"mamba_expand": 4},
            "expand 4 contradicts the number of Mamba heads and their size; the latter is used",
        ),
        (
            "nemotron_h",
            {"hybrid_override_pattern": "ME*E" * 8, "n_shared_experts": 2}
            | {"moe_shared_expert_intermediate_size": 3712, "ssm_state_size": 64}
            | {"mamba_num_heads": 8, "mamba_head_dim": 64}
            | EXPERTS,
            "2 shared experts: read as one of shared_expert_intermediate_size 3712",
        ),
        (
            "llama",
            EXPERTS | {"mlp_layer_types": ["dense"] + ["sparse"] * 31, "first_k_dense_replace": 3},
            "the keys for the layers with experts contradict the list of layers; the latter is used",
        ),
        (
            "exaone_moe",
            EXPERTS | {"is_moe_layer": [False] + [True] * 31, "first_k_dense_replace": 3},
            "first_k_dense_replace 3 contradicts the list of layers; the latter is used",
        ),
        (
            "deepseek_v3",
            LATENT | {"q_lora_rank": 1536, "qk_head_dim": 64},
            "qk_head_dim 64 contradicts qk_nope_head_dim + qk_rope_head_dim; the latter is used",
        ),
        (
            "glm_moe_dsa",
            LATENT
            | {"q_lora_rank": 1536, "index_n_heads": 4, "index_head_dim": 32, "index_topk": 64}
            | {"indexer_types": ["full", "shared"] * 16, "index_topk_freq": 4},
            "index_topk_freq 4 contradicts the list of indexers; the latter is used",
        ),
        (
            "gpt_neo",
            {"attention_layers": ["global"] * 32, "attention_types": [[["global", "local"], 16]]},
            "attention_types contradicts attention_layers; the latter is used",
        ),
        ("llama", {"hidden_act": "relu2"}, "hidden_act 'relu2': the feed-forward is read with a gate"),
        ("arcee", {"hidden_act": "silu"}, "hidden_act 'silu': the feed-forward is read without a gate"),
    ],
)
def test_keys_that_contradict_each_other_are_noted(model_type: str, keys: dict[str, Any], expected: str) -> None:
    assert any(note.startswith(expected) for note in published(model_type, **keys).notes)


def test_sizes_outside_the_language_model_do_not_count() -> None:
    """Step 3.7, saved by transformers 5, has the class defaults in its text part and the file's own sizes beside it."""
    raw = {"architectures": ["X"], "model_type": "llava", "text_config": SIZES | {"model_type": "llama"}}
    beside = {"hidden_size": 4096, "num_hidden_layers": 45, "vocab_size": 64000}
    model = read_model(raw | beside, "x")
    assert model.num_hidden_layers == 32
    note = "num_hidden_layers, vocab_size beside text_config differ from the values in text_config, which are used"
    assert note in model.notes
    assert note not in read_model(raw, "x").notes


def test_layers_of_the_older_key_of_gpt_neo() -> None:
    turned = published("gpt_neo", attention_types=[[["global"], 30], [["local"], 2]])
    assert turned.layer_kinds == {("full_attention", "dense"): 30, ("sliding_attention", "dense"): 2}


def test_the_embedding_of_each_layer_may_have_a_vocabulary_of_its_own() -> None:
    """Gemma 4 E2B: 32 layers with 64 elements per token; each token fewer saves 2,048 weights."""
    sizes = {"hidden_size_per_layer_input": 64, "num_key_value_heads": 8, "global_head_dim": 256}
    whole, part = (published("gemma4", **sizes, vocab_size_per_layer_input=tokens) for tokens in (32000, 30000))
    assert num_params(whole) - num_params(part) == 2000 * 32 * 64


def test_files_that_transformers_reads_in_another_way() -> None:
    """Each of these counts differs from what the class of transformers builds from the same file."""
    kimi = {"linear_attn_config": {"full_attn_layers": [4], "head_dim": 64, "num_heads": 4}}
    for model, expected in (
        (published("phi-msft"), "which transformers ignores for this model"),
        (published("step3p7", moe_layers_enum="", num_key_value_heads=8), "the file has no text_config"),
        (published("deepseek_v2", **LATENT), "q_lora_rank is not in the file: read as null"),
        (published("kimi_linear", **kimi, **LATENT), "31 of 32 layers keep a state of fixed size"),
    ):
        assert any(expected in note for note in model.notes), expected
    raw = {"architectures": ["X"], "model_type": "deepseek_v2", "q_lora_rank": None} | SIZES | LATENT
    assert not any("q_lora_rank" in note for note in read_model(raw, "x").notes)


def test_an_encoder_has_a_gate_if_its_activation_is_a_gated_one() -> None:
    sizes = {"type_vocab_size": 2, "num_key_value_heads": 32}
    assert published("nomic_bert", activation_function="swiglu", **sizes).gated_mlp
    assert not published("nomic_bert", activation_function="gelu", **sizes).gated_mlp
