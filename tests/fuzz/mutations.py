"""Ways in which files that people give are wrong, drawn by a seeded generator."""

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import yaml

HOSTILE: list[Any] = [
    None,
    True,
    [],
    {},
    "",
    "text",
    "../../outside",
    "<img onerror=alert(1)>",
    "\x00",
    "\ud800",
    "e" * 10_000,
    -1,
    0,
    1.5,
    10**30,
    -(10**30),
    1e300,
    float("nan"),
    float("inf"),
    [[[[[[[[]]]]]]]],
    [None],
    {"a": {"b": {}}},
    "010",
    "1:30",
]
OTHER_CONTENT = [
    b"",
    b"\x00" * 100,
    b"<html>404 Not Found</html>",
    b"\xef\xbb\xbf{}",
    b"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%id) (r) file\n",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    b"[" * 20_000,
    b"&a [*a]",
    "{'a': 'ä'}".encode("utf-16"),
]


def mutate(folder: Path, random: Random) -> str:
    """Make one file of a folder wrong, and say which and how."""
    path = random.choice(sorted(file for file in folder.rglob("*") if file.is_file()))
    ways: list[Callable[[Path, Random], str]] = [truncate, flip, replace, remove, obstruct]
    if path.suffix in (".json", ".yaml"):
        ways = [restructure] * 6 + ways
    if path.suffix == ".safetensors":
        ways = [lie] * 3 + ways
    return f"{path.relative_to(folder)}: {random.choice(ways)(path, random)}"


def truncate(path: Path, random: Random) -> str:
    content = path.read_bytes()
    length = random.randrange(max(1, len(content)))
    path.write_bytes(content[:length])
    return f"cut to {length} of {len(content)} bytes"


def flip(path: Path, random: Random) -> str:
    content = bytearray(path.read_bytes())
    places = [random.randrange(len(content)) for _ in range(random.choice((1, 3, 30)))] if content else []
    for place in places:
        content[place] = random.randrange(256)
    path.write_bytes(content)
    return f"other bytes at {sorted(places)}"


def replace(path: Path, random: Random) -> str:
    content = random.choice(OTHER_CONTENT)
    path.write_bytes(content)
    return f"holds {content[:30]!r}"


def remove(path: Path, random: Random) -> str:
    path.unlink()
    return "removed"


def obstruct(path: Path, random: Random) -> str:
    """Put something there that is no file."""
    path.unlink()
    kind = random.choice(("folder", "pipe", "loop"))
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path)
    return f"a {kind}"


def restructure(path: Path, random: Random) -> str:
    """Another value at some place of a JSON or YAML file, or a name less or twice."""
    is_json = path.suffix == ".json"
    content = json.loads(path.read_text()) if is_json else yaml.safe_load(path.read_text())
    before = copy.deepcopy(content)
    parent, key = random.choice(list(places(content)) or [(None, None)])
    if parent is None:
        content, done = random.choice(HOSTILE), "another top"
    elif isinstance(parent, dict) and random.random() < 0.15:
        del parent[key]
        done = f"without {key!r}"
    elif isinstance(parent, dict) and random.random() < 0.1:
        parent[str(key) + "2"] = parent[key]
        done = f"with {key!r} under another name too"
    else:
        parent[key] = random.choice(HOSTILE)
        done = f"{key!r} is {parent[key]!r:.40}"
    text = json.dumps(content) if is_json else yaml.safe_dump(content, allow_unicode=True)
    if is_json and isinstance(before, dict) and before and random.random() < 0.05:
        text, done = json.dumps(before)[:-1] + f', "{next(iter(before))}": 0}}', "a name twice"
    path.write_bytes(text.encode("utf-8", errors="replace"))
    return done


def places(content: Any) -> Any:
    """Every place of nested lists and objects, as what holds it and its key there."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items):
        yield content, key
        yield from places(value)


def lie(path: Path, random: Random) -> str:
    """A safetensors file whose header says something else than what follows."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    name = random.choice([name for name in header if name != "__metadata__"])
    field, value = random.choice(
        [
            ("shape", [2**40, 2**40]),
            ("shape", [1]),
            ("shape", []),
            ("dtype", "I8"),
            ("dtype", "Q8"),
            ("data_offsets", [0, 2**60]),
            ("data_offsets", [8, 0]),
            ("name", None),
        ]
    )
    if field == "name":
        header[name + "_"] = header.pop(name)
    else:
        header[name][field] = value
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    return f"{field} of {name} is {value}"


def copy_of(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to
