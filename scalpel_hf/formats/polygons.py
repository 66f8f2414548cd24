"""
Converts COCO's polygons to pixels, and masks to polygons.

By COCO's definition, a polygon's coordinates are those of pixels' edges: 0 is the left edge of the first column. But
OpenCV, and programs built on it, write contours that go through the centres of a target's outermost pixels. Filled by
COCO's definition, such a target loses half a pixel on each side: 8 of 13 pixels remain, and none of a single one. The
annotation's `bbox` and `area` show which of the two conventions holds.
"""

import math
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

CLOSE = 0.25  # pixels between sides of boxes that count as equal
FAR = 1.0  # pixels by which a polygon's box may differ from `bbox`, because programs round in many ways
ABOUT = 0.1  # relative difference up to which `area` decides on the convention
SHARE = 0.7  # lowest ratio between `area` and the number of filled pixels, either way round

Box = tuple[float, float, float, float]  # x0, y0, x1, y1


def read_polygons(segmentation: Any, shape: tuple[int, int]) -> list[np.ndarray]:
    """
    The polygons in an annotation's `segmentation`, each `(N, 2)` float64, x and y in pixels.

    Returns an empty list where the segmentation is not a list, as with RLE. Raises `ValueError` for an entry that isn't
    a polygon, and for a polygon that reaches far outside a frame of `shape` (H, W) or is unreasonably long.
    """
    polygons = []
    for number, flat in enumerate(segmentation if isinstance(segmentation, list) else [], 1):
        where = f"its segmentation can't be decoded: polygon {number} of {len(segmentation)}"
        if not isinstance(flat, list) or len(flat) % 2 or not flat or not all(_is_number(value) for value in flat):
            raise ValueError(f"{where} isn't a list of numbers x1, y1, x2, y2, …")
        points = np.array(flat, np.float64).reshape(-1, 2)
        size = np.array(shape[::-1])
        if (points < -size).any() or (points > 2 * size).any():
            raise ValueError(f"{where} leads far outside its image of {shape[1]} × {shape[0]} pixels")
        if np.abs(points - np.roll(points, 1, 0)).sum() > 8 * (size + 1).prod():
            raise ValueError(f"{where} is longer than all pixels' edges of its image")
        polygons.append(points)
    return polygons


def can_be_centres(polygons: list[np.ndarray]) -> bool:
    """Whether the corners can be pixels' centres: all coordinates are whole numbers, or all are halves such as 3.5."""
    return bool(polygons) and _half(polygons) is not None


def corners_are_centres(annotation: dict[str, Any], polygons: list[np.ndarray], shape: tuple[int, int]) -> bool | None:
    """
    Whether the polygons' corners are pixels' centres, judged by the annotation's `bbox` and `area`; `None` where these
    don't tell.

    If the corners are centres, a `bbox` that counts pixels is one pixel wider and higher than the polygons, and an
    `area` that counts pixels includes those that the polygons go through.

    Args:
        polygons: for which [`can_be_centres`] is true.
        shape: (H, W) of the image.

    Raises `ValueError` for a `bbox` that isn't four numbers and an `area` that isn't a number.
    """
    box, area = _stated(annotation)
    half = _half(polygons) or 0.0
    x0, y0, x1, y1 = _extent(polygons)
    if box is not None and _is_close(box, (x0 - half, y0 - half, x1 - half + 1, y1 - half + 1)):
        return True
    on_edges = box is not None and _is_close(box, _clip((x0, y0, x1, y1), shape))
    if area is None or (box is not None and area == (box[2] - box[0]) * (box[3] - box[1])):
        return False if on_edges else None
    inside = int(_fill_to_edges(polygons, shape).sum())
    to_edges = min(abs(area - inside), abs(area - sum(map(_shoelace, polygons))))
    with_border = int(_fill_to_centres(polygons, shape, half).sum())
    to_centres = abs(area - with_border)
    if to_centres < to_edges:
        return True if to_centres <= max(1, ABOUT * with_border) else None
    return False if on_edges or to_edges < to_centres else None


def fill_polygons(
    annotation: dict[str, Any], polygons: list[np.ndarray], shape: tuple[int, int], centres: bool
) -> np.ndarray:
    """
    Fill an annotation's polygons; returns the union of their pixels, `(H, W)` bool.

    Args:
        shape: (H, W) of the image.
        centres: whether corners are pixels' centres, if all are whole numbers or all are halves. Other corners always
            refer to pixels' edges.

    Raises `ValueError` where any of the polygons covers no pixel, or where `bbox` or `area` contradicts the pixels.
    """
    half = _half(polygons) if centres else None
    mask = np.zeros(shape, bool)
    for number, polygon in enumerate(polygons, 1):
        one = _fill_to_edges([polygon], shape) if half is None else _fill_to_centres([polygon], shape, half)
        if not one.any():
            which = (
                f"polygon {number} of {len(polygons)} of its segmentation" if len(polygons) > 1 else "its segmentation"
            )
            raise ValueError(f"{which} covers no pixel: remove it, or draw it as a mask")
        mask |= one
    box, area = _stated(annotation)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    drawn = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    if box is not None and not _is_close(_clip(box, shape), drawn, FAR + CLOSE):
        found = [int(side) for side in (*drawn[:2], drawn[2] - drawn[0], drawn[3] - drawn[1])]
        raise ValueError(f"its polygons fill the box {found}, its `bbox` is {annotation['bbox']}: mend one of them")
    counts = (int(mask.sum()), sum(map(_shoelace, polygons)))
    is_boxs = box is not None and math.isclose(area or 0, (box[2] - box[0]) * (box[3] - box[1]), rel_tol=0.01)
    if area is not None and not is_boxs and not SHARE * min(counts) - 1 <= area <= max(counts) / SHARE + 1:
        raise ValueError(f"its polygons fill {counts[0]} pixels, its `area` is {area:g}: mend one of them")
    return mask


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 2**53


def _stated(annotation: dict[str, Any]) -> tuple[Box | None, float | None]:
    """An annotation's `bbox` as (x0, y0, x1, y1), and its `area`; each `None` where it is missing or zero."""
    box, area = annotation.get("bbox"), annotation.get("area")
    if box and not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        raise ValueError("its `bbox` isn't a list of four numbers")
    if area and not _is_number(area):
        raise ValueError("its `area` isn't a number")
    x, y, width, height = box or (0, 0, 0, 0)
    corners = (x, y, x + width, y + height) if width > 0 and height > 0 else None
    return corners, area if area and area > 0 else None


def _half(polygons: list[np.ndarray]) -> float | None:
    """The fractional part of all coordinates, if it is the same, 0 or ½, so that they can be centres; else `None`."""
    parts = np.concatenate(polygons) % 1
    return float(parts.flat[0]) if parts.flat[0] in (0, 0.5) and (parts == parts.flat[0]).all() else None


def _extent(polygons: list[np.ndarray]) -> Box:
    points = np.concatenate(polygons)
    return (*points.min(0).tolist(), *points.max(0).tolist())


def _clip(box: Box, shape: tuple[int, int]) -> Box:
    height, width = shape
    x0, y0, x1, y1 = box
    return max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)


def _is_close(one: Box, other: Box, distance: float = CLOSE) -> bool:
    return all(abs(a - b) <= distance for a, b in zip(one, other, strict=True))


def _shoelace(points: np.ndarray) -> float:
    x, y = points.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def mask_codec() -> ModuleType:
    """The module `pycocotools.mask`; `ImportError` with the remedy where it isn't installed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError("COCO's masks need pycocotools: pip install 'scalpel-hf[formats]'") from error
    return mask


def _fill_to_edges(polygons: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    flat = [points.ravel().tolist() for points in polygons if len(points) > 2]  # it takes four numbers for a box
    if not flat:
        return np.zeros(shape, bool)
    codec = mask_codec()
    return codec.decode(codec.merge(codec.frPyObjects(flat, *shape))).astype(bool)


def _fill_to_centres(polygons: list[np.ndarray], shape: tuple[int, int], half: float) -> np.ndarray:
    """
    Fill polygons whose corners are pixels' centres, including the pixels on their lines: `(H, W)` bool.

    It is exact for contours, whose steps are horizontal, vertical or diagonal.
    """
    x0, y0, x1, y1 = (int(side - half) for side in _extent(polygons))
    image = Image.new("1", (x1 - x0 + 1, y1 - y0 + 1))
    draw = ImageDraw.Draw(image)
    for polygon in polygons:
        points = list(map(tuple, (polygon - half - (x0, y0)).astype(int).tolist()))
        draw.line([*points, points[0]], fill=1)
        if len(points) > 2:
            draw.polygon(points, fill=1)
    height, width = shape
    mask = np.zeros(shape, bool)
    rows, columns = slice(max(y0, 0), max(y1 + 1, 0)), slice(max(x0, 0), max(x1 + 1, 0))
    seen = np.asarray(image)[max(-y0, 0) : max(height - y0, 0), max(-x0, 0) : max(width - x0, 0)]
    mask[rows, columns] = seen
    return mask


INSET = 0.1  # pixels between an outline and the pixels' edges
STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))  # (row, column) to the right, down, to the left, up
# Where each of a pixel's four edges starts, walked clockwise: (row, column) relative to the pixel's upper left corner.
STARTS = ((0, 0), (0, 1), (1, 1), (1, 0))
OUTSIDE = ((-1, 0), (0, 1), (1, 0), (0, -1))  # the neighbour across each edge


def outline(pixels: np.ndarray) -> np.ndarray:
    """
    The outer outline of an 8-connected target as a polygon, clockwise, a tenth of a pixel inside the pixels' edges.

    Filling the polygon gives the target's pixels, with holes filled: exactly the centres of these pixels lie inside.
    Where corners are truncated to integers, they are pixels of the target. Where two pixels touch at a corner only, the
    outline crosses over at that corner and comes back there.

    Args:
        pixels: `(H, W)` bool, one component.

    Returns `(N, 2)`, x and y in pixels; 0 is the left edge of the first column, and N is at least 4.

    Examples:
        >>> outline(np.ones((1, 2), bool)).round(1).tolist()
        [[0.1, 0.1], [1.9, 0.1], [1.9, 0.9], [0.1, 0.9]]
    """
    padded = np.pad(pixels, 1)
    edges = {}  # where it starts and which way it goes → its pixel
    for row, column in np.argwhere(padded).tolist():
        for way, (down, right) in enumerate(OUTSIDE):
            if not padded[row + down, column + right]:
                edges[(row + STARTS[way][0], column + STARTS[way][1], way)] = (row, column)
    first = min(edges)  # the upper edge of the highest row's leftmost pixel
    edge, points = first, []
    while True:
        start, way, (row, column) = edge[:2], edge[2], edges[edge]
        stop = (start[0] + STEPS[way][0], start[1] + STEPS[way][1])
        points += [_inset(start, row, column), _inset(stop, row, column)]
        # The turn to the left is tried first: where pixels touch at a corner only, it crosses over to the next pixel.
        edge = next(e for e in ((*stop, (way + turn) % 4) for turn in (-1, 0, 1)) if e in edges)
        if edge == first:
            return _corners(np.array(points)) - 1


def _inset(corner: tuple[int, int], row: int, column: int) -> tuple[float, float]:
    """x and y of a pixel's `corner` (row, column), moved by `INSET` towards the pixel's centre."""
    y, x = corner
    return x + (INSET if x == column else -INSET), y + (INSET if y == row else -INSET)


def _corners(points: np.ndarray) -> np.ndarray:
    """A closed polygon's points without those that lie between their neighbours."""
    points = points[(points != np.roll(points, -1, 0)).any(1)]
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return points[np.abs(turns) > INSET**2]
