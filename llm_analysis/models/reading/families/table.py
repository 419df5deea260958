"""The model families: defaults of their files, and functions for keys with a meaning of their own.

FAMILIES has one row per `model_type`: the defaults under the keys of its files, a function for keys that need more than
renaming, and the sizes that published files may omit. SAME_AS lists types with the files and layers of another type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from llm_analysis.errors import BadConfig, shown
from llm_analysis.models.reading.families import dense, encoders, experts, latent, recurrent
from llm_analysis.models.reading.fields import Fields


def no_special_keys(fields: Fields) -> None:
    """Change nothing: the defaults of the family suffice."""


class Family(NamedTuple):
    """A row of FAMILIES: defaults, a function that reads special keys, sizes that published files may omit."""

    defaults: Mapping[str, Any] = {}
    read: Callable[[Fields], None] = no_special_keys
    sizes: Mapping[str, Any] = {}
    kinds: Mapping[str, str] = {}  # from the names of layer kinds in its files to ours


TIED = {"tie_word_embeddings": True}
LAYERNORM = {"norm": "layernorm"}
PLAIN = {"norm": "layernorm", "gated_mlp": False}  # the older decoders: LayerNorm, two matrices
PARALLEL = {"parallel_block": True, "norms_per_layer": 1}
NO_POSITIONS = {"rotary": False}
GPT = PLAIN | TIED | NO_POSITIONS | dense.biases(True)
LEARNED = {"position_offset": 0}
QKV_BIAS = {"qkv_bias": True, "attention_output_bias": False}
SPARE_OUTPUT_BIAS = {"attention_output_bias": False}  # `attention_bias` covers only queries, keys and values
SHARED_GATE = {"shared_expert_gate": True}
GEMMA = {"tie_word_embeddings": True, "head_dim": 256}
GEMMA2 = GEMMA | {"norms_per_layer": 4, "sliding_window": 4096, "sliding_window_pattern": 2}
GEMMA3 = GEMMA | {"norms_per_layer": 4, "qk_norm": "head", "sliding_window": 4096, "sliding_window_pattern": 6}
GEMMA3_SIZES = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
}
GEMMA4 = GEMMA | {"norms_per_layer": 4, "qk_norm": "head", "sliding_window": 512, "global_head_dim": 512}
DELTA = {"qk_norm": "head", "attention_output_gate": True, "state_element_bytes": 4, "chunk_size": 64}
DELTA_KINDS = {"linear_attention": "gated_delta_net"}
KIMI_KINDS = {"linear_attention": "kimi_delta", "full_attention": "latent_attention"}
LLAMA_SIZES = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
MISTRAL_SIZES = LLAMA_SIZES | {"intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072}

QWEN2_SIZES = LLAMA_SIZES | {"intermediate_size": 22016, "vocab_size": 151936, "max_position_embeddings": 32768}
GEMMA2_SIZES = GEMMA3_SIZES | {"vocab_size": 256000, "max_position_embeddings": 8192}
GEMMA_SIZES = {
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "vocab_size": 256000,
    "max_position_embeddings": 8192,
}
MAMBA2_SIZES = {"ssm_state_size": 256, "conv_kernel": 4, "n_groups": 1}
NO_WEIGHT_NORMS = {"norm_weight": False}
BERT = GPT | LEARNED | {"embedding_norm": True, "final_norm": False, "output_head": False, "pooler": True}
ENCODERS = LAYERNORM | {"norm_bias": False, "final_norm": True, "output_head": False}

FAMILIES: dict[str, Family] = {
    "llama": Family(sizes=LLAMA_SIZES),
    "mistral": Family(sizes=MISTRAL_SIZES),
    "mixtral": Family(),
    "qwen": Family(QKV_BIAS, dense.read_qwen),
    "qwen2": Family(QKV_BIAS, sizes=QWEN2_SIZES),
    "qwen2_moe": Family(QKV_BIAS | SHARED_GATE),
    "qwen3": Family({"qk_norm": "head"}, sizes=QWEN2_SIZES | {"head_dim": 128}),
    "qwen3_moe": Family({"qk_norm": "head"}),
    "qwen3_next": Family(DELTA, recurrent.read_gated_delta, kinds=DELTA_KINDS),
    "qwen3_5": Family(DELTA, recurrent.read_gated_delta, kinds=DELTA_KINDS),
    "qwen3_5_moe": Family(DELTA | {"intermediate_size": 0}, recurrent.read_gated_delta, kinds=DELTA_KINDS),
    "gemma": Family(GEMMA, sizes=GEMMA_SIZES),
    "gemma2": Family(GEMMA2, sizes=GEMMA2_SIZES),
    "gemma3": Family(GEMMA3, sizes=GEMMA3_SIZES),
    "gemma3n": Family(
        GEMMA3
        | {"sliding_window": 512, "altup_num_inputs": 4, "laurel_rank": 64, "hidden_size_per_layer_input": 256}
        | {"vocab_size_per_layer_input": 262144},
        dense.read_gemma3n,
        GEMMA3_SIZES
        | {"hidden_size": 2048, "num_hidden_layers": 35, "num_key_value_heads": 2, "vocab_size": 262400}
        | {"intermediate_size": 16384, "max_position_embeddings": 32768, "num_kv_shared_layers": 15},
    ),
    "recurrent_gemma": Family(
        TIED | {"head_dim": 256, "attention_output_bias": True, "mlp_bias": True, "max_position_embeddings": 8192},
        recurrent.read_recurrent_gemma,
    ),
    "gemma4": Family(GEMMA4, dense.read_gemma4),
    "phi": Family(PLAIN | PARALLEL | dense.biases(True) | {"head_bias": True}),
    "phi-msft": Family(PLAIN | PARALLEL | dense.biases(True) | {"head_bias": True}, dense.read_older_phi),
    "phi3": Family(),
    "phimoe": Family(LAYERNORM),
    "gpt2": Family(GPT | LEARNED),
    "gptj": Family(PLAIN | PARALLEL | {"mlp_bias": True, "head_bias": True, "rotary": True}),
    "gpt_neo": Family(GPT | LEARNED | {"qkv_bias": False, "sliding_window": 256}, dense.read_gpt_neo),
    "gpt_neox": Family(PLAIN | dense.biases(True), dense.read_gpt_neox),
    "opt": Family(PLAIN | TIED | NO_POSITIONS | {"position_offset": 2}, dense.read_opt),
    "bloom": Family(GPT | {"embedding_norm": True, "max_position_embeddings": 2048}),
    "falcon": Family(PLAIN | TIED | {"max_position_embeddings": 2048}, dense.read_falcon),
    "mpt": Family(PLAIN | TIED, dense.read_mpt),
    "starcoder2": Family(PLAIN | TIED, dense.read_biased("use_bias", True)),
    "gpt_bigcode": Family(GPT | LEARNED, dense.read_multi_query),
    "cohere": Family(LAYERNORM | TIED | PARALLEL | {"norm_bias": False, "qk_norm_kind": "full"}, dense.read_cohere),
    "cohere2": Family(
        LAYERNORM | TIED | PARALLEL | {"norm_bias": False, "sliding_window": 4096, "sliding_window_pattern": 4}
    ),
    "dbrx": Family(LAYERNORM | {"norm_bias": False}, experts.read_dbrx),
    "llama4": Family({"attention_chunk_size": 8192}, experts.read_llama4),
    "gpt_oss": Family(
        {"attention_bias": True, "attention_sinks": True, "router_bias": True, "expert_bias": True}
        | {"sliding_window": 128, "sliding_window_pattern": 2}
    ),
    "glm": Family(QKV_BIAS),
    "glm4": Family(QKV_BIAS | {"norms_per_layer": 4}),
    "glm4_moe": Family(SPARE_OUTPUT_BIAS | {"router_bias": True}),
    "chatglm": Family({"output_head": True}, dense.read_chatglm),
    "internlm": Family({}, dense.read_attention_biased("bias", True)),
    "internlm2": Family({}, dense.read_attention_biased("bias", False)),
    "deepseek_v2": Family({}, latent.read_latent),
    "deepseek_v3": Family({"router_bias": True}, latent.read_latent),
    "deepseek_v32": Family({"router_bias": True}, latent.read_sparse_latent),
    "glm_moe_dsa": Family({"router_bias": True}, latent.read_indexed),
    "deepseek_v4": Family({"attention_sinks": True, "hc_mult": 4, "sliding_window": 128}, latent.read_deepseek_v4),
    "longcat_flash": Family({}, experts.read_longcat),
    "kimi_linear": Family({"router_bias": True, "chunk_size": 64}, recurrent.read_kimi_linear, kinds=KIMI_KINDS),
    "bailing_moe": Family({"router_bias": True}, dense.read_biased("use_bias", False)),
    "bailing_hybrid": Family(
        {"router_bias": True, "attention_head_gate": True, "chunk_size": 64},
        recurrent.read_bailing_hybrid,
        kinds=KIMI_KINDS,
    ),
    "minicpm": Family(),
    "minicpm3": Family(
        TIED, latent.read_minicpm3, {"qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "q_lora_rank": 768}
    ),
    "minimax": Family({}, recurrent.read_minimax, kinds={"linear_attention": "lightning_attention"}),
    "minimax_m2": Family({"qk_norm_kind": "full", "router_bias": True}, experts.read_minimax_m2),
    "minimax_m3_vl": Family({"qk_norm_kind": "head", "router_bias": True}, latent.read_minimax_m3),
    "mimo": Family(SPARE_OUTPUT_BIAS | {"attention_bias": True}),
    "mimo_v2_flash": Family({"router_bias": True}, experts.read_mimo_v2),
    "arctic": Family({}, experts.read_arctic),
    "jamba": Family({"rotary": False, "mamba_inner_layernorms": True}, recurrent.read_jamba),
    "mamba": Family({"norms_per_layer": 1} | TIED, recurrent.read_mamba),
    "mamba2": Family({"norms_per_layer": 1}, recurrent.read_mamba2),
    "bamba": Family({}, recurrent.read_bamba),
    "nemotron_h": Family(
        {"norms_per_layer": 1, "gated_mlp": False, "rotary": False, "router_bias": True}
        | {"chunk_size": 128, "state_dtype": "float32"},
        recurrent.read_nemotron_h,
    ),
    "falcon_h1": Family({}, recurrent.read_falcon_h1, MAMBA2_SIZES),
    "zamba2": Family(
        TIED | {"norms_per_layer": 1, "num_mem_blocks": 1},
        recurrent.read_zamba2,
        {"ssm_state_size": 64, "max_position_embeddings": 4096},
    ),
    "lfm2": Family(TIED | {"qk_norm": "head", "conv_bias": False}, recurrent.read_lfm2, kinds={"conv": "short_conv"}),
    "olmo_hybrid": Family(
        DELTA | {"qk_norm": "full", "attention_output_gate": False},
        recurrent.read_olmo_hybrid,
        kinds=DELTA_KINDS,
    ),
    "nemotron-nas": Family({}, dense.read_nemotron_nas),
    "nemotron": Family(LAYERNORM | {"gated_mlp": False}),
    "palm": Family(LAYERNORM | TIED | PARALLEL | {"norm_bias": False}),
    "olmo": Family(LAYERNORM | {"norm_weight": False, "norm_bias": False}),
    "olmo2": Family({"qk_norm": "full"}),
    "olmo3": Family({"qk_norm": "full"}),
    "olmoe": Family({"qk_norm": "full"}),
    "stablelm": Family(LAYERNORM, dense.read_stablelm),
    "granite": Family(TIED),
    "granitemoe": Family(TIED),
    "granitemoehybrid": Family(
        TIED, recurrent.read_granite_hybrid, kinds={"mamba": "mamba2", "linear_attention": "mamba2"}
    ),
    "exaone4": Family({"qk_norm": "head"}),
    "exaone_moe": Family({"qk_norm": "head", "router_bias": True}, experts.read_exaone_moe),
    "solar_open": Family({"intermediate_size": 10240, "router_bias": True}),
    "vaultgemma": Family(GEMMA | {"sliding_window": 4096, "sliding_window_pattern": 2}, sizes=GEMMA2_SIZES),
    "persimmon": Family(PLAIN | dense.biases(True) | {"qk_norm": "head"}),
    "ernie4_5": Family(TIED, dense.read_biased("use_bias", False)),
    "ernie4_5_moe": Family(TIED | {"router_bias": True}, dense.read_biased("use_bias", False)),
    "apertus": Family({"gated_mlp": False}, dense.read_apertus),
    "dots1": Family({"qk_norm": "head", "router_bias": True}),
    "hunyuan_v1_dense": Family({"qk_norm": "head"}, experts.read_hunyuan),
    "afmoe": Family(
        {"qk_norm": "head", "norms_per_layer": 4, "attention_output_gate": True, "router_bias": True},
        experts.read_afmoe,
    ),
    "step3p5": Family({"qk_norm": "head", "attention_head_gate": True, "router_bias": True}, experts.read_step3),
    "bitnet": Family({"sub_norms": True}),
    "arcee": Family({"gated_mlp": False}),
    "nanochat": Family(NO_WEIGHT_NORMS | {"gated_mlp": False}),
    "jais2": Family(LAYERNORM | {"gated_mlp": False, "attention_bias": True, "mlp_bias": True}),
    "grok-1": Family(TIED | {"norms_per_layer": 4}),
    "smollm3": Family(TIED),
    "mllama": Family(
        {},
        dense.read_mllama,
        LLAMA_SIZES
        | {"intermediate_size": 14336, "num_key_value_heads": 8}
        | {"num_hidden_layers": 40, "vocab_size": 128256, "max_position_embeddings": 131072},
    ),
    "modernbert": Family(ENCODERS | {"embedding_norm": True}, encoders.read_encoder),
    "nomic_bert": Family(
        LAYERNORM | {"embedding_norm": True, "final_norm": False, "output_head": False}, encoders.read_encoder
    ),
    "seed_oss": Family(QKV_BIAS),
    "bert": Family(BERT, encoders.read_bert),
    "roberta": Family(BERT | {"position_offset": encoders.ROBERTA_PADDING}, encoders.read_roberta),
}

# Types with the files and layers of another type.
SAME_AS = {
    "yi": "llama",
    "exaone": "llama",
    "internlm3": "llama",
    "baichuan": "llama",
    "phi3_v": "phi3",
    "hunyuan_v1_moe": "hunyuan_v1_dense",
    "hunyuan": "hunyuan_v1_dense",
    "lfm2_moe": "lfm2",
    "bailing_moe_v2": "bailing_moe",
    "step3p7": "step3p5",
    "mllama_text_model": "mllama",
    "gemma4_unified": "gemma4",
    "qwen2_5_omni": "qwen2",
    "qwen2_5_omni_thinker": "qwen2",
    "qwen2_audio": "qwen2",
    "qwen3_omni_moe": "qwen3_moe",
    "qwen3_omni_moe_thinker": "qwen3_moe",
    "aquila": "llama",
    "xverse": "llama",
    "ministral": "mistral",
    "ministral3": "mistral",
    "mistral3": "mistral",
    "devstral": "mistral",
    "gpt": "gpt2",
    "megatron": "gpt2",
    "code_llama": "llama",
    "xlm-roberta": "roberta",
    "qwen2_vl": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
    "phi4mm": "phi3",
    "phi4_multimodal": "phi3",
    "mimo_v2": "mimo_v2_flash",
    "phi_moe": "phimoe",
    "deepseek": "mixtral",
    "kimi_k2": "deepseek_v3",
    "kimi_k25": "deepseek_v3",
    "deepseek_ref": "deepseek_v4",
    "glm4_moe_lite": "deepseek_v3",
    "glm4v": "glm4",
    "glm4v_moe": "glm4_moe",
    "minimax_text_01": "minimax",
    "minimax_m1": "minimax",
    "falcon_mamba": "mamba",
    "codegen": "gptj",
    "RefinedWeb": "falcon",
    "RefinedWebModel": "falcon",
}

# Types with the keys of a Llama and other layers.
UNLIKE = {"jetmoe": "its attention has experts", "jina_embeddings_v3": "its matrices have adapters"}
AS_A_LLAMA = "read as a Llama (RMSNorm, gated feed-forward, rotary positions, no bias unless the file has one)"
# Keys that a file of an unknown type needs to be read as a Llama, and prefixes of keys that exclude this.
LLAMA_NEEDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
FOREIGN = (
    *("ssm", "mamba", "conv", "rwkv", "linear_", "block_config", "altup", "lru", "encoder", "decoder_layers", "laurel"),
    *("hc_", "moe_latent", "zero_expert", "sparse_attention", "compress_"),
    *("recurrent", "retention", "hyena", "cross_attention", "is_encoder_decoder", "d_kv", "patch_size"),
)


def family_of(fields: Fields) -> tuple[Family, str]:
    """Return the row of the file's `model_type`; the row of Llama, with a note, for an unknown type with Llama's keys.

    Raises BadConfig for any other unknown type.
    """
    given = str(fields.get("model_type", ""))
    known = given.removesuffix("_text")
    family = FAMILIES.get(SAME_AS.get(known, known))
    if family is not None:
        return family, ""
    if not given:
        return FAMILIES["llama"], f"no model_type: {AS_A_LLAMA}"
    if known in UNLIKE:
        raise BadConfig(f"model_type {given!r} is not supported: {UNLIKE[known]}")
    missing = [key for key in LLAMA_NEEDS if key not in fields]
    strange = [key for key in sorted(fields) if fields[key] and key.startswith(FOREIGN)]
    if missing or strange:
        why = f"it has no {missing[0]}" if missing else f"it has {strange[0]}"
        raise BadConfig(f"model_type {shown(given)} is not supported, and its file cannot be read as a Llama's: {why}")
    return FAMILIES["llama"], f"model_type {shown(given)} is unknown: {AS_A_LLAMA}"
