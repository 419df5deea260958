"""Find the config.json of a Hugging Face repository in the local cache, or download it.

Only this file and hf_quant_config.json, which NVIDIA ModelOpt writes beside it, are read. No code of a repository is
run.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from llm_analysis.errors import BadConfig, shown
from llm_analysis.files import problem_of, read_text, user_path

QUANTIZATION_FILE = "hf_quant_config.json"  # where NVIDIA ModelOpt describes the weights of a checkpoint
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_REVISION = re.compile(r"[\w.-]{1,100}")
_CONNECT_SECONDS = 4.0  # after which the network is taken as unreachable
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def is_repository(name: str) -> bool:
    """Return whether a name has the form `organisation/name`."""
    return _REPOSITORY.fullmatch(name) is not None and ".." not in name and not name.endswith(".json")


def _cache_folders() -> list[Path]:
    """Return the folders of the local cache, as huggingface_hub and transformers choose them.

    The cache of the hub is $HF_HUB_CACHE, else $HUGGINGFACE_HUB_CACHE, else `hub` in $HF_HOME. Without $HF_HOME it is
    in `huggingface` in $XDG_CACHE_HOME, else in ~/.cache. $TRANSFORMERS_CACHE is a second folder of the same layout.
    """
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    hub = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    second = os.environ.get("TRANSFORMERS_CACHE")
    return [user_path(each) for each in dict.fromkeys([hub, *([second] if second else [])])]


def cached_config(repository: str) -> Path | None:
    """Return the config.json of a repository in the local cache; None if it is not there.

    The revision is that of the main branch; without it, the newest one. Raises BadConfig if `refs/main` is damaged.
    """
    for cache in _cache_folders():
        folder = cache / f"models--{repository.replace('/', '--')}"
        found = [_main_config(folder), *folder.glob("snapshots/*/config.json")]
        readable = [path for path in found if path is not None and not problem_of(path)]
        if readable:
            return readable[0] if found[0] else max(readable, key=lambda path: path.stat().st_mtime)
    return None


def _main_config(folder: Path) -> Path | None:
    """Return the config.json of the main branch; None if the cache does not have it."""
    main = folder / "refs" / "main"
    if problem_of(main):
        return None
    revision = read_text(main).strip()
    if not _REVISION.fullmatch(revision) or revision in (".", ".."):
        raise BadConfig(f"{main}: {shown(revision)} is not the name of a revision; delete the file to use another one")
    path = folder / "snapshots" / revision / "config.json"
    return None if problem_of(path) else path


def fetched_config(repository: str) -> Path:
    """Return the config.json of a repository after downloading it with huggingface_hub. Raises BadConfig."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise BadConfig('allow_download needs huggingface_hub: pip install "llm-analysis[hub]"') from None
    try:
        _check_network()
        path = Path(hf_hub_download(repository, "config.json", etag_timeout=_CONNECT_SECONDS))
        if b'"quantization_config"' not in path.read_bytes():
            with suppress(Exception):  # most repositories do not have it
                hf_hub_download(repository, QUANTIZATION_FILE, etag_timeout=_CONNECT_SECONDS)
        return path
    except Exception as error:
        problem = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadConfig(f"{shown(repository)}: config.json cannot be fetched: {problem}") from None


def _check_network() -> None:
    """Raise OSError if the server, or the proxy, cannot be reached within seconds: the library retries for longer."""
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    url = urlsplit(next((os.environ[name] for name in _PROXIES if os.environ.get(name)), endpoint))
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    failures: list[Exception] = [OSError(f"no answer from {host} within {_CONNECT_SECONDS:g} s")]

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
            failures.clear()
        except OSError as error:
            failures[0] = OSError(f"{host} cannot be reached: {error.strerror or error}")

    attempt = threading.Thread(target=connect, daemon=True)  # the look-up of a host name has no time limit of its own
    attempt.start()
    attempt.join(_CONNECT_SECONDS)
    if failures:
        raise failures[0]
