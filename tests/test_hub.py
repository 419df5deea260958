"""org/name: the local Hugging Face cache, the catalogue's own, and the network only where it is allowed. Listings."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Ask

from llm_analysis import catalog
from llm_analysis.errors import BadConfig, UnknownName
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
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
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
def test_the_catalogue_knows_repositories(cache: Path, name: str) -> None:
    assert catalog.get_model(name).name == "llama-3.1-8b"


def test_a_folder_of_that_name_comes_first(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(cache, "acme/tiny", "abc")
    (tmp_path / "acme" / "tiny").mkdir(parents=True)
    (tmp_path / "acme" / "tiny" / "config.json").write_text(json.dumps(LLAMA | {"hidden_size": 256}))
    monkeypatch.chdir(tmp_path)
    assert catalog.get_model("acme/tiny").hidden_size == 256


def test_no_network_unless_allowed(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        (tmp_path / "config.json").write_text(json.dumps(LLAMA))
        return str(tmp_path / "config.json")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=download))
    with pytest.raises(UnknownName, match="--allow_download fetches its config"):
        catalog.get_model("acme/new")
    assert asked == []
    assert catalog.get_model("acme/new", allow_download=True).name == "new"
    assert asked == [("acme/new", "config.json")]


def test_a_failed_download_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repository: str, file: str) -> str:
        raise OSError("404\nlong story")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=download))
    with pytest.raises(BadConfig, match=r"'acme/new': config\.json cannot be fetched: 404$"):
        catalog.get_model("acme/new", allow_download=True)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BadConfig, match="allow_download needs huggingface_hub"):
        catalog.get_model("acme/new", allow_download=True)


@pytest.mark.parametrize("name", ["a/b/c", "../up", "a/..", "a/b.json", "/a/b", "~/b", "a/", "a b/c"])
def test_what_is_no_repository(name: str) -> None:
    assert not catalog.is_repository(name)


# Listings


def test_families_and_memory(ask: Ask) -> None:
    out = ask("models", "--family", "QWEN3").out
    assert "qwen3-8b" in out
    assert "llama" not in out
    assert "22.19 B" in out  # of qwen3-235b-a22b's 235 billion parameters a token goes through 22
    assert "131,072" in ask("models", "--family", "Llama-3").out  # bytes that a token of llama-3.1-8b adds
    out = ask("gpus", "--family", "hopper", "--min_memory_GB", "90").out
    assert "h200-sxm-141gb" in out
    assert "h100-sxm-80gb" not in out
    assert "b200" not in out


def test_a_family_that_is_not_known(ask: Ask) -> None:
    assert "unknown family 'hoper'; did you mean Hopper?" in ask("gpus", "--family", "hoper").err
    assert "no GPU that is known has 9,999 GB" in ask("gpus", "--min_memory_GB", "9999").err
    assert "min_memory_GB must be a number" in ask("gpus", "--min_memory_GB", "much").err


def test_one_model_says_what_a_token_goes_through(ask: Ask) -> None:
    entry = json.loads(ask("models", "--name", "qwen3-30b-a3b").out)
    assert entry["num_params_total"] == num_params(catalog.get_model("qwen3-30b-a3b"))
    assert 3.2e9 < entry["num_active_params_total"] < 3.4e9


def test_what_is_shown_of_a_model_can_be_read_back(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(ask("models", "--name", "gpt-oss-20b").out)
    assert catalog.get_model(str(tmp_path / "mine.json")) == catalog.get_model("gpt-oss-20b")
