"""Estimates of many GPUs at once: identical to one GPU after another."""

from typing import Any

import pytest

from llm_analysis import api, catalog
from llm_analysis.errors import UnknownName, Unsupported
from llm_analysis.explore.sweep import Sweep

GPUS = catalog.names("gpu_configs")
QUESTIONS: list[dict[str, Any]] = [
    {"model_name": "llama-3.1-70b", "dtype_name": "bf16,fp8,int4", "tp_size": "1,3,8,16", "seq_len": "100,2000"},
    {"model_name": "deepseek-v2-lite", "ep_size": "1,2", "tp_size": 2, "num_tokens_to_generate": "1,5,300"},
    {"model_name": "gemma-2-9b,llama-3.1-8b", "seq_len": "100,5000", "num_tokens_to_generate": "2,300"},
    {"model_name": "llama-4-scout", "tp_size": 8, "prefill_chunk_size": "512,8192", "cost_per_gpu_hour": 2.0},
    {"model_name": "llama-3.1-8b", "method": "ideal", "cp_size": "1,2"},
    {"model_name": "llama-3.1-8b", "runtime": "vllm,sglang,none", "num_gpus_per_node": "1,8", "tp_size": "1,8"},
    {"model_name": "llama-3.1-8b", "kv_cache_dtype_bytes": "1,2", "num_samples": "1,3", "cached_prefix_len": 7},
]


def sweeps(given: dict[str, Any]) -> tuple[Sweep, Sweep]:
    """The same sweep twice: GPUs together, and one after another."""
    asked = api._defaults() | {"gpu_name": GPUS, "batch_size_per_gpu": "1,16"} | given
    together, alone = Sweep(asked), Sweep(asked)
    alone._groups_gpus = lambda: False  # type: ignore[method-assign]
    return together, alone


@pytest.mark.parametrize("given", QUESTIONS, ids=lambda given: " ".join(map(str, given)))
def test_rows_of_all_gpus_are_identical_to_those_of_each(given: dict[str, Any]) -> None:
    together, alone = sweeps(given)
    assert together._groups_gpus()
    rows = list(together.table().rows())
    assert rows == list(alone.table().rows())
    assert len({row["gpu_name"] for row in rows}) > 40
    assert sum(together.skipped.values()) == sum(alone.skipped.values()) == together.points - len(rows)
    assert set(together.skipped) == set(alone.skipped)


ONE_BY_ONE: list[dict[str, Any]] = [
    {"disaggregated": True},
    {"pp_size": 2},
    {"use_kv_cache": False},
    {"flops_efficiency": 0.5},
    {"seq_len": 10**6},
]


@pytest.mark.parametrize("given", ONE_BY_ONE, ids=str)
def test_options_whose_passes_differ_by_gpu_are_estimated_one_by_one(given: dict[str, Any]) -> None:
    assert not sweeps({"model_name": "llama-3.1-8b"} | given)[0]._groups_gpus()


def test_errors_are_those_of_single_gpus() -> None:
    together, _ = sweeps({"model_name": "llama-3.1-8b", "tp_size": 3})
    with pytest.raises(Unsupported, match="tp_size 3 does not divide"):
        together.table()
    with pytest.raises(UnknownName, match="nonsense"):
        sweeps({"model_name": "llama-3.1-8b", "gpu_name": [*GPUS[:5], "nonsense"]})[0].table()
    with pytest.raises(UnknownName, match=r"llama-3\.1-9b"):
        sweeps({"model_name": "llama-3.1-9b"})[0].table()
