"""Files of a command: all of them are written, or none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from llm_analysis.errors import BadValue, shown
from llm_analysis.files import user_path

_HIDDEN = ".llm-analysis-"  # start of the name of a folder for files on their way
_COMPLETE = ".complete"  # end of that name once all files are in it


def write_together(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write all files or none, and create the folder if needed. Raises BadValue; the folder is then as it was before.

    The files are first written to a hidden folder beside them. Renaming it marks it complete, in one step. Then its
    files are moved to their places: by this process, or by the next one that writes to `folder` if this one is killed.
    A lock keeps two processes from mixing their files.
    """
    if not files:
        return
    created: list[Path] = []
    try:
        created += [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            for left in folder.glob(f"{_HIDDEN}*"):
                _finish(left, folder)
            _write(folder, files)
    except BaseException as error:
        for path in created:
            with suppress(OSError, ValueError):
                path.rmdir()
        if isinstance(error, (OSError, ValueError)):
            reason = getattr(error, "strerror", None) or str(error)
            what = f"output_dir {shown(str(folder), 240)}"
            if len(files) == 1:
                what = shown(str(folder / next(iter(files))), 240)
            raise BadValue(f"{what}: nothing written: {reason}") from None
        raise


def _write(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files to a hidden folder, mark it complete, move them to `folder`. Undo all of it if a step fails."""
    draft = folder / f"{_HIDDEN}{os.urandom(8).hex()}"
    complete = draft.with_name(draft.name + _COMPLETE)
    earlier: dict[Path, bytes | None] = {}
    try:
        draft.mkdir()
        for name, content in files.items():
            with (draft / name).open(mode="xb") as file:
                file.write(content if isinstance(content, bytes) else content.encode())
                file.flush()
                os.fsync(file.fileno())
        draft.rename(complete)
        for name in files:
            target = folder / name
            earlier[target] = target.read_bytes() if target.exists() else None
            os.replace(complete / name, target)
        complete.rmdir()
    except BaseException:
        for target, before in earlier.items():
            _restore(target, before)
        for path in (draft, complete):
            shutil.rmtree(path, ignore_errors=True)
        raise


def _finish(left: Path, folder: Path) -> None:
    """Move the files of a process that was killed to their places if they are complete; else remove them."""
    if left.name.endswith(_COMPLETE):
        for path in left.iterdir():
            os.replace(path, folder / path.name)
    shutil.rmtree(left, ignore_errors=True)


def _restore(path: Path, content: bytes | None) -> None:
    """Give a file its earlier content, or remove it if there was none."""
    if content is None:
        path.unlink(missing_ok=True)
    elif path.read_bytes() != content:
        path.write_bytes(content)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder. Windows and some network file systems have none."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError, ValueError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def existing_folder(value: object, flag: str) -> Path:
    """Return a folder that exists and can be written to. Raises BadValue."""
    path = output_folder(value, flag)
    if not path.is_dir():
        raise BadValue(f"{flag} {shown(value, 240)}: no such folder; create it first")
    return path


def output_folder(value: object, flag: str = "output_dir") -> Path:
    """Return a folder that exists or can be created, and can be written to. Raises BadValue."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise BadValue(f"{flag} must be a folder, not {shown(value)}")
    try:
        path = user_path(value)
        present = next(each for each in (path, *path.absolute().parents) if each.exists())
        problem = "" if present.is_dir() else "not a folder" if present == path else f"{present.name} is not a folder"
    except (OSError, ValueError, RuntimeError) as error:
        problem = getattr(error, "strerror", None) or str(error)
    if not problem and not os.access(present, os.W_OK | os.X_OK):
        problem = "not writable"
    if problem:
        raise BadValue(f"{flag} {shown(value, 240)}: {problem}")
    return path


def name_part(flag: str, value: object) -> str:
    """Return a value that can be a part of a file name. Raises BadValue."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > 100 or set(value) & set("/\\"):
        raise BadValue(f"{flag} must be a short part of a file name, not {shown(value)}")
    return value


def path_of(flag: str, value: str) -> Path:
    """Return the value of a flag as a path. Raises BadValue."""
    if not value.strip() or "\0" in value:
        raise BadValue(f"{flag} must be the path of a file")
    return user_path(value)
