"""Published serving rows are estimated by the steady state of `infer --max_concurrency`."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Ask

from llm_analysis.calibration.measurements import read_measurements
from llm_analysis.calibration.steady_rows import is_steady, steady_seconds
from llm_analysis.calibration.validation import scored_row
from llm_analysis.inference.runtimes import get_runtime

COLUMNS = "id,runtime,model_name,gpu_name,dtype_name,kind,batch_size,seq_len,num_tokens_to_generate,metric,measured_s\n"
ROWS = (
    "a,vllm-v1,llama-3.1-8b,h100-sxm-80gb,w16a16,serving,16,1024,128,tpot,0.01\n"
    "b,vllm-v1,llama-3.1-8b,h100-sxm-80gb,w16a16,serving,64,2048,256,tpot,0.02\n"
    "c,vllm-v1,qwen3-8b,h100-sxm-80gb,w16a16,serving,16,1024,128,tpot,0.01\n"
    "d,vllm-v1,llama-3.1-8b,h100-sxm-80gb,w16a16,static,16,1024,128,tpot,0.01\n"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "m.csv"
    file.write_text(COLUMNS + ROWS)
    return file


def test_validate_and_infer_give_the_same_tpot(ask: Ask, path: Path) -> None:
    scored = json.loads(ask("validate", "--measurements", str(path), "--format", "json").out)["rows"]
    question = ("--model_name", "llama-3.1-8b", "--gpu_name", "h100-sxm-80gb", "--dtype_name", "w16a16e16")
    for row, (concurrency, seq_len, tokens) in zip(scored[:2], [(16, 1024, 128), (64, 2048, 256)], strict=True):
        load = (
            "--max_concurrency",
            str(concurrency),
            "--seq_len",
            str(seq_len),
            "--num_tokens_to_generate",
            str(tokens),
        )
        answer = json.loads(ask("infer", *question, *load, "--format", "json").out)
        assert row["estimated_seconds"] == pytest.approx(answer["tpot"])


def test_rows_keep_their_order_whatever_their_scenario(path: Path) -> None:
    rows = [m for m in read_measurements(path)[0] if is_steady(m)]
    assert [m.id for m in rows] == ["a", "b", "c"]
    runtime = get_runtime("vllm-v1")
    together = steady_seconds([rows[0], rows[2], rows[1]], runtime)
    assert together == pytest.approx([steady_seconds([m], runtime)[0] for m in (rows[0], rows[2], rows[1])])


def test_a_row_of_single_tokens_is_estimated_as_a_step(path: Path) -> None:
    """In a steady state it has no time per token, and the estimate was 0."""
    one = replace(read_measurements(path)[0][0], num_tokens=1.0, decode_steps=1.0)
    assert scored_row(one, "vllm-v1").estimated_seconds > 0.001
