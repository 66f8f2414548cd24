"""The kinds of labels, which are the values of the column `label_source`, and checks of boxes and points."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

HUMAN = "human"  # a person's mask
BOX = "box"  # a person's boxes, one around each target
POINT = "point"  # a person's points, or boxes and points
PSEUDO = "pseudo"  # a teacher's mask
NONE = "none"  # no label

BY_PEOPLE = (HUMAN, BOX, POINT)


def source_of_objects(boxes: Iterable[Sequence[float]]) -> str:
    """`point` if one of the boxes `[x, y, width, height]` is a point, with width and height 0; else `box`."""
    return POINT if any(not (box[2] and box[3]) for box in boxes) else BOX


def drawn_inside(box: Sequence[float], width: int, height: int) -> list[float]:
    """
    Convert a box `[x, y, width, height]` or a point `[x, y]` that a person drew to a box of `objects`.

    Raises `ValueError` as [`inside_frame`] does, and for a box of width and height 0, which might be meant as a point.
    """
    if len(box) == 4 and box[2] == box[3] == 0:
        raise ValueError(_no_extent_message(box))
    return inside_frame((*box, 0, 0) if len(box) == 2 else box, width, height)


def inside_frame(box: Sequence[float], width: int, height: int) -> list[float]:
    """
    Check a box `[x, y, width, height]` in pixels, and clip it to a frame of `width` × `height` pixels.

    A point has width and height 0. Boxes may be up to a pixel outside of the frame, because some programs count pixels
    from 0 and others from 1. Raises `ValueError` if a box is further outside, or isn't a box or a point.

    Examples:
        >>> inside_frame([-1, 2, 4, 4], width=64, height=64)
        [0, 2, 3, 4]
    """
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        raise ValueError(f"{_format_box(box)} isn't a box: give four numbers, x, y, width and height in pixels")
    x0, y0, x1, y1 = box[0], box[1], box[0] + box[2], box[1] + box[3]
    if min(box[2:]) < 0 or (min(box[2:]) == 0) != (max(box[2:]) == 0):
        raise ValueError(_no_extent_message(box))
    if x0 < -1 or y0 < -1 or x1 > width + 1 or y1 > height + 1:
        raise ValueError(f"the box {_format_box(box)} isn't inside its frame of {width} × {height} pixels")
    x0, x1 = (min(max(x, 0), width) for x in (x0, x1))
    y0, y1 = (min(max(y, 0), height) for y in (y0, y1))
    if (x0 == x1 or y0 == y1) and box[2] > 0:
        raise ValueError(f"the box {_format_box(box)} lies outside of its frame of {width} × {height} pixels")
    return [x0, y0, x1 - x0, y1 - y0]


def _no_extent_message(box: Sequence[float]) -> str:
    return f"the box {_format_box(box)} has no extent: give it a width and a height above 0, or mark a point as one"


def _format_box(box: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in box)}]"


def as_objects(boxes: Sequence[Sequence[float]]) -> dict[str, list[Any]]:
    """The cell of the column `objects` for boxes and points. The areas are those of the boxes."""
    return {
        "bbox": [[float(value) for value in box] for box in boxes],
        "area": [round(box[2] * box[3]) for box in boxes],
        "category": [0] * len(boxes),
    }
