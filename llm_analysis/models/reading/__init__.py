"""Read a Hugging Face config.json into a ModelConfig.

reader        one file: family, sizes, layer patterns, keys that nothing read
families      one table row per model_type, and short functions for the unusual ones, by kind of layers
fields        helpers that look up keys under their different names
quantization  number format of a quantized checkpoint
"""
