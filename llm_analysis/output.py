"""What a command wants printed and written, and the writing of it: all of the files, or none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llm_analysis.errors import BadValue, shown


@dataclass(frozen=True)
class Output:
    """A command's answer: text for stdout, and files by name for `folder`."""

    text: str
    folder: Path = Path()
    files: Mapping[str, str] = field(default_factory=dict)


def write_together(folder: Path, files: Mapping[str, str]) -> None:
    """Writes all files whole, each under a passing name first. Raises BadValue, with nothing left behind."""
    written: list[tuple[str, Path]] = []
    try:
        for name, text in files.items():
            handle, passing = tempfile.mkstemp(dir=folder, prefix=".llm-analysis-")
            written.append((passing, folder / name))
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(passing, 0o644)
        for passing, path in written:
            os.replace(passing, path)
    except OSError as error:
        for passing, _ in written:
            Path(passing).unlink(missing_ok=True)
        raise BadValue(f"output_dir {folder}: {error.strerror}") from None


def existing_folder(value: object) -> Path:
    """A folder that can be written to. Raises BadValue for anything else."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise BadValue(f"output_dir must be a folder, not {shown(value)}")
    path = Path(value).expanduser()
    try:
        if not path.is_dir():
            raise BadValue(f"output_dir {value}: {'not a folder' if path.exists() else 'no such folder'}")
    except OSError as error:
        raise BadValue(f"output_dir {shown(value)}: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise BadValue(f"output_dir {value}: not writable")
    return path


def name_part(flag: str, value: object) -> str:
    """A piece of a file name. Raises BadValue for what cannot be one."""
    text = str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else "/"
    if any(mark in text for mark in "/\\\0\n") or len(text) > 100:
        raise BadValue(f"{flag} must be a short piece of a file name, not {shown(value)}")
    return text
