"""What a command wants printed and written, and the writing of it: all of the files, or none."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, NamedTuple

from llm_analysis.cli.flags import OUTPUT, Flag
from llm_analysis.errors import BadValue, shown

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LOG = logging.getLogger("llm_analysis")
LONGEST_LINE = 600  # characters of an error line
Format = Annotated[str, Flag("table, json, csv or markdown", OUTPUT)]  # the flag --format of every command


def start_logging() -> None:
    """Log lines go to stderr, from level WARNING on until a command says otherwise."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("llm-analysis: %(message)s"))
    LOG.handlers, LOG.propagate = [handler], False
    LOG.setLevel(logging.WARNING)


@contextmanager
def printing() -> Iterator[None]:
    """Let the body print to stdout, whatever its encoding; exit with 1 if stdout cannot be written.

    A reader that closes the pipe early, such as `head`, is no error.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
    except OSError as error:
        _discard_stdout()
        sys.exit(complaint(f"cannot print the answer: {error.strerror}", 1))


def _discard_stdout() -> None:
    """Redirect stdout to nowhere, so that Python does not fail again when it flushes stdout at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complaint(problem: str, status: int) -> int:
    """One line on stderr; the exit status."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(problem.split()))
    if len(line) > LONGEST_LINE:
        line = line[:LONGEST_LINE] + " ..."
    print(f"llm-analysis: {line}", file=sys.stderr)
    return status


class Output(NamedTuple):
    """A command's answer: text for stdout, files by name for `folder`, what fails all the same, notes for stderr."""

    text: str
    folder: Path = Path()
    files: Mapping[str, str | bytes] = MappingProxyType({})
    failure: str = ""
    notes: Sequence[str] = ()

    def noting(self, notes: Sequence[str], style: str) -> Output:
        """The answer with the notes that a format has no place for: a CSV is rows and nothing else."""
        return self._replace(notes=notes) if style == "csv" else self


def write_together(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Writes all files or none: each whole under a passing name first, then all renamed.

    Raises BadValue with the folder as it was before, earlier files of the same names included.
    """
    passing = {folder / name: folder / f".llm-analysis-{os.urandom(8).hex()}" for name in files}
    earlier: dict[Path, bytes | None] = {}
    try:
        for path, content in zip(passing.values(), files.values(), strict=True):
            with path.open(mode="xb") as file:
                file.write(content if isinstance(content, bytes) else content.encode())
        for final, path in passing.items():
            earlier[final] = final.read_bytes() if final.exists() else None
            os.replace(path, final)
    except BaseException as error:
        for final, before in earlier.items():
            put_back(final, before)
        for path in passing.values():
            path.unlink(missing_ok=True)
        if isinstance(error, (OSError, ValueError)):
            reason = getattr(error, "strerror", None) or str(error)
            raise BadValue(f"output_dir {shown(str(folder), 240)}: nothing written: {reason}") from None
        raise


def put_back(path: Path, content: bytes | None) -> None:
    """The file as it was: its earlier content, or none."""
    if content is None:
        path.unlink(missing_ok=True)
    elif path.read_bytes() != content:
        path.write_bytes(content)


def existing_folder(value: object, flag: str = "output_dir") -> Path:
    """A folder that can be written to. Raises BadValue for anything else."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise BadValue(f"{flag} must be a folder, not {shown(value)}")
    try:
        path = Path(value).expanduser()
        problem = "" if path.is_dir() else "not a folder" if path.exists() else "no such folder; create it first"
    except (OSError, ValueError, RuntimeError) as error:
        problem = getattr(error, "strerror", None) or str(error)
    if not problem and not os.access(path, os.W_OK | os.X_OK):
        problem = "not writable"
    if problem:
        raise BadValue(f"{flag} {shown(value, 240)}: {problem}")
    return path


def name_part(flag: str, value: object) -> str:
    """A piece of a file name. Raises BadValue for what cannot be one."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > 100 or set(value) & set("/\\"):
        raise BadValue(f"{flag} must be a short piece of a file name, not {shown(value)}")
    return value


def path_of(flag: str, value: str) -> Path:
    """A flag's value as a path. Raises BadValue."""
    if not value.strip() or "\0" in value:
        raise BadValue(f"{flag} must be the path of a file")
    return Path(value).expanduser()
