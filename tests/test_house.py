"""The structure of the package: imports between packages go down the stack, and physics touches nothing outside."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import llm_analysis

PACKAGE = Path(llm_analysis.__file__).parent
FILES = sorted(PACKAGE.glob("**/*.py"))

# Layers of the stack, top first. A package may import those below it, never those beside or above it.
STACK = (
    ("__main__", "cli"),
    ("api",),
    ("report",),
    ("explore",),
    ("calibration",),
    ("serving", "training"),
    ("inference",),
    ("catalog",),
    ("models", "hardware", "hub"),
    ("physics",),
    ("files", "units", "names"),
    ("errors",),
)
LEVEL = {name: level for level, names in enumerate(reversed(STACK)) for name in names}
# Modules without input and output: records and formulas.
PURE_FILES = {
    "gpu.py",
    "roofline.py",
    "forward.py",
    "sharding.py",
    "workload.py",
    "pipeline.py",
    "memory.py",
    "published.py",
}
PURE = [path for path in FILES if {"physics", "layers"} & set(path.parts) or path.name in PURE_FILES | {"units.py"}]
OUTSIDE = {"open", "print", "input", "exec", "eval", "compile", "breakpoint"}
FORBIDDEN = {"fire", "logging", "os", "io", "pathlib", "subprocess", "socket", "tempfile", "json", "csv", "urllib"}
HEAVY = {"numpy", "scipy", "pandas", "huggingface_hub", "matplotlib", "pyarrow", "simpy"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def without_typing(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes except those under `if TYPE_CHECKING:`, which do not run."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            yield from (inner for other in child.orelse for inner in (other, *without_typing(other)))
            continue
        yield child
        yield from without_typing(child)


def at_the_top(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes except those inside functions and those under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from at_the_top(child)


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Full names that are imported; for `from package import name`, `package.name`."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def owner(full: str) -> str:
    """The module of this package that holds an imported name; empty for a name from outside."""
    parts = full.split(".")
    if parts[0] != "llm_analysis":
        return ""
    for end in range(len(parts), 1, -1):
        if PACKAGE.joinpath(*parts[1:end]).with_suffix(".py").is_file():
            return ".".join(parts[1:end])
    return ""


def imports_of(path: Path) -> set[str]:
    """The modules of this package that a file imports, inside functions too."""
    return {owner(full) for full in imported(without_typing(tree(path)))} - {""}


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_between_packages_point_down_the_stack(path: Path) -> None:
    """Imports inside functions count too."""
    own = module(path).partition(".")[0]
    if path.stem in ("__init__", "__main__"):
        return
    used = {name.partition(".")[0] for name in imports_of(path)} - {own}
    assert {name for name in used if LEVEL[name] >= LEVEL[own]} == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports for type checkers count too."""
    uses = {module(path): {owner(full) for full in imported(ast.walk(tree(path)))} - {""} for path in FILES}
    done: set[str] = set()
    while len(done) < len(uses):
        ready = {name for name, used in uses.items() if name not in done and used - {name} <= done}
        assert ready, f"a circle among {sorted(set(uses) - done)}"
        done |= ready


def test_imports_in_inference_go_down_the_list_of_its_docstring() -> None:
    """Imports for type checkers count too."""
    folder = PACKAGE / "inference"
    listed = (ast.get_docstring(tree(folder / "__init__.py")) or "").split("\n\n")[1]
    order = [f"inference.{line.split()[0]}" for line in listed.splitlines()]
    for level, name in enumerate(order):
        used = {owner(full) for full in imported(ast.walk(tree(PACKAGE / f"{name.replace('.', '/')}.py")))}
        assert used & set(order[:level]) == set(), name


@pytest.mark.parametrize("path", PURE, ids=module)
def test_physics_reads_no_file_and_prints_nothing(path: Path) -> None:
    names = {full.split(".")[0] for full in imported(ast.walk(tree(path)))}
    assert not names & FORBIDDEN
    called = {
        node.func.id for node in ast.walk(tree(path)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & OUTSIDE


def test_infer_imports_no_heavy_library() -> None:
    """Follows the imports at the top of modules, from the command line on."""
    reached, ahead = set(), {"__main__", "cli.main", "cli.commands.infer"}
    while ahead:
        name = ahead.pop()
        reached.add(name)
        found = imported(at_the_top(tree(PACKAGE / f"{name.replace('.', '/')}.py")))
        assert not {full.split(".")[0] for full in found} & HEAVY, name
        ahead |= {other for full in found if (other := owner(full))} - reached
    assert {"inference.analysis", "models.forward", "hardware.roofline", "catalog"} <= reached


@pytest.mark.parametrize("path", FILES, ids=module)
def test_the_package_has_no_assert_statement(path: Path) -> None:
    """Python drops them under -O, and users get a traceback."""
    assert not [node.lineno for node in ast.walk(tree(path)) if isinstance(node, ast.Assert)]


@pytest.mark.parametrize("path", FILES, ids=module)
def test_every_module_and_public_definition_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(tree(path))
    outer = [node for node in at_the_top(tree(path)) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert [node.name for node in outer if not node.name.startswith("_") and not ast.get_docstring(node)] == []


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=lambda p: p.name)
def test_a_package_docstring_names_every_file(folder: Path) -> None:
    """The docstring of a package lists its files and folders, one line each."""
    if folder == PACKAGE:
        return
    text = ast.get_docstring(tree(folder / "__init__.py")) or ""
    inside = {p.stem for p in folder.iterdir() if (p.suffix == ".py" or (p / "__init__.py").is_file())} - {"__init__"}
    assert {name for name in inside if name not in text} == set()
