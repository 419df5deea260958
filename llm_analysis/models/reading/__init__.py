"""Read a Hugging Face config.json into a ModelConfig.

reader     one file: family, layer patterns, quantization
families   one table row per model_type, and short functions for the unusual ones
fields     helpers that look up keys under their different names
"""
