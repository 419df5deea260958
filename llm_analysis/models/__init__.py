"""Models: configuration, the operators of a forward pass, and how a layout shards them.

config     the fields of a model, named as Hugging Face names them
forward    a pass as a list of operators; parameter counts and KV bytes from the same list
gguf_average  widths of a GGUF format, averaged over the tensors of a model
sharding   checks of a layout against a model
layers     the operators of each kind of layer
reading    config.json files of Hugging Face, by family
"""
