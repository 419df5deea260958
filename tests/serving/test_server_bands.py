"""Error bands of servers in the answers of `load` and `infer --max_concurrency`."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Ask

from llm_analysis.serving import server_bands
from llm_analysis.serving.server_bands import AT_ONCE, CLOSED, FILE, OPEN, band_of

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


def points(ask: Ask, *flags: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ask(*LOAD, *flags, "--format", "json").out)["points"]
    return found


@pytest.mark.parametrize(
    ("flags", "arrivals"),
    [
        (("--request_rate", "4"), OPEN),
        (("--max_concurrency", "8"), CLOSED),
        ((), AT_ONCE),
        (("--max_concurrency", "50"), AT_ONCE),  # as many as there are requests
    ],
)
def test_load_gives_the_band_of_each_metric(ask: Ask, flags: tuple[str, ...], arrivals: str) -> None:
    (point,) = points(ask, *flags)
    band = band_of("tpot_median", arrivals == AT_ONCE)
    assert band is not None
    assert point["arrivals"] == arrivals
    assert point["bands"]["tpot_median"] == pytest.approx([factor * point["tpot"]["median"] for factor in band])
    assert (point["bands"]["e2e_p99"] is None) == (arrivals == AT_ONCE)
    assert (point["bands"]["request_throughput"] is None) == (arrivals == OPEN)
    assert set(point["bands"]) >= {"ttft_mean", "itl_p99", "request_throughput", "output_token_throughput"}


@pytest.mark.parametrize(("due", "arrivals"), [("0", AT_ONCE), ("1", OPEN)])
def test_a_trace_has_the_bands_of_its_arrivals(ask: Ask, tmp_path: Path, due: str, arrivals: str) -> None:
    rows = "".join(f"{i * float(due)},500,20\n" for i in range(20))
    path = tmp_path / "t.csv"
    path.write_text(f"arrival_time,input_tokens,output_tokens\n{rows}")
    question = ("load", *SERVER, "--trace", str(path))
    (point,) = json.loads(ask(*question, "--format", "json").out)["points"]
    assert point["arrivals"] == arrivals
    assert ("throughput 0." in ask(*question).out) == (arrivals == AT_ONCE)


def test_a_curve_with_both_kinds_of_arrivals_has_the_multiples_of_both(ask: Ask) -> None:
    answer = ask(*LOAD, "--request_rate", "4,inf").out
    assert "error bands (open loop): " in answer
    assert "error bands (all at once): " in answer


@pytest.mark.parametrize(
    ("band", "note"),
    [([1.2, 2.0], "biased low"), ([0.5, 0.8], "biased high"), ([0.8, 1.2], None)],
)
def test_an_estimate_outside_of_its_band_has_a_note(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, band: list[float], note: str | None
) -> None:
    published = json.loads(FILE.read_text())
    published["bands"] = {"ttft median, all at once": band}
    monkeypatch.setattr(server_bands, "_published", lambda: published)
    answer = " ".join(ask(*LOAD).out.split())
    if note:
        assert f"median TTFT: estimates of this kind are {note}" in answer
    else:
        assert "biased" not in answer


def test_one_output_token_has_the_band_of_its_ttft(ask: Ask) -> None:
    answer = json.loads(ask(*STEADY, "--num_tokens_to_generate", "1", "--format", "json").out)
    assert (answer["e2e_low"], answer["e2e_high"]) == (answer["ttft_low"], answer["ttft_high"])
    assert answer["tpot_low"] is None
    assert "0 to 0" not in ask(*STEADY, "--num_tokens_to_generate", "1").out


def test_context_parallelism_has_no_band(ask: Ask) -> None:
    assert json.loads(ask(*STEADY, "--cp_size", "2", "--format", "json").out)["ttft_low"] is None


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
        assert (f"no published run is of {gpu}" in answer) == warned


def test_an_engine_without_published_runs_has_a_note(ask: Ask) -> None:
    assert "no published run is of llama.cpp" in " ".join(ask(*STEADY, "--runtime", "llama.cpp").out.split())


def test_kernels_alone_have_no_band(ask: Ask) -> None:
    """No published run is one of kernels without a server."""
    steady, load = (*STEADY, "--runtime", "none"), (*LOAD, "--runtime", "none")
    assert json.loads(ask(*steady, "--format", "json").out)["tpot_low"] is None
    assert set(json.loads(ask(*load, "--format", "json").out)["points"][0]["bands"].values()) == {None}
    for question in (steady, load):
        assert "error bands" not in ask(*question).out
        assert "80 % within" not in ask(*question).out
