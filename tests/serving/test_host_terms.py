"""Host times of engines: which terms a run is scored by, and what they do to a step."""

import pytest

from llm_analysis.inference.engines import engine_for
from llm_analysis.serving.host_terms import HostTerms, host_terms
from llm_analysis.serving.policies import host_from


def test_a_source_is_scored_by_terms_fitted_without_it() -> None:
    assert host_terms("vllm", "AccelMark") != host_terms("vllm")
    assert host_terms("vllm", "a source of somebody else") == host_terms("vllm")


def test_every_engine_with_a_server_has_positive_terms() -> None:
    for runtime in ("vllm", "vllm-0.13", "vllm-v1", "sglang", "tensorrt-llm"):
        assert engine_for(runtime).runtimes[0] == runtime
        assert min(host_terms(runtime)) > 0


def test_old_vllm_streams_between_its_steps_if_it_is_imported() -> None:
    """A program that imports vLLM before 0.8 takes the tokens in the process of the engine; a server does not."""
    terms = HostTerms(sequence_seconds=2e-5, stream_seconds=5e-5, launch_seconds=1e-4)
    old, new = engine_for("vllm"), engine_for("vllm-v1")
    imported = host_from(old, terms, 300.0, "in-process")
    assert imported.sequence == pytest.approx(7e-5)
    assert imported.stream == 0.0
    assert imported.prefill == 300.0 * 1e-4
    for found in (host_from(old, terms, 300.0), host_from(new, terms, 300.0, "in-process")):
        assert (found.sequence, found.stream) == (2e-5, 5e-5)
    offline = host_from(old, terms, 300.0, "offline")
    assert (offline.sequence, offline.stream) == (2e-5, 0.0)
