"""Keys of models with experts in their feed-forwards."""

from __future__ import annotations

from llm_analysis.errors import BadConfig
from llm_analysis.models.reading.fields import Fields, periodic_layers, set_periodic_layers


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


def read_dbrx(fields: Fields) -> None:
    """Read DBRX: every layer has experts of the width of its feed-forward."""
    fields.set_defaults(moe_intermediate_size=fields.whole("intermediate_size"))


def read_exaone_moe(fields: Fields) -> None:
    """Read K-EXAONE: the first layers have a dense feed-forward, which a list of the layers with experts may repeat."""
    fields.set_defaults(first_k_dense_replace=fields.whole("first_last_k_dense_replace"))
    fields.drop_derived("first_last_k_dense_replace", fields["first_k_dense_replace"], "first_k_dense_replace")


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


def read_minimax_m2(fields: Fields) -> None:
    """Read MiniMax-M2: softmax attention in every layer, which a list of ones may repeat."""
    if set(fields.items_of("attn_type_list")) <= {1}:
        fields.pop("attn_type_list", None)


def read_arctic(fields: Fields) -> None:
    """Read Arctic: experts beside a dense feed-forward that is as wide as the hidden size."""
    fields["moe_layer_freq"] = fields.take_whole("moe_layer_frequency", 1)
    fields.set_defaults(moe_intermediate_size=fields.whole("intermediate_size"))
    if fields.take_flag("parallel_attn_mlp_res", True):
        fields.set_defaults(shared_expert_intermediate_size=fields.whole("hidden_size"), norms_per_layer=3)


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
