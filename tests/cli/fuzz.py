"""Random command lines and mutated configuration files, and the check of what the program does with them.

    python tests/cli/fuzz.py [command lines] [files] [seed]

runs many of them outside of pytest, with a time limit of 10 s for each, and prints every violation.
"""

import json
import math
import os
import random
import signal
import string
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llm_analysis import catalog
from llm_analysis.cli.flags import ALIASES, Declared, flags_of
from llm_analysis.cli.main import COMMANDS, load
from llm_analysis.files import DATA
from llm_analysis.physics.dtypes import EVERYDAY

Run = Callable[..., Any]  # arguments -> status, out, err

MODELS, GPUS = catalog.names("model_configs"), catalog.names("gpu_configs")
RUNTIMES = [path.stem for path in sorted((DATA / "runtimes").glob("*.json"))]
# Commands by how often they are asked. `plot` draws with matplotlib and is slow.
WEIGHTS = {
    "infer": 60,
    "explain": 8,
    "compare": 8,
    "sweep": 8,
    "plan": 2,
    "models": 2,
    "gpus": 3,
    "dtypes": 5,
    "validate": 1,
}
WRITING = ("output_dir", "output_file", "plot", "shard", "measurements", "log_level", "allow_download")
JUNK = [
    "",
    " ",
    "-",
    "--",
    "=",
    "True",
    "None",
    "nan",
    "-inf",
    "1e400",
    "-0",
    "0x10",
    "1_000",
    "()",
    "[]",
    "{}",
    "{[]: 1}",
]
JUNK += [
    "~",
    "~nobody-of-this-name",
    ".",
    "..",
    "/",
    "/dev/null",
    "/dev/zero",
    "a/b",
    "a\0b",
    "é",
    "\ud800",
    "\x1b[31m",
]
JUNK += [
    "x" * 300,
    "9" * 5000,
    "[" * 400,
    "1,2,4",
    "1:9",
    "1:9:0",
    "=cmd|'/C calc'!A0",
    "%s%n",
    "$HOME",
    "a\nb",
    "a\rb",
]
LIMIT_SECONDS = 10


def command_lines(seed: int, number: int) -> Iterator[list[str]]:
    """Yield random command lines: most of them plausible, many with one mistake, some without any sense."""
    rng = random.Random(seed)
    flags = {name: flags_of(load(name)) for name in COMMANDS}
    names = [name for name in WEIGHTS if name in COMMANDS]
    for _ in range(number):
        name = rng.choices(names, [WEIGHTS[each] for each in names])[0]
        words = [name, *_flags(rng, name, flags[name])]
        if rng.random() < 0.15:
            words.insert(rng.randrange(len(words) + 1), rng.choice([*JUNK, *COMMANDS, "--help", "--zzz", "-t", "--tp"]))
        if rng.random() < 0.1:
            place = rng.randrange(len(words))
            words[place] = _misspelled(rng, words[place])
        yield words


def _flags(rng: random.Random, command: str, flags: dict[str, Declared]) -> Iterator[str]:
    """Yield flags of a command with values."""
    chosen: list[str] = [name for name in ("model_name", "gpu_name") if name in flags and rng.random() < 0.97]
    others = [name for name in flags if name not in (*WRITING, *chosen, "model_name", "gpu_name")]
    chosen += rng.sample(others, min(len(others), rng.choice([0, 0, 1, 1, 2, 2, 3, 4, 6])))
    if command == "validate":  # without this flag it reads all published measurements
        yield f"--measurements={rng.choice(JUNK)}"
    for name in chosen:
        spelling = name.replace("_", "-") if rng.random() < 0.1 else name
        aliases = [alias for alias, full in ALIASES.items() if full == name]
        if aliases and rng.random() < 0.1:
            spelling = rng.choice(aliases)
        value = _value(rng, flags[name])
        if flags[name].kind is bool and rng.random() < 0.5:
            yield f"--{'no' if rng.random() < 0.3 else ''}{spelling}"
        elif rng.random() < 0.5:
            yield f"--{spelling}={value}"
        else:
            yield from (f"--{spelling}", value)


def _value(rng: random.Random, flag: Declared) -> str:
    """Return a value of a flag: plausible in nine of ten cases."""
    if rng.random() < 0.1:
        return rng.choice([*JUNK, str(rng.randrange(-(10**12), 10**12)), str(rng.gauss(0, 1e3)), _text(rng)])
    known: dict[str, list[str]] = {
        "model_name": MODELS,
        "draft_model_name": [*MODELS, "mtp"],
        "gpu_name": GPUS,
        "dtype_name": [*EVERYDAY, "w4a16e16kv8", "w8a8", "bf16+mxfp4", "bfloat16"],
        "method": ["calibrated", "ideal", "published"],
        "runtime": [*RUNTIMES, "none"],
        "format": ["table", "json", "csv", "markdown"],
        "name": [*MODELS, *GPUS, *EVERYDAY],
        "family": ["Llama-3", "Hopper", "AMD", "Qwen3"],
    }
    if flag.name in known:
        name = rng.choice(known[flag.name])
        return rng.choice([name, name, name.upper(), name.replace("-", "_"), name[: rng.randrange(len(name)) + 1]])
    if flag.kind is bool:
        return rng.choice(["True", "False", "true", "no", "1"])
    if flag.kind is int:
        return str(rng.choice([1, 2, 3, 4, 8, 16, 128, 1000, 10**5, 10**9, rng.randrange(1, 5000)]))
    return str(rng.choice([0.5, 1, 1.0, 0.9, 2, 1e-9, 100, round(rng.random(), 3), round(rng.expovariate(0.01), 2)]))


def _text(rng: random.Random) -> str:
    """Return a few random characters, control characters among them."""
    return "".join(rng.choice(string.printable + "éß漢\x00\x1b\u202e") for _ in range(rng.randrange(12)))


def _misspelled(rng: random.Random, word: str) -> str:
    """Return a word with one character more, less, or replaced."""
    place = rng.randrange(len(word) + 1)
    kind = rng.randrange(3)
    return word[:place] + (rng.choice(string.printable) if kind else "") + word[place + (kind != 1) :]


# Mutated files


def mutated_files(seed: int, number: int) -> Iterator[tuple[str, bytes]]:
    """Yield (flag, content) of model, GPU and runtime files with one to three mistakes."""
    rng = random.Random(seed)
    sources = {
        "model_name": [catalog._PACKAGE.parent / "model_configs" / f"{name}.json" for name in MODELS],
        "gpu_name": [catalog._PACKAGE.parent / "gpu_configs" / f"{name}.json" for name in GPUS],
        "runtime": sorted((DATA / "runtimes").glob("*.json")),
    }
    for _ in range(number):
        flag = rng.choices(list(sources), [6, 3, 2])[0]
        text = rng.choice(sources[flag]).read_text(encoding="utf-8")
        if rng.random() < 0.1:
            yield flag, _damaged(rng, text.encode())
            continue
        document = json.loads(text)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            _mutate(rng, document)
        yield flag, json.dumps(document).encode("utf-8", "surrogatepass")


def _damaged(rng: random.Random, content: bytes) -> bytes:
    """Return a file that is cut off, or has a few bytes replaced."""
    if rng.random() < 0.5:
        return content[: rng.randrange(len(content))]
    damaged = bytearray(content)
    for _ in range(rng.randrange(1, 6)):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged)


def _mutate(rng: random.Random, document: dict[str, Any]) -> None:
    """Change one entry of a document, at any depth: its value, its key, or its presence."""
    holder: Any = document
    while True:
        inner = [value for value in (holder.values() if isinstance(holder, dict) else holder) if value]
        inner = [value for value in inner if isinstance(value, (dict, list))]
        if not inner or rng.random() < 0.6:
            break
        holder = rng.choice(inner)
    if isinstance(holder, list):
        holder[rng.randrange(len(holder))] = _odd(rng, None)
        return
    key = rng.choice(list(holder)) if holder else "x"
    kind = rng.randrange(10)
    if kind == 0:
        holder.pop(key, None)
    elif kind == 1:
        holder[_misspelled(rng, key)] = holder.pop(key, None)
    elif kind == 2:
        holder[_text(rng)] = _odd(rng, None)
    else:
        holder[key] = _odd(rng, holder.get(key))


def _odd(rng: random.Random, value: object) -> Any:
    """Return a value that is near `value`, or of another type, or out of range."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and rng.random() < 0.5:
        return rng.choice(
            [value + 1, value - 1, value * 2, value * 1000, value / 3, value // 2, -value, float(value), 0]
        )
    odd: list[Any] = [
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        7,
        2**31,
        2**63,
        10**9,
        10**30,
        1.5,
        1e308,
        -1e308,
        math.nan,
        math.inf,
    ]
    odd += ["", "1", "bf16", "x" * 5000, "a\x1b[31m\n", [], {}, [1], ["x"], {"a": 1}, [[[[1]]]], [1] * 1000, _text(rng)]
    return rng.choice(odd)


# The check


def violation(arguments: list[str], answer: Any) -> str:
    """Return what is wrong with the answer to a command line; empty if nothing is."""
    if answer.status not in (0, 1, 2, 3):
        return f"exit status {answer.status}"
    for word in ("Traceback", "internal error", "cannot print"):
        if word in answer.err:
            return f"{word} on stderr"
    if any(not line.startswith("llm-analysis: ") for line in answer.err.splitlines()):
        return "a line on stderr that is not a message"
    if any(not (c.isprintable() or c == "\n") for c in answer.out + answer.err):
        return "a character that cannot be printed"
    if answer.status in (1, 2):
        if answer.out:  # `validate` and `plan` may fail with an answer: if limits are not met
            return "" if {"validate", "plan"} & set(arguments) else "an error with output"
        return "" if len(answer.err.splitlines()) == 1 else "an error of several lines, or none"
    if not answer.out:
        return "neither an answer nor an error"
    return _number_problem(answer.out) if "--format=json" in arguments and "usage: " not in answer.out else ""


def _number_problem(text: str) -> str:
    """Return what is wrong with a JSON answer; empty if all of its numbers are finite."""
    try:
        json.loads(text, parse_constant=_not_finite)
    except ValueError as error:
        return f"not JSON: {error}"
    return ""


def _not_finite(name: str) -> None:
    raise ValueError(f"a number that is not finite: {name}")


def with_file(flag: str, path: Path) -> list[str]:
    """Return a command line that reads a file as a model, a GPU or a runtime."""
    names = {"model_name": "llama-3.1-8b", "gpu_name": "h100-sxm-80gb"} | {flag: str(path)}
    return ["infer", *(f"--{name}={value}" for name, value in names.items())]


def main(lines: int, files: int, seed: int) -> int:
    """Run the fuzzer and print what it finds. Return the number of violations."""
    from conftest import asked

    found, slowest, start = 0, 0.0, time.monotonic()
    statuses: dict[int, int] = {}

    def check(label: str, arguments: list[str]) -> None:
        nonlocal found, slowest
        begun = time.monotonic()
        signal.alarm(LIMIT_SECONDS)
        try:
            answer = asked(*arguments)
            problem = violation(arguments, answer)
            statuses[answer.status] = statuses.get(answer.status, 0) + 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            problem = f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
        slowest = max(slowest, time.monotonic() - begun)
        if problem:
            found += 1
            print(f"{label}: {problem}: {arguments!r}"[:1500], flush=True)

    signal.signal(signal.SIGALRM, _hang)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for number, (flag, content) in enumerate(mutated_files(seed, files)):
            Path("odd.json").write_bytes(content)
            before = found
            check(f"file {number}", with_file(flag, Path("odd.json")))
            if found > before:
                print(content[:3000], flush=True)
        for number, arguments in enumerate(command_lines(seed, lines)):
            check(f"line {number}", arguments)
            if number % 10_000 == 9_999:
                print(f"{number + 1} command lines after {time.monotonic() - start:.0f} s", flush=True)
    seconds = time.monotonic() - start
    print(f"{lines} command lines, {files} files: {found} violations; statuses {statuses}")
    print(f"{seconds:.0f} s, the slowest {slowest:.1f} s")
    return found


class Hang(BaseException):
    """A command that did not end within the time limit."""


def _hang(*_: object) -> None:
    raise Hang(f"no answer within {LIMIT_SECONDS} s")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    numbers = [int(each) for each in sys.argv[1:]] + [100_000, 10_000, 1][len(sys.argv) - 1 :]
    sys.exit(main(*numbers) > 0)
