"""What people get wrong: one line on stderr that says what to change, nothing on stdout, nothing written."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Ask

from llm_analysis import LLMAnalysis, LLMAnalysisError, catalog
from llm_analysis.cli import main
from llm_analysis.cli.commands import infer
from llm_analysis.cli.flags import ALIASES, HINTS, flags_of
from llm_analysis.errors import BadConfig
from llm_analysis.inference import question as asking

INFER = ["infer", "--model_name", "test-13b", "--gpu_name", "a100-sxm-40gb"]
LLAMA = ["infer", "--model_name", "llama-2-70b", "--gpu_name", "a100-sxm-80gb"]
INTEGERS = (
    "batch_size_per_gpu",
    "seq_len",
    "num_tokens_to_generate",
    "tp_size",
    "cp_size",
    "pp_size",
    "dp_size",
    "sp_size",
)
FRACTIONS = (
    "flops_efficiency",
    "hbm_memory_efficiency",
    "intra_node_memory_efficiency",
    "inter_node_memory_efficiency",
)
ACHIEVED = ("achieved_tflops", "achieved_memory_bandwidth_GBs")
TEXTS = ("model_name", "gpu_name", "dtype_name", "method", "format", "log_level", "output_dir")

# Arguments, exit status, pattern of the one line on stderr.
Case = tuple[list[str], int, str]

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

BAD_FLAGS: list[Case] = [
    ([*INFER, "--seq_lem", "3"], 2, r"unknown flag --seq_lem; did you mean --seq_len"),
    ([*INFER, "--seq-lem=3"], 2, r"unknown flag --seq-lem; did you mean --seq_len"),
    ([*INFER, "--tpsize", "3"], 2, r"unknown flag --tpsize; did you mean --tp_size"),
    ([*INFER, "--TP_SIZE", "3"], 2, r"unknown flag --TP_SIZE; did you mean --tp_size"),
    ([*INFER, "--tp", "2", "--tp_size", "4"], 2, r"--tp_size is given twice"),
    ([*INFER, "--dtyp", "fp8"], 2, r"unknown flag --dtyp; did you mean --dtype_name"),
    ([*INFER, "--max_model_len", "4096"], 2, r"--max_model_len; the longest sequence is --seq_len plus"),
    ([*INFER, "--max-num-seqs=8"], 2, r"--max-num-seqs; .*--batch_size_per_gpu"),
    ([*INFER, "--concurrency", "8"], 2, r"--concurrency; give --batch_size_per_gpu"),
    ([*INFER, "--zzz"], 2, r"unknown flag --zzz; llm-analysis infer --help"),
    ([*INFER, "--self", "1"], 2, r"unknown flag --self"),
    ([*INFER, "-tp_size", "2"], 2, r"write --tp_size, with two hyphens"),
    ([*INFER, "-tp_size=2"], 2, r"write --tp_size, with two hyphens"),
    ([*INFER, "-t", "2"], 2, r"unknown flag -t"),
    ([*INFER, "--tp_size", "2", "--tp_size", "2"], 2, r"--tp_size is given twice"),
    ([*INFER, "--tp_size", "2", "--tp-size=4"], 2, r"--tp_size is given twice"),
    ([*INFER, "--use_kv_cache", "--nouse_kv_cache"], 2, r"--use_kv_cache is given twice"),
    ([*INFER, "--notp_size"], 2, r"unknown flag --notp_size; did you mean --tp_size"),
    ([*INFER, "--nouse_kv_cache=3"], 2, r"unknown flag --nouse_kv_cache; did you mean --use_kv_cache"),
    ([*INFER, "--tp_size"], 2, r"--tp_size needs a value"),
    ([*INFER, "--tp_size", "--seq_len", "5"], 2, r"--tp_size needs a value"),
    (["infer", "--model_name"], 2, r"--model_name needs a value"),
    ([*INFER, "word"], 2, r"'word' belongs to no flag"),
    ([*INFER, "--tp_size", "2", "4"], 2, r"'4' belongs to no flag"),
    ([*INFER, "--tp_size=2", "4"], 2, r"'4' belongs to no flag"),
    (["infer", "test-13b", "a100-sxm-40gb"], 2, r"'test-13b' belongs to no flag"),
    ([*INFER, "-"], 2, r"'-' belongs to no flag"),
    ([*INFER, "--"], 2, r"after -- come --help or --completion \[bash.zsh.fish\], not 'nothing'"),
    ([*INFER, "--", "--trace"], 2, r"after -- .*not '--trace'"),
    ([*INFER, "--", "--interactive"], 2, r"after -- .*not '--interactive'"),
    ([*INFER, "--", "-i"], 2, r"after -- .*not '-i'"),
    ([*INFER, "--", "--completion", "csh"], 2, r"after -- .*not 'csh'"),
    ([*INFER, "--", "--help", "--", "--help"], 2, r"after -- .*not '--'"),
    ([*INFER, "-", "model_name"], 2, r"'-' belongs to no flag"),
    ([*INFER, "--tp_size=2", "--", "--help=x"], 2, r"after -- .*not '--help=x'"),
    ([*INFER, "---tp_size", "2"], 2, r"'---tp_size' belongs to no flag"),
    ([*INFER, ""], 2, r"'' belongs to no flag"),
    (["models", "test-13b"], 2, r"'test-13b' belongs to no flag"),
    (["models", "--nmae", "x"], 2, r"unknown flag --nmae; did you mean --name"),
    (["models", "--name"], 2, r"--name needs a value"),
    (["models", "--format", "xml"], 1, r"unknown format 'xml'; known: table, json, csv, markdown"),
    (
        ["gpus", "--name", "t4", "--format", "csv"],
        1,
        r"--name shows one GPU in full, which has no rows: use --format json, table or markdown",
    ),
    (["infre", *INFER[1:]], 2, r"unknown command 'infre'; did you mean infer"),
    (["model_name"], 2, r"unknown command 'model_name'"),
    ([""], 2, r"unknown command ''"),
    (["--tp_size", "2"], 2, r"unknown command '--tp_size'"),
    (["a\nb\x1b[31m"], 2, r"unknown command 'a\\nb\\x1b\[31m'"),
]

MISSING: list[Case] = [
    (["infer"], 1, r"needs --model_name; `llm-analysis models`"),
    (["infer", "--model_name", "test-13b"], 1, r"needs --gpu_name; `llm-analysis gpus`"),
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
    ([*INFER, "--tp_size", "1,2,4"], 1, r"tp_size must be a whole number, not \(1, 2, 4\)"),
    ([*INFER, "--tp_size", "True"], 1, r"tp_size must be a whole number, not True"),
    ([*INFER, "--tp_size", "0"], 1, r"tp_size must be greater than 0, not 0"),
    ([*INFER, "--tp_size", "-1"], 1, r"tp_size must be greater than 0, not -1"),
    ([*INFER, "--seq_len", "1e400"], 1, r"seq_len must be a whole number, not inf"),
    ([*INFER, "--flops_efficiency", "nan"], 1, r"flops_efficiency must be a number, not 'nan'"),
    ([*INFER, "--flops_efficiency", "-inf"], 1, r"flops_efficiency must be a number, not '-inf'"),
    ([*INFER, "--flops_efficiency", "1e400"], 1, r"flops_efficiency must be a finite number, not inf"),
    ([*INFER, "--flops_efficiency", "0"], 1, r"flops_efficiency must be above 0 and at most 1, not 0"),
    ([*INFER, "--flops_efficiency", "1.01"], 1, r"flops_efficiency must be above 0 and at most 1, not 1.01"),
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
    ([*INFER, "--seq_len", "2049"], 1, r"seq_len 2049 is beyond the 2048 positions of test-13b"),
]

LAYOUTS: list[Case] = [
    ([*INFER, "--tp_size", "3"], 1, r"tp_size 3 does not divide the 40 attention heads of test-13b; try 1 or 2 or 4"),
    ([*INFER, "--tp_size", "80"], 1, r"tp_size 80 does not divide the 40 attention heads .*try 20 or 40"),
    ([*INFER, "--pp_size", "41"], 1, r"pp_size 41 is more than the 40 layers of test-13b"),
    ([*INFER, "--tp_size", "4", "--sp_size", "2"], 1, r"sp_size must be 1 or tp_size \(4\), not 2"),
    ([*INFER, "--ep_size", "2"], 1, r"ep_size 2: test-13b has no experts to spread"),
    ([*INFER, "--expert_imbalance", "2"], 1, r"expert_imbalance 2: test-13b has no experts to spread"),
    (["infer", "--model_name=mixtral-8x7b", *INFER[3:], "--expert_imbalance=1.5"], 1, r"imbalance 1.5 .*give ep_size"),
    ([*INFER, "--cp_size", "513"], 1, r"cp_size 513 is more than the 512 tokens of a prompt .*; try cp_size 512"),
    ([*INFER, "--cp_size", "8", "--seq_len", "5"], 1, r"cp_size 8 is more than the 5 tokens .*; try cp_size 5"),
    ([*INFER, "--cp_size", "2,4"], 1, r"cp_size must be a whole number, not \(2, 4\)"),
    ([*INFER[:4], "t4", "--cp_size", "9"], 1, r"t4 has no .*bandwidth on record, which 9 GPUs need"),
    ([*INFER[:4], "t4", "--tp_size", "20"], 1, r"t4 has no .*bandwidth on record, which 20 GPUs need"),
]

REFUSED_BY_THE_METHOD: list[Case] = [
    ([*INFER, "--method", "ideal", "--flops_efficiency", "0.5"], 1, r"ideal takes no efficiencies.*published"),
    (
        [*INFER, "--runtime", "vllm", "--flops_efficiency", "0.5"],
        1,
        r"efficiencies are of .*, a runtime is of .*leave one",
    ),
    ([*INFER, "--method", "published", "--cp_size", "2"], 1, r"published has no cp_size.*ideal"),
    ([*INFER, "--method", "published", "--pp_size", "2"], 1, r"published has no pp_size.*ideal"),
    ([*INFER, "--method", "published", "--dp_size", "2"], 1, r"published has no dp_size.*ideal"),
    ([*INFER, "--method", "published", "--tp_size", "2", "--sp_size", "2"], 1, r"published has no sp_size"),
    ([*INFER, "--method", "published", "--layernorm_dtype_bytes", "2"], 1, r"published has no layernorm_dtype_bytes"),
    ([*INFER, "--method", "published", "--dtype_name", "fp8"], 1, r"published .*has no fp8 rate"),
    ([*INFER, "--inter_node_memory_efficiency", "0.5"], 1, r"one node.*inter_node_memory_efficiency"),
    ([*INFER, "--output_file_prefix", "x"], 1, r"give --output_dir too"),
    ([*INFER, "--output_file_suffix", "x"], 1, r"give --output_dir too"),
]

TABLE = UNKNOWN_NAMES + BAD_FLAGS + MISSING + VALUES + LAYOUTS + REFUSED_BY_THE_METHOD + value_cases()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, so that whatever is written is seen."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def short(case: Case) -> str:
    arguments = case[0][5:] if case[0][:5] == INFER else case[0]
    return " ".join(arguments)[:60] or "nothing"


@pytest.mark.parametrize("case", TABLE, ids=short)
def test_one_line_and_nothing_else(ask: Ask, elsewhere: Path, case: Case) -> None:
    arguments, status, pattern = case
    answer = ask(*arguments)
    refused(answer, status)
    assert re.search(pattern, answer.err), answer.err
    assert not list(elsewhere.iterdir())


def refused(answer: Any, status: int = 1) -> None:
    assert answer.status == status
    assert answer.out == ""
    assert answer.err.startswith("llm-analysis: ")
    assert answer.err.endswith("\n")
    assert len(answer.err.splitlines()) == 1, answer.err
    assert len(answer.err) < 700
    assert "internal error" not in answer.err


# Files


def gpu_file(folder: Path, **changes: object) -> str:
    raw = {"name": "mine", "memory_bytes": 80e9, "memory_bandwidth": 2e12, "peak_flops": {"fp16": 3e14}} | changes
    path = folder / "mine.json"
    path.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))
    return str(path)


def model_file(folder: Path, **changes: object) -> str:
    raw: dict[str, object] = {"name": "mine", "model_type": "llama", "hidden_size": 512, "num_hidden_layers": 4}
    raw |= {"num_attention_heads": 8, "vocab_size": 1000, "max_position_embeddings": 1024} | changes
    path = folder / "mine.json"
    path.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))
    return str(path)


def test_the_files_that_the_others_spoil_are_answered(ask: Ask, elsewhere: Path) -> None:
    assert ask("infer", "--model_name", "test-13b", "--gpu_name", gpu_file(elsewhere)).status == 0
    assert ask("infer", "--model_name", model_file(elsewhere), "--gpu_name", "t4").status == 0


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"memory_bandwith": 1.0, "memory_bandwidth": None}, r"memory_bandwi"),
        ({"memory_bandwith": 1.0}, r"unknown key 'memory_bandwith'; did you mean memory_bandwidth"),
        ({"memory_bandwidth": None}, r"missing key 'memory_bandwidth'"),
        ({"peak_flops": None}, r"missing key 'peak_flops'"),
        ({"peak_flops": {}}, r"peak_flops must be an object with one entry at least, not {}"),
        ({"peak_flops": {"fp16": 3e14, "float8": 6e14}}, r"unknown rate 'float8' in peak_flops"),
        ({"peak_flops": {"fp16": "fast"}}, r"peak_flops.fp16 must be a number, not 'fast'"),
        ({"peak_flops": 3e14}, r"peak_flops must be a dictionary"),
        ({"memory_bytes": "80 GB"}, r"memory_bytes must be a number, not '80 GB'"),
        ({"memory_bytes": True}, r"memory_bytes must be a number, not True"),
        ({"memory_bytes": -1.0}, r"memory_bytes must be greater than 0, not -1"),
        ({"memory_bytes": 0}, r"memory_bytes must be greater than 0, not 0"),
        ({"memory_bytes": float("nan")}, r"memory_bytes must be .*not nan"),
        ({"memory_bytes": float("inf")}, r"memory_bytes must be .*not inf"),
        ({"memory_bytes": [1, 2]}, r"memory_bytes must be a number, not \[1, 2\]"),
        ({"memory_bandwidth": 2039}, r"memory_bandwidth is in bytes/s \(1 GB/s is 1e9\): 2039 is no GPU's"),
        ({"memory_bandwidth": 2.039}, r"memory_bandwidth is in bytes/s.*: 2.039 is no GPU's"),
        (
            {"memory_bandwidth": 2039e12},
            r"memory_bandwidth is in .*: 2.039e\+15 is no GPU's, which are from 1e\+10 to 1e\+15",
        ),
        ({"memory_bytes": 80}, r"memory_bytes is in bytes \(1 GB is 1e9\): 80 is no GPU's"),
        ({"memory_bytes": 81920}, r"memory_bytes is in .*: 81920 is no GPU's"),
        ({"memory_bytes": 80e15}, r"memory_bytes is in .*: 8e\+16 is no GPU's"),
        (
            {"peak_flops": {"fp32": 2e13, "fp16": 312}},
            r"peak_flops.fp16 is in FLOP/s \(1 TFLOP/s is 1e12\): 312 is no GPU's",
        ),
        ({"peak_flops": {"fp16": 3e20}}, r"peak_flops.fp16 is in .*: 3e\+20 is no GPU's"),
        ({"link_bandwidth": 300}, r"link_bandwidth is in bytes/s.*: 300 is no GPU's"),
        ({"inter_node_bandwidth": 50}, r"inter_node_bandwidth is in bytes/s.*: 50 is no GPU's"),
        ({"pcie_bandwidth": 32}, r"pcie_bandwidth is in bytes/s.*: 32 is no GPU's"),
        ({"peer_bandwidth": 32}, r"peer_bandwidth is in bytes/s.*: 32 is no GPU's"),
        ({"l2_bytes": 50}, r"l2_bytes is in bytes \(1 MB is 1e6\): 50 is no GPU's"),
        ({"boost_clock_hz": 1410}, r"boost_clock_hz is in Hz.*: 1410 is no GPU's"),
        ({"link_domain_size": 0}, r"link_domain_size must be greater than 0"),
        ({"link_domain_size": 8.5}, r"link_domain_size must be a whole number"),
        ({"self": 1}, r"unknown key 'self'"),
        ({"x" * 5000: 1}, r"unknown key"),
    ],
)
def test_a_gpu_file_that_is_wrong(ask: Ask, elsewhere: Path, changes: dict[str, object], pattern: str) -> None:
    answer = ask("infer", "--model_name", "test-13b", "--gpu_name", gpu_file(elsewhere, **changes))
    refused(answer)
    assert re.search(pattern, answer.err), answer.err
    assert "mine.json" in answer.err


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"hiden_size": 512}, r"unknown key 'hiden_size'; did you mean hidden_size"),
        ({"hidden_size": None}, r"'hidden_size'"),
        ({"num_hidden_layers": None}, r"'num_hidden_layers'"),
        ({"vocab_size": 0}, r"vocab_size"),
        ({"vocab_size": "many"}, r"vocab_size .*'many'"),
        ({"vocab_size": True}, r"vocab_size .*True"),
        ({"num_attention_heads": 0}, r"num_attention_heads"),
        ({"num_attention_heads": -8}, r"num_attention_heads"),
        ({"num_attention_heads": 2.5}, r"num_attention_heads"),
        ({"tie_word_embeddings": "yes"}, r"tie_word_embeddings"),
        ({"max_position_embeddings": 1e400}, r"max_position_embeddings"),
    ],
)
def test_a_model_file_that_is_wrong(ask: Ask, elsewhere: Path, changes: dict[str, object], pattern: str) -> None:
    answer = ask("infer", "--gpu_name", "t4", "--model_name", model_file(elsewhere, **changes))
    refused(answer)
    assert re.search(pattern, answer.err), answer.err
    assert "mine.json" in answer.err


NO_JSON = [
    (b"", r"the file is empty"),
    (b"   \n", r"the file is empty"),
    (b"{", r"not JSON"),
    (b'{"name": "mine",}', r"not JSON"),
    (b"{'name': 'mine'}", r"not JSON"),
    (b"name: mine\n", r"not JSON"),
    (b"\x93NUMPY\x00\xff\xfe", r"not text in UTF-8"),
    (b"[]", r"holds a list, not an object"),
    (b'"test-13b"', r"holds a text, not an object"),
    (b"3", r"holds a number, not an object"),
    (b"null", r"holds null, not an object"),
    (b"[" * 100_000, r"not JSON"),
    (b'{"a":' * 100_000, r"not JSON"),
    (b"1" * 5000, r"mine.json"),
]


@pytest.mark.parametrize("flag", ["model_name", "gpu_name"])
@pytest.mark.parametrize(("content", "pattern"), NO_JSON, ids=[str(content[:12]) for content, _ in NO_JSON])
def test_a_file_that_is_no_json(ask: Ask, elsewhere: Path, flag: str, content: bytes, pattern: str) -> None:
    path = elsewhere / "mine.json"
    path.write_bytes(content)
    answer = ask("infer", *with_file(flag, str(path)))
    refused(answer)
    assert "mine.json" in answer.err
    assert re.search(pattern, answer.err), answer.err


def with_file(flag: str, path: str) -> list[str]:
    names = {"model_name": "test-13b", "gpu_name": "t4"} | {flag: path}
    return [f"--{name}={value}" for name, value in names.items()]


@pytest.mark.parametrize("flag", ["model_name", "gpu_name"])
def test_a_path_that_leads_nowhere(ask: Ask, elsewhere: Path, flag: str) -> None:
    (elsewhere / "folder.json").mkdir()
    os.mkfifo(elsewhere / "pipe.json")
    paths = ["none.json", "./none", "/nowhere/none.json", "folder.json", ".", "~nobody-of-that-name/none.json"]
    paths += ["pipe.json", "/dev/null", "x" * 5000, "é" * 300, "x" * 5000 + ".json", "\ud800", "a\0b", " ", ""]
    for path in paths:
        answer = ask("infer", *with_file(flag, path))
        refused(answer)
    assert "no such file" in ask("infer", *with_file(flag, "none.json")).err
    assert "folder" in ask("infer", *with_file(flag, "folder.json")).err


def test_a_known_name_goes_before_a_folder_of_that_name(ask: Ask, elsewhere: Path) -> None:
    (elsewhere / "test-13b").mkdir()
    assert ask(*INFER).status == 0


def test_a_users_folder_that_is_not_there(ask: Ask, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_ANALYSIS_CONFIG_PATH", str(elsewhere / "nowhere"))
    answer = ask(*INFER)
    refused(answer)
    assert "LLM_ANALYSIS_CONFIG_PATH" in answer.err


def test_absurd_but_valid_files_end_in_one_line(ask: Ask, elsewhere: Path) -> None:
    for changes in ({"memory_bandwidth": 5e-324}, {"peak_flops": {"fp16": 1e-320}}, {"memory_bytes": 1e308}):
        answer = ask("infer", "--model_name", "test-13b", "--gpu_name", gpu_file(elsewhere, **changes))
        if answer.status:
            refused(answer)
    refused(ask("infer", "--gpu_name", "t4", "--model_name", model_file(elsewhere, intermediate_size=10**400)))


# Folders


@pytest.mark.parametrize("folder", ["a-file", "a-file/below", "", " ", "a\0b", "x" * 5000, "\ud800"])
def test_an_output_folder_that_is_none(ask: Ask, elsewhere: Path, folder: str) -> None:
    (elsewhere / "a-file").write_text("kept")
    answer = ask(*INFER, f"--output_dir={folder}")
    refused(answer)
    assert "output_dir" in answer.err
    assert [path.name for path in elsewhere.iterdir()] == ["a-file"]
    assert (elsewhere / "a-file").read_text() == "kept"


def test_a_folder_that_says_read_only(ask: Ask, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    answer = ask(*INFER, "--output_dir", ".")
    refused(answer)
    assert "not writable" in answer.err


def test_a_folder_that_turns_out_read_only(ask: Ask, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `os.access` does not foresee: root's read-only mounts, full disks, quotas."""

    opened = Path.open

    def reading_alone(path: Path, mode: str = "r", **more: Any) -> Any:
        if mode == "xb":
            raise OSError(30, "Read-only file system")
        return opened(path, mode, **more)

    monkeypatch.setattr(Path, "open", reading_alone)
    answer = ask(*INFER, "--output_dir", ".")
    refused(answer)
    assert "Read-only file system" in answer.err
    assert not list(elsewhere.iterdir())


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write to")
def test_a_folder_of_the_kernel(ask: Ask) -> None:
    refused(ask(*INFER, "--output_dir", "/proc/self"))


@pytest.mark.parametrize("affix", ["a/b", "../x", "a\\b", "x" * 101, "a\0b", "a\nb", "\x1b[31m"])
@pytest.mark.parametrize("flag", ["output_file_prefix", "output_file_suffix"])
def test_a_piece_of_a_file_name_that_is_none(ask: Ask, elsewhere: Path, flag: str, affix: str) -> None:
    answer = ask(*INFER, "--output_dir", ".", f"--{flag}={affix}")
    refused(answer)
    assert flag in answer.err
    assert not list(elsewhere.iterdir())


def test_a_misspelled_flag_writes_nothing(ask: Ask, elsewhere: Path) -> None:
    refused(ask(*INFER, "--output_dir", ".", "--seq_lem", "3"), 2)
    refused(ask(*INFER, "--output_dir", ".", "word"), 2)
    refused(ask(*INFER, "--output_dir", ".", "--", "--trace"), 2)
    assert not list(elsewhere.iterdir())


# Questions that do get an answer


def test_a_model_that_does_not_fit_is_an_answer(ask: Ask) -> None:
    question = ["infer", "--model_name", "llama-2-70b", "--gpu_name", "a100-sxm-40gb"]
    answer = json.loads(ask(*question, "--format", "json").out)
    assert answer["fits"] is False
    assert answer["max_batch_size_per_gpu"] == 0
    assert answer["memory_left_per_gpu"] < 0
    note = " ".join(answer["notes"])
    assert re.search(r"does not fit: needs 13\d\.\d GB of the 40\.0 GB of a100-sxm-40gb; would fit: ", note)
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


def test_a_model_that_fits_nowhere_says_so(ask: Ask) -> None:
    answer = ask("infer", "--model_name", "llama-3.1-405b", "--gpu_name", "t4", "--format", "json")
    assert answer.status == 0
    assert "does not fit" in " ".join(json.loads(answer.out)["notes"])


def test_kv_heads_fewer_than_gpus_are_replicated_and_told(ask: Ask) -> None:
    answer = json.loads(ask(*LLAMA, "--tp_size", "16", "--format", "json").out)
    assert "8 KV heads are fewer than tp_size 16: each is held by 2 GPUs" in answer["notes"]


@pytest.mark.parametrize(
    "spelling",
    [["--tp-size", "2"], ["--tp-size=2"], ["--tp_size=2"], ["--tp_size", "2"], ["--tp_size", "0x2"]],
    ids=" ".join,
)
def test_spellings_that_fire_allows(ask: Ask, spelling: list[str]) -> None:
    answer = ask(*INFER, *spelling, "--format", "json")
    assert (answer.status, answer.err) == (0, "")
    assert json.loads(answer.out)["tp_size"] == 2


@pytest.mark.parametrize(
    "flags",
    [
        ["--model", "llama-3.1-8b", "--gpu", "h100-sxm-80gb", "--tp", "2", "--isl", "100", "--osl", "8"],
        ["--model=llama-3.1-8b", "--gpu=h100-sxm-80gb", "--tensor-parallel-size=2", "--input_len=100", "--osl=8"],
        ["--model_name", "llama-3.1-8b", "--gpu", "h100-sxm-80gb", "--tp_size", "2", "--seq-len=100", "--osl", "8"],
    ],
    ids=" ".join,
)
def test_flag_names_of_serving_engines_mean_the_same(ask: Ask, flags: list[str]) -> None:
    answer = json.loads(ask("infer", *flags, "--format", "json").out)
    assert (answer["model_name"], answer["tp_size"], answer["seq_len"]) == ("llama-3.1-8b", 2, 100)
    assert answer["num_tokens_to_generate"] == 8


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_names_a_flag_and_is_none_itself(alias: str) -> None:
    flags = {name for command in main.COMMANDS for name in flags_of(main.load(command))}
    assert alias not in flags
    assert ALIASES[alias] in {*flags, *HINTS}


@pytest.mark.parametrize("spelling", ["1e3", "1000.0", "1_000", "1000.", "10e2", "1E3", "+1000"])
def test_a_whole_number_however_it_is_written(ask: Ask, spelling: str) -> None:
    answer = ask(*INFER, "--method", "ideal", "--seq_len", spelling, "--format", "json")
    assert (answer.status, answer.err) == (0, "")
    assert '"seq_len": 1000,' in answer.out


@pytest.mark.parametrize(
    ("spelling", "cache"),
    [
        (["--use_kv_cache"], True),
        (["--use_kv_cache", "True"], True),
        (["--use-kv-cache=False"], False),
        (["--use_kv_cache", "false"], False),
        (["--use_kv_cache", "true"], True),
        (["--nouse_kv_cache"], False),
        (["--no-use-kv-cache"], False),
    ],
)
def test_a_switch(ask: Ask, spelling: list[str], cache: bool) -> None:
    answer = ask(*INFER, *spelling, "--format", "json")
    assert json.loads(answer.out)["use_kv_cache"] is cache


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"]], ids=" ".join)
def test_help_lists_the_commands(ask: Ask, arguments: list[str]) -> None:
    answer = ask(*arguments)
    assert (answer.status, answer.err) == (0, "")
    assert all(command in answer.out for command in main.COMMANDS)
    assert max(map(len, answer.out.splitlines())) <= 80


@pytest.mark.parametrize("command", main.COMMANDS)
def test_help_of_a_command_however_it_is_asked(ask: Ask, command: str) -> None:
    whole = ask(command, "--help")
    assert (ask("help", command), ask("--help", command)) == (whole, whole)
    assert max(map(len, whole.out.splitlines())) <= 80


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--", "--help"], ["--tp_size", "2", "-h"]], ids=" ".join)
def test_help_lists_the_flags(ask: Ask, arguments: list[str]) -> None:
    answer = ask("infer", *arguments)
    assert (answer.status, answer.err) == (0, "")
    flags = inspect.signature(infer.infer).parameters
    assert all(f"--{flag}" in answer.out for flag in flags)
    assert max(map(len, answer.out.splitlines())) <= 80


@pytest.mark.parametrize(("command", "whole"), [([], ["--help"]), (["infer"], ["infer", "--help"])], ids=str)
def test_help_after_the_separator_of_fire(ask: Ask, command: list[str], whole: list[str]) -> None:
    """`llm-analysis COMMAND -- --help` is how Fire spells it."""
    assert ask(*command, "--", "--help") == ask(*command, "--", "-h") == ask(*whole)


@pytest.mark.parametrize("arguments", [["--version"], ["version"]], ids=" ".join)
def test_version(ask: Ask, arguments: list[str]) -> None:
    answer = ask(*arguments)
    assert (answer.status, answer.err) == (0, "")
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", answer.out)


# From Python


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
def test_the_class_refuses_alike(build: dict[str, Any], question: dict[str, Any], pattern: str) -> None:
    with pytest.raises(LLMAnalysisError, match=re.escape(pattern)) as refusal:
        LLMAnalysis(catalog.get_model("test-13b"), catalog.get_gpu("t4"), **build).inference(**question)
    assert "\n" not in str(refusal.value)


# Surprises


def test_an_internal_division_by_zero_is_no_mistake_of_the_user(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "get_gpu", lambda name: 1 / 0)
    answer = ask(*INFER)
    assert (answer.status, answer.out) == (1, "")
    assert "internal error: ZeroDivisionError" in answer.err


def test_an_internal_error_is_one_line(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(asking, "get_gpu", broken)
    answer = ask(*INFER)
    assert (answer.status, answer.out) == (1, "")
    assert re.fullmatch(r"llm-analysis: internal error: KeyError: 'a bug'; .*--log_level DEBUG\n", answer.err)
    with pytest.raises(KeyError, match="a bug"):
        ask(*INFER, "--log_level", "DEBUG")


@pytest.mark.parametrize("level", ["INFO", "info", "Info"])
def test_log_level_info_lists_the_files(ask: Ask, elsewhere: Path, level: str) -> None:
    answer = ask(*INFER, "--log_level", level, "--output_dir", ".")
    assert answer.status == 0
    lines = answer.err.splitlines()
    assert [line.split()[1] for line in lines] == ["read", "read", "wrote", "wrote"]
    assert lines[0].endswith("test-13b.json")
    assert all((elsewhere / line.split()[-1]).is_file() for line in lines[2:])
    assert ask(*INFER).err == ""


def test_a_users_folder_without_configs(ask: Ask, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_ANALYSIS_CONFIG_PATH", str(elsewhere))
    answer = ask(*INFER)
    refused(answer)
    assert "has no folder model_configs or gpu_configs" in answer.err


@pytest.mark.parametrize(("flag", "file"), [("model_name", model_file), ("gpu_name", gpu_file)])
def test_a_file_without_its_ending_is_recognised(ask: Ask, elsewhere: Path, flag: str, file: Any) -> None:
    file(elsewhere)
    answer = ask("infer", *with_file(flag, "mine"))
    refused(answer)
    assert "did you mean the file mine.json?" in answer.err


def test_a_broken_user_file_in_the_catalogue_is_named(
    ask: Ask, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_ANALYSIS_CONFIG_PATH", str(elsewhere))
    (elsewhere / "gpu_configs").mkdir()
    (elsewhere / "gpu_configs" / "mine.json").write_text("{")
    answer = ask("gpus")
    refused(answer)
    assert "mine.json" in answer.err
    with pytest.raises(BadConfig):
        catalog.get_gpu("mine")


# The real process


def process(*arguments: str, **more: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "llm_analysis", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **more)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([*INFER, "--tp_size", "2"], 0),
        ([*INFER, "--gpu_nam", "x"], 2),
        ([*INFER, "--tp_size", "3"], 1),
        ([*INFER, "--tp_size", "1,2,4"], 1),
        ([*INFER, "--", "--trace"], 2),
        (["infer", "--model_name", "test-13b", "--gpu_name", "none.json"], 1),
    ],
)
def test_the_process(arguments: list[str], status: int) -> None:
    done = process(*arguments)
    assert done.returncode == status
    assert len(done.stderr.splitlines()) == (1 if status else 0)
    assert bool(done.stdout) is not bool(status)


def test_a_reader_that_leaves_early() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "llm_analysis", *INFER], stdout=nobody, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_under_stdout() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "llm_analysis", *INFER], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"llm-analysis: cannot print the answer: No space left on device\n"


def test_a_terminal_that_knows_ascii_alone(elsewhere: Path) -> None:
    path = model_file(elsewhere, name="modèle")
    done = process("infer", "--model_name", path, "--gpu_name", "t4", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert r"mod\xe8le" in done.stdout
