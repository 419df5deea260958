"""One code path for scalars and arrays: an array of workloads is answered like each of them, to the last digit."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_analysis import LLMAnalysis, Parallelism, get_gpu, get_model
from llm_analysis.errors import BadValue
from llm_analysis.inference.estimate import Estimate

MODELS = ("llama-3.1-8b", "gemma-2-9b", "llama-4-scout", "mixtral-8x7b", "deepseek-v2-lite")
COLUMNS = (
    "prefill_latency",
    "decode_latency",
    "total_latency",
    "prefill_latency_high",
    "total_tokens_per_sec",
    "kv_cache_memory_per_gpu",
    "activation_memory_per_gpu",
    "memory_left_per_gpu",
    "fits",
    "max_batch_size_per_gpu",
    "max_context_len",
    "cost_per_million_tokens",
)

batches = st.lists(st.integers(1, 300), min_size=1, max_size=4)
prompts = st.lists(st.integers(1, 4000), min_size=1, max_size=3)
outputs = st.lists(st.integers(1, 600), min_size=1, max_size=3)


def figures(e: Estimate) -> dict[str, Any]:
    """The columns, and the seconds and the binding resource of each operator."""
    rows = {f"{row.phase} {row.name}": row for row in e.operators}
    seconds = {f"{name} seconds": row.seconds for name, row in rows.items()}
    return {name: getattr(e, name) for name in COLUMNS} | seconds | {name: row.bound for name, row in rows.items()}


@settings(max_examples=12)
@given(
    model=st.sampled_from(MODELS),
    method=st.sampled_from(["calibrated", "ideal"]),
    layout=st.sampled_from([{}, {"tp_size": 2}, {"pp_size": 2}]),
    chunk=st.sampled_from([None, 512]),
    b=batches,
    s=prompts,
    n=outputs,
)
def test_a_block_on_open_axes_equals_its_points(
    model: str, method: str, layout: dict[str, int], chunk: int | None, b: list[int], s: list[int], n: list[int]
) -> None:
    asked = LLMAnalysis(get_model(model), get_gpu("h100-sxm-80gb"), None, Parallelism(**layout), method=method)
    options: dict[str, Any] = {"prefill_chunk_size": chunk, "cost_per_gpu_hour": 2.5}
    block = figures(
        asked.inference(
            batch_size_per_gpu=np.array(b)[:, None, None],
            seq_len=np.array(s)[None, :, None],
            num_tokens_to_generate=np.array(n)[None, None, :],
            **options,
        )
    )
    shape = (len(b), len(s), len(n))
    at = (len(b) - 1, len(s) // 2, 0)
    point = figures(
        asked.inference(batch_size_per_gpu=b[at[0]], seq_len=s[at[1]], num_tokens_to_generate=n[at[2]], **options)
    )
    for name, value in point.items():
        assert np.broadcast_to(np.asarray(block[name]), shape)[at] == value, name


@pytest.mark.parametrize("count", [np.int64(4), np.float64(4).astype(np.int32)])
def test_a_numpy_integer_is_a_whole_number(count: Any) -> None:
    asked = LLMAnalysis(get_model("llama-3.1-8b"), get_gpu("h100-sxm-80gb"))
    assert (
        asked.inference(batch_size_per_gpu=count).total_latency == asked.inference(batch_size_per_gpu=4).total_latency
    )


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (np.array([1, 0]), "batch_size_per_gpu must be greater than 0"),
        (np.array([1.5]), "an array must hold whole numbers"),
        (np.array([1e12]), "batch_size_per_gpu must be"),
        (np.array(["a"]), "an array must hold numbers"),
        (np.array([]), "an array must hold numbers"),
        (np.array([np.nan]), "batch_size_per_gpu must be"),
    ],
)
def test_an_array_out_of_range_is_refused(values: Any, complaint: str) -> None:
    asked = LLMAnalysis(get_model("llama-3.1-8b"), get_gpu("h100-sxm-80gb"))
    with pytest.raises(BadValue, match=complaint):
        asked.inference(batch_size_per_gpu=values)


def test_the_same_question_twice_has_the_same_notes() -> None:
    asked = LLMAnalysis(get_model("mixtral-8x7b"), get_gpu("rtx-4090"))
    first = asked.inference().notes
    asked.inference(seq_len=4096, num_samples=2)
    assert asked.inference().notes == first


def test_kernels_with_the_same_substitute_share_one_note() -> None:
    answer = LLMAnalysis(get_model("llama-3.1-8b"), get_gpu("rtx-4090")).inference()
    notes = [note for note in answer.notes if "of a100-sxm-80gb are assumed" in note]
    assert [note.partition(": ")[0] for note in notes] == ["embedding bf16, elementwise bf16, residual bf16"]
