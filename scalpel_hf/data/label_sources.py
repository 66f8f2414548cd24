"""Whose label of a row counts, and of what kind it is: the values of the column `label_source`."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

HUMAN = "human"  # a person's mask
BOX = "box"  # a person's boxes, one around each target
POINT = "point"  # a person's points, or boxes and points
PSEUDO = "pseudo"  # a teacher's mask
NONE = "none"

BY_PEOPLE = (HUMAN, BOX, POINT)


def source_of_objects(boxes: Iterable[Sequence[float]]) -> str:
    """`box` for boxes `[x, y, width, height]`; `point` where one of them has no extent, which is what a point is."""
    return POINT if any(not (box[2] and box[3]) for box in boxes) else BOX


def drawn_inside(box: Sequence[float], width: int, height: int) -> list[float]:
    """
    A box `[x, y, width, height]` or a point `[x, y]` that a person drew, as `objects` hold it, see [`inside_frame`].

    Raises `ValueError` for a box without a side, too: which of the two was meant can't be told.
    """
    if len(box) == 4 and box[2] == box[3] == 0:
        raise ValueError(_no_extent(box))
    return inside_frame((*box, 0, 0) if len(box) == 2 else box, width, height)


def inside_frame(box: Sequence[float], width: int, height: int) -> list[float]:
    """
    A box `[x, y, width, height]`, or a point, of a frame of that many pixels; what is up to a pixel outside is cut off:
    programs differ in where they count from.

    Raises `ValueError` if an entry is neither a box nor a point, or lies further outside.
    """
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        raise ValueError(f"{_shown(box)} is no box: four numbers, x, y, width and height in pixels")
    x0, y0, x1, y1 = box[0], box[1], box[0] + box[2], box[1] + box[3]
    if min(box[2:]) < 0 or (min(box[2:]) == 0) != (max(box[2:]) == 0):
        raise ValueError(_no_extent(box))
    if x0 < -1 or y0 < -1 or x1 > width + 1 or y1 > height + 1:
        raise ValueError(f"the box {_shown(box)} isn't inside its frame of {width} × {height} pixels")
    x0, x1 = (min(max(x, 0), width) for x in (x0, x1))
    y0, y1 = (min(max(y, 0), height) for y in (y0, y1))
    if (x0 == x1 or y0 == y1) and box[2] > 0:
        raise ValueError(f"the box {_shown(box)} lies beside its frame of {width} × {height} pixels")
    return [x0, y0, x1 - x0, y1 - y0]


def _no_extent(box: Sequence[float]) -> str:
    return f"the box {_shown(box)} has no extent: give it a width and a height above 0, or mark a point as one"


def _shown(box: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in box)}]"


def as_objects(boxes: Sequence[Sequence[float]]) -> dict[str, list[Any]]:
    """The cell of `objects` for boxes and points; an `area` is its box's own."""
    return {
        "bbox": [[float(value) for value in box] for box in boxes],
        "area": [round(box[2] * box[3]) for box in boxes],
        "category": [0] * len(boxes),
    }
