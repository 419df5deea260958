"""A scenario is checked once, and has the defaults that its parts leave open."""

from typing import Any

import pytest
from conftest import estimate

from llm_analysis import LLMAnalysis, Parallelism, get_dtypes, get_gpu, get_model
from llm_analysis.errors import Unsupported
from llm_analysis.inference.runtimes import get_runtime
from llm_analysis.inference.scenario import Scenario


def scenario(gpu: str = "h100-sxm-80gb", **sizes: int) -> Scenario:
    return Scenario.of(get_model("llama-3.1-70b"), get_gpu(gpu), get_dtypes("fp8"), Parallelism(**sizes))


def test_the_node_is_the_gpus_unless_given() -> None:
    assert scenario().layout.gpus_per_node == 8
    assert scenario("gb200-nvl72").layout.gpus_per_node == 72
    assert scenario(num_gpus_per_node=4).layout.gpus_per_node == 4
    assert scenario(num_gpus_per_node=4).gpu.gpus_per_node == 4


def test_the_size_of_a_node_has_one_name() -> None:
    with pytest.raises(ValueError, match="gpus_per_node"):
        Parallelism(gpus_per_node=4)  # type: ignore[call-arg]


def test_a_changed_scenario_is_checked_again() -> None:
    assert scenario(tp_size=4).changed(layout=Parallelism(tp_size=8)).layout.tp_size == 8
    with pytest.raises(Unsupported, match="tp_size 7 does not divide"):
        scenario().changed(layout=Parallelism(tp_size=7))


def test_a_given_width_of_the_cache_outlasts_a_change_of_formats() -> None:
    parts = get_model("llama-3.1-70b"), get_gpu("h100-sxm-80gb"), get_dtypes("bf16")
    kept = Scenario.of(*parts, kv_cache_dtype_bytes=2).changed(dtypes=get_dtypes("fp8"))
    assert (kept.dtypes.weight_bits, kept.dtypes.kv_bits) == (8, 16)


def test_an_analysis_is_a_scenario_with_questions() -> None:
    asked = LLMAnalysis(get_model("llama-3.1-8b"), get_gpu("h100-sxm-80gb"))
    parts = (asked.model, asked.gpu, asked.dtypes, asked.layout, asked.runtime)
    assert parts == tuple(getattr(asked.scenario, name) for name in ("model", "gpu", "dtypes", "layout", "runtime"))


@pytest.mark.parametrize(
    ("dtype", "runtime", "noted"),
    [("q4_k_m", None, True), ("q4_k_m", "vllm", True), ("q4_k_m", "llama.cpp", False), ("int4", None, False)],
)
def test_a_gguf_format_under_another_engine_names_llama_cpp(dtype: str, runtime: str | None, noted: bool) -> None:
    parts = get_model("llama-3.1-8b"), get_gpu("a100-sxm-80gb"), get_dtypes(dtype)
    notes = Scenario.of(*parts, runtime=get_runtime(runtime) if runtime else None).notes
    assert any("--runtime llama.cpp" in note for note in notes) is noted


@pytest.mark.parametrize("method", ["ideal", "calibrated"])
def test_a_text_prompt_takes_no_time_for_the_layers_that_attend_to_images(method: str) -> None:
    """Llama 3.2 Vision 11B has the 32 layers of Llama-3.1-8B, and 8 more that a text prompt skips."""
    question: dict[str, Any] = {"tp_size": 2, "batch_size_per_gpu": 4, "seq_len": 300, "num_tokens_to_generate": 9}
    question["method"] = method
    text, both = (estimate(name, **question) for name in ("llama-3.1-8b", "llama-3.2-11b-vision"))
    assert (both.prefill_latency, both.decode_latency) == (text.prefill_latency, text.decode_latency)
    assert not any("skipped" in note for note in both.notes if not note.startswith("8 layers"))


@pytest.mark.parametrize(("gpu", "noted"), [("mi300x-192gb", True), ("h100-sxm-80gb", False)])
def test_an_engine_for_nvidia_gpus_on_another_vendors_is_noted(gpu: str, noted: bool) -> None:
    found = Scenario.of(get_model("llama-3.1-8b"), get_gpu(gpu), runtime=get_runtime("tensorrt-llm"))
    assert any("runs on NVIDIA GPUs only" in note for note in found.notes) == noted
