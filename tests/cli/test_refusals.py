"""Invalid questions: one line on stderr, nothing on stdout, nothing written. Models that do not fit."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Ask
from shared import ACHIEVED, FRACTIONS, INFER, INTEGERS, LLAMA, Case, refused, short

from llm_analysis import LLMAnalysis, LLMAnalysisError, catalog

pytestmark = pytest.mark.usefixtures("elsewhere")


UNKNOWN_NAMES: list[Case] = [
    (["infer", "--model_name", "test13", "--gpu_name", "h10"], 1, r"unknown gpu 'h10'; did you mean h100-sxm-80gb"),
    (["infer", "--model_name", "tset-13b", "--gpu_name", "t4"], 1, r"unknown model 'tset-13b'; did you mean test-13b"),
    (["infer", "--model_name", "llama-2", "--gpu_name", "t4"], 1, r"'llama-2' is not unique: .*llama-2-7b"),
    (["infer", "--model_name", "LLAMA-2-7B-chatty", "--gpu_name", "t4"], 1, r"did you mean .*llama-2-7b"),
    (["infer", "--model_name", "zzz", "--gpu_name", "t4"], 1, r"unknown model 'zzz'; .*llm-analysis models"),
    (["infer", "--model_name", "1e5", "--gpu_name", "t4"], 1, r"unknown model '1e5'"),
    (["infer", "--model_name", "org/some-name", "--gpu_name", "t4"], 1, r"'org/some-name'"),
    (
        ["infer", "--model_name", "test-13b", "--gpu_name", "v100"],
        1,
        r"gpu 'v100' is not unique: v100-pcie-16gb, v100-",
    ),
    (["infer", "--model_name", "test-13b", "--gpu_name", "zzz"], 1, r"unknown gpu 'zzz'; .*llm-analysis gpus"),
    ([*INFER, "--dtype_name", "fp17"], 1, r"unknown dtype 'fp17'; did you mean fp16.*w8a8e16kv8"),
    ([*INFER, "--dtype_name", "FP81"], 1, r"unknown dtype 'fp81'; did you mean fp8.*\? \(or"),
    ([*INFER, "--runtime", "vlm"], 1, r"unknown runtime 'vlm'; did you mean vllm"),
    ([*INFER, "--dtype_name", "w5a16"], 1, r"'w5a16': 5 bits is not one of 32, 16, 8, 6, 4"),
    ([*INFER, "--dtype_name", "w16"], 1, r"unknown dtype 'w16'"),
    ([*INFER, "--dtype_name", "16"], 1, r"unknown dtype '16'"),
    ([*INFER, "--dtype_name", "w" + "1" * 5000 + "a16"], 1, r"unknown dtype 'w111"),
    (["infer", "--model_name", "test-13b", "--gpu_name", "b200-sxm-180gb"], 1, r"did you mean b200-sxm,"),
    ([*INFER, "--method", "idael"], 1, r"unknown method 'idael'; did you mean ideal"),
    ([*INFER, "--format", "yaml"], 1, r"unknown format 'yaml'; known: table, json, csv, markdown"),
    ([*INFER, "--log_level", "chatty"], 1, r"unknown log_level 'chatty'; known: DEBUG, INFO"),
    (["models", "--name", "tset-13b"], 1, r"unknown model 'tset-13b'; did you mean test-13b"),
    (["gpus", "--name", "h10"], 1, r"unknown gpu 'h10'; did you mean h100-sxm-80gb"),
    (["dtypes", "--name", "fp17"], 1, r"unknown dtype 'fp17'; did you mean fp16"),
]


MISSING: list[Case] = [
    (["infer"], 1, r"--model_name is missing; `llm-analysis models`"),
    (["infer", "--model_name", "test-13b"], 1, r"--gpu_name is missing; `llm-analysis gpus`"),
]


NO_NUMBER = ["", "abc", "True", "False", "1,2,4", "[1,2]", "{}", "{[]: 1}", "1e400", "nan", "inf", "'2'", "2;4"]


NO_NUMBER += ["-" * 900 + "1", "~" * 5000 + "1", "1" * 5000, "1if 1else 2", '"\\d"', "[" * 400]


NO_INTEGER = [*NO_NUMBER, "1.5", "1.5e0", "1e-3", "-1e400", "0", "-1", "-7", "1000000001"]


NO_FRACTION = [*NO_NUMBER, "0", "0.0", "-0.5", "-1e-9", "1.0000001", "2", "1e-320", "1" + "0" * 400, "-1e400"]


def value_cases() -> list[Case]:
    cases = [
        ([*INFER, f"--{flag}={value}"], 1, rf"^llm-analysis: {flag} ") for flag in INTEGERS for value in NO_INTEGER
    ]
    for flag in FRACTIONS + ACHIEVED:
        beyond = "400000" if flag in ACHIEVED else "1.5"
        for value in [*NO_FRACTION, beyond]:
            if not (flag in ACHIEVED and value in ("2", "1.0000001")):
                cases.append(([*INFER, f"--{flag}={value}"], 1, rf"^llm-analysis: {flag} "))
    for flag in ("kv_cache_dtype_bytes", "layernorm_dtype_bytes", "cost_per_gpu_hour"):
        cases += [([*INFER, f"--{flag}={value}"], 1, rf"^llm-analysis: {flag} ") for value in [*NO_NUMBER, "-1"]]
    return cases


VALUES: list[Case] = [
    ([*INFER, "--tp_size="], 1, r"tp_size must be a whole number, not ''"),
    ([*INFER, "--tp_size", "1,2,4"], 1, r"tp_size takes one value, not '1,2,4'; llm-analysis sweep"),
    ([*INFER, "--tp_size", "True"], 1, r"tp_size must be a whole number, not True"),
    ([*INFER, "--tp_size", "0"], 1, r"tp_size must be greater than 0, not 0"),
    ([*INFER, "--tp_size", "-1"], 1, r"tp_size must be greater than 0, not -1"),
    ([*INFER, "--prefill_chunk_size", "-5"], 1, r"prefill_chunk_size must be at least 0, which is no limit, not -5"),
    ([*INFER, "--seq_len", "1e400"], 1, r"seq_len must be a whole number, not inf"),
    ([*INFER, "--flops_efficiency", "nan"], 1, r"flops_efficiency must be a number, not 'nan'"),
    ([*INFER, "--flops_efficiency", "-inf"], 1, r"flops_efficiency must be a number, not '-inf'"),
    ([*INFER, "--flops_efficiency", "1e400"], 1, r"flops_efficiency must be a finite number, not inf"),
    ([*INFER, "--flops_efficiency", "0"], 1, r"flops_efficiency must be above 0 and at most 1, not 0"),
    ([*INFER, "--flops_efficiency", "1.01"], 1, r"flops_efficiency must be above 0 and at most 1, not 1.01"),
    ([*INFER, "--achieved_tflops", "0"], 1, r"achieved_tflops must be above 0, not 0"),
    (
        [*INFER, "--achieved_memory_bandwidth_GBs", "-100"],
        1,
        r"achieved_memory_bandwidth_GBs must be above 0, not -100",
    ),
    ([*INFER, "--use_kv_cache", "maybe"], 1, r"use_kv_cache must be True or False, not 'maybe'"),
    ([*INFER, "--use_kv_cache", "1"], 1, r"use_kv_cache must be True or False, not '1'"),
    ([*INFER, "--allow_download", "no"], 1, r"allow_download must be True or False, not 'no'"),
    ([*INFER, "--allow_download=off"], 1, r"allow_download must be True or False, not 'off'"),
    ([*INFER, "--allow_download", "FALSE"], 1, r"allow_download must be True or False, not 'FALSE'"),
    ([*INFER, "--allow_download", "none"], 1, r"allow_download must be True or False, not 'none'"),
    ([*INFER, "--allow_download", "None"], 1, r"allow_download must be True or False, not 'None'"),
    ([*INFER, "--use_kv_cache="], 1, r"use_kv_cache must be True or False, not ''"),
    ([*INFER, "--kv_cache_dtype_bytes", "3"], 1, r"must be one of 0.5, 1, 2, 4, not 3"),
    ([*INFER, "--layernorm_dtype_bytes", "3"], 1, r"must be one of 1, 2, 4, not 3"),
    ([*INFER, "--achieved_tflops", "313"], 1, r"achieved_tflops 313 is above the datasheet's peak of 312"),
    ([*INFER, "--achieved_memory_bandwidth_GBs", "2000"], 1, r"2000 is above the datasheet's peak of 1555"),
    (
        [*INFER, "--achieved_tflops", "200", "--flops_efficiency", "0.5"],
        1,
        r"give flops_efficiency or achieved_tflops, not both",
    ),
    (
        [*INFER, "--achieved_memory_bandwidth_GBs", "900", "--hbm_memory_efficiency", "0.5"],
        1,
        r"give hbm_memory_efficiency or achieved_memory_bandwidth_GBs, not both",
    ),
    ([*INFER, "--cost_per_gpu_hour", "-1"], 1, r"cost_per_gpu_hour must not be negative, not -1"),
    ([*INFER, "--cost_per_gpu_hour", "1e308"], 1, r"cost_per_gpu_hour must be at most 1e\+12, not 1e\+308"),
    ([*INFER, "--seq_len", "2049"], 1, r"seq_len 2049 is more than the 2048 positions of test-13b"),
]


LAYOUTS: list[Case] = [
    ([*INFER, "--tp_size", "3"], 1, r"tp_size 3 does not divide the 40 attention heads of test-13b; try 1, 2 or 4"),
    ([*INFER, "--tp_size", "80"], 1, r"tp_size 80 does not divide the 40 attention heads .*try 20 or 40"),
    ([*INFER, "--pp_size", "41"], 1, r"pp_size 41 is more than the 40 layers of test-13b"),
    ([*INFER, "--tp_size", "4", "--sp_size", "2"], 1, r"sp_size must be 1 or tp_size \(4\), not 2"),
    ([*INFER, "--ep_size", "2"], 1, r"ep_size 2: test-13b has no experts to spread"),
    (["infer", "--model=mixtral-8x7b", *INFER[3:], "--ep_size=8"], 1, r"ep_size 8 cannot .* 1 GPUs .*; try dp_size 8$"),
    (
        ["infer", "--model=mixtral-8x7b", *INFER[3:], "--tp=2", "--ep_size=8"],
        1,
        r"over the 2 GPUs .*; try 1 or 2, or dp_size 4$",
    ),
    ([*INFER, "--expert_imbalance", "2"], 1, r"expert_imbalance 2: test-13b has no experts to spread"),
    (["infer", "--model_name=mixtral-8x7b", *INFER[3:], "--expert_imbalance=1.5"], 1, r"imbalance 1.5 .*give ep_size"),
    ([*INFER, "--cp_size", "513"], 1, r"cp_size 513 is more than the 512 tokens of a prompt .*; try cp_size 512"),
    ([*INFER, "--cp_size", "8", "--seq_len", "5"], 1, r"cp_size 8 is more than the 5 tokens .*; try cp_size 5"),
    ([*INFER, "--cp_size", "2,4"], 1, r"cp_size takes one value, not '2,4'"),
    ([*INFER[:4], "t4", "--cp_size", "9"], 1, r"9 GPUs need the .*bandwidth of t4, which is not known"),
    ([*INFER[:4], "t4", "--tp_size", "20"], 1, r"20 GPUs need the .*bandwidth of t4, which is not known"),
]


REFUSED_BY_THE_METHOD: list[Case] = [
    ([*INFER, "--method", "ideal", "--flops_efficiency", "0.5"], 1, r"ideal takes no efficiencies.*published"),
    (
        [*INFER, "--runtime", "vllm", "--flops_efficiency", "0.5"],
        1,
        r"efficiencies belong to .* and a runtime to .*give one",
    ),
    ([*INFER, "--method", "published", "--cp_size", "2"], 1, r"published has no cp_size.*ideal"),
    ([*INFER, "--method", "published", "--pp_size", "2"], 1, r"published has no pp_size.*ideal"),
    ([*INFER, "--method", "published", "--dp_size", "2"], 1, r"published has no dp_size.*ideal"),
    ([*INFER, "--method", "published", "--tp_size", "2", "--sp_size", "2"], 1, r"published has no sp_size"),
    ([*INFER, "--method", "published", "--layernorm_dtype_bytes", "2"], 1, r"published has no layernorm_dtype_bytes"),
    ([*INFER, "--method", "published", "--dtype_name", "fp8"], 1, r"published .*has no fp8 rate"),
    ([*INFER, "--inter_node_memory_efficiency", "0.5"], 1, r"one node.*inter_node_memory_efficiency"),
    ([*INFER, "--output_file_prefix", "x"], 1, r"need --output_dir"),
    ([*INFER, "--output_file_suffix", "x"], 1, r"need --output_dir"),
]


TABLE = UNKNOWN_NAMES + MISSING + VALUES + LAYOUTS + REFUSED_BY_THE_METHOD + value_cases()


@pytest.mark.parametrize("case", TABLE, ids=short)
def test_a_mistake_is_one_line_on_stderr_and_nothing_else(ask: Ask, elsewhere: Path, case: Case) -> None:
    arguments, status, pattern = case
    answer = ask(*arguments)
    refused(answer, status)
    assert re.search(pattern, answer.err), answer.err
    assert not list(elsewhere.iterdir())


def test_a_model_that_does_not_fit_is_an_answer(ask: Ask) -> None:
    question = ["infer", "--model_name", "llama-2-70b", "--gpu_name", "a100-sxm-80gb"]
    answer = json.loads(ask(*question, "--format", "json").out)
    assert answer["fits"] is False
    assert answer["max_batch_size_per_gpu"] == 0
    assert answer["memory_left_per_gpu"] < 0
    note = " ".join(answer["notes"])
    assert re.search(
        r"does not fit: needs 13\d\.\d GB per GPU, 72\.0 GB usable \(0\.9 of a100-sxm-80gb\); would fit: ", note
    )
    wider = re.search(r"tp_size (\d+)", note)
    narrower = re.search(r"dtype_name (\w+)", note)
    assert wider
    assert narrower
    for remedy in (["--tp_size", wider[1]], ["--dtype_name", narrower[1]]):
        assert json.loads(ask(*question, *remedy, "--format", "json").out)["fits"] is True
    table = ask(*question)
    assert table.out.startswith("DOES NOT FIT: needs 13")
    assert table.err.startswith("llm-analysis: does not fit: needs 13")
    assert len(table.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["infer", "explain"])
def test_must_fit_exits_with_3_if_the_model_does_not_fit(ask: Ask, command: str) -> None:
    question = [command, "--model_name", "llama-2-70b", "--gpu_name", "a100-sxm-80gb", "--must_fit"]
    short = ask(*question)
    assert (short.status, short.err.count("does not fit")) == (3, 1)
    assert short.out
    fits = ask(*question, "--tp", "4")
    assert (fits.status, fits.err) == (0, "")


def test_a_batch_that_does_not_fit_names_one_that_does(ask: Ask) -> None:
    question = [*INFER, "--seq_len", "2048", "--format", "json"]
    note = " ".join(json.loads(ask(*question, "--batch_size_per_gpu", "100").out)["notes"])
    batch = re.search(r"batch_size_per_gpu (\d+)", note)
    assert batch
    assert json.loads(ask(*question, "--batch_size_per_gpu", batch[1]).out)["fits"] is True
    assert json.loads(ask(*question, "--batch_size_per_gpu", str(int(batch[1]) + 1)).out)["fits"] is False


def test_a_note_states_that_a_model_fits_nowhere(ask: Ask) -> None:
    answer = ask("infer", "--model_name", "llama-3.1-405b", "--gpu_name", "t4", "--format", "json")
    assert answer.status == 0
    assert "does not fit" in " ".join(json.loads(answer.out)["notes"])


def test_a_note_states_that_kv_heads_are_replicated(ask: Ask) -> None:
    answer = json.loads(ask(*LLAMA, "--tp_size", "16", "--format", "json").out)
    assert "tp_size 16 is more than the 8 KV heads: each head is stored on 2 GPUs" in answer["notes"]


@pytest.mark.parametrize(
    ("build", "question", "pattern"),
    [
        ({"flops_efficiency": 0}, {}, "flops_efficiency must be above 0 and at most 1, not 0"),
        ({"flops_efficiency": "0.7"}, {}, "flops_efficiency must be a number, not '0.7'"),
        ({"flops_efficiency": 0.7, "achieved_tflops": 100}, {}, "not both"),
        ({"method": "idael"}, {}, "did you mean ideal"),
        ({"method": ["ideal"]}, {}, "unknown method"),
        ({"kv_cache_dtype_bytes": 3}, {}, "one of 0.5, 1, 2, 4, not 3"),
        ({}, {"seq_len": True}, "seq_len must be a whole number, not True"),
        ({}, {"seq_len": 512.0}, "seq_len must be a whole number, not 512.0"),
        ({}, {"batch_size_per_gpu": 0}, "batch_size_per_gpu must be greater than 0, not 0"),
        ({}, {"use_kv_cache": 1}, "use_kv_cache must be True or False, not 1"),
        ({}, {"cost_per_gpu_hour": "2"}, "cost_per_gpu_hour must be a number, not '2'"),
        ({}, {"cost_per_gpu_hour": 10**400}, "cost_per_gpu_hour must be a finite number"),
    ],
)
def test_the_python_class_refuses_the_same_values(
    build: dict[str, Any], question: dict[str, Any], pattern: str
) -> None:
    with pytest.raises(LLMAnalysisError, match=re.escape(pattern)) as refusal:
        LLMAnalysis(catalog.get_model("test-13b"), catalog.get_gpu("t4"), **build).inference(**question)
    assert "\n" not in str(refusal.value)
