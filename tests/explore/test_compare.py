"""Comparisons of estimates."""

import json
import re
from pathlib import Path

import pytest
from conftest import Ask

from llm_analysis import LLMAnalysis, Parallelism, get_dtypes, get_gpu, get_model
from llm_analysis.errors import BadValue
from llm_analysis.explore.compare import EXPLAINED, MOST_CAUSES, compare
from llm_analysis.inference.estimate import Estimate

COMMON = ("--model_name", "llama-3.1-8b", "--seq_len", "1000", "--num_tokens_to_generate", "100")


def estimate(gpu: str, dtype: str = "bf16", tp: int = 1) -> Estimate:
    analysis = LLMAnalysis(get_model("llama-3.1-8b"), get_gpu(gpu), get_dtypes(dtype), Parallelism(tp_size=tp))
    return analysis.inference(batch_size_per_gpu=8, seq_len=1000, num_tokens_to_generate=100)


def test_ratios_are_to_the_first_estimate() -> None:
    first, second = estimate("a100-sxm-80gb"), estimate("h100-sxm-80gb")
    rows = {row.name: row for row in compare([first, second]).rows}
    assert rows["decode_latency"].values == (first.decode_latency, second.decode_latency)
    assert rows["decode_latency"].ratios == (1.0, second.decode_latency / first.decode_latency)
    assert "cost_per_million_tokens" not in rows


def test_causes_sum_up_to_the_difference_they_explain() -> None:
    others = [estimate("h100-sxm-80gb"), estimate("l40s-48gb"), estimate("a100-sxm-80gb", "int8")]
    for other in (*others, estimate("a100-sxm-80gb", tp=2)):
        for found in compare([estimate("a100-sxm-80gb"), other]).differences:
            covered = sum(cause.share for cause in found.causes)
            assert covered >= EXPLAINED or len(found.causes) == MOST_CAUSES
            for cause in found.causes:
                assert cause.seconds == pytest.approx(cause.share * found.seconds)
                assert cause.seconds * found.seconds > 0


def test_equal_estimates_have_no_causes() -> None:
    found = compare([estimate("a100-sxm-80gb")] * 2)
    assert [(d.seconds, d.causes) for d in found.differences] == [(0.0, ())] * 2
    assert {ratio for row in found.rows for ratio in row.ratios} == {1.0}


@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_comparison_takes_two_to_six_scenarios(count: int) -> None:
    with pytest.raises(BadValue, match=f"compare takes 2 to 6 scenarios, not {count}"):
        compare([estimate("t4")] * count)


def test_the_command_shows_scenarios_side_by_side(ask: Ask) -> None:
    found = ask("compare", *COMMON, "--gpu_name", "a100-sxm-80gb,h100-sxm-80gb")
    assert found.status == 0
    assert "A: llama-3.1-8b w16a16e16 on 1 x a100-sxm-80gb; batch 1, 1000 in, 100 out;" in found.out
    assert "B against A: decode is " in found.out
    assert "all memory-bound" in found.out
    assert max(map(len, found.out.splitlines())) <= 80


def test_tables_of_six_scenarios_fit_80_columns_and_have_them_all(ask: Ask) -> None:
    gpus = "h100-sxm-80gb,h200-sxm-141gb,a100-sxm-80gb,b200-sxm,l40s-48gb,mi300x-192gb"
    out = ask("compare", *COMMON, "--gpu_name", gpus).out
    assert max(map(len, out.splitlines())) <= 80
    rows = [line for line in out.splitlines() if line.startswith("decode per token (TPOT) ")]
    assert sum(line.count(" ms") for line in rows) == 6
    assert [line.split() for line in out.splitlines() if re.fullmatch(r" +A .*| +D .*", line)] == [
        ["A", "B", "C"],
        ["D", "E", "F"],
    ]


def test_the_command_gives_json_in_si_units(ask: Ask) -> None:
    found = ask("compare", *COMMON, "--gpu_name", "a100-sxm-80gb,h100-sxm-80gb,l4-24gb", "--format", "json")
    whole = json.loads(found.out)
    assert [s["gpu_name"] for s in whole["scenarios"]] == ["a100-sxm-80gb", "h100-sxm-80gb", "l4-24gb"]
    assert {d["scenario"] for d in whole["differences"]} == {1, 2}
    rows = {row["name"]: row for row in whole["quantities"]}
    assert rows["decode_latency"]["values"][0] == whole["scenarios"][0]["decode_latency"] < 0.1


def test_scenarios_come_from_json_files_of_flags_and_from_answers_of_infer(ask: Ask, tmp_path: Path) -> None:
    flags = {"model_name": "llama-3.1-8b", "gpu_name": "h100-sxm-80gb", "seq_len": 1000, "num_tokens_to_generate": 100}
    (tmp_path / "flags.json").write_text(json.dumps(flags))
    answer = ask("infer", *COMMON, "--gpu_name", "a100-sxm-80gb", "--format", "json")
    (tmp_path / "answer.json").write_text(answer.out)
    files = f"{tmp_path / 'answer.json'},{tmp_path / 'flags.json'}"
    by_files = ask("compare", "--scenarios", files, "--format", "json")
    by_flags = ask("compare", *COMMON, "--gpu_name", "a100-sxm-80gb,h100-sxm-80gb", "--format", "json")
    assert by_files == by_flags


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gpu_name", "h100-sxm-80gb"), "compare takes 2 to 6 scenarios, not 1"),
        (("--gpu_name", "h100-sxm-80gb", "--tp_size", "8:1"), "tp_size 8:1 is empty: the end 1 is below the start 8"),
        (("--gpu_name", "h100-sxm-80gb", "--batch_size_per_gpu", "1:128"), "the flags give 8 scenarios, more than 6"),
        (("--gpu_name", "h100-sxm-80gb,", "--tp_size", "1"), "gpu_name has an empty entry in its list"),
    ],
)
def test_bad_lists_are_one_clear_line(ask: Ask, arguments: tuple[str, ...], message: str) -> None:
    found = ask("compare", *COMMON, *arguments)
    assert (found.status, found.out) == (1, "")
    assert message in found.err
    assert len(found.err.splitlines()) == 1


def test_an_unknown_key_of_a_scenario_file_is_named_with_the_nearest_flag(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('{"model_nam": "llama-3.1-8b"}')
    found = ask("compare", "--scenarios", str(path))
    assert (found.status, found.out) == (1, "")
    assert "unknown key 'model_nam'; did you mean model_name" in found.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--tp", "2"), "--tp_size would have no effect: a.json gives its value; leave it out, or change the file"),
        (("--tp", "2", "--runtime", "sglang"), "--tp_size and --runtime would have no effect: a.json gives their val"),
        (("--flops_efficiency", "0.5"), "--flops_efficiency would have no effect: a.json"),
    ],
)
def test_a_flag_that_a_scenario_file_would_replace_is_refused(
    ask: Ask, elsewhere: Path, flags: tuple[str, ...], message: str
) -> None:
    for name, gpu in (("a.json", "a100-sxm-80gb"), ("b.json", "h100-sxm-80gb")):
        (elsewhere / name).write_text(ask("infer", *COMMON, "--gpu_name", gpu, "--format", "json").out)
    found = ask("compare", "--scenarios", "a.json,b.json", *flags)
    assert (found.status, found.out, len(found.err.splitlines())) == (1, "", 1)
    assert message in found.err


def test_a_flag_that_no_scenario_file_has_applies_to_all(ask: Ask, elsewhere: Path) -> None:
    for name, gpu in (("a.json", "a100-sxm-80gb"), ("b.json", "h100-sxm-80gb")):
        (elsewhere / name).write_text(json.dumps({"model_name": "llama-3.1-8b", "gpu_name": gpu}))
    flags = ("--tp", "2", "--format", "json")
    by_flags = ask("compare", "--model", "llama-3.1-8b", "--gpu_name", "a100-sxm-80gb,h100-sxm-80gb", *flags)
    assert ask("compare", "--scenarios", "a.json,b.json", *flags) == by_flags


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (("infer", "--max_concurrency", "8"), "s.json is an answer of infer --max_concurrency, for a server; compare"),
        (("load", "--num_prompts", "20"), "s.json is an answer of load, for a server; compare"),
    ],
)
def test_an_answer_about_a_server_is_no_scenario(
    ask: Ask, elsewhere: Path, command: tuple[str, ...], named: str
) -> None:
    question = ("--model_name", "llama-3.1-8b", "--gpu_name", "h100-sxm-80gb", "--format", "json")
    (elsewhere / "s.json").write_text(ask(*command, *question).out)
    found = ask("compare", "--scenarios", "s.json,s.json")
    assert (found.status, found.out, len(found.err.splitlines())) == (1, "", 1)
    assert named in found.err


def test_operators_that_offset_each_other_have_times_instead_of_shares_above_all_of_it(ask: Ask) -> None:
    question = ("--model_name", "gpt-oss-120b", "--batch_size_per_gpu", "16", "--seq_len", "2000")
    out = ask("compare", *question, "--gpu_name", "h100-sxm-80gb,mi300x-192gb").out.replace("\n  ", " ")
    lines = [line for line in out.splitlines() if "against A" in line]
    shares = [float(share) for line in lines for share in re.findall(r"(\d+)%", line)]
    assert shares
    assert max(shares) <= 100
    assert any("operators that are shorter offset most of it" in line for line in lines)
