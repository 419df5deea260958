"""One GPU in full: its facts, and the measurements behind its estimates."""

import json
from pathlib import Path

import pytest
from conftest import Ask

from llm_analysis.catalog import get_gpu, names
from llm_analysis.hardware.profiles import profile_named
from llm_analysis.report.gpu import gpu_entry, gpu_text


def test_the_kernels_of_a_measured_gpu_are_its_own_or_name_another_gpu() -> None:
    evidence = gpu_entry(get_gpu("h100-sxm-80gb"))["evidence"]
    kernels = {(row["kind"], row["format"]): row for row in evidence["kernels"]}
    own = profile_named("h100-sxm-80gb").kernels["gemm"]["bf16"].evidence
    gemm = kernels["gemm", "bf16"]
    assert (gemm["profile"], gemm["measured"]) == ("h100-sxm-80gb", True)
    assert (gemm["rows"], gemm["median_error"]) == (own.rows, own.median_error)
    assert (kernels["gemm", "int8"]["profile"], kernels["gemm", "int8"]["measured"]) == ("a100-sxm-80gb", False)
    assert evidence["profile"] == "h100-sxm-80gb"
    assert evidence["fallback_profiles"] == ["a100-sxm-80gb"]
    assert evidence["same_chip_measured"]


def test_no_kernel_counts_as_measured_on_a_gpu_that_was_not() -> None:
    evidence = gpu_entry(get_gpu("rtx-4090"))["evidence"]
    assert evidence["profile"] == "l40s-48gb"
    assert not any(row["measured"] for row in evidence["kernels"])
    assert "no kernels of rtx-4090 were measured" in evidence["note"]
    assert {row["link"] for row in evidence["collectives"]} == {"PCIe without peer access"}


def test_a_scaled_kernel_does_not_count_as_measured() -> None:
    kernels = gpu_entry(get_gpu("h20-96gb"))["evidence"]["kernels"]
    scaled = [row for row in kernels if row["note"] == "scaled, not measured"]
    assert scaled
    assert not any(row["measured"] for row in scaled)


@pytest.mark.parametrize("name", names("gpu_configs"))
def test_the_tables_fit_a_terminal(name: str) -> None:
    text = gpu_text(get_gpu(name), "table")
    assert max(map(len, text.splitlines())) <= 80
    assert "gemm bf16" in text


def test_the_command_shows_json_or_tables(ask: Ask, tmp_path: Path) -> None:
    shown = ask("gpus", "--name", "h100-sxm-80gb").out
    assert json.loads(shown) == gpu_entry(get_gpu("h100-sxm-80gb"))
    assert ask("gpus", "--name", "h100-sxm-80gb", "--format", "json").out == shown
    assert "23,868" in ask("gpus", "--name", "h100-sxm-80gb", "--format", "table").out
    assert "| gemm bf16" in ask("gpus", "--name", "h100-sxm-80gb", "--format", "markdown").out
    (tmp_path / "mine.json").write_text(shown)
    assert get_gpu(str(tmp_path / "mine.json")) == get_gpu("h100-sxm-80gb")
