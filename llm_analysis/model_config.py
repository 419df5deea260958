"""What a model is, as read from outside: the flat record of its shapes, in Hugging Face's own field names.

A model is a list of layers, each a mixer (`layer_types`) and a feed-forward (`mlp_layer_types`):

    layer_types       full_attention | sliding_attention | chunked_attention | latent_attention | mamba | ... | none
    mlp_layer_types   dense | sparse | none

`families` turns a config.json or one of our own files into this record; `model` turns it into operators.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(gt=0)]
Size = Annotated[int, Field(ge=0)]


class ModelConfig(BaseModel):
    """Shapes and conventions of one model. Sizes are numbers of elements."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: str
    source: str = ""
    family: str = ""
    hf_id: str = ""
    model_type: str = ""
    notes: tuple[str, ...] = ()  # what the reader must know of how the file was read
    weight_format: str = ""  # the everyday dtype name of a quantised checkpoint

    hidden_size: Count
    num_hidden_layers: Count
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
    qkv_bias: bool = False
    attention_output_bias: bool = False
    qk_norm: Literal["none", "head", "full"] = "none"
    rotary: bool = True

    # Feed-forward
    intermediate_size: Size
    gated_mlp: bool = True
    mlp_bias: bool = False

    # Mixture of experts
    num_experts: Size = 0
    num_experts_per_tok: Size = 0
    moe_intermediate_size: Size = 0
    shared_expert_intermediate_size: Size = 0

    # Norms, embeddings, residual
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norms_per_layer: Size = 2
    norm_bias: bool = True  # of a layernorm
    final_norm: bool = True
    embedding_norm: bool = False
    parallel_block: bool = False  # attention and feed-forward read one norm and share one residual
    position_embedding_rows: Size = 0
    word_embed_proj_dim: Size = 0  # 0: the hidden size
    head_bias: bool = False

    published_num_params: float | None = None
    published_num_active_params: float | None = None

    @cached_property
    def layer_kinds(self) -> dict[tuple[str, str], int]:
        """How many layers there are of each (mixer, feed-forward) kind."""
        return self.kinds_between(0, self.num_hidden_layers)

    def kinds_between(self, first: int, last: int) -> dict[tuple[str, str], int]:
        """The kinds of layers `first` .. `last` - 1, with how many there are of each."""
        mixers = self.layer_types or ("full_attention",) * self.num_hidden_layers
        feed_forwards = self.mlp_layer_types or ("dense",) * self.num_hidden_layers
        return dict(Counter(zip(mixers[first:last], feed_forwards[first:last], strict=True)))

    @property
    def decode_kinks(self) -> tuple[float, ...]:
        """Cached tokens at which the time of a decode step changes its slope: a window has filled up."""
        return (self.sliding_window - 1.0,) if self.sliding_window else ()

    @property
    def norm_params(self) -> int:
        """Weights of one norm over the hidden size."""
        return self.hidden_size * (2 if self.norm == "layernorm" and self.norm_bias else 1)

    @property
    def embedding_width(self) -> int:
        """Width of the embedding table and of the output head."""
        return self.word_embed_proj_dim or self.hidden_size
