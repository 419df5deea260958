"""Flags of a command: their declaration, their check before anything runs, and the parsing of their values.

A command declares each flag once, in its signature: type, default and help text.

    def infer(*, tp_size: Annotated[int, Flag("tensor-parallel GPUs", LAYOUT)] = 1) -> Output: ...

Fire dispatches and parses. This file adds what Fire lacks: it rejects unknown flags before the command runs, it
accepts the flag names of serving engines, and it gives Fire a parser for the value of each flag.
"""

import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Annotated, Any, NamedTuple, TypeVar, get_args

from llm_analysis.errors import BadValue, UsageError, nearest, shown
from llm_analysis.explore.ranges import is_one_number, without_commas
from llm_analysis.names import ALIASES

_FLAG = re.compile(r"--?[a-zA-Z]")
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_NEGATIVE_WORDS = ("-inf", "-infinity", "-nan")  # values that look like flags
_LONGEST_VALUE = 1000  # characters of a value that is parsed; a longer one stays text
OUTPUT = "Output"
Answer = TypeVar("Answer")
_Parser = Callable[[str], object]


class Flag(NamedTuple):
    """The help of one flag, and how its value is read.

    `words` are the known values of a text flag, accepted in upper and lower case. `raw` passes the value to the command
    as the text that the user typed.
    """

    text: str
    group: str = ""
    unit: str = ""
    words: tuple[str, ...] = ()
    raw: bool = False


class Declared(NamedTuple):
    """One flag of a command, as its signature declares it."""

    name: str
    kind: type
    default: object
    flag: Flag

    @property
    def is_switch(self) -> bool:
        """Whether the flag is True or False, and may be given without a value."""
        return self.kind is bool and not self.flag.raw


# Flags of other programs and of other commands, with the flag to use instead.
HINTS = {
    "max_model_len": "the longest sequence is --seq_len plus --num_tokens_to_generate; the answer shows the "
    "longest context that fits",
    "prefill_chunk_size": "in load the most tokens in a step are --max_num_batched_tokens",
    "enable_chunked_prefill": "give --prefill_chunk_size, the most tokens in one prefill pass",
    "max_concurrency": "infer and load have it; here give --batch_size_per_gpu, the sequences in the batch",
    "quantization": "give --dtype_name, for example fp8 or int4",
    "kv_cache_dtype": "give --kv_cache_dtype_bytes: 1 for fp8, 2 for fp16",
    "num_gpus": "give --tp_size, --pp_size and --dp_size; their product is the number of GPUs",
    "gpus": "give --tp_size, --pp_size and --dp_size; their product is the number of GPUs",
    "ttft": "it is a result, not a flag; llm-analysis sweep --where 'ttft<1s' searches for it",
    "tpot": "it is a result, not a flag; llm-analysis sweep --where 'tpot<20ms' searches for it",
    "seq_len": "in load the prompt has --random_input_len tokens",
    "num_tokens_to_generate": "in load the output has --random_output_len tokens",
    "duration": "give --num_prompts, the request rate times the seconds",
    "max_ttft": "plan has it; sweep --where 'ttft<1s' keeps the points below it",
    "max_tpot": "plan has it; sweep --where 'tpot<30ms' keeps the points below it",
    "ds_zero": "it is for training; this program estimates inference",
    "request_rate": "load and plan have it; infer takes --max_concurrency, the requests in flight",
    "enable_prefix_caching": "give --cached_prefix_len in infer, --prefix_cache_hit_rate in load",
    "speculative_model": "give --draft_model_name, --num_draft_tokens and --acceptance_rate",
    "speculative_config": "give --draft_model_name, --num_draft_tokens and --acceptance_rate",
    "num_nodes": "a layout of more GPUs than --num_gpus_per_node takes several servers",
    "nnodes": "a layout of more GPUs than --num_gpus_per_node takes several servers",
}
_SEARCHED = "plan searches layouts and batch sizes; infer and load take one"
# Hints for a flag of one command that would be wrong for another one.
_HINTS_OF = {
    "plan": dict.fromkeys(("tp_size", "pp_size", "dp_size", "ep_size", "batch_size_per_gpu"), _SEARCHED)
    | {"goodput": "plan has --max_ttft and --max_tpot, limits on means"},
    "gpus": {"vendor": "give --family", "architecture": "give --family", "model": "give --name"},
    "load": {
        "batch_size_per_gpu": "in load --max_num_seqs is the most running sequences of a replica",
        "max_ttft": "load has --goodput, such as ttft:500,tpot:50",
        "max_tpot": "load has --goodput, such as ttft:500,tpot:50",
        "cached_prefix_len": "in load --prefix_cache_hit_rate is the cached fraction of each prompt",
    },
}


def flags_of(command: Callable[..., object]) -> dict[str, Declared]:
    """Return the flags of a command by name, in the order of its signature."""
    found = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        kind, flag = get_args(parameter.annotation)
        plain = next((each for each in get_args(kind) if each is not type(None)), kind)
        found[name] = Declared(name, plain, parameter.default, flag)
    return found


def checked(command: str, arguments: Sequence[str], flags: Mapping[str, Declared]) -> dict[str, str]:
    """Return the text of each flag on the command line by its full name; "True" for a switch without a value.

    Raises UsageError for an unknown flag, a repeated flag, a flag without a value, and a word that follows no flag.
    """
    given: dict[str, str | None] = {}
    last = ""  # the flag that takes the next word as its value
    for argument in arguments:
        if not _FLAG.match(argument) or argument.lower() in _NEGATIVE_WORDS:
            if not last:
                example = "--flag value" if given else f"--{next(iter(flags), 'flag')} {_example_of(argument)}"
                example = _without_hyphens(argument, flags) or example
                raise UsageError(f"{command}: {shown(argument)} follows no flag; write {example}")
            given[last], last = argument, ""
            continue
        name, value = _name_and_value(command, argument, flags)
        if name in given:
            raise UsageError(f"{command}: --{name} is given twice")
        given[name], last = value, "" if value is not None else name
    for name, value in given.items():
        if value is None and not flags[name].is_switch:
            raise UsageError(f"{command}: --{name} needs a value")
    return {name: "True" if value is None else value for name, value in given.items()}


def _name_and_value(command: str, argument: str, flags: Mapping[str, Declared]) -> tuple[str, str | None]:
    """Return the full name of the flag in one word, and the value after its equals sign. Raises UsageError."""
    word, equals, value = argument.lstrip("-").partition("=")
    name = word.replace("-", "_")
    switch = name[2:].lstrip("_") if name.startswith("no") and not equals else ""
    if switch in flags and flags[switch].is_switch:
        return switch, "False"
    if name not in flags and ALIASES.get(name) in flags:
        name = ALIASES[name]
    if name not in flags:
        raise UsageError(f"{command}: unknown flag {_unknown(command, argument.partition('=')[0], flags)}")
    if not argument.startswith("--"):
        raise UsageError(f"{command}: write --{name}, with two hyphens")
    return name, value if equals else None


def _example_of(word: str) -> str:
    """Return a word for an example in an error line; `value` for a word that a shell would not pass on as it is."""
    return word if re.fullmatch(r"[\w./:+-]{1,80}", word) else "value"


def _without_hyphens(word: str, flags: Mapping[str, Declared]) -> str:
    """Return `tp_size=2` or `—tp_size` with two hyphens before it; empty if the word names no flag."""
    bare = word.lstrip("-\u2013\u2014\u2212")  # hyphen, en dash, em dash, minus sign
    name, equals, _ = bare.partition("=")
    if bare == word and not equals:
        return ""
    name = name.replace("-", "_")
    known = ALIASES.get(name, name) in flags
    return f"--{bare}" if known and re.fullmatch(r"[\w=./:+-]{1,80}", bare) else ""


def _unknown(command: str, word: str, flags: Mapping[str, Declared]) -> str:
    """Return an unknown flag with a hint, or with the nearest names, as the end of an error line."""
    name = word.lstrip("-").replace("-", "_")
    full = ALIASES.get(name, name)
    own = _HINTS_OF.get(command, {}).get(full)
    hint = own or HINTS.get(name) or HINTS.get(full)
    if "lora" in name.split("_") or "loras" in name.split("_"):
        hint = "LoRA adapters are not modelled; an adapter that is merged into the weights costs no time"
    if hint and (own or "model_name" in flags):
        return f"{word}; {hint}"
    return word + nearest(name, [*flags, "help"], f"llm-analysis {command} --help lists all flags", prefix="--")


def parsers(flags: Mapping[str, Declared]) -> dict[str, _Parser]:
    """Return the function that parses the value of each flag, by name: for fire.decorators.SetParseFns."""
    return {name: _parser(flag) for name, flag in flags.items()}


def _parser(flag: Declared) -> _Parser:
    """Return the function that parses the value of a flag."""
    if flag.flag.words and not flag.flag.raw:
        known = {word.lower(): word for word in flag.flag.words}
        return lambda text: known.get(text.lower(), text)
    return _text if flag.flag.raw else _PARSERS[flag.kind](flag.name)


def _text(text: str) -> str:
    """Return the value unchanged: a folder or a model may be called 1e5."""
    return text


def _switch(name: str) -> _Parser:
    """Return a parser of True and False, also as JSON spells them."""

    def parse(text: str) -> bool:
        if text not in ("True", "true", "False", "false"):
            raise BadValue(f"{name} must be True or False, not {shown(text)}")
        return text in ("True", "true")

    return parse


def _whole(name: str) -> _Parser:
    """Return a parser of whole numbers, which may be written as 1e6 or 1_000."""

    def parse(text: str) -> object:
        if is_one_number(text):
            return text
        if plain := without_commas(text):
            hint = f"write {plain} for one number; llm-analysis sweep and compare take lists"
            raise BadValue(f"{name} takes one value, not {shown(text)}; {hint}")
        value = _literal(text)
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return parse


def _real(name: str) -> _Parser:
    """Return a parser of numbers, which names the comma of a number with one: Fire would read 2,50 as two numbers."""

    def parse(text: str) -> object:
        if without_commas(text):
            return text
        if _DECIMAL_COMMA.fullmatch(text.strip()):
            raise BadValue(f"{name} must be a number, not {shown(text)}; write {text.strip().replace(',', '.')}")
        return _literal(text)

    return parse


_PARSERS: dict[type, Callable[[str], _Parser]] = {
    str: lambda name: _text,
    bool: _switch,
    int: _whole,
    float: _real,
}


def _literal(text: str) -> object:
    """Return a value as Fire parses it: a number, True, a tuple, ...; the text itself if it is none of these."""
    from fire.parser import DefaultParseValue

    if len(text) > _LONGEST_VALUE:
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of "1if 1else 2"
            return DefaultParseValue(text)
    except (TypeError, ValueError, MemoryError, RecursionError):  # {[]: 1}, ------1 and similar
        return text


def with_flags_of(
    command: Callable[..., object], without: Sequence[str] = (), raw: bool = False
) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Return a decorator that gives a function the flags of `command`, in addition to its own keyword-only ones.

    `without` names flags to leave out. With `raw` the values of the flags of `command` arrive as the user's text, so
    that the function can read lists and ranges in them; parse each element with `parsers(flags_of(command))[name]`.
    A flag that is not on the command line arrives with its default.
    """
    shared = [p for name, p in inspect.signature(command).parameters.items() if name not in without]
    if raw:
        shared = [p.replace(annotation=_raw(p.annotation)) for p in shared]

    def decorate(function: Callable[..., Answer]) -> Callable[..., Answer]:
        own = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        parameters = [*(p for p in shared if p.name not in {o.name for o in own}), *own]
        defaults = {p.name: p.default for p in parameters}

        @wraps(function)
        def answer(**flags: object) -> Answer:
            return function(**(defaults | flags))

        vars(answer)["__signature__"] = inspect.Signature(parameters)
        return answer

    return decorate


def _raw(annotation: Any) -> Any:
    """Return the annotation of a flag with its value left as text."""
    kind, flag = get_args(annotation)
    return Annotated[kind, flag._replace(raw=True)]


def grouped(flags: Mapping[str, Declared]) -> Iterator[tuple[str, list[Declared]]]:
    """Yield the groups of a command's flags by their first flag: flags without a group first, the output last."""
    groups = [flag.flag.group for flag in flags.values()]
    names = dict.fromkeys(sorted(groups, key=lambda group: (bool(group), group == OUTPUT)))
    for name in names:
        yield name, [flag for flag in flags.values() if flag.flag.group == name]
