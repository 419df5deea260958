"""The record of a model's shapes, with the field names of Hugging Face.

A model is a list of layers, each a mixer (`layer_types`) and a feed-forward (`mlp_layer_types`):

    layer_types       a key of layers.kinds.MIXERS per layer: full_attention, sliding_attention, latent_attention, ...
    mlp_layer_types   a key of layers.kinds.FEED_FORWARDS per layer: dense, sparse (mixture of experts), none

A kind may have a size: `full_attention:4` has 4 KV heads, `dense:7168` has width 7168.
`models.reading` makes this record from a file; `models.forward` makes operators from it.
"""

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_LAYERS = 10_000  # most layers of a model; listing a layer takes time and memory
_MAX_CHUNKS = 10_000  # most chunks of chunked attention over all positions
Count = Annotated[int, Field(gt=0, le=10**9)]
_Size = Annotated[int, Field(ge=0, le=10**9)]
_Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ModelConfig(BaseModel):
    """Shapes and conventions of one model. Sizes are numbers of elements; 0 if the model has no such part."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", protected_namespaces=())

    name: str
    source: str = ""
    family: str = ""
    hf_ids: tuple[str, ...] = ()  # repositories of Hugging Face with these shapes, the base model first
    model_type: str = ""
    notes: tuple[str, ...] = ()  # notes to the user on how the file was read
    weight_format: str = ""  # formats of a quantized checkpoint (see physics.dtypes); empty: 16 bits

    hidden_size: Count
    num_hidden_layers: Annotated[int, Field(gt=0, le=MAX_LAYERS)]
    vocab_size: Count
    max_position_embeddings: Count
    tie_word_embeddings: bool = False
    layer_types: tuple[str, ...] = ()  # one per layer; empty: full attention throughout
    mlp_layer_types: tuple[str, ...] = ()  # one per layer; empty: dense throughout

    # Attention
    num_attention_heads: Count
    num_key_value_heads: Count
    head_dim: Count
    sliding_window: Count | None = None
    attention_chunk_size: Count | None = None
    qkv_bias: bool = False
    attention_output_bias: bool = False
    attention_output_gate: bool = False  # half of a query projection of double width gates the output
    attention_head_gate: bool = False  # one gate for each head's output, computed from the layer's input
    attention_sinks: bool = False
    attention_k_eq_v: bool = False  # full-attention layers use the keys as values: no value projection
    qk_norm: Literal["none", "head", "full"] = "none"
    rotary: bool = True
    global_head_dim: _Size = 0  # head_dim of full-attention layers, if it differs
    num_global_key_value_heads: _Size = 0
    sliding_num_attention_heads: _Size = 0  # heads of windowed layers, if their number differs

    # Multi-head latent attention, and the indexer of sparse attention
    q_lora_rank: _Size = 0
    kv_lora_rank: _Size = 0
    qk_nope_head_dim: _Size = 0
    qk_rope_head_dim: _Size = 0
    v_head_dim: _Size = 0
    index_n_heads: _Size = 0
    index_head_dim: _Size = 0
    index_topk: _Size = 0  # tokens (of compressed attention: rows of the cache) that each query attends to

    # Compressed attention (DeepSeek-V4): low-rank output in groups of heads
    o_groups: _Size = 0
    o_lora_rank: _Size = 0

    # State-space layers (mamba: channels are heads of one element) and gated delta-nets
    mamba_num_heads: _Size = 0
    mamba_head_dim: _Size = 0
    ssm_state_size: _Size = 0
    n_groups: _Size = 1
    conv_kernel: _Size = 4
    time_step_rank: _Size = 0
    chunk_size: Count = 256
    conv_bias: bool = True
    mamba_proj_bias: bool = False
    mamba_inner_layernorms: bool = False
    mamba_gated_norm: bool = True  # a norm before the output projection of Mamba-2
    lru_width: _Size = 0  # channels of a gated linear recurrence (RG-LRU)
    linear_gate_rank: _Size = 0  # rank of the decay and output gates in Kimi delta attention; 0: full matrices
    state_element_bytes: _Size = 0  # bytes per element of the recurrent state; 0: as in the residual stream
    linear_num_key_heads: _Size = 0
    linear_num_value_heads: _Size = 0
    linear_key_head_dim: _Size = 0
    linear_value_head_dim: _Size = 0
    linear_conv_kernel_dim: _Size = 4

    # Feed-forward
    intermediate_size: _Size
    gated_mlp: bool = True
    mlp_bias: bool = False

    # Mixture of experts
    num_experts: _Size = 0
    num_experts_per_tok: _Size = 0
    moe_intermediate_size: _Size = 0
    shared_expert_intermediate_size: _Size = 0
    shared_expert_gate: bool = False
    moe_latent_size: _Size = 0  # width of the experts' inputs and outputs; 0: the hidden size
    zero_expert_num: _Size = 0  # additional experts that return their input and have no weights
    router_bias: bool = False
    expert_bias: bool = False

    # Norms, embeddings, residual
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norms_per_layer: _Size = 2
    norm_weight: bool = True
    norm_bias: bool = True  # whether a layernorm has a bias
    sub_norms: bool = False  # norms before the output projections of attention and feed-forward
    final_norm: bool = True
    embedding_norm: bool = False
    parallel_block: bool = False  # attention and feed-forward read one norm and share one residual
    position_embedding_rows: _Size = 0
    token_type_rows: _Size = 0
    word_embed_proj_dim: _Size = 0  # 0: the hidden size
    hidden_size_per_layer_input: _Size = 0  # width of the embedding of each layer
    vocab_size_per_layer_input: _Size = 0  # 0: the vocabulary
    hc_mult: _Size = 0  # residual streams of hyper-connections
    altup_num_inputs: _Size = 0  # residual streams of AltUp
    laurel_rank: _Size = 0  # rank of the low-rank residual branch beside the attention
    num_mem_blocks: _Size = 0  # transformer blocks that the layers of kind shared_block_mamba2 use in turn
    adapter_rank: _Size = 0  # rank of the adapters that these layers add to their block
    output_head: bool = True
    pooler: bool = False
    head_bias: bool = False
    num_nextn_predict_layers: _Size = 0  # multi-token prediction: not run
    num_draft_inputs: _Size = 0  # vectors of the hidden size per token that a draft head projects to one

    published_num_params: _Amount | None = None
    published_num_active_params: _Amount | None = None

    @model_validator(mode="after")
    def _check_sizes(self) -> "Self":
        """Raise ValueError for sizes that contradict each other, or that exceed a limit together."""
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if kv_heads > heads:
            raise ValueError(f"num_key_value_heads {kv_heads} is more than the {heads} of num_attention_heads")
        kinds = self.mlp_layer_types or ("dense",)
        for kind, key in (("dense", "intermediate_size"), ("sparse", "moe_intermediate_size")):
            if kind in kinds and not getattr(self, key):
                raise ValueError(f"{key} must be above 0 in a model with {kind} layers")
        chunk = self.attention_chunk_size
        if chunk and self.max_position_embeddings / chunk > _MAX_CHUNKS:
            raise ValueError(
                f"attention_chunk_size {chunk} divides max_position_embeddings {self.max_position_embeddings} into "
                f"more than the limit of {_MAX_CHUNKS:,} chunks"
            )
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> "Self":
        """Return a copy with the fields of `update`, without the values that this model has cached."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied

    @cached_property
    def layer_kinds(self) -> dict[tuple[str, str], int]:
        """Return the number of layers of each (mixer, feed-forward) kind."""
        return self.kinds_between(0, self.num_hidden_layers)

    @cached_property
    def counts(self) -> dict[str, float]:
        """Return the cache of parameter and KV-byte counts, by name."""
        return {}

    @cached_property
    def kinds_by_range(self) -> dict[tuple[int, int], dict[tuple[str, str], int]]:
        """Return the cache of `kinds_between`."""
        return {}

    def kinds_between(self, first: int, last: int) -> dict[tuple[str, str], int]:
        """Return the number of layers of each kind among layers `first` .. `last` - 1."""
        kinds = self.kinds_by_range.get((first, last))
        if kinds is None:
            mixers = self.layer_types or ("full_attention",) * self.num_hidden_layers
            feed_forwards = self.mlp_layer_types or ("dense",) * self.num_hidden_layers
            kinds = dict(Counter(zip(mixers[first:last], feed_forwards[first:last], strict=True)))
            self.kinds_by_range[first, last] = kinds
        return kinds

    @cached_property
    def decode_kinks(self) -> tuple[float, ...]:
        """Return the contexts at which the cost of a decode step is not smooth: a window is full, a chunk begins."""
        kinds = {mixer for mixer, _ in self.layer_kinds}
        full = [size - 1.0 for size in (self.sliding_window, self.index_topk) if size]
        chunk, limit = self.attention_chunk_size or 0, self.max_position_embeddings
        starts = range(chunk, limit, chunk) if chunk and "chunked_attention" in kinds else ()
        return tuple(full) + tuple(float(edge) for start in starts for edge in (start - 1, start))

    @property
    def is_encoder(self) -> bool:
        """Return whether every token attends to the whole prompt, which then cannot be cut into chunks."""
        return any(mixer.startswith("bidirectional") for mixer, _ in self.layer_kinds)

    @property
    def norm_params(self) -> int:
        """Return the weights of one norm over the hidden size."""
        return self.hidden_size * (self.norm_weight + (self.norm == "layernorm" and self.norm_bias))

    @property
    def stream_width(self) -> int:
        """Return the elements of all residual streams of a token together."""
        return self.hidden_size * max(self.hc_mult, self.altup_num_inputs, 1)

    @property
    def embedding_width(self) -> int:
        """Return the width of the embedding table and of the output head."""
        return self.word_embed_proj_dim or self.hidden_size

    @property
    def mamba_inner_size(self) -> int:
        """Return the channels inside a state-space layer."""
        return self.mamba_num_heads * self.mamba_head_dim
