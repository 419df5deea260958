"""GPU records: links of a mesh, dies of a package, memory by the driver, notes, and implausible values."""

import json
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llm_analysis import LLMAnalysis, Parallelism, get_dtypes, get_model
from llm_analysis.catalog import get_gpu, names
from llm_analysis.hardware.gpu import GPU
from llm_analysis.hardware.roofline import IDEAL, cost
from llm_analysis.physics.operators import Op

LEAST: dict[str, Any] = {"name": "mine", "memory_bytes": 80e9, "memory_bandwidth": 2e12, "peak_flops": {"fp16": 3e14}}


@pytest.mark.parametrize(("gpus", "gigabytes_per_second"), [(2, 64), (3, 128), (4, 192), (8, 448)])
def test_a_group_in_a_mesh_uses_its_own_links_only(gpus: int, gigabytes_per_second: float) -> None:
    mesh = get_gpu("mi300x-192gb")
    assert mesh.link_over(gpus)[1] == pytest.approx(gigabytes_per_second * 1e9)
    assert mesh.link_over(8, gpus - 1.0)[1] == pytest.approx(gigabytes_per_second * 1e9)  # strided group


def test_a_switch_gives_one_peer_the_whole_bandwidth() -> None:
    gpu = get_gpu("h100-sxm-80gb")
    assert gpu.link_over(2) == gpu.link_over(8) == ("NVLink4+NVSwitch", 450e9)
    assert gpu.link_over(9) == ("inter-node", 50e9)


def test_geforce_cards_exchange_data_through_the_host() -> None:
    """The GeForce driver offers no peer access; a workstation card of the same chip has it."""
    assert get_gpu("rtx-4090").link_over(4) == ("PCIe without peer access", 32e9)
    assert get_gpu("rtx-6000-ada").link_over(4)[0] == "PCIe"
    seconds = []
    for name in ("rtx-4090", "rtx-6000-ada"):
        analysis = LLMAnalysis(get_model("llama-3.1-8b"), get_gpu(name), get_dtypes("bf16"), Parallelism(tp_size=4))
        rows = analysis.inference().as_dict()["operators"]
        seconds.append(sum(r["seconds"] for r in rows if r["kind"] == "all_reduce" and r["phase"] == "prefill"))
    assert 2 < seconds[0] / seconds[1] < 10


def test_a_link_takes_an_array_of_peers() -> None:
    bandwidth = get_gpu("mi300x-192gb").link_over(8, np.array([1.0, 3.0, 7.0, 9.0]))[1]
    assert np.asarray(bandwidth).tolist() == pytest.approx([64e9, 192e9, 448e9, 448e9])


@pytest.mark.parametrize("method", ["ideal", "published"])
def test_an_all_reduce_of_two_gpus_in_a_mesh_takes_one_link(method: str) -> None:
    """2 (t - 1)/t M bytes from each GPU over one link of 64 GB/s; M is 512 tokens of 4096 bf16 values."""
    analysis = LLMAnalysis(
        get_model("llama-2-7b"), get_gpu("mi300x-192gb"), get_dtypes("bf16"), Parallelism(tp_size=2), method=method
    )
    rows = analysis.inference().as_dict()["operators"]
    reductions = [
        row for row in rows if row["phase"] == "prefill" and row["name"] in ("all_reduce", "attention_all_reduce")
    ]
    expected = 512 * 4096 * 2 / 64e9
    assert [row["seconds"] / row["count"] for row in reductions] == pytest.approx([expected])


def test_a_send_in_a_mesh_takes_one_link() -> None:
    op = Op("send", "send", span=8, messages=1.0, wire_bytes=64e9)
    assert cost(op, get_gpu("mi300x-192gb"), IDEAL).seconds == pytest.approx(1.0)
    assert cost(op, get_gpu("h100-sxm-80gb"), IDEAL).seconds == pytest.approx(64 / 450)


@pytest.mark.parametrize(("gpu", "expected"), [("gaudi3", "bf16"), ("mi100-32gb", "fp16")])
def test_sixteen_bits_mean_the_faster_format(gpu: str, expected: str) -> None:
    hardware = get_gpu(gpu)
    assert get_dtypes("w16a16").on(hardware.peak_flops, gpu).math == expected
    assert hardware.peak_flops[expected] == max(hardware.peak_flops.get(rate, 0.0) for rate in ("fp16", "bf16"))


def test_sixteen_bits_mean_fp16_if_both_are_equally_fast() -> None:
    assert get_dtypes("w16a16").on(get_gpu("h100-sxm-80gb").peak_flops, "").math == "fp16"


@pytest.mark.parametrize("name", ["mi250x-128gb", "ascend-910c-128gb"])
def test_the_dies_of_a_package_add_up_to_its_figures(name: str) -> None:
    package = get_gpu(name)
    die = package.per_device()
    assert die.devices == 1
    assert die.package_devices == package.devices
    assert die.per_device() == die
    assert die.memory_bandwidth * package.devices == package.memory_bandwidth
    assert die.usable_memory_bytes * package.devices == package.usable_memory_bytes
    assert die.peak_flops["fp16"] * package.devices == package.peak_flops["fp16"]


def test_usable_memory_is_the_memory_of_the_driver_if_it_is_known() -> None:
    assert get_gpu("h100-sxm-80gb").usable_memory_bytes == 81559 * 2**20
    assert GPU(**LEAST).usable_memory_bytes == 80e9


@pytest.mark.parametrize("name", names("gpu_configs"))
def test_notes_reach_the_answer(name: str) -> None:
    gpu = get_gpu(name)
    answer = LLMAnalysis(get_model("test-13b"), gpu, method="ideal").inference()
    assert set(gpu.notes) <= set(answer.notes)
    assert (gpu.confidence == "low") == any("check them" in note for note in answer.notes)


def test_a_record_can_be_written_and_read_back(tmp_path: Path) -> None:
    gpu = get_gpu("dgx-spark")
    (tmp_path / "mine.json").write_text(json.dumps(gpu.model_dump(exclude_defaults=True)))
    assert gpu.notes
    assert get_gpu(str(tmp_path / "mine.json")) == gpu


@pytest.mark.parametrize(
    "changes",
    [
        {"num_sms": -1},
        {"num_sms": 0},
        {"num_sms": 2**63},
        {"devices": 2**63},
        {"package_devices": 2},
        {"name": ""},
        {"name": "x" * 201},
        {"name": "a\x1b[31m"},
        {"vendor": "a\rb"},
        {"notes": ["a\nb"]},
        {"link": "\x07"},
        {"driver_memory_bytes": 81559},
    ],
    ids=str,
)
def test_an_implausible_record_is_rejected(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GPU(**LEAST | changes)


@given(span=st.integers(2, 8), fewer=st.integers(1, 7))
def test_more_peers_never_get_less_bandwidth(span: int, fewer: int) -> None:
    mesh = get_gpu("mi300x-192gb")
    few, all_of_them = mesh.link_over(span, float(fewer))[1], mesh.link_over(span, inf)[1]
    assert few is not None
    assert all_of_them is not None
    assert few <= all_of_them <= (mesh.link_bandwidth or 0)
