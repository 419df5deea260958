"""`org/name` of the Hugging Face hub: its config.json in the local cache, or fetched where the user allows it.

The cache is `$HF_HUB_CACHE`, else `$HF_HOME/hub`, else `~/.cache/huggingface/hub`; a repository's files lie in it under
`models--org--name/snapshots/<revision>/`. Only the one JSON file is read; no code of a repository is ever run.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from llm_analysis.errors import BadConfig, shown

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
