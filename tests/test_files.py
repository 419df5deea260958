"""Files of users: only regular files of limited size are read, and each problem is one line."""

import csv
import json
import os
from pathlib import Path

import pytest
from conftest import Ask

from llm_analysis import files
from llm_analysis.errors import BadConfig
from llm_analysis.files import problem_of, read_json, read_table, read_text, user_path

INFER = ("infer", "--model_name", "test-13b", "--gpu_name", "t4", "--method", "calibrated")


def test_a_text_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("é" * 10)
    assert read_text(path, max_bytes=20) == "é" * 10
    with pytest.raises(BadConfig, match="larger than 0 MB, the limit for such a file"):
        read_text(path, max_bytes=19)


def test_cells_that_a_short_row_lacks_are_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b,c\n1\n2,3,4\n")
    assert read_table(path, ("a",)) == [{"a": "1", "b": "", "c": ""}, {"a": "2", "b": "3", "c": "4"}]


def test_the_limit_of_a_json_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(files.MAX_JSON_BYTES + 1)
    with pytest.raises(BadConfig, match="larger than 20 MB"):
        read_json(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file is empty"),
        ("{", "not JSON: Expecting"),
        ("[1]", "holds a list, not an object"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON: Exceeds the limit"),
    ],
    ids=["empty", "broken", "list", "objects", "lists", "digits"],
)
def test_a_file_that_is_not_a_json_object(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(BadConfig, match=problem):
        read_json(path)


def test_anything_but_a_regular_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "file").write_text("")
    problems = {
        tmp_path / "pipe": "a pipe or a device, not a regular file",
        Path("/dev/zero"): "a pipe or a device, not a regular file",
        tmp_path / "link": "a broken link",
        tmp_path / "gone": "no such file",
        tmp_path / "file" / "inner": "no such file",
        tmp_path: "a folder, not a file",
        tmp_path / ("x" * 300): "File name too long",
        Path("a\0b"): "no such file",
        tmp_path / "file": "",
    }
    assert {path: problem_of(path) for path in problems} == problems


@pytest.mark.parametrize("text", ["", " ", "a\0b", "~no-user-of-this-name/x"])
def test_text_that_is_no_path(text: str) -> None:
    with pytest.raises(BadConfig):
        user_path(text)


@pytest.mark.parametrize("path", ["pipe", "/dev/zero", ".", "~no-user-of-this-name/x", "x" * 300, "gone", "link"])
def test_no_command_hangs_or_fails_inside_on_a_path(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pipe", "pipe.json"):
        os.mkfifo(name)
    for name in ("link", "link.json"):
        Path(name).symlink_to("gone")
    for arguments in (
        (*INFER, "--runtime", f"{path}.json"),
        (*INFER, "--runtime", path),
        (*INFER[:2], path, *INFER[3:]),
        (*INFER[:4], path),
        (*INFER[:2], f"./{path}", *INFER[3:]),
        ("validate", "--measurements", path),
        ("calibrate", "--measurements", path),
    ):
        answer = ask(*arguments)
        assert answer.status != 0
        assert answer.out == ""
        assert answer.err.startswith("llm-analysis: ")
        assert "internal error" not in answer.err
        assert "cannot print" not in answer.err
        assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize("folder", ["~no-user-of-this-name", "x" * 300, "gone"])
def test_an_impossible_user_folder_is_refused(ask: Ask, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setenv("LLM_ANALYSIS_CONFIG_PATH", folder)
    answer = ask(*INFER)
    assert answer.status == 1
    assert "not a folder" in answer.err or "no user with this home folder" in answer.err


@pytest.mark.parametrize("field", ["name", "note"])
def test_a_runtime_with_control_characters_is_rejected(ask: Ask, tmp_path: Path, field: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"name": "mine"} | {field: "a\x1b[31m\r"}))
    answer = ask(*INFER, "--runtime", str(path))
    assert (answer.status, answer.out) == (1, "")
    assert "has a character that cannot be printed" in answer.err


@pytest.mark.parametrize("column", ["id", "source", "model_name"])
def test_measurements_with_control_characters_are_skipped_with_a_reason(ask: Ask, tmp_path: Path, column: str) -> None:
    path = tmp_path / "mine.csv"
    row = {"id": "one", "source": "mine", "runtime": "none", "model_name": "test-13b"}
    row |= {
        "gpu_name": "a100-sxm-80gb",
        "dtype_name": "fp16",
        "batch_size": "1",
        "seq_len": "512",
        "num_tokens_to_generate": "10",
    }
    row |= {"metric": "ttft", "measured_s": "0.1"}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerows([row, row | {column: "a\x1b[31m"}])
    answer = ask("validate", "--measurements", str(path))
    assert answer.status == 0
    assert "\x1b" not in answer.out + answer.err
    assert "cannot be printed" in " ".join((answer.out + answer.err).split())
