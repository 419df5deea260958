"""Names as users, drivers and Hugging Face write them, and the entry of the catalogue that each means."""

import json
from pathlib import Path

import pytest
from conftest import Ask
from hypothesis import given
from hypothesis import strategies as st

from llm_analysis.catalog import get_gpu, get_model, names
from llm_analysis.errors import MAX_NAMES, UnknownName
from llm_analysis.inference.runtimes import get_runtime
from llm_analysis.names import folded, matching_gpus, matching_models, spread, weight_format
from llm_analysis.physics.dtypes import get_dtypes

GPUS, MODELS = names("gpu_configs"), names("model_configs")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("H100_SXM_80GB", "h100-sxm-80gb"),
        ("h100 sxm", "h100-sxm-80gb"),
        ("h100sxm", "h100-sxm-80gb"),
        ("nvidia-l4", "l4-24gb"),
        ("amd-mi300x", "mi300x-192gb"),
        ("gaudi-3", "gaudi3"),
        ("rtx4090", "rtx-4090"),
        ("4090", "rtx-4090"),
        # as nvidia-smi and rocm-smi print them
        ("NVIDIA A100-SXM4-40GB", "a100-sxm-40gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm-80gb"),
        ("NVIDIA H100 PCIe", "h100-pcie-80gb"),
        ("NVIDIA H200 NVL", "h200-nvl-141gb"),
        ("NVIDIA GeForce RTX 4090 D", "rtx-4090d"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000-blackwell"),
        ("Tesla V100-SXM2-16GB", "v100-sxm2-16gb"),
        ("AMD Instinct MI300X OAM", "mi300x-192gb"),
    ],
)
def test_a_gpu_is_found_however_its_name_is_written(written: str, meant: str) -> None:
    assert get_gpu(written).name == meant


@pytest.mark.parametrize(
    ("written", "meant", "other"),
    [("h100", "h100-sxm-80gb", "h100-nvl-94gb"), ("A100", "a100-sxm-80gb", "a100-pcie-40gb")],
)
def test_a_bare_chip_name_means_its_usual_form_with_a_note(ask: Ask, written: str, meant: str, other: str) -> None:
    gpu = get_gpu(written)
    assert gpu.name == meant
    assert any(f"{written!r}: taken as {meant}" in note and other in note for note in gpu.notes)
    answer = ask("infer", "--model_name", "test-13b", "--gpu_name", written, "--method", "ideal", "--format", "json")
    assert set(gpu.notes) <= set(json.loads(answer.out)["notes"])


@pytest.mark.parametrize("written", ["v100", "a100-40gb", "sxm 80gb", "rtx"])
def test_a_gpu_name_with_several_meanings_lists_them(written: str) -> None:
    with pytest.raises(UnknownName, match=r"is not unique: [\w-]+, [\w-]+"):
        get_gpu(written)


@pytest.mark.parametrize("written", ["h10", "b20", "x", "x" * 300, "nvidia", "\ud800"])
def test_a_gpu_name_without_a_meaning_is_unknown(written: str) -> None:
    with pytest.raises(UnknownName, match="unknown gpu"):
        get_gpu(written)


@pytest.mark.parametrize(
    ("written", "meant", "format"),
    [
        ("Llama_3.1 8B", "llama-3.1-8b", ""),
        ("Llama-3.1-8B-Instruct", "llama-3.1-8b", ""),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b", ""),
        ("unsloth/Meta-Llama-3.1-8B", "llama-3.1-8b", ""),
        ("Meta-Llama-3.1-70B-Instruct-FP8", "llama-3.1-70b", "fp8"),
        ("acme/Llama-3.3-70B-Instruct-AWQ", "llama-3.3-70b", "int4"),
        ("google/gemma-2-9b-it", "gemma-2-9b", ""),
        ("Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b", ""),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b-v0.3", ""),
        ("Llama-2-7b-chat-hf", "llama-2-7b", ""),
        ("Qwen3-8B-Base", "qwen3-8b", ""),
    ],
)
def test_a_model_is_found_by_its_hugging_face_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, meant: str, format: str
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    model = get_model(written)
    assert (model.name, model.weight_format) == (meant, format)
    if folded(written) != folded(meant):
        assert any("taken as" in note for note in model.notes) or "/" in written


def test_a_model_name_with_several_meanings_lists_them() -> None:
    with pytest.raises(UnknownName, match=r"model 'llama-3\.1' is not unique: .*llama-3\.1-70b"):
        get_model("llama-3.1")


@pytest.mark.parametrize("kind", ["model_configs", "gpu_configs"])
def test_no_two_entries_differ_only_in_spelling(kind: str) -> None:
    assert len({folded(name) for name in names(kind)}) == len(names(kind))


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_name_means_itself(name: str) -> None:
    assert matching_gpus(name, GPUS)[0] == name
    assert matching_gpus(f"NVIDIA {name.upper()}", GPUS)[0] == name


def test_every_model_name_means_itself() -> None:
    known: dict[str, list[str]] = {name: [] for name in MODELS}
    for name in MODELS:
        assert matching_models(name, known) == [name]
        assert matching_models(f"org/{name.upper()}-Instruct", known) == [name]


def test_the_weight_format_is_a_word_of_the_name() -> None:
    assert weight_format("Qwen3-8B-FP8") == "fp8"
    assert weight_format("Qwen3-8B") == weight_format("offp8") == ""


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("bfloat16", "bf16"),
        ("torch.bfloat16", "bf16"),
        ("half", "fp16"),
        ("FLOAT16", "fp16"),
        ("float32", "fp32"),
        ("fp8_e4m3", "fp8"),
        ("FP8", "fp8"),
        ("fp8-block", "fp8_block"),
        ("W4A16", "w4a16"),
        ("bfloat16+MXFP4", "bf16+mxfp4"),
    ],
)
def test_a_number_format_is_found_however_its_name_is_written(written: str, meant: str) -> None:
    assert get_dtypes(written)._replace(name="") == get_dtypes(meant)._replace(name="")


@pytest.mark.parametrize("written", ["vLLM-v1", "VLLM_V1", "vllm v1"])
def test_a_runtime_is_found_however_its_name_is_written(written: str) -> None:
    assert get_runtime(written) == get_runtime("vllm-v1")


@pytest.mark.parametrize(("written", "suggested"), [("H1000", "h100-nvl-94gb, h100-pcie-80gb, h100-sxm-80gb")])
def test_a_misspelled_gpu_gets_the_names_with_a_similar_start(written: str, suggested: str) -> None:
    with pytest.raises(UnknownName, match=f"did you mean {suggested}"):
        get_gpu(written)


@pytest.mark.parametrize(
    ("written", "members"),
    [
        ("gemma2", ["gemma-2-27b", "gemma-2-2b", "gemma-2-9b"]),
        ("gemma3", ["gemma-3-12b", "gemma-3-1b", "gemma-3-270m", "gemma-3-27b", "gemma-3-4b"]),
        ("llama3", ["llama-3-70b", "llama-3-8b", "llama-3.1-8b", "llama-3.3-70b"]),
        ("llama-3", ["llama-3-70b", "llama-3-8b", "llama-3.1-8b", "llama-3.3-70b"]),
        ("llama3.1", ["llama-3.1-405b", "llama-3.1-70b", "llama-3.1-8b"]),
        ("llama8b", ["llama-3-8b", "llama-3.1-8b"]),
        ("glm4", ["glm-4-32b", "glm-4-9b", "glm-4.5", "glm-4.5v", "glm-4.7"]),
        ("granite4", ["granite-4.0-h-micro", "granite-4.0-micro"]),
        ("qwen-2", ["qwen2-0.5b", "qwen2-7b", "qwen2-72b"]),
        ("qwen", ["qwen-7b", "qwen1.5-0.5b", "qwen2-0.5b", "qwen2.5-0.5b", "qwen3-0.6b", "qwen3.5-122b-a10b"]),
    ],
)
def test_a_family_with_its_generation_lists_the_members_with_or_without_a_separator(
    written: str, members: list[str]
) -> None:
    with pytest.raises(UnknownName, match=f"model '{written}' is not unique: ") as refusal:
        get_model(written)
    listed = str(refusal.value).partition("unique: ")[2].split(", ")
    assert set(members) <= set(listed)
    assert len(listed) <= MAX_NAMES + 1


@pytest.mark.parametrize(
    ("written", "near"), [("mamba2", "mamba-2.8b"), ("mamba-2", "mamba-2.8b"), ("opt1", "opt-1.3b")]
)
def test_the_digit_of_a_size_is_no_generation(written: str, near: str) -> None:
    with pytest.raises(UnknownName, match=f"unknown model '{written}'; did you mean .*{near}"):
        get_model(written)


def test_one_model_of_another_generation_is_no_answer() -> None:
    with pytest.raises(UnknownName, match=r"unknown model 'step3'; did you mean step-3\.7-flash\?"):
        get_model("step3")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("gpt2", "gpt2"),
        ("phi4", "phi-4"),
        ("zamba-2", "zamba2-7b"),
        ("bloom7b", "bloom-7b1"),
        ("test13", "test-13b"),
        ("falcon-40", "falcon-40b"),
        ("qwen-3-coder", "qwen3-coder-480b-a35b"),
        ("Llama3.3 Nemotron", "llama-3.3-nemotron-super-49b"),
    ],
)
def test_a_name_with_one_meaning_is_found_with_or_without_separators(written: str, meant: str) -> None:
    assert get_model(written).name == meant


def test_a_shortened_list_of_models_has_all_generations() -> None:
    some = ["qwen-7b", "qwen1.5-1b", "qwen1.5-2b", "qwen2-1b", "qwen2-2b", "qwen3-1b"]
    assert spread(some, 4) == ["qwen-7b", "qwen1.5-1b", "qwen2-1b", "qwen3-1b"]
    assert spread(some, 9) == some


@given(st.text(max_size=12))
def test_any_text_has_matches_among_the_known_names_only(text: str) -> None:
    assert set(matching_gpus(text, GPUS)) <= set(GPUS)
    assert set(matching_models(text, {name: [] for name in MODELS})) <= set(MODELS)


def test_a_gpu_with_one_meaning_has_no_note() -> None:
    """The answer names the GPU; only a choice among several is worth a line."""
    assert not any("taken as" in note for note in get_gpu("l4").notes)
