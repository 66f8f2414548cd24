"""Decodes COCO's annotations to masks: RLE, compressed or not, and polygons."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .polygons import fill_polygons, read_polygons

LONGEST_NUMBER = 7  # characters of a compressed run, 35 bits


def decode_annotation(annotation: dict[str, Any], shape: tuple[int, int], centres: bool) -> np.ndarray:
    """
    The mask `(H, W)` bool of an annotation.

    Args:
        shape: (H, W) of its image.
        centres: whether a polygon's corners are pixels' centres, see [`corners_are_centres`].

    Raises `ValueError` where the annotation's segmentation is of an unknown kind, is damaged, has another size or
    covers no pixel.
    """
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        mask = fill_polygons(annotation, read_polygons(segmentation, shape), shape=shape, centres=centres)
    elif isinstance(segmentation, dict):
        size = segmentation.get("size")
        if size != list(shape):
            raise ValueError(f"its mask has the size {size!r}, its image {list(shape)}")
        mask = decode_rle(segmentation.get("counts"), *shape)
    else:
        raise ValueError("its segmentation can't be decoded: it is neither a list of polygons nor an RLE")
    if not mask.any():
        raise ValueError("its segmentation covers no pixel: remove it, or draw it as a mask")
    return mask


def boxes_of_annotation(annotation: dict[str, Any]) -> Sequence[tuple[float, ...]]:
    """
    The box or points of an annotation without a mask.

    That is its `bbox` `(x, y, width, height)`, or else its visible `keypoints` as points `(x, y)`; all in pixels. A
    `bbox` without extent counts only where there are no `keypoints`. Raises `ValueError` where it has neither.
    """
    box, keypoints = annotation.get("bbox"), annotation.get("keypoints")
    for name, numbers in (("bbox", box), ("keypoints", keypoints)):
        if numbers and not (isinstance(numbers, list) and all(type(value) in (int, float) for value in numbers)):
            raise ValueError(f"its `{name}` isn't a list of numbers")
    if box and len(box) == 4 and (any(box[2:]) or not keypoints):
        return [tuple(map(float, box))]
    if keypoints and len(keypoints) % 3 == 0:
        triples = zip(keypoints[::3], keypoints[1::3], keypoints[2::3], strict=True)
        if visible := [(float(x), float(y)) for x, y, is_visible in triples if is_visible]:
            return visible
    raise ValueError("has no `segmentation`, no `bbox` of four numbers and no visible `keypoints`")


def decode_rle(counts: Any, height: int, width: int) -> np.ndarray:
    """
    Decode an RLE to a mask `(H, W)` bool.

    Args:
        counts: lengths of the runs down the columns, background and target in turn, the first being background; a list,
            or COCO's compressed text.

    Raises `ValueError` where the runs are damaged or don't sum up to `height * width`. pycocotools doesn't check this,
    and leaves pixels undefined.

    Examples:
        >>> decode_rle([1, 2, 3], height=2, width=3).astype(int)
        array([[0, 1, 0],
               [1, 0, 0]])
    """
    most = height * width + 1
    if isinstance(counts, str):
        runs = _decompress(counts, most)
    elif isinstance(counts, list) and all(type(run) is int or (type(run) is float and run % 1 == 0) for run in counts):
        runs = [int(run) for run in counts]
    else:
        raise ValueError("its segmentation can't be decoded: its `counts` are neither text nor a list of whole numbers")
    if len(runs) > most or min(runs, default=0) < 0 or sum(runs) != most - 1:
        raise ValueError(f"its segmentation can't be decoded: its runs aren't those of {width} × {height} pixels")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _decompress(counts: str, most: int) -> list[int]:
    """
    The lengths of the runs in COCO's compressed text; `ValueError` where there are more than `most`.

    Each character holds 5 bits of a number, lowest first; a sixth bit says that more characters follow. From the fourth
    run on, the number is the difference to the length of the run before the last.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"its segmentation can't be decoded: {character!r} isn't a character of a compressed RLE")
        value |= (bits & 31) << shift
        shift += 5
        if shift > 5 * LONGEST_NUMBER or len(runs) > most:
            raise ValueError("its segmentation can't be decoded: its compressed runs are longer than any image")
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift  # negative
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    if shift:
        raise ValueError("its segmentation can't be decoded: the compressed RLE is cut off")
    return runs
