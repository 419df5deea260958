"""What the tests share: a way to ask the command line a question in this process, and hypothesis profiles."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings

from llm_analysis.cli.main import main

ROOT = Path(__file__).parents[1]  # of the checkout
SHARED = ROOT.parent / "shared"  # measurements and facts; tests that need it are skipped where it is missing

# Timings on a shared machine say nothing about the code, so no example has a deadline.
settings.register_profile("fast", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", parent=settings.get_profile("fast"), max_examples=2000)
settings.load_profile("fast")


class Answer(NamedTuple):
    """What a command line gave: its exit status, and what it printed on stdout and stderr."""

    status: int
    out: str
    err: str


Ask = Callable[..., Answer]


def asked(*arguments: str) -> Answer:
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0
    return Answer(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def ask() -> Ask:
    """Asks the command line; the arguments as a shell would pass them."""
    return asked
