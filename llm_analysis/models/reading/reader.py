"""Read a model file: find the family, fill in sizes, list the layers, and report keys that nothing read.

`read_model` takes a Hugging Face config.json, or one of our own files with a subset of its keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from llm_analysis.errors import BadConfig, nearest, one_line, shown
from llm_analysis.models.config import MAX_LAYERS, ModelConfig
from llm_analysis.models.forward import num_params
from llm_analysis.models.layers.kinds import FEED_FORWARDS, KV_HEADS, MIXERS, base_name
from llm_analysis.models.reading.families import Family, family_of
from llm_analysis.models.reading.fields import (
    ALIASES,
    IGNORED,
    LANGUAGE_PARTS,
    MAX_SIZE,
    Fields,
    by_letter,
    every,
    is_hugging_face,
    language_model,
    renamed,
    unread,
)
from llm_analysis.models.reading.quantization import QUANTIZATION_KEYS, weights_of

# Names of layer kinds in published files: our names for them.
_OTHER_NAMES = {
    "attention": "full_attention",
    "moe": "sparse",
    "mlp": "dense",
    # Written by transformers 5; `linear_attention` is the recurrence of the family (Family.linear_attention).
    "indexed_attention": "sparse_latent_attention",
    "deepseek_sparse_attention": "sparse_latent_attention",
}
# Activations of a feed-forward with a gate, where the type of a file is unknown; others are used with and without one.
_GATED_ACTIVATIONS = ("silu", "swish", "swiglu")


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
        model = ModelConfig(**_read_fields(raw, name))
        note = _prediction_note(model)
        return model.model_copy(update={"notes": (*model.notes, note)}) if note else model
    except ValidationError as error:
        raise BadConfig(one_line(error, {*ModelConfig.model_fields, *ALIASES}, where)) from None
    except BadConfig as error:
        raise BadConfig(f"{where}: {error}") from None


def _read_fields(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the fields of a `ModelConfig`, with the unknown keys of a file of our own. Raise BadConfig."""
    published = is_hugging_face(raw)
    fields = renamed(language_model(raw))
    family, notes = family_of(fields)
    layers = fields.whole("num_hidden_layers")
    if layers > MAX_LAYERS:
        raise BadConfig(f"num_hidden_layers must be at most {MAX_LAYERS:,}, not {layers:,}")
    guessed = bool(notes)
    if guessed:
        _check_activation(fields)
    _rename_kinds(fields, family)
    fields.offer(**family.defaults, **(family.sizes if published else {}))
    quantization = {key: fields.pop(key) for key in QUANTIZATION_KEYS if key in fields}
    if "vision_config" in raw:
        notes.append("only the language model is counted, not the vision part")
    fields["notes"] = tuple(notes)
    _read_layer_overrides(fields)
    if _is_embedder(raw, fields):
        fields.offer(output_head=False)
    family.read(fields)
    _read_yarn(fields)
    _fill_in(fields)
    _read_layers(fields)
    weights = weights_of(quantization, fields.whole("num_hidden_layers"), fields.whole("num_experts"), _has_mlp(fields))
    fields.offer(name=name, weight_format=weights.format)
    fields["notes"] += (weights.note,) if weights.note else ()
    if "hf_ids" in fields:
        fields["hf_ids"] = tuple(fields.items_of("hf_ids"))
    known = {key: value for key, value in fields.items() if key in ModelConfig.model_fields}
    if not published:
        return known | {key: value for key, value in fields.items() if key not in known and key not in IGNORED}
    sizes, others = unread(fields, known)
    if sizes:
        described = f"model_type {shown(str(fields.get('model_type', '')))}"
        raise BadConfig(
            f"{_listed(sizes)}: not understood for {described}, and may change sizes; remove if without effect"
        )
    if others:
        known["notes"] += (f"keys of the file that were not read: {_listed(others)}",)
    return known


def _prediction_note(model: ModelConfig) -> str:
    """Return a note on the layers for multi-token prediction; empty if the model has none.

    Each is a layer like the last, after a projection of two hidden states to one (DeepSeek-V3 report, 2024, 2.2).
    """
    count = model.num_nextn_predict_layers
    if not count:
        return ""
    last = {key: (*kinds, kinds[-1]) for key in ("layer_types", "mlp_layer_types") if (kinds := getattr(model, key))}
    longer = model.model_copy(update={"num_hidden_layers": model.num_hidden_layers + 1, **last})
    params = count * (num_params(longer) - num_params(model) + 2 * model.hidden_size**2)
    layers = "layer" if count == 1 else "layers"
    return (
        f"{count} {layers} for multi-token prediction, {params / 1e9:.1f} billion parameters, not counted: "
        "engines load them for speculative decoding only"
    )


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
    """Raise BadConfig if the activation of an unknown family does not tell whether its feed-forward has a gate."""
    activation = fields.get("hidden_act", fields.get("hidden_activation", "silu"))
    if "gated_mlp" not in fields and str(activation) not in _GATED_ACTIVATIONS:
        raise BadConfig(
            f"model_type {shown(str(fields.get('model_type', '')))} is not covered, and hidden_act {shown(activation)} "
            'does not say whether its feed-forward has a gate; add "gated_mlp": true or false'
        )


def _rename_kinds(fields: Fields, family: Family) -> None:
    """Translate the kinds of layers in a file into our names, `linear_attention` into the family's recurrence."""
    names = _OTHER_NAMES | ({"linear_attention": family.linear_attention} if family.linear_attention else {})
    for key in ("layer_types", "mlp_layer_types"):
        if key in fields:
            fields[key] = [names.get(str(kind), str(kind)) for kind in fields.items_of(key)]


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
        else:
            raise BadConfig(f"per_layer_config gives {key} of some layers, which is not covered")


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
    if heads:
        fields.offer(num_key_value_heads=heads, head_dim=hidden // heads)
    fields.offer(intermediate_size=int(fields.take_ratio("expansion_ratio", 4) * hidden))
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
                raise BadConfig(f"{key} has {shown(kind)}, a kind of layer that is not covered{nearest(kind, known)}")
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
    """Raise BadConfig for a layer kind with a size of its own that cannot be."""
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
    full_until = fields.take_whole("max_window_layers")
    used = fields.take_flag("use_sliding_window", True)
    if not used or not window or window >= fields.whole("max_position_embeddings", MAX_SIZE):
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


def _read_latent(fields: Fields) -> None:
    """Set latent attention in all layers if the file has a rank for keys and values."""
    if not fields.whole("kv_lora_rank"):
        return
    fields.pop("qk_head_dim", None)
    for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
        if not fields.whole(key):
            raise BadConfig(f"missing key {key!r}, which latent attention (kv_lora_rank) needs")
    fields["head_dim"] = fields.whole("qk_nope_head_dim") + fields.whole("qk_rope_head_dim")
    if set(map(str, fields.items_of("indexer_types"))) <= {"full"}:
        fields.pop("indexer_types", None)
    kind = "sparse_latent_attention" if fields.whole("index_topk") else "latent_attention"
    fields.offer(layer_types=[kind] * fields.whole("num_hidden_layers"))


def _read_experts(fields: Fields) -> None:
    """Set the sizes of experts, and `mlp_layer_types` from the keys that say which layers have experts."""
    kinds = _sparse_layers(fields)
    number = fields.take_whole("n_shared_experts")
    if not fields.whole("num_experts"):
        return
    if not 0 < fields.whole("num_experts_per_tok") <= fields.whole("num_experts"):
        raise BadConfig("num_experts_per_tok must be from 1 to num_experts in a model with experts")
    fields.offer(moe_intermediate_size=fields.whole("intermediate_size"))
    fields.offer(shared_expert_intermediate_size=number * fields.whole("moe_intermediate_size"))
    fields.offer(mlp_layer_types=["sparse" if sparse else "dense" for sparse in kinds])


def _sparse_layers(fields: Fields) -> list[bool]:
    """Return for each layer whether it has experts; all have if the file does not say."""
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
