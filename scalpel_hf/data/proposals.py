"""
Weak labels: from boxes and points to target, background and pixels to ignore.

People mark all targets of a frame, so pixels away from boxes and points are background. Inside a box, and around a
point, a pixel's contrast to the surroundings relative to the peak's decides: high is target, low is background, and
values between are ignored. (Targets are warmer than their surroundings, and blurred by the optics.)

The constants were chosen on the masks of NUAA-SIRST's 34 labelled frames (docs/explanation/boxes_and_points.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from .masks import IGNORED, TARGET
from .objects import EIGHT_CONNECTED

BOX_SHARE, POINT_SHARE = 0.2, 0.3  # of the peak's contrast: above it a pixel is target, in a box and around a point
OPEN = (0.15, 0.4)  # between these shares of the peak's contrast a pixel is ignored
MARGIN = 1  # width in pixels of the ignored border around a box: people's boxes are accurate to a pixel
MARGIN_SHARE = 0.5  # of the peak's contrast: above it a pixel of that border is target
LARGEST = 48  # pixels: in boxes with a longer side no target is proposed
SEEK = 2  # pixels: largest distance of a target's peak from its point
STANDS_OUT = 3  # lowest contrast of a peak, in (robust) standard deviations of the surroundings
REACH = 10  # pixels: largest extent of a target from its point

Window = tuple[slice, slice]


@dataclass(frozen=True)
class WeakLabel:
    """
    The label that boxes and points give to pixels. All arrays are `(H, W)`.

    Args:
        target: float32, 1 for proposed target pixels, else 0.
        weight: float32, 0 for pixels to ignore, else 1.
        boxes: int32, the number of the box that contains the pixel, from 1 on, and 0 outside. Points have no number.
            Where boxes overlap, it is the smaller one's.
    """

    target: np.ndarray
    weight: np.ndarray
    boxes: np.ndarray

    def as_mask(self) -> np.ndarray:
        """
        A mask like those of [`read_mask`], for evaluation: all pixels of boxes, and the pixels proposed around points,
        are target; of the others, pixels to ignore stay ignored.
        """
        is_target = (self.boxes > 0) | (self.target > 0)
        return np.where(is_target, TARGET, np.where(self.weight == 0, IGNORED, 0)).astype(np.uint8)


def weak_label(frame: np.ndarray, objects: Sequence[Sequence[float]]) -> WeakLabel:
    """
    The weak label of a frame from its boxes and points.

    Args:
        frame: `(H, W)`, in any linear unit.
        objects: `[x, y, width, height]` in pixels, where 0 is the left edge of the first column. A point has width and
            height 0.
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
        # Not ignored by its own box, even if another box ignores it.
        is_sure[part.window] |= part.target & ~part.is_open
    whole = [number for number, box in enumerate(by_size, 1) if _shows(numbers, number, box)]
    numbers[~np.isin(numbers, whole)] = 0
    return WeakLabel(target.astype(np.float32), (is_sure | ~is_open).astype(np.float32), numbers)


def row_weak_label(row: dict[str, Any], frame: np.ndarray) -> WeakLabel:
    """[`weak_label`] for a row with `objects`; `ValueError`, which names the row, if there are none."""
    if not (boxes := (row.get("objects") or {}).get("bbox")):
        raise ValueError(f"{row['name']}: `label_source` is {row['label_source']!r}, but there are no `objects`")
    return weak_label(frame, boxes)


@dataclass(frozen=True)
class _Part:
    """Target pixels and pixels to ignore of one box or point, in a window of the frame."""

    window: Window
    target: np.ndarray
    is_open: np.ndarray


def _in_box(frame: np.ndarray, box: Window) -> _Part:
    """Label of a box and its border."""
    window = _grown(box, MARGIN, frame.shape)
    inside = _inside(window, box)
    background, least = _background(_ring(frame, window))
    contrast = frame[window] - background
    peak = contrast[inside].max()
    if peak <= least or max(frame[box].shape) > LARGEST:  # no clear peak: only ignore these pixels
        return _Part(window, np.zeros(inside.shape, bool), np.ones(inside.shape, bool))
    share = contrast / peak
    is_open = (share > OPEN[0]) & (share <= OPEN[1]) | ~inside
    if not _touches_all_sides(share > OPEN[0]):  # the box was drawn around more than the pixels found
        is_open |= share <= OPEN[1]
    return _Part(window, share > np.where(inside, BOX_SHARE, MARGIN_SHARE), is_open)


def _around_point(frame: np.ndarray, x: int, y: int) -> _Part:
    """Label around a point: the component that contains the peak near it."""
    pixel = (slice(y, y + 1), slice(x, x + 1))
    window = _grown(pixel, REACH, frame.shape)
    background, least = _background(frame[window])
    contrast = frame[window] - background
    near = _inside(window, _grown(pixel, SEEK, frame.shape))
    place = np.unravel_index(np.where(near, contrast, -np.inf).argmax(), contrast.shape)
    if contrast[place] <= least:  # no clear peak: only ignore these pixels
        return _Part(window, np.zeros(near.shape, bool), near)
    share = contrast / contrast[place]
    may_be = ndimage.binary_dilation(_component(share > OPEN[0], place), EIGHT_CONNECTED)
    return _Part(window, _component(share > POINT_SHARE, place), may_be & (share <= OPEN[1]))


def _ring(frame: np.ndarray, box: Window) -> np.ndarray:
    """The pixels around a window, up to half of its longer side; its own pixels if it fills the frame."""
    height, width = frame[box].shape
    ring_and_box = _grown(box, max(4, -(-max(height, width) // 2)), frame.shape)
    ring = frame[ring_and_box][~_inside(ring_and_box, box)]
    return ring if ring.size else frame[box]


def _background(values: np.ndarray) -> tuple[float, float]:
    """
    The median, and the lowest contrast of a peak: `STANDS_OUT` robust standard deviations.

    The latter is 1.48 times the median absolute deviation, as for a normal distribution.
    """
    median = np.median(values)
    return float(median), float(STANDS_OUT * 1.48 * np.median(np.abs(values - median)))


def _touches_all_sides(found: np.ndarray) -> bool:
    """Whether pixels are found at each side of a box, within its border and `MARGIN` + 1 pixels inside."""
    band = 2 * MARGIN + 1
    return all(side.any() for side in (found[:band], found[-band:], found[:, :band], found[:, -band:]))


def _component(found: np.ndarray, place: tuple[Any, ...]) -> np.ndarray:
    """The connected component of `found` that contains `place`, as a mask."""
    labels, _ = ndimage.label(found, EIGHT_CONNECTED)
    return labels == labels[place]


def _shows(numbers: np.ndarray, number: int, box: Sequence[float]) -> bool:
    """Whether a box still touches all its sides after smaller boxes were drawn over it."""
    window = _pixels_of(box, numbers.shape)
    return bool(box[2] and box[3]) and all(
        (side == number).any()
        for side in (numbers[window][0], numbers[window][-1], numbers[window][:, 0], numbers[window][:, -1])
    )


def _pixels_of(box: Sequence[float], shape: tuple[int, ...]) -> Window:
    """The rows and columns that a box covers by at least half; at least one each."""
    x, y, width, height = box
    return _side(y, height, shape[0]), _side(x, width, shape[1])


def _side(start: float, length: float, most: int) -> slice:
    """Pixels along an axis of length `most` that are covered by at least half, at least one."""
    first = min(max(round(start), 0), most - 1)
    return slice(first, min(max(round(start + length), first + 1), most))


def _grown(window: Window, by: int, shape: tuple[int, ...]) -> Window:
    """The window, larger by `by` pixels on each side, within the frame."""
    rows, columns = (slice(max(w.start - by, 0), min(w.stop + by, most)) for w, most in zip(window, shape, strict=True))
    return rows, columns


def _inside(outer: Window, inner: Window) -> np.ndarray:
    """Which pixels of the outer window lie in the inner one."""
    rows, columns = (
        (np.arange(o.start, o.stop) >= i.start) & (np.arange(o.start, o.stop) < i.stop)
        for o, i in zip(outer, inner, strict=True)
    )
    return rows[:, None] & columns
