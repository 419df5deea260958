"""Host times of engines: which terms a run is scored by, and what they do to a step."""

import pytest

from llm_analysis import estimate
from llm_analysis.catalog import get_gpu, get_model
from llm_analysis.inference.engines import engine_for
from llm_analysis.inference.explain import explanation
from llm_analysis.inference.host_terms import HostTerms, host_terms
from llm_analysis.inference.passes import HOST_WAIT
from llm_analysis.inference.runtimes import NONE, Runtime, get_runtime
from llm_analysis.inference.scenario import Scenario
from llm_analysis.inference.workload import Workload
from llm_analysis.serving.policies import host_from, host_of, launches_of


def scenario(runtime: Runtime = NONE, method: str = "calibrated") -> Scenario:
    model, gpu = get_model("llama-3.1-8b"), get_gpu("h100-sxm-80gb")
    return Scenario.of(model, gpu, method=method, runtime=runtime if method == "calibrated" else None)


def test_a_source_is_scored_by_terms_fitted_without_it() -> None:
    assert host_terms("vllm", "AccelMark") != host_terms("vllm")
    assert host_terms("vllm", "a source of somebody else") == host_terms("vllm")


def test_every_engine_with_a_server_has_positive_terms() -> None:
    for runtime in ("vllm", "vllm-0.13", "vllm-v1", "sglang", "tensorrt-llm"):
        assert engine_for(runtime).runtimes[0] == runtime
        assert min(host_terms(runtime)) > 0


def test_old_vllm_streams_between_its_steps_if_it_is_imported() -> None:
    """A program that imports vLLM before 0.8 takes the tokens in the process of the engine; a server does not."""
    asked = scenario(Runtime(name="own", sequence_seconds=2e-5))
    terms = HostTerms(stream_seconds=5e-5, launch_seconds=1e-4)
    old, new = engine_for("vllm"), engine_for("vllm-v1")
    imported = host_from(old, terms, asked, "in-process")
    assert imported.sequence == pytest.approx(7e-5)
    assert imported.stream == 0.0
    assert imported.prefill == launches_of(asked) * 1e-4
    for found in (host_from(old, terms, asked), host_from(new, terms, asked, "in-process")):
        assert (found.sequence, found.stream) == (2e-5, 5e-5)
    offline = host_from(old, terms, asked, "offline")
    assert (offline.sequence, offline.stream) == (2e-5, 0.0)


def test_the_gpu_waits_as_long_as_in_a_static_estimate() -> None:
    asked = scenario(Runtime(name="own", step_seconds=1e-3, layer_seconds=1e-5, sequence_seconds=2e-5))
    host = host_of(engine_for("vllm"), asked)
    assert host.waits(8.0) == pytest.approx(1e-3 + 32 * 1e-5 + 8 * 2e-5)


def test_only_asynchronous_engines_prepare_a_step_beside_the_gpu() -> None:
    assert host_of(engine_for("vllm-v1"), scenario()).beside > 0
    assert host_of(engine_for("vllm-0.13"), scenario()).beside == 0


def test_the_speed_of_light_has_no_host() -> None:
    host = host_of(engine_for("vllm-v1"), scenario(method="ideal"))
    assert host.waits(8.0) == host.least(8.0) == host.prefill == 0


def test_a_decode_step_is_not_shorter_than_its_preparation() -> None:
    """A static estimate and the closed form of one request in flight agree; the host is then the limit."""
    terms = host_terms("vllm-v1")
    least = terms.beside_seconds + terms.beside_sequence_seconds
    small = estimate("qwen2.5-0.5b", "h100-sxm-80gb", runtime="vllm-v1")
    assert small.decode_latency == pytest.approx(least)
    assert any("the GPU waits for the host" in note for note in small.notes)
    assert [row.kind for row in small.operators if row.kind == HOST_WAIT] == [HOST_WAIT]
    for model, runtime in (("llama-3.1-8b", "vllm-v1"), ("qwen2.5-0.5b", "vllm-0.13")):
        other = estimate(model, "h100-sxm-80gb", runtime=runtime)
        assert not any("the GPU waits for the host" in note for note in other.notes)
        assert all(row.kind != HOST_WAIT for row in other.operators)


def test_half_the_host_time_shortens_a_step_that_waits_for_the_host() -> None:
    asked = Scenario.of(get_model("qwen2.5-0.5b"), get_gpu("h100-sxm-80gb"), runtime=get_runtime("vllm-v1"))
    found = explanation(asked, Workload(seq_len=512, num_tokens_to_generate=32))
    assert found.savings[0].name == "host_x0.5"
    assert sum(term.decode_seconds for term in found.terms) == pytest.approx(found.estimate.decode_latency)
