"""What would make a model fit: each remedy is one that the same question takes, and with which it fits."""

import re
from typing import Any

import pytest

from llm_analysis import LLMAnalysis, Parallelism, get_dtypes, get_gpu, get_model

Question = dict[str, Any]
SIZES = ("tp_size", "cp_size", "sp_size", "ep_size", "pp_size")
LONG: Question = {"batch_size_per_gpu": 60, "seq_len": 100_000}
# Its activations, of all prompts in one pass, are what does not fit.
WIDE = ("llama-3.1-8b", "h100-sxm-80gb", {"batch_size_per_gpu": 32, "seq_len": 14_000, "tp_size": 1})
SHORT = [
    ("llama-3.1-8b", "h100-sxm-80gb", LONG),
    ("llama-3.1-8b", "h100-sxm-80gb", LONG | {"tp_size": 8}),
    ("llama-3.1-8b", "a100-sxm-80gb", {"batch_size_per_gpu": 900}),
    ("llama-2-70b", "a100-sxm-40gb", {}),
    ("llama-3.1-405b", "h100-sxm-80gb", {"tp_size": 8}),
    ("llama-3.1-405b", "a100-sxm-40gb", {"tp_size": 2}),
    WIDE,
]


def notes_of(model: str, gpu: str, method: str, dtype_name: str = "bf16", **question: Any) -> tuple[str, ...]:
    layout = Parallelism(**{size: question.pop(size) for size in SIZES if size in question})
    arguments = get_model(model), get_gpu(gpu), get_dtypes(dtype_name), layout
    return LLMAnalysis(*arguments, method=method).inference(**question).notes


def advice(*arguments: str, **question: Any) -> str:
    (note,) = [note for note in notes_of(*arguments, **question) if note.startswith("does not fit")]
    return note.partition("; ")[2]


def flags(remedy: str) -> Question:
    found = re.findall(r"(\w+_\w+) (\w+)", remedy)
    return {flag: int(value) if value.isdigit() else value for flag, value in found}


@pytest.mark.parametrize(("model", "gpu", "question"), SHORT)
@pytest.mark.parametrize("method", ["calibrated", "ideal", "published"])
def test_each_remedy_is_taken_and_fits(method: str, model: str, gpu: str, question: Question) -> None:
    check_remedies(model, gpu, method, question)


@pytest.mark.parametrize("method", ["calibrated", "ideal"])
def test_norms_stay_split_over_the_gpus_of_a_remedy(method: str) -> None:
    check_remedies("mixtral-8x7b", "a100-sxm-40gb", method, {"tp_size": 2, "sp_size": 2})


def test_chunks_are_named_first_where_they_are_enough() -> None:
    model, gpu, question = WIDE
    assert advice(model, gpu, "calibrated", **question).startswith("would fit: prefill_chunk_size 8192, or ")
    assert "prefill_chunk_size" not in advice(model, gpu, "published", **question)


def check_remedies(model: str, gpu: str, method: str, question: Question) -> None:
    said = advice(model, gpu, method, **question)
    assert said.startswith("would fit: ")
    for remedy in said.removeprefix("would fit: ").split(", or "):
        notes = notes_of(model, gpu, method, **(question | flags(remedy)))
        assert not [note for note in notes if note.startswith("does not fit")], remedy


@pytest.mark.parametrize(
    ("model", "gpu", "method", "question", "expected"),
    [
        ("llama-3.1-8b", "h100-sxm-80gb", "published", LONG, "would fit: batch_size_per_gpu 2"),
        # fp8 has no rate of its own on an A100, which published needs; 16 GPUs are more than its one node.
        ("llama-3.1-405b", "a100-sxm-80gb", "published", {"tp_size": 8}, "would fit: dtype_name int8"),
        # A network between its servers is not on record.
        ("llama-3.1-405b", "l4-24gb", "ideal", {"tp_size": 8}, "no possible tp_size would do, nor int4"),
        ("llama-3.1-405b", "t4", "ideal", {}, "no possible tp_size or cp_size would do, nor int4"),
        ("llama-3.1-405b", "t4", "ideal", {"dtype_name": "int4"}, "no possible tp_size or cp_size would do"),
        ("llama-3.1-405b", "h100-sxm-80gb", "ideal", {"tp_size": 8, "sp_size": 8}, ".*tp_size 16 and sp_size 16.*"),
    ],
)
def test_what_cannot_be_is_not_named(model: str, gpu: str, method: str, question: Question, expected: str) -> None:
    assert re.fullmatch(expected, advice(model, gpu, method, **question))
