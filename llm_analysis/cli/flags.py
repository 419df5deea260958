"""Flags, and the help text.

Fire reads the values and no more: by itself it runs a command first and rejects a misspelled flag afterwards. Plain
numbers are read without it, since importing Fire would take a sixth of the time of a short answer.
"""

from __future__ import annotations

import inspect
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import TypeVar

from llm_analysis.errors import UsageError, nearest, shown

FLAG = re.compile(r"--?[a-zA-Z]")
NEGATIVE = ("-inf", "-infinity", "-nan")  # values that look like flags
COLUMNS = 80  # of the help text
MOST_CHARACTERS = 1000  # of a value that is read as more than text
CONSTANTS = {"True": True, "False": False, "None": None}
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]*)?(e[+-]?[0-9]+)?")  # plain; others are left to Fire
Parameters = Mapping[str, inspect.Parameter]
Answer = TypeVar("Answer")


def checked(command: str, arguments: Sequence[str], parameters: Parameters) -> dict[str, str]:
    """The text of each flag that is given, by name; `True` for one that stands alone.

    Raises UsageError for a flag that `command` does not have, one given twice or without its value, and a stray word.
    """
    given: dict[str, str | None] = {}
    last = ""  # the flag whose value may come next
    for argument in arguments:
        if not FLAG.match(argument) or argument.lower() in NEGATIVE:
            if not last:
                raise UsageError(f"{command}: {shown(argument)} belongs to no flag; write --flag value")
            given[last], last = argument, ""
            continue
        name, value = flag_and_value(command, argument, parameters)
        if name in given:
            raise UsageError(f"{command}: --{name} is given twice")
        given[name], last = value, "" if value is not None else name
    for name, value in given.items():
        if value is None and not is_switch(parameters[name]):
            raise UsageError(f"{command}: --{name} needs a value")
    return {name: "True" if value is None else value for name, value in given.items()}


def flag_and_value(command: str, argument: str, parameters: Parameters) -> tuple[str, str | None]:
    """The parameter that a flag names, and the value behind its equals sign if there is one. Raises UsageError."""
    word, equals, value = argument.lstrip("-").partition("=")
    name = word.replace("-", "_")
    switch = name[2:].lstrip("_") if name.startswith("no") and not equals else ""
    if switch in parameters and is_switch(parameters[switch]):
        return switch, "False"
    if name not in parameters:
        near = nearest(name, parameters, f"llm-analysis {command} --help lists them all", prefix="--")
        raise UsageError(f"{command}: unknown flag {argument[: len(argument) - len(equals + value)]}{near}")
    if not argument.startswith("--"):
        raise UsageError(f"{command}: write --{name}, with two hyphens")
    return name, value if equals else None


def is_switch(parameter: inspect.Parameter) -> bool:
    """Whether a flag is on or off, and may stand alone."""
    return isinstance(parameter.default, bool)


def is_text(parameter: inspect.Parameter) -> bool:
    """Whether a flag's value is text, whatever it looks like: a folder may well be called 1e5."""
    return "str" in str(parameter.annotation)


def value_of(text: str, parameter: inspect.Parameter) -> object:
    """A flag's value. A whole number may be written as 1e6, a switch as JSON has it."""
    if is_text(parameter):
        return text
    if is_switch(parameter) and text in ("true", "false"):
        return text == "true"
    value = as_value(text)
    counts = "int" in str(parameter.annotation)
    return int(value) if counts and isinstance(value, float) and value.is_integer() else value


def as_value(text: str) -> object:
    """A number, a list, True, ... as Fire reads it; the text itself where it is nothing of the kind."""
    if len(text) > MOST_CHARACTERS:
        return text
    if text in CONSTANTS:
        return CONSTANTS[text]
    if NUMBER.fullmatch(text):
        return int(text) if text.lstrip("-").isdigit() else float(text)
    from fire.parser import DefaultParseValue

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return DefaultParseValue(text)
    except (TypeError, ValueError, MemoryError, RecursionError):  # {[]: 1}, ------1, and the like
        return text


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
    rows = []
    for flag, text, default in flags:
        whole = text + (f" (default {default})" if default not in (None, "") else "")
        indent = " " * (width + 4)
        rows.append(textwrap.fill(whole, COLUMNS, initial_indent=f"  {flag:<{width}}  ", subsequent_indent=indent))
    return "\n".join([f"llm-analysis {name} [--flag value ...]", "", about, "", *rows])


def overview(commands: Mapping[str, Callable[..., object]]) -> str:
    """All commands, a line each."""
    width = max(map(len, commands))
    rows = [f"  {name:<{width}}  {(inspect.getdoc(c) or '').partition(chr(10))[0]}" for name, c in commands.items()]
    about = "llm-analysis: how long a language model takes on a GPU, what fits, and why."
    return "\n".join(
        [about, "", *rows, "", "llm-analysis COMMAND --help shows the flags of a command. No GPU is needed."]
    )


def with_flags_of(
    command: Callable[..., object], without: Sequence[str] = ()
) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Gives a function of any flags those of `command`, with their defaults and their help, but those `without`."""
    parameters = [p for name, p in inspect.signature(command).parameters.items() if name not in without]
    defaults = {p.name: p.default for p in parameters}
    help_lines = [f"    {name}: {text}" for name, text in described_flags(command) if name not in without]

    def like(function: Callable[..., Answer]) -> Callable[..., Answer]:
        @wraps(function)
        def answer(**flags: object) -> Answer:
            return function(**(defaults | flags))

        vars(answer)["__signature__"] = inspect.Signature(parameters)
        answer.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Args:", *help_lines])
        return answer

    return like
