"""The pages are up to date: outputs equal those of the program, tables are computed, links and paths exist.

REWRITE=1 pytest tests/docs renews the outputs and tables (then look at the changes).
"""

import json
import os
import re
from pathlib import Path

import pytest
from conftest import ROOT, Ask
from pages import DOCS, GENERATED, PAGES, README, as_shown, blocks, printed, rewritten, sessions, write_json_files
from tables import TABLES, benchmark_estimate

from llm_analysis.calibration.fitting.runtime_fit import TERMS
from llm_analysis.inference.runtimes import runtime_names
from llm_analysis.models.layers.kinds import FEED_FORWARDS, MIXERS

CONSOLE = [(page, index) for page in PAGES for index in range(len(blocks(page, "console")))]
LINE_OF_A_PATH = re.compile(r"`((?:llm_analysis|tests|examples|docs|\.ci|\.github)/[\w./-]*)`")
MOST_README_LINES = 200


def page_name(page: Path) -> str:
    return page.name


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with the JSON files of the pages; with REWRITE=1 the pages are renewed first."""
    home = tmp_path_factory.mktemp("user")
    write_json_files(home)
    if os.environ.get("REWRITE") == "1":
        for page in PAGES:
            page.write_text(rewritten(page.read_text(encoding="utf-8"), home), encoding="utf-8")
    return home


@pytest.mark.parametrize(("page", "index"), CONSOLE, ids=lambda value: getattr(value, "name", value))
def test_each_shown_output_is_what_the_command_prints(page: Path, index: int, home: Path) -> None:
    for command, shown in sessions(blocks(page, "console")[index]):
        assert shown == as_shown(printed(command, home), shown), f"{command}\nREWRITE=1 pytest tests/docs renews it"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_each_generated_table_is_the_one_computed(page: Path) -> None:
    for name, shown in GENERATED.findall(page.read_text(encoding="utf-8")):
        assert shown == TABLES[name](), f"table {name}\nREWRITE=1 pytest tests/docs renews it"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "examples" / "fastertransformer" / "README.md"], ids=page_name)
def test_every_link_and_path_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [page.parent / link for link in re.findall(r"\]\(([^)#:]+)[)#]", text)]
    links += [page.parent / picture for picture in re.findall(r'src="([^":]+)"', text)]
    paths = [ROOT / path for path in LINE_OF_A_PATH.findall(text) if "NAME" not in path]
    assert [str(path) for path in [*links, *paths] if not path.exists()] == []


def test_every_page_is_in_the_table_of_contents() -> None:
    entries = set((DOCS / "index.md").read_text(encoding="utf-8").split("\n"))
    assert {page.stem for page in DOCS.glob("*.md")} - entries == {"index"}


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MOST_README_LINES


def test_the_first_screen_holds_question_answer_and_install() -> None:
    screen = "\n".join(README.read_text(encoding="utf-8").splitlines()[:40])
    wanted = ["How long", "$ llm-analysis infer", "prefill (TTFT)", "pip install . && llm-analysis infer"]
    assert [text for text in [*wanted, "pip install -e '.[dev]' && pytest"] if text not in screen] == []


def test_the_install_command_answers(home: Path) -> None:
    (block,) = blocks(README, "sh")
    (command,) = re.findall(r"&& (llm-analysis infer .*?)(?:\s+#.*)?$", block, flags=re.MULTILINE)
    assert any("prefill (TTFT)" in line for line in printed(command, home))


def test_the_benchmark_compares_a_decode_pass_with_one_of_the_nine_that_ran() -> None:
    rows = {row.split("|")[1].strip(): row.split("|")[2:6] for row in TABLES["benchmark"]().splitlines()}
    example = (ROOT / "examples" / "fastertransformer" / "README.md").read_text(encoding="utf-8")
    of_example = [
        line.split("|") for line in example.splitlines() if re.match(r"\| [12] \| (calib.* fast|ideal)", line)
    ]
    for gpus in "12":
        measured, calibrated, _, ideal = rows[f"{gpus} A100, decode per token"]
        assert re.fullmatch(r" [\d.]+ of ten, [\d.]+ of nine ", measured)
        wanted = [line[8].strip() for line in of_example if line[1].strip() == gpus]
        assert [cell.partition("(")[2].strip(") ") for cell in (calibrated, ideal)] == wanted


def words(page: str) -> set[str]:
    """Return the names in backquotes on a page of the documentation."""
    return set(re.findall(r"`([\w.-]+)`", (DOCS / page).read_text(encoding="utf-8")))


def keys_in_tables(text: str) -> set[str]:
    """Return the names in backquotes in the first columns of tables."""
    rows = re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE)
    return {key for row in rows for key in re.findall(r"`(\w+)`", row)}


def test_the_json_page_lists_every_key_and_no_other(ask: Ask) -> None:
    static, servers = (DOCS / "json.md").read_text(encoding="utf-8").split("## Servers")
    answer = benchmark_estimate(1, "ideal").as_dict()
    assert keys_in_tables(static) == set(answer) | set(answer["operators"][0])
    steady, server, point = re.split(r"^`load` has|^and each object", servers, flags=re.MULTILINE)
    asked = ("--model_name", "llama-3.1-8b", "--gpu_name", "h100-sxm-80gb", "--format", "json")
    assert keys_in_tables(steady) == set(json.loads(ask("infer", "--max_concurrency", "4", *asked).out))
    load = json.loads(ask("load", "--num_prompts", "10", *asked).out)
    assert keys_in_tables(server) == set(load)
    assert keys_in_tables(point) == set(load["points"][0])


def test_the_page_of_runtimes_explains_every_term_and_names_every_runtime() -> None:
    assert set(TERMS) - words("runtimes.md") == set()
    assert set(runtime_names()) - words("runtimes.md") == set()


def test_the_page_of_architectures_explains_every_layer_kind() -> None:
    assert {*MIXERS, *FEED_FORWARDS} - {"none"} - words("architectures.md") == set()


def test_the_picture_of_the_layout_names_every_package() -> None:
    (picture,) = blocks(ROOT / "CONTRIBUTING.md", "text")
    packages = {path.parent.name for path in (ROOT / "llm_analysis").glob("*/__init__.py")}
    assert packages - set(re.findall(r"\w+", picture)) == set()


@pytest.mark.parametrize("page", [README, DOCS / "python.md"], ids=page_name)
def test_the_python_of_a_page_runs(page: Path) -> None:
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), {})
