"""Read a model file: find the family, fill in sizes, list the layers, and report keys that nothing read.

`read_model` takes a Hugging Face config.json, or one of our own files with a subset of its keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from llm_analysis.errors import BadConfig, nearest, one_line, shown
from llm_analysis.models.config import MAX_LAYERS, ModelConfig
from llm_analysis.models.forward import num_params, stored_bytes
from llm_analysis.models.layers.kinds import FEED_FORWARDS, KV_HEADS, MIXERS, base_name
from llm_analysis.models.reading.families.table import Family, family_of
from llm_analysis.models.reading.fields import (
    ALIASES,
    IGNORED,
    LANGUAGE_PARTS,
    MAX_SIZE,
    Fields,
    brief,
    by_letter,
    is_hugging_face,
    language_model,
    periodic_layers,
    renamed,
    unread,
)
from llm_analysis.models.reading.quantization import QUANTIZATION_KEYS, Weights, weights_of
from llm_analysis.physics.dtypes import of_checkpoint

# Names of layer kinds in published files: our names for them.
_OTHER_NAMES = {
    "attention": "full_attention",
    "moe": "sparse",
    "mlp": "dense",
    # Written by transformers 5, which also writes `linear_attention` for the recurrence of a family (see Family.kinds).
    "indexed_attention": "sparse_latent_attention",
    "deepseek_sparse_attention": "sparse_latent_attention",
}
# Sizes that a file with several parts may repeat outside the part of its language model.
_OUTER_SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"),
    *("intermediate_size", "max_position_embeddings", "sliding_window", "num_experts", "moe_intermediate_size"),
)
# Keys for the layers with experts.
_EXPERT_LAYER_KEYS = (
    *("first_k_dense_replace", "mlp_only_layers", "decoder_sparse_step", "interleave_moe_layer_step"),
    *("moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval", "moe_layer_freq", "moe_layers"),
    "is_moe_layer",
)
# Sizes that ModelConfig has a default for, and parts of the names of the mixers that use them.
_DEFAULT_SIZES = {
    "conv_kernel": ("mamba", "rg_lru"),
    "n_groups": ("mamba2",),
    "linear_conv_kernel_dim": ("delta",),
}
# Activations of a feed-forward with a gate, where the type of a file is unknown; others are used with and without one.
_GATED_ACTIVATIONS = ("silu", "swish", "swiglu")
_UNGATED_ACTIVATIONS = ("relu", "relu2", "gelu_new", "gelu_fast")
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "activation")


def read_model(
    raw: Mapping[str, Any], name: str, where: str = "", quantization: Mapping[str, Any] | None = None
) -> ModelConfig:
    """Return the model that a parsed JSON file describes. Raise BadConfig with one line that names the key.

    `quantization` is the parsed hf_quant_config.json beside a config.json that has no `quantization_config`.
    """
    where = where or name
    if quantization and not raw.get("quantization_config"):
        raw = {**raw, "quantization_config": quantization}
    try:
        fields, weights = _read_fields(raw, name)
        model = ModelConfig(**fields)
        note = _prediction_note(model, weights.prediction or model.weight_format)
        return model.model_copy(update={"notes": (*model.notes, note)}) if note else model
    except ValidationError as error:
        raise BadConfig(one_line(error, {*ModelConfig.model_fields, *ALIASES}, where)) from None
    except BadConfig as error:
        raise BadConfig(f"{where}: {error}") from None


def _read_fields(raw: Mapping[str, Any], name: str) -> tuple[dict[str, Any], Weights]:
    """Return the fields of a `ModelConfig` and the formats of the weights. Raise BadConfig.

    Unknown keys of a file of our own stay among the fields, and `ModelConfig` rejects them.
    """
    published = is_hugging_face(raw)
    fields = renamed(language_model(raw))
    family, guess = family_of(fields)
    layers = fields.whole("num_hidden_layers")
    if layers > MAX_LAYERS:
        raise BadConfig(f"num_hidden_layers must be at most {MAX_LAYERS:,}, not {layers:,}")
    if guess:
        fields.note(guess)
        _check_activation(fields)
    _rename_kinds(fields, family)
    if "max_position_embeddings" not in fields and "model_max_length" in fields:
        fields["max_position_embeddings"] = fields.whole("model_max_length")
    fields.assume(**family.defaults, **(family.sizes if published and fields.get("model_type") else {}))
    fields.assume(tie_word_embeddings=False)
    quantization = {key: fields.pop(key) for key in QUANTIZATION_KEYS if key in fields}
    if "vision_config" in raw:
        fields.note("only the language model is counted, not the vision part")
    _note_outer_sizes(raw, fields)
    _read_layer_overrides(fields)
    if _is_embedder(raw, fields):
        fields.set_defaults(output_head=False)
    family.read(fields)
    fields.drop_derived("model_max_length", fields.get("max_position_embeddings"), "max_position_embeddings")
    _read_yarn(fields)
    _fill_in(fields)
    _read_layers(fields)
    weights = weights_of(quantization, fields.whole("num_hidden_layers"), fields.whole("num_experts"), _has_mlp(fields))
    fields.set_defaults(name=name, weight_format=weights.format)
    if weights.note:
        fields.note(weights.note)
    if "hf_ids" in fields:
        fields["hf_ids"] = tuple(fields.items_of("hf_ids"))
    known = {key: value for key, value in fields.items() if key in ModelConfig.model_fields}
    if not published:
        rest = {key: value for key, value in fields.items() if key not in known and key not in IGNORED}
        return known | rest | {"notes": tuple(fields.comments)}, weights
    sizes, others = unread(fields, known)
    if sizes:
        described = f"model_type {shown(str(fields.get('model_type', '')))}"
        raise BadConfig(
            f"{_listed(sizes)}: not supported for {described}, and may change sizes; remove the key if it has no effect"
        )
    if others:
        fields.note(f"keys of the file that were not read: {_listed(others)}")
    _note_sizes(fields)
    _note_activation(fields)
    return known | {"notes": tuple(fields.comments)}, weights


def _note_outer_sizes(raw: Mapping[str, Any], fields: Fields) -> None:
    """Note sizes beside the language model's part of a file that contradict it."""
    part = next((key for key in LANGUAGE_PARTS if isinstance(raw.get(key), Mapping)), "")
    if not part:
        return
    outer = renamed(raw)
    differing = [key for key in _OUTER_SIZES if key in outer and outer[key] != fields.get(key)]
    if differing:
        fields.note(f"{_listed(differing)} beside {part} differ from the values in {part}, which are used")


def _note_sizes(fields: Fields) -> None:
    """Note sizes that a published file gives twice, or leaves to the class of its model type."""
    for other, value, field in fields.repeated:
        if value != fields.get(field):
            fields.note(f"{other} {brief(value)} contradicts {field} {brief(fields.get(field))}; the latter is used")
    if fields.get("output_head") is False:
        fields.assumed.pop("tie_word_embeddings", None)
    if fields["mlp_layer_types"] and "dense" not in fields["mlp_layer_types"]:
        fields.assumed.pop("intermediate_size", None)
    kinds = [base_name(kind) for kind in fields["layer_types"]]
    for key, users in _DEFAULT_SIZES.items():
        if key not in fields and any(user in kind for kind in kinds for user in users):
            fields.assumed[key] = ModelConfig.model_fields[key].default
    if fields.assumed:
        values = ", ".join(f"{key} {json.dumps(value)}" for key, value in fields.assumed.items())
        fields.note(f"not in the file, taken from the defaults of its model_type: {values}")


_SPECULATIVE = "for speculative decoding only"


def _prediction_note(model: ModelConfig, weight_format: str) -> str:
    """Return a note on the layers for multi-token prediction; empty if the model has none.

    Each is a layer like the last, after a projection of two hidden states to one (DeepSeek-V3 report, 2024, 2.2).
    """
    count = model.num_nextn_predict_layers
    if not count:
        return ""
    last = {key: (*kinds, kinds[-1]) for key in ("layer_types", "mlp_layer_types") if (kinds := getattr(model, key))}
    longer = model.model_copy(update={"num_hidden_layers": model.num_hidden_layers + 1, **last})
    projection = 2 * model.hidden_size**2
    params = count * (num_params(longer) - num_params(model) + projection)
    dtypes = of_checkpoint(weight_format)
    size = count * (stored_bytes(longer, dtypes) - stored_bytes(model, dtypes) + projection * dtypes.head.weight_bytes)
    which, them = ("1 layer", "it") if count == 1 else (f"{count} layers", "them")
    return (
        f"{which} for multi-token prediction ({params / 1e9:.1f} billion parameters, {size / 1e9:.1f} GB of the "
        f"checkpoint) not counted: engines load {them} {_SPECULATIVE}"
    )


def without_prediction_note(model: ModelConfig) -> ModelConfig:
    """Return a model without the note that its layers for multi-token prediction are not counted."""
    return model.model_copy(update={"notes": tuple(n for n in model.notes if not n.endswith(_SPECULATIVE))})


def _listed(keys: list[str], most: int = 6) -> str:
    """Return the first keys as text, with the number of the rest."""
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(shown(key)[1:-1] for key in keys[:most]) + more


def _has_mlp(fields: Fields) -> bool:
    """Return whether the model has dense or shared feed-forwards, and not only routed experts."""
    kinds = {base_name(kind) for kind in fields["mlp_layer_types"] or ("dense",)}
    return bool(kinds - {"sparse", "none"}) or fields.whole("shared_expert_intermediate_size") > 0


def _is_embedder(raw: Mapping[str, Any], fields: Fields) -> bool:
    """Return whether the checkpoint is of a class without output head, such as Qwen3Model: an embedding model.

    ChatGLM's class of that name has one, and so have classes of models with images or audio, such as Qwen2_5OmniModel.
    """
    if any(part in raw for part in (*LANGUAGE_PARTS, "thinker_config")):
        return False
    classes = raw.get("architectures")
    name = classes[0] if isinstance(classes, list) and len(classes) == 1 else ""
    bare = str(name).endswith("Model") and not str(name).endswith("LMHeadModel")
    return bare and str(fields.get("model_type")) != "chatglm"


def _check_activation(fields: Fields) -> None:
    """Raise BadConfig if the activation of an unknown family leaves open whether its feed-forward has a gate."""
    activation = fields.get("hidden_act", fields.get("hidden_activation", "silu"))
    if "gated_mlp" not in fields and str(activation) not in _GATED_ACTIVATIONS:
        raise BadConfig(
            f"model_type {shown(str(fields.get('model_type', '')))} is not supported, and hidden_act "
            f'{shown(activation)} leaves open whether its feed-forward has a gate; add "gated_mlp": true or false'
        )


def _note_activation(fields: Fields) -> None:
    """Note an activation that is usual for the other kind of feed-forward, with a gate or without one."""
    activation = next((str(fields[key]) for key in _ACTIVATIONS if key in fields), "")
    gated = fields.get("gated_mlp", True)
    has_feed_forward = set(fields["mlp_layer_types"] or ("dense",)) != {"none"}
    if has_feed_forward and activation in (_UNGATED_ACTIVATIONS if gated else _GATED_ACTIVATIONS):
        kind = "with a gate" if gated else "without a gate"
        fields.note(
            f"hidden_act {shown(activation)}: the feed-forward is read {kind}, as its model_type usually has it"
        )


def _rename_kinds(fields: Fields, family: Family) -> None:
    """Translate the kinds of layers in a file into our names: those of many families, then those of this one."""
    for key in ("layer_types", "mlp_layer_types"):
        if key in fields:
            usual = [_OTHER_NAMES.get(str(kind), str(kind)) for kind in fields.items_of(key)]
            fields[key] = [family.kinds.get(kind, kind) for kind in usual]


def _read_layer_overrides(fields: Fields) -> None:
    """Read `per_layer_config`, the sizes of single layers in files that transformers 5 saved.

    Heads may differ between full-attention layers and the rest, the feed-forward's width between any two layers.
    Raise BadConfig for other differences.
    """
    overrides = fields.pop("per_layer_config", None)
    if not overrides:
        return
    layers, kinds = fields.whole("num_hidden_layers"), fields.items_of("layer_types")
    if not isinstance(overrides, dict) or not all(str(i).isdecimal() and int(i) < layers for i in overrides):
        raise BadConfig("per_layer_config must be an object of layer numbers")
    sizes = {int(i): renamed(sizes if isinstance(sizes, dict) else {}) for i, sizes in overrides.items()}
    full = {i for i, kind in enumerate(kinds) if kind == "full_attention"}
    for key in dict.fromkeys(key for layer in sizes.values() for key in layer):
        values = {i: layer.whole(key) for i, layer in sizes.items() if key in layer}
        if key == "intermediate_size":
            widths = [values.get(i, fields.whole(key)) for i in range(layers)]
            fields["mlp_layer_types"] = [f"dense:{width}" for width in widths]
        elif key in ("head_dim", "num_key_value_heads") and set(values) == full and len({*values.values()}) == 1:
            field = {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}[key]
            fields[field] = next(iter(values.values()))
            fields.assumed.pop(field, None)
        else:
            raise BadConfig(f"per_layer_config gives {key} of some layers, which is not supported")


def _read_yarn(fields: Fields) -> None:
    """Extend the positions by YaRN's factor, which published files apply to their original length.

    YaRN (Peng et al. 2023) multiplies `original_max_position_embeddings` by `factor`; engines such as vLLM serve that
    length, and some files (Qwen2.5) leave `max_position_embeddings` as it was before.
    """
    scaling = fields.get("rope_scaling")
    if not isinstance(scaling, dict) or scaling.get("rope_type", scaling.get("type")) != "yarn":
        return
    factor, original = scaling.get("factor"), scaling.get("original_max_position_embeddings")
    if isinstance(factor, (int, float)) and isinstance(original, int) and 0 < factor * original <= MAX_SIZE:
        fields["max_position_embeddings"] = max(int(factor * original), fields.whole("max_position_embeddings"))


def _fill_in(fields: Fields) -> None:
    """Set sizes that follow from others, and read keys that most families share."""
    heads, hidden = fields.whole("num_attention_heads"), fields.whole("hidden_size")
    ratio = fields.take_ratio("expansion_ratio", 4)
    usual = {"intermediate_size": int(ratio * hidden)} | ({"num_key_value_heads": heads} if heads else {})
    # Files of the older decoders, such as GPT-2, have no key for KV heads, and null for four times the hidden size.
    older = fields.whole("kv_lora_rank") or not fields.get("gated_mlp", True) or not fields.get("output_head", True)
    if not older:
        fields.assume(**usual)
    fields.set_defaults(**usual)
    if heads:
        fields.set_defaults(head_dim=hidden // heads)
    bias = fields.take_flag("attention_bias")
    fields.set_defaults(qkv_bias=bias, attention_output_bias=bias)
    kind = fields.pop("qk_norm_kind", "head")
    if fields.take_flag("use_qk_norm"):
        fields.set_defaults(qk_norm=kind)
    if "position_offset" in fields:
        offset = fields.take_whole("position_offset")
        fields.set_defaults(position_embedding_rows=fields.whole("max_position_embeddings") + offset)
    if fields.pop("state_dtype", None) == "float32":
        fields.set_defaults(state_element_bytes=4)


def _read_layers(fields: Fields) -> None:
    """Set one known kind for each mixer and feed-forward. Raise BadConfig with the key that is wrong."""
    _read_windows(fields)
    _read_latent(fields)
    _read_experts(fields)
    layers = fields.whole("num_hidden_layers")
    for key, known in (("layer_types", MIXERS), ("mlp_layer_types", FEED_FORWARDS)):
        kinds = [str(kind) for kind in fields.items_of(key)]
        for kind in dict.fromkeys(kinds):
            if base_name(kind) not in known:
                usual = f"known are {', '.join(list(known)[:4])} and {len(known) - 4} others"
                problem = f"{key} has {shown(kind)}, a kind of layer that is not supported"
                raise BadConfig(problem + nearest(kind, known, usual))
            _check_own_size(key, kind, known[base_name(kind)].own_size, fields)
        if kinds and len(kinds) != layers:
            raise BadConfig(f"{key} gives the kinds of {len(kinds)} layers, but the model has {layers}")
        for kind in dict.fromkeys(kinds):
            for need in known[base_name(kind)].needs:
                if not fields.whole(need):
                    raise BadConfig(f"missing key {need!r}, which {kind} layers need")
        if set(kinds) <= {"full_attention", "dense"}:
            kinds = []
        fields[key] = tuple(kinds)


def _check_own_size(key: str, kind: str, own_size: str, fields: Fields) -> None:
    """Raise BadConfig for a layer kind with an impossible size of its own."""
    name, colon, size = kind.partition(":")
    if not colon:
        return
    if not own_size:
        raise BadConfig(f"{key} has {shown(kind)}: {name} takes no size of its own")
    most = fields.whole("num_attention_heads") if own_size == KV_HEADS else MAX_SIZE
    if not (size.isascii() and size.isdecimal() and len(size) <= 10 and 0 < int(size) <= most):
        raise BadConfig(f"{key} has {shown(kind)}: its {own_size} must be from 1 to {most:,}")


def _read_windows(fields: Fields) -> None:
    """Set `layer_types` from a sliding window and its pattern; drop a window no shorter than the context."""
    window, pattern = fields.whole("sliding_window"), fields.pop("sliding_window_pattern", None)
    layers = fields.whole("num_hidden_layers")
    turns: list[str] = []
    if isinstance(pattern, str):
        turn = by_letter("sliding_window_pattern", pattern, {"L": "sliding_attention", "G": "full_attention"})
        turns = (turn * layers)[:layers]
    elif isinstance(pattern, int) and pattern > 0:
        turns = periodic_layers(fields, pattern, "full_attention", "sliding_attention")
    elif pattern:
        raise BadConfig(f"sliding_window_pattern must be a whole number or letters, not {shown(pattern)}")
    listed = [str(kind).removeprefix("shared_") for kind in fields.items_of("layer_types")]
    if turns and listed and turns != listed:
        fields.note(f"sliding_window_pattern {shown(pattern)} contradicts layer_types; the latter is used")
    full_until = fields.take_whole("max_window_layers")
    used = fields.take_flag("use_sliding_window", True)
    if not used or not window or window >= fields.whole("max_position_embeddings", MAX_SIZE):
        fields.pop("sliding_window", None)
        kinds = [str(kind).replace("sliding_attention", "full_attention") for kind in fields.items_of("layer_types")]
        if kinds:
            fields["layer_types"] = kinds
        return
    full = min(full_until, layers)
    fields.set_defaults(layer_types=turns or ["full_attention"] * full + ["sliding_attention"] * (layers - full))


def _read_latent(fields: Fields) -> None:
    """Set latent attention in all layers if the file has a rank for keys and values."""
    if not fields.whole("kv_lora_rank"):
        return
    for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
        if not fields.whole(key):
            raise BadConfig(f"missing key {key!r}, which latent attention (kv_lora_rank) needs")
    fields["head_dim"] = fields.whole("qk_nope_head_dim") + fields.whole("qk_rope_head_dim")
    fields.drop_derived("qk_head_dim", fields["head_dim"], "qk_nope_head_dim + qk_rope_head_dim")
    if set(map(str, fields.items_of("indexer_types"))) <= {"full"}:
        fields.pop("indexer_types", None)
    kind = "sparse_latent_attention" if fields.whole("index_topk") else "latent_attention"
    fields.set_defaults(layer_types=[kind] * fields.whole("num_hidden_layers"))


def _read_experts(fields: Fields) -> None:
    """Set the sizes of experts, and `mlp_layer_types` from the keys for the layers with experts."""
    given = any(fields.get(key) for key in _EXPERT_LAYER_KEYS)
    sparse = _sparse_layers(fields)
    number = fields.take_whole("n_shared_experts")
    if not fields.whole("num_experts"):
        return
    kinds = ["sparse" if each else "dense" for each in sparse]
    if given and fields.get("mlp_layer_types", kinds) != kinds:
        fields.note("the keys for the layers with experts contradict the list of layers; the latter is used")
    if not 0 < fields.whole("num_experts_per_tok") <= fields.whole("num_experts"):
        raise BadConfig("num_experts_per_tok must be from 1 to num_experts in a model with experts")
    fields.set_defaults(moe_intermediate_size=fields.whole("intermediate_size"))
    width = number * fields.whole("moe_intermediate_size")
    if number > 1 and fields.get("shared_expert_intermediate_size", width) != width:
        shared = fields["shared_expert_intermediate_size"]
        fields.note(f"{number} shared experts: read as one of shared_expert_intermediate_size {shared}")
    fields.set_defaults(shared_expert_intermediate_size=width, mlp_layer_types=kinds)


def _sparse_layers(fields: Fields) -> list[bool]:
    """Return for each layer whether it has experts; by default all layers have."""
    layers = fields.whole("num_hidden_layers")
    dense_first, dense_listed = fields.take_whole("first_k_dense_replace"), fields.take_items("mlp_only_layers")
    step = fields.take_whole("decoder_sparse_step", 1) or 1
    interleave = fields.take_whole("interleave_moe_layer_step", 1) or 1
    start, end = fields.take_whole("moe_layer_start_index"), fields.take_whole("moe_layer_end_index", layers)
    interval = fields.take_whole("moe_layer_interval", 1) or 1
    frequency: Any = fields.pop("moe_layer_freq", 1)
    listed, flags = fields.take_items("moe_layers"), fields.take_items("is_moe_layer")
    frequency = flags or frequency
    if isinstance(frequency, list):
        sparse = [bool(each) for each in frequency]
        if dense_first and sparse[:dense_first] != [False] * dense_first:
            fields.note(f"first_k_dense_replace {dense_first} contradicts the list of layers; the latter is used")
        return sparse
    if not isinstance(frequency, int) or frequency < 1:
        raise BadConfig(f"moe_layer_freq must be a whole number or a list, not {shown(frequency)}")
    return [
        (i in listed or not listed)
        and max(dense_first, start) <= i <= end
        and i not in dense_listed
        and (i + 1) % step == (i + 1) % interleave == i % frequency == (i + 1) % interval == 0
        for i in range(layers)
    ]
