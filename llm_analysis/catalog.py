"""Finding what is known: models, GPUs, by name or by path. The only room of the core that reads files.

Folders, in order: `$LLM_ANALYSIS_CONFIG_PATH` (with `model_configs/` and `gpu_configs/` in it), then the package's own,
which lie inside the package when installed from a wheel and beside it in a checkout.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llm_analysis.errors import BadConfig, BadValue, one_line, shown, unknown
from llm_analysis.families import read_model
from llm_analysis.hardware import GPU
from llm_analysis.model_config import ModelConfig

PACKAGE = Path(__file__).parent
USER_FOLDER = "LLM_ANALYSIS_CONFIG_PATH"


def folders(kind: str) -> list[Path]:
    """The folders that hold JSON files of a kind, `model_configs` or `gpu_configs`, the user's own first."""
    own = os.environ.get(USER_FOLDER)
    roots = ([Path(own)] if own else []) + [PACKAGE, PACKAGE.parent]
    return [root / kind for root in roots if (root / kind).is_dir()]


def names(kind: str) -> list[str]:
    """All names known of a kind, sorted."""
    return sorted({path.stem for folder in folders(kind) for path in folder.glob("*.json")})


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises BadConfig where there is none."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadConfig(f"{path}: {error.strerror or 'cannot be read'}") from None
    except (ValueError, RecursionError) as error:
        raise BadConfig(f"{path}: not JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(raw, dict):
        raise BadConfig(f"{path}: holds {type(raw).__name__}, not an object of named values")
    return raw


def find(kind: str, what: str, name: object) -> Path:
    """The file that `name`, a known name or a path, stands for. Raises UnknownName, BadConfig or BadValue."""
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise BadValue(f"{what}_name must be a known name or the path of a JSON file, not {shown(name)}")
    if looks_like_path(name):
        path = Path(name).expanduser()
        if path.is_dir():
            path = path / "config.json"
            if not path.is_file():
                raise BadConfig(f"{name}: a folder without a config.json")
        if not path.is_file():
            raise BadConfig(f"{name}: no such file")
        return path
    for folder in folders(kind):
        path = folder / f"{name}.json"
        if path.is_file():
            return path
    raise unknown(what, name, names(kind))


def looks_like_path(name: str) -> bool:
    """Whether a name is meant as a path: it ends in .json, leads somewhere, or there is a folder of that name."""
    try:
        return name.endswith(".json") or name.startswith((".", "/", "~")) or Path(name).is_dir()
    except (OSError, ValueError):
        return False


def load(path: Path, build: Callable[[dict[str, Any]], Any], known: Any) -> Any:
    """What `build` makes of a JSON file; its complaint as one line that names the file."""
    try:
        return build(read_json(path))
    except ValidationError as error:
        raise BadConfig(one_line(error, known, str(path))) from None


def get_model(name: object) -> ModelConfig:
    """The model of that name, or in that file (config.json of Hugging Face, or one of ours), or in that folder."""
    path = find("model_configs", "model", name)
    stem = path.parent.name if path.name == "config.json" else path.stem
    model: ModelConfig = load(path, lambda raw: read_model(raw, stem, str(path)), ModelConfig.model_fields)
    return model


def get_gpu(name: object) -> GPU:
    """The GPU of that name, or in that file."""
    gpu: GPU = load(find("gpu_configs", "gpu", name), lambda raw: GPU(**raw), GPU.model_fields)
    return gpu
