"""The score of `validate`: it is computed as documented, on rows left out of the fits, and stays below its bounds."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Ask

from llm_analysis import LLMAnalysis
from llm_analysis.calibration import residuals
from llm_analysis.calibration.fitting.build_runtimes import OWN_BENCHMARK
from llm_analysis.calibration.measurements import (
    EVIDENCE,
    REQUIRED,
    Measurement,
    gpu_named,
    model_named,
    read_measurements,
)
from llm_analysis.calibration.timing import Rows
from llm_analysis.calibration.validation import Score, Scored, goal_class, score, scored_row, statistics
from llm_analysis.inference.bands import cells
from llm_analysis.inference.runtimes import get_runtime, runtime_names

STATIC_MEDIAN, OVERALL_P90 = 0.078, 0.25  # the present error, rounded up to a tenth of a percent: an upper bound
# The present errors of this project's first benchmark. The rows are in no fit (docs/accuracy.md).
OWN_BOUNDS = {
    "kipply-0001": 0.06,  # one GPU: prefill
    "kipply-0002": 0.06,  # decode per token, of nine passes
    "kipply-0003": 0.04,  # total
    "kipply-0004": 0.078,  # two GPUs: prefill
    "kipply-0005": 0.065,
    "kipply-0006": 0.04,
}
ROW = {
    "id": "one",
    "source": "mine",
    "runtime": "vllm",
    "model_name": "llama-2-7b",
    "gpu_name": "a100-sxm-80gb",
    "dtype_name": "w16a16",
    "batch_size": "1",
    "seq_len": "512",
    "num_tokens_to_generate": "10",
    "metric": "ttft",
    "measured_s": "0.05",
}
Write = Callable[..., str]


@pytest.fixture(scope="module")
def published() -> Score:
    """The score of the published figures."""
    return score(EVIDENCE)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a table of `ROW` with changes; a change to None leaves the column out."""

    def written(*changes: dict[str, Any]) -> str:
        rows = [{k: v for k, v in {**ROW, **change}.items() if v is not None} for change in changes]
        path = tmp_path / "mine.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return str(path)

    return written


def answer(ask: Ask, path: str, *flags: str) -> dict[str, Any]:
    found = ask("validate", "--measurements", path, "--format", "json", *flags)
    assert found.status == 0, found.err
    plain: dict[str, Any] = json.loads(found.out)
    return plain


# The answer


def test_the_keys_of_the_json(ask: Ask, write: Write) -> None:
    found = answer(ask, write({}, {"id": "two", "metric": "latency"}))
    numbers = {"n", "median_abs_error", "p90_abs_error", "bias"}
    assert {"overall", "groups", "rows", "skipped"} <= set(found)
    assert numbers <= set(found["overall"])
    (group,), (row,), (skipped,) = found["groups"], found["rows"], found["skipped"]
    assert {"source", "runtime", "gpu_name", "model_name", "metric"} | numbers <= set(group)
    assert {"id", "measured_seconds", "estimated_seconds", "error", "low_seconds", "high_seconds", "source"} == set(row)
    assert set(skipped) == {"id", "reason"}
    assert skipped["id"] == "two"
    assert "latency" in skipped["reason"]


def test_an_error_is_a_fraction_of_the_measurement(ask: Ask, write: Write) -> None:
    (row,) = answer(ask, write({}))["rows"]
    assert row["measured_seconds"] == 0.05
    assert row["error"] == pytest.approx(row["estimated_seconds"] / 0.05 - 1, rel=1e-12)
    assert row["low_seconds"] < row["high_seconds"]


def made(error: float, low: float | None = 0.9, high: float | None = 1.1) -> Scored:
    """A row that was measured at 1 s, with a band as given."""
    return Scored("x", 1.0, 1.0 + error, error, low, high)


def test_statistics_of_a_table_made_by_hand() -> None:
    errors = [-0.5, -0.2, -0.1, 0.0, 0.1, 0.3]  # sizes in order: 0 .1 .1 .2 .3 .5
    found = statistics([made(error) for error in errors])
    assert found.n == 6
    assert found.median_abs_error == pytest.approx(0.15)
    assert found.p90_abs_error == pytest.approx(0.4)
    assert found.bias == pytest.approx(-0.05)
    assert found.coverage == 1.0


def test_coverage_counts_the_rows_that_have_a_band() -> None:
    rows = [made(0.0), made(0.0, 1.2, 1.4), made(0.0, 0.2, 3.0), made(0.0, None, None)]
    found = statistics(rows)
    assert found.coverage == pytest.approx(2 / 3)
    assert found.width == pytest.approx(1.1 / 0.9)  # of 1.17, 1.22 and 15
    assert statistics([made(0.0, None, None)]).coverage is None


def test_a_median_is_that_of_numpy(published: Score) -> None:
    errors = np.array([scored.error for _, scored in published.rows])
    assert published.overall.median_abs_error == pytest.approx(np.median(abs(errors)), rel=1e-12)
    assert published.overall.p90_abs_error == pytest.approx(np.quantile(abs(errors), 0.9), rel=1e-12)
    assert published.overall.bias == pytest.approx(np.median(errors), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("style", ["table", "markdown", "csv"])
def test_each_format_answers(ask: Ask, write: Write, style: str) -> None:
    found = ask("validate", "--measurements", write({}, {"id": "two"}), "--format", style)
    assert (found.status, found.err) == (0, "")
    assert "vllm" in found.out
    if style == "csv":
        assert len(list(csv.DictReader(found.out.splitlines()))) == 2


def test_a_slip_of_the_unit_is_asked_about(ask: Ask, write: Write) -> None:
    assert "is measured_s in seconds?" in ask("validate", "--measurements", write({"measured_s": "50"})).out
    assert "is measured_s in seconds?" not in ask("validate", "--measurements", write({})).out


def test_the_table_fits_80_columns(ask: Ask) -> None:
    lines = ask("validate").out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert len(lines) < 190


def test_ideal_can_be_scored_too(ask: Ask, write: Write) -> None:
    path = write({})
    (ideal,), (fitted,) = answer(ask, path, "--method", "ideal")["rows"], answer(ask, path)["rows"]
    assert ideal["estimated_seconds"] < fitted["estimated_seconds"]
    assert ideal["low_seconds"] is None


# Tables of one's own


def test_unknown_columns_are_ignored(ask: Ask, write: Write) -> None:
    assert answer(ask, write({"weather": "rain", "notes": "a, b"}))["rows"] == answer(ask, write({}))["rows"]


def test_a_table_that_a_spreadsheet_saved_is_read(ask: Ask, write: Write) -> None:
    path = Path(write({}))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert answer(ask, str(path))["overall"]["n"] == 1


SKIPPED = [
    ({"model_name": "llama-2-7bb"}, "llama-2-7b"),
    ({"gpu_name": "a100-sxm-8gb"}, "a100-sxm-80gb"),
    ({"dtype_name": "w5a16"}, "w5a16"),
    ({"metric": "latency"}, "ttft, tpot, total_latency"),
    ({"kind": "serving", "metric": "ttft"}, "kind serving has a tpot"),
    ({"kind": "odd"}, "static, serving, waves"),
    ({"measured_s": "fast"}, "measured_s must be a number"),
    ({"measured_s": "nan"}, "measured_s"),
    ({"measured_s": "-1"}, "measured_s"),
    ({"measured_s": "0"}, "measured_s"),
    ({"batch_size": "0"}, "batch_size"),
    ({"batch_size": ""}, "batch_size"),
    ({"seq_len": "1e300"}, "seq_len"),
    ({"num_tokens_to_generate": "inf"}, "num_tokens_to_generate"),
    ({"tp_size": "0"}, "tp_size must be a whole number"),
    ({"tp_size": "1.5"}, "tp_size must be a whole number"),
    ({"tp_size": "3"}, "tp_size 3 does not divide"),
    ({"model_name": "llama-2-70b"}, "does not fit"),
    ({"model_name": "/nowhere.json"}, "nowhere.json"),
]


@pytest.mark.parametrize(("change", "reason"), SKIPPED)
def test_a_row_that_cannot_be_estimated_is_listed_with_its_reason(
    ask: Ask, write: Write, change: dict[str, str], reason: str
) -> None:
    bare = dict.fromkeys(set(change) - set(ROW), "")
    found = answer(ask, write(bare, change | {"id": "two"}))
    assert [row["id"] for row in found["rows"]] == ["one"]
    (skipped,) = found["skipped"]
    assert skipped["id"] == "two"
    assert reason in skipped["reason"]
    question = ["validate", "--measurements", write(bare, change | {"id": "two"})]
    assert "skipped: 1 row, two:" in ask(*question).out
    as_csv = ask(*question, "--format", "csv")
    assert (as_csv.out.count("\n"), as_csv.err.startswith("llm-analysis: note: skipped: 1 row, two:")) == (2, True)


@pytest.mark.parametrize("column", REQUIRED)
def test_a_row_with_an_empty_cell_in_a_required_column_is_skipped(write: Write, column: str) -> None:
    total = {"metric": "total_latency"}
    rows, skipped = read_measurements(Path(write(total, {"id": "two", **total, column: " "})))
    assert [m.id for m in rows] == ["one"]
    assert skipped == [("row 2" if column == "id" else "two", f"{column} is empty")]


@pytest.mark.parametrize("metric", ["ttft", "tpot"])
def test_a_step_needs_no_number_of_tokens(write: Write, metric: str) -> None:
    """Some publications state a decode step behind a prompt, and no output."""
    rows, skipped = read_measurements(Path(write({"metric": metric, "num_tokens_to_generate": ""})))
    assert [(m.num_tokens, m.decode_steps) for m in rows] == [(1.0, 1.0 if metric == "tpot" else 0.0)]
    assert skipped == []


def test_a_table_with_rows_set_apart_only_is_refused_with_the_reasons(ask: Ask, write: Write) -> None:
    path = write({"measured_s": "1e-6", "grade": ""}, {"id": "two", "grade": "C"}, {"id": "three", "metric": "latency"})
    found = ask("validate", "--measurements", path)
    assert (found.status, found.err.count("\n")) == (1, 1)
    assert "1 row, one, set apart: impossible: faster than the FLOP/s or the bandwidth" in found.err
    assert "1 row, two, set apart: grade C" in found.err
    assert "1 row, three, skipped: metric 'latency' is not one of" in found.err


@pytest.mark.parametrize(
    "change",
    [
        {"seq_len": "4097", "measured_s": "1"},
        {"kind": "serving", "metric": "tpot", "seq_len": "4090"},
        {"metric": "total_latency", "seq_len": "4090", "measured_s": "1"},
    ],
)
def test_a_row_beyond_the_positions_of_its_model_is_scored_with_a_note(
    ask: Ask, write: Write, change: dict[str, str]
) -> None:
    """Published batches of TensorRT-LLM and FasterTransformer are so long; Qwen3's documentation extends them."""
    path = write(change, {"id": "two"})
    assert len(answer(ask, path)["rows"]) == 2
    told = " ".join(ask("validate", "--measurements", path).out.split())
    assert "1 row, one, has more tokens of prompt and output than the model has positions" in told


def refused(ask: Ask, *flags: str) -> str:
    found = ask("validate", *flags)
    assert (found.status, found.out) == (1, "")
    assert found.err.count("\n") == 1
    return found.err


def test_a_table_that_is_none_is_refused_in_one_line(ask: Ask, write: Write, tmp_path: Path) -> None:
    for name in REQUIRED:
        assert f"no column '{name}'" in refused(ask, "--measurements", write({name: None}))
    for content, said in ((b"", "no column"), (b"\xff\xfe\x00", "not text in UTF-8"), (b'{"a": 1}', "no column")):
        (tmp_path / "odd.csv").write_bytes(content)
        assert said in refused(ask, "--measurements", str(tmp_path / "odd.csv"))
    (tmp_path / "odd.csv").write_text(",".join(ROW) + "\n")
    assert "no rows" in refused(ask, "--measurements", str(tmp_path / "odd.csv"))
    assert "no such file" in refused(ask, "--measurements", str(tmp_path / "none.csv"))
    assert "a folder, not a file" in refused(ask, "--measurements", str(tmp_path))
    assert "metric" in refused(ask, "--measurements", write({"metric": "latency"}))


BAD_FLAGS = [
    (["--max_median_error", "-0.1"], "max_median_error"),
    (["--max_p90_error", "much"], "max_p90_error must be a number"),
    (["--max_p90_error", "1e999"], "max_p90_error must be a finite number"),
    (["--format", "yaml"], "unknown format"),
    (["--method", "published"], "unknown method"),
    (["--runtime", "vlm"], "did you mean vllm"),
    (["--measurements", ""], "measurements must be the path"),
]


@pytest.mark.parametrize(("flags", "said"), BAD_FLAGS)
def test_a_wrong_flag_is_refused_in_one_line(ask: Ask, flags: list[str], said: str) -> None:
    assert said in refused(ask, *flags)


@pytest.mark.parametrize("flag", ["max_median_error", "max_p90_error"])
def test_a_bound_that_is_exceeded_fails_after_the_answer(ask: Ask, write: Write, flag: str) -> None:
    path = write({})
    error = answer(ask, path)["overall"]["median_abs_error"]
    assert ask("validate", "--measurements", path, f"--{flag}", f"{error + 1e-6:.6f}").status == 0
    found = ask("validate", "--measurements", path, f"--{flag}", f"{error - 1e-3:.6f}")
    assert found.status == 1
    assert "by runtime" in found.out
    assert "is above" in found.err
    assert found.err.count("\n") == 1


# The published figures


def test_every_published_row_is_read_and_has_its_source() -> None:
    with EVIDENCE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    measurements, unread = read_measurements(EVIDENCE)
    assert unread == []
    assert len(measurements) == len(rows) >= 300
    assert len({row["id"] for row in rows}) == len(rows)
    assert [row["id"] for row in rows if not row["source_ref"].strip() or not row["source"].strip()] == []


def test_no_published_row_is_dropped_silently(published: Score) -> None:
    measurements, unread = read_measurements(EVIDENCE)
    scored = [m for m, _ in published.rows] + [m for m, _, _ in published.set_apart]
    told = [m.id for m in scored] + [name for name, _ in published.skipped]
    assert sorted(told) == sorted([m.id for m in measurements] + [name for name, _ in unread])
    assert all(reason for _, reason in published.skipped)


def test_the_first_benchmark_is_in_no_fit() -> None:
    for name in runtime_names():
        runtime = get_runtime(name)
        assert OWN_BENCHMARK not in runtime.evidence.sources
        assert [fold for fold in runtime.held_out if OWN_BENCHMARK in fold] == []


def first(rows: list[Measurement], name: str) -> Measurement:
    """A row of a runtime that was fitted anew without it."""
    folds = get_runtime(name).held_out
    return next(m for m in rows if m.engine == name and f"{m.source} | {m.gpu_name}" in folds)


@pytest.mark.parametrize("name", ["tensorrt-llm-0.20", "vllm", "llama.cpp"])
def test_a_row_is_scored_by_a_fit_that_has_not_seen_it(name: str) -> None:
    row = first(read_measurements(EVIDENCE)[0], name)
    whole = scored_row(replace(row, source="somewhere else"), name, "calibrated")
    assert scored_row(row, name, "calibrated").estimated_seconds != whole.estimated_seconds


def test_rows_timed_together_agree_with_single_estimates(published: Score) -> None:
    """Arrays over all rows add the same operators as one estimate after another, prompts in one pass."""
    for name in ("none", "vllm", "tensorrt-llm-0.9"):
        runtime = get_runtime(name)
        chosen = [m for m, _ in published.rows if name in ("none", m.engine) and m.kind == "static" and m.pp_size == 1]
        rows = Rows([m for m in chosen if gpu_named(m.gpu_name).vendor != "AMD" and float(m.seq_len).is_integer()][:40])
        single = []
        for m in rows.measurements:
            parts = model_named(m.model_name), gpu_named(m.gpu_name), m.dtypes(), m.layout()
            tokens = int(m.decode_steps) + 1 if m.metric != "ttft" else 1
            answer = LLMAnalysis(*parts, method="calibrated", runtime=runtime).inference(
                batch_size_per_gpu=int(m.batch_size),
                seq_len=int(m.seq_len),
                num_tokens_to_generate=tokens,
                prefill_chunk_size=0,
            )
            by_metric = {"ttft": answer.prefill_latency, "tpot": answer.decode_latency}
            single.append(by_metric.get(m.metric, answer.total_latency))
        assert rows.seconds(runtime) == pytest.approx(np.array(single), rel=1e-9), name


def test_a_pipeline_is_timed_like_any_estimate() -> None:
    rows = Rows([m for m in read_measurements(EVIDENCE)[0] if m.pp_size > 1 and m.metric == "total_latency"][:6])
    assert rows.measurements
    for m, seconds in zip(rows.measurements, rows.seconds(get_runtime("fastertransformer")), strict=True):
        parts = model_named(m.model_name), gpu_named(m.gpu_name), m.dtypes(), m.layout()
        answer = LLMAnalysis(*parts, method="calibrated", runtime=get_runtime("fastertransformer")).inference(
            batch_size_per_gpu=int(m.batch_size),
            seq_len=int(m.seq_len),
            num_tokens_to_generate=int(m.decode_steps) + 1,
        )
        assert seconds == pytest.approx(answer.total_latency, rel=1e-9)


def serving(concurrency: float, prompt: float, tokens: float, kind: str = "serving") -> Measurement:
    """A row of a server: Llama-3.1-8B in 16 bits on an H100, under no runtime."""
    return Measurement(
        id="served",
        source="mine",
        kind=kind,
        runtime="none",
        model_name="llama-3.1-8b",
        gpu_name="h100-sxm-80gb",
        dtype_name="w16a16",
        kv_dtype="",
        tp_size=1,
        pp_size=1,
        ep_size=1,
        batch_size=concurrency,
        seq_len=prompt,
        num_tokens=tokens,
        decode_steps=tokens - 1,
        metric="tpot",
        seconds=1.0,
    )


def seconds_of(*rows: Measurement) -> list[float]:
    found: list[float] = Rows(rows).seconds(get_runtime("none")).tolist()
    return found


def test_a_single_request_in_flight_is_decoded_alone() -> None:
    alone, static = seconds_of(serving(1, 512, 128), replace(serving(1, 512, 128), kind="static"))
    assert alone == pytest.approx(static, rel=1e-12)


def test_each_other_request_adds_one_prefill_per_generated_tokens() -> None:
    """c requests of n tokens: (c - 1) / n prompts per step, whose extra time is that of the joint pass."""
    with_joins, decode, prefill = seconds_of(
        serving(9, 2048, 128),
        replace(serving(9, 2048, 128), kind="static"),
        replace(serving(1, 2048, 1), metric="ttft", kind="static"),
    )
    extra = (with_joins - decode) / (8 / 128)
    assert 0.7 * prefill < extra < prefill  # the weights are read once for both


def test_requests_beyond_the_kv_cache_wait() -> None:
    """Llama-3.1-8B in 16 bits on an H100, whose driver reports 85.5 GB: (0.9 x 85.5 - 16 - 1.5) GB hold about 14
    sequences of 32k tokens at 131 kB per token.
    """
    rows = Rows([serving(c, 32000, 1000) for c in (8, 64)])
    few, many = rows.decoding
    assert few == 8
    assert many == pytest.approx((0.9 * 85.5e9 - 16.06e9 - 1.5e9) / (32500 * 131072), rel=0.03)


def test_the_wait_in_waves_follows_from_the_number_of_chunks() -> None:
    """64 prompts of 1,024 tokens are 8 chunks of 8,192: TTFT is 4.5 chunks, TPOT grows by 3.5 chunks over 127 steps."""
    chunk, ttft, tpot, static = seconds_of(
        replace(serving(8, 1024, 128, kind="static"), metric="ttft"),
        replace(serving(64, 1024, 128, kind="waves"), metric="ttft"),
        serving(64, 1024, 128, kind="waves"),
        replace(serving(64, 1024, 128), kind="static"),
    )
    assert ttft == pytest.approx(4.5 * chunk, rel=1e-9)
    assert tpot - static == pytest.approx(3.5 * chunk / 127, rel=1e-9)


def test_rows_faster_than_the_datasheet_are_set_apart_with_the_reason(ask: Ask, write: Write) -> None:
    """16.06 GB of weights take 4.8 ms at 3.35 TB/s; prefill of 64 x 2,048 tokens takes 2.1 PFLOP."""
    h100 = {"gpu_name": "h100-sxm-80gb", "model_name": "llama-3.1-8b", "metric": "tpot"}
    rows = [
        {**h100, "id": "fast", "measured_s": "0.0045"},
        {**h100, "id": "possible", "measured_s": "0.0060"},
        {**h100, "id": "prefill", "metric": "ttft", "batch_size": "64", "seq_len": "2048", "measured_s": "1.5"},
    ]
    found = answer(ask, write(*rows))
    assert [row["id"] for row in found["rows"]] == ["possible"]
    assert [(row["id"], "impossible" in row["reason"]) for row in found["set_apart"]] == [
        ("fast", True),
        ("prefill", True),
    ]


def test_a_published_ttft_lowers_the_rate_of_requests() -> None:
    """64 requests of 4,096 + 128 tokens every second need 4.2 PFLOP/s; every 10 s a tenth."""
    busy = replace(serving(64, 4096, 128), seconds=0.5 / 127)
    rows = Rows([busy, replace(busy, ttft=60.0)])
    assert list(rows.impossible()) == [0]


def test_an_engine_without_a_runtime_is_scored_with_the_shared_terms(ask: Ask, write: Write) -> None:
    path = write({"runtime": "my-engine"})
    found = ask("validate", "--measurements", path)
    assert "1 row of my-engine, which has no runtime: scored with --runtime unknown" in " ".join(found.out.split())
    assert answer(ask, path)["rows"] == answer(ask, path, "--runtime", "unknown")["rows"]


def test_a_run_that_is_printed_twice_is_read_once(write: Write) -> None:
    """Its TTFT and the digits of its TPOT are the same. Without a TTFT two runs can have the same time."""
    run = {"kind": "serving", "metric": "tpot", "measured_s": "0.025868"}
    again = {**run, "id": "two", "measured_s": "0.02587"}
    with_ttft = write({**run, "ttft_ms": "891.16"}, {**again, "ttft_ms": "891.16"}, {**again, "ttft_ms": "891.2"})
    rows, skipped = read_measurements(Path(with_ttft))
    assert [m.ttft for m in rows] == [0.89116, 0.8912]
    assert skipped == [("two", "the same run as one")]
    assert read_measurements(Path(write(run, again)))[1] == []


def test_rows_of_grade_c_are_set_apart(ask: Ask, write: Write) -> None:
    found = answer(ask, write({"grade": "B"}, {"id": "two", "grade": "C"}))
    assert [row["id"] for row in found["rows"]] == ["one"]
    assert "grade C" in found["set_apart"][0]["reason"]


def test_a_band_of_a_row_is_built_without_its_source_gpu_and_model() -> None:
    known = residuals.residuals()
    row = next(m for m in read_measurements(EVIDENCE)[0] if m.source == "Qwen2.5 docs speed benchmark" and m.is_dense)
    others = [entry for entry in known if entry.group != row.group]
    assert len(others) < len(known)
    assert residuals.held_out_band(row) == residuals.bands_of(others)[residuals.cell_of(row)]
    new = replace(row, source="somewhere else")
    assert residuals.held_out_band(new) == residuals.bands_of(known)[residuals.cell_of(row)]


def test_the_bands_in_the_data_are_those_of_the_residuals() -> None:
    assert cells() == residuals.bands_of(residuals.residuals())


def test_each_group_has_the_same_weight_in_a_band() -> None:
    """Nine groups with one row at 1.0 each outweigh one group with a thousand rows at 2.0: its weight is a tenth."""
    low, high = residuals.percentiles([[2.0] * 1000, *[[1.0]] * 19])
    assert (low, high) == (1.0, 1.0)
    low, high = residuals.percentiles([[2.0] * 1000, *[[1.0]] * 4])
    assert (low, high) == (1.0, 2.0)


def test_classes_follow_phase_format_and_experts(published: Score) -> None:
    for m, _ in published.rows:
        experts = model_named(m.model_name).num_experts > 0
        narrow = m.dtype_name not in ("w16a16", "fp8") or experts
        expected = "prefill" if m.metric == "ttft" else "experts" if narrow else "dense"
        assert goal_class(m).startswith(expected), m.id


def test_the_csv_has_the_workload_and_both_values(ask: Ask, write: Write) -> None:
    found = ask("validate", "--measurements", write({}), "--format", "csv")
    (row,) = csv.DictReader(found.out.splitlines())
    assert (row["model_name"], row["gpu_name"], row["batch_size"], row["seq_len"]) == (
        "llama-2-7b",
        "a100-sxm-80gb",
        "1.0",
        "512.0",
    )
    assert float(row["measured_seconds"]) == 0.05
    assert float(row["estimated_seconds"]) == pytest.approx(0.05 * (1 + float(row["error"])))


def test_the_errors_may_only_fall(published: Score) -> None:
    static = statistics([scored for m, scored in published.rows if m.kind == "static"])
    assert static.median_abs_error <= STATIC_MEDIAN
    assert published.overall.p90_abs_error <= OVERALL_P90


def test_the_first_benchmark_is_met_as_far_as_it_is(published: Score) -> None:
    errors = {m.id: abs(scored.error) for m, scored in published.rows if m.source == OWN_BENCHMARK}
    assert errors.keys() == OWN_BOUNDS.keys()
    assert {name: error for name, error in errors.items() if error > OWN_BOUNDS[name]} == {}


def test_the_bands_contain_most_rows(published: Score) -> None:
    assert published.overall.coverage is not None
    assert 0.75 <= published.overall.coverage <= 0.85
    assert published.overall.width is not None
    assert published.overall.width <= 1.6


def test_the_kernels_alone_meet_an_engine_that_adds_nothing(published: Score) -> None:
    """gpt-fast captures a whole step in one CUDA graph: on one GPU in 16 bits its kernels are all there is."""
    rows = [m for m, _ in published.rows if (m.source, m.dtype_name, m.tp_size) == ("gpt-fast README", "w16a16", 1)]
    assert rows
    assert max(abs(scored_row(m, "none", "calibrated").error) for m in rows) < 0.03
