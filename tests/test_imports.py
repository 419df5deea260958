"""The order of rooms: imports go one way, physics touches nothing outside, files and functions stay short."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import llm_analysis
from llm_analysis.cli import COMMANDS

PACKAGE = Path(llm_analysis.__file__).parent
FILES = sorted(PACKAGE.glob("**/*.py"))
PHYSICS = ("units", "operators", "hardware", "model", "dtypes", "scenario", "model_config", "quadrature", "published")
PURE = (*PHYSICS, "estimate", "memory", "methods")
OUTSIDE = {"open", "print", "input", "exec", "eval", "compile", "breakpoint"}
FORBIDDEN = {"fire", "logging", "os", "io", "pathlib", "subprocess", "socket", "tempfile", "json", "csv", "urllib"}
HEAVY = {"numpy", "scipy", "pandas", "huggingface_hub", "matplotlib"}
LINES_OF_A_FILE = 300
LINES_OF_A_FUNCTION = 40
LONG = {
    "cli.infer": "the list of its flags, each described on a line",
    "analysis.LLMAnalysis.__init__": "the same flags as keywords",
    "analysis.answer": "one record, a line for each of its fields",
    "operators.attention": "its shapes as keywords, and one record",
}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def room(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def walk_without_typing(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`, which do not run."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            yield from (inner for other in child.orelse for inner in (other, *walk_without_typing(other)))
            continue
        yield child
        yield from walk_without_typing(child)


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Full names of the modules that are imported; for `from package import name`, that of the name."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def owner(full: str) -> str:
    """The room that an imported name lives in; none for a name from outside."""
    parts = full.split(".")
    return parts[1] if parts[0] == "llm_analysis" and (PACKAGE / f"{parts[1]}.py").is_file() else ""


def rooms_used(path: Path) -> set[str]:
    return {owner(full) for full in imported(walk_without_typing(tree(path)))} - {""}


def test_imports_go_one_way() -> None:
    """No room uses, by however long a way round, a room that uses it. Imports inside functions count too."""
    uses = {room(path): rooms_used(path) for path in FILES}
    done: set[str] = set()
    while len(done) < len(uses):
        ready = {name for name, used in uses.items() if name not in done and used - {name} <= done}
        assert ready, f"a circle among {sorted(set(uses) - done)}"
        done |= ready


@pytest.mark.parametrize("name", PURE)
def test_physics_knows_no_file_no_terminal_and_no_command_line(name: str) -> None:
    path = PACKAGE / f"{name}.py"
    names = {full.split(".")[0] for full in imported(ast.walk(tree(path)))}
    assert not names & FORBIDDEN
    called = {
        node.func.id for node in ast.walk(tree(path)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & OUTSIDE
    assert not rooms_used(path) & {"cli", "flags", "output", "report", "listing", "catalog"}


@pytest.mark.parametrize("name", PHYSICS)
def test_physics_stands_below_the_answer(name: str) -> None:
    assert not rooms_used(PACKAGE / f"{name}.py") & {"analysis", "estimate", "memory", "methods"}


def test_an_answer_imports_no_heavy_library() -> None:
    """Of the rooms that the command line imports at the top, however long the way: a single estimate starts fast."""
    reached, ahead = set(), {"cli", "__main__", "__init__"}
    while ahead:
        name = ahead.pop()
        reached.add(name)
        at_the_top = imported(walk_until_functions(tree(PACKAGE / f"{name}.py")))
        assert not {full.split(".")[0] for full in at_the_top} & HEAVY, name
        ahead |= {other for full in at_the_top if (other := owner(full))} - reached
    assert {"analysis", "model", "hardware", "catalog"} <= reached


def walk_until_functions(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those inside functions, and those under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from walk_until_functions(child)


@pytest.mark.parametrize("path", FILES, ids=room)
def test_no_assert_in_the_package(path: Path) -> None:
    """Python drops them under -O, and users get a traceback."""
    assert not [node.lineno for node in ast.walk(tree(path)) if isinstance(node, ast.Assert)]


@pytest.mark.parametrize("path", FILES, ids=room)
def test_a_file_stays_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES_OF_A_FILE


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Qualified name and number of lines of each function."""

    def below(node: ast.AST, prefix: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                name = f"{prefix}.{child.name}"
                if not isinstance(child, ast.ClassDef):
                    yield name, (child.end_lineno or 0) - child.lineno + 1
                yield from below(child, name)

    return below(tree(path), room(path))


def test_a_function_stays_short() -> None:
    lengths = {name: lines for path in FILES for name, lines in functions(path)}
    too_long = {name: lines for name, lines in lengths.items() if lines > LINES_OF_A_FUNCTION and name not in LONG}
    assert not too_long
    assert sorted(lengths.values())[len(lengths) // 2] <= 10, "the median function"
    assert set(LONG) <= set(lengths), "an exception for a function that is gone"


@pytest.mark.parametrize("path", FILES, ids=room)
def test_a_public_function_says_what_it_does(path: Path) -> None:
    """Types say what goes in; only the command line, whose help is made of it, lists arguments."""
    functions_and_classes = (ast.FunctionDef, ast.ClassDef)
    outer = [node for node in walk_until_functions(tree(path)) if isinstance(node, functions_and_classes)]
    silent = [node.name for node in outer if not node.name.startswith("_") and not ast.get_docstring(node)]
    assert not silent
    lists_arguments = {node.name for node in outer if "Args:" in (ast.get_docstring(node) or "")}
    assert lists_arguments <= {command.__name__ for command in COMMANDS.values()}
