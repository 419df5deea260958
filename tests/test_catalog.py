"""The catalogue: every file is valid, and agrees with the fact tables if they are present."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from llm_analysis.models.reading.reader import read_model

ROOT = Path(__file__).resolve().parent.parent
FACTS = ROOT.parent / "shared" / "facts"
GPU_FILES = sorted((ROOT / "gpu_configs").glob("*.json"))
MODEL_FILES = sorted((ROOT / "model_configs").glob("*.json"))
FUDGE = re.compile(r"efficien|utili[sz]ation|fudge|derat|\bmfu\b|achieved|launch|latency", re.IGNORECASE)

# The GPU table's columns, with the factor from the table's unit to SI.
GPU_COLUMNS = {
    "memory_bytes": ("mem_GB", 1e9),
    "memory_bandwidth": ("mem_bandwidth_GBps", 1e9),
    "l2_bytes": ("l2_MB", 1e6),
    "num_sms": ("num_sms", 1),
    "boost_clock_hz": ("boost_clock_MHz", 1e6),
    "link_bandwidth": ("intra_link_GBps_per_direction", 1e9),
    "link_domain_size": ("intra_gpus_per_domain", 1),
    "pcie_bandwidth": ("pcie_GBps_per_direction", 1e9),
    "inter_node_bandwidth": ("typical_inter_node_Gbps_per_gpu", 1e9 / 8),
    "tdp_watts": ("tdp_W", 1),
    "release_year": ("release_year", 1),
}
PEAK_COLUMNS = {
    "fp32": "peak_fp32_TFLOPS",
    "tf32": "peak_tf32_TFLOPS",
    "fp16": "peak_fp16_TFLOPS_dense",
    "bf16": "peak_bf16_TFLOPS_dense",
    "fp8": "peak_fp8_TFLOPS_dense",
    "fp4": "peak_fp4_TFLOPS_dense",
    "int8": "peak_int8_TOPS_dense",
    "int4": "peak_int4_TOPS_dense",
}
# Fields with another value in a datasheet or white paper than in the GPU table; `source` of the file names it.
SETTLED_AFTER_THE_TABLE: dict[str, tuple[str, ...]] = {
    "gaudi3": ("bf16", "fp8"),
    "tpu-v6e": ("memory_bandwidth",),
    "trainium2": ("memory_bytes",),
    "gb200-nvl72": ("num_sms",),
    "gb300-nvl72": ("num_sms",),
    "mi355x-288gb": ("link_bandwidth", "peer_bandwidth"),
    "b200-sxm": ("fp32",),
    "gh200-96gb": ("link_domain_size",),
    "gh200-144gb": ("link_domain_size",),
}
MODEL_COLUMNS = {
    "hidden_size": "hidden_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_dim",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_seq_len",
    "q_lora_rank": "q_lora_rank",
    "kv_lora_rank": "kv_lora_rank",
    "qk_rope_head_dim": "qk_rope_head_dim",
    "qk_nope_head_dim": "qk_nope_head_dim",
    "v_head_dim": "v_head_dim",
    "published_num_params": "total_params_published",
    "published_num_active_params": "active_params_published",
}
# One column of the model table, and the first of these keys that a file has: families name the same thing differently.
MODEL_ALIASES = {
    "ffn_dim": ("intermediate_size_mlp", "intermediate_size"),
    "moe_ffn_dim": ("moe_intermediate_size", "intermediate_size"),
    "moe_num_experts": ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    "moe_top_k": ("num_experts_per_tok", "moe_top_k"),
    "sliding_window": ("attention_chunk_size", "sliding_window"),
}


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    assert len(keys) == len(set(keys)), f"a key is written twice: {keys}"
    return dict(pairs)


def load(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
    assert isinstance(document, dict)
    return document


def numbers(document: dict[str, Any]) -> dict[str, float]:
    """Every number of a document, one level of nesting flattened; booleans are no numbers."""
    flat: dict[str, float] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{name}": inner for name, inner in numbers(value).items()})
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[key] = value
    return flat


def rows(table: str) -> dict[str, dict[str, str]]:
    path = FACTS / table
    if not path.is_file():
        pytest.skip(f"the fact table {table} is not beside this checkout")
    with path.open(newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def confidence(row: dict[str, str]) -> str:
    found = re.search(r"confidence=(\w+)", row["notes"])
    return found.group(1) if found else "unstated"


def ids(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


every_file = pytest.mark.parametrize("path", GPU_FILES + MODEL_FILES, ids=ids(GPU_FILES + MODEL_FILES))
every_gpu = pytest.mark.parametrize("path", GPU_FILES, ids=ids(GPU_FILES))
every_model = pytest.mark.parametrize("path", MODEL_FILES, ids=ids(MODEL_FILES))


def test_both_folders_hold_files() -> None:
    assert len(GPU_FILES) >= 17
    assert len(MODEL_FILES) >= 24


@every_file
def test_every_file_has_its_name_a_source_and_positive_numbers(path: Path) -> None:
    document = load(path)
    assert document["name"] == path.stem == path.stem.lower()
    assert document["source"].strip()
    not_positive = {
        key: value
        for key, value in numbers(document).items()
        if not (0 < value < float("inf")) and key not in ("n_shared_experts", "first_k_dense_replace")
    }
    assert not not_positive


@every_file
def test_facts_hold_no_fitted_number(path: Path) -> None:
    assert not [key for key in numbers(load(path)) if FUDGE.search(key)]


@every_file
def test_a_source_has_no_path_of_a_machine(path: Path) -> None:
    assert not re.search(r"(^|\s)[/~]\w|\\|\bhf_configs\b", load(path)["source"])


@every_gpu
def test_memory_and_links_are_plausible(path: Path) -> None:
    gpu = load(path)
    assert 0.2e12 <= gpu["memory_bandwidth"] <= 40e12
    assert 8e9 <= gpu["memory_bytes"] <= 600e9
    assert gpu.get("pcie_bandwidth", 0) <= 128e9 <= 4 * gpu["memory_bandwidth"]
    assert gpu["confidence"] in ("high", "medium", "low")
    if gpu.get("link_domain_size", 1) == 1 and gpu.get("gpus_per_server") != 1:
        assert gpu.get("link_bandwidth") == gpu.get("pcie_bandwidth")


@every_gpu
def test_a_full_mesh_has_one_link_to_each_peer_or_more(path: Path) -> None:
    gpu = load(path)
    if "peer_bandwidth" in gpu:
        links = gpu["link_bandwidth"] / gpu["peer_bandwidth"]
        assert links == pytest.approx(round(links))
        assert links >= gpu["link_domain_size"] - 1


@every_gpu
def test_the_driver_reports_the_memory_as_sold_in_gb_or_gib(path: Path) -> None:
    gpu = load(path)
    if "driver_memory_bytes" in gpu:
        assert gpu["memory_bytes"] <= gpu["driver_memory_bytes"] <= gpu["memory_bytes"] * 2**30 / 1e9
        assert f"{gpu['driver_memory_bytes'] // 2**20} MiB" in gpu["source"]


@every_gpu
def test_peaks_are_dense(path: Path) -> None:
    gpu = load(path)
    peak = gpu["peak_flops"]
    assert "fp16" in peak or "bf16" in peak
    if gpu["vendor"] == "NVIDIA" and "bf16" in peak:
        assert peak["bf16"] == peak["fp16"]
    if gpu["vendor"] == "NVIDIA" and "fp8" in peak and gpu["architecture"] != "Rubin":
        assert peak["fp8"] == pytest.approx(2 * peak["fp16"], rel=0.03)  # 733 and 362 are printed for one L40S
    if gpu["vendor"] == "NVIDIA" and gpu["architecture"] in ("Volta", "Turing", "Ampere"):
        assert "fp8" not in peak
        assert "fp4" not in peak


@every_model
def test_shapes_fit_together(path: Path) -> None:
    model = read_model(load(path), path.stem)
    assert model.num_attention_heads % model.num_key_value_heads == 0
    assert len(model.layer_types) in (0, model.num_hidden_layers)
    if model.kv_lora_rank:
        assert model.head_dim == model.qk_rope_head_dim + model.qk_nope_head_dim
    if model.published_num_active_params and model.published_num_params:
        assert model.published_num_active_params < model.published_num_params


def test_no_two_models_have_the_same_hugging_face_id() -> None:
    ids = [each.lower() for path in MODEL_FILES for each in load(path).get("hf_ids", [])]
    assert len(ids) == len(set(ids))


@every_model
def test_a_model_is_read_without_a_note_on_unread_keys(path: Path) -> None:
    notes = read_model(load(path), path.stem).notes
    assert not [note for note in notes if "not read" in note or "read as a Llama" in note]


def test_no_two_files_have_the_same_name() -> None:
    names = [load(path)["name"] for path in GPU_FILES + MODEL_FILES]
    assert len(names) == len(set(names))


@every_gpu
def test_a_gpu_equals_its_row_if_it_has_one(path: Path) -> None:
    gpu, row = load(path), rows("gpus.csv").get(path.stem)
    if row is None or confidence(row) == "low":
        pytest.skip("the fact table has no row of fair confidence")
    settled = SETTLED_AFTER_THE_TABLE.get(path.stem, ())
    assert (gpu["vendor"], gpu["architecture"], gpu["link"]) == (row["vendor"], row["arch"], row["intra_link"])
    expected = {key: float(row[column]) * unit for key, (column, unit) in GPU_COLUMNS.items() if row[column]}
    given = {key: gpu[key] for key in GPU_COLUMNS if key in gpu}
    assert unless_settled(given, settled) == pytest.approx(unless_settled(expected, settled), rel=1e-12)
    peaks = {name: float(row[column]) * 1e12 for name, column in PEAK_COLUMNS.items() if row[column]}
    assert unless_settled(gpu["peak_flops"], settled) == pytest.approx(unless_settled(peaks, settled), rel=1e-12)
    assert gpu["confidence"] == confidence(row)
    assert ("CONFLICT" in gpu["source"]) == ("CONFLICT" in row["notes"])
    peer = re.search(r"([\d.]+) to (?:any )?one peer", row["notes"])
    if peer and "peer_bandwidth" not in settled:
        assert gpu["peer_bandwidth"] == pytest.approx(float(peer.group(1)) * 1e9)


def unless_settled(fields: dict[str, float], settled: tuple[str, ...]) -> dict[str, float]:
    return {key: value for key, value in fields.items() if key not in settled}


@every_model
def test_a_model_equals_its_row(path: Path) -> None:
    model, row = load(path), rows("models.csv").get(path.stem)
    if row is None:
        pytest.skip("the table of models has no such row")
    expected = {key: float(row[column]) for key, column in MODEL_COLUMNS.items() if row[column]}
    given = {key: model[key] for key in MODEL_COLUMNS if model.get(key) is not None}
    assert given == pytest.approx(expected, rel=1e-12)
    assert model["tie_word_embeddings"] == (row["tied_embeddings"] == "true")
    assert row["hf_id"] in model.get("hf_ids", ()) or not row["hf_id"] or row["hf_id"].startswith("(")
    assert model["model_type"] == row["model_type"] or row["model_type"] in ("", "gpt2-like")
    for column, keys in MODEL_ALIASES.items():
        if row[column]:
            assert next(model[key] for key in keys if key in model) == int(row[column]), column


@pytest.mark.parametrize(
    ("table", "files"), [("gpus.csv", GPU_FILES), ("models.csv", MODEL_FILES)], ids=["gpus", "models"]
)
def test_every_row_of_fair_confidence_has_a_file(table: str, files: list[Path]) -> None:
    trusted = {name for name, row in rows(table).items() if confidence(row) != "low"}
    assert trusted <= set(ids(files))
