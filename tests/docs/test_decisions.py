"""The scripts of examples/decisions print their committed outputs; the Dask example runs on a local cluster.

REWRITE=1 pytest tests/docs/test_decisions.py renews the outputs (then look at the changes).
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

FOLDER = ROOT / "examples" / "decisions"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.stem != "dask_sweep")


def run(script: Path, *arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LLM_ANALYSIS")}
    environment |= {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    command = [sys.executable, "-W", "error", str(script), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=120).stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_prints_its_committed_output(script: Path) -> None:
    output, committed = run(script), FOLDER / "outputs" / f"{script.stem}.txt"
    if os.environ.get("REWRITE") == "1":
        committed.parent.mkdir(exist_ok=True)
        committed.write_text(output, encoding="utf-8")
    assert output == committed.read_text(encoding="utf-8")


def test_each_output_has_its_script() -> None:
    assert {path.stem for path in (FOLDER / "outputs").iterdir()} == {path.stem for path in SCRIPTS}


def test_dask_computes_the_shards_on_a_local_cluster(tmp_path: Path) -> None:
    pytest.importorskip("dask")
    pytest.importorskip("distributed")
    pytest.importorskip("pyarrow")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(FOLDER / "dask_sweep.py"), str(tmp_path / "parts")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=120)
    assert len(re.findall(r"parts of shard [1-4]/4 written", done.stdout)) == 4
    assert done.stdout.splitlines()[-1] == "24,576 rows in 6 parts"
