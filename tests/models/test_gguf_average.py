"""Sizes of GGUF files: the weights of a model in llama.cpp's formats against the files that people download."""

import pytest

from llm_analysis.catalog import get_model
from llm_analysis.models.forward import forward
from llm_analysis.models.gguf_average import with_gguf_mix
from llm_analysis.physics.dtypes import Dtypes, get_dtypes
from llm_analysis.physics.operators import Step
from llm_analysis.physics.parallelism import Parallelism

# Gigabytes that Hugging Face shows for files of TheBloke (Llama 2, Mistral), bartowski (Llama 3, Qwen2.5, Gemma 2)
# and the Qwen team (Qwen3), made without an importance matrix or with one that does not change these types. Recalled.
FILES = [
    ("llama-2-7b", "q4_k_m", 4.08),
    ("llama-2-13b", "q4_k_m", 7.87),
    ("llama-2-70b", "q4_k_m", 41.42),
    ("llama-3.1-8b", "q4_k_m", 4.92),
    ("llama-2-7b", "q8_0", 7.16),
    ("llama-3.1-8b", "q8_0", 8.54),
    ("llama-3.1-8b", "q5_k_m", 5.73),
    ("llama-3.1-8b", "q6_k", 6.60),
    ("llama-3.1-8b", "q4_0", 4.66),
    ("llama-3.3-70b", "q5_k_m", 49.95),
    ("qwen2.5-72b", "q4_k_m", 47.42),  # 256 does not divide its feed-forward
    ("gemma-2-9b", "q4_k_m", 5.76),  # its embedding serves as output matrix
    ("phi-3-mini-4k", "q4_k_m", 2.39),  # its queries, keys and values are one tensor
    ("mixtral-8x7b", "q4_k_m", 28.45),  # 8 experts
    ("qwen3-32b", "q4_k_m", 19.76),
]


def weights_gb(model: str, dtypes: Dtypes) -> float:
    shapes = get_model(model)
    held = with_gguf_mix(dtypes, shapes).on({"fp16": 1.0}, "any")
    return sum(float(op.count) * op.stored_bytes for op in forward(shapes, Step(1.0, 1.0), held, Parallelism())) / 1e9


@pytest.mark.parametrize(("model", "name", "gigabytes"), FILES)
def test_weights_are_as_large_as_the_file(model: str, name: str, gigabytes: float) -> None:
    """Files also hold the vocabulary (up to 8 MB) and keep norms and routers in 32 bits."""
    found = weights_gb(model, get_dtypes(name))
    assert gigabytes - 0.016 < found < gigabytes + 0.005


def test_other_formats_stay_as_they_are() -> None:
    assert with_gguf_mix(get_dtypes("int4"), get_model("llama-2-7b")) == get_dtypes("int4")
