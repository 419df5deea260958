"""Keys of models with latent or sparse attention."""

from __future__ import annotations

from llm_analysis.models.reading.fields import Fields, by_letter


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


def read_minicpm3(fields: Fields) -> None:
    """Read MiniCPM3: latent attention; values have hidden size / heads elements."""
    fields.set_defaults(v_head_dim=fields.whole("hidden_size") // max(fields.whole("num_attention_heads"), 1))


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
