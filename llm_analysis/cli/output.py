"""The Output of a command, the error lines on stderr, the log."""

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
from llm_analysis.errors import choice

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LOG = logging.getLogger("llm_analysis")
LONGEST_LINE = 600  # characters of an error line
# The flag --format of every command.
Format = Annotated[str, Flag("table, json, csv or markdown", OUTPUT, words=("table", "json", "csv", "markdown"))]


class Output(NamedTuple):
    """The answer of a command: text for stdout, files by name for `folder`, lines for stderr, exit status."""

    text: str
    folder: Path = Path()
    files: Mapping[str, str | bytes] = MappingProxyType({})
    notes: Sequence[str] = ()  # lines for stderr, after the text
    failure: str = ""  # the last line on stderr
    status: int = 0

    def noting(self, notes: Sequence[str], style: str) -> Output:
        """Return the output with its notes on stderr if the format is CSV, which has no place for them."""
        return self._replace(notes=notes) if style == "csv" else self


def start_logging() -> None:
    """Send log lines to stderr, from level WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("llm-analysis: %(message)s"))
    LOG.handlers, LOG.propagate = [handler], False
    LOG.setLevel(logging.WARNING)


def set_log_level(level: str) -> None:
    """Set the level of the log by name, in upper or lower case. Raises UnknownName."""
    choice("log_level", level if level.upper() not in LOG_LEVELS else level.upper(), LOG_LEVELS)
    LOG.setLevel(level.upper())


@contextmanager
def printing() -> Iterator[None]:
    """Let the body print to stdout, in any encoding; exit with 1 if stdout cannot be written.

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
    """Redirect stdout to nowhere, because Python would fail again when it flushes stdout at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complaint(problem: str, status: int) -> int:
    """Print one line on stderr, without control characters. Return the exit status."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(problem.split()))
    if len(line) > LONGEST_LINE:
        line = line[:LONGEST_LINE] + " ..."
    print(f"llm-analysis: {line}", file=sys.stderr)
    return status
