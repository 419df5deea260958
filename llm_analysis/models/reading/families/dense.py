"""Keys of dense decoders: biases, parallel blocks, windows, shared KV caches."""

from __future__ import annotations

from collections.abc import Callable

from llm_analysis.errors import BadConfig
from llm_analysis.models.reading.fields import Fields, periodic_layers, renamed


def biases(value: bool) -> dict[str, bool]:
    """Return the fields for a bias on every matrix of a layer, or on none."""
    return {"qkv_bias": value, "attention_output_bias": value, "mlp_bias": value}


def read_falcon(fields: Fields) -> None:
    """Read Falcon: one KV head, or groups in the new decoder with two norms before the parallel blocks."""
    new, parallel = fields.take_flag("new_decoder_architecture"), fields.take_flag("parallel_attn", True)
    alone = fields.take_flag("multi_query", True) and not new
    if alone:
        fields["num_key_value_heads"] = 1
    norms = fields.take_whole("num_ln_in_parallel_attn", 2 if new else 1)
    fields.set_defaults(parallel_block=parallel or new, norms_per_layer=norms if parallel or new else 2)
    fields.set_defaults(**biases(fields.take_flag("bias")), rotary=not fields.take_flag("alibi"))


def read_mpt(fields: Fields) -> None:
    """Read MPT: ALiBi and no biases by default."""
    if fields.pop("attn_type", "") == "multiquery_attention":
        fields["num_key_value_heads"] = 1
    bias = not fields.take_flag("no_bias", True)
    fields.set_defaults(rotary=not fields.take_flag("alibi", True), norm_bias=bias, **biases(bias))


def read_multi_query(fields: Fields) -> None:
    """Read StarCoder: one KV head by default."""
    if fields.take_flag("multi_query", True):
        fields["num_key_value_heads"] = 1


def read_biased(key: str, default: bool) -> Callable[[Fields], None]:
    """Return a reader of a family in which the flag `key` gives every matrix a bias."""

    def read(fields: Fields) -> None:
        fields.set_defaults(**biases(fields.take_flag(key, default)))

    return read


def read_attention_biased(key: str, default: bool) -> Callable[[Fields], None]:
    """Return a reader of a family in which the flag `key` gives the attention matrices a bias."""

    def read(fields: Fields) -> None:
        value = fields.take_flag(key, default)
        fields.set_defaults(qkv_bias=value, attention_output_bias=value)

    return read


def read_opt(fields: Fields) -> None:
    """Read OPT: the 350M model has its norms after the blocks, and no final norm."""
    before = fields.take_flag("do_layer_norm_before", True)
    fields.set_defaults(final_norm=before, **biases(fields.take_flag("enable_bias", True)))


def read_gpt_neo(fields: Fields) -> None:
    """Read GPT-Neo: alternating full and windowed layers; no bias on queries, keys and values."""
    kinds, layers = {"global": "full_attention", "local": "sliding_attention"}, fields.whole("num_hidden_layers")
    turns: list[str] = []
    for entry in fields.take_items("attention_types"):  # such as [["global", "local"], 12]
        turn, number = entry if isinstance(entry, list) and len(entry) == 2 else ([], 0)
        if isinstance(turn, list) and turn and isinstance(number, int):
            turns += [str(kind) for kind in turn] * min(number, layers // len(turn) + 1)
    listed = [str(kind) for kind in fields.take_items("attention_layers")]
    if listed and turns and listed != turns:
        fields.note("attention_types contradicts attention_layers; the latter is used")
    chosen = listed or turns or ([*kinds] * layers)[:layers]
    fields.set_defaults(layer_types=[kinds.get(kind, kind) for kind in chosen])


def read_gpt_neox(fields: Fields) -> None:
    """Read GPT-NeoX: parallel attention and feed-forward with a norm each, by default."""
    fields.set_defaults(parallel_block=fields.take_flag("use_parallel_residual", True))


def read_qwen(fields: Fields) -> None:
    """Read Qwen 1: `intermediate_size` is the sum of gate and up."""
    fields.pop("no_bias", None)
    fields["intermediate_size"] = fields.whole("intermediate_size") // 2


def read_chatglm(fields: Fields) -> None:
    """Read ChatGLM 2 and 3 and GLM-4-9B: grouped queries with `multi_query_attention`."""
    if not fields.take_flag("multi_query_attention"):
        fields.pop("num_key_value_heads", None)
    linear = fields.take_flag("add_bias_linear")
    fields.set_defaults(
        qkv_bias=fields.take_flag("add_qkv_bias") or linear, attention_output_bias=linear, mlp_bias=linear
    )


def read_cohere(fields: Fields) -> None:
    """Read Command: the context is `model_max_length`; `max_position_embeddings` is that of pre-training."""
    longest = fields.take_whole("model_max_length")
    fields["max_position_embeddings"] = max(longest, fields.whole("max_position_embeddings", 8192))


def read_apertus(fields: Fields) -> None:
    """Read Apertus: a norm for each head of queries and keys by default."""
    fields["qk_norm"] = "head" if fields.take_flag("qk_norm", True) else "none"


def read_stablelm(fields: Fields) -> None:
    """Read StableLM: optional bias on queries, keys and values, optional parallel blocks."""
    fields.set_defaults(qkv_bias=fields.take_flag("use_qkv_bias"), attention_output_bias=False)
    if fields.take_flag("use_parallel_residual"):
        fields.set_defaults(parallel_block=True, norms_per_layer=1)


def read_older_phi(fields: Fields) -> None:
    """Read Phi in the form of its first code, with other names of keys."""
    fields.note("n_embd, n_layer and other older names of keys are read, which transformers ignores for this model")


def read_nemotron_nas(fields: Fields) -> None:
    """Read Llama-Nemotron: `block_configs` has the sizes of each layer."""
    heads, hidden = fields.whole("num_attention_heads"), fields.whole("hidden_size")
    layers = [nas_layer(block, heads, hidden) for block in fields.take_items("block_configs")]
    groups, widths = [kv_heads for kv_heads, _ in layers], [width for _, width in layers]
    fields["num_key_value_heads"] = max(groups, default=0) or heads
    fields["intermediate_size"] = max(widths, default=0)
    fields.set_defaults(layer_types=[f"full_attention:{kv_heads}" if kv_heads else "none" for kv_heads in groups])
    fields.set_defaults(mlp_layer_types=[f"dense:{width}" if width else "none" for width in widths])


def nas_layer(block: object, heads: int, hidden: int) -> tuple[int, int]:
    """Return KV heads and feed-forward width of one entry of `block_configs`; 0 for a missing part."""
    whole = block if isinstance(block, dict) else {}
    attention, ffn = (renamed(part if isinstance(part := whole.get(k), dict) else {}) for k in ("attention", "ffn"))
    if any(part.get("replace_with_linear") or part.get("sparsify") for part in (attention, ffn)):
        raise BadConfig("block_configs with replace_with_linear or sparsify are not supported")
    ratio = ffn.take_ratio("ffn_mult", 0)
    kv_heads = 0 if attention.flag("no_op") else heads // max(attention.whole("n_heads_in_group", 1), 1)
    return kv_heads, 0 if ffn.flag("no_op") else -(-int(2 * ratio * hidden / 3) // 256) * 256


def read_gemma4(fields: Fields) -> None:
    """Read Gemma 4: the last layers share KV caches; dense and expert parts in parallel; an embedding per layer."""
    layers = fields.whole("num_hidden_layers")
    shared = min(fields.take_whole("num_kv_shared_layers"), layers)
    kinds = fields.items_of("layer_types") or periodic_layers(fields, 6, "full_attention", "sliding_attention")
    fields["layer_types"] = kinds[: layers - shared] + [f"shared_{kind}" for kind in kinds[layers - shared :]]
    wide, width = fields.take_flag("use_double_wide_mlp"), fields.whole("intermediate_size")
    if wide and shared:
        fields["mlp_layer_types"] = ["dense"] * (layers - shared) + [f"dense:{2 * width}"] * shared
    if fields.take_flag("enable_moe_block"):
        fields.set_defaults(shared_expert_intermediate_size=width, norms_per_layer=7)
    else:
        for key in ("num_experts", "num_experts_per_tok", "moe_intermediate_size"):
            fields.pop(key, None)


def read_gemma3n(fields: Fields) -> None:
    """Read Gemma 3n: the last layers share KV caches; each layer has its own width, as a list or one number."""
    layers = fields.whole("num_hidden_layers")
    shared = min(fields.take_whole("num_kv_shared_layers"), layers)
    kinds = fields.items_of("layer_types") or periodic_layers(fields, 5, "full_attention", "sliding_attention")
    fields["layer_types"] = kinds[: layers - shared] + [f"shared_{kind}" for kind in kinds[layers - shared :]]
    widths = fields.get("intermediate_size")
    if isinstance(widths, list):
        fields["mlp_layer_types"] = [f"dense:{width}" for width in widths]
        fields["intermediate_size"] = widths[0] if widths else 0
    for key in ("activation_sparsity_pattern", "altup_active_idx", "altup_coef_clip"):
        fields.pop(key, None)


def read_mllama(fields: Fields) -> None:
    """Read Llama 3.2 Vision: layers that attend to images are stored, and a text prompt skips them."""
    crossing, layers = fields.take_items("cross_attention_layers"), fields.whole("num_hidden_layers")
    fields["layer_types"] = ["cross_attention" if i in crossing else "full_attention" for i in range(layers)]
    fields["mlp_layer_types"] = ["skipped_dense" if i in crossing else "dense" for i in range(layers)]
    note = f"{len(crossing)} layers attend to images: their weights are counted, and a text prompt skips them"
    fields.note(f"{note}; they have no KV cache")
