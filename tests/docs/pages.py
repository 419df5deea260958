"""Reading, running and rewriting the Markdown pages: README.md and everything in docs/.

A page is checked in two ways. Every console block is run in this process and compared with the text below each
command. Every table between `<!-- generated: NAME -->` and `<!-- end -->` is compared with the one that TABLES returns.
REWRITE=1 pytest tests/docs renews both.
"""

import contextlib
import io
import json
import os
import re
import runpy
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from conftest import ROOT
from tables import TABLES

from llm_analysis.cli.main import main

README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GENERATED = re.compile(r"(?<=<!-- generated: )([\w-]+) -->\n(.*?)(?=<!-- end -->)", re.DOTALL)
# A shell would set these; without them an answer depends only on the command.
ENVIRONMENT = {"COLUMNS": "80", "NO_COLOR": "1"}
UNSET = "LLM_ANALYSIS_CONFIG_PATH"


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language on a page."""
    return [body for name, body in BLOCK.findall(page.read_text(encoding="utf-8")) if name == language]


def write_json_files(folder: Path) -> None:
    """Write each JSON block that has a name into `folder`, as NAME.json: the files that the commands refer to."""
    for page in PAGES:
        for body in blocks(page, "json"):
            if name := json.loads(body).get("name"):
                (folder / f"{name}.json").write_text(body, encoding="utf-8")


def sessions(body: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (command, lines shown below it) of a console block. A command continues after a backslash."""
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        lines = part.rstrip("\n").split("\n")
        length = 1 + len(list(takewhile(lambda line: line.endswith("\\"), lines)))
        yield "\n".join(lines[:length]), lines[length:]


def printed(command: str, folder: Path) -> list[str]:
    """Return the lines that a command prints to stdout and stderr when run in `folder`.

    Understands `llm-analysis ...` and `python SCRIPT`, with the filters `grep PATTERN`, `head -n N` and `tail -n N`,
    and a redirection `> FILE`.
    """
    words, *target = split(shlex.split(command.replace("\\\n", " ")), ">")
    first, *filters = split(words, "|")
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text), settings(folder):
        run(first)
    lines = [line.rstrip() for line in text.getvalue().rstrip("\n").split("\n")]
    for name, *arguments in filters:
        lines = filtered(lines, name, arguments)
    if target:
        (folder / target[0][0]).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return []
    return lines


def split(words: list[str], mark: str) -> list[list[str]]:
    """Return the lists of words between the marks."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == mark:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def run(words: list[str]) -> None:
    """Run one command in this process; its exit status does not matter here."""
    program, *arguments = (str(ROOT / word) if word.startswith("examples/") else word for word in words)
    with contextlib.suppress(SystemExit):
        if program == "llm-analysis":
            main(arguments)
        elif program == "python":
            runpy.run_path(arguments[0], run_name="__main__")
        else:
            raise AssertionError(f"a page shows {program!r}, which the tests cannot run")


def filtered(lines: list[str], name: str, arguments: list[str]) -> list[str]:
    """Return the lines that `grep PATTERN`, `head -n N` or `tail -n N` leave."""
    if name == "grep":
        pattern = arguments[-1]
        return [line for line in lines if re.search(pattern, line)]
    assert name in ("head", "tail"), f"a page shows the filter {name!r}, which the tests cannot run"
    number = int(arguments[1])
    return lines[:number] if name == "head" else lines[-number:]


@contextlib.contextmanager
def settings(folder: Path) -> Iterator[None]:
    """Run in `folder`, with a fixed width and without the settings of whoever runs the tests."""
    before, environment = Path.cwd(), dict(os.environ)
    os.chdir(folder)
    os.environ.update(ENVIRONMENT)
    os.environ.pop(UNSET, None)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)


def as_shown(output: list[str], shown: list[str]) -> list[str]:
    """Return the output, cut where the page cuts it with three dots."""
    return [*output[: len(shown) - 1], "..."] if shown[-1:] == ["..."] else output


def rewritten(text: str, folder: Path) -> str:
    """Return a page with renewed console blocks and generated tables."""

    def block(match: re.Match[str]) -> str:
        language, body = match.groups()
        if language == "console":
            parts = [["$ " + command, *as_shown(printed(command, folder), shown)] for command, shown in sessions(body)]
            body = "\n".join(line for part in parts for line in part) + "\n"
        return f"```{language}\n{body}```"

    return GENERATED.sub(lambda match: f"{match[1]} -->\n{TABLES[match[1]]()}", BLOCK.sub(block, text))
