"""The entry point: dispatch with Fire, exit statuses.

stdout carries the answer, stderr everything else. Exit status 0: answered; 1: invalid question; 2: unknown
command or flag; 3: the model does not fit, under --must_fit. Commands are pure functions that return an `Output`.
Nothing is printed or written before all flags are checked and the command has returned.
"""

import gc
import logging
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from llm_analysis.cli.flags import checked, flags_of, parsers
from llm_analysis.cli.output import LOG, LONGEST_LINE, Output, complaint, printing, start_logging
from llm_analysis.cli.writing import write_together
from llm_analysis.errors import DoesNotFit, LLMAnalysisError, UsageError, nearest, shown

NAME = "llm-analysis"
# Name of a command -> (module below cli/commands, function, one line of help). Only the module of the command on the
# command line is imported.
COMMANDS = {
    "infer": ("infer", "infer", "Estimate prefill and decode latency, memory and cost."),
    "explain": ("infer", "explain", "Compare an estimate with the speed of light."),
    "sweep": ("sweep", "sweep", "Estimate all combinations of flag values."),
    "plan": ("plan", "plan", "Find the cheapest way to serve a model within limits."),
    "compare": ("compare", "compare_command", "Compare two to six scenarios side by side."),
    "plot": ("plot", "plot", "Draw a picture: roofline, breakdown, batch, pareto, cost or parity."),
    "load": ("load", "load", "Simulate a server: percentiles, saturation rate, goodput."),
    "models": ("catalogue", "models", "List the models of the catalogue."),
    "gpus": ("catalogue", "gpus", "List the GPUs of the catalogue."),
    "dtypes": ("catalogue", "dtypes", "List the number formats."),
    "validate": ("accuracy", "validate", "Compare estimates with published measurements."),
    "calibrate": ("accuracy", "calibrate", "Fit a runtime to your own measurements."),
}
_HELP = ("-h", "--help")
_SHELLS = ("bash", "zsh", "fish")
Command = Callable[..., Output]


def main(arguments: Sequence[str] | None = None) -> None:
    """Answer one command line: print, write, exit."""
    start_logging()
    output = Output("")
    try:
        with printing():
            output = run(sys.argv[1:] if arguments is None else arguments)
    except UsageError as error:
        sys.exit(complaint(str(error), 2))
    except DoesNotFit as error:
        sys.exit(complaint(str(error), 3))
    except LLMAnalysisError as error:
        sys.exit(complaint(str(error), 1))
    except KeyboardInterrupt:
        sys.exit(complaint("stopped; nothing was written", 130))
    except OverflowError:
        sys.exit(complaint("a value is so large or so small that the result is beyond the range of floats", 1))
    except Exception as error:
        if LOG.isEnabledFor(logging.DEBUG):
            raise
        problem = f"internal error: {type(error).__name__}: {error}"
        sys.exit(complaint(f"{problem[: LONGEST_LINE // 2]}; run again with --log_level DEBUG", 1))
    for note in output.notes:
        complaint(f"note: {note}", 0)
    if output.failure:
        complaint(output.failure, output.status)
    if output.status:
        sys.exit(output.status)


def run(arguments: Sequence[str]) -> Output:
    """Print the answer to a command line, write its files, and return it. Raises UsageError, LLMAnalysisError."""
    words, fire_flags = _split(arguments)
    if any(flag in _HELP for flag in fire_flags) or not (words or fire_flags):
        words = [*words, "--help"]
    elif fire_flags:
        return _printed(Output(_completion(fire_flags)))
    name, flags = words[0], words[1:]
    if name in (*_HELP, "help"):
        name, flags = (flags[0], ["--help"]) if flags else ("--help", [])
    if name == "--help" or name in ("--version", "version"):
        return _printed(Output(_overview() if name == "--help" else _version()))
    if name.startswith("-") and len(words) > 1:
        raise UsageError(f"{shown(name)} needs a command before it: llm-analysis infer --flag value ...")
    if name not in COMMANDS:
        known = ["--help", "--version"] if name.startswith("-") else COMMANDS
        raise UsageError(f"unknown command {shown(name)}{nearest(name, known)}")
    command = load(name)
    if any(flag in _HELP for flag in flags) or flags == ["help"]:
        from llm_analysis.cli.help import command_help

        return _printed(Output(command_help(name, COMMANDS[name][2], flags_of(command))))
    given = checked(name, flags, flags_of(command))
    import fire

    words = [name, *(f"--{flag}={value}" for flag, value in given.items())]
    output: Output = fire.Fire({name: command}, command=words, name=NAME, serialize=_written)
    return output


def load(name: str) -> Command:
    """Import a command and return its function, prepared for Fire: each value is parsed by the type of its flag."""
    from fire.decorators import SetParseFns

    module, function, _ = COMMANDS[name]
    command: Command = getattr(import_module(f"llm_analysis.cli.commands.{module}"), function)
    with_parsers: Command = SetParseFns(**parsers(flags_of(command)))(command)
    _start_garbage_collection()
    return with_parsers


def _start_garbage_collection() -> None:
    """Turn garbage collection on after the imports of a process (see `__main__`).

    Imported objects live until exit. Frozen, they are not searched again and again; the search at exit alone would take
    a fifth of the time of a short answer.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the command with its flags, and the flags for Fire after the last `--`. Raises UsageError."""
    if "--" not in arguments:
        return list(arguments), []
    last = len(arguments) - 1 - list(arguments)[::-1].index("--")
    words, fire_flags = list(arguments[:last]), list(arguments[last + 1 :])
    known = (*_HELP, "--completion", *_SHELLS)
    wrong = next((flag for flag in fire_flags if flag not in known), None if fire_flags else "nothing")
    if wrong is not None or "--" in words:
        raise UsageError(f"after -- come --help or --completion [bash|zsh|fish], not {shown(wrong or '--')}")
    return words, fire_flags


def _written(output: Output) -> str | None:
    """Write the files of an output, and return its text for Fire to print; None prints nothing, not even a newline."""
    write_together(output.folder, output.files)
    for name in output.files:
        LOG.info("wrote %s", output.folder / name)
    return output.text or None


def _printed(output: Output) -> Output:
    """Print a text that needs no command."""
    print(output.text)
    return output


def _completion(fire_flags: Sequence[str]) -> str:
    """Return the completion script of a shell, bash by default."""
    from llm_analysis.cli.completion import script

    shell = next((flag for flag in fire_flags if flag in _SHELLS), "bash")
    return script(shell, {name: (about, flags_of(load(name))) for name, (_, _, about) in COMMANDS.items()})


def _overview() -> str:
    """Return the list of commands."""
    from llm_analysis.cli.help import overview

    return overview({name: about for name, (_, _, about) in COMMANDS.items()})


def _version() -> str:
    """Return the version of the installed package."""
    from importlib.metadata import version

    return version("llm-analysis")
