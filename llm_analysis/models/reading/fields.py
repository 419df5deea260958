"""Look up the keys of a model file under their different names, and list the unread keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from llm_analysis.errors import BadConfig, shown

MAX_SIZE = 10**9  # largest value of any size in a model file

# Field of ModelConfig, or key that a family or the reader takes: the other names of it in published files.
ALIASES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("n_embd", "n_embed", "d_model", "hidden_dim", "model_dim"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv", "kv_n_heads", "n_kv_heads", "multi_query_group_num"),
    "head_dim": ("kv_channels", "attention_head_dim", "d_head"),
    "intermediate_size": ("ffn_dim", "n_inner", "ffn_hidden_size", "ffn_embed_dim", "inter_size"),
    "max_position_embeddings": ("n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx", "seq_len"),
    "vocab_size": ("n_vocab", "padded_vocab_size"),
    "gated_mlp": ("mlp_gated_linear_units",),
    "num_experts": ("num_local_experts", "moe_num_experts", "n_routed_experts", "num_routed_experts"),
    "num_experts_per_tok": (
        "moe_top_k",
        "experts_per_token",
        "top_k_experts",
        "num_experts_per_token",
        "moe_topk",
        "moe_k",
    ),
    "moe_intermediate_size": ("expert_intermediate_size",),
    "n_shared_experts": ("num_shared_experts", "num_shared_expert", "moe_num_shared_experts"),
    "shared_expert_intermediate_size": ("shared_intermediate_size", "moe_shared_expert_intermediate_size"),
    "head_bias": ("lm_head_bias",),
    "use_qk_norm": ("qk_layernorm", "use_qk_layernorm", "qk_ln"),
    "sliding_window": ("window_size", "sliding_window_size"),
    "sliding_window_pattern": ("_sliding_window_pattern",),
    "attention_output_gate": ("attn_output_gate",),
    "ssm_state_size": ("mamba_d_state", "state_size"),
    "conv_kernel": ("mamba_d_conv",),
    "conv_bias": ("mamba_conv_bias", "use_conv_bias"),
    "time_step_rank": ("mamba_dt_rank",),
    "expand": ("mamba_expand",),
    "mamba_num_heads": ("mamba_n_heads",),
    "mamba_head_dim": ("mamba_d_head",),
    "n_groups": ("mamba_n_groups",),
    "chunk_size": ("mamba_chunk_size",),
    "state_dtype": ("mamba_ssm_dtype", "mamba_ssm_cache_dtype"),
    "num_nextn_predict_layers": ("mtp_num_hidden_layers", "num_mtp_modules"),
    "rope_scaling": ("rope_parameters",),
}

# Keys without effect on time or memory. One of our own files may hold them, and a config.json gets no note for them.
# Caps on logits are among them: they cost a few FLOP per score, inside a kernel that its matrix products dominate.
# fmt: off
IGNORED = frozenset(
    {
        "architectures", "auto_map", "torch_dtype", "dtype", "transformers_version", "initializer_range",
        "use_cache", "pretraining_tp", "bos_token_id", "eos_token_id", "pad_token_id", "hidden_act",
        "hidden_activation", "activation_function", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon",
        "norm_eps", "norm_epsilon", "rope_theta", "rope_scaling", "rope_parameters", "rope_local_base_freq",
        "partial_rotary_factor", "rotary_pct", "rotary_dim", "rotary_emb_base", "attention_dropout",
        "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "attn_logit_softcapping",
        "final_logit_softcapping", "query_pre_attn_scalar", "logit_scale", "router_aux_loss_coef", "norm_topk_prob",
        "routed_scaling_factor", "scoring_func", "topk_method", "topk_group", "n_group", "output_router_logits",
        "tokenizer_class", "cache_implementation", "use_mrope", "num_params_total", "num_active_params_total",
    }
)
# Numbers, lists and objects in published files that change neither sizes nor time, beside the patterns below.
_WITHOUT_EFFECT = frozenset(
    {
        # text generation and classification
        "max_length", "min_length", "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k",
        "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "num_return_sequences",
        "chunk_size_feed_forward", "num_labels", "id2label", "label2id", "task_specific_params", "user_defined_symbols",
        "sparse_pred_ignore_index", "num_logits_to_keep", "sep_token", "generation_config",
        # initialisation and training
        "init_config", "init_std", "embedding_fraction", "rescale_every", "ep_size", "num_ckpt", "moe_capacity",
        "moe_norm_min", "aux_loss_alpha", "seq_aux", "dim_model_base", "hc_eps", "expert_parallel_size",
        # position encoding
        "original_max_position_embeddings", "initial_context_length", "rope_ratio", "rope_percent",
        "rotary_emb_fraction", "rotary_percent", "rotary_emb_scale_base", "alibi_bias_max", "offset_alibi",
        "attn_rotary_emb", "no_rope_layers",
        "no_rope_layer_interval", "layer_switch", "floor_scale", "attn_scale", "rope_scaling_factor", "base",
        "original_rope_theta", "swa_rope_theta", "rotary_base", "rotary_embedding_base", "longrope_scaling_policy",
        "relative_attention_num_buckets", "relative_attention_max_distance",
        # scales and clips of activations and logits
        "scale_emb", "scale_depth", "route_scale", "logits_scaling", "clip_qkv", "swiglu_alpha", "logits_soft_cap",
        "gegelu_limit", "mup_attn_multiplier", "moe_normalize_expert_weights", "attention_scale", "softmax_scale",
        "attention_value_scale", "kda_lower_bound",
        "embedding_scale", "output_multiplier_scale",
        # state-space details without weights
        "time_step_floor", "time_step_max", "time_step_min", "time_step_limit", "time_step_scale",
        # deployment
        "context_window_size", "prefill_chunk_size", "tensor_parallel_shards", "max_batch_size", "attention_sink_size",
        "transformers.js_config", "unsloth_version", "quantization", "pruned_heads", "torchscript",
        # grouping of experts for routing, and layouts of the same weights
        "num_expert_group", "moe_router_scaling_factor", "blocksparse_params", "full_attn_mod", "interpolate_factor",
        # parts that read images
        "embd_layer", "img_processor",
        # used only by layers for multi-token prediction (num_nextn_predict_layers)
        "mtp_layers_block_type", "mtp_transformer_layers", "mtp_loss_scaling_factor", "mtp_per_layer_config",
    }
)
# fmt: on
_HARMLESS_PATTERN = (  # compiled when a published file is read
    r"(_token_ids?|_token_index|_id|_dropout|_dropout_prob|_pdrop|_drop|_eps|_epsilon|_theta|_std|_init_scale|_coef"
    r"|_loss_weight|_jitter_noise|_init_variance_scale|_cutoff_factor|_z_loss|_softcap|_softcapping|_scaling_factor"
    r"|(?<!dim)_multipliers?|_init_factor|_rescale_layer|_rope_freqs?|_limit|_interpolation)$"
    r"|^(dropout|initializer|vision|image|video|audio|mm_|speech|talker|token2wav|token_?2|projector|multimodal|pad_)"
)
# Words of keys that give a size, a number of parts or a pattern of layers.
_SIZE_PATTERN = (
    r"(_size|_dims?|_dim_\w+|_rank|_width|_inner|_heads?|headdim|_layers?|_experts?|_ngroups|_groups|_ratios?|_rates"
    r"|_freq|_pattern|_types?|_type_list|_config|_blocks?|_modules|_indices|_idxs?|_expert_num|_factor|_num_inputs"
    r"|_multiple_of|_dim_multiplier|_mult)$|^(num_|n_|is_moe|altup|laurel|ssm_|mamba_|conv|linear_|d_|lru_|moe_latent)"
)
# Keys that look like sizes and give a note only: attention in chunks still reads the whole context.
_NOTED = frozenset({"dual_chunk_attention_config"})
# Numbers that describe the structure of a family, not its size; no published file has them as keys.
_STRUCTURE = frozenset({"norms_per_layer", "position_offset", "chunk_size", "state_element_bytes"})
# Keys of the language model in a model with images or audio, and of the halves of a layer in a few families.
LANGUAGE_PARTS = ("text_config", "llm_config", "language_config")
_LAYER_PARTS = ("attn_config", "ffn_config")
_SHARED_WITH_PARTS = ("tie_word_embeddings", "quantization_config", "model_type", "use_fp8_e4m3")
# Model types with a meaningless tie_word_embeddings in the text part: its class writes the default.
_TIED_OUTSIDE = ("qwen3_vl_moe", "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker")


class Fields(dict[str, Any]):
    """Keys and values of a model file. `take_...` removes a key that only affects how other keys are read.

    `comments` are notes on how the file was read, `assumed` the values taken from the defaults of its model type.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.comments: list[str] = []
        self.assumed: dict[str, Any] = {}
        self.nulls: set[str] = set()  # keys without a value
        self.repeated: list[tuple[str, Any, str]] = []  # other names of a field with another value than it has

    def note(self, text: str) -> None:
        """Add a note on how the file was read, unless it has the same one."""
        if text not in self.comments:
            self.comments.append(text)

    def assume(self, **values: Any) -> None:
        """Set values that the file leaves out to the defaults of its model type, and record the sizes for a note.

        A null in the file is a value: no window, for example. A list of the layer kinds takes the place of a pattern.
        """
        for key, value in values.items():
            if key in self or key in self.nulls or (key == "sliding_window_pattern" and "layer_types" in self):
                continue
            self[key] = value
            is_size = type(value) in (int, float) and value and key not in _STRUCTURE
            if is_size or key == "tie_word_embeddings":
                self.assumed[key] = value

    def take_assumed(self, key: str, default: int) -> int:
        """Return `take_whole` of the key; a missing one is assumed to be `default`."""
        self.assume(**{key: default})
        return self.take_whole(key)

    def take_part(self, key: str) -> Fields:
        """Remove an object of the file and return its keys; notes on them are notes on the whole file."""
        found = self.pop(key, None)
        part = renamed(found if isinstance(found, dict) else {})
        part.comments, part.assumed = self.comments, self.assumed
        return part

    def drop_derived(self, key: str, value: object, other: str) -> None:
        """Remove a key that follows from the keys `other`; note a value that contradicts them."""
        given = self.pop(key, value)
        if given != value:
            self.note(f"{key} {brief(given)} contradicts {other}; the latter is used")

    def whole(self, key: str, default: int = 0) -> int:
        """Return the whole number under `key`. Raise BadConfig for anything else."""
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_SIZE:
            raise BadConfig(f"{key} must be a whole number from 0 to {MAX_SIZE:,}, not {shown(value)}")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """Return the truth value under `key`. Raise BadConfig for anything else."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise BadConfig(f"{key} must be true or false, not {shown(value)}")
        return value

    def items_of(self, key: str) -> list[Any]:
        """Return the list under `key`, empty if the key is missing. Raise BadConfig for anything else."""
        value = self.get(key, [])
        if not isinstance(value, list):
            raise BadConfig(f"{key} must be a list, not {shown(value)}")
        return value

    def take_ratio(self, key: str, default: float) -> float:
        """Return the number from 0 to 1000 under `key` and remove it. Raise BadConfig for anything else."""
        value = self.pop(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1000:
            raise BadConfig(f"{key} must be a number from 0 to 1000, not {shown(value)}")
        return float(value)

    def take_whole(self, key: str, default: int = 0) -> int:
        """Return `whole` of the key and remove it."""
        value = self.whole(key, default)
        self.pop(key, None)
        return value

    def take_flag(self, key: str, default: bool = False) -> bool:
        """Return `flag` of the key and remove it."""
        value = self.flag(key, default)
        self.pop(key, None)
        return value

    def take_items(self, key: str) -> list[Any]:
        """Return `items_of` the key and remove it."""
        value = self.items_of(key)
        self.pop(key, None)
        return value

    def set_defaults(self, **values: Any) -> None:
        """Set the values of keys that the file leaves out."""
        for key, value in values.items():
            self.setdefault(key, value)


def brief(value: object) -> str:
    """Return a value for a note: a list only by its length."""
    return f"with {len(value)} entries" if isinstance(value, list) else shown(value)


def is_hugging_face(raw: Mapping[str, Any]) -> bool:
    """Return whether the file is a published config.json, which holds many keys that this program does not need."""
    return any(key in raw for key in ("architectures", "transformers_version", "torch_dtype", "dtype", *LANGUAGE_PARTS))


def language_model(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of the language model of a file, with the nested parts of a layer made flat."""
    thinker = raw.get("thinker_config")
    raw = {**raw, **thinker} if isinstance(thinker, Mapping) else raw
    found = dict(raw)
    for part in LANGUAGE_PARTS:
        inner = raw.get(part)
        if isinstance(inner, Mapping):
            found = {key: raw[key] for key in _SHARED_WITH_PARTS if raw.get(key) is not None}
            own = {key: value for key, value in inner.items() if value is not None or key not in found}
            if raw.get("model_type") in _TIED_OUTSIDE and "tie_word_embeddings" in found:
                own.pop("tie_word_embeddings", None)
            found |= own
            break
    for part in _LAYER_PARTS:
        inner = found.pop(part, None)
        if isinstance(inner, Mapping):
            found = {key: value for key, value in inner.items() if key != "model_type"} | found
    return found


def renamed(raw: Mapping[str, Any]) -> Fields:
    """Return the keys that are not null under our names for them. Of several names the first in ALIASES is used."""
    fields = Fields({key: value for key, value in raw.items() if value is not None})
    fields.nulls |= raw.keys() - fields.keys()
    for field, others in ALIASES.items():
        for other in others:
            value = fields.pop(other, None)
            if value is not None and fields.setdefault(field, value) != value and field not in IGNORED:
                fields.repeated.append((other, value, field))
    return fields


def periodic_layers(fields: Fields, period: int, chosen: str, other: str, offset: int | None = None) -> list[str]:
    """Return one kind per layer: `chosen` at `offset` (default: the last) of each `period` layers, else `other`."""
    layers = range(fields.whole("num_hidden_layers"))
    at = period - 1 if offset is None else offset
    return [chosen if period and i % period == at % period else other for i in layers]


def set_periodic_layers(fields: Fields, key: str, period: int, chosen: str, other: str) -> None:
    """Set `layer_types` to `chosen` in the last of each group of layers, else `other`; `key` may give the group's size.

    A list of layer types in the file is used instead; a group size that contradicts it gives a note.
    """
    if "layer_types" in fields:
        given = fields.take_whole(key)
        if given and periodic_layers(fields, given, chosen, other) != fields["layer_types"]:
            fields.note(f"{key} {given} contradicts layer_types; the latter is used")
    else:
        fields["layer_types"] = periodic_layers(fields, fields.take_assumed(key, period), chosen, other)


def by_letter(key: str, pattern: str, meaning: Mapping[str, Any]) -> list[Any]:
    """Return the meaning of each letter of `pattern`. Raise BadConfig for a letter without one."""
    strange = [letter for letter in pattern if letter not in meaning]
    if strange:
        raise BadConfig(f"{key} has {strange[0]!r}, which is none of {', '.join(meaning)}")
    return [meaning[letter] for letter in pattern]


def unread(fields: Mapping[str, Any], read: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the unread keys: those that look like sizes, and other numbers, lists and objects.

    Text, true/false, zeros, empty values and keys known to be without effect are left out.
    """
    known = {*read, *IGNORED, *_WITHOUT_EFFECT}
    sizes: list[str] = []
    others: list[str] = []
    for key, value in fields.items():
        if key not in known and _is_number_or_container(value) and not re.search(_HARMLESS_PATTERN, key):
            is_size = key not in _NOTED and re.search(_SIZE_PATTERN, key) and _is_size(value)
            (sizes if is_size else others).append(key)
    return sizes, others


def _is_number_or_container(value: object) -> bool:
    """Return whether the value is a number other than zero, or a list or object that is not empty."""
    return isinstance(value, (int, float, list, dict)) and not isinstance(value, bool) and bool(value)


def _is_size(value: object) -> bool:
    """Return whether the value can change a size: a factor or a number of groups of 1 cannot."""
    return not isinstance(value, (int, float)) or value > 1
