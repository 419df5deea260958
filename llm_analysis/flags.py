"""Flags before Fire sees them: it runs a command first and rejects a misspelled flag afterwards. And the help text."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from llm_analysis.errors import UsageError, nearest, shown

FLAG = re.compile(r"--?[a-zA-Z]")


def check_flags(command: str, arguments: Sequence[str], known: Sequence[str]) -> None:
    """Raises UsageError for a flag that `command` does not have, one given twice, and a word without a flag."""
    seen: set[str] = set()
    expects_value = False
    for argument in arguments:
        if not FLAG.match(argument):
            if not expects_value:
                raise UsageError(f"{command}: {shown(argument)} stands without a flag; write --flag {argument}")
            expects_value = False
            continue
        word = argument.lstrip("-").split("=", 1)[0]
        name = word.replace("-", "_")
        if name.startswith("no") and name[2:] in known:
            name = name[2:]
        if name not in known or not argument.startswith("--"):
            raise UsageError(f"{command}: unknown flag --{word}{nearest(name, known)}")
        if name in seen:
            raise UsageError(f"{command}: --{name} is given twice")
        seen.add(name)
        expects_value = "=" not in argument


def described_flags(command: Callable[..., object]) -> Iterator[tuple[str, str]]:
    """(name, description) of each flag, from the Args list of the command's docstring."""
    lines = (inspect.getdoc(command) or "").partition("Args:\n")[2].splitlines()
    for line in lines:
        name, colon, text = line.strip().partition(": ")
        if colon:
            yield name, text


def help_text(name: str, command: Callable[..., object]) -> str:
    """One command: what it answers, and its flags with their defaults."""
    about = (inspect.getdoc(command) or "").partition("\n")[0]
    parameters = inspect.signature(command).parameters
    flags = [("--" + flag, text, parameters[flag].default) for flag, text in described_flags(command)]
    width = max((len(flag) for flag, _, _ in flags), default=0)
    rows = [
        f"  {flag:<{width}}  {text}" + (f" (default {default})" if default not in (None, "") else "")
        for flag, text, default in flags
    ]
    return "\n".join([f"llm-analysis {name} [--flag value ...]", "", about, "", *rows])


def overview(commands: Mapping[str, Callable[..., object]]) -> str:
    """All commands, a line each."""
    width = max(map(len, commands))
    rows = [f"  {name:<{width}}  {(inspect.getdoc(c) or '').partition(chr(10))[0]}" for name, c in commands.items()]
    about = "llm-analysis: how long a language model takes on a GPU, what fits, and why. No GPU needed."
    return "\n".join([about, "", *rows, "", "llm-analysis COMMAND --help shows the flags of a command."])
