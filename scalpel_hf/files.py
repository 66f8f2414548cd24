import os
from pathlib import Path


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
