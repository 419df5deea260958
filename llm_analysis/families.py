"""Reading a model: one table of field names, one table of family conventions, one short function per odd family.

`read_model` takes a Hugging Face `config.json` as it is, or one of our own files (a subset of one), under the newer
field names or the older ones, and returns a `ModelConfig`. What a file leaves unsaid is its family's convention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from llm_analysis.errors import BadConfig, one_line
from llm_analysis.model_config import ModelConfig

# Field of ModelConfig: the other names under which files hold it. The first that is present counts.
ALIASES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("n_embd", "n_embed", "d_model", "hidden_dim"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv"),
    "intermediate_size": ("ffn_dim", "n_inner", "ffn_hidden_size", "ffn_embed_dim", "inter_size"),
    "max_position_embeddings": ("n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx"),
    "vocab_size": ("n_vocab", "padded_vocab_size"),
    "gated_mlp": ("mlp_gated_linear_units",),
    "num_experts": ("num_local_experts", "moe_num_experts"),
    "num_experts_per_tok": ("moe_top_k",),
}

LAYERNORM = {"norm": "layernorm", "gated_mlp": False, "qkv_bias": True, "attention_output_bias": True, "mlp_bias": True}
LEARNED = {"rotary": False, "tie_word_embeddings": True}

# What a family does without saying so in its files. A file's own word goes before it.
CONVENTIONS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": "head"},
    "opt": LAYERNORM | LEARNED,
    "gpt2": LAYERNORM | LEARNED,
}

# Keys of our own files that are not fields of ModelConfig under any name but may stand in one.
IGNORED = {"torch_dtype", "architectures"}


def is_hugging_face(raw: Mapping[str, Any]) -> bool:
    """Whether the file is a config.json as published, whose many other keys do not concern us."""
    return any(key in raw for key in ("architectures", "transformers_version", "torch_dtype"))


def read_model(raw: Mapping[str, Any], name: str, where: str = "") -> ModelConfig:
    """The model that a parsed JSON file describes. Raises BadConfig with one line that names the key."""
    fields = renamed(raw)
    known = ModelConfig.model_fields
    if is_hugging_face(raw):
        fields = {key: value for key, value in fields.items() if key in known and value is not None}
    fields = CONVENTIONS.get(str(raw.get("model_type", "")), {}) | fields
    fields.setdefault("name", name)
    fill_in(fields)
    try:
        return ModelConfig(**fields)
    except ValidationError as error:
        raise BadConfig(one_line(error, known, where or name)) from None


def renamed(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The file's keys under our names for them."""
    fields = dict(raw)
    for field, others in ALIASES.items():
        for other in others:
            value = fields.pop(other, None)
            if value is not None:
                fields.setdefault(field, value)
    return fields


def fill_in(fields: dict[str, Any]) -> None:
    """Sizes that follow from others where the file leaves them out."""
    heads, hidden = fields.get("num_attention_heads"), fields.get("hidden_size")
    if not isinstance(heads, int) or not isinstance(hidden, int) or heads <= 0:
        return
    fields.setdefault("num_key_value_heads", heads)
    fields.setdefault("head_dim", hidden // heads)
    fields.setdefault("intermediate_size", 4 * hidden)
    if fields.get("rotary") is False and fields.get("model_type") in ("opt", "gpt2"):
        extra = 2 if fields["model_type"] == "opt" else 0
        fields.setdefault("position_embedding_rows", fields.get("max_position_embeddings", 0) + extra)
