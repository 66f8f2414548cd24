"""An annotation of COCO's as pixels: runs, compressed or not, and polygons."""

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

    Raises `ValueError` saying what is wrong with its segmentation: none, damaged, of another size, or without a pixel.
    """
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        mask = fill_polygons(annotation, read_polygons(segmentation, shape), shape, centres)
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
    An annotation without a mask: its `bbox` `(x, y, width, height)`, or its visible `keypoints` as points `(x, y)`.

    Raises `ValueError` where it has none of these.
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
    `(H, W)` bool of runs down the columns, of background and target in turn: a list, or COCO's compressed text.

    Not by pycocotools, which leaves pixels undefined where the runs don't reach the end. Raises `ValueError`.
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
    """Runs from a string, `most` of them at most: 5 bits a character, lowest first, the sixth saying that more follow;
    from the fourth run on the difference to the last but one."""
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
