"""The command line: flags in, an answer out. `flags` reads them; everything is checked by the rooms behind it.

stdout carries the answer, stderr everything else. Exit 0: answered; 1: the question makes no sense; 2: bad flags.
Commands are pure: they return what is to be printed and written, and nothing is, until all flags have been understood.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Sequence

from llm_analysis.cli.commands import accuracy, catalogue
from llm_analysis.cli.commands.infer import explain, infer
from llm_analysis.cli.flags import checked, help_text, overview, value_of
from llm_analysis.cli.output import (
    LOG,
    LONGEST_LINE,
    Output,
    complaint,
    say,
    start_logging,
    write_together,
)
from llm_analysis.errors import LLMAnalysisError, UsageError, nearest, shown

COMMANDS: dict[str, Callable[..., Output]] = {
    "infer": infer,
    "explain": explain,
    "models": catalogue.models,
    "gpus": catalogue.gpus,
    "dtypes": catalogue.dtypes,
    "validate": accuracy.validate,
    "calibrate": accuracy.calibrate,
}


def run(arguments: Sequence[str]) -> Output:
    """The output of a command line. Raises UsageError, LLMAnalysisError."""
    name, flags = (arguments[0], arguments[1:]) if arguments else ("--help", ())
    if name in ("-h", "--help", "help"):
        asked_for = [word for word in flags[:1] if word in COMMANDS]
        return Output(help_text(asked_for[0], COMMANDS[asked_for[0]]) if asked_for else overview(COMMANDS))
    if name in ("--version", "version"):
        from importlib.metadata import version

        return Output(version("llm-analysis"))
    if name not in COMMANDS:
        raise UsageError(f"unknown command {shown(name)}{nearest(name, COMMANDS)}")
    command = COMMANDS[name]
    if "--help" in flags or "-h" in flags:
        return Output(help_text(name, command))
    return called(name, command, flags)


def called(name: str, command: Callable[..., Output], arguments: Sequence[str]) -> Output:
    """What a command returns for its flags. Raises UsageError, LLMAnalysisError."""
    parameters = inspect.signature(command).parameters
    given = checked(name, arguments, parameters)
    return command(**{flag: value_of(text, parameters[flag]) for flag, text in given.items()})


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: prints, writes, exits."""
    start_logging()
    try:
        output = run(sys.argv[1:] if arguments is None else arguments)
        write_together(output.folder, output.files)
        for name in output.files:
            LOG.info("wrote %s", output.folder / name)
    except UsageError as error:
        sys.exit(complaint(str(error), 2))
    except LLMAnalysisError as error:
        sys.exit(complaint(str(error), 1))
    except KeyboardInterrupt:
        sys.exit(130)
    except ArithmeticError:
        sys.exit(complaint("some value is so large or so small that the numbers leave the range of floats", 1))
    except Exception as error:
        if LOG.isEnabledFor(logging.DEBUG):
            raise
        problem = f"internal error: {type(error).__name__}: {error}"
        sys.exit(complaint(f"{problem[: LONGEST_LINE // 2]}; run again with --log_level DEBUG", 1))
    say(output.text)
    for note in output.notes:
        complaint(f"note: {note}", 0)
    if output.failure:
        sys.exit(complaint(output.failure, 1))
