"""Writes lines of JSON, each at once and whole, so that they are kept however the program ends."""

import json
import os
import sys
from pathlib import Path

from scalpel_hf.utils.files import DiskFullError, check_can_be_made, is_disk_full

from .results import Result

try:
    import fcntl
except ImportError:  # on Windows, which doesn't let another program overwrite an open file anyway
    fcntl = None  # type: ignore[assignment]


class JsonLines:
    """
    A file of JSON lines, or standard output, to which each line is appended whole.

    The file is created with the first line, so that a program without results leaves an older file as it was. While it
    is open, no other program can write to it.

    Args:
        path: of the file; `None` for standard output.
        overwrite: whether to replace an existing file.

    Raises `FileExistsError` where the file exists and may not be replaced, `ValueError` where another program writes to
    it, and `DiskFullError` where there is no room for a line; the lines before it are kept.
    """

    def __init__(self, path: Path | None, overwrite: bool = False):
        self.path, self.overwrite = path, overwrite
        self.count = self.end = 0  # lines, and the bytes that they take
        self._file: int | None = None
        check_is_new(path, overwrite)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def write(self, result: Result) -> None:
        """Append one line. It is written to the file, or sent to standard output, when this returns."""
        line = json.dumps(result.line(), allow_nan=False) + "\n"
        if self.path is None:
            print(line, end="", flush=True)
        else:
            self._append(line.encode())
        self.count += 1

    def _append(self, line: bytes) -> None:
        if self._file is None:
            self._file = self._opened()
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
        except BaseException as error:  # remove the part of the line that was written
            os.ftruncate(self._file, self.end)
            if is_disk_full(error):
                raise DiskFullError(
                    f"there is no room for {self.path}: {self.count} lines are in it, all whole"
                ) from error
            raise
        self.end += len(line)

    def _opened(self) -> int:
        assert self.path is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        try:
            file = os.open(self.path, flags if self.overwrite else flags | os.O_EXCL, 0o666)
        except FileExistsError as error:
            raise FileExistsError(f"{self.path} was made by another program since this one began") from error
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(file)
                raise ValueError(f"another program writes to {self.path}: choose another `--out`") from error
        os.ftruncate(file, 0)
        return file


def check_is_new(path: Path | None, overwrite: bool, option: str = "--out") -> None:
    """
    Raise `FileExistsError` where a file exists and may not be replaced, and `ValueError` where the path is not a file's
    or no file can be created there.

    Args:
        path: of the file; `None` passes.
        overwrite: whether an existing file may be replaced.
        option: the flag that gave the path, for the message.
    """
    if path is not None:
        check_can_be_made(path.parent, option)
    if path is not None and path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file: choose another name")
    if path is not None and path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: choose another name, or replace it by `--overwrite`")


def say(text: str, end: str = "\n") -> None:
    """Print to standard error, at once; for progress and problems."""
    print(text, end=end, file=sys.stderr, flush=True)
