"""Names of models and data sets: repositories on the Hub and folders, as they are kept here and shown elsewhere."""

import re
from pathlib import Path, PureWindowsPath

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
SNAPSHOT = re.compile(r"models--(?P<id>[^/]+--[^/]+)/snapshots/(?P<revision>[0-9a-f]{40})")  # in the Hub's cache


def is_hub_id(name: str | None) -> bool:
    """Whether a name is `org/name` and no folder here."""
    return bool(name) and HUB_ID.fullmatch(str(name)) is not None and not Path(str(name)).exists()


def lasting_name(name: str | Path) -> tuple[str, str | None]:
    """
    A model's name that loads it from any working directory, and its commit where the name tells it.

    Of a folder that is its absolute path; of one in the Hub's cache the id and commit of what lies there.
    """
    path = Path(name).absolute()
    if not path.is_dir():
        return str(name), None
    snapshot = SNAPSHOT.search(path.as_posix())
    if snapshot is not None and path.as_posix().endswith(snapshot[0]):
        return snapshot["id"].replace("--", "/", 1), snapshot["revision"]
    return str(path), None


def shown_name(name: str) -> str:
    """A name for readers elsewhere: of a path that begins outside the working directory its last part."""
    parts = Path(name).parts
    outside = Path(name).is_absolute() or PureWindowsPath(name).is_absolute() or name.startswith(("~", "\\\\"))
    if not outside and ".." not in parts:
        return name
    last = PureWindowsPath(name).name if "\\" in name else Path(name).name
    return last.strip("~") if last not in ("..", "") else "."
