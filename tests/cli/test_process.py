"""The process: exit status, streams, internal errors, the log."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Ask
from shared import INFER, model_file

from llm_analysis.inference import question as asking

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_an_internal_division_by_zero_is_reported_as_an_internal_error(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_exit_status_and_streams_of_the_process(arguments: list[str], status: int) -> None:
    done = process(*arguments)
    assert done.returncode == status
    assert len(done.stderr.splitlines()) == (1 if status else 0)
    assert bool(done.stdout) is not bool(status)


def test_a_closed_pipe_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "llm_analysis", *INFER], stdout=nobody, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_under_stdout_is_reported() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "llm_analysis", *INFER], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"llm-analysis: cannot print the answer: No space left on device\n"


def test_an_ascii_terminal_gets_escapes(elsewhere: Path) -> None:
    path = model_file(elsewhere, name="modèle")
    done = process("infer", "--model_name", path, "--gpu_name", "t4", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert r"mod\xe8le" in done.stdout
