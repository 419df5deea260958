"""Error bands of servers in the answers of `load` and `infer --max_concurrency`."""

import json

import pytest
from conftest import Ask

from llm_analysis.serving.bands import FILE, band_of

SERVER = ("--model_name", "llama-3.1-8b", "--gpu_name", "h100-sxm-80gb")
STEADY = ("infer", *SERVER, "--max_concurrency", "16", "--seq_len", "512")
LOAD = ("load", *SERVER, "--num_prompts", "50")


def test_the_tail_of_a_latency_has_one_band() -> None:
    assert band_of("ttft_p90") == band_of("ttft_p99") != band_of("ttft_median")
    assert band_of("request_throughput") == band_of("output_token_throughput")
    assert band_of("ttft_p99", at_once=True) != band_of("ttft_p99")


def test_a_class_with_too_few_published_values_has_no_band() -> None:
    assert "e2e mean, all at once" not in json.loads(FILE.read_text())["bands"]
    assert band_of("e2e_mean", at_once=True) is None


@pytest.mark.parametrize(("rate", "at_once"), [("4", False), ("inf", True)])
def test_load_gives_the_band_of_each_metric(ask: Ask, rate: str, at_once: bool) -> None:
    (point,) = json.loads(ask(*LOAD, "--request_rate", rate, "--format", "json").out)["points"]
    band = band_of("tpot_median", at_once)
    assert band is not None
    assert point["bands"]["tpot_median"] == pytest.approx([factor * point["tpot"]["median"] for factor in band])
    assert (point["bands"]["e2e_p99"] is None) == at_once
    assert set(point["bands"]) >= {"ttft_mean", "itl_p99", "request_throughput", "output_token_throughput"}


def test_a_closed_loop_has_the_bands_of_other_runs(ask: Ask) -> None:
    """Only its first requests are sent at once."""
    (point,) = json.loads(ask(*LOAD, "--max_concurrency", "8", "--format", "json").out)["points"]
    assert point["bands"]["e2e_p99"] is not None


def test_the_steady_state_has_a_column_of_bands(ask: Ask) -> None:
    answer = json.loads(ask(*STEADY, "--format", "json").out)
    band = band_of("ttft_mean")
    assert band is not None
    assert [answer["ttft_low"], answer["ttft_high"]] == pytest.approx([factor * answer["ttft"] for factor in band])
    assert "80 % within" in ask(*STEADY).out
    assert "published values of" in ask(*STEADY).out


@pytest.mark.parametrize(("gpu", "warned"), [("h100-sxm-80gb", False), ("gaudi2", True)])
def test_a_gpu_without_published_runs_has_a_note(ask: Ask, gpu: str, warned: bool) -> None:
    for question in (STEADY, LOAD):
        answer = " ".join(ask(*(gpu if word == SERVER[-1] else word for word in question)).out.split())
        assert (f"none of the published runs is of {gpu}" in answer) == warned


def test_kernels_alone_have_no_band(ask: Ask) -> None:
    """No published run is one of kernels without a server."""
    steady, load = (*STEADY, "--runtime", "none"), (*LOAD, "--runtime", "none")
    assert json.loads(ask(*steady, "--format", "json").out)["tpot_low"] is None
    assert set(json.loads(ask(*load, "--format", "json").out)["points"][0]["bands"].values()) == {None}
    for question in (steady, load):
        assert "error bands" not in ask(*question).out
        assert "80 % within" not in ask(*question).out
