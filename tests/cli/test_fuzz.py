"""Random input: the program answers, or reports the mistake in one line."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Ask
from fuzz import command_lines, violation
from hypothesis import example, given
from hypothesis import strategies as st
from mutations import FILES as INPUTS
from mutations import ODD, mutated_files, with_file, write_files
from shared import ACHIEVED, FRACTIONS, INFER, INTEGERS, gpu_file, refused

from llm_analysis.cli import main
from llm_analysis.cli.commands import infer
from llm_analysis.report import tables

LINES, FILES = 160, 160  # in each of the parts, which pytest-xdist spreads over processes


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, so that the test sees all files written."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("seed", range(2))
def test_random_command_lines(ask: Ask, elsewhere: Path, seed: int) -> None:
    write_files(elsewhere)
    for arguments in command_lines(seed, LINES):
        assert violation(arguments, ask(*arguments)) == "", arguments
    written = {path.suffix for path in elsewhere.iterdir() if path.name not in INPUTS}
    assert written <= {".png", ".json"}  # the default names of plot and calibrate


@pytest.mark.parametrize("seed", range(2))
def test_mutated_files(ask: Ask, elsewhere: Path, seed: int) -> None:
    write_files(elsewhere)
    for arguments, content in mutated_files(seed, FILES):
        Path(ODD).write_bytes(content)
        assert violation(arguments, ask(*arguments)) == "", (arguments, content)


@pytest.mark.parametrize("status", [0, 1, 2])
def test_the_random_command_lines_have_every_outcome(ask: Ask, elsewhere: Path, status: int) -> None:
    write_files(elsewhere)
    assert any(ask(*arguments).status == status for arguments in command_lines(0, LINES))


# Any value, shrunk by hypothesis if it fails

ANYTHING = st.one_of(
    st.text(max_size=60),
    st.text(st.sampled_from("[](){}'\"\\,.:+-~*/=0123456789eEjinfaTrueNone# \n\t"), max_size=40),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["True", "False", "None", "nan", "-inf", "1e400", "-0", "0x10", "1_000", "()", "[]", "{}", "-", "--"]
    ),
    st.text(max_size=8).map(lambda text: text * 700),
    st.lists(st.integers(), max_size=4).map(str),
    st.sampled_from([*tables.FORMATS, "bf16", "published", "t4", "test-13b", ".", "/", "..", "/dev/null", "~"]),
)
FLAGS = st.sampled_from([flag for flag in inspect.signature(infer.infer).parameters if flag != "output_dir"])


def sound(answer: Any) -> None:
    assert answer.status in (0, 1, 2)
    assert "Traceback" not in answer.err
    assert "internal error" not in answer.err, answer.err
    if answer.status:
        refused(answer, answer.status)
    else:
        assert answer.out
        assert "inf " not in answer.out
        assert "nan" not in answer.out.replace("--", "").lower().split()


@given(flag=FLAGS, value=ANYTHING, glued=st.booleans())
@example(flag="tp_size", value="{[]: 1}", glued=True)
@example(flag="cost_per_gpu_hour", value="1" + "0" * 400, glued=True)
@example(flag="model_name", value="a" * 5000, glued=True)
def test_anything_at_any_flag(ask: Ask, flag: str, value: str, glued: bool) -> None:
    names = {"model_name": "test-13b", "gpu_name": "a100-sxm-40gb"}
    question = ["infer", *(f"--{name}={known}" for name, known in names.items() if name != flag)]
    answer = ask(*question, *([f"--{flag}={value}"] if glued else [f"--{flag}", value]))
    if flag != "log_level":
        sound(answer)


@given(flags=st.dictionaries(FLAGS.filter(lambda flag: flag != "log_level"), ANYTHING, max_size=6))
def test_anything_at_several_flags(ask: Ask, flags: dict[str, str]) -> None:
    names = {"model_name": "llama-3.1-8b", "gpu_name": "h100-sxm-80gb"} | flags
    sound(ask("infer", *(f"--{flag}={value}" for flag, value in names.items())))


@given(words=st.lists(st.one_of(ANYTHING, FLAGS.map(lambda flag: f"--{flag}")), max_size=5))
def test_anything_in_place_of_flags(ask: Ask, words: list[str]) -> None:
    sound(ask("infer", *words))
    sound(ask(*[word for word in words if word not in main.COMMANDS]))


@given(value=ANYTHING)
def test_any_folder(ask: Ask, value: str) -> None:
    Path("none").write_text("a file, below which there is no folder")
    answer = ask(*INFER, "--output_dir", f"./none/{value}")
    sound(answer)
    assert answer.status in (1, 2)
    assert [path.name for path in Path().iterdir()] == ["none"]


NUMBERS = st.one_of(st.integers(-(10**12), 10**12), st.floats())


@given(flags=st.dictionaries(st.sampled_from([*INTEGERS, *FRACTIONS, *ACHIEVED, "cost_per_gpu_hour"]), NUMBERS))
def test_any_numbers(ask: Ask, flags: dict[str, float]) -> None:
    sound(ask(*INFER, *(f"--{flag}={value}" for flag, value in flags.items())))


@given(raw=st.dictionaries(st.text(max_size=10), st.recursive(st.none() | NUMBERS | st.text(), st.lists), max_size=5))
@example(raw={"dtype": None})  # a key of published files, without any size
def test_any_json(ask: Ask, raw: dict[str, object]) -> None:
    path = Path("any.json")
    path.write_text(json.dumps(raw))
    for flag in ("model_name", "gpu_name"):
        refused(ask(*with_file(flag, path)))


@given(changes=st.dictionaries(st.sampled_from(["memory_bytes", "memory_bandwidth", "link_bandwidth"]), NUMBERS))
def test_any_number_in_a_gpu_file(ask: Ask, changes: dict[str, float]) -> None:
    sound(ask("infer", "--model_name", "test-13b", "--gpu_name", gpu_file(Path(), **changes)))
