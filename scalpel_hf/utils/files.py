"""Files and folders that are written whole or not at all, and names that they may have."""

import ctypes
import errno
import json
import os
import re
import shutil
import threading
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Of `safetensors`, which raises errors of its own where the system's says so.
FULL_IN_WORDS = re.compile(r"No space left|os error 28\b|Disk quota|File too large")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LONGEST_NAME = 200  # bytes: file systems allow 255, with the suffix and what hidden part files are called


def check_can_be_made(path: str | Path, option: str) -> None:
    """
    Make sure, before work that would be lost, that a file or folder can be made at a path; nothing is made.

    Raises `ValueError`, naming what is in the way and the option that gave the path.
    """
    path = Path(path).absolute()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir():
        problem = f"{there} is a file"
    elif not os.access(there, os.W_OK | os.X_OK):
        problem = f"{there} is not yours to write to"
    else:
        return
    raise ValueError(f"nothing can be written to {path}, as {problem}: choose another `{option}`")


def safe_name(name: Any, what: str) -> str:
    """
    Check that a name from data can be the name of a file or folder; returns it.

    Args:
        what: what has this name, for the message, such as `the column`.

    Raises `ValueError` if it is not text, is empty, `.` or `..`, is longer than file systems allow, or holds a slash of
    either kind, a character that can't be printed or half a surrogate pair.
    """
    is_text = isinstance(name, str) and name.strip(". ") != ""
    if not is_text or any(c in "/\\" or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name):
        raise ValueError(f"{what} {name!r} can't be a file's name: rename it")
    if os.name == "nt" and any(character in '<>:"|?*' for character in name):
        raise ValueError(f"{what} {name!r} can't be a file's name on this system: rename it")
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(f"{what} {name[:40]!r}… can't be a file's name, being longer than {LONGEST_NAME} bytes")
    return name


class DiskFullError(OSError):
    """There was no room for a file or folder; the message names it, the room that it needs, and what is free."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or what led to it, is that there is no room to write."""
    chain: list[BaseException] = []
    led_to: BaseException | None = error
    while led_to is not None and led_to not in chain:  # a cause that is raised again has led to itself
        chain.append(led_to)
        led_to = led_to.__cause__ or led_to.__context__
    return any(
        isinstance(e, DiskFullError) or (isinstance(e, OSError) and e.errno in FULL) or FULL_IN_WORDS.search(str(e))
        for e in chain
    )


@contextmanager
def whole_file(path: str | Path, sweep: bool = True) -> Iterator[Path]:
    """
    A temporary path beside `path`, to which the block writes a file that becomes `path` when the block ends.

    The file has the permissions that the umask asks for, whatever wrote it. When the block fails, what was at `path`
    stays as it was.

    Args:
        sweep: whether to remove what killed processes left of this file; off for one of very many in a folder, for
            which [`remove_leftovers`] does it once.

    Raises `DiskFullError` where there is no room, and `ValueError` where `path` is there and is no file.
    """
    path = Path(path).resolve()  # a link stays a link
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is there already and is no file: choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    if sweep:
        remove_leftovers(path)
    part = _beside(path, "part")
    try:
        with _room_for(path, part):
            part.touch()
            mode = part.stat().st_mode
            yield part
            part.chmod(mode)
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file, whole or not at all; raises as [`whole_file`] does."""
    with whole_file(path) as part:
        part.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8 with `\\n` at the ends of lines, whole or not at all; raises as [`whole_file`] does."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))  # a file's name may hold half a character


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON, whole or not at all; raises as [`whole_file`] does."""
    write_text(path, json.dumps(content, indent=2) + "\n")


@contextmanager
def whole_folder(folder: str | Path, replace: bool = False) -> Iterator[Path]:
    """
    A temporary folder beside `folder` that becomes it when the block ends, and vanishes when it fails.

    Args:
        replace: replace a folder that exists; in one step, so that there is always one.

    Raises `FileExistsError` where `folder` is there already and isn't to be replaced, and `DiskFullError` where there
    is no room.
    """
    folder = Path(folder).resolve()
    with work_folder(folder) as part:
        if folder.exists() and not replace:
            raise FileExistsError(f"{folder} exists: choose another folder, or remove it")
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"{folder} is a file, where a folder is to be: choose another name")
        yield part
        as_umask_says(part)
        if folder.exists():
            _exchange(part, folder)
        else:
            os.replace(part, folder)


@contextmanager
def work_folder(path: Path) -> Iterator[Path]:
    """
    A temporary folder beside the file or folder `path`, on the same disk, for what is to become part of it.

    What it holds when the block ends is removed; so is what killed processes left there. Raises `DiskFullError` where
    there is no room.
    """
    remove_leftovers(path)
    part = _beside(path, "part")
    _remove(part)
    part.mkdir(parents=True)
    try:
        with _room_for(path, part):
            yield part
    finally:
        _remove(part)


def remove_folder(folder: Path) -> None:
    """Remove a folder in one step, so that half of one isn't taken for whole."""
    aside = _beside(folder, "part")
    _remove(aside)
    os.replace(folder, aside)
    _remove(aside)


def remove_leftovers(path: Path, name: str | None = None) -> None:
    """
    Remove what processes that were killed left while they wrote the file or folder `path`.

    An older version that had been moved away, and not replaced, comes back with a warning.

    Args:
        name: a regular expression, for what to sweep beside `path` instead of the leftovers of `path` itself.
    """
    if not path.parent.is_dir():
        return
    leftover = re.compile(rf"\.({re.escape(path.name) if name is None else name})\.(\d+)-(\d+)\.(part|old)")
    for entry in list(path.parent.iterdir()):
        match = leftover.fullmatch(entry.name)
        if match is None or _is_written(int(match[2]), int(match[3])):
            continue
        final = entry.with_name(match[1])
        if match[4] == "old" and not final.exists():
            os.replace(entry, final)
            warnings.warn(f"{final} is back: what was to replace it was broken off", stacklevel=2)
        _remove(entry)


def _beside(path: Path, ending: str) -> Path:
    """The hidden name of a thing that becomes `path`, which tells whose it is."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.{ending}")


def _is_written(process: int, thread: int) -> bool:
    """Whether who began to write it still may; it isn't this thread, which is about to begin."""
    if (process, thread) == (os.getpid(), threading.get_native_id()):
        return False
    if os.name != "posix":  # there is no asking there without harm
        return True
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def as_umask_says(folder: Path, pattern: str = "**/*") -> None:
    """Give a folder's files the permissions that the umask asks for; safetensors makes its own for the owner alone."""
    probe = _beside(folder / "umask", "part")
    probe.touch()
    mode = probe.stat().st_mode & 0o666
    probe.unlink()
    for file in folder.glob(pattern):
        if file.is_file() and not file.is_symlink():
            file.chmod(file.stat().st_mode | mode)


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders in one step; where the system can't, in two, of which [`remove_leftovers`] knows how to undo the
    first."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        rename = None
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename is not None and rename(here, os.fsencode(new), here, os.fsencode(old), swap) == 0:
        return
    aside = _beside(old, "old")
    _remove(aside)
    os.replace(old, aside)
    os.replace(new, old)
    _remove(aside)


@contextmanager
def _room_for(path: Path, part: Path) -> Iterator[None]:
    """Say of which file or folder there is no room, and how much."""
    try:
        yield
    except Exception as error:
        if not is_disk_full(error) or (isinstance(error, DiskFullError) and str(part) not in str(error)):
            raise
        files = [part] if part.is_file() else part.rglob("*")
        written = sum(file.stat().st_size for file in files if file.is_file())
        raise DiskFullError(
            f"there is no room for {path}: it needs more than the {megabytes(written)} written so far, and "
            f"{megabytes(shutil.disk_usage(path.parent).free)} are free there; make room, or choose another place"
        ) from error


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"
