"""The published example: its script gives its committed outputs, and each figure of its README is the one computed.

REWRITE=1 pytest tests/docs/test_example.py renews the committed outputs (then look at the changes).
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from llm_analysis import LLMAnalysis, Parallelism, get_dtypes, get_gpu, get_model, get_runtime

EXAMPLE = ROOT / "examples" / "fastertransformer"
OUTPUTS = EXAMPLE / "outputs"
README = EXAMPLE / "README.md"
REWRITE = os.environ.get("REWRITE") == "1"

# Another platform's libm may differ in the last bits, never in the tenth digit.
RELATIVE = 1e-9


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the script has written."""
    folder = tmp_path_factory.mktemp("example") / "made"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LLM_ANALYSIS")} | {"PATH": path}
    script = [str(EXAMPLE / "run_infer.sh"), str(folder)]
    subprocess.run(script, check=True, capture_output=True, env=environment, timeout=120)
    if REWRITE:
        renew_the_second_table()
        shutil.rmtree(OUTPUTS, ignore_errors=True)
        shutil.copytree(folder, OUTPUTS)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_same(made: Any, committed: Any, where: str) -> None:
    """The same keys, texts and lengths; numbers to `RELATIVE`."""
    if isinstance(committed, dict):
        assert list(made) == list(committed), where
        for key in committed:
            assert_same(made[key], committed[key], f"{where} {key}")
    elif isinstance(committed, list):
        assert len(made) == len(committed), where
        for i, item in enumerate(committed):
            assert_same(made[i], item, f"{where} [{i}]")
    elif isinstance(committed, float):
        assert made == pytest.approx(committed, rel=RELATIVE, abs=0), where
    else:
        assert made == committed, where


def test_the_script_writes_the_committed_files_and_no_others(made: Path) -> None:
    assert names(made) == names(OUTPUTS)
    assert len(names(OUTPUTS)) == 10


@pytest.mark.parametrize("name", names(OUTPUTS))
def test_each_output_is_the_committed_one(made: Path, name: str) -> None:
    new, committed = (made / name).read_text(), (OUTPUTS / name).read_text()
    if name.endswith(".json"):
        assert_same(json.loads(new), json.loads(committed), name)
    else:
        assert new == committed


def table_rows(second: bool = False) -> list[list[str]]:
    """Return the cells of the first or the second table of the README, without the header."""
    upper, _, lower = README.read_text().partition("## With the methods `calibrated` and `ideal`")
    lines = [line for line in (lower if second else upper).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def rows_of_calibrated_and_ideal() -> list[str]:
    """Return the lines of the second table, computed."""
    measured = {row[0]: [float(cell) for cell in row[3:6]] for row in table_rows() if row[1] == "measured"}
    lines = []
    for gpus, method, runtime, *_ in table_rows(second=True):
        analysis = LLMAnalysis(
            get_model("test-13b"),
            get_gpu("a100-sxm-40gb"),
            get_dtypes("w16a16e16"),
            Parallelism(tp_size=int(gpus)),
            method=method,
            runtime=None if runtime == "-" else get_runtime(runtime),
        )
        e = analysis.inference(batch_size_per_gpu=1, seq_len=512, num_tokens_to_generate=10)
        ms = [1e3 * seconds for seconds in (e.prefill_latency, e.decode_latency, e.total_latency)]
        prefill, _, total = measured[gpus]
        nine = (prefill, (total - prefill) / 9, total)  # the prefill gives the first of the ten tokens
        errors = [f"{100 * (value / m - 1):+.1f} %" for value, m in zip(ms, nine, strict=True)]
        lines.append("| " + " | ".join([gpus, method, runtime, *(f"{value:.2f}" for value in ms), *errors]) + " |")
    return lines


def renew_the_second_table() -> None:
    text = README.read_text()
    for line in rows_of_calibrated_and_ideal():
        start = "|".join(line.split("|")[:4])
        text = re.sub(rf"^{re.escape(start)}\|.*$", line, text, flags=re.MULTILINE)
    README.write_text(text)


def test_each_figure_of_the_second_table_is_the_one_computed() -> None:
    lines = README.read_text().splitlines()
    assert len(rows_of_calibrated_and_ideal()) == 6
    assert [line for line in rows_of_calibrated_and_ideal() if line not in lines] == []


def computed(gpus: str, flops: str, memory: str) -> list[float]:
    """Prefill, decode per token and total in ms, of one row."""
    analysis = LLMAnalysis(
        get_model("test-13b"),
        get_gpu("a100-sxm-40gb"),
        get_dtypes("w16a16e16"),
        Parallelism(tp_size=int(gpus)),
        flops_efficiency=float(flops),
        hbm_memory_efficiency=float(memory),
    )
    e = analysis.inference(batch_size_per_gpu=1, seq_len=512, num_tokens_to_generate=10)
    assert e.method == "published"
    return [1e3 * seconds for seconds in (e.prefill_latency, e.decode_latency, e.total_latency)]


def test_each_figure_of_the_readme_is_the_one_computed() -> None:
    rows = table_rows()
    measured = {row[0]: [float(cell) for cell in row[3:6]] for row in rows if row[1] == "measured"}
    estimated = [row for row in rows if row[1] != "measured"]
    assert [row[:3] for row in estimated] == [
        ["1", "1", "1"],
        ["1", "0.7", "0.9"],
        ["2", "1", "1"],
        ["2", "0.7", "0.9"],
        ["2", "0.7", "0.87"],
    ]
    for gpus, flops, memory, *written in estimated:
        milliseconds = computed(gpus, flops, memory)
        errors = [100 * (e / m - 1) for e, m in zip(milliseconds, measured[gpus], strict=True)]
        assert written == [f"{value:.2f}" for value in milliseconds] + [f"{error:+.3g} %" for error in errors]


def test_the_publication_printed_the_numbers_of_another_efficiency_than_it_stated() -> None:
    text = README.read_text().partition("## An error in the publication")[2]
    printed, stated = re.findall(r"(\d+\.\d+), (\d+\.\d+), (\d+\.\d+)", text)
    assert list(printed) == [f"{value:.2f}" for value in computed("2", "0.7", "0.9")]
    assert list(stated) == [f"{value:.2f}" for value in computed("2", "0.7", "0.87")]
