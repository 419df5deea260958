"""Keys of models with state-space layers, linear attention or convolutions, alone or beside attention."""

from __future__ import annotations

from llm_analysis.errors import BadConfig
from llm_analysis.models.reading.fields import Fields, by_letter, periodic_layers, set_periodic_layers

NO_LIMIT = 10**6  # positions of a model that keeps a state instead of a cache


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


def read_gated_delta(fields: Fields) -> None:
    """Read Qwen3-Next and Qwen3.5: attention in every fourth layer, gated delta-nets in the others."""
    set_periodic_layers(fields, "full_attention_interval", 4, "full_attention", "gated_delta_net")
    fields.set_defaults(shared_expert_gate=fields.whole("shared_expert_intermediate_size") > 0)


def read_olmo_hybrid(fields: Fields) -> None:
    """Read Olmo-Hybrid: gated delta-nets in three of four layers, softmax attention in the rest."""
    fields.set_defaults(layer_types=periodic_layers(fields, 4, "full_attention", "gated_delta_net"))
    for key in ("linear_a_log_max", "linear_a_log_min", "linear_dt_max", "linear_dt_min", "linear_dt_init_floor"):
        fields.pop(key, None)


def read_minimax(fields: Fields) -> None:
    """Read MiniMax-01 and M1: softmax attention in every eighth layer, lightning attention in the others."""
    listed = ["full_attention" if kind == 1 else "lightning_attention" for kind in fields.take_items("attn_type_list")]
    fields.set_defaults(layer_types=listed or periodic_layers(fields, 8, "full_attention", "lightning_attention"))
    fields["chunk_size"] = fields.take_whole("block_size", 256) or 256


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
