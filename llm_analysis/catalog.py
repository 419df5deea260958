"""Finding what is known: models, GPUs, by name or by path. The only room of the core that reads files.

Folders, in order: `$LLM_ANALYSIS_CONFIG_PATH` (with `model_configs/` and `gpu_configs/` in it), then the package's own,
which lie inside the package when installed from a wheel and beside it in a checkout.

`org/name` of the Hugging Face hub: its config.json in the local cache, or fetched where the user allows it.

The cache is `$HF_HUB_CACHE`, else `$HF_HOME/hub`, else `~/.cache/huggingface/hub`; a repository's files lie in it under
`models--org--name/snapshots/<revision>/`. Only the one JSON file is read; no code of a repository is ever run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llm_analysis.errors import BadConfig, BadValue, UnknownName, one_line, shown, unknown
from llm_analysis.files import read_json
from llm_analysis.hardware.gpu import GPU
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.reading.reader import read_model

PACKAGE = Path(__file__).parent
FOLDERS = ("model_configs", "gpu_configs")
USER_FOLDER = "LLM_ANALYSIS_CONFIG_PATH"


def folders(kind: str) -> list[Path]:
    """The folders that hold JSON files of a kind, `model_configs` or `gpu_configs`, the user's own first.

    Raises BadConfig where the user's own does not exist or holds none.
    """
    own = os.environ.get(USER_FOLDER)
    if own and not Path(own).is_dir():
        raise BadConfig(f"${USER_FOLDER} names no folder: {shown(own)}")
    if own and not any((Path(own) / each).is_dir() for each in FOLDERS):
        raise BadConfig(f"${USER_FOLDER}: {shown(own)} holds no folder {' or '.join(FOLDERS)}")
    roots = ([Path(own)] if own else []) + [PACKAGE, PACKAGE.parent]
    return [root / kind for root in roots if (root / kind).is_dir()]


def names(kind: str) -> list[str]:
    """All names known of a kind, sorted."""
    return sorted({path.stem for folder in folders(kind) for path in folder.glob("*.json")})


def find(kind: str, what: str, name: object) -> Path:
    """The file that `name`, a known name or a path, stands for. Raises UnknownName, BadConfig or BadValue."""
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise BadValue(f"{what}_name must be a known name or the path of a JSON file, not {shown(name)}")
    try:
        if not name.endswith(".json") and not name.startswith((".", "/", "~")):
            for folder in folders(kind):
                if (path := folder / f"{name}.json").is_file():
                    return path
            if Path(f"{name}.json").is_file():
                raise UnknownName(f"unknown {what} {shown(name)}; did you mean the file {name}.json?")
            if not Path(name).exists():
                raise unknown(what, name, names(kind), f"nor is it a file; `llm-analysis {what}s` lists what is known")
        return at_path(Path(name).expanduser(), what)
    except (OSError, UnicodeError, RuntimeError) as error:  # a name too long, a home of nobody, and the like
        raise BadConfig(f"{what} {shown(name)}: {getattr(error, 'strerror', None) or error}") from None


def at_path(path: Path, what: str) -> Path:
    """The file that a path leads to: itself, or for a model the config.json in a folder. Raises BadConfig."""
    if path.is_dir():
        if what != "model":
            raise BadConfig(f"{shown(str(path), 240)}: a folder, not a JSON file")
        path = path / "config.json"
        if not path.exists():
            raise BadConfig(f"{shown(str(path.parent), 240)}: a folder without a config.json")
    if not path.is_file():
        raise BadConfig(f"{shown(str(path), 240)}: {'not a file' if path.exists() else 'no such file'}")
    return path


def load(path: Path, build: Callable[[dict[str, Any]], Any], known: Any) -> Any:
    """What `build` makes of a JSON file; its complaint as one line that names the file."""
    try:
        return build(read_json(path))
    except ValidationError as error:
        raise BadConfig(one_line(error, known, str(path))) from None


def get_model(name: object, allow_download: bool = False) -> ModelConfig:
    """The model of that name, or in that file (config.json of Hugging Face, or one of ours), or in that folder.

    `org/name` is looked for in the local Hugging Face cache, then among the catalogue's own `hf_id`; on the network
    only where that is allowed.
    """
    path = repository(name, allow_download) if isinstance(name, str) and "/" in name else None
    if path is not None and isinstance(name, str):
        stem = name.rpartition("/")[2] if path.name == "config.json" else path.stem
    else:
        path = find("model_configs", "model", name)
        stem = path.parent.name if path.name == "config.json" else path.stem
    model: ModelConfig = load(path, lambda raw: read_model(raw, stem, str(path)), ModelConfig.model_fields)
    return model


def repository(name: str, allow_download: bool) -> Path | None:
    """The file that stands for `org/name`; None for any other name or a folder. Raises UnknownName or BadConfig."""

    if not is_repository(name) or Path(name).exists():
        return None
    path = cached_config(name) or with_hf_id(name) or (fetched_config(name) if allow_download else None)
    if path is None:
        where = "nor is it in the local Hugging Face cache; --allow_download fetches its config.json"
        raise unknown("model", name, names("model_configs"), where)
    return path


def with_hf_id(repository: str) -> Path | None:
    """The catalogue's file whose `hf_id` is that repository."""
    wanted = f'"hf_id": "{repository}"'.lower()
    files = (path for folder in folders("model_configs") for path in sorted(folder.glob("*.json")))
    return next((path for path in files if wanted in path.read_text(encoding="utf-8").lower()), None)


def get_gpu(name: object) -> GPU:
    """The GPU of that name, or in that file."""
    gpu: GPU = load(find("gpu_configs", "gpu", name), GPU.model_validate, GPU.model_fields)
    return gpu


REPOSITORY = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"


def is_repository(name: str) -> bool:
    """Whether a name has the form of a repository's, `org/name`."""
    return re.fullmatch(REPOSITORY, name) is not None and ".." not in name and not name.endswith(".json")


def cache_folder() -> Path:
    """Where the hub's files are kept on this machine."""
    own, home = os.environ.get("HF_HUB_CACHE"), os.environ.get("HF_HOME")
    return Path(own or Path(home or "~/.cache/huggingface") / "hub").expanduser()


def cached_config(repository: str) -> Path | None:
    """The config.json of a repository in the local cache: of the main branch, else of the newest revision there."""
    folder = cache_folder() / f"models--{repository.replace('/', '--')}"
    main = folder / "refs" / "main"
    revisions = [folder / "snapshots" / main.read_text().strip()] if main.is_file() else []
    there = [path / "config.json" for path in revisions] or list(folder.glob("snapshots/*/config.json"))
    found = [path for path in there if path.is_file()] or list(folder.glob("snapshots/*/config.json"))
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def fetched_config(repository: str) -> Path:
    """The same from the network, by the optional huggingface_hub. Raises BadConfig where it cannot be had."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise BadConfig('allow_download needs huggingface_hub: pip install "llm-analysis[hub]"') from None
    try:
        return Path(hf_hub_download(repository, "config.json"))
    except Exception as error:
        problem = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadConfig(f"{shown(repository)}: config.json cannot be fetched: {problem}") from None
