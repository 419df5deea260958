"""Keys of encoders, in which every token attends to all others."""

from __future__ import annotations

from llm_analysis.models.reading.fields import Fields

ROBERTA_PADDING = 2  # rows of RoBERTa's position table that no token uses
ENCODER = "an encoder: it reads all tokens in one pass and generates none"


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
