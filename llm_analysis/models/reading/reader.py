"""Per-layer patterns: which mixer and which feed-forward each layer has, from the keys by which files say so.

What the `quantization_config` of a checkpoint says of its weights, as one of our everyday dtype names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from llm_analysis.errors import BadConfig, nearest, one_line, shown
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.layers.kinds import FEED_FORWARDS, MIXERS, base_name
from llm_analysis.models.reading.families import family_of
from llm_analysis.models.reading.fields import (
    ALIASES,
    IGNORED,
    Fields,
    by_letter,
    every,
    is_hugging_face,
    language_model,
    renamed,
)

# Methods that name the format themselves.
METHODS = {
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
    "mxfp4": "mxfp4",
    "nvfp4": "nvfp4",
    "eetq": "w8a16",
    "finegrained_fp8": "fp8",
}
# NVIDIA ModelOpt's names of algorithms.
ALGORITHMS = {
    "FP8": "fp8",
    "FP8_PB_WO": "fp8_block",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "W4A16_AWQ": "int4",
    "INT4_AWQ": "int4",
    "W8A8_SQ_PER_CHANNEL": "int8",
    "INT8_SQ": "int8",
    "W8A16": "w8a16",
    "MXFP4": "mxfp4",
}


class Weights(NamedTuple):
    """How a checkpoint holds its weights."""

    format: str = ""  # everyday dtype name; empty: as the user asks
    part: str = "all"  # all | experts
    note: str = ""


def weights_of(raw: Mapping[str, Any]) -> Weights:
    """The format of a parsed config.json's weights; empty where it is not quantised."""
    found: Any = raw.get("quantization_config") or raw.get("compression_config")
    if not isinstance(found, Mapping):
        if raw.get("use_fp8_e4m3") is True:
            return Weights("fp8")
        return Weights()
    name, method = format_of(found), str(found.get("quant_method", "")) or "unnamed"
    if not name:
        bits = whole(found.get("bits")) or whole(found.get("w_bit"))
        kind = f"{method!r}" + (f" of {bits} bits" if bits else "")
        return Weights(note=f"quantization {kind} is not one we know: weights take dtype_name, 16 bits without it")
    if attention_left_alone(found.get("modules_to_not_convert") or found.get("ignore")):
        return Weights(name, "experts", f"{name} checkpoint: only the experts' weights are quantised")
    return Weights(name)


def attention_left_alone(modules: Any) -> bool:
    """Whether a list of modules that stay as they are names the attention of all layers, by a wildcard."""
    names = modules if isinstance(modules, list) else []
    return any("self_attn" in str(name) and "*" in str(name) for name in names)


def format_of(config: Mapping[str, Any]) -> str:
    """The everyday dtype name of a `quantization_config`, or "" where it is of no kind we know."""
    method = str(config.get("quant_method", "")).lower().replace("_", "-")
    if method in ("awq", "gptq", "auto-round", "gptq-marlin", "awq-marlin", "hqq"):
        return {4: "int4", 8: "w8a16"}.get(whole(config.get("bits", config.get("w_bit", 4))), "")
    if method.startswith("bitsandbytes") or "load_in_4bit" in config or "load_in_8bit" in config:
        return "int4" if config.get("load_in_4bit") or config.get("_load_in_4bit") else "int8"
    algorithm = config.get("quant_algo") or nested(config, "quantization", "quant_algo")
    if algorithm:
        return ALGORITHMS.get(str(algorithm).upper(), "")
    groups = config.get("config_groups")
    if isinstance(groups, Mapping) and groups:
        return group_format(next(iter(groups.values())))
    if method == "quark":
        kind = str(nested(config, "global_quant_config", "weight", "dtype"))
        return {"fp8_e4m3": "fp8", "fp4": "mxfp4", "int8": "int8", "int4": "int4"}.get(kind, "")
    name = METHODS.get(method.replace("-", "_"), "")
    return "fp8_block" if name == "fp8" and config.get("weight_block_size") else name


def group_format(group: Any) -> str:
    """The everyday dtype name of one group of a compressed-tensors checkpoint: weights' bits, kind and group size."""
    weights = nested(group, "weights")
    bits, kind = whole(nested(weights, "num_bits")), str(nested(weights, "type"))
    if kind == "float":
        return {8: "fp8", 4: "nvfp4" if whole(nested(weights, "group_size")) == 16 else "mxfp4"}.get(bits, "")
    activations = whole(nested(group, "input_activations", "num_bits")) or 16
    return {(4, 16): "int4", (8, 8): "int8", (8, 16): "w8a16", (4, 8): "w4a8"}.get((bits, activations), "")


def nested(value: Any, *keys: str) -> Any:
    """What lies under `keys`, one inside the other; None where the path ends."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def whole(value: Any) -> int:
    """`value` if it is a whole number, else 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


# Names by which files call a kind of layer that we know under another.
OTHER_NAMES = {"attention": "full_attention", "moe": "sparse", "mlp": "dense"}


def read_windows(fields: Fields) -> None:
    """Sets `layer_types` from a sliding window and its pattern; drops a window that bounds nothing."""
    window, pattern = fields.whole("sliding_window"), fields.pop("sliding_window_pattern", None)
    full_until = fields.take_whole("max_window_layers")
    used = fields.take_flag("use_sliding_window", True)
    if not used or not window or window >= fields.whole("max_position_embeddings", 10**9):
        fields.pop("sliding_window", None)
        kinds = [str(kind).replace("sliding_attention", "full_attention") for kind in fields.items_of("layer_types")]
        if kinds:
            fields["layer_types"] = kinds
        return
    layers = fields.whole("num_hidden_layers")
    if isinstance(pattern, str):
        turn = by_letter("sliding_window_pattern", pattern, {"L": "sliding_attention", "G": "full_attention"})
        fields.offer(layer_types=(turn * layers)[:layers])
    elif isinstance(pattern, int) and pattern > 0:
        fields.offer(layer_types=every(fields, pattern, "full_attention", "sliding_attention"))
    elif pattern is not None:
        raise BadConfig(f"sliding_window_pattern must be a whole number or letters, not {shown(pattern)}")
    full = min(full_until, layers)
    fields.offer(layer_types=["full_attention"] * full + ["sliding_attention"] * (layers - full))


def read_latent(fields: Fields) -> None:
    """Multi-head latent attention in all layers, where there is a rank to compress keys and values to."""
    if not fields.whole("kv_lora_rank"):
        return
    fields.pop("qk_head_dim", None)
    for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
        if not fields.whole(key):
            raise BadConfig(f"missing key {key!r}, which latent attention (kv_lora_rank) needs")
    fields["head_dim"] = fields.whole("qk_nope_head_dim") + fields.whole("qk_rope_head_dim")
    kind = "sparse_latent_attention" if fields.whole("index_topk") else "latent_attention"
    fields.offer(layer_types=[kind] * fields.whole("num_hidden_layers"))


def read_experts(fields: Fields) -> None:
    """Sets the experts' sizes, and `mlp_layer_types` from the keys that say which layers have experts."""
    kinds = sparse_layers(fields)
    if not fields.whole("num_experts"):
        return
    if not 0 < fields.whole("num_experts_per_tok") <= fields.whole("num_experts"):
        raise BadConfig("num_experts_per_tok must be from 1 to num_experts where a model has experts")
    fields.offer(moe_intermediate_size=fields.whole("intermediate_size"))
    number = fields.take_whole("n_shared_experts")
    fields.offer(shared_expert_intermediate_size=number * fields.whole("moe_intermediate_size"))
    fields.offer(mlp_layer_types=["sparse" if sparse else "dense" for sparse in kinds])


def sparse_layers(fields: Fields) -> list[bool]:
    """Which layers have experts; all of them where the file says nothing."""
    layers = fields.whole("num_hidden_layers")
    dense_first, dense_listed = fields.take_whole("first_k_dense_replace"), fields.take_items("mlp_only_layers")
    step = fields.take_whole("decoder_sparse_step", 1) or 1
    interleave = fields.take_whole("interleave_moe_layer_step", 1) or 1
    start, end = fields.take_whole("moe_layer_start_index"), fields.take_whole("moe_layer_end_index", layers)
    interval = fields.take_whole("moe_layer_interval", 1) or 1
    frequency: Any = fields.pop("moe_layer_freq", 1)
    listed = fields.take_items("moe_layers")
    if isinstance(frequency, list):
        return [bool(sparse) for sparse in frequency]
    if not isinstance(frequency, int) or frequency < 1:
        raise BadConfig(f"moe_layer_freq must be a whole number or a list, not {shown(frequency)}")
    return [
        (i in listed or not listed)
        and max(dense_first, start) <= i <= end
        and i not in dense_listed
        and (i + 1) % step == (i + 1) % interleave == i % frequency == (i + 1) % interval == 0
        for i in range(layers)
    ]


def read_layers(fields: Fields) -> None:
    """All of a model's layers, checked: one known kind for each. Raises BadConfig with the key that is wrong."""
    read_windows(fields)
    read_latent(fields)
    read_experts(fields)
    layers = fields.whole("num_hidden_layers")
    for key, known in (("layer_types", MIXERS), ("mlp_layer_types", FEED_FORWARDS)):
        kinds = [OTHER_NAMES.get(str(kind), str(kind)) for kind in fields.items_of(key)]
        for kind in kinds:
            if base_name(kind) not in known:
                raise BadConfig(f"{key} has {kind!r}, a kind of layer that is not covered{nearest(kind, known)}")
        if kinds and len(kinds) != layers:
            raise BadConfig(f"{key} names {len(kinds)} layers of {layers}")
        for kind in dict.fromkeys(kinds):
            for need in known[base_name(kind)].needs:
                if not fields.whole(need):
                    raise BadConfig(f"missing key {need!r}, which {kind} layers need")
        if set(kinds) <= {"full_attention", "dense"}:
            kinds = []
        fields[key] = tuple(kinds)


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
