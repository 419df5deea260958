"""Flags: mistakes are named before anything runs; spellings, aliases, switches, help."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from conftest import Ask
from shared import INFER, Case, refused, short

from llm_analysis.cli import main
from llm_analysis.cli.commands import infer
from llm_analysis.cli.flags import HINTS, Flag, flags_of, parsers, with_flags_of
from llm_analysis.names import ALIASES

pytestmark = pytest.mark.usefixtures("elsewhere")


BAD_FLAGS: list[Case] = [
    ([*INFER, "--seq_lem", "3"], 2, r"unknown flag --seq_lem; did you mean --seq_len"),
    ([*INFER, "--seq-lem=3"], 2, r"unknown flag --seq-lem; did you mean --seq_len"),
    ([*INFER, "--tpsize", "3"], 2, r"unknown flag --tpsize; did you mean --tp_size"),
    ([*INFER, "--TP_SIZE", "3"], 2, r"unknown flag --TP_SIZE; did you mean --tp_size"),
    ([*INFER, "--tp", "2", "--tp_size", "4"], 2, r"--tp_size is given twice"),
    ([*INFER, "--dtyp", "fp8"], 2, r"unknown flag --dtyp; did you mean --dtype_name"),
    ([*INFER, "--max_model_len", "4096"], 2, r"--max_model_len; the longest sequence is --seq_len plus"),
    (["explain", *INFER[1:], "--concurrency", "8"], 2, r"--concurrency; .*here give --batch_size_per_gpu"),
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
    ([*INFER, "word"], 2, r"'word' follows no flag"),
    ([*INFER, "--tp_size", "2", "4"], 2, r"'4' follows no flag"),
    ([*INFER, "--tp_size=2", "4"], 2, r"'4' follows no flag"),
    (["infer", "test-13b", "a100-sxm-40gb"], 2, r"'test-13b' follows no flag; write --model_name test-13b$"),
    (["gpus", "h100"], 2, r"'h100' follows no flag; write --name h100$"),
    (["infer", "$(ls)"], 2, r"'\$\(ls\)' follows no flag; write --model_name value$"),
    ([*INFER, "--seq_len", "512", "tokens"], 2, r"'tokens' follows no flag; write --flag value$"),
    ([*INFER, "--tpot", "20"], 2, r"unknown flag --tpot; .*sweep --where"),
    ([*INFER, "tp_size=2"], 2, r"'tp_size=2' follows no flag; write --tp_size=2$"),
    ([*INFER, "\u2014tp", "2"], 2, r"follows no flag; write --tp$"),
    ([*INFER, "--hlp"], 2, r"unknown flag --hlp; did you mean --help"),
    ([*INFER, "--lora_rank", "16"], 2, r"--lora_rank; LoRA adapters are not modelled"),
    ([*INFER, "--request_rate", "8"], 2, r"--request_rate; load and plan have it"),
    (["plan", *INFER[1:], "--tp", "8"], 2, r"--tp; plan searches layouts"),
    (["gpus", "--vendor", "AMD"], 2, r"--vendor; give --family$"),
    (["sweep", *INFER[1:], "--tp_size", "1-8"], 1, r"tp_size '1-8' is not a range; write 1:8$"),
    (["sweep", *INFER[1:], "--tp_size", "1..8"], 1, r"tp_size '1..8' is not a range; write 1:8$"),
    (["load", *INFER[1:], "--batch_size", "8"], 2, r"--batch_size; in load --max_num_seqs"),
    (["--verison"], 2, r"unknown command '--verison'; did you mean --version"),
    ([*INFER, "--seq_len", "4k"], 1, r"seq_len must be a whole number, not '4k'; write 4000 or 4096$"),
    ([*INFER, "--seq_len", "4,096"], 1, r"not '4,096'; write 4096$"),
    ([*INFER, "--seq_len", "90%"], 1, r"not '90%'$"),
    ([*INFER, "--seq_len", "2,000"], 1, r"seq_len must be a whole number, not '2,000'; write 2000$"),
    ([*INFER, "--seq_len", "128,256"], 1, r"not '128,256'; write 128256 for one number; .*sweep and compare take list"),
    ([*INFER, "--cost_per_gpu_hour", "2,50"], 1, r"cost_per_gpu_hour must be a number, not '2,50'; write 2.50$"),
    ([*INFER, "--gpu_memory_utilization", "0,9"], 1, r"must be a number, not '0,9'; write 0.9$"),
    (["plan", *INFER[1:], "--request_rate", "1,000"], 1, r"request_rate must be a number, not '1,000'; write 1000$"),
    (["plan", *INFER[1:], "--request_rate", "1,500"], 1, r"request_rate must be a number, not '1,500'; write 1500$"),
    (["load", *INFER[1:], "--num_prompts", "1,000"], 1, r"num_prompts must be a number, not '1,000'; write 1000$"),
    (["sweep", *INFER[1:], "--seq_len", "2,000"], 1, r"seq_len '2,000' is no list; write 2000 for one number$"),
    (["compare", *INFER[1:], "--seq_len", "2,000"], 1, r"seq_len '2,000' is no list; write 2000 for one number$"),
    (["sweep", "--model", "test-13b", "--gpu", "all"], 1, r"unknown gpu 'all'; only plan takes all; .* with commas$"),
    (["compare", "--model", "test-13b", "--gpu", "all"], 1, r"unknown gpu 'all'; only plan takes all; .* with commas$"),
    ([*INFER, "--gpu_memory_utilization", "90%"], 1, r"not '90%'; write 0.9$"),
    ([*INFER, "--achieved_memory_bandwidth_GBs", "2000 GB/s"], 1, r"not '2000 GB/s'; write 2000$"),
    ([*INFER, "--achieved_memory_bandwidth_GBs", "2TB/s"], 1, r"not '2TB/s'$"),
    ([*INFER, "--achieved_tflops", "300TFLOP/s"], 1, r"; write 300$"),
    (["gpus", "--min_memory_GB", "80GB"], 1, r"; write 80$"),
    (["gpus", "--min_memory_GB", "1 TB"], 1, r"min_memory_GB must be a number, not '1 TB'$"),
    ([*INFER, "--cost_per_gpu_hour", "$2.50"], 1, r"not '\$2.50'; write 2.5$"),
    (["load", *INFER[1:], "--request_rate", "8/s"], 1, r"not '8/s'; write 8$"),
    (["plan", *INFER[1:], "--request_rate", "8rps"], 1, r"not '8rps'; write 8$"),
    (["infer", "--gpu_name", "test-13b", "--model_name", "h100"], 1, r"'h100'; it is a GPU; give it as gpu_name$"),
    (["infer", "--model_name", "test-13b", "--gpu_name", "qwen3-8b"], 1, r"it is a model; give it as model_name$"),
    (["help", "infre"], 2, r"unknown command 'infre'; did you mean infer"),
    ([*INFER, "-"], 2, r"'-' follows no flag"),
    ([*INFER, "--"], 2, r"after -- come --help or --completion \[bash.zsh.fish\], not 'nothing'"),
    ([*INFER, "--", "--trace"], 2, r"after -- .*not '--trace'"),
    ([*INFER, "--", "--interactive"], 2, r"after -- .*not '--interactive'"),
    ([*INFER, "--", "-i"], 2, r"after -- .*not '-i'"),
    ([*INFER, "--", "--completion", "csh"], 2, r"after -- .*not 'csh'"),
    ([*INFER, "--", "--help", "--", "--help"], 2, r"after -- .*not '--'"),
    ([*INFER, "-", "model_name"], 2, r"'-' follows no flag"),
    ([*INFER, "--tp_size=2", "--", "--help=x"], 2, r"after -- .*not '--help=x'"),
    ([*INFER, "---tp_size", "2"], 2, r"'---tp_size' follows no flag"),
    ([*INFER, ""], 2, r"'' follows no flag"),
    (["models", "test-13b"], 2, r"'test-13b' follows no flag"),
    (["models", "--nmae", "x"], 2, r"unknown flag --nmae; did you mean --name"),
    (["models", "--name"], 2, r"--name needs a value"),
    (["models", "--format", "xml"], 1, r"unknown format 'xml'; known: table, json, csv, markdown"),
    (
        ["gpus", "--name", "t4", "--format", "csv"],
        1,
        r"--name shows one GPU in full, for which --format csv has no rows: use json, table or markdown",
    ),
    (["infre", *INFER[1:]], 2, r"unknown command 'infre'; did you mean infer"),
    (["model_name"], 2, r"unknown command 'model_name'"),
    ([""], 2, r"unknown command ''"),
    (["--tp_size", "2"], 2, r"'--tp_size' needs a command before it: llm-analysis infer --flag value"),
    (["a\nb\x1b[31m"], 2, r"unknown command 'a\\nb\\x1b\[31m'"),
]


@pytest.mark.parametrize("case", BAD_FLAGS, ids=short)
def test_a_bad_flag_is_one_line_on_stderr_and_nothing_else(ask: Ask, elsewhere: Path, case: Case) -> None:
    arguments, status, pattern = case
    answer = ask(*arguments)
    refused(answer, status)
    assert re.search(pattern, answer.err), answer.err
    assert not list(elsewhere.iterdir())


def test_a_misspelled_flag_writes_nothing(ask: Ask, elsewhere: Path) -> None:
    refused(ask(*INFER, "--output_dir", ".", "--seq_lem", "3"), 2)
    refused(ask(*INFER, "--output_dir", ".", "word"), 2)
    refused(ask(*INFER, "--output_dir", ".", "--", "--trace"), 2)
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(
    "spelling",
    [["--tp-size", "2"], ["--tp-size=2"], ["--tp_size=2"], ["--tp_size", "2"], ["--tp_size", "0x2"]],
    ids=" ".join,
)
def test_hyphens_equals_signs_and_hexadecimal_numbers_are_accepted(ask: Ask, spelling: list[str]) -> None:
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
def test_an_alias_is_no_flag_itself(alias: str) -> None:
    flags = [set(flags_of(main.load(command))) for command in main.COMMANDS]
    assert not any({alias, ALIASES[alias]} <= each for each in flags)
    assert ALIASES[alias] in set.union(*flags, set(HINTS))


@pytest.mark.parametrize("spelling", ["1e3", "1000.0", "1_000", "1000.", "10e2", "1E3", "+1000"])
def test_a_whole_number_may_have_an_exponent_or_underscores(ask: Ask, spelling: str) -> None:
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
def test_a_switch_may_stand_alone(ask: Ask, spelling: list[str], cache: bool) -> None:
    answer = ask(*INFER, *spelling, "--format", "json")
    assert json.loads(answer.out)["use_kv_cache"] is cache


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"]], ids=" ".join)
def test_help_lists_the_commands(ask: Ask, arguments: list[str]) -> None:
    answer = ask(*arguments)
    assert (answer.status, answer.err) == (0, "")
    assert all(command in answer.out for command in main.COMMANDS)
    assert max(map(len, answer.out.splitlines())) <= 80


@pytest.mark.parametrize("command", main.COMMANDS)
def test_help_of_a_command_has_three_spellings(ask: Ask, command: str) -> None:
    whole = ask(command, "--help")
    assert (ask("help", command), ask("--help", command), ask(command, "help")) == (whole, whole, whole)
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
def test_version_is_printed(ask: Ask, arguments: list[str]) -> None:
    answer = ask(*arguments)
    assert (answer.status, answer.err) == (0, "")
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", answer.out)


@pytest.mark.parametrize("flags", [["--format", "JSON", "--method", "Ideal"], ["--format=Json", "--method=IDEAL"]])
def test_known_words_are_accepted_in_any_case(ask: Ask, flags: list[str]) -> None:
    answer = ask(*INFER, *flags)
    assert json.loads(answer.out)["method"] == "ideal"


def test_values_of_raw_flags_arrive_as_the_users_text() -> None:
    @with_flags_of(infer.infer, without=("output_dir",), raw=True)
    def sweep(*, sort: Annotated[str | None, Flag("order of the rows")] = None, **flags: Any) -> dict[str, Any]:
        return {"sort": sort, **flags}

    flags = flags_of(sweep)
    assert set(flags) == {*flags_of(infer.infer), "sort"} - {"output_dir"}
    parse = parsers(flags)
    texts = {"tp_size": "1,2,4", "seq_len": "1:4096:*2", "use_kv_cache": "True,False", "model_name": "1e5"}
    assert {name: parse[name](text) for name, text in texts.items()} == texts
    found = sweep(tp_size="1,2,4", sort="tpot")
    assert (found["tp_size"], found["sort"], found["seq_len"]) == ("1,2,4", "tpot", 512)
    each = parsers(flags_of(infer.infer))
    assert [each["tp_size"](text) for text in texts["tp_size"].split(",")] == [1, 2, 4]


def test_python_oo_keeps_the_help() -> None:
    """-OO removes docstrings; the help text is not a docstring."""
    texts = [
        subprocess.run(
            [sys.executable, *flags, "-m", "llm_analysis", "infer", "--help"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for flags in ([], ["-OO"])
    ]
    assert texts[0] == texts[1]
    assert "tensor parallel" in texts[1]
