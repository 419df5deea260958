"""Command lines, files and checks that the tests of the command line share."""

import json
from pathlib import Path
from typing import Any

INFER = ["infer", "--model_name", "test-13b", "--gpu_name", "a100-sxm-40gb"]


LLAMA = ["infer", "--model_name", "llama-2-70b", "--gpu_name", "a100-sxm-80gb"]


INTEGERS = (
    "batch_size_per_gpu",
    "seq_len",
    "num_tokens_to_generate",
    "tp_size",
    "cp_size",
    "pp_size",
    "dp_size",
    "sp_size",
)


FRACTIONS = (
    "flops_efficiency",
    "hbm_memory_efficiency",
    "intra_node_memory_efficiency",
    "inter_node_memory_efficiency",
)


ACHIEVED = ("achieved_tflops", "achieved_memory_bandwidth_GBs")


Case = tuple[list[str], int, str]


def short(case: Case) -> str:
    arguments = case[0][5:] if case[0][:5] == INFER else case[0]
    return " ".join(arguments)[:60] or "nothing"


def refused(answer: Any, status: int = 1) -> None:
    assert answer.status == status
    assert answer.out == ""
    assert answer.err.startswith("llm-analysis: ")
    assert answer.err.endswith("\n")
    assert len(answer.err.splitlines()) == 1, answer.err
    assert len(answer.err) < 700
    assert "internal error" not in answer.err


def gpu_file(folder: Path, **changes: object) -> str:
    raw = {"name": "mine", "memory_bytes": 80e9, "memory_bandwidth": 2e12, "peak_flops": {"fp16": 3e14}} | changes
    path = folder / "mine.json"
    path.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))
    return str(path)


def model_file(folder: Path, **changes: object) -> str:
    raw: dict[str, object] = {"name": "mine", "model_type": "llama", "hidden_size": 512, "num_hidden_layers": 4}
    raw |= {"num_attention_heads": 8, "vocab_size": 1000, "max_position_embeddings": 1024} | changes
    path = folder / "mine.json"
    path.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))
    return str(path)


def with_file(flag: str, path: str) -> list[str]:
    names = {"model_name": "test-13b", "gpu_name": "t4"} | {flag: path}
    return [f"--{name}={value}" for name, value in names.items()]
