"""Explanations: the terms add up to the estimate, `ideal` has no losses, and what-ifs are estimates."""

from __future__ import annotations

import csv
import io
import json
import re
from math import isclose

import pytest
from conftest import Ask
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_analysis import LLMAnalysisError, Parallelism, get_dtypes, get_gpu, get_model
from llm_analysis.hardware.gpu import GPU
from llm_analysis.inference.analysis import estimate
from llm_analysis.inference.explain import TERMS, WHAT_IFS, Explanation, Line, explanation
from llm_analysis.inference.methods import Efficiencies
from llm_analysis.inference.runtimes import Runtime, get_runtime
from llm_analysis.inference.scenario import Scenario
from llm_analysis.inference.workload import Workload
from llm_analysis.report.explanation import rendered
from llm_analysis.report.tables import FORMATS

# A runtime with every term above zero, so that every loss is above zero.
ENGINE = Runtime(
    name="engine",
    step_seconds=1e-3,
    layer_seconds=1e-5,
    sequence_seconds=2e-5,
    collective_seconds=5e-6,
    matmul_memory=0.9,
)
HARDWARE = ("memory_bandwidth_x1.1", "peak_flops_x1.1", "launch_x0.5", "host_x0.5", "link_bandwidth_x2")
QUESTION = ["--model_name", "test-13b", "--gpu_name", "a100-sxm-40gb"]
# A saving is the difference of two sums of about a hundred terms, each rounded in its sixteenth digit.
ROUNDING = 1e-12

models = st.sampled_from(["llama-2-7b", "llama-3.1-70b", "mistral-7b-v0.1", "mixtral-8x7b", "deepseek-v2-lite"])
gpus = st.sampled_from(["a100-sxm-80gb", "h100-sxm-80gb", "l40s-48gb", "t4"])
dtypes = st.sampled_from(["bf16", "int4", "w8a8e16", "w16a16e16kv8"])
methods = st.sampled_from(["ideal", "calibrated"])
layouts = st.builds(Parallelism, tp_size=st.sampled_from([1, 2, 4]), pp_size=st.sampled_from([1, 2]))
workloads = st.builds(
    Workload,
    batch_size_per_gpu=st.integers(1, 256),
    seq_len=st.integers(1, 2000),
    num_tokens_to_generate=st.integers(1, 500),
)


def asked(
    model: str, gpu: GPU, method: str = "calibrated", dtype: str = "bf16", layout: Parallelism | None = None
) -> Scenario:
    runtime = ENGINE if method == "calibrated" else None
    return Scenario.of(get_model(model), gpu, get_dtypes(dtype), layout, method=method, runtime=runtime)


def adds_up(e: Explanation) -> bool:
    sums = [sum(getattr(term, f"{phase}_seconds") for term in e.terms) for phase in ("prefill", "decode", "total")]
    whole = (e.estimate.prefill_latency, e.estimate.decode_latency, e.estimate.total_latency)
    return all(isclose(a, b, rel_tol=1e-9) for a, b in zip(sums, whole, strict=True))


def saving(e: Explanation, name: str) -> Line:
    return next(line for line in e.savings if line.name == name)


@settings(max_examples=15)
@given(model=models, gpu=gpus, method=methods, dtype=dtypes, layout=layouts, workload=workloads)
def test_the_terms_add_up_and_better_hardware_is_never_slower(
    model: str, gpu: str, method: str, dtype: str, layout: Parallelism, workload: Workload
) -> None:
    e = explanation(asked(model, get_gpu(gpu), method, dtype, layout), workload)
    assert [term.name for term in e.terms] == list(TERMS)
    assert adds_up(e)
    for name in HARDWARE:
        assert min(saving(e, name).prefill_share, saving(e, name).decode_share) >= -ROUNDING
    totals = [line.total_seconds for line in e.savings]
    assert totals == sorted(totals, reverse=True)


@settings(max_examples=15)
@given(model=models, gpu=gpus, dtype=dtypes, layout=layouts, workload=workloads)
def test_ideal_has_no_losses(model: str, gpu: str, dtype: str, layout: Parallelism, workload: Workload) -> None:
    e = explanation(asked(model, get_gpu(gpu), "ideal", dtype, layout), workload)
    assert all(term.total_seconds == term.decode_seconds == 0 for term in e.terms if term.name.startswith("lost"))


def test_the_light_terms_equal_the_ideal_estimate() -> None:
    workload = Workload(batch_size_per_gpu=8, seq_len=600, num_tokens_to_generate=100)
    layout = Parallelism(tp_size=2)
    e = explanation(asked("llama-3.1-8b", get_gpu("h100-sxm-80gb"), layout=layout), workload)
    ideal = asked("llama-3.1-8b", get_gpu("h100-sxm-80gb"), "ideal", layout=layout)
    answer = estimate(ideal, workload)
    light = [term for term in e.terms if term.name.startswith("light")]
    assert isclose(sum(term.prefill_seconds for term in light), answer.prefill_latency, rel_tol=1e-12)
    assert isclose(sum(term.decode_seconds for term in light), answer.decode_latency, rel_tol=1e-12)


@given(flops=st.floats(0.1, 1), memory=st.floats(0.1, 1), tp=st.sampled_from([1, 2, 4]), workload=workloads)
def test_the_published_method_has_no_launch_no_host_and_no_overlap(
    flops: float, memory: float, tp: int, workload: Workload
) -> None:
    layout = Parallelism(tp_size=tp)
    arguments = get_model("test-13b"), get_gpu("a100-sxm-40gb"), get_dtypes("w16a16e16"), layout
    e = explanation(Scenario.of(*arguments, efficiencies=Efficiencies(flops, memory)), workload)
    assert adds_up(e)
    empty = {term.name for term in e.terms if not term.total_seconds}
    assert {"lost_launch", "lost_host", "lost_overlap"} <= empty


def test_runtime_terms_are_lost_to_host_or_network() -> None:
    """Time per step, layer and sequence counts as host time, launches of collectives as network time."""
    gpu, workload = get_gpu("h100-sxm-80gb"), Workload(batch_size_per_gpu=4)
    one = {t.name: t for t in explanation(asked("llama-3.1-8b", gpu), workload).terms}
    two = {t.name: t for t in explanation(asked("llama-3.1-8b", gpu, layout=Parallelism(tp_size=2)), workload).terms}
    assert isclose(one["lost_host"].decode_seconds, 1e-3 + 32 * 1e-5 + 4 * 2e-5, rel_tol=1e-12)
    assert one["lost_network"].total_seconds == one["light_network"].total_seconds == 0
    assert isclose(one["lost_launch"].decode_seconds, two["lost_launch"].decode_seconds, rel_tol=1e-12)
    assert two["lost_network"].decode_seconds > 65 * ENGINE.collective_seconds  # two per layer, one for the embedding


@settings(max_examples=10)
@given(model=models, gpu=gpus, method=methods, workload=workloads)
def test_a_what_if_is_an_estimate_on_the_changed_input(model: str, gpu: str, method: str, workload: Workload) -> None:
    old = get_gpu(gpu)
    e = explanation(asked(model, old, method, "fp16"), workload)
    faster = old.model_copy(update={"memory_bandwidth": 1.1 * old.memory_bandwidth})
    stronger = old.model_copy(update={"peak_flops": {rate: 1.1 * peak for rate, peak in old.peak_flops.items()}})
    changed = {
        "memory_bandwidth_x1.1": asked(model, faster, method, "fp16"),
        "peak_flops_x1.1": asked(model, stronger, method, "fp16"),
        "int4_weights": asked(model, old, method, "int4"),
    }
    for name, analysis in changed.items():
        answer = estimate(analysis, workload)
        for phase in ("prefill", "decode", "total"):
            before, after = getattr(e.estimate, f"{phase}_latency"), getattr(answer, f"{phase}_latency")
            assert isclose(getattr(saving(e, name), f"{phase}_seconds"), before - after, abs_tol=ROUNDING * before), (
                name
            )


def test_halving_the_host_time_saves_half_of_the_host_loss() -> None:
    e = explanation(asked("llama-2-7b", get_gpu("a100-sxm-80gb"), layout=Parallelism(tp_size=2)), Workload())
    lost = {term.name: term for term in e.terms}
    for what, term in (("host_x0.5", "lost_host"), ("launch_x0.5", "lost_launch")):
        assert isclose(saving(e, what).decode_seconds, lost[term].decode_seconds / 2, rel_tol=1e-9)
        assert isclose(saving(e, what).prefill_seconds, lost[term].prefill_seconds / 2, rel_tol=1e-9)
    assert saving(e, "link_latency_x0.5").decode_seconds > 0


def test_tp_size_x_2_is_the_estimate_of_that_layout() -> None:
    gpu = get_gpu("h100-sxm-80gb")
    e = explanation(asked("llama-3.1-8b", gpu, layout=Parallelism(tp_size=2, sp_size=2)), Workload())
    wide = estimate(asked("llama-3.1-8b", gpu, layout=Parallelism(tp_size=4, sp_size=4)), Workload())
    saved = e.estimate.total_latency - wide.total_latency
    assert isclose(saving(e, "tp_size_x2").total_seconds, saved, rel_tol=1e-9)


def test_cp_size_x_2_is_offered_if_prefill_dominates() -> None:
    gpu, long, short = get_gpu("h100-sxm-80gb"), Workload(seq_len=30_000), Workload(seq_len=100)
    e = explanation(asked("llama-3.1-8b", gpu, layout=Parallelism(tp_size=2)), long)
    wide = estimate(asked("llama-3.1-8b", gpu, layout=Parallelism(tp_size=2, cp_size=2)), long)
    saved = e.estimate.total_latency - wide.total_latency
    assert isclose(saving(e, "cp_size_x2").total_seconds, saved, rel_tol=1e-9)
    for method, workload in (("calibrated", short), ("published", long)):
        other = explanation(asked("llama-3.1-8b", gpu, method), workload)
        assert not [text for text in (*other.notes, *(line.name for line in other.savings)) if "cp_size" in text]


@pytest.mark.parametrize(
    ("gpu", "name", "label"),
    [("h100-sxm-80gb", "fp8_kv_cache", "fp8 KV cache"), ("a100-sxm-80gb", "8_bit_kv_cache", "8-bit KV cache")],
)
def test_the_8_bit_cache_has_the_format_that_the_gpu_supports(gpu: str, name: str, label: str) -> None:
    e = explanation(asked("llama-3.1-8b", get_gpu(gpu)), Workload(batch_size_per_gpu=64))
    assert [line.name for line in e.savings if line.name.endswith("kv_cache")] == [name]
    assert re.findall("(?:fp8|8-bit) KV cache(?=  )", rendered(e, "table")) == [label]
    notes = [note for note in e.notes if "int8" in note]
    assert [note.startswith("8-bit KV cache: int8 is assumed; a100") for note in notes] == [True] * (
        label != "fp8 KV cache"
    )


@pytest.mark.parametrize(
    ("model", "gpu", "reason"),
    [
        ("gemma-3-4b", "h100-sxm-80gb", "tp_size x 2: not estimated: tp_size 16 does not divide"),
        ("llama-2-7b", "t4", "tp_size x 2: not estimated: 16 GPUs need the inter-node bandwidth of t4"),
    ],
)
def test_a_note_gives_the_reason_why_a_what_if_is_impossible(model: str, gpu: str, reason: str) -> None:
    e = explanation(asked(model, get_gpu(gpu), "ideal", "fp16", Parallelism(tp_size=8)), Workload())
    assert "tp_size_x2" not in [line.name for line in e.savings]
    assert any(note.startswith(reason) for note in e.notes), e.notes


@pytest.mark.parametrize(
    ("dtype", "missing"),
    [("bf16", set()), ("fp8", {"fp8_weights", "fp8_kv_cache"}), ("int4", {"fp8_weights", "int4_weights"})],
)
def test_formats_that_are_no_narrower_are_left_out(dtype: str, missing: set[str]) -> None:
    e = explanation(asked("llama-3.1-8b", get_gpu("h100-sxm-80gb"), "ideal", dtype), Workload())
    narrower = {"fp8_weights", "int4_weights", "fp8_kv_cache"}
    assert narrower - {line.name for line in e.savings} == missing


def test_a_change_that_makes_the_prefill_slower_has_a_plus_sign() -> None:
    e = explanation(asked("llama-3.1-8b", get_gpu("h100-sxm-80gb")), Workload(batch_size_per_gpu=16))
    row = next(line for line in rendered(e, "table").splitlines() if line.startswith("int4 weights")).split()
    assert saving(e, "int4_weights").prefill_seconds < 0 < saving(e, "int4_weights").decode_seconds
    assert (row[2][0], row[5][0]) == ("+", "-")


def test_the_notes_of_a_what_if_name_its_fallbacks() -> None:
    """An A100 has no fp8 rate: the weights get smaller, the rate and the KV cache stay the same."""
    e = explanation(asked("llama-2-7b", get_gpu("a100-sxm-80gb"), "ideal"), Workload())
    assert "fp8 weights: a100-sxm-80gb has no fp8 rate: multiplied at its fp16 rate" in e.notes
    assert saving(e, "fp8_weights").prefill_share < 0.01 < saving(e, "fp8_weights").decode_share < 0.5


def test_explain_rejects_what_infer_rejects() -> None:
    with pytest.raises(LLMAnalysisError, match="positions"):
        explanation(asked("llama-2-7b", get_gpu("t4"), "ideal"), Workload(seq_len=10**6))


@pytest.mark.parametrize("method", ["ideal", "published", "calibrated"])
@pytest.mark.parametrize("tp", [1, 4])
def test_tables_fit_80_columns(method: str, tp: int) -> None:
    workload = Workload(batch_size_per_gpu=32, seq_len=2000, num_tokens_to_generate=1000)
    e = explanation(asked("llama-2-7b", get_gpu("a100-sxm-80gb"), method, layout=Parallelism(tp_size=tp)), workload)
    text = rendered(e, "table")
    tables = text.partition("\n\n")[2].split("\n\nno difference")[0].split("\n\nnote")[0]
    assert max(map(len, tables.splitlines())) <= 80
    assert all(TERMS[term.name] in tables for term in e.terms if term.prefill_share + term.decode_share > 0.002)
    shown = [label for name, (label, _) in WHAT_IFS.items() if name in [line.name for line in e.savings]]
    assert all(label in text for label in shown)


@pytest.mark.parametrize("format", FORMATS)
def test_the_command_answers_in_every_format(ask: Ask, format: str) -> None:
    answer = ask("explain", *QUESTION, "--tp_size", "2", "--format", format)
    assert (answer.status, "note:" in answer.err) == (0, format == "csv")
    if format == "json":
        said = json.loads(answer.out)
        assert [term["name"] for term in said["terms"]] == list(TERMS)
        assert isclose(sum(term["total_seconds"] for term in said["terms"]), said["total_latency"], rel_tol=1e-9)
        assert {line["name"] for line in said["savings"]} <= set(WHAT_IFS)
        assert "operators" not in said
    elif format == "csv":
        rows = list(csv.DictReader(io.StringIO(answer.out)))
        sections = {section: [row for row in rows if row["section"] == section] for section in ("term", "estimate")}
        whole = float(sections["estimate"][0]["total_seconds"])
        assert isclose(sum(float(row["total_seconds"]) for row in sections["term"]), whole, rel_tol=1e-9)
    else:
        assert "lost to memory" in answer.out
        assert "bandwidth + 10 %" in answer.out


def test_the_command_has_the_flags_of_infer_except_those_of_files(ask: Ask) -> None:
    assert "--tp_size" in ask("explain", "--help").out
    assert ask("explain", *QUESTION, "--output_dir", ".").status == 2
    assert "--model_name is missing" in ask("explain").err
    infer = json.loads(ask("infer", *QUESTION, "--format", "json").out)
    said = json.loads(ask("explain", *QUESTION, "--format", "json").out)
    assert said["total_latency"] == infer["total_latency"]


def test_more_flops_are_faster_for_an_engine_that_accumulates_in_fp16() -> None:
    """A GeForce GPU has a second fp16 peak, which is raised too."""
    scenario = Scenario.of(get_model("llama-3.1-8b"), get_gpu("rtx-4090"), runtime=get_runtime("exllama"))
    found = explanation(scenario, Workload(batch_size_per_gpu=4, seq_len=2000))
    saved = {each.name: each.prefill_seconds for each in found.savings}
    assert 0.02 < saved["peak_flops_x1.1"] / found.estimate.prefill_latency < 0.1
