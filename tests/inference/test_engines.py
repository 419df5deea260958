"""Defaults of serving engines, and the memory that they give to a KV cache."""

from typing import Any

import pytest

from llm_analysis.catalog import get_gpu, get_model
from llm_analysis.files import DATA, read_json
from llm_analysis.inference.analysis import estimate
from llm_analysis.inference.engines import Engine, engine_for, engine_of, memory_limits, server_notes
from llm_analysis.inference.memory import Memory
from llm_analysis.inference.runtimes import get_runtime, runtime_names
from llm_analysis.inference.scenario import Scenario
from llm_analysis.inference.workload import Workload
from llm_analysis.physics.dtypes import get_dtypes
from llm_analysis.physics.parallelism import Parallelism

H100 = get_gpu("h100-sxm-80gb")


@pytest.mark.parametrize(
    ("runtime", "gpu", "tokens", "sequences"),
    [
        ("vllm-v1", "h100-sxm-80gb", 8192, 1024),
        ("vllm-v1", "mi300x-192gb", 8192, 1024),
        ("vllm-v1", "a100-sxm-80gb", 2048, 256),
        ("vllm-v1", "l40s-48gb", 2048, 256),
        ("sglang", "h100-sxm-80gb", 8192, 2048),
        ("sglang", "b200-sxm", 16384, 2048),
        ("sglang", "l40s-48gb", 4096, 2048),
        ("tensorrt-llm", "h100-sxm-80gb", 8192, 2048),
    ],
)
def test_the_defaults_of_a_server_depend_on_the_gpu(runtime: str, gpu: str, tokens: int, sequences: int) -> None:
    found = engine_for(runtime).defaults_on(get_gpu(gpu))
    assert (found.max_num_batched_tokens, found.max_num_seqs) == (tokens, sequences)
    assert found.version
    assert found.source


@pytest.mark.parametrize(
    ("runtime", "version", "gpu", "tokens", "fraction"),
    [
        ("vllm-0.13", (0, 8), "a100-sxm-80gb", 8192, 0.9),  # the exception for the A100 came with 0.9
        ("vllm-0.13", (0, 11), "a100-sxm-80gb", 2048, 0.9),
        ("vllm-v1", (0, 19), "b200-sxm", 8192, 0.9),
        ("vllm-v1", (0, 20), "b200-sxm", 8192, 0.92),
        ("vllm-v1", (0, 40), "b200-sxm", 16384, 0.92),
    ],
)
def test_the_defaults_of_a_server_depend_on_the_version(
    runtime: str, version: tuple[int, int], gpu: str, tokens: int, fraction: float
) -> None:
    found = engine_for(runtime).defaults_on(get_gpu(gpu), version)
    assert (found.max_num_batched_tokens, found.gpu_memory_utilization) == (tokens, fraction)


def test_sglang_gives_weights_and_cache_the_memory_outside_of_its_reserve() -> None:
    # 512 + 1.5 * 8192 + 2 * 256 + 128 MiB of an H100, of 79.6 GiB
    found = engine_for("sglang").defaults_on(H100)
    assert found.gpu_memory_utilization == pytest.approx(1 - 13440 * 2**20 / H100.usable_memory_bytes, abs=5e-4)


def test_every_engine_belongs_to_runtimes_and_covers_every_gpu() -> None:
    engines = [Engine(**raw) for raw in read_json(DATA / "engines.json")["engines"]]
    named = [runtime for engine in engines for runtime in engine.runtimes]
    assert len(named) == len(set(named))
    assert set(named) <= set(runtime_names())
    for engine in engines:
        assert [entry.since for entry in engine.defaults] == sorted(entry.since for entry in engine.defaults)
        assert all(not entry.by_gpu[-1].least_memory_bytes for entry in engine.defaults)


def test_a_runtime_without_a_known_server_has_no_defaults() -> None:
    assert engine_of("none") is None
    assert engine_of("llama.cpp") is None


def test_a_port_has_the_server_of_the_version() -> None:
    assert not engine_for("vllm-rocm", (0, 6)).chunked
    assert engine_for("vllm-rocm", (0, 19)).chunked


@pytest.mark.parametrize(("runtime", "bits"), [("vllm-v1", 16), ("sglang", 16), ("tensorrt-llm", 8), ("none", 8)])
def test_engines_but_tensorrt_llm_keep_the_kv_cache_of_fp8_weights_in_16_bits(runtime: str, bits: int) -> None:
    def formats(name: str, **more: Any) -> int:
        asked = get_dtypes(name), Parallelism(tp_size=8)
        return Scenario.of(
            get_model("llama-3.1-70b"), H100, *asked, runtime=get_runtime(runtime), **more
        ).dtypes.kv_bits

    assert formats("fp8") == bits
    assert formats("fp8+kv:fp8") == 8
    assert formats("w8a8e16kv8") == 8
    assert formats("fp8", kv_cache_dtype_bytes=1) == 8
    assert formats("bf16") == 16


def test_405b_on_eight_h100_holds_8_requests_of_32k_and_16_with_an_fp8_cache() -> None:
    def held(**more: Any) -> int:
        model, layout = get_model("llama-3.1-405b"), Parallelism(tp_size=8)
        scenario = Scenario.of(model, H100, get_dtypes("fp8"), layout, **more)
        served = {"prefill_chunk_size": 8192, "gpu_memory_utilization": 0.9}
        workload = Workload(seq_len=32_000, num_tokens_to_generate=768, **served)  # type: ignore[arg-type]
        return int(estimate(scenario, workload).max_batch_size_per_gpu)

    assert held() == 8
    assert held(kv_cache_dtype_bytes=1) == 16


@pytest.mark.parametrize("meaning", ["everything", "weights_and_cache", "free"])
def test_at_the_limit_the_fraction_equals_the_parts_that_it_limits(meaning: str) -> None:
    memory, process, weights, activations, fraction = 80e9, 2e9, 30e9, 3e9, 0.8
    limits = memory_limits(meaning, fraction, memory, process)
    cache = min((each.size - weights - each.activations * activations) / each.cache for each in limits)
    by_hand = {
        "everything": fraction * memory - process - weights - activations,
        "weights_and_cache": fraction * memory - weights,
        "free": fraction * (memory - process - weights - activations),
    }
    assert cache == pytest.approx(by_hand[meaning])


@pytest.mark.parametrize("runtime", ["vllm-v1", "sglang", "tensorrt-llm"])
def test_the_largest_batch_fits_and_one_more_does_not(runtime: str) -> None:
    scenario = Scenario.of(get_model("llama-3.1-8b"), H100, runtime=get_runtime(runtime))

    def at(batch: int) -> Memory:
        served = Workload(
            batch_size_per_gpu=batch,
            seq_len=3000,
            num_tokens_to_generate=100,
            prefill_chunk_size=8192,
            gpu_memory_utilization=0.85,
        )
        return Memory(scenario, served)

    most = int(at(1).max_batch)
    assert at(most).fits
    assert not at(most + 1).fits


@pytest.mark.parametrize(
    ("runtime", "engine", "note"),
    [
        ("tensorrt-llm-0.9", "TensorRT-LLM", "assumed to schedule like TensorRT-LLM 1.0"),
        ("sglang-rocm", "SGLang", ""),
        ("vllm-rocm", "vLLM", ""),
        ("llama.cpp", "vLLM", "those of llama.cpp are not known"),
    ],
)
def test_a_runtime_without_a_known_server_has_that_of_another_and_a_note(runtime: str, engine: str, note: str) -> None:
    assert engine_for(runtime).name == engine
    assert note in " ".join(server_notes(runtime))
    assert bool(server_notes(runtime)) == bool(note)


def test_the_runtime_for_amd_gpus_has_the_server_of_the_versions_it_is_fitted_to() -> None:
    assert engine_for("vllm-rocm").usual_version == engine_for("vllm").usual_version


@pytest.mark.parametrize(
    ("model", "gpu", "version", "tokens"),
    [
        ("llama-3.1-8b", "h100-sxm-80gb", None, 2048),
        ("llama-3.1-8b", "h100-sxm-80gb", (0, 5), None),  # before the default came
        ("llama-3-8b", "h100-sxm-80gb", None, None),  # 8,192 tokens of context
        ("llama-3.1-8b", "mi300x-192gb", None, None),
        ("deepseek-v3", "h100-sxm-80gb", None, None),  # latent attention
    ],
)
def test_old_vllm_cuts_the_prompts_of_models_with_a_long_context(
    model: str, gpu: str, version: tuple[int, int] | None, tokens: int | None
) -> None:
    found = engine_for("vllm").serving(get_model(model), get_gpu(gpu), version)
    assert found.defaults_on(get_gpu(gpu), version).max_num_batched_tokens == tokens
    assert found.mixed == found.chunked == (tokens is not None)


def test_the_first_vllm_cuts_no_prompts() -> None:
    found = engine_for("vllm-0.2").serving(get_model("llama-3.1-8b"), H100)
    assert not any((found.mixed, found.chunked, found.late_tokens))


def test_an_engine_that_always_cuts_prompts_serves_all_models_alike() -> None:
    engine = engine_for("vllm-v1")
    assert engine.serving(get_model("llama-3.1-8b"), H100) == engine
