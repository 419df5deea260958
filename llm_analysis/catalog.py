"""Find models and GPUs: by name in the catalogue, by path, or by Hugging Face id.

The folders `model_configs` and `gpu_configs` of the catalogue are looked for in $LLM_ANALYSIS_CONFIG_PATH first, then
in the package, where a wheel has them, and beside it, where a checkout has them. A model of the user's folder may also
be `model_configs/NAME/config.json`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from llm_analysis.errors import MAX_NAMES, BadConfig, BadValue, UnknownName, one_line, shown, unknown
from llm_analysis.files import FOLDER, MISSING, path_text, problem_of, read_json, user_path
from llm_analysis.hardware.gpu import GPU
from llm_analysis.hub import QUANTIZATION_FILE, cached_config, fetched_config, is_repository
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.reading.reader import read_model

_PACKAGE = Path(__file__).parent
_KINDS = {"model": "model_configs", "gpu": "gpu_configs"}
_PRINTED_KINDS = {"model": "model", "gpu": "GPU"}
_LONGEST_NAME = 200
_USER_FOLDER = "LLM_ANALYSIS_CONFIG_PATH"
_PRINTED = ("name", "family", "model_type", "vendor", "architecture")  # fields that tables print
_Record = TypeVar("_Record", bound=BaseModel)


def names(kind: str) -> list[str]:
    """Return the names of all entries of a kind, `model_configs` or `gpu_configs`, sorted."""
    return sorted(_files(kind))


def get_model(name: object, allow_download: bool = False) -> ModelConfig:
    """Return the model of a name, a Hugging Face id, or a path: a file of this format, a config.json or its folder.

    A Hugging Face id is looked for in the local cache, then among the ids of the catalogue, then, if
    `allow_download` is True, in the network, then among the names of the catalogue. Raises LLMAnalysisError.
    """
    text = _checked_name("model", name)
    path, notes = _model_path(text, allow_download)
    own = path.parent.name if path.name == "config.json" else path.stem
    if path.name == "config.json" and is_repository(text) and not _exists(text):
        own = text.rpartition("/")[2]
    model = _load(path, lambda raw: read_model(raw, own, str(path), _quantization_beside(path)), ModelConfig)
    changes: dict[str, Any] = {"notes": (*notes, *model.notes)} if notes else {}
    if path.name != "config.json" and text != path.stem and not text.endswith(".json") and not model.weight_format:
        from llm_analysis.names import weight_format

        changes["weight_format"] = weight_format(text.rpartition("/")[2])
    return model.model_copy(update=changes) if changes else model


def _quantization_beside(path: Path) -> dict[str, Any] | None:
    """Return NVIDIA ModelOpt's hf_quant_config.json beside a config.json; None if there is none. Raises BadConfig."""
    beside = path.parent / QUANTIZATION_FILE
    return read_json(beside) if path.name == "config.json" and not problem_of(beside) else None


def get_gpu(name: object) -> GPU:
    """Return the GPU of a name or of a file. Raises LLMAnalysisError.

    The key `evidence`, which `llm-analysis gpus --name` adds to the facts, is ignored.
    """
    text = _checked_name("gpu", name)
    path, notes = _path_of("gpu", text)
    gpu = _load(path, lambda raw: GPU.model_validate({key: raw[key] for key in raw if key != "evidence"}), GPU)
    return gpu.model_copy(update={"notes": (*notes, *gpu.notes)}) if notes else gpu


def _folders(kind: str) -> list[Path]:
    """Return the folders of a kind, the user's own first. Raises BadConfig if the user's folder has no such folder."""
    own = os.environ.get(_USER_FOLDER)
    root = user_path(own) if own else None
    if root is not None and problem_of(root) != FOLDER:
        raise BadConfig(f"${_USER_FOLDER}: {shown(own)} is not a folder")
    if root is not None and not any((root / each).is_dir() for each in _KINDS.values()):
        raise BadConfig(f"${_USER_FOLDER}: {shown(own)} has no folder {' or '.join(_KINDS.values())}")
    roots = [*([root] if root else []), _PACKAGE, _PACKAGE.parent]
    return [each / kind for each in roots if (each / kind).is_dir()]


def _files(kind: str) -> dict[str, Path]:
    """Return the file of each entry of a kind by its name; the user's own file if both folders have the name."""
    found: dict[str, Path] = {}
    for folder in reversed(_folders(kind)):
        if kind == _KINDS["model"]:
            found |= {path.parent.name: path for path in folder.glob("*/config.json") if not problem_of(path)}
        found |= {path.stem: path for path in folder.glob("*.json") if not problem_of(path)}
    return found


def _entry(kind: str, name: str) -> Path | None:
    """Return the file of the entry with exactly this name. Raises BadConfig if it is a folder or a broken link."""
    for folder in _folders(kind) if len(name) <= _LONGEST_NAME else ():
        path, inner = folder / f"{name}.json", folder / name / "config.json"
        problem = problem_of(path)
        if not problem:
            return path
        if problem != MISSING:
            raise BadConfig(f"{path_text(path)}: {problem}")
        if kind == _KINDS["model"] and not problem_of(inner):
            return inner
    return None


def _checked_name(what: str, name: object) -> str:
    """Return `name` if it is text that can be a name or a path. Raises BadValue."""
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise BadValue(f"{what}_name must be a known name or the path of a JSON file, not {shown(name)}")
    return name


def _model_path(name: str, allow_download: bool) -> tuple[Path, list[str]]:
    """Return the file of a model, and notes on how its name was read. Raises LLMAnalysisError."""
    if not is_repository(name) or _exists(name):
        return _path_of("model", name)
    path = cached_config(name) or _with_id(name) or (fetched_config(name) if allow_download else None)
    if path is not None:
        return path, []
    return _path_of("model", name)


def _path_of(what: str, name: str) -> tuple[Path, list[str]]:
    """Return the file of a name or a path, and notes on how the name was read.

    A known name comes first, then an existing file or folder, then a name that is written in another way. Raises
    UnknownName or BadConfig.
    """
    kind = _KINDS[what]
    if name.endswith(".json") or name.startswith((".", "/", "~")):
        return _at_path(user_path(name), what), []
    if path := _entry(kind, name):
        return path, []
    if _exists(name):
        return _at_path(Path(name), what), []
    if _exists(f"{name}.json"):
        raise UnknownName(f"unknown {what} {shown(name)}; did you mean the file {name}.json?")
    if what == "gpu" and name.strip().lower() == "all":
        raise UnknownName(f"unknown gpu {shown(name)}; only plan takes all; compare and sweep take names with commas")
    found = _matching(what, name)
    path = _entry(kind, found[0]) if found else None
    if path is None:
        hint = f"there is no such file either; `llm-analysis {what}s` lists the known names"
        if "," in name:
            hint = f"this command takes one {what}; compare and sweep take several"
        other = next(each for each in _KINDS if each != what)
        if any(each == name or each.startswith(f"{name}-") for each in names(_KINDS[other])):
            raise UnknownName(f"unknown {what} {shown(name)}; it is a {_PRINTED_KINDS[other]}; give it as {other}_name")
        if is_repository(name):
            hint = "it is not in the local Hugging Face cache either; --allow_download downloads its config.json"
        raise unknown(what, name, names(kind), hint)
    return path, _notes_on(what, name, found)


def _exists(name: str) -> bool:
    """Return whether a path exists, relative to the current folder."""
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long, or with characters that no file name can have
        return False


def _matching(what: str, name: str) -> list[str]:
    """Return the entries that a name can mean, the chosen one first. Raises UnknownName if it is ambiguous."""
    from llm_analysis.names import matching_gpus, matching_models, spread, usual_form

    if len(name) > _LONGEST_NAME:
        return []
    known = dict(sorted(_files(_KINDS[what]).items()))
    ids = {each: _ids_in(path) for each, path in known.items()} if what == "model" else {}
    found = matching_gpus(name, known) if what == "gpu" else matching_models(name, ids)
    if len(found) > 1 and (what == "model" or found[0] != usual_form(name)):
        more = ", ..." if len(found) > MAX_NAMES else ""
        listed = spread(found, MAX_NAMES) if what == "model" else found[:MAX_NAMES]
        raise UnknownName(f"{what} {shown(name)} is not unique: {', '.join(listed)}{more}")
    return found


def _notes_on(what: str, name: str, found: list[str]) -> list[str]:
    """Return a note on the entry that was chosen, unless its name was only written in another way."""
    from llm_analysis.names import folded

    if folded(name) == folded(found[0]) or (what == "gpu" and len(found) == 1):
        return []
    others = f"; there are also {', '.join(found[1:])}" if len(found) > 1 else ""
    if what == "model" and is_repository(name):
        others = "; --allow_download reads the config.json of that name"
    return [f"{what} {shown(name)}: taken as {found[0]}{others}"]


def _with_id(repository: str) -> Path | None:
    """Return the file of the catalogue that lists a Hugging Face id."""
    wanted = repository.lower()
    return next((path for _, path in sorted(_files(_KINDS["model"]).items()) if wanted in _lower(_ids_in(path))), None)


def _lower(ids: list[str]) -> list[str]:
    """Return ids in lower case, because case does not matter in those of Hugging Face."""
    return [each.lower() for each in ids]


def _ids_in(path: Path) -> list[str]:
    """Return the Hugging Face ids in the file of a model; none if the file cannot be read."""
    try:
        raw = read_json(path, log=False)
    except BadConfig:
        return []
    several: Any = raw.get("hf_ids") or [raw.get("hf_id")]
    return [each for each in (several if isinstance(several, list) else [several]) if isinstance(each, str) and each]


def _at_path(path: Path, what: str) -> Path:
    """Return the file at a path: itself, or for a model the config.json in a folder. Raises BadConfig."""
    if what == "model" and problem_of(path) == FOLDER:
        if problem_of(path / "config.json") == MISSING:
            raise BadConfig(f"{path_text(path)}: a folder without a config.json")
        path = path / "config.json"
    if problem := problem_of(path):
        raise BadConfig(f"{path_text(path)}: {problem}")
    return path


def _load(path: Path, build: Callable[[dict[str, Any]], _Record], record: type[_Record]) -> _Record:
    """Return the record that `build` makes of a JSON file. Raises BadConfig that names the file."""
    try:
        found = build(read_json(path))
    except ValidationError as error:
        raise BadConfig(one_line(error, _fields(record), path_text(path))) from None
    for field in _PRINTED:
        if not str(getattr(found, field, "")).isprintable():
            raise BadConfig(f"{path_text(path)}: {field} has a character that cannot be printed")
    return found


def _fields(record: type[BaseModel]) -> Iterable[str]:
    """Return the names of a record's fields."""
    return record.model_fields
