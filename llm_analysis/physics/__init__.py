"""What kernels, collectives and number formats do, as numbers. Nothing here reads a file or imports a GPU or a model.

operators     one kernel as a record: FLOP, bytes, weights, cache
attention     scaled dot-product attention: FLOP of the visible pairs, bytes of the KV cache
collectives   all-reduce, all-gather, all-to-all, sends: bytes on the wire and messages
dtypes        number formats: bits, rates, names such as w4a16 and fp8
gguf          formats of llama.cpp: bits of each type, and the type of each tensor
parallelism   the layout: tensor, context, pipeline, data, sequence and expert parallel sizes
"""
