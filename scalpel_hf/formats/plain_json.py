"""Boxes and points by frame in a plain JSON file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scalpel_hf.utils.reading import read_json

from .human_labels import HumanLabel, LabelFileError

LONGEST_ROW = 60  # characters of a row that an error shows


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


def _is_box_or_point(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) in (2, 4) and all(type(value) in (int, float) for value in entry)


def _short(entry: Any) -> str:
    text = json.dumps(entry, ensure_ascii=False)
    return text if len(text) <= LONGEST_ROW else f"{text[:LONGEST_ROW]} …"
