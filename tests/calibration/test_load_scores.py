"""Scores of simulated serving: reading a table, one simulation per run, the package's own selection."""

import json
from pathlib import Path

import pytest
from conftest import SHARED, Ask

from llm_analysis.calibration.load_definitions import mlperf_limits
from llm_analysis.calibration.load_estimates import metric_of, prepare
from llm_analysis.calibration.load_runs import LOAD_EVIDENCE, REQUIRED, read_runs, transport_of
from llm_analysis.errors import UnknownName
from llm_analysis.inference.runtimes import get_runtime
from llm_analysis.serving.server_bands import class_of

COLUMNS = (
    "id,source,runtime,model_name,gpu_name,dtype_name,arrival,request_rate_per_s,num_requests,dataset,"
    "mean_input_tokens,mean_output_tokens,length_distribution,metric,value,run\n"
)
RUN = "vllm-v1,llama-3.1-8b,h100-sxm-80gb,bf16,poisson,4,100,random,1000,100,fixed"


def table(path: Path, rows: str) -> str:
    path.write_text(COLUMNS + rows)
    return str(path)


def test_values_of_one_run_come_from_one_simulation(ask: Ask, tmp_path: Path) -> None:
    rows = f"a,x,{RUN},ttft_median,0.05,r1\nb,x,{RUN},tpot_mean,0.01,r1\n"
    answer = ask("validate", "--load", "--measurements", table(tmp_path / "m.csv", rows), "--format", "json")
    assert answer.status == 0
    found = json.loads(answer.out)
    assert [row["id"] for row in found["rows"]] == ["a", "b"]
    run = read_runs(tmp_path / "m.csv")[0][0]
    summary = prepare(run).summary()
    for row in found["rows"]:
        assert row["estimated"] == metric_of(summary, row["metric"])
        assert row["error"] == pytest.approx(row["estimated"] / row["measured"] - 1)
        assert row["low"] <= row["estimated"] <= row["high"]
    assert found["skipped"] == []


def test_rows_that_cannot_be_estimated_are_listed_with_the_reason(ask: Ask, tmp_path: Path) -> None:
    rows = (
        f"a,x,{RUN},ttft_median,0.05,r1\nb,x,{RUN},joules,3,r1\nc,x,{RUN},tpot_mean,0,r1\n"
        f"d,x,{RUN.replace('llama-3.1-8b', 'llama-9')},tpot_mean,0.01,r2\n"
        f"e,x,{RUN.replace('poisson', 'tidal')},tpot_mean,0.01,r3\n"
    )
    path = table(tmp_path / "m.csv", rows)
    found = json.loads(ask("validate", "--load", "--measurements", path, "--format", "json").out)
    assert [row["id"] for row in found["rows"]] == ["a"]
    reasons = {row["id"]: row["reason"] for row in found["skipped"]}
    assert "metric 'joules' is not estimated here" in reasons["b"]
    assert "value must be above 0, not 0" in reasons["c"]
    assert "unknown model 'llama-9'" in reasons["d"]
    assert "arrival 'tidal' is not one of poisson" in reasons["e"]


@pytest.mark.parametrize("column", [*REQUIRED, "mean_output_tokens"])
def test_a_run_with_an_empty_cell_in_a_required_column_is_skipped(tmp_path: Path, column: str) -> None:
    cells = dict(zip(COLUMNS.strip().split(","), f"a,x,{RUN},tpot_mean,0.01,r1".split(","), strict=True))
    runs, skipped = read_runs(Path(table(tmp_path / "m.csv", ",".join((cells | {column: ""}).values()) + "\n")))
    assert runs == []
    assert skipped == [("row 1" if column == "id" else "a", f"{column} is empty")]


def test_an_unknown_runtime_of_a_run_has_the_nearest_names(ask: Ask, tmp_path: Path) -> None:
    path = table(tmp_path / "m.csv", f"a,x,{RUN.replace('vllm-v1', 'vlm')},tpot_mean,0.01,r1\n")
    answer = ask("validate", "--load", "--measurements", path)
    assert (answer.status, answer.err.count("\n")) == (1, 1)
    with pytest.raises(UnknownName) as error:
        get_runtime("vlm")
    assert str(error.value) in answer.err
    assert "did you mean vllm" in answer.err


def test_a_run_beyond_the_positions_of_its_model_has_a_note(ask: Ask, tmp_path: Path) -> None:
    path = table(tmp_path / "m.csv", f"a,x,{RUN.replace('1000,100', '131000,100')},tpot_mean,0.01,r1\n")
    answer = ask("validate", "--load", "--measurements", path)
    told = " ".join(answer.out.split())
    assert "1 row, a, has more tokens of prompt and output than the model has positions" in told


def test_latencies_in_milliseconds_are_told(ask: Ask, tmp_path: Path) -> None:
    rows = f"a,x,{RUN},ttft_median,30,r1\nb,x,{RUN},tpot_mean,8,r1\nc,x,{RUN},request_throughput,4,r1\n"
    question = ["validate", "--load", "--measurements", table(tmp_path / "m.csv", rows)]
    assert ask(*question).out.rstrip().endswith("times the measured latencies: is value in seconds?")
    assert "note: estimates are 0.00" in ask(*question, "--format", "csv").err
    json.loads(ask(*question, "--format", "json").out)
    seconds = rows.replace(",30,", ",0.03,").replace(",8,", ",0.008,")
    assert "in seconds?" not in ask(*question[:-1], table(tmp_path / "m.csv", seconds)).out


def test_control_characters_in_a_table_of_runs_are_quoted(tmp_path: Path) -> None:
    """They would act on the user's terminal when the reason is printed."""
    rows = f"a\x1b[2J,x,{RUN},tpot_mean,0.01,r1\nb,x\x1b[2J,{RUN},tpot_mean,0.01,r2\n"
    runs, skipped = read_runs(Path(table(tmp_path / "m.csv", rows)))
    assert runs == []
    assert len(skipped) == 2
    assert all(name.isprintable() and reason.isprintable() for name, reason in skipped)


def test_a_table_without_the_columns_is_refused(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("id,value\na,1\n")
    answer = ask("validate", "--load", "--measurements", str(path))
    assert answer.status == 1
    assert "no column 'runtime'" in answer.err


def test_the_packaged_selection_names_its_sources() -> None:
    runs, skipped = read_runs(LOAD_EVIDENCE)
    assert skipped == []
    assert len({run.source for run in runs}) >= 10
    assert all(run.source and run.values for run in runs)
    ids = [name for run in runs for name, _, _ in run.values]
    assert len(ids) == len(set(ids))


def test_a_bound_below_the_error_fails(ask: Ask, tmp_path: Path) -> None:
    path = table(tmp_path / "m.csv", f"a,x,{RUN},ttft_median,5,r1\n")
    answer = ask("validate", "--load", "--measurements", path, "--max_median_error", "0.5")
    assert answer.status == 1
    assert "is above 50.0%" in answer.err


def test_rows_of_grade_c_are_scored_but_count_in_no_class(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(COLUMNS.replace("run\n", "run,grade\n") + f"a,x,{RUN},ttft_median,0.05,r1,C\n")
    found = json.loads(ask("validate", "--load", "--measurements", str(path), "--format", "json").out)
    assert [row["id"] for row in found["rows"]] == ["a"]
    assert found["classes"] == []


@pytest.mark.parametrize(
    ("notes", "transport"),
    [
        ("chat endpoint", "http"),
        ("in-process async engine, no HTTP", "in-process"),
        ("offline batch of request_count prompts", "offline"),
        ("offline engine driven by arrival times, no HTTP", "offline"),
    ],
)
def test_notes_say_how_requests_reached_the_engine(tmp_path: Path, notes: str, transport: str) -> None:
    """Front end and streaming take time only where they were there."""
    path = tmp_path / "m.csv"
    path.write_text(COLUMNS.replace("run\n", "run,notes\n") + f'a,x,{RUN},tpot_mean,0.01,r1,"{notes}"\n')
    run = read_runs(path)[0][0]
    assert transport_of(run) == transport
    found = prepare(run)
    assert (found.policy.front_seconds > 0) == (transport != "offline")
    assert (found.policy.front_serial_seconds > 0) == (transport == "http")
    assert (found.times.host.stream > 0) == (transport != "offline")


@pytest.mark.parametrize(
    ("runtime", "notes", "late"),
    [
        ("vllm", "in-process async engine, no HTTP", True),
        ("vllm", "", False),
        ("vllm", "LoadGen", False),
        ("vllm-v1", "in-process async engine, no HTTP", False),
    ],
)
def test_tokens_reach_a_program_that_imports_old_vllm_a_step_late(
    tmp_path: Path, runtime: str, notes: str, late: bool
) -> None:
    path = tmp_path / "m.csv"
    row = f'a,x,{RUN.replace("vllm-v1", runtime)},ttft_mean,0.01,r1,"{notes}"\n'
    path.write_text(COLUMNS.replace("run\n", "run,notes\n") + row)
    assert prepare(read_runs(path)[0][0]).policy.late_tokens == late


def test_a_short_run_is_estimated_by_the_median_of_several_draws(tmp_path: Path) -> None:
    """A single draw of 20 lengths of ShareGPT's shape has a mean that is up to 50 % off."""
    row = f"a,x,{RUN.replace('4,100,random', '4,20,ShareGPT').replace(',fixed', ',')},request_throughput,4,r1\n"
    prepared = prepare(read_runs(Path(table(tmp_path / "m.csv", row)))[0][0])
    means = [
        sum(r.output_tokens for r in prepared.workload._replace(seed=seed).requests(20, 4.0)) / 20 for seed in range(50)
    ]
    assert max(means) / min(means) > 1.5
    found = prepared.summary()
    assert found.output_token_throughput / found.request_throughput == pytest.approx(100, rel=0.1)


def test_the_tail_of_a_latency_below_saturation_is_a_class_of_its_own(ask: Ask, tmp_path: Path) -> None:
    calm, busy = RUN, RUN.replace("poisson,4", "poisson,400")
    rows = f"a,x,{calm},ttft_p99,0.05,r1\nb,x,{busy},ttft_p99,0.05,r2\n"
    answer = ask("validate", "--load", "--measurements", table(tmp_path / "m.csv", rows), "--format", "json")
    found = json.loads(answer.out)
    assert {c["metric_class"]: c["n"] for c in found["classes"]} == {
        "ttft p99, below 80% of saturation": 1,
        "ttft tail": 2,
    }
    assert found["rows"][0]["fraction_of_saturation"] < 0.8 <= found["rows"][1]["fraction_of_saturation"]


def test_runs_of_mlperf_are_scored_by_their_goodput_too(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    run = "tensorrt-llm,llama-2-70b,h200-sxm-141gb,fp8,poisson,4,100,OpenOrca (,294,290,as in the data set"
    row = f'a,x,{run},request_throughput,4,r1,"Somebody, Server; LoadGen",64\n'
    path.write_text(COLUMNS.replace("run\n", "run,notes,max_num_seqs\n") + row)
    assert mlperf_limits(read_runs(path)[0][0]) == {"ttft": 2.0, "tpot": 0.2}
    found = json.loads(ask("validate", "--load", "--measurements", str(path), "--format", "json").out)
    (goodput,) = found["goodput"]
    assert (goodput["id"], goodput["metric"], goodput["measured"]) == ("a", "goodput", 4.0)
    assert goodput["estimated"] > 1.0
    assert "goodput, llama-2-70b" in [c["metric_class"] for c in found["classes"]]


def test_classes_of_metrics() -> None:
    assert [class_of(name) for name in ("request_throughput", "ttft_mean", "tpot_median", "itl_p99")] == [
        "throughput",
        "ttft mean",
        "tpot median",
        "itl tail",
    ]
    assert class_of("ttft_mean", at_once=True) == "ttft mean, all at once"


def test_the_packaged_values_are_those_of_the_shared_table() -> None:
    """A slip of the keyboard in the selection would be scored as an error of the simulation."""
    shared = SHARED / "measurements" / "load.csv"
    if not shared.is_file():
        pytest.skip("the shared measurements are not here")
    values = {name: value for run in read_runs(shared)[0] for name, _, value in run.values}
    for run in read_runs(LOAD_EVIDENCE)[0]:
        for name, _, value in run.values:
            assert values[name] == value


def test_a_version_with_two_engines_is_estimated_as_its_own_engine(tmp_path: Path) -> None:
    """The V1 engine of vLLM 0.11 schedules between two steps, as `vllm-0.13` does."""
    text = COLUMNS.strip() + ",runtime_version\n"
    path = tmp_path / "m.csv"
    path.write_text(text + f"a,x,{RUN},tpot_mean,0.01,r1,v0.11.0\nb,x,{RUN},tpot_mean,0.01,r2,0.19.0\n")
    old, new = (prepare(run) for run in read_runs(path)[0])
    assert (old.scenario.runtime.name, new.scenario.runtime.name) == ("vllm-0.13", "vllm-v1")
    assert old.times.host.waits(8.0) > 0
    assert old.times.host.beside == 0 < new.times.host.beside


def test_fp8_checkpoints_with_block_scales_run_their_own_kernels(tmp_path: Path) -> None:
    row = RUN.replace("llama-3.1-8b", "qwen3-8b").replace("bf16", "fp8")
    table(tmp_path / "m.csv", f"a,x,{row},tpot_mean,0.01,r1\n")
    assert prepare(read_runs(tmp_path / "m.csv")[0][0]).scenario.dtypes.name == "fp8_block"
