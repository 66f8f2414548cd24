"""Names of models and data sets, which are Hub ids or folders: to store, and to publish."""

import re
from pathlib import Path, PureWindowsPath

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
SNAPSHOT = re.compile(r"models--(?P<id>[^/]+--[^/]+)/snapshots/(?P<revision>[0-9a-f]{40})")  # in the Hub's cache


def is_hub_id(name: str | None) -> bool:
    """Whether a name has the form `org/name` and isn't a local path."""
    return bool(name) and HUB_ID.fullmatch(str(name)) is not None and not Path(str(name)).exists()


def lasting_name(name: str | Path) -> tuple[str, str | None]:
    """
    A model's name that is valid in any working directory, and its commit if known.

    A folder's is its absolute path; a folder in the Hub's cache has a Hub id and commit; a Hub id stays as it is.
    """
    path = Path(name).absolute()
    if not path.is_dir():
        return str(name), None
    snapshot = SNAPSHOT.search(path.as_posix())
    if snapshot is not None and path.as_posix().endswith(snapshot[0]):
        return snapshot["id"].replace("--", "/", 1), snapshot["revision"]
    return str(path), None


def shown_name(name: str) -> str:
    """
    A name to publish: of a path outside the working directory only its last part.

    Examples:
        >>> shown_name("/data/sets/nuaa"), shown_name("data/nuaa")
        ('nuaa', 'data/nuaa')
    """
    parts = Path(name).parts
    outside = Path(name).is_absolute() or PureWindowsPath(name).is_absolute() or name.startswith(("~", "\\\\"))
    if not outside and ".." not in parts:
        return name
    last = PureWindowsPath(name).name if "\\" in name else Path(name).name
    return last.strip("~") if last not in ("..", "") else "."
