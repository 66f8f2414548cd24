"""Readers of boxes and points that people drew: YOLO's text files, Pascal VOC's XML files, and a plain JSON file."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from scalpel_hf.utils.reading import read_json, read_text, read_yaml

from .human_labels import HumanLabel, LabelFileError

ClassBoxes = list[tuple[str, tuple[float, ...]]]  # the class of each box, as the file writes it, and the box
LONGEST_ROW = 60  # characters of a row that an error shows
ClassNames = dict[str, str]  # name of a class by what the file writes, such as its number


def read_boxes(path: str | Path) -> Iterator[HumanLabel]:
    """
    Yields the labels in a JSON file: `{"frame_7": [[x, y, width, height], [x, y]], "frame_8": []}`.

    The numbers are pixels; 0 is the left edge of the first column. Two numbers are a point. An empty list says that the
    frame has no target. Raises [`LabelFileError`], which names the file and the frame.

    Examples:
        >>> _ = Path("boxes.json").write_text('{"frame_7": [[12, 5, 4, 3], [40, 9]]}')
        >>> [(label.name, label.boxes) for label in read_boxes("boxes.json")]
        [('frame_7', ((12.0, 5.0, 4.0, 3.0), (40.0, 9.0)))]
    """
    path = Path(path)
    try:
        content = read_json(path, (dict,))
    except ValueError as error:
        raise LabelFileError(str(error)) from error
    for name, entries in content.items():
        origin = f"{path}, {name!r}"
        if not isinstance(entries, list):
            raise LabelFileError(
                f"{origin}: must be a list of boxes [x, y, width, height] and points [x, y] in pixels, as in "
                '{"frame_7": [[12, 5, 4, 3], [40, 9]], "frame_8": []}; COCO\'s files have the lists `images` and '
                "`annotations`, Label Studio's are lists of tasks"
            )
        for number, entry in enumerate(entries, 1):
            if not _is_box_or_point(entry):
                raise LabelFileError(
                    f"{origin}, row {number}: {_short(entry)} is neither a box [x, y, width, height] nor a point "
                    "[x, y], each number in pixels"
                )
        boxes = tuple(tuple(map(float, entry)) for entry in entries)
        yield HumanLabel(name, None, origin, boxes=boxes)


def read_yolo(folder: str | Path, category: str | None = None) -> Iterator[HumanLabel]:
    """
    Yields YOLO's boxes: one text file per frame, one line per target with class, centre and size as shares of the
    frame.

    An empty file says that the frame has no target. `classes.txt` is not the file of a frame.

    Args:
        folder: holds the text files, itself or in a folder `labels`.
        category: the class that counts as target; needed where the files have several. It is the class's number, or
            its name where `data.yaml` or `classes.txt` gives one.

    Raises [`LabelFileError`], which names the file and the line.
    """
    folder = Path(folder)
    root = folder / "labels" if (folder / "labels").is_dir() else folder
    files = [path for path in _files(root, ".txt") if path.name != "classes.txt"]
    found = [(path, _yolo_boxes(path)) for path in files]
    used = {name for _, boxes in found for name, _ in boxes}
    wanted = _target_class(used, _yolo_classes(folder, root), category=category, where=root)
    for path, boxes in found:
        kept = tuple(box for name, box in boxes if name == wanted)
        yield HumanLabel(_name(path, root), None, str(path), boxes=kept, shares=True)


def read_voc_boxes(folder: str | Path, category: str | None = None) -> Iterator[HumanLabel]:
    """
    Yields Pascal VOC's boxes: one XML file per frame. As in VOC, pixels count from 1 and a box includes both corners.

    A file without an object says that the frame has no target. Where a file states a size, it must be the frame's.

    Args:
        folder: holds the XML files, itself or in a folder `Annotations`.
        category: name of the class that counts as target; needed where the files have several.

    Raises [`LabelFileError`], which names the file.
    """
    folder = Path(folder)
    root = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    found = [(path, _voc_annotation(path)) for path in _files(root, ".xml")]
    read = [(path, _voc_size(annotation), _voc_boxes(annotation, path)) for path, annotation in found]
    used = {name for _, _, boxes in read for name, _ in boxes}
    wanted = _target_class(used, {}, category=category, where=root)
    for path, size, boxes in read:
        kept = tuple(box for name, box in boxes if name == wanted)
        yield HumanLabel(_name(path, root), None, str(path), boxes=kept, size=size)


def _files(folder: Path, suffix: str) -> list[Path]:
    files = sorted(path for path in folder.rglob(f"*{suffix}") if path.is_file()) if folder.is_dir() else []
    if not files:
        raise LabelFileError(f"{folder}: there are no label files *{suffix} in it")
    return files


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _target_class(used: set[str], classes: ClassNames, category: str | None, where: Path) -> str | None:
    """The class, as the files write it, that counts as target; `None` where the files use no class at all."""
    names = {key: classes.get(key, key) for key in used}
    if category is not None:
        matching = [key for key in {**classes, **names} if category in (key, classes.get(key))]
        if not matching:
            raise LabelFileError(f"{where}: no class {category!r}, there are {sorted(names.values())}")
        return matching[0]
    if len(used) > 1:
        raise LabelFileError(f"{where}: there are the classes {sorted(names.values())}: name the target by --category")
    return next(iter(used), None)


def _yolo_boxes(path: Path) -> ClassBoxes:
    boxes: ClassBoxes = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) > 6:
            raise LabelFileError(f"{path}, line {number}: a polygon of {len(parts)} numbers: make it a mask or a box")
        try:
            x, y, width, height = map(float, parts[1:5])
            int(parts[0])
        except ValueError as error:
            raise LabelFileError(f"{path}, line {number}: must be class, x, y, width and height as shares") from error
        if not all(math.isfinite(v) and 0 <= v <= 1.01 for v in (x, y, width, height)):
            raise LabelFileError(
                f"{path}, line {number}: {line.strip()!r} has numbers that are no shares of a frame, which are 0 to 1"
            )
        boxes.append((parts[0], (x - width / 2, y - height / 2, width, height)))
    return boxes


def _yolo_classes(folder: Path, root: Path) -> ClassNames:
    listed = next((place / "classes.txt" for place in (root, folder) if (place / "classes.txt").is_file()), None)
    if listed is not None:
        return {str(number): name.strip() for number, name in enumerate(_text(listed).splitlines())}
    described = next((p / "data.yaml" for p in (folder, root.parent) if (p / "data.yaml").is_file()), None)
    names = read_yaml(described).get("names") if described is not None else None
    pairs = names.items() if isinstance(names, dict) else enumerate(names if isinstance(names, list) else [])
    return {str(number): str(name) for number, name in pairs}


def _voc_annotation(path: Path) -> ElementTree.Element:
    try:
        root = ElementTree.fromstring(_text(path))
    except ElementTree.ParseError as error:
        raise LabelFileError(f"{path}: is no XML file ({error})") from error
    if root.tag != "annotation":
        raise LabelFileError(f"{path}: is no annotation of Pascal VOC: it starts with <{root.tag}>")
    return root


def _voc_size(annotation: ElementTree.Element) -> tuple[int, int] | None:
    """(H, W) of the frame; `None` where the file has no size or zeros, as some programs write it."""
    sides = [annotation.findtext(f"size/{side}", "").strip() for side in ("height", "width")]
    height, width = (int(side) if side.isdecimal() else 0 for side in sides)
    return (height, width) if height and width else None


def _voc_boxes(annotation: ElementTree.Element, path: Path) -> ClassBoxes:
    boxes: ClassBoxes = []
    for place, entry in enumerate(annotation.iter("object"), 1):
        try:
            x0, y0, x1, y1 = (float(entry.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
        except ValueError as error:
            raise LabelFileError(f"{path}, object {place}: needs a `bndbox` of four numbers") from error
        boxes.append((entry.findtext("name", ""), (x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1)))
    return boxes


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, ValueError) as error:
        raise LabelFileError(f"{path}: {error}") from error


def _is_box_or_point(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) in (2, 4) and all(type(value) in (int, float) for value in entry)


def _short(entry: Any) -> str:
    text = json.dumps(entry, ensure_ascii=False)
    return text if len(text) <= LONGEST_ROW else f"{text[:LONGEST_ROW]} …"
