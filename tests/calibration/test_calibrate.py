"""A runtime fitted to a user's measurements: the terms that few rows determine, held-out errors, the written file."""

import csv
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Ask

from llm_analysis.calibration import calibrate
from llm_analysis.calibration.calibrate import Calibration, calibrated, terms_for
from llm_analysis.calibration.measurements import Measurement, read_measurements
from llm_analysis.calibration.timing import Rows
from llm_analysis.catalog import get_gpu, get_model
from llm_analysis.inference.engines import engine_of
from llm_analysis.inference.runtimes import NONE, Runtime, get_runtime
from llm_analysis.inference.scenario import Scenario

pytest.importorskip("scipy")

EXAMPLE = ROOT / "examples" / "my_measurements.csv"
COLUMNS = {
    "id": "id",
    "source": "source",
    "runtime": "runtime",
    "model_name": "model_name",
    "gpu_name": "gpu_name",
    "tp_size": "tp_size",
    "dtype_name": "dtype_name",
    "batch_size": "batch_size",
    "seq_len": "seq_len",
    "num_tokens_to_generate": "num_tokens",
    "metric": "metric",
    "measured_s": "seconds",
}
MODELS = ("llama-2-7b", "llama-2-13b", "qwen2.5-0.5b", "qwen2.5-3b")
Write = Callable[[Sequence[Measurement]], Path]


def row(name: str, runtime: str = "none", **changes: Any) -> Measurement:
    """A decode step of a model."""
    one = Measurement(
        id=name,
        source="mine",
        kind="static",
        runtime=runtime,
        model_name="llama-2-7b",
        gpu_name="a100-sxm-80gb",
        dtype_name="w16a16",
        kv_dtype="",
        tp_size=1,
        pp_size=1,
        ep_size=1,
        batch_size=1.0,
        seq_len=512.0,
        num_tokens=64.0,
        decode_steps=63.0,
        metric="tpot",
        seconds=1.0,
    )
    return replace(one, **changes)


def measured_under(runtime: Runtime, rows: Sequence[Measurement]) -> list[Measurement]:
    """The rows as that runtime would have given them."""
    return [replace(m, seconds=s) for m, s in zip(rows, Rows(list(rows)).seconds(runtime).tolist(), strict=True)]


def many() -> list[Measurement]:
    """Rows of four models, three batches, one GPU and two."""
    return [
        row(f"{model} {batch:g} {tp}", model_name=model, batch_size=batch, tp_size=tp)
        for model in MODELS
        for batch in (1.0, 16.0, 64.0)
        for tp in (1, 2)
    ]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows as a table."""

    def written(rows: Sequence[Measurement]) -> Path:
        path = tmp_path / "mine.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows([getattr(m, attribute) for attribute in COLUMNS.values()] for m in rows)
        return path

    return written


def fitted(path: Path, name: str = "mine") -> Calibration:
    return calibrated(path, None, name)


TRUE = Runtime(
    name="mine", step_seconds=2e-3, layer_seconds=30e-6, sequence_seconds=40e-6, collective_seconds=25e-6
)  # a slow engine


def test_one_row_fits_one_term_and_says_so(write: Write) -> None:
    true = Runtime(name="x", step_seconds=3e-3)
    found = fitted(write(measured_under(true, [row("one")])))
    assert found.terms == ("step_seconds",)
    assert found.runtime.step_seconds == pytest.approx(3e-3, rel=0.05)
    assert (found.before, found.after) == ((), ())
    assert "none is left to check the fit with" in found.notes[0]
    assert "1 row determines 1 of 4 terms" in found.notes[1]


def test_many_rows_of_a_known_runtime_give_it_back(write: Write) -> None:
    found = fitted(write(measured_under(TRUE, many())))
    assert set(found.terms) == set(calibrate.DETERMINED_BY)
    for term in found.terms:
        assert getattr(found.runtime, term) == pytest.approx(getattr(TRUE, term), rel=0.1), term
    assert max(abs(error) for error in found.after) < 0.02
    assert found.notes == ()


def test_more_rows_tell_more_terms() -> None:
    rows = many()
    counts = [len(terms_for(rows[:n])) for n in range(1, len(rows) + 1)]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert counts[-1] == len(calibrate.DETERMINED_BY)
    assert terms_for([row(str(i)) for i in range(50)]) == ["step_seconds"]  # all alike: one term


def test_before_and_after_are_of_rows_left_out(write: Write) -> None:
    """A row that contradicts all others is as far off after as before: no fit has seen it when it is scored."""
    rows = measured_under(TRUE, many())
    odd = replace(rows[0], seconds=rows[0].seconds * 3)
    found = fitted(write([odd, *rows[1:]]))
    assert found.after[0] == pytest.approx(-2 / 3, abs=0.03)
    assert found.before[0] == pytest.approx(float(Rows([odd]).seconds(NONE)[0]) / odd.seconds - 1, rel=1e-9)
    assert sorted(abs(e) for e in found.after)[len(rows) // 2] < 0.02


def test_the_fit_of_few_rows_starts_from_a_known_runtime(write: Write) -> None:
    start = get_runtime("vllm")
    found = fitted(write(measured_under(start, [row("one", "vllm")])))
    for term in ("step_seconds", "layer_seconds", "sequence_seconds", "collective_seconds"):
        assert getattr(found.runtime, term) == pytest.approx(getattr(start, term), rel=0.02, abs=1e-9), term
    assert found.runtime.collective == start.collective
    assert found.runtime.evidence.sources == {"mine.csv": 1}


def test_a_fitted_runtime_keeps_the_engine_that_it_started_from(write: Write, tmp_path: Path) -> None:
    """Its scheduler, its defaults, and the largest batch up to which the host time per sequence grows."""
    rows = [row(str(i), "sglang", batch_size=float(2**i)) for i in range(6)]
    found = fitted(write(measured_under(get_runtime("sglang"), rows))).runtime
    path = tmp_path / "mine.json"
    path.write_text(calibrate.as_json(found))
    read = get_runtime(str(path))
    scenario = Scenario.of(get_model("llama-3.1-8b"), get_gpu("h100-sxm-80gb"), runtime=read)
    assert scenario.engine == engine_of("sglang")
    assert read.evidence.largest_batch == 32
    one = fitted(write(measured_under(get_runtime("sglang"), rows[:1]))).runtime  # takes the time per sequence over
    assert one.evidence.largest_batch == get_runtime("sglang").evidence.largest_batch


def test_rows_of_another_runtime_are_left_out_and_told(write: Write) -> None:
    rows = measured_under(TRUE, [row("one"), row("two", "sglang")])
    found = fitted(write(rows))
    assert found.runtime.evidence.rows == 1
    assert "skipped two: of another runtime, sglang" in found.notes
    assert calibrated(write(rows), "vllm", "mine").runtime.evidence.rows == 2  # asked for: all are


def test_an_engine_of_ones_own_starts_from_the_kernels_alone_and_says_so(write: Write) -> None:
    rows = measured_under(TRUE, many())
    found, bare = (fitted(write([replace(m, runtime=name) for m in rows])) for name in ("my-engine", "none"))
    assert found.notes == (
        "runtime 'my-engine' is new: the fit starts from none; --runtime NAME starts from a known one",
    )
    assert (found.runtime.layer_seconds, found.after) == (bare.runtime.layer_seconds, bare.after)
    assert fitted(write([row("one", "vlm")])).notes[0].endswith("the fit starts from none; did you mean vllm, vllm-v1?")


def test_rows_faster_than_the_kernels_alone_are_told(write: Write) -> None:
    (one,) = measured_under(NONE, [row("one", "my-engine")])
    notes = fitted(write([replace(one, seconds=one.seconds / 1.1)])).notes
    assert notes[-1] == "the rows are faster than the other terms of none allow"


IMPOSSIBLE = "impossible: faster than the FLOP/s or the bandwidth of the datasheet allow"


def test_rows_that_validate_sets_apart_are_left_out_and_told(write: Write) -> None:
    """A microsecond for a step, which no GPU reaches, would take the fitted host time to zero."""
    good = measured_under(TRUE, many())
    found, alone = fitted(write([row("fast", seconds=1e-6), *good])), fitted(write(good))
    assert f"set apart fast: {IMPOSSIBLE}" in found.notes
    assert found.runtime.evidence.rows == len(good)
    assert (found.terms, found.before, found.after) == (alone.terms, alone.before, alone.after)
    assert found.runtime.step_seconds == alone.runtime.step_seconds


def test_a_table_with_impossible_rows_only_is_refused_with_the_reason(ask: Ask, write: Write, tmp_path: Path) -> None:
    path = write([row("fast", seconds=1e-6)])
    told = refused(ask, tmp_path, "--measurements", str(path), "--output_file", str(tmp_path / "x.json"))
    assert f"no row can be fitted: fast is set apart: {IMPOSSIBLE}" in told


def test_rows_beyond_the_positions_have_a_note(write: Write) -> None:
    (one,) = measured_under(TRUE, [row("one")])
    notes = fitted(write([one, *measured_under(TRUE, [row("long", seq_len=4090.0)])])).notes
    assert "1 row, long, has more tokens of prompt and output than the model has positions" in notes


def test_rows_in_milliseconds_are_told(write: Write) -> None:
    rows = [replace(m, seconds=m.seconds * 1e3) for m in measured_under(TRUE, many())]
    assert any(note.endswith("of those measured: is measured_s in seconds?") for note in fitted(write(rows)).notes)


def test_rows_that_cannot_be_fitted_are_told(write: Write) -> None:
    rows = measured_under(TRUE, [row("one")])
    notes = fitted(write([*rows, row("two", model_name="llama-2-7bb"), row("three", gpu_name="a1000")])).notes
    assert any("skipped two" in note and "llama-2-7b" in note for note in notes)
    assert any("skipped three" in note for note in notes)


def test_the_file_is_accepted_and_gives_the_fitted_estimate(ask: Ask, write: Write, tmp_path: Path) -> None:
    target = tmp_path / "fitted.json"
    done = ask("calibrate", "--measurements", str(write(measured_under(TRUE, many()))), "--output_file", str(target))
    assert (done.status, done.err) == (0, "")
    assert f"infer --runtime {target}" in done.out
    asked = ["--model_name", "llama-2-7b", "--gpu_name", "a100-sxm-80gb", "--num_tokens_to_generate", "64"]
    answer = ask("infer", *asked, "--runtime", str(target), "--format", "json")
    assert (answer.status, answer.err) == (0, "")
    estimate = json.loads(answer.out)
    assert estimate["runtime"] == "fitted"
    wanted = float(Rows([row("one")]).seconds(get_runtime(str(target)))[0])
    assert estimate["decode_latency"] == pytest.approx(wanted, rel=1e-9)
    assert estimate["decode_latency"] == pytest.approx(float(Rows([row("one")]).seconds(TRUE)[0]), rel=0.02)


def test_a_fitted_runtime_never_takes_the_name_of_a_known_one(ask: Ask, write: Write, tmp_path: Path) -> None:
    path = write(measured_under(TRUE, [row("one")]))
    assert ask("calibrate", "--measurements", str(path), "--output_file", str(tmp_path / "vllm.json")).status == 0
    assert get_runtime(str(tmp_path / "vllm.json")).name == "my-vllm"


def test_the_bands_of_enough_rows_are_their_own(write: Write) -> None:
    found = fitted(write(measured_under(TRUE, many())))
    band = found.runtime.band("total")
    assert band is not None
    assert 0.95 < band.low <= 1 <= band.high < 1.05


def test_a_fit_does_not_keep_the_bands_of_the_fit_that_it_starts_from(write: Write, tmp_path: Path) -> None:
    """They are errors of the other fit; one row is too few for bands of its own."""
    first = fitted(write(measured_under(TRUE, many()))).runtime
    path = tmp_path / "first.json"
    path.write_text(calibrate.as_json(first))
    again = calibrated(write(measured_under(TRUE, [row("one")])), str(path), "again").runtime
    assert first.bands
    assert again.bands == {}


def test_the_example_is_improved_by_its_calibration() -> None:
    measurements, unread = read_measurements(EXAMPLE)
    assert unread == []
    assert all(m.source for m in measurements)
    found = calibrated(EXAMPLE, None, "mine")
    before, after = (sorted(abs(e) for e in errors)[len(errors) // 2] for errors in (found.before, found.after))
    assert after < before / 2


@pytest.mark.parametrize("style", ["table", "markdown", "csv", "json"])
def test_each_format_answers(ask: Ask, tmp_path: Path, style: str) -> None:
    target = ["--output_file", str(tmp_path / "x.json"), "--format", style]
    done = ask("calibrate", "--measurements", str(EXAMPLE), *target)
    note = "note: 11 rows determine 2 of 4 terms; the others are those of vllm"
    assert (done.status, done.err) == (0, f"llm-analysis: {note}\n" if style == "csv" else "")
    assert "step_seconds" in done.out
    if style == "json":
        assert {"terms", "before", "after", "notes", "runtime"} <= set(json.loads(done.out))
    elif style == "csv":
        (row,) = csv.DictReader(done.out.splitlines())
        assert float(row["step_seconds"]) == get_runtime(str(tmp_path / "x.json")).step_seconds
        assert float(row["after_median_error"]) < float(row["before_median_error"]) / 2
    else:
        assert note in done.out


def refused(ask: Ask, folder: Path, *flags: str) -> str:
    before = sorted(folder.iterdir())
    found = ask("calibrate", *flags)
    assert (found.status, found.out) == (1, "")
    assert found.err.count("\n") == 1
    assert sorted(folder.iterdir()) == before
    return found.err


def test_bad_input_is_refused_in_one_line_and_nothing_is_written(ask: Ask, write: Write, tmp_path: Path) -> None:
    good = ["--measurements", str(write(measured_under(TRUE, [row("one")])))]
    target = ["--output_file", str(tmp_path / "x.json")]
    assert "--measurements is missing" in refused(ask, tmp_path, *target)
    assert "no such file" in refused(ask, tmp_path, "--measurements", str(tmp_path / "none.csv"), *target)
    assert "a folder, not a file" in refused(ask, tmp_path, "--measurements", str(tmp_path), *target)
    assert "must end in .json" in refused(ask, tmp_path, *good, "--output_file", str(tmp_path / "x.txt"))
    assert "no such folder" in refused(ask, tmp_path, *good, "--output_file", str(tmp_path / "none" / "x.json"))
    assert "unknown format" in refused(ask, tmp_path, *good, *target, "--format", "yaml")
    assert "did you mean vllm" in refused(ask, tmp_path, *good, *target, "--runtime", "vlm")
    (tmp_path / "folder.json").mkdir()
    assert "is a folder" in refused(ask, tmp_path, *good, "--output_file", str(tmp_path / "folder.json"))


def test_no_usable_row_is_refused_with_the_reason(ask: Ask, write: Write, tmp_path: Path) -> None:
    target = ["--output_file", str(tmp_path / "x.json")]
    rows = [row("one", model_name="llama-2-7bb"), row("two", tp_size=3)]
    assert "llama-2-7b" in refused(ask, tmp_path, "--measurements", str(write(rows)), *target)
    path = write([row("one", metric="latency")])
    assert "ttft, tpot, total_latency" in refused(ask, tmp_path, "--measurements", str(path), *target)
    path = write([row("one", runtime="none.json")])
    assert "none.json: no such file" in refused(ask, tmp_path, "--measurements", str(path), *target)


def test_without_scipy_one_line_says_what_to_install(
    ask: Ask, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(measured_under(TRUE, [row("one")]))
    monkeypatch.setitem(sys.modules, "scipy", None)
    target = ["--output_file", str(tmp_path / "x.json")]
    assert "pip install 'llm-analysis[calibrate]'" in refused(ask, tmp_path, "--measurements", str(path), *target)
