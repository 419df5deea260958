"""Which terms of a runtime may be fitted, and within which bounds."""

from dataclasses import replace

import pytest

from llm_analysis.calibration.fitting.build_runtimes import usable
from llm_analysis.calibration.fitting.runtime_fit import checkable, fit
from llm_analysis.calibration.measurements import Measurement
from llm_analysis.calibration.timing import Rows
from llm_analysis.inference.runtimes import Runtime


def row(source: str, dtype_name: str, gpu_name: str = "h100-sxm-80gb", seconds: float = 0.01) -> Measurement:
    return Measurement(
        id=f"{source}-{dtype_name}",
        source=source,
        kind="static",
        runtime="vllm",
        model_name="llama-3.1-8b",
        gpu_name=gpu_name,
        dtype_name=dtype_name,
        kv_dtype="",
        tp_size=1,
        pp_size=1,
        ep_size=1,
        batch_size=1.0,
        seq_len=128.0,
        num_tokens=64.0,
        decode_steps=63.0,
        metric="tpot",
        seconds=seconds,
    )


def test_a_term_needs_rows_of_two_sources_that_depend_on_it() -> None:
    terms = ("step_seconds", "collective_seconds", "narrow_memory")
    one = Rows([row("a", "w16a16"), row("b", "w16a16"), row("b", "w4a16")])
    assert checkable(one, Runtime(name="own"), terms) == ["step_seconds"]
    two = Rows([row("a", "w4a16"), row("b", "w16a16"), row("b", "w4a16")])
    assert checkable(two, Runtime(name="own"), terms) == ["step_seconds", "narrow_memory"]


@pytest.mark.parametrize(("gpu_name", "exceeds"), [("h100-sxm-80gb", False), ("gaudi2", True)])
def test_only_kernels_of_unmeasured_gpus_can_be_faster_than_the_profile(gpu_name: str, exceeds: bool) -> None:
    """The measured time is that of 16 GB at the datasheet's bandwidth, which no profile reaches."""
    rows = Rows([row("a", "w16a16", gpu_name, 0.0065 if exceeds else 0.0048)])
    assert (fit(rows, Runtime(name="own"), ["matmul_memory"]).matmul_memory > 1) == exceeds


@pytest.mark.parametrize(
    ("gpu_name", "version", "runtime"),
    [
        ("h100-sxm-80gb", "0.6.1", "vllm"),
        ("mi300x-192gb", "0.6.1", "vllm-rocm"),
        ("mi250-128gb", "0.6.1", "vllm-mi200"),
        ("mi250-128gb", "0.9.1", "vllm-0.13"),
    ],
)
def test_a_row_belongs_to_the_runtime_of_its_version_and_gpu(gpu_name: str, version: str, runtime: str) -> None:
    rows = [replace(row("a", "w16a16", gpu_name), version=version)]
    names = ("vllm", "vllm-rocm", "vllm-mi200", "vllm-0.13")
    assert [name for name in names if usable(rows, name)] == [runtime]
