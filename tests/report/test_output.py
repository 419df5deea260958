"""Printed and written output: four formats that agree, JSON for scripts, files complete or not written."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Ask
from hypothesis import given
from hypothesis import strategies as st

from llm_analysis import catalog
from llm_analysis.cli.writing import write_together
from llm_analysis.errors import BadValue
from llm_analysis.physics.dtypes import EVERYDAY
from llm_analysis.report.tables import csv_of, scaled, seconds, significant, table, time_unit

REQUIRED = [
    *("prefill_latency", "decode_latency", "total_decode_latency", "total_latency", "total_per_token_latency"),
    *("prefill_tokens_per_sec", "decode_tokens_per_sec", "total_tokens_per_sec", "flops_efficiency"),
    *("weight_memory_per_gpu", "kv_cache_memory_per_gpu", "num_params_total", "method", "fits", "total_latency_is"),
    *("max_batch_size_per_gpu", "operators", "notes", "hbm_memory_efficiency"),
]
QUESTIONS = {
    "published": ["--tp_size", "2", "--flops_efficiency", "0.7", "--hbm_memory_efficiency", "0.9"],
    "ideal": ["--tp_size", "2", "--method", "ideal"],
    "one gpu": ["--method", "ideal", "--cost_per_gpu_hour", "2.5"],
    "replicas and stages": [
        "--method",
        "ideal",
        "--dp_size",
        "2",
        "--pp_size",
        "2",
        "--tp_size",
        "4",
        "--sp_size",
        "4",
    ],
    "shared tokens": ["--method", "ideal", "--tp_size", "2", "--cp_size", "4"],
    "no cache": ["--method", "ideal", "--use_kv_cache", "False"],
    "does not fit": ["--method", "ideal", "--batch_size_per_gpu", "100000"],
    "tokens": ["--method", "ideal", "--num_tokens_to_generate", "1"],
}
BASE = ["infer", "--model_name", "test-13b", "--gpu_name", "a100-sxm-40gb"]
MODELS = ("llama-2-7b", "llama-3.1-70b", "opt-13b", "qwen2.5-72b", "mistral-7b-v0.1", "gemma-2-9b")


def answered(ask: Ask, *arguments: str) -> dict[str, Any]:
    answer = ask(*BASE, *arguments, "--format", "json")
    found: dict[str, Any] = json.loads(answer.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert answer.status == 0
    assert (answer.err == "") is found["fits"]
    return found


every_question = pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)


@every_question
def test_json_holds_the_words_that_scripts_parse(ask: Ask, question: list[str]) -> None:
    answer = answered(ask, *question)
    assert set(REQUIRED) <= set(answer)
    latencies = [answer[word] for word in REQUIRED if word.endswith(("_latency", "_per_sec"))]
    # A single token has no decode behind it.
    assert all(value > 0 for value in latencies if value != answer["total_decode_latency"])
    assert isinstance(answer["fits"], bool)
    assert isinstance(answer["max_batch_size_per_gpu"], int)


@every_question
def test_operators_sum_to_the_latency(ask: Ask, question: list[str]) -> None:
    answer = answered(ask, *question)
    for phase in ("prefill", "decode"):
        rows = [row for row in answer["operators"] if row["phase"] == phase]
        assert sum(row["seconds"] for row in rows) == pytest.approx(answer[f"{phase}_latency"], rel=1e-12)
        assert sum(row["share"] for row in rows) == pytest.approx(1, rel=1e-12)
        assert len({row["name"] for row in rows}) == len(rows)
        for row in rows:
            terms = {word: row[f"{word}_seconds"] for word in ("compute", "memory", "launch", "network")}
            assert 0 <= row["achieved_fraction"] <= 1
            if row["seconds"]:
                assert terms[row["bound"]] == max(terms.values())
            assert max(terms.values()) <= row["seconds"] * (1 + 1e-12) <= sum(terms.values()) * (1 + 1e-9)


@every_question
def test_the_formats_agree(ask: Ask, question: list[str]) -> None:
    answer = answered(ask, *question)
    (row,) = csv.DictReader(io.StringIO(ask(*BASE, *question, "--format", "csv").out))
    plain = {key: value for key, value in answer.items() if not isinstance(value, (list, dict))}
    assert set(plain) <= set(row)
    for key, value in plain.items():
        assert row[key] == ("" if value is None else str(value))
    table, markdown = (ask(*BASE, *question, "--operators", "--format", style).out for style in ("table", "markdown"))
    digits = 5 if answer["total_latency_low"] is None else 3
    shown = [seconds(answer[f"{word}_latency"], digits) for word in ("prefill", "decode", "total")]
    shown += [f"{answer['weight_memory_per_gpu'] / 1e9:,.2f}", answer["method"], *answer["notes"]]
    shown += [row["name"] for row in answer["operators"] if row["seconds"]]
    for text in (table, markdown):
        assert all(" ".join(piece.split()) in " ".join(text.split()) for piece in shown)
    figures = [re.sub(r"[|\s:-]+", " ", text) for text in (table, markdown)]
    assert figures[0] == figures[1]


@pytest.mark.parametrize("command", ["infer", "explain"])
def test_the_notes_of_a_csv_go_to_stderr(ask: Ask, command: str) -> None:
    question = [command, "--model_name", "deepseek-v3", "--gpu_name", "a100-sxm-80gb"]
    as_json, as_csv = ask(*question, "--format", "json"), ask(*question, "--format", "csv")
    notes = json.loads(as_json.out)["notes"]
    assert len(notes) > 2
    (misfit,) = (note for note in notes if note.startswith("does not fit"))
    stderr = [f"llm-analysis: note: {note}" for note in notes if note != misfit] + [f"llm-analysis: {misfit}"]
    assert as_csv.err.splitlines() == stderr
    assert (as_csv.status, "note" in as_csv.out) == (0, False)
    assert as_json.err == ask(*question).err == f"{stderr[-1]}\n"


@every_question
def test_the_answer_names_its_method_and_efficiencies(ask: Ask, question: list[str]) -> None:
    answer, table = answered(ask, *question), " ".join(ask(*BASE, *question).out.split())
    published = answer["method"] == "published"
    assert answer["total_latency_is"] == ("prefill + n * decode" if published else "prefill + (n - 1) * decode")
    assert f"method {answer['method']}" in table
    assert f"total = {answer['total_latency_is']}" in table
    if published:
        assert "0.7" in table
        assert "0.9" in table


def test_cost_per_million_tokens(ask: Ask) -> None:
    """Dollars an hour, two GPUs, tokens a second: 2 * 2.5 / 3600 / (tokens/s) * 1e6."""
    answer = answered(ask, *QUESTIONS["ideal"], "--cost_per_gpu_hour", "2.5", "--batch_size_per_gpu", "4")
    expected = 2 * 2.5 / 3600 / answer["total_tokens_per_sec"] * 1e6
    assert answer["cost_per_million_tokens"] == pytest.approx(expected, rel=1e-12)
    assert (
        f"{expected:,.2f}" in ask(*BASE, *QUESTIONS["ideal"], "--cost_per_gpu_hour=2.5", "--batch_size_per_gpu=4").out
    )
    assert answered(ask)["cost_per_million_tokens"] is None


def test_a_table_is_as_wide_as_its_cells() -> None:
    assert table([["a", "12"], ["bc", "3"]], ["name", "number"], "table").splitlines() == [
        "name  number",
        "----  ------",
        "a         12",
        "bc         3",
    ]


def test_a_last_column_of_text_is_wrapped_at_words() -> None:
    rows = [["weights", "1.50", "a long explanation of this row that has no space left on its line"]]
    text = table(rows, ["memory", "GB", ""], "table", last="left", width=44)
    assert max(map(len, text.splitlines())) <= 44
    assert " ".join(" ".join(line.split()) for line in text.splitlines()[2:]) == " ".join(rows[0])
    assert table(rows, ["memory", "GB", ""], "table", last="left").count("\n") == 2


@pytest.mark.parametrize(
    ("operators", "shown"), [("--summary", 0), ("--nosummary", 4), ("--operators", 12)], ids=lambda value: str(value)
)
def test_operators_are_hidden_short_or_complete(ask: Ask, operators: str, shown: int) -> None:
    out = ask(*BASE, operators).out
    rows = re.findall(r"^\w+(?: x\d+)? .*\d% +(?:compute|memory|launch|network)$", out, re.MULTILINE)
    assert (len(rows) == 2 * shown) if shown < 12 else (len(rows) > 2 * shown)
    assert ("others " in out) is (shown == 4)


def test_the_short_form_adds_up_to_the_latency(ask: Ask) -> None:
    shares = re.findall(r" (\d+\.\d)%", ask(*BASE, "--method", "ideal").out)
    assert sum(map(float, shares)) == pytest.approx(200, abs=0.5)  # two phases, each share rounded to 0.1 %


def test_summary_and_operators_exclude_each_other(ask: Ask) -> None:
    answer = ask(*BASE, "--summary", "--operators")
    assert (answer.status, answer.out) == (1, "")
    assert "not both" in answer.err


def test_csv_with_operators_has_a_row_for_each(ask: Ask) -> None:
    answer = answered(ask, "--tp_size", "2")
    rows = list(csv.DictReader(io.StringIO(ask(*BASE, "--tp_size", "2", "--operators", "--format", "csv").out)))
    assert len(rows) == len(answer["operators"])
    for row, operator in zip(rows, answer["operators"], strict=True):
        assert {key: row[key] for key in operator} == {key: str(value) for key, value in operator.items()}
        assert row["prefill_latency"] == str(answer["prefill_latency"])


@pytest.mark.parametrize("method", ["ideal", "calibrated"])
@pytest.mark.parametrize("model", [*MODELS, "deepseek-v3"])
def test_tables_fit_a_terminal(ask: Ask, model: str, method: str) -> None:
    """80 columns, questions and notes included."""
    question = ["--model_name", model, "--gpu_name", "h100-sxm-80gb", "--method", method, "--tp_size", "2"]
    large = ["--batch_size_per_gpu", "64", "--seq_len", "2048", "--pp_size", "2", "--cost_per_gpu_hour", "2"]
    experts = ["--dp_size", "16", "--ep_size", "32"] if model == "deepseek-v3" else []
    for asked in (["infer"], ["infer", *large, *experts], ["explain"]):
        lines = ask(*asked, *question).out.splitlines()
        assert max(map(len, lines)) <= 80
        assert all(line == line.rstrip() for line in lines)


@given(values=st.lists(st.just(0.0) | st.floats(1e3, 1e19), min_size=1, max_size=5))
def test_figures_of_a_column_share_a_unit_and_read_back(values: list[float]) -> None:
    """Five characters at most. Half of the last digit: of four of the largest, or of two behind the point."""
    units = {1e6: "MB", 1e9: "GB", 1e12: "TB", 1e15: "PB"}
    cells, name = scaled(values, units)
    (unit,) = (size for size, shown in units.items() if shown == name)
    for value, cell in zip(values, cells, strict=True):
        assert len(cell) <= 5 or value > 9999 * max(units)
        assert (cell == "-") is (value == 0.0)
        if value:
            assert abs(float(cell.replace(",", "")) * unit - value) <= max(max(values) * 5.1e-3, unit * 5.1e-3)


KNOWN = {"models": catalog.names("model_configs"), "gpus": catalog.names("gpu_configs"), "dtypes": [*EVERYDAY]}


@pytest.mark.parametrize("command", KNOWN)
def test_listings_fit_a_terminal(ask: Ask, command: str) -> None:
    out = ask(command).out
    assert max(map(len, out.splitlines())) <= 80
    assert all(name in out for name in KNOWN[command])


@pytest.mark.parametrize("command", KNOWN)
def test_the_formats_of_a_listing_agree(ask: Ask, command: str) -> None:
    entries = json.loads(ask(command, "--format", "json").out)
    assert [entry["name"] for entry in entries] == KNOWN[command]
    rows = list(csv.DictReader(io.StringIO(ask(command, "--format", "csv").out)))
    assert rows == [{key: "" if value is None else str(value) for key, value in entry.items()} for entry in entries]
    table, markdown = (ask(command, "--format", style).out for style in ("table", "markdown"))
    assert re.split(r"[|\s:-]+", table)[:-1] == re.split(r"[|\s:-]+", markdown)[1:-1]


def test_a_listing_in_si_units(ask: Ask) -> None:
    def entry(command: str, name: str) -> dict[str, Any]:
        (found,) = (each for each in json.loads(ask(command, "--format", "json").out) if each["name"] == name)
        return dict(found)

    gpu, model, dtype = entry("gpus", "h100-sxm-80gb"), entry("models", "llama-3.1-8b"), entry("dtypes", "int4")
    assert (gpu["memory_bytes"], gpu["fp8_flops"], gpu["fp4_flops"]) == (80e9, 1978.9e12, None)
    assert (model["num_params_total"], model["kv_cache_bytes_per_token"]) == (8030261248, 131072)
    assert (dtype["weight_bits"], dtype["activation_bits"]) == (4, 16)


@pytest.mark.parametrize(
    ("command", "name", "key"),
    [("models", "test-13b", "num_params_total"), ("gpus", "h100-sxm-80gb", "peak_flops"), ("dtypes", "nvfp4", "math")],
)
def test_one_entry_is_json(ask: Ask, command: str, name: str, key: str) -> None:
    entry = json.loads(ask(command, "--name", name).out)
    assert entry["name"] == name
    assert entry[key]


@given(value=st.floats(1e-9, 1e6))
def test_a_time_reads_back(value: float) -> None:
    number, unit = seconds(value).split()
    # Half of the last of five digits, or of the last decimal.
    scale = {"us": 1e-6, "ms": 1e-3, "s": 1.0}[unit]
    assert abs(float(number.replace(",", "")) * scale - value) <= max(value * 5.1e-5, scale * 5.1e-3)


@given(values=st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=3))
def test_times_of_a_row_share_a_unit_that_suits_them(values: list[float]) -> None:
    size, _ = time_unit(values)
    assert max(values) < 1e4 * size or size == 1.0
    assert max(values) >= 0.9999 * size or size == 1e-6 or sorted(values)[len(values) // 2] >= size


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.0, 3, "0"), (1234567, 3, "1,230,000"), (9.996, 3, "10.0"), (0.0123, 3, "0.012"), (-5.514, 3, "-5.51")],
)
def test_significant_digits(value: float, digits: int, text: str) -> None:
    assert significant(value, digits) == text


# Files

NAME = "test-13b-a100-sxm-40gb-w16a16e16-tp2-pp1-dp1-sp1-bs1-in512-out32-fe0.7-hbme0.9"


def test_two_files_under_their_names(ask: Ask, tmp_path: Path) -> None:
    answer = ask(*BASE, *QUESTIONS["published"], "--output_dir", str(tmp_path))
    assert answer.status == 0
    assert sorted(os.listdir(tmp_path)) == [f"{NAME}-summary-readable.txt", f"{NAME}-summary.json"]
    assert json.loads((tmp_path / f"{NAME}-summary.json").read_text()) == answered(ask, *QUESTIONS["published"])
    assert (tmp_path / f"{NAME}-summary-readable.txt").read_text() == ask(
        *BASE, *QUESTIONS["published"], "--operators"
    ).out
    mode = (tmp_path / f"{NAME}-summary.json").stat().st_mode
    assert mode & 0o600 == 0o600


def test_all_layouts_stand_in_the_name(ask: Ask, tmp_path: Path) -> None:
    ask(*BASE, *QUESTIONS["replicas and stages"], "--dtype_name", "bf16", "--output_dir", str(tmp_path))
    (name,) = {path.name.split("-summary")[0] for path in tmp_path.iterdir()}
    assert name == "test-13b-a100-sxm-40gb-bf16-tp4-pp2-dp2-sp4-bs1-in512-out32-ideal"


def test_summaries_of_two_workloads_have_two_names(ask: Ask, tmp_path: Path) -> None:
    workloads = [["--seq_len", "100"], ["--seq_len", "200"], ["--batch_size_per_gpu", "2"], ["--osl", "5"]]
    workloads += [["--prefill_chunk_size", "64"], ["--num_samples", "2"], ["--use_kv_cache", "False"]]
    for workload in workloads:
        assert ask(*BASE, *workload, "--method", "ideal", "--output_dir", str(tmp_path)).status == 0
    assert len(os.listdir(tmp_path)) == 2 * len(workloads)


def test_a_prefix_and_a_suffix_keep_their_spelling(ask: Ask, tmp_path: Path) -> None:
    flags = ["--output_dir", str(tmp_path), "--output_file_prefix", "1e5", "--output_file_suffix", "_007"]
    assert ask(*BASE, *QUESTIONS["published"], *flags).status == 0
    assert sorted(os.listdir(tmp_path)) == [f"1e5{NAME}_007-summary-readable.txt", f"1e5{NAME}_007-summary.json"]


def test_a_second_run_replaces_the_first(ask: Ask, tmp_path: Path) -> None:
    for path in (f"{NAME}-summary.json", f"{NAME}-summary-readable.txt"):
        (tmp_path / path).write_text("old")
    ask(*BASE, *QUESTIONS["published"], "--output_dir", str(tmp_path))
    assert len(os.listdir(tmp_path)) == 2
    assert all(path.read_text() != "old" for path in tmp_path.iterdir())


def test_a_name_that_would_leave_the_folder_stays_in_it(ask: Ask, tmp_path: Path) -> None:
    raw = json.loads(ask("models", "--name", "test-13b").out) | {"name": "../a/b c"}
    del raw["num_params_total"]
    (tmp_path / "model.json").write_text(json.dumps(raw))
    question = [
        "infer",
        "--model_name",
        str(tmp_path / "model.json"),
        "--gpu_name",
        "t4",
        "--output_dir",
        str(tmp_path),
    ]
    assert ask(*question).status == 0
    written = sorted(path.name for path in tmp_path.iterdir() if path.name != "model.json")
    assert len(written) == 2
    assert all(name.isprintable() and name.startswith(".._a_b") for name in written)


class Full(Exception):
    """No OSError at all."""


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt(), Full()])
@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("step", ["open", "replace"])
def test_a_failure_halfway_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, failing: int, step: str
) -> None:
    """The second file fails to be written, or to be put in its place after the first one has been."""
    (tmp_path / "b").write_text("kept")
    calls = 0
    opened, replaced = Path.open, os.replace

    def count(name: str) -> None:
        nonlocal calls
        calls += name == step
        if name == step and calls == failing:
            raise failure

    def counting_open(path: Path, mode: str = "r", **more: Any) -> Any:
        if mode == "xb":
            count("open")
        return opened(path, mode, **more)

    def counting_replace(source: Path, target: Path) -> None:
        count("replace")
        replaced(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", counting_open)
        patch.setattr(os, "replace", counting_replace)
        with pytest.raises(BadValue if isinstance(failure, OSError) else type(failure)):
            write_together(tmp_path, {"a": "new", "b": "new"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"b": "kept"}
    write_together(tmp_path, {"a": "new", "b": "new"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new", "b": "new"}


def killed_at(step: int, folder: Path) -> None:
    """Write two files in a process that kills itself just before a call of `os.replace`."""
    script = f"""
import os, signal
from pathlib import Path
from llm_analysis.cli.writing import write_together
calls, replace = 0, os.replace
def replacing(source, target):
    global calls
    calls += 1
    if calls == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = replacing
write_together(Path({str(folder)!r}), {{"a": "killed", "b": "killed"}})
"""
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == -signal.SIGKILL


@pytest.mark.parametrize("step", [1, 2])
def test_the_next_process_finishes_the_files_of_a_killed_one(tmp_path: Path, step: int) -> None:
    killed_at(step, tmp_path)
    write_together(tmp_path, {"c": "next"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "killed", "b": "killed", "c": "next"}


def test_files_that_a_killed_process_had_not_completed_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".llm-analysis-0").mkdir()
    (tmp_path / ".llm-analysis-0" / "a").write_text("half")
    write_together(tmp_path, {"b": "next"})
    assert os.listdir(tmp_path) == ["b"]


def test_two_processes_do_not_mix_their_files(tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from llm_analysis.cli.writing import write_together
for i in range(50):
    text = sys.argv[1] + str(i)
    write_together(Path({str(tmp_path)!r}), {{"a": text, "b": text}})
"""
    running = [subprocess.Popen([sys.executable, "-c", script, name]) for name in "xy"]
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


def test_a_new_folder_is_created_with_its_parents(ask: Ask, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert ask(*BASE, "--method", "ideal", "--output_dir", str(folder)).status == 0
    assert len(os.listdir(folder)) == 2


def test_a_folder_whose_file_cannot_be_written_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="nothing written"):
        write_together(tmp_path / "a" / "b", {"x" * 300: "name too long"})
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_of_the_second_file(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}-summary-readable.txt").mkdir()
    answer = ask(*BASE, *QUESTIONS["published"], "--output_dir", str(tmp_path))
    assert (answer.status, answer.out) == (1, "")
    assert "nothing written" in answer.err
    assert os.listdir(tmp_path) == [f"{NAME}-summary-readable.txt"]


def test_text_that_is_no_unicode_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="nothing written"):
        write_together(tmp_path, {"a": "fine", "b": "\ud800"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1+1", "-x", "@SUM(A1)", "\t=1"])
def test_a_csv_cell_that_starts_a_formula_is_quoted(text: str) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_of([{"name": text, "value": -1.5, "text": "-1.5"}]))))
    assert rows == [{"name": "'" + text, "value": "-1.5", "text": "-1.5"}]
