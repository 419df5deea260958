"""Hugging Face ids: the local cache, the catalogue, the network. The user's folder. Listings."""

import json
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Ask

from llm_analysis import catalog
from llm_analysis.errors import BadConfig, UnknownName
from llm_analysis.hub import is_repository
from llm_analysis.models.forward import num_params

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("llm_analysis.hub._check_network", lambda: None)
    return tmp_path / "hub"


def put(cache: Path, repository: str, revision: str, main: bool = False, **changed: int) -> Path:
    folder = cache / f"models--{repository.replace('/', '--')}"
    path = folder / "snapshots" / revision / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(LLAMA | changed))
    if main:
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(revision)
    return path


def test_the_local_cache_is_found(cache: Path, ask: Ask) -> None:
    put(cache, "acme/tiny-2.5", "abc")
    model = catalog.get_model("acme/tiny-2.5")
    assert (model.name, model.hidden_size) == ("tiny-2.5", 64)
    out = ask("infer", "--model_name", "acme/tiny-2.5", "--gpu_name", "t4", "--method", "ideal").out
    assert out.startswith("tiny-2.5 ")


def test_the_main_branch_comes_first(cache: Path) -> None:
    put(cache, "acme/tiny", "aaa", main=True, hidden_size=32)
    put(cache, "acme/tiny", "zzz", hidden_size=128)
    assert catalog.get_model("acme/tiny").hidden_size == 32
    (cache / "models--acme--tiny" / "refs" / "main").write_text("gone")
    assert catalog.get_model("acme/tiny").hidden_size in (32, 128)


def test_another_folder_for_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    put(tmp_path / "elsewhere", "acme/tiny", "abc")
    assert catalog.get_model("acme/tiny").num_hidden_layers == 2


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B", "META-LLAMA/llama-3.1-8b"])
def test_the_catalogue_has_hugging_face_ids(cache: Path, name: str) -> None:
    assert catalog.get_model(name).name == "llama-3.1-8b"


def test_a_folder_of_that_name_comes_first(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(cache, "acme/tiny", "abc")
    (tmp_path / "acme" / "tiny").mkdir(parents=True)
    (tmp_path / "acme" / "tiny" / "config.json").write_text(json.dumps(LLAMA | {"hidden_size": 256}))
    monkeypatch.chdir(tmp_path)
    assert catalog.get_model("acme/tiny").hidden_size == 256


def test_no_network_unless_allowed(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def download(repository: str, file: str, etag_timeout: float) -> str:
        asked.append((repository, file))
        (tmp_path / "config.json").write_text(json.dumps(LLAMA))
        return str(tmp_path / "config.json")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=download))
    with pytest.raises(UnknownName, match="--allow_download downloads its config"):
        catalog.get_model("acme/new")
    assert asked == []
    assert catalog.get_model("acme/new", allow_download=True).name == "new"
    assert asked == [("acme/new", "config.json"), ("acme/new", "hf_quant_config.json")]


def test_the_formats_of_a_checkpoint_may_stand_beside_its_config(cache: Path) -> None:
    """NVIDIA's checkpoints of DeepSeek-R1: config.json is that of the 16-bit model."""
    put(cache, "acme/tiny", "abc")
    assert catalog.get_model("acme/tiny").weight_format == ""
    beside = next(cache.glob("models--acme--tiny/snapshots/abc")) / "hf_quant_config.json"
    beside.write_text(json.dumps({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}))
    assert catalog.get_model("acme/tiny").weight_format == "nvfp4"
    assert catalog.get_model(str(beside.parent)).weight_format == "nvfp4"
    beside.write_text("{")
    with pytest.raises(BadConfig, match=r"hf_quant_config\.json"):
        catalog.get_model("acme/tiny")


def test_a_failed_download_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repository: str, file: str, etag_timeout: float) -> str:
        raise OSError("404\nlong story")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=download))
    with pytest.raises(BadConfig, match=r"'acme/new': config\.json cannot be fetched: 404$"):
        catalog.get_model("acme/new", allow_download=True)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BadConfig, match="allow_download needs huggingface_hub"):
        catalog.get_model("acme/new", allow_download=True)


def test_an_unreachable_server_is_reported_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=None))
    with pytest.raises(BadConfig, match=r"cannot be fetched: 127\.0\.0\.1 cannot be reached: Connection refused"):
        catalog.get_model("acme/new", allow_download=True)


def never(*_: object, **__: object) -> None:
    threading.Event().wait(0.5)
    raise OSError("no answer")


def test_a_server_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("llm_analysis.hub._CONNECT_SECONDS", 0.05)
    monkeypatch.setattr("socket.create_connection", never)
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=None))
    with pytest.raises(BadConfig, match=r"no answer from .* within 0\.05 s"):
        catalog.get_model("acme/new", allow_download=True)


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"HF_HUB_CACHE": "a", "HUGGINGFACE_HUB_CACHE": "b", "HF_HOME": "c", "XDG_CACHE_HOME": "d"}, "a"),
        ({"HUGGINGFACE_HUB_CACHE": "b", "HF_HOME": "c", "XDG_CACHE_HOME": "d"}, "b"),
        ({"HF_HOME": "c", "XDG_CACHE_HOME": "d"}, "c/hub"),
        ({"XDG_CACHE_HOME": "d"}, "d/huggingface/hub"),
        ({"HOME": "e"}, "e/.cache/huggingface/hub"),
        ({"HF_HOME": "c", "TRANSFORMERS_CACHE": "t"}, "t"),
    ],
)
def test_the_cache_is_where_its_libraries_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str
) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "TRANSFORMERS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    put(tmp_path / folder, "acme/tiny", "abc", hidden_size=96)
    assert catalog.get_model("acme/tiny").hidden_size == 96


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"/etc", "is not the name of a revision"),
        (b"../../elsewhere", "is not the name of a revision"),
        (b"..", "is not the name of a revision"),
        (b"a\nb", "is not the name of a revision"),
        (b"", "is not the name of a revision"),
        (b"\xff\xfe", "not text in UTF-8"),
    ],
)
def test_a_damaged_main_branch_is_an_error(cache: Path, content: bytes, problem: str) -> None:
    put(cache, "acme/tiny", "abc", main=True)
    (cache / "models--acme--tiny" / "refs" / "main").write_bytes(content)
    with pytest.raises(BadConfig, match=f"refs/main: .*{problem}"):
        catalog.get_model("acme/tiny")


def test_a_pipe_in_the_cache_is_skipped(cache: Path) -> None:
    path = put(cache, "acme/tiny", "abc", main=True)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UnknownName):
        catalog.get_model("acme/tiny")


def test_hugging_face_ids_are_read_from_minified_files(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "own" / "model_configs"
    folder.mkdir(parents=True)
    ours = LLAMA | {"name": "mine", "source": "test", "head_dim": 16}
    (folder / "mine.json").write_text(json.dumps(ours | {"hf_ids": ["acme/One"]}, separators=(",", ":")))
    monkeypatch.setenv("LLM_ANALYSIS_CONFIG_PATH", str(folder.parent))
    assert catalog.get_model("ACME/one").name == "mine"
    assert catalog.get_model("other/one-instruct").name == "mine"


# The user's folder


def test_the_users_folder_may_hold_folders_of_hugging_face(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model_configs" / "my-model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA))
    monkeypatch.setenv("LLM_ANALYSIS_CONFIG_PATH", str(tmp_path))
    assert catalog.get_model("my-model").hidden_size == 64
    assert catalog.get_model("My_Model").name == "my-model"
    assert "my-model" in catalog.names("model_configs")
    assert "my-model" in ask("models", "--family", "llama").out


def test_an_entry_of_the_users_folder_that_is_no_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model_configs"
    (folder / "a-folder.json").mkdir(parents=True)
    (folder / "a-link.json").symlink_to(tmp_path / "gone.json")
    os.mkfifo(folder / "a-pipe.json")
    monkeypatch.setenv("LLM_ANALYSIS_CONFIG_PATH", str(tmp_path))
    assert not {"a-folder", "a-link", "a-pipe"} & set(catalog.names("model_configs"))
    for name, problem in (("a-folder", "a folder"), ("a-link", "a broken link"), ("a-pipe", "a pipe or a device")):
        with pytest.raises(BadConfig, match=f"{name}.json: {problem}"):
            catalog.get_model(name)


@pytest.mark.parametrize("name", ["a/b/c", "../up", "a/..", "a/b.json", "/a/b", "~/b", "a/", "a b/c"])
def test_names_that_are_no_repository(name: str) -> None:
    assert not is_repository(name)


# Listings


def test_families_and_memory(ask: Ask) -> None:
    out = ask("models", "--family", "QWEN3").out
    assert "qwen3-8b" in out
    assert "llama" not in out
    assert " 21.57 " in out  # of qwen3-235b-a22b's 235 billion parameters a token is multiplied with 22
    assert "131,072" in ask("models", "--family", "Llama-3").out  # bytes that a token of llama-3.1-8b adds
    out = ask("gpus", "--family", "hopper", "--min_memory_GB", "90").out
    assert "h200-sxm-141gb" in out
    assert "h100-sxm-80gb" not in out
    assert "b200" not in out


def test_an_unknown_family_gets_the_known_ones(ask: Ask) -> None:
    assert "unknown family 'hoper'; did you mean Hopper?" in ask("gpus", "--family", "hoper").err
    assert "no GPU of the catalogue has 9,999 GB" in ask("gpus", "--min_memory_GB", "9999").err
    assert "min_memory_GB must be a number" in ask("gpus", "--min_memory_GB", "much").err


def test_one_model_shows_its_active_parameters(ask: Ask) -> None:
    entry = json.loads(ask("models", "--name", "qwen3-30b-a3b").out)
    assert entry["num_params_total"] == num_params(catalog.get_model("qwen3-30b-a3b"))
    assert 3.0e9 < entry["num_active_params_total"] < 3.1e9  # 3.3 billion with the embedding table


def test_the_json_of_a_model_can_be_read_back(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(ask("models", "--name", "gpt-oss-20b").out)
    assert catalog.get_model(str(tmp_path / "mine.json")) == catalog.get_model("gpt-oss-20b")
