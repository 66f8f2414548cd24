"""Label files with anything in any place: a right result or one line that names the file, in time."""

import copy
import json
import random
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scalpel_hf.formats import LabelFileError, read_coco, read_label_studio, write_coco, write_label_studio

from .small_sets import tiny

LIMIT = 10  # seconds
DEEP: Any = []
for _ in range(500):
    DEEP = [DEEP]
HOSTILE = (
    *(None, True, -1, 0, 0.5, 10**9, 1e9, 1e308, 10**400, float("nan"), float("inf"), "", "x", "../../x", "\ud800"),
    *("1" * 10**5, "o" * 10**6, [], {}, [[]], [None], ["x"], [1e9] * 8, [0] * 10**5, {"x": 1}, {"size": [5, 6]}, DEEP),
)


def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """Every place in a JSON value; of long lists of numbers the first few."""
    items = node.items() if isinstance(node, dict) else enumerate(node[:4]) if isinstance(node, list) else ()
    for key, child in items:
        yield (*path, key)
        yield from places(child, (*path, key))


def changed(content: Any, rng: random.Random) -> Any:
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 1, 2))):
        *way, last = rng.choice(list(places(content)) or [(0,)])
        node = content
        for key in way:
            node = node[key]
        kind = rng.randrange(6)
        if kind == 0:
            del node[last]
        elif kind == 1 and isinstance(node, list):
            node.append(node[last])
        else:
            node[last] = rng.choice(HOSTILE)
    return content


def coco(folder: Path) -> list:
    write_coco(tiny(), folder / "coco")
    content = json.loads((folder / "coco" / "annotations.json").read_text())
    for image in content["images"]:
        image.pop("label_source"), image.pop("teacher", None)
    square = {"category_id": 1, "iscrowd": 0, "bbox": [1, 1, 3, 3], "area": 9, "image_id": 1}
    content["annotations"] = [
        *content["annotations"][:2],
        {"id": 90, "segmentation": [[1, 1, 4, 1, 4, 4, 1, 4]], **square},
        {"id": 91, "segmentation": {"size": [20, 24], "counts": [21, 3, 456]}, **square},
        {"id": 92, "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3], [8, 8]], **square, "bbox": None, "area": 10},
    ]
    return [content]


def label_studio(folder: Path) -> list:
    write_label_studio(tiny(), folder / "ls")
    tasks = json.loads((folder / "ls" / "tasks.json").read_text())
    for task in tasks:
        task["annotations"] = task.pop("annotations", None) or task.pop("predictions", [])
    return [tasks]


def attempt(read: Callable, path: Path) -> None:
    started = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for label in read(path):
                assert isinstance(label.name, str) and label.name
        except LabelFileError as error:
            assert path.name in str(error) and "\n" not in str(error) and len(str(error)) < 2000, str(error)[:3000]
    assert time.monotonic() - started < LIMIT


@pytest.mark.parametrize(
    "seeds", [range(60), pytest.param(range(60, 1000), marks=pytest.mark.slow)], ids=["some", "many"]
)
@pytest.mark.parametrize(("read", "make"), [(read_coco, coco), (read_label_studio, label_studio)])
def test_anything_anywhere(read: Callable, make: Callable, seeds: range, tmp_path: Path) -> None:
    (content,) = make(tmp_path)
    path = tmp_path / "hostile.json"
    path.write_text(json.dumps(content))
    assert list(read(path))
    for seed in seeds:
        path.write_text(json.dumps(changed(content, random.Random(seed))))
        try:
            attempt(read, path)
        except BaseException as error:
            raise AssertionError(f"seed {seed}") from error


NO_FILES = (
    b"",
    b"\0",
    b"null",
    b"3",
    b'"x"',
    b"[" * 10**6,
    b'{"a":' * 10**5,
    b"\xff\xfe",
    b"\xff",
    b"{}",
    b"[{}]",
    b"NaN",
)


@pytest.mark.parametrize("read", [read_coco, read_label_studio])
@pytest.mark.parametrize("text", NO_FILES, ids=range(len(NO_FILES)))
def test_files_of_anything(read: Callable, text: bytes, tmp_path: Path) -> None:
    (tmp_path / "hostile.json").write_bytes(text)
    with pytest.raises(LabelFileError, match=r"hostile\.json"):
        list(read(tmp_path / "hostile.json"))
    attempt(read, tmp_path / "hostile.json")
