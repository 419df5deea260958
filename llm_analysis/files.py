"""Read files from outside: the package's own data folder, and JSON files of users."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from llm_analysis.errors import BadConfig

DATA = Path(__file__).parent / "data"  # fitted kernels, links, runtimes, published measurements
KINDS = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false", type(None): "null"}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises BadConfig where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text)
    except OSError as error:
        raise BadConfig(f"{path}: {error.strerror or 'cannot be read'}") from None
    except UnicodeDecodeError:
        raise BadConfig(f"{path}: not JSON: not even text") from None
    except (ValueError, RecursionError) as error:
        problem = str(error).splitlines()[0] if text.strip() else "the file is empty"
        raise BadConfig(f"{path}: not JSON: {problem}") from None
    if not isinstance(raw, dict):
        raise BadConfig(f"{path}: holds {KINDS.get(type(raw), 'a value')}, not an object of named values")
    if DATA not in path.parents:
        logging.getLogger(__name__).info("read %s", path)
    return raw
