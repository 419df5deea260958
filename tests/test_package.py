"""Start of the package: modules and files that an import and an answer load; the default runtime in the help."""

import json
import subprocess
import sys
from typing import Any

from conftest import Ask

import llm_analysis
from llm_analysis.inference.runtimes import DEFAULT_RUNTIME

READ = """
import json, sys
read = []
sys.addaudithook(lambda event, args: read.append(str(args[0])) if event == "open" else None)
{body}
print(json.dumps({{"files": [f for f in read if not f.endswith((".py", ".pyc"))], "modules": sorted(sys.modules)}}))
"""
INFER = """
import contextlib, io
from llm_analysis.cli.main import main
sys.argv = ["llm-analysis", "infer", "--model_name", "test-13b", "--gpu_name", "a100-sxm-40gb", "--format", "json"]
with contextlib.redirect_stdout(io.StringIO()) as answer, contextlib.suppress(SystemExit):
    main()
assert json.loads(answer.getvalue())["prefill_latency"] > 0
"""


def fresh_process(body: str) -> dict[str, Any]:
    """The modules that a new interpreter holds after `body`, and the files other than Python's own that it opened."""
    command = [sys.executable, "-c", READ.format(body=body)]
    seen: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return seen


def test_importing_the_package_reads_no_data_file_and_no_heavy_library() -> None:
    seen = fresh_process("import llm_analysis")
    assert [f for f in seen["files"] if f.endswith((".json", ".csv", ".toml"))] == []
    assert not {"numpy", "scipy", "pydantic", "fire"} & set(seen["modules"])


def test_importing_every_name_of_the_package_reads_no_data_file() -> None:
    seen = fresh_process("from llm_analysis import *")
    assert [f for f in seen["files"] if f.endswith((".json", ".csv", ".toml"))] == []


def test_a_single_answer_imports_no_numpy_and_reads_one_model_and_one_gpu() -> None:
    seen = fresh_process(INFER)
    assert not {"numpy", "scipy"} & set(seen["modules"])
    facts = [f for f in seen["files"] if "_configs" in f and f.endswith(".json")]
    assert [f.rsplit("/", 1)[-1] for f in facts] == ["test-13b.json", "a100-sxm-40gb.json"]


def test_the_help_names_the_default_runtime(ask: Ask) -> None:
    assert f"{DEFAULT_RUNTIME} (default)" in " ".join(ask("infer", "--help").out.split())


def test_dir_lists_the_public_names() -> None:
    assert set(llm_analysis.__all__) <= set(dir(llm_analysis))
