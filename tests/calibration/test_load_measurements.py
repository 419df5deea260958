"""Runs under load as rows for a calibration."""

import json
from pathlib import Path

import pytest
from conftest import Ask

from llm_analysis.calibration.load_measurements import read_rows, serving_row
from llm_analysis.calibration.load_runs import read_runs
from llm_analysis.errors import BadValue

COLUMNS = (
    "id,source,runtime,model_name,gpu_name,dtype_name,arrival,request_rate_per_s,concurrency,dataset,"
    "mean_input_tokens,mean_output_tokens,length_distribution,metric,value,run\n"
)
SERVER = "x,vllm-v1,llama-3.1-8b,h100-sxm-80gb,bf16"
LENGTHS = "random,1000,101,fixed"


def table(path: Path, rows: str) -> Path:
    path.write_text(COLUMNS + rows)
    return path


def test_the_running_sequences_follow_from_littles_law(tmp_path: Path) -> None:
    rows = (
        f"a,{SERVER},closed,,32,{LENGTHS},request_throughput,20,r\nb,{SERVER},closed,,32,{LENGTHS},tpot_mean,0.014,r\n"
    )
    found, skipped = read_rows(table(tmp_path / "m.csv", rows))
    assert [(m.id, m.kind, m.seconds, m.seq_len, m.num_tokens) for m in found] == [("b", "serving", 0.014, 1000, 101)]
    assert found[0].batch_size == pytest.approx(20 * 100 * 0.014)
    assert skipped == [("a", "its run is fitted by the TPOT of b")]


def test_ranks_that_share_experts_are_one_replica(tmp_path: Path) -> None:
    """Eight GPUs in two replicas of four, and eight that share the experts of one: twice the sequences together."""
    apart = read_runs(table(tmp_path / "m.csv", f"b,{SERVER},poisson,20,,{LENGTHS},tpot_mean,0.014,r\n"))[0][0]
    two, shared = apart._replace(tp_size=4, dp_size=2), apart._replace(tp_size=1, dp_size=8, ep_size=8)
    assert serving_row(two).layout().num_gpus == 4
    assert serving_row(shared).layout().num_gpus == 8
    assert serving_row(shared).batch_size == pytest.approx(2 * serving_row(two).batch_size)


@pytest.mark.parametrize(
    ("row", "part"),
    [
        (f"a,{SERVER},burst,,,{LENGTHS},tpot_mean,0.01,r\n", "all requests at once"),
        (f"a,{SERVER},poisson,4,,{LENGTHS},ttft_mean,0.1,r\n", "this run has none"),
        (f"a,{SERVER},closed,,4,{LENGTHS},tpot_mean,0.01,r\n", "throughput or request rate"),
    ],
)
def test_a_run_without_a_steady_step_is_refused(tmp_path: Path, row: str, part: str) -> None:
    run = read_runs(table(tmp_path / "m.csv", row))[0][0]
    with pytest.raises(BadValue, match=part):
        serving_row(run)


def test_calibrate_fits_a_runtime_to_runs_under_load(ask: Ask, tmp_path: Path) -> None:
    """Steps of 20 ms where the package expects 11 ms: the fitted runtime has the rest as host time."""
    pytest.importorskip("scipy")
    rows = "".join(f"a{i},{SERVER},poisson,{i},,{LENGTHS},tpot_mean,0.02,r{i}\n" for i in (1, 2, 3, 4))
    out = tmp_path / "mine.json"
    answer = ask("calibrate", "--measurements", str(table(tmp_path / "m.csv", rows)), "--output_file", str(out))
    assert answer.status == 0, answer.err
    assert json.loads(out.read_text())["step_seconds"] > 0.005
