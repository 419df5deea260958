"""Files and folders: a mistake in a file is named; output folders; the user's own catalogue."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Ask
from shared import INFER, gpu_file, model_file, refused, with_file

from llm_analysis import catalog
from llm_analysis.errors import BadConfig

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_the_unchanged_files_get_an_answer(ask: Ask, elsewhere: Path) -> None:
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
        ({"memory_bandwidth": 2039}, r"memory_bandwidth is in bytes/s \(1 GB/s is 1e9\).*, not 2039"),
        ({"memory_bandwidth": 2.039}, r"memory_bandwidth is in bytes/s.*, not 2.039"),
        (
            {"memory_bandwidth": 2039e12},
            r"memory_bandwidth is in .* and must be from 1e\+10 to 1e\+15, not 2.039e\+15",
        ),
        ({"memory_bytes": 80}, r"memory_bytes is in bytes \(1 GB is 1e9\).*, not 80"),
        ({"memory_bytes": 81920}, r"memory_bytes is in .*, not 81920"),
        ({"memory_bytes": 80e15}, r"memory_bytes is in .*, not 8e\+16"),
        (
            {"peak_flops": {"fp32": 2e13, "fp16": 312}},
            r"peak_flops.fp16 is in FLOP/s \(1 TFLOP/s is 1e12\).*, not 312",
        ),
        ({"peak_flops": {"fp16": 3e20}}, r"peak_flops.fp16 is in .*, not 3e\+20"),
        ({"link_bandwidth": 300}, r"link_bandwidth is in bytes/s.*, not 300"),
        ({"inter_node_bandwidth": 50}, r"inter_node_bandwidth is in bytes/s.*, not 50"),
        ({"pcie_bandwidth": 32}, r"pcie_bandwidth is in bytes/s.*, not 32"),
        ({"peer_bandwidth": 32}, r"peer_bandwidth is in bytes/s.*, not 32"),
        ({"l2_bytes": 50}, r"l2_bytes is in bytes \(1 MB is 1e6\).*, not 50"),
        ({"boost_clock_hz": 1410}, r"boost_clock_hz is in Hz.*, not 1410"),
        ({"link_domain_size": 0}, r"link_domain_size must be greater than 0"),
        ({"link_domain_size": 8.5}, r"link_domain_size must be a whole number"),
        ({"self": 1}, r"unknown key 'self'"),
        ({"x" * 5000: 1}, r"unknown key"),
    ],
)
def test_a_mistake_in_a_gpu_file_is_named(ask: Ask, elsewhere: Path, changes: dict[str, object], pattern: str) -> None:
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
def test_a_mistake_in_a_model_file_is_named(
    ask: Ask, elsewhere: Path, changes: dict[str, object], pattern: str
) -> None:
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
def test_a_file_without_json_is_named(ask: Ask, elsewhere: Path, flag: str, content: bytes, pattern: str) -> None:
    path = elsewhere / "mine.json"
    path.write_bytes(content)
    answer = ask("infer", *with_file(flag, str(path)))
    refused(answer)
    assert "mine.json" in answer.err
    assert re.search(pattern, answer.err), answer.err


@pytest.mark.parametrize("flag", ["model_name", "gpu_name"])
def test_a_path_without_a_regular_file_is_refused(ask: Ask, elsewhere: Path, flag: str) -> None:
    (elsewhere / "folder.json").mkdir()
    os.mkfifo(elsewhere / "pipe.json")
    paths = ["none.json", "./none", "/nowhere/none.json", "folder.json", ".", "~nobody-of-that-name/none.json"]
    paths += ["pipe.json", "/dev/null", "x" * 5000, "é" * 300, "x" * 5000 + ".json", "\ud800", "a\0b", " ", ""]
    for path in paths:
        answer = ask("infer", *with_file(flag, path))
        refused(answer)
    assert "no such file" in ask("infer", *with_file(flag, "none.json")).err
    assert "folder" in ask("infer", *with_file(flag, "folder.json")).err


def test_a_known_name_is_preferred_to_a_folder(ask: Ask, elsewhere: Path) -> None:
    (elsewhere / "test-13b").mkdir()
    assert ask(*INFER).status == 0


def test_a_missing_user_folder_is_named(ask: Ask, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize("folder", ["a-file", "a-file/below", "", " ", "a\0b", "x" * 5000, "\ud800"])
def test_a_bad_output_folder_is_refused(ask: Ask, elsewhere: Path, folder: str) -> None:
    (elsewhere / "a-file").write_text("kept")
    answer = ask(*INFER, f"--output_dir={folder}")
    refused(answer)
    assert "output_dir" in answer.err
    assert [path.name for path in elsewhere.iterdir()] == ["a-file"]
    assert (elsewhere / "a-file").read_text() == "kept"


def test_a_read_only_folder_is_refused(ask: Ask, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    answer = ask(*INFER, "--output_dir", ".")
    refused(answer)
    assert "not writable" in answer.err


def test_a_write_error_is_reported(ask: Ask, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors that `os.access` does not report in advance: read-only mounts, full disks, quotas."""

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
def test_a_folder_in_proc_is_refused(ask: Ask) -> None:
    refused(ask(*INFER, "--output_dir", "/proc/self"))


@pytest.mark.parametrize("affix", ["a/b", "../x", "a\\b", "x" * 101, "a\0b", "a\nb", "\x1b[31m"])
@pytest.mark.parametrize("flag", ["output_file_prefix", "output_file_suffix"])
def test_a_bad_prefix_or_suffix_of_a_file_name_is_refused(ask: Ask, elsewhere: Path, flag: str, affix: str) -> None:
    answer = ask(*INFER, "--output_dir", ".", f"--{flag}={affix}")
    refused(answer)
    assert flag in answer.err
    assert not list(elsewhere.iterdir())


def test_a_user_folder_without_configs_is_named(ask: Ask, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize(
    "arguments",
    [
        ("load", "--trace"),
        ("plan", "--seq_len", "100", "--num_tokens_to_generate", "10", "--request_rate", "1", "--prices"),
        ("validate", "--load", "--measurements"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_pipe_given_as_a_table_is_refused_and_not_waited_for(
    ask: Ask, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    command, *flags = arguments
    scenario = ("--model_name", "llama-3.1-8b", "--gpu_name", "h100-sxm-80gb") if command != "validate" else ()
    answer = ask(command, *scenario, *flags, str(pipe))
    assert (answer.status, answer.out) == (1, "")
    assert "not a regular file" in answer.err
