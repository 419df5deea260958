"""The families of models: one row for each `model_type`, and functions that read keys of few families.

A function `read_...` changes the fields in place: it removes keys that only control how others are read, and sets
defaults for keys that the file omits.

table       FAMILIES, one row for each model_type: defaults, function, sizes that files may omit
dense       dense decoders
experts     mixtures of experts
recurrent   state-space layers, linear attention and convolutions, alone or beside attention
latent      latent and sparse attention
encoders    encoders
"""
