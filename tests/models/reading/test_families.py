"""Reading model files: the traps of published ones, the strictness towards our own, and KV caches counted by hand.

The files here are small ones written for the tests: the keys of a family's files, with the sizes of a known model.
"""

import json
from math import isclose
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, SHARED, SIZES, catalogued, published
from hypothesis import given
from hypothesis import strategies as st

from llm_analysis.errors import BadConfig
from llm_analysis.models.forward import forward, kv_bytes_per_token, num_active_params, num_params
from llm_analysis.models.reading.families.table import FAMILIES, SAME_AS
from llm_analysis.models.reading.reader import read_model
from llm_analysis.physics.dtypes import get_dtypes
from llm_analysis.physics.operators import Step
from llm_analysis.physics.parallelism import Parallelism

PUBLISHED = SHARED / "facts" / "hf_configs"
CATALOGUE = ROOT / "model_configs"
BF16 = get_dtypes("bf16").on({"bf16": 1.0, "fp16": 1.0}, "any")
SSD = {"state_size": 128, "n_groups": 8}


def windows(full: int, sliding: int) -> dict[tuple[str, str], int]:
    return {("sliding_attention", "dense"): sliding, ("full_attention", "dense"): full}


def shape(h: int, L: int, H: int | None, f: int | None, V: int, **more: Any) -> dict[str, Any]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    return dict(zip(names, (h, L, H, f, V), strict=True)) | more


# Parameters of published checkpoints of well-known models, from families that are not in the catalogue.
DEEPSEEK_MOE = {"moe_intermediate_size": 1408, "n_routed_experts": 64, "num_experts_per_tok": 6}
DEEPSEEK_MOE |= {"n_shared_experts": 2, "first_k_dense_replace": 1}
FALCON_RW = {"alibi": True, "bias": True, "multi_query": False, "parallel_attn": False}
CHATGLM = {"multi_query_attention": True, "multi_query_group_num": 2, "add_qkv_bias": True, "ffn_hidden_size": 13696}
COUNTS: list[tuple[str, int, dict[str, Any]]] = [
    ("bert", 109_482_240, shape(768, 12, 12, 3072, 30522, max_position_embeddings=512, type_vocab_size=2)),
    ("gpt_neo", 125_198_592, shape(768, 12, 12, None, 50257, max_position_embeddings=2048, window_size=256)),
    ("falcon", 1_311_625_216, shape(2048, 24, 32, None, 50304, **FALCON_RW)),
    ("bloom", 559_214_592, shape(1024, 24, 16, None, 250880, n_inner=None)),
    ("mamba", 129_135_360, shape(768, 24, None, 1536, 50280, state_size=16, time_step_rank=48)),
    ("mamba2", 7_285_403_648, shape(4096, 64, None, None, 32768, num_heads=128, head_dim=64, **SSD)),
    ("qwen", 7_721_324_544, shape(4096, 32, 32, 22016, 151936, kv_channels=128, no_bias=True)),
    ("chatglm", 6_243_584_000, shape(4096, 28, 32, None, 65024, **CHATGLM)),
    ("glm", 9_399_951_360, shape(4096, 40, 32, 13696, 151552, num_key_value_heads=2, attention_bias=True)),
    ("olmo2", 7_298_617_344, shape(4096, 32, 32, 11008, 100352)),
    ("deepseek", 16_375_728_128, shape(2048, 28, 16, 10944, 102400, **DEEPSEEK_MOE)),
]


@pytest.mark.parametrize(("model_type", "count", "keys"), COUNTS, ids=[row[0] for row in COUNTS])
def test_parameters_of_families_beyond_the_catalogue(model_type: str, count: int, keys: dict[str, Any]) -> None:
    assert num_params(published(model_type, **keys)) == count


# --- traps of published files

LATENT = {"kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
TRAPS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("llama", {}, {"num_key_value_heads": 32, "head_dim": 128, "tie_word_embeddings": False, "qkv_bias": False}),
    ("llama", {"attention_bias": True}, {"qkv_bias": True, "attention_output_bias": True}),
    ("mistral", {"head_dim": 160, "sliding_window": None}, {"head_dim": 160, "layer_types": ()}),
    ("gpt2", {"n_inner": None, "intermediate_size": None}, {"intermediate_size": 16384, "tie_word_embeddings": True}),
    ("gpt2", {}, {"position_embedding_rows": 4096, "norm": "layernorm"}),
    ("opt", {"num_key_value_heads": None}, {"num_key_value_heads": 32, "position_embedding_rows": 4098}),
    ("falcon", {"multi_query": True, "num_kv_heads": 71}, {"num_key_value_heads": 1, "norms_per_layer": 1}),
    (
        "falcon",
        {"multi_query": True, "new_decoder_architecture": True, "num_kv_heads": 8},
        {"num_key_value_heads": 8, "norms_per_layer": 2},
    ),
    ("gpt_bigcode", {"multi_query": True}, {"num_key_value_heads": 1}),
    ("qwen2", {"sliding_window": 4096, "use_sliding_window": False}, {"sliding_window": None, "layer_types": ()}),
    ("phi3", {"sliding_window": 262144}, {"sliding_window": None, "layer_types": ()}),
    ("cohere", {"max_position_embeddings": 8192, "model_max_length": 131072}, {"max_position_embeddings": 131072}),
    (
        "llama4",
        {"intermediate_size": 8192, "intermediate_size_mlp": 16384, "num_local_experts": 128, "num_experts_per_tok": 1},
        {"intermediate_size": 16384, "moe_intermediate_size": 8192, "shared_expert_intermediate_size": 8192},
    ),
    (
        "dbrx",
        {"attn_config": {"kv_n_heads": 8}, "ffn_config": {"moe_num_experts": 16, "moe_top_k": 4}},
        {"num_key_value_heads": 8, "num_experts": 16, "num_experts_per_tok": 4, "norm_bias": False},
    ),
    ("mpt", {"attn_config": {"alibi": True}, "expansion_ratio": 4, "no_bias": True}, {"rotary": False}),
    ("kimi_k2", LATENT, {"head_dim": 192, "layer_types": ("latent_attention",) * 32}),
    ("glm4_moe", {"attention_bias": True}, {"qkv_bias": True, "attention_output_bias": False}),
    ("gptj", {}, {"parallel_block": True, "head_bias": True, "qkv_bias": False, "mlp_bias": True}),
]


@pytest.mark.parametrize(("model_type", "keys", "expected"), TRAPS)
def test_traps_of_published_files(model_type: str, keys: dict[str, Any], expected: dict[str, Any]) -> None:
    model = published(model_type, **keys)
    assert {field: getattr(model, field) for field in expected} == expected


def test_the_language_model_is_lifted_out_and_class_defaults_filled_in() -> None:
    """Gemma-3 4B's file names neither heads nor vocabulary."""
    text = {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34}
    raw = {"architectures": ["X"], "model_type": "gemma3", "text_config": text | {"sliding_window": 1024}}
    model = read_model(raw | {"vision_config": {"hidden_size": 1152}}, "gemma-3-4b")
    assert (model.num_attention_heads, model.num_key_value_heads, model.head_dim) == (8, 4, 256)
    assert (model.vocab_size, model.tie_word_embeddings) == (262208, True)
    assert model.layer_kinds == windows(5, 29)
    assert "vision" in " ".join(model.notes)
    assert num_params(model) == num_params(catalogued("gemma-3-4b"))


def test_two_positions_of_roberta_are_for_padding() -> None:
    """Its files give the rows of the position table: 514 for prompts of up to 512 tokens."""
    for model in (catalogued("roberta-base"), published("xlm-roberta", max_position_embeddings=514)):
        assert (model.max_position_embeddings, model.position_embedding_rows) == (512, 514)


def test_a_bare_infinity_is_read() -> None:
    raw = json.loads('{"architectures": ["X"], "model_type": "llama", "time_step_limit": [0.0, Infinity]}')
    assert read_model(raw | SIZES, "x").hidden_size == 4096


def test_patterns_of_layers() -> None:
    assert published("gemma2", sliding_window=1024).layer_kinds == windows(16, 16)
    assert published("cohere2", sliding_window=1024).layer_kinds == windows(8, 24)
    listed = ["sliding_attention", "full_attention"] * 16
    assert published("gpt_oss", layer_types=listed, sliding_window=128).layer_kinds == windows(16, 16)
    experts = {"num_experts": 8, "num_experts_per_tok": 2}
    for keys, sparse in (
        ({"first_k_dense_replace": 3}, 29),
        ({"decoder_sparse_step": 2}, 16),
        ({"mlp_only_layers": [0, 5]}, 30),
        ({"interleave_moe_layer_step": 2}, 16),
        ({"moe_layer_freq": [0] + [1] * 31}, 31),
    ):
        kinds = published("llama", **experts, **keys).layer_kinds
        assert kinds.get(("full_attention", "sparse")) == sparse, keys


def test_each_layer_may_have_sizes_of_its_own() -> None:
    attention, ffn = {"n_heads_in_group": 8, "no_op": False}, {"ffn_mult": 2.625, "no_op": False}
    blocks = [{"attention": attention, "ffn": ffn}, {"attention": {"no_op": True}, "ffn": ffn | {"ffn_mult": 1.3125}}]
    sizes = {"hidden_size": 8192, "num_attention_heads": 64, "intermediate_size": None}
    model = published("nemotron-nas", num_hidden_layers=32, block_configs=blocks * 16, **sizes)
    assert model.layer_kinds == {("full_attention:8", "dense:14336"): 16, ("none", "dense:7168"): 16}
    assert kv_bytes_per_token(model, BF16) == 16 * 2 * 8 * 128 * 2


# --- unread keys, and files that transformers 5 has saved

EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 1024}
# Keys that a file may leave to the defaults of its class; a note then lists them.
USUAL = {"tie_word_embeddings": False, "num_key_value_heads": 32, "head_dim": 128, "conv_kernel": 4, "n_groups": 1}


@pytest.mark.parametrize(
    ("model_type", "key", "value"),
    [
        ("nemotron_h", "router_latent_size", 1024),
        ("llama", "lora_rank", 64),
        ("qwen3", "sparse_attention_config", {"block_size": 64}),
        ("mistral", "cross_attention_layers", [3, 8]),
        ("deepseek_v3", "copy_expert_num", 256),
    ],
)
def test_an_unread_key_that_changes_sizes_is_rejected(model_type: str, key: str, value: Any) -> None:
    pattern = {"hybrid_override_pattern": "M*E-" * 8, **EXPERTS} if model_type == "nemotron_h" else {}
    pattern |= {"mamba_num_heads": 8, "mamba_head_dim": 64, "ssm_state_size": 64} if pattern else {}
    pattern |= USUAL
    assert not published(model_type, **pattern).notes
    with pytest.raises(BadConfig, match=f"{key}: not supported for model_type '{model_type}'"):
        published(model_type, **pattern, **{key: value})


def test_other_unread_numbers_lists_and_objects_are_listed_in_one_note() -> None:
    unread = {"some_number": 2.5, "some_list": [1], "some_object": {"a": 1}, "some_flag": True, "some_text": "a"}
    model = published("llama", **USUAL, **unread)
    assert model.notes == ("keys of the file that were not read: some_number, some_list, some_object",)
    many = published("llama", **{f"key{i}": i + 1 for i in range(9)})
    assert many.notes[0].endswith("key5 and 3 more")


def test_keys_without_effect_give_no_note() -> None:
    harmless = {"temperature": 0.7, "image_token_id": 5, "attention_dropout": 0.1, "logits_scaling": 8.0}
    assert not published("llama", **USUAL, **harmless, rope_parameters={"rope_theta": 1e4}, id2label={"0": "a"}).notes


def test_an_unknown_type_needs_an_activation_that_implies_a_gate() -> None:
    with pytest.raises(BadConfig, match="hidden_act 'relu2' leaves open whether its feed-forward has a gate"):
        published("brand_new", hidden_act="relu2")
    ungated = published("brand_new", hidden_act="relu2", gated_mlp=False)
    assert num_params(published("llama")) - num_params(ungated) == 32 * 4096 * 11008


def test_layer_kinds_that_transformers_5_writes() -> None:
    sparse = LATENT | {"index_n_heads": 64, "index_head_dim": 128, "index_topk": 2048}
    saved = published("deepseek_v32", **sparse, layer_types=["indexed_attention"] * 32)
    assert saved == published("deepseek_v32", **sparse)
    mamba = {"mamba_n_heads": 8, "mamba_d_head": 64, "mamba_d_state": 64}
    old, new = (
        published("granitemoehybrid", **mamba, layer_types=[kind, full] * 16)
        for kind, full in (("mamba", "attention"), ("linear_attention", "full_attention"))
    )
    assert old == new
    sizes = {key: value for key, value in SIZES.items() if key != "num_hidden_layers"}
    kinds = ["linear_attention", "moe", "full_attention", "mlp"]
    common = {"model_type": "nemotron_h", "architectures": ["X"], "mamba_num_heads": 8, "mamba_head_dim": 64}
    common |= {"ssm_state_size": 64, **EXPERTS, **sizes}
    new = read_model(common | {"layers_block_type": kinds}, "x")
    assert new == read_model(common | {"hybrid_override_pattern": "ME*-", "num_hidden_layers": 4}, "x")


def test_sizes_of_single_layers_that_transformers_5_writes() -> None:
    old = {"global_head_dim": 512, "num_global_key_value_heads": 2, "sliding_window": 512}
    kinds = (["sliding_attention"] * 5 + ["full_attention"]) * 5 + ["sliding_attention"] * 2
    full = {f"{i:02}": {"head_dim": 512, "num_key_value_heads": 2} for i in range(5, 32, 6)}
    common = {"layer_types": kinds, "num_key_value_heads": 8}
    assert published("gemma4", **common, **old) == published(
        "gemma4", **common, sliding_window=512, per_layer_config=full
    )
    with pytest.raises(BadConfig, match="per_layer_config gives head_dim of some layers, which is not supported"):
        published("gemma4", **common, per_layer_config={"0": {"head_dim": 128}})


def test_layers_for_multi_token_prediction_are_mentioned_and_not_counted() -> None:
    model = published("llama", num_nextn_predict_layers=2)
    assert num_params(model) == num_params(published("llama"))
    params = 2 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096 + 2 * 4096**2) / 1e9
    size = f"{params:.1f} billion parameters, {2 * params:.1f} GB of the checkpoint"
    assert f"2 layers for multi-token prediction ({size}) not counted" in model.notes[-1]


def test_a_class_without_output_head_is_an_embedding_model() -> None:
    raw = {"architectures": ["Qwen3Model"], "model_type": "qwen3"} | SIZES
    assert not read_model(raw, "x").output_head
    assert num_params(read_model(raw, "x")) == num_params(published("qwen3")) - 32000 * 4096
    assert read_model(raw | {"architectures": ["GPT2LMHeadModel"]}, "x").output_head


def test_the_flag_of_tied_embeddings_of_a_model_with_images() -> None:
    """The flag of the text part is used, except in Qwen3-VL-MoE, where it is the default of the class."""
    for kind, tied in (("qwen3_vl", True), ("qwen3_vl_moe", False)):
        text = SIZES | {"model_type": f"{kind}_text", "tie_word_embeddings": True}
        raw = {"model_type": kind, "text_config": text, "tie_word_embeddings": False}
        assert read_model(raw, "x").tie_word_embeddings is tied


def test_yarn_extends_the_positions() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert published("qwen2", max_position_embeddings=32768, rope_scaling=yarn).max_position_embeddings == 131072
    assert published("qwen2", max_position_embeddings=163840, rope_parameters=yarn).max_position_embeddings == 163840


# --- files that cannot be read

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "t5", "intermediate_size": None}, "model_type 't5' is not supported"),
    ({"model_type": "new", "ssm_cfg": {"layer": 1}}, "it has ssm_cfg"),
    ({"model_type": "new", "altup_num_inputs": 4}, "it has altup_num_inputs"),
    ({"hidden_size": "4096"}, "hidden_size must be a whole number"),
    ({"model_type": "t" * 5000, "intermediate_size": None}, "model_type 'tttt"),
    ({"model_type": "lfm2", "block_ffn_dim_multiplier": "x"}, "block_ffn_dim_multiplier must be a number from 0 to"),
    ({"layer_types": ["conv"] * 32}, "layer_types has 'conv'"),
    ({"layer_types": ["full_attention"] * 31 + ["none"] * 2}, "gives the kinds of 33 layers, but the model has 32"),
    ({"num_experts": 8}, "num_experts_per_tok must be"),
    ({"kv_lora_rank": 512}, "missing key 'qk_nope_head_dim'"),
    ({"layer_types": ["mamba2"] * 32}, "missing key 'mamba_num_heads', which mamba2 layers need"),
    ({"vocab_size": None}, "missing key 'vocab_size'"),
    ({"layer_types": ["full_attention:-1"] * 32}, "number of KV heads must be from 1 to 32"),
    ({"layer_types": ["full_attention:33"] * 32}, "number of KV heads must be from 1 to 32"),
    ({"layer_types": ["none:3"] * 32}, "none takes no size of its own"),
    ({"mlp_layer_types": ["dense:99999999999999999999"] * 32}, "width must be from 1 to 1,000,000,000"),
    ({"mlp_layer_types": ["dense:"] * 32}, "width must be from 1 to 1,000,000,000"),
    ({"num_key_value_heads": 64}, "num_key_value_heads 64 is more than the 32 of num_attention_heads"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers must be at most 10,000, not 1,000,000,000"),
    ({"num_hidden_layers": 1e9}, "num_hidden_layers must be a whole number from 0 to 1,000,000,000"),
    ({"intermediate_size": 0}, "intermediate_size must be above 0 in a model with dense layers"),
    (
        {"attention_chunk_size": 1, "max_position_embeddings": 10**9, "layer_types": ["chunked_attention"] * 32},
        "more than the limit of 10,000 chunks",
    ),
]


@pytest.mark.parametrize(("keys", "complaint"), REFUSED)
def test_an_unreadable_file_is_refused_with_its_name(keys: dict[str, Any], complaint: str) -> None:
    raw = {"architectures": ["X"], "model_type": "phi3"} | SIZES | keys
    with pytest.raises(BadConfig) as refused:
        read_model(raw, "x", "a/config.json")
    assert complaint in str(refused.value)
    assert str(refused.value).startswith("a/config.json: ")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_an_unknown_type_that_looks_like_a_llama_is_read_as_one() -> None:
    model = published("brand_new", some_number=3, pad_id=0)
    assert "'brand_new' is unknown: read as a Llama" in model.notes[0]
    assert model.notes[1] == "keys of the file that were not read: some_number"
    assert num_params(model) == num_params(published("llama"))


def test_one_of_our_own_files_may_hold_no_unknown_key() -> None:
    with pytest.raises(BadConfig, match="unknown key 'hiden_size'; did you mean hidden_size"):
        read_model({"model_type": "llama", "hiden_size": 1} | SIZES, "x")
    assert read_model({"model_type": "llama", "rope_theta": 1e4} | SIZES, "x").hidden_size == 4096


def test_the_older_names_are_accepted() -> None:
    older = {"hidden_dim": 4096, "n_head": 32, "num_layers": 32, "ffn_embed_dim": 11008, "max_seq_len": 4096}
    model = read_model({"model_type": "llama", "vocab_size": 32000} | older, "x")
    assert num_params(model) == num_params(published("llama"))


def test_every_alias_leads_to_a_family() -> None:
    assert set(SAME_AS.values()) <= set(FAMILIES)
    assert not set(SAME_AS) & set(FAMILIES)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 10**12),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(0, 9), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
NEXT = {f"linear_{key}": 8 for key in ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim")}
STEERING = [
    *SIZES,
    *NEXT,
    *LATENT,
    *("mamba_d_state", "mamba_expand", "mamba_dt_rank", "attn_layer_period", "attn_layer_offset", "num_experts"),
    *("expert_layer_period", "full_attention_interval", "num_experts_per_tok", "n_shared_experts"),
    *("layer_types", "sliding_window", "sliding_window_pattern", "moe_layer_freq", "mlp_only_layers", "block_configs"),
    *("hybrid_override_pattern", "attn_type_list", "no_rope_layers", "quantization_config", "expansion_ratio"),
]


@given(model_type=st.sampled_from(sorted(FAMILIES)), key=st.sampled_from(STEERING), value=JUNK)
def test_any_value_is_read_or_refused(model_type: str, key: str, value: Any) -> None:
    """Never another error than BadConfig."""
    try:
        model = read_model({"architectures": ["X"], "model_type": model_type} | SIZES | NEXT | {key: value}, "x")
    except BadConfig:
        return
    assert num_params(model) >= num_active_params(model) > 0


# --- the published files themselves, where they are at hand

FILES = sorted(PUBLISHED.glob("*.json"))


@pytest.mark.skipif(not FILES, reason="the published files are not at hand")
@pytest.mark.parametrize("path", FILES or [Path("none")], ids=lambda path: path.stem)
def test_published_files_are_read(path: Path) -> None:
    model = read_model(json.loads(path.read_text(encoding="utf-8")), path.stem)
    step = Step(2.0, 1.0, 100.0, "decode")
    assert num_params(model) >= num_active_params(model) > 1e8
    assert sum(float(op.count * op.flops) for op in forward(model, step, BF16, Parallelism())) > 0
    same = [
        m for m in (catalogued(p.stem) for p in CATALOGUE.glob("*.json")) if path.stem.replace("__", "/") in m.hf_ids
    ]
    for twin in same:
        assert isclose(num_params(twin), num_params(model), rel_tol=1e-12)
