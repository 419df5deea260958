"""A model file's keys under our names for them: nested parts lifted out, older names translated, nulls dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_analysis.errors import BadConfig, shown

# Field of ModelConfig (or a key that `conventions` and `patterns` read): the other names under which files hold it.
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
    "num_experts_per_tok": ("moe_top_k", "experts_per_token", "top_k_experts", "moe_topk", "moe_k"),
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
}

# Keys of a config.json that say nothing of time or memory, so that one of our own files may hold them. Caps on logits
# are among them: a few FLOP for each score, inside a kernel that is timed by its products.
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
# Where a model of several senses keeps its language model, and where a few families keep halves of a layer.
LANGUAGE_PARTS = ("text_config", "llm_config", "language_config")
LAYER_PARTS = ("attn_config", "ffn_config")
SHARED_WITH_PARTS = ("tie_word_embeddings", "quantization_config", "model_type", "use_fp8_e4m3")


class Fields(dict[str, Any]):
    """Keys and values of a model file. `take_...` removes a key that only steers how the others are read."""

    def whole(self, key: str, default: int = 0) -> int:
        """The whole number under `key`. Raises BadConfig where it is something else."""
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 10**9:
            raise BadConfig(f"{key} must be a whole number, not {shown(value)}")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """The truth value under `key`. Raises BadConfig where it is something else."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise BadConfig(f"{key} must be true or false, not {shown(value)}")
        return value

    def items_of(self, key: str) -> list[Any]:
        """The list under `key`; empty where there is none. Raises BadConfig where it is something else."""
        value = self.get(key, [])
        if not isinstance(value, list):
            raise BadConfig(f"{key} must be a list, not {shown(value)}")
        return value

    def take_whole(self, key: str, default: int = 0) -> int:
        """`whole`, removing the key."""
        value = self.whole(key, default)
        self.pop(key, None)
        return value

    def take_flag(self, key: str, default: bool = False) -> bool:
        """`flag`, removing the key."""
        value = self.flag(key, default)
        self.pop(key, None)
        return value

    def take_items(self, key: str) -> list[Any]:
        """`items_of`, removing the key."""
        value = self.items_of(key)
        self.pop(key, None)
        return value

    def offer(self, **values: Any) -> None:
        """Values for the keys that the file leaves out."""
        for key, value in values.items():
            self.setdefault(key, value)


def is_hugging_face(raw: Mapping[str, Any]) -> bool:
    """Whether the file is a config.json as published, whose many other keys do not concern us."""
    return any(key in raw for key in ("architectures", "transformers_version", "torch_dtype", "dtype", *LANGUAGE_PARTS))


def language_model(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the language model, out of a file that may hold other models too, layers' parts made flat."""
    found = dict(raw)
    for part in LANGUAGE_PARTS:
        inner = raw.get(part)
        if isinstance(inner, Mapping):
            found = {key: raw[key] for key in SHARED_WITH_PARTS if raw.get(key) is not None}
            found |= {key: value for key, value in inner.items() if value is not None}
            break
    for part in LAYER_PARTS:
        inner = found.pop(part, None)
        if isinstance(inner, Mapping):
            found = {key: value for key, value in inner.items() if key != "model_type"} | found
    return found


def renamed(raw: Mapping[str, Any]) -> Fields:
    """The keys that are not null, under our names for them. Of several names the first in ALIASES counts."""
    fields = Fields({key: value for key, value in raw.items() if value is not None})
    for field, others in ALIASES.items():
        for other in others:
            value = fields.pop(other, None)
            if value is not None:
                fields.setdefault(field, value)
    return fields


def every(fields: Fields, period: int, chosen: str, other: str, offset: int | None = None) -> list[str]:
    """A list of layers: `chosen` in each `period` of them at `offset` (the last by default), `other` elsewhere."""
    layers = range(fields.whole("num_hidden_layers"))
    at = period - 1 if offset is None else offset
    return [chosen if period and i % period == at % period else other for i in layers]


def by_letter(key: str, pattern: str, meaning: Mapping[str, Any]) -> list[Any]:
    """What each letter of `pattern` stands for. Raises BadConfig for one that stands for nothing."""
    strange = [letter for letter in pattern if letter not in meaning]
    if strange:
        raise BadConfig(f"{key} has {strange[0]!r}, which is none of {', '.join(meaning)}")
    return [meaning[letter] for letter in pattern]
