"""Fits to synthetic tables recover the numbers that the tables were made with, and hold out every row once."""

import csv
from pathlib import Path

import numpy as np
import pytest

from llm_analysis.calibration.fitting.build_profiles import BEYOND, sends, small_all_reduces
from llm_analysis.calibration.fitting.kernel_fit import kernels_of
from llm_analysis.calibration.fitting.scaled_profiles import LAYER_SOURCE, Scaled, layer_factors, layer_seconds
from llm_analysis.catalog import get_gpu
from llm_analysis.hardware.profiles import profile_named

SIZES = [2048.0 * 1.3**i for i in range(40)]


def written(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)


@pytest.mark.parametrize(("in_server", "bandwidth"), [(2, 450e9), (1, 50e9)])
def test_a_fit_of_sends_recovers_launch_and_bandwidth_and_holds_out_all_rows(
    tmp_path: Path, in_server: int, bandwidth: float
) -> None:
    took = [1e3 * (12e-6 + size / (bandwidth * 0.6)) for size in SIZES]
    rows: list[dict[str, object]] = [
        {"devices_per_node": in_server, "size": size, "time_stats.send_recv.median": ms}
        for size, ms in zip(SIZES, took, strict=True)
    ]
    written(tmp_path / "send_recv.csv", rows)
    samples = sends(tmp_path, in_server)
    assert samples.op.span == (2 if in_server == 2 else BEYOND)
    entry, _ = kernels_of([samples], get_gpu("h100-sxm-80gb"), ("launch", "link"))
    assert entry.numbers.launch == pytest.approx(12e-6, rel=1e-3)
    assert entry.numbers.link == pytest.approx(0.6, rel=1e-3)
    assert entry.evidence.rows == len(SIZES)
    assert entry.evidence.p90_error == pytest.approx(0.0, abs=1e-3)


def test_small_all_reduces_between_servers_use_the_network(tmp_path: Path) -> None:
    shape: dict[str, object] = {"num_workers": 2, "devices_per_node": 1}
    rows = [{**shape, "size": size, "time_stats.all_reduce.median": 0.04} for size in (2048, 8192, 30000, 1e6)]
    written(tmp_path / "all_reduce.csv", [*rows, {**rows[0], "devices_per_node": 2}])
    samples = small_all_reduces(tmp_path)
    assert samples.op.span == BEYOND
    assert samples.seconds.tolist() == [4e-5] * 3


def test_the_weights_of_a_layer_are_extrapolated_to_zero_sequences() -> None:
    """The table has the seconds of the base with 1.25 times the memory speed, plus 20 us of KV cache per sequence."""
    name, base = "a100-sxm-40gb", profile_named("a100-sxm-80gb")
    few, wide = np.arange(1.0, 17.0), np.arange(2000.0, 2010.0)
    weights = layer_seconds(get_gpu(name), base, np.ones(1))[0] / 1.25
    seconds = np.concatenate([weights + 20e-6 * few, layer_seconds(get_gpu(name), base, wide) / 0.9])
    table = {
        "gpu": np.full(26, name),
        "source_ref": np.full(26, f"somewhere/{LAYER_SOURCE}/decode.csv"),
        "kind": np.array(["layer_decode"] * 16 + ["layer_prefill"] * 10),
        "m": np.concatenate([few, wide]),
        "value": seconds * 1e3,
    }
    flops, memory, rows = layer_factors(Scaled("made", base.name, name, name), base, table)
    assert flops == pytest.approx(0.9)
    assert memory == pytest.approx(1.25)
    assert rows == 26
