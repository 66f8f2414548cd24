"""Writes files and folders whole or not at all, and checks their names."""

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

# In messages of libraries such as safetensors, whose errors have no `errno`.
FULL_IN_WORDS = re.compile(r"No space left|os error 28\b|Disk quota|File too large")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LONGEST_NAME = 200  # bytes: file systems allow 255, and suffixes and the names of hidden part files add some


def check_can_be_made(path: str | Path, option: str) -> None:
    """
    Check that a file or folder can be created at a path, without creating it. For use before long work.

    Args:
        path: of the file or folder.
        option: the flag that gave the path, for the message.

    Raises `ValueError`, which names the obstacle.
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
        what: the thing with this name, for the message, such as `the column`.

    Raises `ValueError` if it is not text, is empty, `.` or `..`, is longer than file systems allow, or contains `/`,
    `\\`, a control character, a line break or half of a surrogate pair.

    Examples:
        >>> safe_name("frame_7", "the frame")
        'frame_7'
        >>> safe_name("../frame_7", "the frame")
        Traceback (most recent call last):
        ValueError: the frame '../frame_7' can't be a file's name: rename it
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
    """There is no room for a file or folder; the message names it, the room that it needs, and the free room."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one of its causes, says that there is no room to write."""
    chain: list[BaseException] = []
    led_to: BaseException | None = error
    while led_to is not None and led_to not in chain:  # an error that is raised again can be its own cause
        chain.append(led_to)
        led_to = led_to.__cause__ or led_to.__context__
    return any(
        isinstance(e, DiskFullError) or (isinstance(e, OSError) and e.errno in FULL) or FULL_IN_WORDS.search(str(e))
        for e in chain
    )


@contextmanager
def whole_file(path: str | Path, sweep: bool = True) -> Iterator[Path]:
    """
    Write a file whole or not at all.

    The block writes to the temporary path that it is given, which becomes `path` when the block ends. If the block
    fails, an older file at `path` stays as it was. The file gets the permissions of the umask, whatever wrote it.

    Args:
        sweep: whether to remove what killed processes left of this file. For very many files in a folder, turn it off
            and call [`remove_leftovers`] once.

    Raises `DiskFullError` where there is no room, and `ValueError` where `path` exists and is not a file.

    Examples:
        >>> with whole_file("notes.txt") as part:
        ...     _ = part.write_text("whole")
        >>> Path("notes.txt").read_text()
        'whole'
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
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))  # names of files may hold invalid characters


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON, whole or not at all; raises as [`whole_file`] does."""
    write_text(path, json.dumps(content, indent=2) + "\n")


@contextmanager
def whole_folder(folder: str | Path, replace: bool = False) -> Iterator[Path]:
    """
    Write a folder whole or not at all.

    The block writes into the temporary folder that it is given, which becomes `folder` when the block ends. If the
    block fails, the temporary folder is removed.

    Args:
        replace: whether to replace an existing folder. It is replaced in one step, so that there always is one.

    Raises `FileExistsError` where `folder` exists and may not be replaced, or is a file, and `DiskFullError` where
    there is no room.
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
    A temporary folder beside `path`, on the same disk, for parts of the file or folder `path`.

    It is removed when the block ends; what the block needs has been moved out by then. What killed processes left is
    removed at the start. Raises `DiskFullError` where there is no room.
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
    """Remove a folder. It vanishes in one step, so that no half of it is ever found under its name."""
    aside = _beside(folder, "part")
    _remove(aside)
    os.replace(folder, aside)
    _remove(aside)


def remove_leftovers(path: Path, name: str | None = None) -> None:
    """
    Remove what killed processes left when they wrote the file or folder `path`.

    An older version that they had moved away and not yet replaced is restored, with a warning.

    Args:
        name: a regular expression for the names of files beside `path` whose leftovers to remove instead.
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
    """The hidden path of what becomes `path` or was it; the name holds the process and the thread that write it."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.{ending}")


def _is_written(process: int, thread: int) -> bool:
    """Whether the process still runs that writes a part file. This thread's own is a leftover: it has not begun yet."""
    if (process, thread) == (os.getpid(), threading.get_native_id()):
        return False
    if os.name != "posix":  # on Windows, `os.kill` would end the process
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
    """Give a folder's files the permissions of the umask; files of safetensors can be read by their owner only."""
    probe = _beside(folder / "umask", "part")
    probe.touch()
    mode = probe.stat().st_mode & 0o666
    probe.unlink()
    for file in folder.glob(pattern):
        if file.is_file() and not file.is_symlink():
            file.chmod(file.stat().st_mode | mode)


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders in one step, or where the system can't, in two; [`remove_leftovers`] can undo the first."""
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
    """Turn an error of a full disk into a `DiskFullError` that names the file or folder and the room that it needs."""
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
