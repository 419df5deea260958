"""The README is true: its outputs are the program's, its figures are computed, its examples run.

REWRITE=1 pytest tests/test_readme.py makes its outputs, its table and its Python anew, and the table of runtimes in
docs/accuracy.md (then look at what changed).
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
from conftest import ROOT

from llm_analysis import Estimate, LLMAnalysis, Parallelism, Runtime, get_dtypes, get_gpu, get_model, get_runtime
from llm_analysis.calibration.fitting.runtime_fit import FACTORS, TERMS
from llm_analysis.inference.runtimes import runtime_names

README, ACCURACY = ROOT / "README.md", ROOT / "docs" / "accuracy.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MEASURED = {1: (63.17, 22.0), 2: (45.45, 13.5)}  # GPUs: prefill and decode per token in ms; examples/fastertransformer


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [body for name, body in BLOCK.findall(README.read_text()) if name == language]


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with the README's JSON files in it; where asked for, the README is written anew first."""
    home = tmp_path_factory.mktemp("user")
    for body in blocks("json"):
        (home / f"{json.loads(body)['name']}.json").write_text(body)
    if os.environ.get("REWRITE") == "1":
        README.write_text(renewed(README.read_text(), home))
        ACCURACY.write_text(with_runtimes(ACCURACY.read_text()))
    return home


def said(command: str, home: Path) -> list[str]:
    """The lines that a command of the README prints, its complaint included."""
    program, *arguments = shlex.split(command.replace("\\\n", " "))
    assert program in ("llm-analysis", "python"), command
    if program == "llm-analysis":
        arguments = ["-m", "llm_analysis", *arguments]
    arguments = [str(ROOT / word) if word.startswith("examples/") else word for word in arguments]
    environment = {key: value for key, value in os.environ.items() if key != "LLM_ANALYSIS_CONFIG_PATH"}
    run = [sys.executable, *arguments]
    done = subprocess.run(
        run, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
    )
    return [line.rstrip() for line in done.stdout.rstrip("\n").split("\n")]


def sessions(body: str) -> Iterator[tuple[str, list[str]]]:
    """(command, the lines shown after it) of a console block; a command goes on after a backslash."""
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        lines = part.rstrip("\n").split("\n")
        length = 1 + len(list(takewhile(lambda line: line.endswith("\\"), lines)))
        yield "\n".join(lines[:length]), lines[length:]


def as_shown(output: list[str], shown: list[str]) -> list[str]:
    """The output, cut where the README cuts it with three dots."""
    return [*output[: len(shown) - 1], "..."] if shown[-1:] == ["..."] else output


def renewed(text: str, home: Path) -> str:
    """The README with its outputs, its table and its Python made anew."""

    def block(match: re.Match[str]) -> str:
        language, body = match.groups()
        if language == "python":
            body = (ROOT / "examples" / "python_api.py").read_text()
        elif language == "console":
            parts = [["$ " + command, *as_shown(said(command, home), shown)] for command, shown in sessions(body)]
            body = "\n".join(line for part in parts for line in part) + "\n"
        return f"```{language}\n{body}```"

    for row in table_rows():
        start = row.split("|")[1]
        text = re.sub(rf"^\|{re.escape(start)}\|.*$", row, text, flags=re.MULTILINE)
    return BLOCK.sub(block, text)


def estimated(gpus: int, method: str) -> Estimate:
    """The published benchmark, estimated."""
    flops, memory = (0.7, 0.9) if method == "published" else (None, None)
    runtime = get_runtime("fastertransformer") if method == "calibrated" else None
    analysis = LLMAnalysis(
        get_model("test-13b"),
        get_gpu("a100-sxm-40gb"),
        get_dtypes("fp16"),
        Parallelism(tp_size=gpus),
        method=method,
        flops_efficiency=flops,
        hbm_memory_efficiency=memory,
        runtime=runtime,
    )
    return analysis.inference(batch_size_per_gpu=1, seq_len=512, num_tokens_to_generate=10)


def table_rows() -> Iterator[str]:
    """The rows of the table on the first screen, a column for each method that its header names."""
    header = next(line for line in README.read_text().splitlines() if line.startswith("| A100 40GB "))
    methods = re.findall(r"`(\w+)`", header)
    for gpus, measurements in MEASURED.items():
        name = f"{gpus} GPU" + "s" * (gpus > 1)
        latencies = [(e.prefill_latency, e.decode_latency) for e in (estimated(gpus, method) for method in methods)]
        for i, phase in enumerate(("prefill", "decode per token")):
            ms = [1e3 * latency[i] for latency in latencies]
            cells = [f"{value:.2f} ({100 * (value / measurements[i] - 1):+.1f} %)" for value in ms]
            yield f"| {name}, {phase} | {measurements[i]} | {' | '.join(cells)} |"


def of_runtime(r: Runtime) -> str:
    """A runtime's row of the table in docs/accuracy.md."""
    seconds = [(r.step_seconds, 1e3), *((value, 1e6) for value in (r.layer_seconds, r.sequence_seconds))]
    seconds.append((r.collective_seconds, 1e6))
    added = [f"{value * unit:.3g}" if value else "" for value, unit in seconds]
    factors = ", ".join(f"`{name}` {getattr(r, name):.2f}" for name in FACTORS if getattr(r, name) != 1.0)
    e, band = r.evidence, r.band("total")
    errors = e.note if e.median_error is None or e.p90_error is None else f"{e.median_error:.1%}, {e.p90_error:.1%}"
    shown = f"{100 * (band.low - 1):+.0f} to {100 * (band.high - 1):+.0f} %" if band else ""
    return "| " + " | ".join([f"`{r.name}`", str(e.rows), *added, factors, errors, shown]) + " |"


def with_runtimes(text: str) -> str:
    """The page with its table of runtimes made anew."""
    head, rule, rest = text.partition("|---|---|---|---|---|---|---|---|---|\n")
    after = rest[rest.index("\n\n") if not rest.startswith("\n") else 0 :]
    rows = [of_runtime(get_runtime(name)) for name in runtime_names() if name != "none"]
    return head + rule + "\n".join(rows) + ("\n" if rest.startswith("\n") else "") + after


def test_the_first_screen_holds_question_answer_measurement_and_install() -> None:
    screen = "\n".join(README.read_text().splitlines()[:40])
    wanted = ["How long", "$ llm-analysis infer", "prefill (TTFT)", "measured", "pip install . && llm-analysis infer"]
    assert [text for text in [*wanted, "pip install -e '.[dev]' && pytest"] if text not in screen] == []


@pytest.mark.parametrize("index", range(len(blocks("console"))))
def test_each_output_is_what_the_program_says(index: int, home: Path) -> None:
    for command, shown in sessions(blocks("console")[index]):
        assert shown == as_shown(said(command, home), shown), command


def test_the_table_of_the_first_screen_is_the_one_computed() -> None:
    lines = README.read_text().splitlines()
    assert [row for row in table_rows() if row not in lines] == []


def test_the_install_command_answers(home: Path) -> None:
    (block,) = blocks("sh")
    (command,) = re.findall(r"&& (llm-analysis infer .*?)(?:\s+#.*)?$", block, flags=re.MULTILINE)
    assert any("prefill (TTFT)" in line for line in said(command, home))


def test_the_python_is_the_example() -> None:
    assert blocks("python") == [(ROOT / "examples" / "python_api.py").read_text()]


@pytest.mark.parametrize("page", [README, ACCURACY, ROOT / "examples" / "fastertransformer" / "README.md"])
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)[)#]", page.read_text())
    assert links or page.parent.name == "fastertransformer"
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_table_of_runtimes_is_that_of_their_files() -> None:
    text = ACCURACY.read_text()
    assert text == with_runtimes(text)


def test_every_term_of_a_runtime_is_explained() -> None:
    assert set(TERMS) - words(section("Methods")) == set()
    assert {name for name in runtime_names() if name != "vllm-rocm" and f"`{name}`" not in section("Methods")} == set()


def section(title: str) -> str:
    return README.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def words(text: str) -> set[str]:
    """What stands in backquotes and looks like a name."""
    return set(re.findall(r"`([a-zA-Z_]+)`", text))


def test_the_json_keys_are_all_there_and_no_others() -> None:
    answer = estimated(1, "ideal").as_dict()
    rows = "\n".join(line for line in section("JSON").splitlines() if line.startswith("|"))
    assert words(rows) == set(answer) | set(answer["operators"][0])


def test_every_flag_is_named(home: Path) -> None:
    flags = {match for line in said("llm-analysis infer --help", home) for match in re.findall(r"^  --(\w+)", line)}
    assert flags
    assert flags - words(section("Flags")) == set()
