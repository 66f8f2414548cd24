"""Reads text, JSON and YAML files, with errors that name the file and the problem."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from .files import megabytes

LARGEST_YAML = 2**20  # bytes: a configuration is smaller
KINDS = {dict: "an object of names and values", list: "a list", str: "text", int: "a number", float: "a number"}


def check_is_file(path: str | Path) -> None:
    """Raise `ValueError` if the path is a folder, pipe or device. Reading a pipe could wait forever."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is {'a folder' if path.is_dir() else 'a pipe or device'}, not a file")


def read_bytes(path: str | Path) -> bytes:
    """A file's content. Raises `ValueError` for a folder, pipe or device, and `OSError` where it can't be read."""
    check_is_file(path)
    return Path(path).read_bytes()


def read_text(path: str | Path) -> str:
    """
    The text of a file in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Raises as [`read_bytes`] does, and `ValueError` for another encoding.
    """
    content = read_bytes(path)
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: byte {error.start} is {content[error.start]:#04x}") from error


def read_json(path: str | Path, kind: type | tuple[type, ...] = dict) -> Any:
    """
    The content of a JSON file.

    Args:
        kind: the type that the content must have, such as `dict` or `list`, or several types.

    Raises `ValueError`, which names the file, if it is not JSON, has another type, repeats a name in an object or is
    nested too deeply; otherwise as [`read_text`] does.
    """
    text = read_text(path)
    try:
        content = json.loads(text, object_pairs_hook=_without_doubles)
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path} can't be read as JSON: {error}") from error
    return _of_kind(content, kind, path)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = first_double([name for name, _ in pairs])
    if twice is not None:
        raise ValueError(f"{twice!r} is there twice in one object")
    return dict(pairs)


def first_double(names: list[str]) -> str | None:
    """The first name that occurs more than once; `None` where none does."""
    if len(set(names)) == len(names):
        return None
    return next(name for name, count in Counter(names).items() if count > 1)


def read_yaml(path: str | Path, kind: type | tuple[type, ...] = dict) -> Any:
    """
    The content of a YAML file; an empty `dict` for an empty file.

    What looks like a number is one: `1e-3` is, but `010`, `1:30` and dates are text, unlike in YAML 1.1.

    Args:
        kind: the type that the content must have, such as `dict` or `list`, or several types.

    Raises `ValueError`, which names the file, if it is not YAML, has another type, repeats a name, is nested too
    deeply, is larger than 1 MiB, or has aliases (`*name`); otherwise as [`read_text`] does.
    """
    import yaml  # here, since the runtime reads only JSON, and needs only NumPy, Pillow and onnxruntime

    from .plain_yaml import PlainLoader

    text = read_text(path)
    if len(text) > LARGEST_YAML:
        raise ValueError(f"{path} is no configuration: it has more than {megabytes(LARGEST_YAML)}")
    try:
        content = yaml.load(text, PlainLoader)
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} can't be read as YAML: {' '.join(str(error).split())}") from error
    return _of_kind({} if content is None else content, kind, path)


def _of_kind(content: Any, kind: type | tuple[type, ...], path: str | Path) -> Any:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(content, kinds) or (isinstance(content, bool) and bool not in kinds):
        wanted = " or ".join(KINDS.get(k, k.__name__) for k in kinds)
        raise ValueError(f"{path} must hold {wanted}, and holds {KINDS.get(type(content), repr(content))}")
    return content
