"""Sweeps: rows identical to infer, selection, files, shards, interrupts."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Ask
from hypothesis import given
from hypothesis import strategies as st

from llm_analysis.cli.commands.infer import infer
from llm_analysis.cli.flags import flags_of
from llm_analysis.errors import BadValue, UnknownName, Unsupported
from llm_analysis.explore.columns import COLUMNS, TRUTH, WHOLE
from llm_analysis.explore.sweep import BLOCK, Selection, Sweep, Top
from llm_analysis.explore.where import TEXT
from llm_analysis.explore.writers import writer_of
from llm_analysis.inference.analysis import estimate
from llm_analysis.inference.question import question

OUTPUTS = (
    "format",
    "log_level",
    "output_dir",
    "output_file_prefix",
    "output_file_suffix",
    "must_fit",
    "full",
    "max_concurrency",
)
DEFAULTS = {name: flag.default for name, flag in flags_of(infer).items() if name not in OUTPUTS}
AXES = {"batch_size_per_gpu": "1,3,100", "seq_len": "7,500,3000", "num_tokens_to_generate": "1,2,9,300"}
SMALL = ("--model_name", "llama-3.1-8b", "--gpu_name", "h100-sxm-80gb", "--batch_size_per_gpu", "1:8")


def flags(**given: object) -> dict[str, Any]:
    return DEFAULTS | given


def answer(row: dict[str, Any], **given: object) -> dict[str, Any]:
    """The answer of infer to the question of a row."""
    asked = {name: row[name] for name in AXES}
    found = flags(**given, **asked)
    return estimate(*question(found), found["cost_per_gpu_hour"]).as_dict()


SCENARIOS: list[dict[str, Any]] = [
    {"model_name": "llama-3.1-70b", "gpu_name": "h200-sxm-141gb", "dtype_name": "fp8", "tp_size": 4, "pp_size": 2},
    {"model_name": "deepseek-v3", "gpu_name": "h200-sxm-141gb", "tp_size": 8, "ep_size": 8},
    {"model_name": "gemma-3-27b", "gpu_name": "l40s-48gb", "tp_size": 2, "cost_per_gpu_hour": 1.5},
    {"model_name": "llama-4-scout", "gpu_name": "mi300x-192gb", "tp_size": 2, "prefill_chunk_size": 512},
    {"model_name": "llama-3.1-8b", "gpu_name": "h100-sxm-80gb", "disaggregated": True, "num_samples": 3},
    {"model_name": "llama-3.1-8b", "gpu_name": "a100-sxm-80gb", "method": "ideal"},
    {"model_name": "llama-3.1-8b", "gpu_name": "h100-sxm-80gb", "use_kv_cache": False},
]


@pytest.mark.parametrize("given", SCENARIOS, ids=lambda given: given["model_name"])
def test_a_row_is_identical_to_infer_to_the_last_digit(given: dict[str, Any]) -> None:
    """Of all columns, at every point of the open axes: batches that fit or not, one decode step or many."""
    rows = list(Sweep(flags(**given, **AXES)).table().rows())
    assert len(rows) == 36
    for row in rows:
        expected = answer(row, **given)
        assert row == {name: expected[name] for name in COLUMNS}


def test_the_runtime_none_is_a_runtime() -> None:
    asked = flags(model_name="llama-3.1-8b", gpu_name="h100-sxm-80gb")
    rows = Sweep(asked | {"runtime": "none,vllm"}).table()
    assert rows["runtime"].tolist() == ["none", "vllm"]
    alone = estimate(*question(asked | {"runtime": "none"}))
    assert rows["decode_latency"].tolist()[0] == alone.decode_latency < rows["decode_latency"].tolist()[1]


def test_method_published_is_identical_too() -> None:
    given: dict[str, Any] = {"model_name": "test-13b", "gpu_name": "a100-sxm-40gb", "dtype_name": "w16a16e16"}
    given |= {"method": "published", "flops_efficiency": 0.7, "hbm_memory_efficiency": 0.9}
    rows = list(Sweep(flags(**given, **AXES | {"seq_len": "7,500,1500"})).table().rows())
    assert all(row == {name: answer(row, **given)[name] for name in COLUMNS} for row in rows)


@given(st.integers(1, 40), st.sampled_from(["llama-3.1-8b", "gemma-2-9b", "deepseek-v2-lite"]), st.integers(1, 4))
def test_rows_do_not_depend_on_the_block_size(block: int, model: str, pp: int) -> None:
    asked = flags(model_name=model, gpu_name="h100-sxm-80gb", pp_size=pp, **AXES)
    assert list(Sweep(asked, block).table().rows()) == list(Sweep(asked, BLOCK).table().rows())


@given(st.integers(1, 7), st.integers(1, 6), st.integers(1, 5), st.integers(1, 250))
def test_blocks_hold_at_most_their_size_and_cover_each_point_once(b: int, s: int, n: int, size: int) -> None:
    open_axes = {
        "batch_size_per_gpu": range(1, b + 1),
        "seq_len": range(1, s + 1),
        "num_tokens_to_generate": range(2, n + 2),
    }
    sweep = Sweep(flags(model_name="llama-3.2-1b", gpu_name="t4", **open_axes), size)
    parts = list(sweep._parts())
    sizes = [np.prod([len(values) for values in part.values()]) for part in parts]
    assert sum(sizes) == sweep.points == b * s * n
    assert max(sizes) <= size


def test_choices_vary_slowest_and_the_output_length_fastest() -> None:
    asked = flags(model_name="llama-3.2-1b", gpu_name="t4,l4-24gb", seq_len="8,16", num_tokens_to_generate="2,3")
    table = Sweep(asked).table()
    assert table["gpu_name"].tolist() == ["t4"] * 4 + ["l4-24gb"] * 4
    assert table["seq_len"].tolist() == [8, 8, 16, 16] * 2
    assert table["num_tokens_to_generate"].tolist() == [2, 3] * 4


def test_impossible_layouts_are_skipped_with_a_note() -> None:
    table = Sweep(flags(model_name="llama-3.1-8b", gpu_name="h100-sxm-80gb", tp_size="1,3", seq_len="8,16")).table()
    assert (table.points, table.num_rows) == (4, 2)
    assert table.notes[0].startswith("skipped 2 points: tp_size 3 does not divide the 32 attention heads")


def test_prompts_beyond_the_positions_of_the_model_are_skipped_with_a_note() -> None:
    table = Sweep(flags(model_name="llama-2-7b", gpu_name="h100-sxm-80gb", seq_len="2048:8192")).table()
    assert table["seq_len"].tolist() == [2048, 4096]
    assert table.notes == ("skipped 1 points: seq_len is more than the 4096 positions of llama-2-7b",)


@pytest.mark.parametrize("gpus", ["h100-sxm-80gb", "h100-sxm-80gb,h200-sxm-141gb,a100-sxm-80gb,l40s-48gb"])
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"cached_prefix_len": "5"}, "cached_prefix_len 5 must be below seq_len 4"),
        ({"cp_size": "8"}, "cp_size 8 is more than the 4 tokens of a prompt in one pass; try cp_size 4"),
    ],
)
def test_a_prompt_that_is_too_short_takes_no_longer_one_with_it(gpus: str, given: dict[str, str], reason: str) -> None:
    table = Sweep(flags(model_name="llama-3.1-8b", gpu_name=gpus, seq_len="4,100,3000", **given)).table()
    count = len(gpus.split(","))
    assert table["seq_len"].tolist() == [100, 3000] * count
    assert table.notes == (f"skipped {count} points: {reason}",)


def test_a_sweep_without_a_valid_point_gives_the_first_reason() -> None:
    with pytest.raises(Unsupported, match="tp_size 3 does not divide"):
        Sweep(flags(model_name="llama-3.1-8b", gpu_name="h100-sxm-80gb", tp_size="3,5")).table()


def test_unknown_names_end_a_sweep_at_once() -> None:
    with pytest.raises(UnknownName, match="l40s-48gb"):
        Sweep(flags(model_name="llama-3.1-8b", gpu_name="h100-sxm-80gb,l40s-48g")).table()


def test_a_table_selects_sorts_and_converts() -> None:
    table = Sweep(flags(model_name="llama-3.1-8b", gpu_name="h100-sxm-80gb", batch_size_per_gpu="1:4096")).table()
    fitting = table.where("fits=1 and tpot<20ms")
    assert fitting["fits"].all()
    assert (fitting["tpot"] < 0.02).all()
    assert 0 < fitting.num_rows < table.num_rows == 13
    fastest = table.sort("total_tokens_per_sec", descending=True)
    assert fastest["total_tokens_per_sec"].tolist() == sorted(table["total_tokens_per_sec"].tolist(), reverse=True)
    assert fastest.head(2).num_rows == 2
    with pytest.raises(UnknownName, match="did you mean decode_latency"):
        table["decode_latencies"]


def test_the_table_converts_to_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    table = Sweep(flags(model_name="llama-3.1-8b", gpu_name="h100-sxm-80gb", batch_size_per_gpu="1,2")).table()
    frame = table.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["batch_size_per_gpu"].tolist() == [1, 2]
    assert list(frame.columns) == list(COLUMNS)


def test_column_kinds_cover_the_json_keys() -> None:
    assert set(COLUMNS) > TEXT | TRUTH | WHOLE
    row = next(iter(Sweep(flags(model_name="llama-3.1-8b", gpu_name="h100-sxm-80gb")).table().rows()))
    assert {name for name, value in row.items() if isinstance(value, str)} <= TEXT
    assert {name for name, value in row.items() if isinstance(value, bool)} == TRUTH
    integers = {name for name, value in row.items() if isinstance(value, int) and not isinstance(value, bool)}
    assert integers == WHOLE


def test_top_keeps_the_first_rows_in_order() -> None:
    selection = Selection.of(["batch_size_per_gpu", "decode_latency"], None)
    asked = flags(model_name="llama-3.1-8b", gpu_name="h100-sxm-80gb", batch_size_per_gpu="1:64:1")
    best = Top(3, "batch_size_per_gpu", descending=True)
    for block in Sweep(asked, 10).blocks():
        best.add(selection.rows(block))
    assert best.table is not None
    assert best.table["batch_size_per_gpu"].tolist() == [64, 63, 62]


@pytest.mark.parametrize(
    ("sort", "order", "batches"),
    [
        ("total_tokens_per_sec", (), ["8", "4", "2", "1"]),
        ("total_tokens_per_sec", ("--descending", "False"), ["1", "2", "4", "8"]),
        ("tpot", (), ["1", "2", "4", "8"]),
        ("memory_left_per_gpu", (), ["1", "2", "4", "8"]),
    ],
)
def test_the_best_value_of_the_column_comes_first(
    ask: Ask, sort: str, order: tuple[str, ...], batches: list[str]
) -> None:
    answer = ask("sweep", *SMALL, "--sort", sort, *order, "--columns", "batch", "--format", "csv")
    assert [row["batch_size_per_gpu"] for row in csv.DictReader(answer.out.splitlines())] == batches


def test_a_name_that_starts_a_formula_is_quoted(ask: Ask, tmp_path: Path) -> None:
    raw = json.loads((ROOT / "model_configs" / "llama-3.1-8b.json").read_text()) | {"name": "=1+1"}
    path = tmp_path / "formula.json"
    path.write_text(json.dumps(raw))
    asked = ("sweep", "--model_name", str(path), *SMALL[2:], "--columns", "model")
    written = tmp_path / "rows.csv"
    ask(*asked, "--output_file", str(written))
    for text in (ask(*asked, "--format", "csv").out, written.read_text()):
        assert {row["model_name"] for row in csv.DictReader(text.splitlines())} == {"'=1+1"}


def test_the_command_shows_what_varies_and_counts(ask: Ask) -> None:
    found = ask("sweep", *SMALL, "--tp_size", "1,2", "--where", "batch>2", "--top", "3", "--sort", "tpot")
    assert found.status == 0
    lines = found.out.splitlines()
    assert lines[0].split()[:2] == ["batch", "tp_size"]
    assert lines[-1] == "8 points, 4 match --where, 3 shown"
    assert max(map(len, lines)) <= 80


def test_files_hold_all_columns_in_si_units(ask: Ask, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    for ending in ("csv", "jsonl", "parquet"):
        found = ask("sweep", *SMALL, "--output_file", str(tmp_path / f"a.{ending}"))
        assert found.out.strip() == f"4 points, 4 rows written to {tmp_path / f'a.{ending}'}"
    expected = json.loads(ask("sweep", *SMALL, "--format", "json").out)
    assert list(expected[0]) == list(COLUMNS)
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == expected
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == expected
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["decode_latency"]) for row in rows] == [row["decode_latency"] for row in expected]
    assert rows[0]["acceptance_rate"] == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.jsonl", "a.parquet"]


def test_shards_write_disjoint_parts_and_skip_existing_ones(ask: Ask, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "parts"
    asked = (*SMALL, "--tp_size", "1,2,4,8", "--output_file", str(folder))
    assert "2 parts of shard 1/2" in ask("sweep", *asked, "--shard", "1/2").out
    assert "2 parts of shard 2/2" in ask("sweep", *asked, "--shard", "2/2").out
    assert sorted(path.name for path in folder.iterdir()) == [f"part-{i:09d}.parquet" for i in range(4)]
    assert "0 parts of shard 1/2" in ask("sweep", *asked, "--shard", "1/2").out
    whole = pq.read_table(folder).to_pylist()
    assert whole == json.loads(ask("sweep", *SMALL, "--tp_size", "1,2,4,8", "--format", "json").out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch_size_per_gpu", "8:1"), "batch_size_per_gpu 8:1 is empty"),
        (("--where", "tpott<20ms"), "unknown column 'tpott'; did you mean tpot?"),
        (("--sort", "decode_latancy"), "unknown column 'decode_latancy'; did you mean decode_latency"),
        (("--columns", "tpot,nonsens"), "unknown column 'nonsens'"),
        (("--top", "0"), "top must be a whole number from 1 to 1,000,000,000, not 0"),
        (("--top", "2.5"), "top must be a whole number from 1 to 1,000,000,000, not 2.5"),
        (("--output_file", "rows.xlsx"), "output_file must be a file ending in .csv, .jsonl or .parquet"),
        (("--output_file", "/nowhere/rows.csv"), "the folder of output_file '/nowhere': no such folder"),
        (("--shard", "3/2", "--output_file", "parts"), "shard must be i/n with i from 1 to n, such as 3/8, not '3/2'"),
        (("--shard", "1/2"), "--shard writes parts into a folder: give --output_file"),
        (("--batch_size_per_gpu", "1,2.5"), "batch_size_per_gpu must be a whole number, not 2.5"),
        (("--batch_size_per_gpu", "1,x"), "batch_size_per_gpu must be a whole number, not 'x'"),
    ],
)
def test_a_bad_sweep_is_one_clear_line(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = dict(zip(SMALL[::2], SMALL[1::2], strict=True)) | dict(zip(arguments[::2], arguments[1::2], strict=True))
    found = ask("sweep", *(word for pair in asked.items() for word in pair))
    assert (found.status, found.out) == (1, "")
    assert message in found.err
    assert len(found.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Sweep(flags(model_name="llama-3.1-8b", gpu_name="h100-sxm-80gb", batch_size_per_gpu="1,2")).table()
    writer = writer_of(tmp_path / "a.csv", list(table))

    def full(columns: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "_write", full)
    with pytest.raises(BadValue, match="No space left on device"), writer:
        writer.write(table)
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_middle_keeps_the_earlier_file(tmp_path: Path) -> None:
    table = Sweep(flags(model_name="llama-3.1-8b", gpu_name="h100-sxm-80gb", batch_size_per_gpu="1,2")).table()
    (tmp_path / "a.csv").write_text("earlier")

    def interrupted() -> None:
        with writer_of(tmp_path / "a.csv", list(table)) as writer:
            writer.write(table)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.csv", "earlier")]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_sweep_leaves_complete_rows_or_no_file(tmp_path: Path, stop: signal.Signals) -> None:
    """Ctrl-C keeps the rows of complete blocks; a killed process leaves no file of the name."""
    target = tmp_path / "rows.csv"
    asked = [*SMALL[:4], "--tp_size", "1,2,4,8", "--batch_size_per_gpu", "1:5000:1", "--seq_len", "8:8000:8"]
    command = [sys.executable, "-m", "llm_analysis", "sweep", *asked, "--output_file", str(target)]
    command += ["--columns", "batch_size_per_gpu,seq_len,tpot", "--where", "seq_len<40"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size > 100 for path in tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(stop)
    _, err = process.communicate(timeout=60)
    if stop == signal.SIGKILL:
        assert not target.exists()
        return
    assert process.returncode == 130
    assert "llm-analysis: stopped after " in err
    assert " of 20,000,000 points" in err
    lines = target.read_text().splitlines()
    assert lines[0] == "batch_size_per_gpu,seq_len,decode_latency"
    assert {line.count(",") for line in lines} == {2}
    assert float(lines[-1].split(",")[2]) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


@pytest.mark.parametrize("format", ["table", "csv"])
def test_a_sweep_is_drawn(ask: Ask, tmp_path: Path, format: str) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "batches.svg"
    answer = ask("sweep", *SMALL, "--plot", str(target), "--format", format)
    assert answer.status == 0
    assert b"<svg" in target.read_bytes()
    assert f"wrote {target}" in (answer.out if format == "table" else answer.err)


def test_a_picture_of_one_shard_is_refused(ask: Ask, tmp_path: Path) -> None:
    flags = ("--plot", str(tmp_path / "x.svg"), "--shard", "1/2", "--output_file", str(tmp_path / "rows"))
    answer = ask("sweep", *SMALL, *flags)
    assert (answer.status, list(tmp_path.iterdir())) == (1, [])
    assert "--shard computes only some" in answer.err
