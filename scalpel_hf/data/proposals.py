"""
What boxes and points say of a frame's pixels: target, background, or open.

All targets of the frame are known, so what is away from them is background. Inside a box, and around a point, contrast
to the surroundings proposes the target's extent: a target is warmer than what is around it, and its optics' blur falls
off towards a share of its peak. Where that share is neither high nor low the pixel stays open.

The constants were chosen on the masks of NUAA-SIRST's 34 labelled frames (docs/explanation/boxes_and_points.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from .masks import IGNORED, TARGET
from .objects import EIGHT_CONNECTED

BOX_SHARE, POINT_SHARE = 0.2, 0.3  # of the peak's contrast: what exceeds it is proposed, in a box and around a point
OPEN = (0.15, 0.4)  # shares of the peak's contrast between which a pixel is open
MARGIN = 1  # pixels around a box that are open, for people draw its sides within a pixel
MARGIN_SHARE = 0.5  # of the peak's contrast: what exceeds it there is proposed too
LARGEST = 48  # pixels: of a box with a longer side nothing is proposed
SEEK = 2  # pixels around a point in which its target's peak is looked for
STANDS_OUT = 3  # deviations of the surroundings, robustly estimated, that a peak's contrast exceeds
REACH = 10  # pixels around a point to which its target may extend

Window = tuple[slice, slice]


@dataclass(frozen=True)
class WeakLabel:
    """
    Boxes and points as pixels, `(H, W)` each.

    Args:
        target: float32, 1 where a target is proposed and 0 elsewhere.
        weight: float32, 0 where a pixel is open and 1 elsewhere.
        boxes: int32, the number of the box, from 1, that a pixel lies in, and 0 outside; of points there is none. Of
            boxes that overlap the smaller counts.
    """

    target: np.ndarray
    weight: np.ndarray
    boxes: np.ndarray

    def as_mask(self) -> np.ndarray:
        """What finds are measured by, as [`read_mask`] reads masks: a box is target throughout, and around a point what
        is proposed; what is open besides is left open."""
        is_target = (self.boxes > 0) | (self.target > 0)
        return np.where(is_target, TARGET, np.where(self.weight == 0, IGNORED, 0)).astype(np.uint8)


def weak_label(frame: np.ndarray, objects: Sequence[Sequence[float]]) -> WeakLabel:
    """
    Args:
        frame: `(H, W)`, in any linear unit.
        objects: `[x, y, width, height]` in pixels, 0 being the left edge of the first column; a point is one whose
            width and height are 0.
    """
    frame = frame.astype(np.float32)
    target, is_open, is_sure = (np.zeros(frame.shape, bool) for _ in range(3))
    numbers = np.zeros(frame.shape, np.int32)
    by_size = sorted(objects, key=lambda box: -box[2] * box[3])
    for number, box in enumerate(by_size, 1):
        if box[2] and box[3]:
            pixels = _pixels_of(box, frame.shape)
            numbers[pixels] = number
            part = _in_box(frame, pixels)
        else:
            x, y = (min(int(place), most - 1) for place, most in zip(box, frame.shape[::-1], strict=False))
            part = _around_point(frame, x, y)
        target[part.window] |= part.target
        is_open[part.window] |= part.is_open
        is_sure[part.window] |= part.target & ~part.is_open  # what one box leaves open may be another's target
    whole = [number for number, box in enumerate(by_size, 1) if _shows(numbers, number, box)]
    numbers[~np.isin(numbers, whole)] = 0
    return WeakLabel(target.astype(np.float32), (is_sure | ~is_open).astype(np.float32), numbers)


def row_weak_label(row: dict[str, Any], frame: np.ndarray) -> WeakLabel:
    """[`weak_label`] of a row with `objects`; `ValueError` naming the row where it has none."""
    if row["objects"] is None or not row["objects"]["bbox"]:
        raise ValueError(f"{row['name']}: `label_source` is {row['label_source']!r}, but there are no `objects`")
    return weak_label(frame, row["objects"]["bbox"])


@dataclass(frozen=True)
class _Part:
    """What one box or point says of the pixels of a window: which are proposed, and which are open."""

    window: Window
    target: np.ndarray
    is_open: np.ndarray


def _in_box(frame: np.ndarray, box: Window) -> _Part:
    """Of a box with its margin."""
    window = _grown(box, MARGIN, frame.shape)
    inside = _inside(window, box)
    background, least = _background(_ring(frame, window))
    contrast = frame[window] - background
    peak = contrast[inside].max()
    if peak <= least or max(frame[box].shape) > LARGEST:  # all it says is that there is something
        return _Part(window, np.zeros(inside.shape, bool), np.ones(inside.shape, bool))
    share = contrast / peak
    is_open = (share > OPEN[0]) & (share <= OPEN[1]) | ~inside
    if not _touches_all_sides(share > OPEN[0]):  # it is drawn around more than what was found
        is_open |= share <= OPEN[1]
    return _Part(window, share > np.where(inside, BOX_SHARE, MARGIN_SHARE), is_open)


def _around_point(frame: np.ndarray, x: int, y: int) -> _Part:
    """Of a point's surroundings: what is connected to the peak near it."""
    pixel = (slice(y, y + 1), slice(x, x + 1))
    window = _grown(pixel, REACH, frame.shape)
    background, least = _background(frame[window])
    contrast = frame[window] - background
    near = _inside(window, _grown(pixel, SEEK, frame.shape))
    place = np.unravel_index(np.where(near, contrast, -np.inf).argmax(), contrast.shape)
    if contrast[place] <= least:  # all it says is that there is something
        return _Part(window, np.zeros(near.shape, bool), near)
    share = contrast / contrast[place]
    may_be = ndimage.binary_dilation(_component(share > OPEN[0], place), EIGHT_CONNECTED)
    return _Part(window, _component(share > POINT_SHARE, place), may_be & (share <= OPEN[1]))


def _ring(frame: np.ndarray, box: Window) -> np.ndarray:
    """The values around a window, as far as half its longer side; of the window itself where it is the frame."""
    height, width = frame[box].shape
    ring_and_box = _grown(box, max(4, -(-max(height, width) // 2)), frame.shape)
    ring = frame[ring_and_box][~_inside(ring_and_box, box)]
    return ring if ring.size else frame[box]


def _background(values: np.ndarray) -> tuple[float, float]:
    """The median, and the contrast to it that a target's peak exceeds; 1.48 median absolute deviations are a normal
    distribution's deviation."""
    median = np.median(values)
    return float(median), float(STANDS_OUT * 1.48 * np.median(np.abs(values - median)))


def _touches_all_sides(found: np.ndarray) -> bool:
    """Whether something is found at each side of a box, within twice the margin: its own margin, and a pixel inside."""
    band = 2 * MARGIN + 1
    return all(side.any() for side in (found[:band], found[-band:], found[:, :band], found[:, -band:]))


def _component(found: np.ndarray, place: tuple[Any, ...]) -> np.ndarray:
    labels, _ = ndimage.label(found, EIGHT_CONNECTED)
    return labels == labels[place]


def _shows(numbers: np.ndarray, number: int, box: Sequence[float]) -> bool:
    """Whether a box's number still reaches all its sides, where smaller ones lie upon it."""
    window = _pixels_of(box, numbers.shape)
    return bool(box[2] and box[3]) and all(
        (side == number).any()
        for side in (numbers[window][0], numbers[window][-1], numbers[window][:, 0], numbers[window][:, -1])
    )


def _pixels_of(box: Sequence[float], shape: tuple[int, ...]) -> Window:
    """The pixels that a box covers at least half of; at least one."""
    x, y, width, height = box
    return _side(y, height, shape[0]), _side(x, width, shape[1])


def _side(start: float, length: float, most: int) -> slice:
    first = min(max(round(start), 0), most - 1)
    return slice(first, min(max(round(start + length), first + 1), most))


def _grown(window: Window, by: int, shape: tuple[int, ...]) -> Window:
    rows, columns = (slice(max(w.start - by, 0), min(w.stop + by, most)) for w, most in zip(window, shape, strict=True))
    return rows, columns


def _inside(outer: Window, inner: Window) -> np.ndarray:
    """Which pixels of the outer window lie in the inner one."""
    rows, columns = (
        (np.arange(o.start, o.stop) >= i.start) & (np.arange(o.start, o.stop) < i.stop)
        for o, i in zip(outer, inner, strict=True)
    )
    return rows[:, None] & columns
