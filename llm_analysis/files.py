"""Files: the package's own data folder, JSON files and tables of users, cells of CSV files.

Only regular files are read, up to a size limit: a pipe or a device given as a file would block the program.
"""

from __future__ import annotations

import csv
import json
import logging
import stat
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from llm_analysis.errors import BadConfig, shown

DATA = Path(__file__).parent / "data"  # fitted kernels, links, runtimes, published measurements
MISSING, FOLDER = "no such file", "a folder, not a file"  # two of the problems that `problem_of` returns
MB = 10**6
MAX_JSON_BYTES = 20 * MB  # the largest config.json of a published model has about 0.1 MB
MAX_TABLE_BYTES = 200 * MB  # about a million rows of measurements
_LONGEST_PATH = 240  # characters of a path in an error message
_JSON_KINDS = {
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def user_path(text: str) -> Path:
    """Return a path that a user gave, with `~` expanded. Raises BadConfig if no file can have this name."""
    if not text.strip() or "\0" in text:
        raise BadConfig(f"{shown(text)} is not the path of a file")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise BadConfig(f"{shown(text)}: there is no user with this home folder") from None


def problem_of(path: Path) -> str:
    """Return why `path` cannot be read as a file; empty if it is a regular file."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "a broken link" if path.is_symlink() else MISSING
    except OSError as error:
        return error.strerror or str(error)
    except ValueError:  # a character that no file name can have
        return MISSING
    if stat.S_ISREG(mode):
        return ""
    return FOLDER if stat.S_ISDIR(mode) else "a pipe or a device, not a regular file"


def read_text(path: Path, max_bytes: int = MAX_JSON_BYTES, encoding: str = "utf-8") -> str:
    """Return the text of a regular file. Raises BadConfig for another kind of file, or for one above `max_bytes`."""
    where = path_text(path)
    if problem := problem_of(path):
        raise BadConfig(f"{where}: {problem}")
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise BadConfig(f"{where}: {error.strerror or 'cannot be read'}") from None
    if len(content) > max_bytes:
        raise BadConfig(f"{where}: larger than {max_bytes // MB} MB, the limit for such a file")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        raise BadConfig(f"{where}: not text in UTF-8") from None


def read_json(path: Path, log: bool = True) -> dict[str, Any]:
    """Return the object in a JSON file. Raises BadConfig if the file cannot be read or holds something else.

    With `log`, the reading of a file outside of the package's data is logged at level INFO.
    """
    text, where = read_text(path), path_text(path)
    try:
        raw = json.loads(text)
    except RecursionError:
        raise BadConfig(f"{where}: not JSON: nested too deeply") from None
    except ValueError as error:
        problem = str(error).splitlines()[0] if text.strip() else "the file is empty"
        raise BadConfig(f"{where}: not JSON: {problem}") from None
    if not isinstance(raw, dict):
        raise BadConfig(f"{where}: holds {_JSON_KINDS.get(type(raw), 'a value')}, not an object of named values")
    if log and DATA not in path.parents:
        logging.getLogger(__name__).info("read %s", path)
    return raw


def read_table(path: Path, required: Sequence[str], rows: str = "rows") -> list[dict[str, str]]:
    """Return the rows of a CSV file by column name; `rows` names them in an error.

    Raises BadConfig if the file cannot be read as CSV, lacks a required column, or has no rows.
    """
    try:
        table = csv.DictReader(
            StringIO(read_text(path, MAX_TABLE_BYTES, "utf-8-sig"), newline=""), restval="", skipinitialspace=True
        )
        found, columns = list(table), table.fieldnames or ()
    except csv.Error as error:
        raise BadConfig(f"{path_text(path)}: cannot be read as CSV: {error}") from None
    missing = [name for name in required if name not in columns]
    if missing:
        hint = next((f"; separate columns by commas, not {mark!r}" for mark in ";\t|" if mark in "".join(columns)), "")
        raise BadConfig(f"{path_text(path)}: no column {missing[0]!r}; needed are {', '.join(required)}{hint}")
    if not found:
        raise BadConfig(f"{path_text(path)}: no {rows}")
    return found


def csv_cell(value: Any) -> Any:
    """Return a cell of a CSV file; an apostrophe precedes text that a spreadsheet would run as a formula."""
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def path_text(path: Path) -> str:
    """Return a path for an error message: quoted only if it is long or has characters that cannot be printed."""
    text = str(path)
    return text if text.isprintable() and len(text) <= _LONGEST_PATH else shown(text, _LONGEST_PATH)
