"""Files with mistakes: models, GPUs, runtimes, scenarios and tables, each changed at a few random places."""

import csv
import io
import json
import math
import random
import string
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from llm_analysis import catalog
from llm_analysis.files import DATA

ROOT = catalog._PACKAGE.parent
ODD = "odd.file"  # the name of a mutated file, in the current folder
FILES = ("rows.csv", "runs.csv", "trace.csv", "prices.csv", "flags.json")  # that `write_files` writes
_PARTS = {
    "model_name": ROOT / "model_configs",
    "gpu_name": ROOT / "gpu_configs",
    "runtime": DATA / "runtimes",
}
_QUESTION = {"model_name": "llama-3.1-8b", "gpu_name": "h100-sxm-80gb"}
_LOAD = ["load", *(f"--{name}={value}" for name, value in _QUESTION.items()), "--num_prompts=20", f"--trace={ODD}"]
_PLAN = ["plan", *(f"--{name}={value}" for name, value in _QUESTION.items())]
# A table of `write_files`, and the command lines that read it.
_TABLES = {
    "rows.csv": [
        ["validate", f"--measurements={ODD}"],
        ["calibrate", f"--measurements={ODD}", "--output_file=new.json"],
    ],
    "runs.csv": [["validate", "--load", f"--measurements={ODD}"]],
    "trace.csv": [_LOAD, [*_PLAN, f"--trace={ODD}"]],
    "prices.csv": [[*_PLAN, "--request_rate=1", f"--prices={ODD}"]],
}


def write_files(folder: Path) -> None:
    """Write small valid tables and a file of flags, as commands read them, into a folder."""
    for name, source, some in (("rows.csv", "published.csv", slice(0, None, 200)), ("runs.csv", "load.csv", slice(8))):
        with (DATA / source).open(encoding="utf-8") as file:
            head = file.readline()
            lines = list(islice(csv.reader(file), some.start, some.stop, some.step))
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows(lines)
        (folder / name).write_text(head + table.getvalue(), encoding="utf-8")
    requests = (f"{number / 4},{100 + number},{10 + number % 7}" for number in range(20))
    (folder / "trace.csv").write_text("\n".join(["arrival_time,input_tokens,output_tokens", *requests, ""]))
    (folder / "prices.csv").write_text("gpu_name,cost_per_hour\nh100-sxm-80gb,2.5\nl4-24gb,0.7\n")
    (folder / "flags.json").write_text(json.dumps({**_QUESTION, "batch_size_per_gpu": 4, "seq_len": 1000}))


def with_file(flag: str, path: Path) -> list[str]:
    """Return a command line that reads a file as a model, a GPU or a runtime."""
    return ["infer", *(f"--{name}={value}" for name, value in (_QUESTION | {flag: str(path)}).items())]


def mutated_files(seed: int, number: int, start: int = 0) -> Iterator[tuple[list[str], bytes]]:
    """Yield (command line, content of the file ODD that it reads): a file with one to three mistakes.

    The files of `write_files` must be in the current folder.
    """
    for index in range(start, start + number):
        rng = random.Random(f"file {seed} {index}")
        kind = rng.choices(["part", "scenario", "table"], [12, 1, 3])[0]
        if kind == "table":
            name = rng.choices(list(_TABLES), [4, 1, 3, 3])[0]
            yield rng.choice(_TABLES[name]), _mutated_table(rng, Path(name).read_text(encoding="utf-8"))
            continue
        if kind == "scenario":
            path, command = Path("flags.json"), ["compare", "--scenarios", f"flags.json,{ODD}"]
        else:
            flag = rng.choices(list(_PARTS), [6, 3, 2])[0]
            path, command = rng.choice(sorted(_PARTS[flag].glob("*.json"))), with_file(flag, Path(ODD))
        text = path.read_text(encoding="utf-8")
        if rng.random() < 0.1:
            yield command, _damaged(rng, text.encode())
            continue
        document = json.loads(text)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            _mutate(rng, document)
        yield command, json.dumps(document).encode("utf-8", "surrogatepass")


def _mutated_table(rng: random.Random, text: str) -> bytes:
    """Return a table with one to three mistakes: cells, columns, rows or bytes."""
    if rng.random() < 0.1:
        return _damaged(rng, text.encode())
    rows = list(csv.reader(io.StringIO(text)))
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        line, kind = rng.randrange(len(rows)), rng.randrange(10)
        column = rng.randrange(len(rows[line])) if rows[line] else 0
        if kind == 0 and rows[line]:
            rows[line].pop(column)
        elif kind == 1:
            rows[line].insert(column, str(_odd(rng, None)))
        elif kind == 2:
            rows = [row[:column] + row[column + 1 :] for row in rows]
        elif kind == 3:
            rows.insert(rng.randrange(len(rows)), rows[line])
        elif kind == 4 and len(rows) > 1:
            rows.pop(line)
        elif rows[line]:
            rows[line][column] = _odd_cell(rng, rows[line][column])
    table = io.StringIO()
    csv.writer(table, lineterminator=rng.choice(["\n", "\n", "\r\n"])).writerows(rows)
    return table.getvalue().encode("utf-8", "surrogatepass")


def _odd_cell(rng: random.Random, cell: str) -> str:
    """Return the text of a cell that is near `cell`, or of another kind."""
    try:
        number = float(cell)
    except ValueError:
        return rng.choice([misspelled(rng, cell), str(_odd(rng, None)), cell.upper(), ""])
    return str(_odd(rng, int(number) if number.is_integer() else number))


def misspelled(rng: random.Random, word: str) -> str:
    """Return a word with one character more, less, or replaced."""
    place = rng.randrange(len(word) + 1)
    kind = rng.randrange(3)
    return word[:place] + (rng.choice(string.printable) if kind else "") + word[place + (kind != 1) :]


def random_text(rng: random.Random) -> str:
    """Return a few random characters, control characters among them."""
    return "".join(rng.choice(string.printable + "éß漢\x00\x1b\u202e") for _ in range(rng.randrange(12)))


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
        holder[misspelled(rng, key)] = holder.pop(key, None)
    elif kind == 2:
        holder[random_text(rng)] = _odd(rng, None)
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
    odd += [
        "",
        "1",
        "bf16",
        "x" * 5000,
        "a\x1b[31m\n",
        [],
        {},
        [1],
        ["x"],
        {"a": 1},
        [[[[1]]]],
        [1] * 1000,
        random_text(rng),
    ]
    return rng.choice(odd)
