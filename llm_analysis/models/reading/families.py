"""The model families: defaults of their files, and functions for keys with a meaning of their own.

FAMILIES has one row per `model_type`: the defaults under the keys of its files, a function for keys that need more than
renaming, and the sizes that published files may omit. SAME_AS lists types with the files and layers of another type.

A function `read_...` changes the fields in place: it removes keys that only control how others are read, and sets
defaults for keys that the file omits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from llm_analysis.errors import BadConfig, shown
from llm_analysis.models.reading.fields import Fields, by_letter, periodic_layers, renamed, set_periodic_layers

NO_LIMIT = 10**6  # positions of a model that keeps a state instead of a cache
ROBERTA_PADDING = 2  # rows of RoBERTa's position table that no token uses
ENCODER = "an encoder: it reads all tokens in one pass and generates none"


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


def read_llama4(fields: Fields) -> None:
    """Read Llama 4: `intermediate_size` is the width of all experts, `intermediate_size_mlp` that of dense layers."""
    expert = fields.whole("intermediate_size")
    fields.set_defaults(moe_intermediate_size=expert, shared_expert_intermediate_size=expert)
    fields["intermediate_size"] = fields.take_assumed("intermediate_size_mlp", 2 * expert)
    layers, interval = fields.whole("num_hidden_layers"), fields.take_whole("no_rope_layer_interval", 4)
    rotary = fields.take_items("no_rope_layers") or [
        int((i + 1) % interval > 0) for i in range(layers if interval else 0)
    ]
    if "attention_chunk_size" in fields:
        fields.set_defaults(layer_types=["chunked_attention" if turned else "full_attention" for turned in rotary])
    fields.pop("use_qk_norm", None)  # it has no weights


def read_gated_delta(fields: Fields) -> None:
    """Read Qwen3-Next and Qwen3.5: attention in every fourth layer, gated delta-nets in the others."""
    set_periodic_layers(fields, "full_attention_interval", 4, "full_attention", "gated_delta_net")
    fields.set_defaults(shared_expert_gate=fields.whole("shared_expert_intermediate_size") > 0)


def read_minimax(fields: Fields) -> None:
    """Read MiniMax-01 and M1: softmax attention in every eighth layer, lightning attention in the others."""
    listed = ["full_attention" if kind == 1 else "lightning_attention" for kind in fields.take_items("attn_type_list")]
    fields.set_defaults(layer_types=listed or periodic_layers(fields, 8, "full_attention", "lightning_attention"))
    fields["chunk_size"] = fields.take_whole("block_size", 256) or 256


def read_exaone_moe(fields: Fields) -> None:
    """Read K-EXAONE: the first layers have a dense feed-forward, which a list of the layers with experts may repeat."""
    fields.set_defaults(first_k_dense_replace=fields.whole("first_last_k_dense_replace"))
    fields.drop_derived("first_last_k_dense_replace", fields["first_k_dense_replace"], "first_k_dense_replace")


def read_minimax_m2(fields: Fields) -> None:
    """Read MiniMax-M2: softmax attention in every layer, which a list of ones may repeat."""
    if set(fields.items_of("attn_type_list")) <= {1}:
        fields.pop("attn_type_list", None)


def read_mamba(fields: Fields) -> None:
    """Read Mamba: no attention; each channel is a head of one element."""
    layers, hidden = fields.whole("num_hidden_layers"), fields.whole("hidden_size")
    inner = fields.whole("intermediate_size") or fields.take_assumed("expand", 2) * hidden
    fields.drop_derived("d_inner", inner, "intermediate_size")
    fields.drop_derived("expand", inner // max(hidden, 1), "intermediate_size")
    rank = fields.pop("time_step_rank", "auto")
    fields["time_step_rank"] = -(-hidden // 16) if rank == "auto" else rank
    fields.set_defaults(mamba_num_heads=inner, mamba_head_dim=1, mamba_proj_bias=fields.take_flag("use_bias"))
    fields.set_defaults(layer_types=["mamba"] * layers, mlp_layer_types=["none"] * layers)
    fields.update(intermediate_size=0, num_attention_heads=inner, num_key_value_heads=inner, head_dim=1)
    fields.set_defaults(max_position_embeddings=NO_LIMIT)


def read_mamba2(fields: Fields) -> None:
    """Read Mamba-2: no attention; each head of channels shares one state matrix."""
    layers, hidden = fields.whole("num_hidden_layers"), max(fields.whole("hidden_size"), 1)
    fields.assume(head_dim=64)
    heads, width = fields.whole("num_attention_heads"), fields.whole("head_dim")
    fields.drop_derived("expand", heads * width // hidden, "the number of heads and their size")
    fields.set_defaults(mamba_num_heads=heads, mamba_head_dim=width, mamba_proj_bias=fields.take_flag("use_bias"))
    fields.set_defaults(layer_types=["mamba2"] * layers, mlp_layer_types=["none"] * layers)
    fields.pop("time_step_rank", None)
    fields.update(intermediate_size=0, num_key_value_heads=heads, head_dim=width)
    fields.set_defaults(max_position_embeddings=NO_LIMIT)


def read_jamba(fields: Fields) -> None:
    """Read Jamba: attention in one of `attn_layer_period` layers, experts in one of `expert_layer_period`."""
    inner = fields.take_assumed("expand", 2) * fields.whole("hidden_size")
    rank = fields.pop("time_step_rank", "auto")
    fields["time_step_rank"] = -(-fields.whole("hidden_size") // 16) if rank == "auto" else rank
    fields.set_defaults(mamba_num_heads=inner, mamba_head_dim=1)
    period, offset = fields.take_assumed("attn_layer_period", 8), fields.take_assumed("attn_layer_offset", 4)
    fields.set_defaults(layer_types=periodic_layers(fields, period, "full_attention", "mamba", offset))
    period, offset = fields.take_assumed("expert_layer_period", 2), fields.take_assumed("expert_layer_offset", 1)
    fields.set_defaults(mlp_layer_types=periodic_layers(fields, period, "sparse", "dense", offset))


def read_nemotron_h(fields: Fields) -> None:
    """Read Nemotron-H: each layer is a mixer or a feed-forward, as `hybrid_override_pattern` gives by letters."""
    fields.take_whole("expand")
    fields.pop("use_bias", None)
    pattern = str(fields.pop("hybrid_override_pattern", ""))
    names = {"mamba": "M", "attention": "*", "moe": "E", "mlp": "-", "linear_attention": "M", "full_attention": "*"}
    pattern = pattern or "".join(names.get(str(kind), str(kind)) for kind in fields.take_items("layers_block_type"))
    halves = {"M": ("mamba2", "none"), "*": ("full_attention", "none"), "E": ("none", "sparse"), "-": ("none", "dense")}
    layers = by_letter("hybrid_override_pattern", pattern, halves)
    fields.set_defaults(num_hidden_layers=len(layers))
    fields.set_defaults(layer_types=[mixer for mixer, _ in layers], mlp_layer_types=[feed for _, feed in layers])


def _read_expand(fields: Fields) -> None:
    """Set heads of Mamba-2 and their size from `expand` if the file does not give them; note a contradiction."""
    hidden = max(fields.whole("hidden_size"), 1)
    if fields.get("mamba_head_dim") == "auto":
        del fields["mamba_head_dim"]
    inner = fields.whole("expand", 2) * hidden
    if "mamba_num_heads" in fields:
        fields.set_defaults(mamba_head_dim=inner // max(fields.whole("mamba_num_heads"), 1))
    fields.assume(mamba_head_dim=64)
    width = fields.whole("mamba_head_dim")
    fields.set_defaults(mamba_num_heads=inner // max(width, 1))
    factor = fields.whole("mamba_num_heads") * width // hidden
    fields.drop_derived("expand", factor, "the number of Mamba heads and their size")


def read_bamba(fields: Fields) -> None:
    """Read Bamba: attention in the listed layers, Mamba-2 in the others."""
    attending, layers = fields.take_items("attn_layer_indices"), fields.whole("num_hidden_layers")
    _read_expand(fields)
    fields.set_defaults(layer_types=["full_attention" if i in attending else "mamba2" for i in range(layers)])


def read_granite_hybrid(fields: Fields) -> None:
    """Read Granite 4: attention in the listed layers, Mamba-2 in the others; without experts, a dense layer."""
    fields.set_defaults(layer_types=["full_attention"] * fields.whole("num_hidden_layers"))
    if "mamba2" in fields.items_of("layer_types"):
        _read_expand(fields)
    fields.pop("expand", None)
    if not fields.whole("num_experts"):
        fields["intermediate_size"] = fields.pop("shared_expert_intermediate_size", fields.whole("intermediate_size"))


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


def read_dbrx(fields: Fields) -> None:
    """Read DBRX: every layer has experts of the width of its feed-forward."""
    fields.set_defaults(moe_intermediate_size=fields.whole("intermediate_size"))


def read_bert(fields: Fields) -> None:
    """Read BERT: every token attends to all others; it generates no tokens, which a note states."""
    layers = fields.whole("num_hidden_layers")
    rows = fields.take_assumed("type_vocab_size", 2)
    fields.pop("position_embedding_type", None)
    fields.set_defaults(layer_types=["bidirectional_attention"] * layers, token_type_rows=rows)
    fields.note(ENCODER)


def read_roberta(fields: Fields) -> None:
    """Read RoBERTa: the first two rows of the position table are for padding, so that two fewer tokens fit."""
    fields["max_position_embeddings"] = fields.whole("max_position_embeddings") - ROBERTA_PADDING
    read_bert(fields)


def read_latent(fields: Fields) -> None:
    """Read DeepSeek-V2 and V3: without a rank, queries have one matrix, as in DeepSeek-V2-Lite."""
    if fields.whole("kv_lora_rank") and "q_lora_rank" not in fields.keys() | fields.nulls:
        fields.note("q_lora_rank is not in the file: read as null; transformers assumes 1536")


def read_sparse_latent(fields: Fields) -> None:
    """Read DeepSeek-V3.2: an indexer in every layer."""
    fields.note("the KV cache includes the indexer's keys, in fp8 with a scale: 132 bytes per token and layer")


def read_indexed(fields: Fields) -> None:
    """Read GLM-5: an indexer in some layers; the others attend to the tokens that the last indexer selected."""
    layers, kinds = fields.whole("num_hidden_layers"), fields.take_items("indexer_types")
    pattern, every_nth = fields.pop("index_topk_pattern", None), fields.take_whole("index_topk_freq", 1) or 1
    first = fields.take_whole("index_skip_topk_offset", 2)
    if isinstance(pattern, str):
        kinds = by_letter("index_topk_pattern", pattern, {"F": "full", "S": "shared"})
    turns = ["shared" if max(i - first + 1, 0) % every_nth else "full" for i in range(layers)]
    if kinds and every_nth > 1 and kinds != turns:
        fields.note(f"index_topk_freq {every_nth} contradicts the list of indexers; the latter is used")
    kinds = kinds or turns
    read_sparse_latent(fields)
    names = {"full": "sparse_latent_attention", "shared": "shared_index_latent_attention"}
    fields["layer_types"] = [names.get(str(kind), str(kind)) for kind in kinds]


def read_hunyuan(fields: Fields) -> None:
    """Read Hunyuan: sizes of experts are lists of one value per layer; a single expert is a dense feed-forward."""
    for key in ("num_experts_per_tok", "n_shared_experts", "moe_intermediate_size"):
        values = fields.get(key)
        if isinstance(values, list):
            if len(set(map(str, values))) > 1:
                raise BadConfig(f"{key} differs between layers, which is not supported")
            fields[key] = values[0] if values else 0
    if fields.take_flag("use_cla"):
        raise BadConfig("use_cla: attention that shares KV caches across layers is not supported for this family")
    fields.pop("cla_share_factor", None)
    if fields.whole("num_experts") <= 1:
        for key in ("num_experts", "num_experts_per_tok", "n_shared_experts", "moe_intermediate_size"):
            fields.pop(key, None)


def read_apertus(fields: Fields) -> None:
    """Read Apertus: a norm for each head of queries and keys by default."""
    fields["qk_norm"] = "head" if fields.take_flag("qk_norm", True) else "none"


def read_afmoe(fields: Fields) -> None:
    """Read AFMoE (Trinity): some layers with full attention, gated outputs, the first layers dense."""
    set_periodic_layers(fields, "global_attn_every_n_layers", 4, "full_attention", "sliding_attention")
    fields["first_k_dense_replace"] = fields.take_assumed("num_dense_layers", 1)


def read_step3(fields: Fields) -> None:
    """Read Step 3.5 and 3.7: more heads in windowed layers, one gate per head, a shared expert of another width."""
    fields["num_key_value_heads"] = fields.take_whole("num_attention_groups") or fields.whole("num_key_value_heads")
    sliding = fields.take_part("attention_other_setting")
    heads = fields.take_whole("num_sliding_attention_heads") or sliding.whole("num_attention_heads")
    fields.set_defaults(sliding_num_attention_heads=heads)
    layers, listed = fields.whole("num_hidden_layers"), fields.pop("moe_layers_enum", None)
    if isinstance(listed, str):
        fields["moe_layers"] = [int(i) for i in listed.split(",") if i.strip().isdecimal()]
    for key in ("layer_types", "mlp_layer_types"):  # entries of multi-token prediction layers follow
        if key in fields:
            fields[key] = fields.items_of(key)[:layers]
    width = fields.take_whole("share_expert_dim") or fields.take_whole("share_expert_dims")
    fields.set_defaults(shared_expert_intermediate_size=width)
    fields.pop("n_shared_experts", None)
    if fields.get("model_type") == "step3p7":
        fields.note(
            "the file has no text_config, in which transformers looks for the sizes: those at the top level are read"
        )


def read_older_phi(fields: Fields) -> None:
    """Read Phi in the form of its first code, with other names of keys."""
    fields.note("n_embd, n_layer and other older names of keys are read, which transformers ignores for this model")


def read_mimo_v2(fields: Fields) -> None:
    """Read MiMo-V2: windowed layers with KV heads of their own, values narrower than keys."""
    pattern, layers = fields.take_items("hybrid_layer_pattern"), fields.whole("num_hidden_layers")
    own = fields.take_whole("swa_num_key_value_heads") or 2 * fields.whole("num_key_value_heads")
    kinds = fields.items_of("layer_types")
    kinds = kinds or ["sliding_attention" if windowed else "full_attention" for windowed in pattern]
    kinds = kinds or periodic_layers(fields, 6, "full_attention", "sliding_attention", 0)
    fields["layer_types"] = [f"{kind}:{own}" if kind == "sliding_attention" else str(kind) for kind in kinds[:layers]]
    for key in ("swa_num_attention_heads", "swa_head_dim", "swa_v_head_dim"):
        same = fields.whole(key.removeprefix("swa_"))
        if fields.take_whole(key, same) != same:
            raise BadConfig(f"{key} differs from {key.removeprefix('swa_')}, which is not supported")


def read_arctic(fields: Fields) -> None:
    """Read Arctic: experts beside a dense feed-forward that is as wide as the hidden size."""
    fields["moe_layer_freq"] = fields.take_whole("moe_layer_frequency", 1)
    fields.set_defaults(moe_intermediate_size=fields.whole("intermediate_size"))
    if fields.take_flag("parallel_attn_mlp_res", True):
        fields.set_defaults(shared_expert_intermediate_size=fields.whole("hidden_size"), norms_per_layer=3)


def read_lfm2(fields: Fields) -> None:
    """Read LFM2: gated short convolutions in most layers; the feed-forward has two thirds of the given width."""
    attending, layers = fields.take_items("full_attn_idxs"), fields.whole("num_hidden_layers")
    fields.set_defaults(layer_types=["full_attention" if i in attending else "short_conv" for i in range(layers)])
    fields["conv_kernel"] = fields.take_assumed("conv_L_cache", 3)
    width = fields.take_whole("block_ff_dim") or fields.take_assumed("intermediate_size", 12288)
    fields.drop_derived("intermediate_size", width, "block_ff_dim")
    multiplier = fields.take_ratio("block_ffn_dim_multiplier", 1)
    if fields.take_flag("block_auto_adjust_ff_dim", True) and "num_experts" not in fields:
        multiple = fields.take_assumed("block_multiple_of", 256) or 1
        width = -(-int((multiplier or 1) * int(2 * width / 3)) // multiple) * multiple
    fields.pop("block_multiple_of", None)
    fields["intermediate_size"] = width
    fields["first_k_dense_replace"] = fields.take_whole("num_dense_layers")
    fields.set_defaults(router_bias=fields.take_flag("use_expert_bias", True))
    for key in ("block_dim", "conv_dim", "conv_dim_out"):
        fields.drop_derived(key, fields.whole("hidden_size"), "hidden_size")


def read_falcon_h1(fields: Fields) -> None:
    """Read Falcon-H1: attention and Mamba-2 in parallel in every layer."""
    inner = fields.whole("mamba_d_ssm") or fields.take_assumed("expand", 2) * fields.whole("hidden_size")
    fields.assume(mamba_num_heads=128)
    heads = fields.whole("mamba_num_heads")
    fields.set_defaults(mamba_head_dim=inner // max(heads, 1), mamba_gated_norm=fields.take_flag("mamba_rms_norm"))
    fields.drop_derived(
        "mamba_d_ssm", heads * fields.whole("mamba_head_dim"), "the number of Mamba heads and their size"
    )
    for key in ("expand", "attn_layer_indices", "mamba_expand"):
        fields.pop(key, None)
    fields["layer_types"] = ["attention_and_mamba2"] * fields.whole("num_hidden_layers")


def read_kimi_linear(fields: Fields) -> None:
    """Read Kimi-Linear: Kimi delta attention, and latent attention without rotary positions in the layers listed."""
    parts = fields.take_part("linear_attn_config")
    moved = {
        "linear_num_heads": "num_attention_heads",
        "linear_head_dim": "head_dim",
    }  # names that transformers 5 writes
    for key, name in (moved | {"short_conv_kernel_size": "short_conv_kernel_size"}).items():
        if key in fields:
            parts.setdefault(name, fields.pop(key))
    parts.set_defaults(num_attention_heads=fields.whole("num_attention_heads"))
    parts.assume(head_dim=128, short_conv_kernel_size=4)
    full, layers = parts.items_of("full_attn_layers"), fields.whole("num_hidden_layers")
    parts.drop_derived("kda_layers", [i for i in range(1, layers + 1) if i not in full], "full_attn_layers")
    fields.set_defaults(layer_types=["latent_attention" if i + 1 in full else "kimi_delta" for i in range(layers)])
    width, heads = parts.whole("head_dim"), parts.whole("num_attention_heads")
    fields.set_defaults(linear_num_value_heads=heads, linear_value_head_dim=width, linear_gate_rank=width)
    fields.set_defaults(linear_conv_kernel_dim=parts.whole("short_conv_kernel_size"))
    fields.set_defaults(rotary=not fields.take_flag("mla_use_nope", True))
    _note_states(fields)


def _note_states(fields: Fields) -> None:
    """Note how many layers have a state of fixed size in place of a KV cache."""
    kinds = fields.items_of("layer_types")
    states = f"{kinds.count('kimi_delta')} of {len(kinds)} layers keep a state of fixed size"
    fields.note(f"{states}; only the others, with latent attention, have a KV cache")


def read_bailing_hybrid(fields: Fields) -> None:
    """Read Ling 3: Kimi delta attention with full gates; the last layer of each group has gated latent attention."""
    set_periodic_layers(fields, "layer_group_size", 6, "latent_attention", "kimi_delta")
    heads, width = fields.take_whole("linear_num_heads"), fields.take_assumed("linear_head_dim", 128)
    fields.set_defaults(
        linear_num_value_heads=heads or fields.whole("num_attention_heads"), linear_value_head_dim=width
    )
    fields.set_defaults(linear_conv_kernel_dim=fields.take_assumed("short_conv_kernel_size", 4))
    _note_states(fields)


def read_minicpm3(fields: Fields) -> None:
    """Read MiniCPM3: latent attention; values have hidden size / heads elements."""
    fields.set_defaults(v_head_dim=fields.whole("hidden_size") // max(fields.whole("num_attention_heads"), 1))


def read_zamba2(fields: Fields) -> None:
    """Read Zamba2: Mamba-2 layers; a shared transformer block runs before some of them."""
    names = {"mamba_ngroups": "n_groups", "n_mamba_heads": "mamba_num_heads", "mamba_headdim": "mamba_head_dim"}
    for key, field in names.items():
        if key in fields:
            fields[field] = fields.pop(key)
    layers, hybrid = fields.whole("num_hidden_layers"), fields.items_of("hybrid_layer_ids")
    fields.pop("layer_types", None)
    kinds = fields.take_items("layers_block_type") or ["hybrid" if i in hybrid else "mamba" for i in range(layers)]
    fields.drop_derived(
        "hybrid_layer_ids", [i for i, kind in enumerate(kinds) if kind == "hybrid"], "layers_block_type"
    )
    fields["layer_types"] = ["shared_block_mamba2" if kind == "hybrid" else "mamba2" for kind in kinds]
    fields["mlp_layer_types"] = ["none"] * layers
    _read_expand(fields)
    fields["head_dim"] = 2 * fields.whole("hidden_size") // max(fields.whole("num_attention_heads"), 1)
    rank, adapted = fields.take_whole("lora_rank"), fields.take_flag("use_shared_mlp_adapter", True)
    rank = rank or fields.take_assumed("adapter_rank", 128)
    if fields.take_flag("use_shared_attention_adapter") and fields.whole("num_mem_blocks"):
        raise BadConfig("use_shared_attention_adapter: adapters of the shared attention are not supported")
    fields["adapter_rank"] = rank if adapted else 0
    fields.drop_derived("attention_hidden_size", 2 * fields.whole("hidden_size"), "2 * hidden_size")
    for key in ("num_query_groups", "time_step_rank", "use_long_context"):
        fields.pop(key, None)


def read_recurrent_gemma(fields: Fields) -> None:
    """Read RecurrentGemma: gated linear recurrences and windowed attention; half of the given feed-forward width."""
    turn = fields.take_items("block_types") or ["recurrent", "recurrent", "attention"]
    names = {"recurrent": "rg_lru", "attention": "sliding_attention"}
    layers = fields.whole("num_hidden_layers")
    kinds = [names.get(str(kind), str(kind)) for kind in (turn * layers)[:layers]]
    given = [names.get(str(kind), str(kind)) for kind in fields.take_items("layers_block_type")]
    fields["layer_types"] = (given or kinds)[:layers]
    fields["intermediate_size"] = fields.take_assumed("intermediate_size", 7680) // 2
    fields.set_defaults(lru_width=fields.whole("hidden_size"))
    fields["sliding_window"] = fields.take_assumed("attention_window_size", 2048)
    fields["conv_kernel"] = fields.take_assumed("conv1d_width", 4)


def read_olmo_hybrid(fields: Fields) -> None:
    """Read Olmo-Hybrid: gated delta-nets in three of four layers, softmax attention in the rest."""
    fields.set_defaults(layer_types=periodic_layers(fields, 4, "full_attention", "gated_delta_net"))
    for key in ("linear_a_log_max", "linear_a_log_min", "linear_dt_max", "linear_dt_min", "linear_dt_init_floor"):
        fields.pop(key, None)


def read_longcat(fields: Fields) -> None:
    """Read LongCat-Flash: each layer counts as two, each with attention and feed-forward; one of them has experts.

    Some experts return their input and have no weights, so a token uses fewer of the others.
    """
    fields["num_hidden_layers"] = layers = 2 * fields.whole("num_hidden_layers")
    fields["moe_intermediate_size"] = fields.take_whole("expert_ffn_hidden_size")
    fields["mlp_layer_types"] = ["sparse" if i % 2 == 0 else "dense" for i in range(layers)]
    fields["shared_expert_intermediate_size"] = fields.whole("intermediate_size")
    fields.set_defaults(num_key_value_heads=fields.whole("num_attention_heads"))
    note = f"a layer of this family counts as two: {layers} layers, every second one with experts"
    fields.note(f"{note}; experts that return their input have no weights")


def read_minimax_m3(fields: Fields) -> None:
    """Read MiniMax-M3: block-sparse attention after the first layers; `intermediate_size` is the width of an expert."""
    sparse = fields.take_part("sparse_attention_config")
    expert = fields.whole("intermediate_size")
    fields["moe_intermediate_size"] = expert
    fields["intermediate_size"] = fields.take_whole("dense_intermediate_size", expert) or expert
    layers = fields.whole("num_hidden_layers")
    chosen = sparse.items_of("sparse_attention_freq")
    if chosen:
        fields["layer_types"] = ["block_sparse_attention" if each else "full_attention" for each in chosen]
    kinds = ["block_sparse_attention" if "sparse" in str(k) else str(k) for k in fields.items_of("layer_types")]
    fields["layer_types"] = kinds or ["full_attention"] * layers
    sparse.set_defaults(
        sparse_num_index_heads=fields.whole("index_n_heads"), sparse_index_dim=fields.whole("index_head_dim")
    )
    blocks = sparse.whole("sparse_topk_blocks") or fields.take_assumed("index_topk_blocks", 16)
    size = sparse.whole("sparse_block_size") or fields.take_assumed("index_block_size", 128)
    fields["index_n_heads"] = sparse.whole("sparse_num_index_heads") or fields.take_assumed("index_n_heads", 4)
    fields["index_head_dim"] = sparse.whole("sparse_index_dim") or fields.take_assumed("index_head_dim", 128)
    fields["index_topk"] = blocks * size
    fields.note("the KV cache includes one index key per token and layer, as wide as a head of the index")
    for key in ("index_topk_blocks", "index_block_size", "index_local_blocks"):
        fields.pop(key, None)


def read_deepseek_v4(fields: Fields) -> None:
    """Read DeepSeek-V4: a window in every layer, and one row per 4 or 128 tokens, as `compress_ratios` lists."""
    layers, ratios = fields.whole("num_hidden_layers"), fields.take_items("compress_ratios")
    rates = fields.pop("compress_rates", None)
    rates = rates if isinstance(rates, dict) else {}
    fine, coarse = rates.get("compressed_sparse_attention", 4), rates.get("heavily_compressed_attention", 128)
    names = {
        "sliding_attention": "compressed_attention",
        "compressed_sparse_attention": f"compressed_sparse_attention:{fine}",
        "heavily_compressed_attention": f"compressed_attention:{coarse}",
    }
    by_ratio = {"0": "sliding_attention", "4": "compressed_sparse_attention", "128": "heavily_compressed_attention"}
    kinds = fields.items_of("layer_types") or [by_ratio.get(str(ratio), str(ratio)) for ratio in ratios]
    kinds = kinds or [by_ratio["4" if i % 2 and i > 1 else "128"] for i in range(layers)]
    fields["layer_types"] = [names.get(str(kind), str(kind)) for kind in kinds[:layers]]
    fields["mlp_layer_types"] = ["sparse"] * layers
    fields.note("the KV cache holds rows for groups of tokens, the keys of their index, and a window of tokens")
    fields.set_defaults(intermediate_size=fields.whole("moe_intermediate_size"), num_key_value_heads=1)
    for key in ("num_hash_layers", "hc_sinkhorn_iters", "partial_rotary_factor"):
        fields.pop(key, None)


def read_mllama(fields: Fields) -> None:
    """Read Llama 3.2 Vision: layers that attend to images are stored, and a text prompt skips them."""
    crossing, layers = fields.take_items("cross_attention_layers"), fields.whole("num_hidden_layers")
    fields["layer_types"] = ["cross_attention" if i in crossing else "full_attention" for i in range(layers)]
    fields["mlp_layer_types"] = ["skipped_dense" if i in crossing else "dense" for i in range(layers)]
    note = f"{len(crossing)} layers attend to images: their weights are counted, and a text prompt skips them"
    fields.note(f"{note}; they have no KV cache")


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


def read_encoder(fields: Fields) -> None:
    """Read an encoder with rotary positions: every token attends to all others, or to those in a window."""
    layers, window = fields.whole("num_hidden_layers"), fields.take_whole("local_attention")
    activation = fields.get("activation_function")
    if activation is not None:
        fields.set_defaults(gated_mlp="glu" in str(activation))
    period = fields.take_whole("global_attn_every_n_layers", 1) or 1
    fields.set_defaults(token_type_rows=fields.take_whole("type_vocab_size"))
    kinds = ["bidirectional_attention"] * layers
    if window and period > 1:
        fields["sliding_window"] = window
        kinds = [
            "bidirectional_attention" if i % period == 0 else "bidirectional_sliding_attention" for i in range(layers)
        ]
    fields["layer_types"] = kinds
    fields.note(ENCODER)


def read_stablelm(fields: Fields) -> None:
    """Read StableLM: optional bias on queries, keys and values, optional parallel blocks."""
    fields.set_defaults(qkv_bias=fields.take_flag("use_qkv_bias"), attention_output_bias=False)
    if fields.take_flag("use_parallel_residual"):
        fields.set_defaults(parallel_block=True, norms_per_layer=1)


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
GPT = PLAIN | TIED | NO_POSITIONS | biases(True)
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
    "qwen": Family(QKV_BIAS, read_qwen),
    "qwen2": Family(QKV_BIAS, sizes=QWEN2_SIZES),
    "qwen2_moe": Family(QKV_BIAS | SHARED_GATE),
    "qwen3": Family({"qk_norm": "head"}, sizes=QWEN2_SIZES | {"head_dim": 128}),
    "qwen3_moe": Family({"qk_norm": "head"}),
    "qwen3_next": Family(DELTA, read_gated_delta, kinds=DELTA_KINDS),
    "qwen3_5": Family(DELTA, read_gated_delta, kinds=DELTA_KINDS),
    "qwen3_5_moe": Family(DELTA | {"intermediate_size": 0}, read_gated_delta, kinds=DELTA_KINDS),
    "gemma": Family(GEMMA, sizes=GEMMA_SIZES),
    "gemma2": Family(GEMMA2, sizes=GEMMA2_SIZES),
    "gemma3": Family(GEMMA3, sizes=GEMMA3_SIZES),
    "gemma3n": Family(
        GEMMA3
        | {"sliding_window": 512, "altup_num_inputs": 4, "laurel_rank": 64, "hidden_size_per_layer_input": 256}
        | {"vocab_size_per_layer_input": 262144},
        read_gemma3n,
        GEMMA3_SIZES
        | {"hidden_size": 2048, "num_hidden_layers": 35, "num_key_value_heads": 2, "vocab_size": 262400}
        | {"intermediate_size": 16384, "max_position_embeddings": 32768, "num_kv_shared_layers": 15},
    ),
    "recurrent_gemma": Family(
        TIED | {"head_dim": 256, "attention_output_bias": True, "mlp_bias": True, "max_position_embeddings": 8192},
        read_recurrent_gemma,
    ),
    "gemma4": Family(GEMMA4, read_gemma4),
    "phi": Family(PLAIN | PARALLEL | biases(True) | {"head_bias": True}),
    "phi-msft": Family(PLAIN | PARALLEL | biases(True) | {"head_bias": True}, read_older_phi),
    "phi3": Family(),
    "phimoe": Family(LAYERNORM),
    "gpt2": Family(GPT | LEARNED),
    "gptj": Family(PLAIN | PARALLEL | {"mlp_bias": True, "head_bias": True, "rotary": True}),
    "gpt_neo": Family(GPT | LEARNED | {"qkv_bias": False, "sliding_window": 256}, read_gpt_neo),
    "gpt_neox": Family(PLAIN | biases(True), read_gpt_neox),
    "opt": Family(PLAIN | TIED | NO_POSITIONS | {"position_offset": 2}, read_opt),
    "bloom": Family(GPT | {"embedding_norm": True, "max_position_embeddings": 2048}),
    "falcon": Family(PLAIN | TIED | {"max_position_embeddings": 2048}, read_falcon),
    "mpt": Family(PLAIN | TIED, read_mpt),
    "starcoder2": Family(PLAIN | TIED, read_biased("use_bias", True)),
    "gpt_bigcode": Family(GPT | LEARNED, read_multi_query),
    "cohere": Family(LAYERNORM | TIED | PARALLEL | {"norm_bias": False, "qk_norm_kind": "full"}, read_cohere),
    "cohere2": Family(
        LAYERNORM | TIED | PARALLEL | {"norm_bias": False, "sliding_window": 4096, "sliding_window_pattern": 4}
    ),
    "dbrx": Family(LAYERNORM | {"norm_bias": False}, read_dbrx),
    "llama4": Family({"attention_chunk_size": 8192}, read_llama4),
    "gpt_oss": Family(
        {"attention_bias": True, "attention_sinks": True, "router_bias": True, "expert_bias": True}
        | {"sliding_window": 128, "sliding_window_pattern": 2}
    ),
    "glm": Family(QKV_BIAS),
    "glm4": Family(QKV_BIAS | {"norms_per_layer": 4}),
    "glm4_moe": Family(SPARE_OUTPUT_BIAS | {"router_bias": True}),
    "chatglm": Family({"output_head": True}, read_chatglm),
    "internlm": Family({}, read_attention_biased("bias", True)),
    "internlm2": Family({}, read_attention_biased("bias", False)),
    "deepseek_v2": Family({}, read_latent),
    "deepseek_v3": Family({"router_bias": True}, read_latent),
    "deepseek_v32": Family({"router_bias": True}, read_sparse_latent),
    "glm_moe_dsa": Family({"router_bias": True}, read_indexed),
    "deepseek_v4": Family({"attention_sinks": True, "hc_mult": 4, "sliding_window": 128}, read_deepseek_v4),
    "longcat_flash": Family({}, read_longcat),
    "kimi_linear": Family({"router_bias": True, "chunk_size": 64}, read_kimi_linear, kinds=KIMI_KINDS),
    "bailing_moe": Family({"router_bias": True}, read_biased("use_bias", False)),
    "bailing_hybrid": Family(
        {"router_bias": True, "attention_head_gate": True, "chunk_size": 64},
        read_bailing_hybrid,
        kinds=KIMI_KINDS,
    ),
    "minicpm": Family(),
    "minicpm3": Family(TIED, read_minicpm3, {"qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "q_lora_rank": 768}),
    "minimax": Family({}, read_minimax, kinds={"linear_attention": "lightning_attention"}),
    "minimax_m2": Family({"qk_norm_kind": "full", "router_bias": True}, read_minimax_m2),
    "minimax_m3_vl": Family({"qk_norm_kind": "head", "router_bias": True}, read_minimax_m3),
    "mimo": Family(SPARE_OUTPUT_BIAS | {"attention_bias": True}),
    "mimo_v2_flash": Family({"router_bias": True}, read_mimo_v2),
    "arctic": Family({}, read_arctic),
    "jamba": Family({"rotary": False, "mamba_inner_layernorms": True}, read_jamba),
    "mamba": Family({"norms_per_layer": 1} | TIED, read_mamba),
    "mamba2": Family({"norms_per_layer": 1}, read_mamba2),
    "bamba": Family({}, read_bamba),
    "nemotron_h": Family(
        {"norms_per_layer": 1, "gated_mlp": False, "rotary": False, "router_bias": True}
        | {"chunk_size": 128, "state_dtype": "float32"},
        read_nemotron_h,
    ),
    "falcon_h1": Family({}, read_falcon_h1, MAMBA2_SIZES),
    "zamba2": Family(
        TIED | {"norms_per_layer": 1, "num_mem_blocks": 1},
        read_zamba2,
        {"ssm_state_size": 64, "max_position_embeddings": 4096},
    ),
    "lfm2": Family(TIED | {"qk_norm": "head", "conv_bias": False}, read_lfm2, kinds={"conv": "short_conv"}),
    "olmo_hybrid": Family(
        DELTA | {"qk_norm": "full", "attention_output_gate": False},
        read_olmo_hybrid,
        kinds=DELTA_KINDS,
    ),
    "nemotron-nas": Family({}, read_nemotron_nas),
    "nemotron": Family(LAYERNORM | {"gated_mlp": False}),
    "palm": Family(LAYERNORM | TIED | PARALLEL | {"norm_bias": False}),
    "olmo": Family(LAYERNORM | {"norm_weight": False, "norm_bias": False}),
    "olmo2": Family({"qk_norm": "full"}),
    "olmo3": Family({"qk_norm": "full"}),
    "olmoe": Family({"qk_norm": "full"}),
    "stablelm": Family(LAYERNORM, read_stablelm),
    "granite": Family(TIED),
    "granitemoe": Family(TIED),
    "granitemoehybrid": Family(TIED, read_granite_hybrid, kinds={"mamba": "mamba2", "linear_attention": "mamba2"}),
    "exaone4": Family({"qk_norm": "head"}),
    "exaone_moe": Family({"qk_norm": "head", "router_bias": True}, read_exaone_moe),
    "solar_open": Family({"intermediate_size": 10240, "router_bias": True}),
    "vaultgemma": Family(GEMMA | {"sliding_window": 4096, "sliding_window_pattern": 2}, sizes=GEMMA2_SIZES),
    "persimmon": Family(PLAIN | biases(True) | {"qk_norm": "head"}),
    "ernie4_5": Family(TIED, read_biased("use_bias", False)),
    "ernie4_5_moe": Family(TIED | {"router_bias": True}, read_biased("use_bias", False)),
    "apertus": Family({"gated_mlp": False}, read_apertus),
    "dots1": Family({"qk_norm": "head", "router_bias": True}),
    "hunyuan_v1_dense": Family({"qk_norm": "head"}, read_hunyuan),
    "afmoe": Family(
        {"qk_norm": "head", "norms_per_layer": 4, "attention_output_gate": True, "router_bias": True}, read_afmoe
    ),
    "step3p5": Family({"qk_norm": "head", "attention_head_gate": True, "router_bias": True}, read_step3),
    "bitnet": Family({"sub_norms": True}),
    "arcee": Family({"gated_mlp": False}),
    "nanochat": Family(NO_WEIGHT_NORMS | {"gated_mlp": False}),
    "jais2": Family(LAYERNORM | {"gated_mlp": False, "attention_bias": True, "mlp_bias": True}),
    "grok-1": Family(TIED | {"norms_per_layer": 4}),
    "smollm3": Family(TIED),
    "mllama": Family(
        {},
        read_mllama,
        LLAMA_SIZES
        | {"intermediate_size": 14336, "num_key_value_heads": 8}
        | {"num_hidden_layers": 40, "vocab_size": 128256, "max_position_embeddings": 131072},
    ),
    "modernbert": Family(ENCODERS | {"embedding_norm": True}, read_encoder),
    "nomic_bert": Family(LAYERNORM | {"embedding_norm": True, "final_norm": False, "output_head": False}, read_encoder),
    "seed_oss": Family(QKV_BIAS),
    "bert": Family(BERT, read_bert),
    "roberta": Family(BERT | {"position_offset": ROBERTA_PADDING}, read_roberta),
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

# Types whose files have the keys of a Llama, but whose layers differ.
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
