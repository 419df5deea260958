"""Random command lines, and a check of the answers to them and to mutated files.

    python tests/cli/fuzz.py [command lines] [files] [seed] [first]

runs many of them outside of pytest, in one process, with a time limit of 10 s for each. It prints every violation and
the number of runs of each command. Each line depends on the seed and on its number only: with `first` it starts there.
"""

import csv
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mutations import FILES, ODD, misspelled, mutated_files, random_text, write_files

from llm_analysis import catalog
from llm_analysis.cli.flags import Declared, flags_of
from llm_analysis.cli.main import COMMANDS, load
from llm_analysis.explore.columns import COLUMNS
from llm_analysis.files import DATA
from llm_analysis.names import ALIASES
from llm_analysis.physics.dtypes import EVERYDAY
from llm_analysis.serving.lengths import workload_names

Run = Callable[..., Any]  # arguments -> status, out, err

MODELS, GPUS = catalog.names("model_configs"), catalog.names("gpu_configs")
RUNTIMES = [path.stem for path in sorted((DATA / "runtimes").glob("*.json"))]
# Commands by how often they are asked. `plot` draws with matplotlib and is slow, `load` simulates.
WEIGHTS = {
    "infer": 55,
    "explain": 8,
    "compare": 8,
    "sweep": 8,
    "plan": 3,
    "load": 4,
    "plot": 1,
    "models": 2,
    "gpus": 3,
    "dtypes": 4,
    "validate": 2,
    "calibrate": 3,
}
LISTS = ("sweep", "compare", "plot")  # take several values of a flag
WRITING = ("output_dir", "output_file", "plot", "shard", "log_level", "allow_download")
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
LIMIT_SECONDS, PATIENCE = 10, 6  # seconds of processor time; elapsed time may be a multiple on a busy machine
MEMORY = 8 * 2**30  # bytes of address space


def command_lines(seed: int, number: int, start: int = 0) -> Iterator[list[str]]:
    """Yield random command lines: most of them plausible, many with one mistake, some nonsensical."""
    flags = {name: flags_of(load(name)) for name in COMMANDS}
    for index in range(start, start + number):
        rng = random.Random(f"line {seed} {index}")
        if rng.random() < 0.01:
            yield _without_command(rng)
            continue
        name = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        careful = rng.random() < 0.5
        words = [name, *_flags(rng, name, flags[name], careful)]
        if careful:
            yield words
            continue
        if rng.random() < 0.15:
            words.insert(rng.randrange(len(words) + 1), rng.choice([*JUNK, *COMMANDS, "--help", "--zzz", "-t", "--tp"]))
        if rng.random() < 0.1:
            place = rng.randrange(len(words))
            words[place] = misspelled(rng, words[place])
        yield words


def _without_command(rng: random.Random) -> list[str]:
    """Return a request for help, the version or a completion script, or something near it."""
    first = rng.choice([[], ["help"], ["--help"], ["--version"], ["help", rng.choice(list(COMMANDS))], ["-h"]])
    last = rng.choice(["--completion", "bash", "zsh", "fish", "--help", rng.choice(JUNK)])
    return [*first, *rng.choice([[], ["--", "--completion"], ["--", "--completion", last], ["--", last], ["--"]])]


def _flags(rng: random.Random, command: str, flags: dict[str, Declared], careful: bool) -> Iterator[str]:
    """Yield flags of a command with values."""
    chosen: list[str] = [name for name in ("model_name", "gpu_name") if name in flags and rng.random() < 0.97]
    # Required flags, and flags that keep a command from taking minutes.
    needed = {"plan": ["request_rate"], "load": ["num_prompts"], "calibrate": ["measurements"], "plot": ["kind"]}
    chosen += [name for name in needed.get(command, []) if rng.random() < 0.95]
    others = [name for name in flags if name not in (*WRITING, *chosen, "model_name", "gpu_name")]
    chosen += rng.sample(others, min(len(others), rng.choice([0, 0, 1, 1, 2, 2, 3, 4, 6])))
    if command == "validate" and "measurements" not in chosen:  # without it validate reads all published measurements
        chosen.append("measurements")
    if command == "load" and "num_prompts" not in chosen:
        yield "--num_prompts=10"
    for name in chosen:
        spelling = name.replace("_", "-") if rng.random() < 0.1 else name
        aliases = [alias for alias, full in ALIASES.items() if full == name]
        if aliases and rng.random() < 0.1:
            spelling = rng.choice(aliases)
        value = _value(rng, flags[name], command, careful)
        if command in LISTS and (rng.random() < 0.2 or (command, name) == ("compare", "gpu_name")):
            two = f"{value},{_value(rng, flags[name], command, careful)}"
            value = rng.choice([two, "1:64", "1,2,4", "8:64:8"]) if flags[name].kind is int or not careful else two
        if flags[name].kind is bool and rng.random() < 0.5:
            yield f"--{'no' if rng.random() < 0.3 else ''}{spelling}"
        elif rng.random() < 0.5:
            yield f"--{spelling}={value}"
        else:
            yield from (f"--{spelling}", value)


def _value(rng: random.Random, flag: Declared, command: str, careful: bool) -> str:
    """Return a value of a flag: plausible if `careful`, else in nine of ten cases."""
    if not careful and rng.random() < 0.1:
        number = str(rng.randrange(-(10**12), 10**12))
        return rng.choice([*JUNK, number, str(rng.gauss(0, 1e3)), random_text(rng)])
    seconds = [f"{rng.choice([0.001, 0.5, 1, 20, 300])}{rng.choice(['ms', 's', 'us', 'm', ''])}"]
    known: dict[str, list[str]] = {
        "model_name": MODELS,
        "draft_model_name": [*MODELS, "mtp"],
        "gpu_name": [*GPUS, *(["all"] if command == "plan" and rng.random() < 0.1 else [])],
        "dtype_name": [*EVERYDAY, "w4a16e16kv8", "w8a8", "bf16+mxfp4", "bfloat16"],
        "method": ["calibrated", "ideal", "published"],
        "runtime": [*RUNTIMES, "none"],
        "format": ["table", "json", "csv", "markdown"],
        "name": [*MODELS, *GPUS, *EVERYDAY],
        "family": ["Llama-3", "Hopper", "AMD", "Qwen3"],
        "kind": ["roofline", "breakdown", "batch", "pareto", "cost", "parity"],
        "mode": ["aggregated", "disaggregated"],
        "within": ["estimate", "band"],
        "router": ["round_robin", "least_loaded"],
        "dataset": [*workload_names(), "random", "azure"],
        "goodput": ["ttft:500,tpot:50", "e2el:1000", "ttft:1", "tpot:-1", "x:1"],
        "measurements": ["runs.csv" if command == "load" else "rows.csv", *FILES],
        "trace": ["trace.csv", *FILES],
        "prices": ["prices.csv", *FILES],
        "scenarios": ["flags.json", "flags.json,flags.json", *FILES],
        "sort": [*COLUMNS, "ttft", "tpot", "cost", "zzz"],
        "columns": [",".join(rng.sample(COLUMNS, 3)), "ttft,tpot", "ttft,", "zzz"],
        "where": [
            f"{rng.choice([*COLUMNS, 'ttft', 'tpot'])}{rng.choice(['<', '=', '>=', '!='])}{seconds[0]}",
            "fits=1",
        ],
        "num_prompts": ["1", "2", "10", "100", "300"],
    }
    known |= dict.fromkeys(("max_ttft", "max_tpot", "max_request_latency"), seconds)
    if command == "load":
        known |= {"request_rate": ["1", "inf", "0.1", "1,5", "1e9", "1e-9"], "max_num_seqs": ["1", "8", "256", "5000"]}
        known |= {"num_prefill_workers": ["0", "1", "3"], "num_decode_workers": ["0", "1", "3"]}
        known |= {"random_input_len": ["1", "100", "1024", "9000"], "random_output_len": ["1", "2", "128", "1000"]}
    if flag.name in known:
        name = rng.choice(known[flag.name])
        if careful:
            return name
        return rng.choice([name, name, name.upper(), name.replace("-", "_"), name[: rng.randrange(len(name)) + 1]])
    if flag.kind is bool:
        return rng.choice(["True", "False", "true", "no", "1"])
    if careful and flag.kind is int:
        most = 3 if flag.name.endswith("_size") else 11 if "len" in flag.name or "tokens" in flag.name else 6
        return str(2 ** rng.randrange(most) if rng.random() < 0.7 else rng.randrange(1, 2**most))
    if flag.kind is int:
        return str(rng.choice([1, 2, 3, 4, 8, 16, 128, 1000, 10**5, 10**9, rng.randrange(1, 5000)]))
    return str(rng.choice([0.5, 1, 1.0, 0.9, 2, 1e-9, 100, round(rng.random(), 3), round(rng.expovariate(0.01), 2)]))


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
    # A server for which the model does not fit has no answer; a static batch has one, with the memory that it needs.
    server_misfit = answer.status == 3 and not answer.out and any("concurrency" in word for word in arguments)
    if answer.status in (1, 2) or server_misfit:
        if answer.out:  # `validate` and `plan` may fail with an answer: if limits are not met
            return "" if {"validate", "plan"} & set(arguments) else "an error with output"
        return "" if len(answer.err.splitlines()) == 1 else "an error of several lines, or none"
    if not answer.out:
        return "neither an answer nor an error"
    if "usage: " in answer.out:
        return ""
    style = {f"{one}={two}" for one, two in zip(arguments, [*arguments[1:], ""], strict=True)} | set(arguments)
    if "--format=json" in style:
        return _number_problem(answer.out)
    return _cell_problem(answer.out) if "--format=csv" in style else ""


def _number_problem(text: str) -> str:
    """Return what is wrong with a JSON answer; empty if all of its numbers are finite."""
    try:
        json.loads(text, parse_constant=_not_finite)
    except ValueError as error:
        return f"not JSON: {error}"
    return ""


def _cell_problem(text: str) -> str:
    """Return what is wrong with a CSV answer; empty if its rows are of one length and no cell is a formula."""
    rows = list(csv.reader(io.StringIO(text)))
    if len({len(row) for row in rows}) != 1:
        return f"CSV rows of {sorted({len(row) for row in rows})} cells"
    if any(cell[:1] in ("=", "@") for row in rows for cell in row):
        return "a CSV cell that a spreadsheet would run"
    return ""


def _not_finite(name: str) -> None:
    raise ValueError(f"a number that is not finite: {name}")


class Fuzzer:
    """Runs command lines, one after the other; counts them, and prints those with a violation."""

    def __init__(self, ask: Run) -> None:
        self.ask = ask
        self.found, self.slowest = 0, (0.0, "")
        self.statuses = Counter[str]()
        self.seconds: dict[str, float] = {}  # of processor time, by command

    def check(self, label: str, arguments: list[str], content: bytes = b"") -> None:
        """Run one command line; print it if there is a violation."""
        command = next((word for word in arguments if word in COMMANDS), "none")
        begun = time.process_time()
        signal.alarm(LIMIT_SECONDS * PATIENCE)
        try:
            answer = self.ask(*arguments)
            problem = violation(arguments, answer)
            self.statuses[f"{command} {answer.status}"] += 1
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            problem = f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
        seconds = time.process_time() - begun
        self.seconds[command] = self.seconds.get(command, 0.0) + seconds
        self.slowest = max(self.slowest, (seconds, f"{label}: {arguments!r}"[:500]))
        on_all = {"all", "--gpu_name=all"} & set(arguments)  # `plan` searches some 150 GPUs, with a progress bar
        if not problem and seconds > LIMIT_SECONDS * (PATIENCE if on_all else 1):
            problem = f"{seconds:.1f} s"
        left = [path.name for path in Path().iterdir() if path.name not in (*FILES, ODD)]
        for name in left:
            Path(name).unlink()
        if not problem and any(not name.endswith((".png", ".json")) for name in left):
            problem = f"files left: {left}"
        if problem:
            self.found += 1
            print(f"{label}: {problem}: {arguments!r}"[:1500], *([content[:1500]] if content else []), flush=True)

    def report(self) -> Iterator[str]:
        """Yield the runs and the processor time of each command, the runs by exit status, and the slowest one."""
        for name in [*COMMANDS, "none"]:
            by_status = {key.split()[1]: n for key, n in sorted(self.statuses.items()) if key.split()[0] == name}
            counts = ", ".join(f"{n:,} x {s}" for s, n in by_status.items())
            yield f"{name:10} {sum(by_status.values()):7,}  {self.seconds.get(name, 0.0):6.0f} s  {counts}"
        yield f"{self.found} violations; the slowest took {self.slowest[0]:.1f} s: {self.slowest[1]}"


def main(lines: int, files: int, seed: int, first: int) -> int:
    """Run the fuzzer and print what it finds. Return the number of violations."""
    from conftest import asked

    fuzzer, start = Fuzzer(asked), time.monotonic()
    signal.signal(signal.SIGALRM, _hang)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_files(Path())
        for number, (arguments, content) in enumerate(mutated_files(seed, files, first), first):
            Path(ODD).write_bytes(content)
            fuzzer.check(f"file {seed} {number}", arguments, content)
        for number, arguments in enumerate(command_lines(seed, lines, first), first):
            fuzzer.check(f"line {seed} {number}", arguments)
            if number % 5_000 == 4_999:
                print(f"{number + 1} command lines after {time.monotonic() - start:.0f} s", flush=True)
    print(f"{lines} command lines, {files} files in {time.monotonic() - start:.0f} s", *fuzzer.report(), sep="\n")
    return fuzzer.found


class Hang(BaseException):
    """A command that did not end within the time limit."""


def _hang(*_: object) -> None:
    raise Hang(f"no answer within {LIMIT_SECONDS * PATIENCE} s")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    numbers = [int(each) for each in sys.argv[1:]] + [100_000, 10_000, 1, 0][len(sys.argv) - 1 :]
    sys.exit(main(*numbers) > 0)
