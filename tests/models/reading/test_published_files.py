"""170 published config.json files against what transformers builds from them on the meta device.

The files and the counts stay outside the repository; the tests are skipped where they are missing.
"""

import csv
import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import SHARED

from llm_analysis.errors import BadConfig
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.forward import forward, kv_bytes_per_token, num_active_params, num_params
from llm_analysis.models.reading.reader import read_model
from llm_analysis.physics.dtypes import get_dtypes
from llm_analysis.physics.operators import Step
from llm_analysis.physics.parallelism import Parallelism

FOLDER = SHARED / "facts" / "hf_configs_2026"
BF16 = get_dtypes("bf16").on({"bf16": 1.0, "fp16": 1.0}, "any")
TOLERANCE = 1e-3

# Unsupported types: an encoder with a decoder, RWKV, and hybrids that share parts between layers.
REJECTED = {"t5", "rwkv5", "hymba", "phi3small", "phi4flash"}
# Why the count of a type differs from that of transformers.
INDEX_KEYS = "the indexer's keys are kept in fp8 with a scale, 132 bytes; transformers keeps 16 bits"
COMPRESSED = "the count of the cache sees no projection called `k_proj`, and reports 0"
DIFFERENT = {
    "glm_moe_dsa": INDEX_KEYS,
    "deepseek_v4": COMPRESSED,
    "longcat_flash": "transformers allocates matrices for the experts that return their input",
    "kimi_linear": "the count of the cache takes the projections of delta attention for keys and values",
    "mllama": "the count of the cache includes layers whose keys and values are an image's",
    "minimax_m3_vl": "the count of the cache takes a value for each index key, which has none",
    "nomic_bert": "an encoder keeps no keys and values",
    "step3p7": "the class of transformers ignores the outer file's list of windowed layers",
    "phi-msft": "the class of transformers ignores the older names of the keys, and takes its default sizes",
}
SINGLE = {
    "mlc__deepseek_v2_lite.json": "DeepSeek-V2-Lite has no low-rank queries; a missing key means 1,536 in transformers"
}


class Truth(NamedTuple):
    """What transformers builds."""

    params: float
    active: float
    kv: float


class Published(NamedTuple):
    """A published file."""

    path: Path
    raw: dict[str, object]
    truth: Truth | None


@cache
def published() -> list[Published]:
    with (FOLDER / "TRUTH.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        row = rows.get(path.name, {})
        keys = ("params", "active_params", "kv_bytes_per_token_16bit")
        truth = Truth(*(float(row[key]) for key in keys)) if row.get("params") else None
        found.append(Published(path, json.loads(path.read_text(encoding="utf-8")), truth))
    return found


def tables(model: ModelConfig) -> float:
    """Parameters that a token looks up, which the count of transformers takes for active."""
    ops = forward(model, Step(1.0, 1.0), BF16, Parallelism())
    looked_up = sum(float(op.count) * op.params for op in ops if op.kind == "embedding")
    head = model.vocab_size * model.embedding_width if model.output_head and model.tie_word_embeddings else 0
    return looked_up - head


def off(ours: float, true: float) -> bool:
    return abs(ours - true) > TOLERANCE * true


pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the published files are not at hand")


def test_every_published_file_is_read_or_rejected_by_its_type() -> None:
    rejected = {}
    for file in published():
        try:
            read_model(file.raw, file.path.stem)
        except BadConfig as error:
            rejected[file.raw["model_type"]] = str(error)
    assert set(rejected) == REJECTED
    assert all(f"model_type '{kind}' is not supported" in message for kind, message in rejected.items())


def test_counts_equal_those_of_transformers_except_for_listed_reasons() -> None:
    """Within 0.1 %: parameters, those active in a token, bytes of KV cache that a token adds. Others carry a note."""
    wrong, used, compared = [], set(), 0
    for file in published():
        kind = str(file.raw["model_type"])
        if file.truth is None or kind in REJECTED:
            continue
        model = read_model(file.raw, file.path.stem)
        ours = Truth(num_params(model), num_active_params(model) + tables(model), kv_bytes_per_token(model, BF16))
        compared += 1
        if any(off(mine, true) for mine, true in zip(ours, file.truth, strict=True)):
            reasons = {kind, file.path.name} & (set(DIFFERENT) | set(SINGLE))
            used |= reasons
            wrong += [] if reasons and model.notes else [(file.path.name, ours, file.truth)]
    assert wrong == []
    assert used == set(DIFFERENT) | set(SINGLE)  # a reason that is no longer needed is removed
    assert compared > 140
