"""Reading a model: one row for each family's conventions, and what a file leaves unsaid filled in.

`read_model` takes a Hugging Face `config.json` as it is, or one of our own files (a subset of one), under the newer
field names or the older ones, and returns a `ModelConfig`.

To add a family, add a row to FAMILIES: the family's defaults under the keys of its files (a file's own word goes before
them), a function of `family_readers` for what is peculiar to it, and the sizes of its configuration class where
published files leave them out. A type that behaves as another is named in SAME_AS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from llm_analysis import family_readers as readers
from llm_analysis.errors import BadConfig, one_line, shown
from llm_analysis.family_readers import biases
from llm_analysis.fields import ALIASES, IGNORED, Fields, is_hugging_face, language_model, renamed
from llm_analysis.model_config import ModelConfig
from llm_analysis.patterns import read_layers
from llm_analysis.quantization import weights_of


def nothing(fields: Fields) -> None:
    """A family whose files say all."""


class Family(NamedTuple):
    """Defaults of a family, what is peculiar to its files, and the sizes that published files may leave out."""

    defaults: Mapping[str, Any] = {}
    read: Callable[[Fields], None] = nothing
    sizes: Mapping[str, Any] = {}


TIED = {"tie_word_embeddings": True}
LAYERNORM = {"norm": "layernorm"}
PLAIN = {"norm": "layernorm", "gated_mlp": False}  # the older decoders: LayerNorm, two matrices
PARALLEL = {"parallel_block": True, "norms_per_layer": 1}
NO_POSITIONS = {"rotary": False}
GPT = PLAIN | TIED | NO_POSITIONS | biases(True)
LEARNED = {"position_offset": 0}
QKV_BIAS = {"qkv_bias": True, "attention_output_bias": False}
SPARE_OUTPUT_BIAS = {"attention_output_bias": False}  # `attention_bias` is that of queries, keys and values alone
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
LLAMA_SIZES = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
MISTRAL_SIZES = LLAMA_SIZES | {"intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072}

FAMILIES: dict[str, Family] = {
    "llama": Family(sizes=LLAMA_SIZES),
    "mistral": Family(sizes=MISTRAL_SIZES),
    "mixtral": Family(),
    "qwen": Family(QKV_BIAS, readers.read_qwen),
    "qwen2": Family(QKV_BIAS),
    "qwen2_moe": Family(QKV_BIAS | SHARED_GATE),
    "qwen3": Family({"qk_norm": "head"}),
    "qwen3_moe": Family({"qk_norm": "head"}),
    "qwen3_next": Family(DELTA, readers.read_gated_delta),
    "qwen3_5": Family(DELTA, readers.read_gated_delta),
    "qwen3_5_moe": Family(DELTA | {"intermediate_size": 0}, readers.read_gated_delta),
    "gemma": Family(GEMMA),
    "gemma2": Family(GEMMA2),
    "gemma3": Family(GEMMA3, sizes=GEMMA3_SIZES),
    "gemma4": Family(GEMMA4, readers.read_gemma4),
    "phi": Family(PLAIN | PARALLEL | biases(True) | {"head_bias": True}),
    "phi3": Family(),
    "phimoe": Family(LAYERNORM),
    "gpt2": Family(GPT | LEARNED),
    "gptj": Family(PLAIN | PARALLEL | {"mlp_bias": True, "head_bias": True, "rotary": True}),
    "gpt_neo": Family(GPT | LEARNED | {"qkv_bias": False, "sliding_window": 256}, readers.read_gpt_neo),
    "gpt_neox": Family(PLAIN | biases(True), readers.read_gpt_neox),
    "opt": Family(PLAIN | TIED | NO_POSITIONS | {"position_offset": 2}, readers.read_opt),
    "bloom": Family(GPT | {"embedding_norm": True, "max_position_embeddings": 2048}),
    "falcon": Family(PLAIN | TIED | {"max_position_embeddings": 2048}, readers.read_falcon),
    "mpt": Family(PLAIN | TIED, readers.read_mpt),
    "starcoder2": Family(PLAIN | TIED, readers.read_biased("use_bias", True)),
    "gpt_bigcode": Family(GPT | LEARNED, readers.read_multi_query),
    "cohere": Family(LAYERNORM | TIED | PARALLEL | {"norm_bias": False, "qk_norm_kind": "full"}, readers.read_cohere),
    "cohere2": Family(
        LAYERNORM | TIED | PARALLEL | {"norm_bias": False, "sliding_window": 4096, "sliding_window_pattern": 4}
    ),
    "dbrx": Family(LAYERNORM | {"norm_bias": False}, readers.read_dbrx),
    "llama4": Family({"attention_chunk_size": 8192}, readers.read_llama4),
    "gpt_oss": Family(
        {"attention_bias": True, "attention_sinks": True, "router_bias": True, "expert_bias": True}
        | {"sliding_window": 128, "sliding_window_pattern": 2}
    ),
    "glm": Family(QKV_BIAS),
    "glm4": Family(QKV_BIAS | {"norms_per_layer": 4}),
    "glm4_moe": Family(SPARE_OUTPUT_BIAS | {"router_bias": True}),
    "chatglm": Family({}, readers.read_chatglm),
    "internlm": Family({}, readers.read_attention_biased("bias", True)),
    "internlm2": Family({}, readers.read_attention_biased("bias", False)),
    "deepseek_v2": Family(),
    "deepseek_v3": Family({"router_bias": True}),
    "deepseek_v32": Family({"router_bias": True}),
    "minimax": Family({}, readers.read_minimax),
    "minimax_m2": Family({"qk_norm_kind": "full", "router_bias": True}),
    "mimo": Family(SPARE_OUTPUT_BIAS | {"attention_bias": True}),
    "jamba": Family({"rotary": False, "mamba_inner_layernorms": True}, readers.read_jamba),
    "mamba": Family({"norms_per_layer": 1, "max_position_embeddings": 10**6} | TIED, readers.read_mamba),
    "mamba2": Family({"norms_per_layer": 1, "max_position_embeddings": 10**6}, readers.read_mamba2),
    "bamba": Family({}, readers.read_bamba),
    "nemotron_h": Family(
        {"norms_per_layer": 1, "gated_mlp": False, "rotary": False, "router_bias": True}, readers.read_nemotron_h
    ),
    "nemotron-nas": Family({}, readers.read_nemotron_nas),
    "nemotron": Family(LAYERNORM | {"gated_mlp": False}),
    "palm": Family(LAYERNORM | TIED | PARALLEL | {"norm_bias": False}),
    "olmo": Family(LAYERNORM | {"norm_weight": False, "norm_bias": False}),
    "olmo2": Family({"qk_norm": "full"}),
    "olmo3": Family({"qk_norm": "full"}),
    "olmoe": Family({"qk_norm": "full"}),
    "stablelm": Family(LAYERNORM, readers.read_stablelm),
    "granite": Family(TIED),
    "granitemoe": Family(TIED),
    "granitemoehybrid": Family(TIED, readers.read_granite_hybrid),
    "exaone4": Family({"qk_norm": "head"}),
    "ernie4_5": Family(TIED, readers.read_biased("use_bias", False)),
    "ernie4_5_moe": Family(TIED | {"router_bias": True}, readers.read_biased("use_bias", False)),
    "apertus": Family({"qk_norm": "head", "gated_mlp": False}),
    "dots1": Family({"qk_norm": "head", "router_bias": True}),
    "hunyuan_v1_dense": Family({"qk_norm": "head"}),
    "seed_oss": Family(QKV_BIAS),
    "bert": Family(
        GPT | LEARNED | {"embedding_norm": True, "final_norm": False, "output_head": False, "pooler": True},
        readers.read_bert,
    ),
}

# Types whose files and layers are those of another.
SAME_AS = {
    "yi": "llama",
    "baichuan": "llama",
    "smollm3": "llama",
    "aquila": "llama",
    "xverse": "llama",
    "ministral": "mistral",
    "ministral3": "mistral",
    "mistral3": "mistral",
    "devstral": "mistral",
    "gpt": "gpt2",
    "megatron": "gpt2",
    "code_llama": "llama",
    "roberta": "bert",
    "xlm-roberta": "bert",
    "qwen2_vl": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
    "phi4mm": "phi3",
    "phi_moe": "phimoe",
    "deepseek": "mixtral",
    "kimi_k2": "deepseek_v3",
    "kimi_k25": "deepseek_v3",
    "glm_moe_dsa": "deepseek_v32",
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

AS_A_LLAMA = "read as a Llama (RMSNorm, gated feed-forward, rotary positions, no bias but where the file says so)"
# What a file of an unknown type must hold to be read as a Llama, and words of keys that say it is something else.
LLAMA_NEEDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
FOREIGN = (
    *("ssm", "mamba", "conv", "rwkv", "linear_", "block_config", "altup", "lru", "encoder", "decoder_layers", "laurel"),
    *("recurrent", "retention", "hyena", "cross_attention", "is_encoder_decoder", "d_kv", "patch_size"),
)


def read_model(raw: Mapping[str, Any], name: str, where: str = "") -> ModelConfig:
    """The model that a parsed JSON file describes. Raises BadConfig with one line that names the key."""
    where = where or name
    try:
        return ModelConfig(**read_fields(raw, name))
    except ValidationError as error:
        raise BadConfig(one_line(error, {*ModelConfig.model_fields, *ALIASES}, where)) from None
    except BadConfig as error:
        raise BadConfig(f"{where}: {error}") from None


def read_fields(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The fields of a `ModelConfig`, and in one of our own files the keys that are none. Raises BadConfig."""
    published = is_hugging_face(raw)
    fields = renamed(language_model(raw))
    family, notes = family_of(fields)
    guessed = bool(notes)
    fields.offer(**family.defaults, **(family.sizes if published else {}))
    weights = weights_of(fields)
    for key in ("quantization_config", "compression_config", "use_fp8_e4m3"):
        fields.pop(key, None)
    fields.offer(name=name, weight_format=weights.format, quantized_part=weights.part)
    if "vision_config" in raw:
        notes.append("only the language model is counted, not the vision part")
    fields["notes"] = (*notes, weights.note) if weights.note else tuple(notes)
    family.read(fields)
    fill_in(fields)
    read_layers(fields)
    known = {key: value for key, value in fields.items() if key in ModelConfig.model_fields}
    strange = {key: value for key, value in fields.items() if key not in known and key not in IGNORED}
    if not published:
        return known | strange
    sizes = [key for key, value in strange.items() if type(value) is int and not key.endswith(("_id", "_index"))]
    if guessed and sizes:
        known["notes"] += (f"keys that were not understood: {', '.join(sizes)}",)
    return known


def family_of(fields: Fields) -> tuple[Family, list[str]]:
    """The row of the file's `model_type`; Llama's, and a note, for an unknown type that looks like one.

    Raises BadConfig for an unknown type that does not.
    """
    given = str(fields.get("model_type", ""))
    known = given.removesuffix("_text")
    family = FAMILIES.get(SAME_AS.get(known, known))
    if family is not None:
        return family, []
    if not given:
        return FAMILIES["llama"], [f"no model_type: {AS_A_LLAMA}"]
    missing = [key for key in LLAMA_NEEDS if key not in fields]
    strange = [key for key in sorted(fields) if fields[key] and key.startswith(FOREIGN)]
    if missing or strange:
        why = f"it has no {missing[0]}" if missing else f"it has {strange[0]}"
        raise BadConfig(f"model_type {given!r} is not covered, and its file does not read as a Llama's: {why}")
    return FAMILIES["llama"], [f"model_type {given!r} is not one we know: {AS_A_LLAMA}"]


def fill_in(fields: Fields) -> None:
    """Sizes that follow from others, and keys that most families share."""
    heads, hidden = fields.whole("num_attention_heads"), fields.whole("hidden_size")
    if heads:
        fields.offer(num_key_value_heads=heads, head_dim=hidden // heads)
    ratio: Any = fields.pop("expansion_ratio", 4)
    if not isinstance(ratio, (int, float)) or not 0 < ratio < 1000:
        raise BadConfig(f"expansion_ratio must be a number above 0, not {shown(ratio)}")
    fields.offer(intermediate_size=int(ratio * hidden))
    bias = fields.take_flag("attention_bias")
    fields.offer(qkv_bias=bias, attention_output_bias=bias)
    if "model_max_length" in fields:
        fields.offer(max_position_embeddings=fields.take_whole("model_max_length"))
    kind = fields.pop("qk_norm_kind", "head")
    if fields.take_flag("use_qk_norm"):
        fields.offer(qk_norm=kind)
    if "position_offset" in fields:
        offset = fields.take_whole("position_offset")
        fields.offer(position_embedding_rows=fields.whole("max_position_embeddings") + offset)
    if fields.pop("state_dtype", None) == "float32":
        fields.offer(state_element_bytes=4)
