"""Targets of one frame that are pasted into another: cut out, placed, added."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .objects import EIGHT_CONNECTED

Array = np.ndarray


@dataclass(frozen=True)
class Cutout:
    """How far a target and its point spread rise above what surrounds them (h, w), which pixels are target, and which
    are open."""

    excess: Array
    own: Array
    is_open: Array


@dataclass(frozen=True)
class Patch:
    """A [`Cutout`] at a place: its corner (y, x) in the frame, and what is added there."""

    corner: tuple[int, int]
    excess: Array
    own: Array
    is_open: Array

    def pixels(self) -> Array:
        """Of the target, (N, 2) as (y, x) in the frame."""
        return np.argwhere(self.own) + self.corner


def cut_out(frame: Array, target: Array, weight: Array, margin: int = 4) -> list[Cutout]:
    """
    The targets of a frame: each one's contrast above its own surroundings, point spread included, not its pixels.

    It is the excess over the median of the ring around it, faded out over `margin` pixels. What has no weight around it
    is open. Of a constant frame there is none: a target has no contrast there.
    """
    labels, count = ndimage.label(target > 0.5, structure=EIGHT_CONNECTED)
    if count == 0 or not has_spread(float(frame.min()), float(frame.max())):
        return []
    cutouts = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        window = (
            slice(max(rows.start - margin, 0), min(rows.stop + margin, labels.shape[0])),
            slice(max(columns.start - margin, 0), min(columns.stop + margin, labels.shape[1])),
        )
        own, shown = labels[window] == number, frame[window].astype(np.float32)
        distance = ndimage.distance_transform_edt(~own)
        ring = distance > margin - 1.5
        level = np.median(shown[ring] if ring.any() else shown)
        cutouts.append(Cutout((shown - level) * np.clip(1 - distance / margin, 0, 1), own, weight[window] == 0))
    return cutouts


def place_cutouts(
    cutouts: Sequence[Cutout],
    target: Array,
    zoomed: tuple[int, ...],
    rng: np.random.Generator,
    count: int,
    unit: float,
) -> list[Patch]:
    """
    At most `count` random cut-outs, turned, at free random places of a frame, with between half and one and a half of
    their contrast times `unit`.

    `target` `(H, W)` is the frame's own, `zoomed` the shape that the frame is resampled to before they are added. A
    place is free without a target: pasted over one, both would be mislabelled.
    """
    patches: list[Patch] = []
    for index in rng.integers(len(cutouts), size=count) if cutouts else ():
        turn = int(rng.integers(4))
        chosen = cutouts[index]
        excess, own, is_open = (np.rot90(a, turn) for a in (chosen.excess, chosen.own, chosen.is_open))
        room = np.array(zoomed) - own.shape
        if (room < 0).any():
            continue
        y, x = (int(c) for c in rng.integers(room + 1))
        rows, columns = (_seen(*axis) for axis in zip((y, x), own.shape, zoomed, target.shape, strict=True))
        before = np.zeros(own.shape, bool)
        for patch in patches:
            _add(before, np.logical_or, patch.own, (patch.corner[0] - y, patch.corner[1] - x))
        if not (target[rows, columns].any() or before.any()):
            patches.append(Patch((y, x), excess * (unit * rng.uniform(0.5, 1.5)), own, is_open))
    return patches


def add_patches(
    frame: Array,
    target: Array,
    weight: Array,
    patches: Sequence[Patch],
    corner: tuple[int, int] = (0, 0),
    full_weight: float = 1.0,
) -> None:
    """Add patches, or what lies of them in the window at `corner`, to its arrays, in place."""
    for patch in patches:
        offset = patch.corner[0] - corner[0], patch.corner[1] - corner[1]
        _add(frame, np.add, patch.excess, offset)
        _add(target, np.maximum, patch.own, offset)
        _add(weight, lambda old, is_open: np.where(is_open, 0, old), patch.is_open, offset)
        _add(weight, lambda old, own: np.where(own, full_weight, old), patch.own, offset)


def with_patches(frame: Array, patches: Sequence[Patch], zoomed: Sequence[int]) -> Array:
    """A frame, float32, with the patches of its self of the shape `zoomed`: what its statistics are of."""
    result = frame.astype(np.float32)
    scale = np.array(frame.shape) / zoomed
    for patch in patches:
        shape = np.maximum(np.rint(scale * patch.excess.shape), 1).astype(int)
        rows, columns = (
            ((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(shape, patch.excess.shape, strict=True)
        )
        y, x = np.rint(scale * patch.corner).astype(int)
        _add(result, np.add, patch.excess[np.ix_(rows, columns)], (int(y), int(x)))
    return result


def has_spread(low: float, high: float) -> bool:
    """Whether a frame's values, between these two, differ by more than resampling rounds them by."""
    return high - low > 1e-6 * max(abs(low), abs(high))


def _seen(start: int, length: int, zoomed: int, side: int) -> slice:
    """The pixels of a frame that places `start` to `start + length` of its zoomed self are resampled from."""
    low, high = ((place + 0.5) * (side / zoomed) - 0.5 for place in (start, start + length - 1))
    return slice(max(int(np.floor(low)), 0), int(np.ceil(high)) + 1)


def _add(array: Array, function, part: Array, offset: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    """`array = function(array, part)` where a part at an offset, perhaps a negative one, overlaps it."""
    starts = [max(0, start) for start in offset]
    stops = [max(0, min(n, start + m)) for n, start, m in zip(array.shape, offset, part.shape, strict=True)]
    place = tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))
    shown = tuple(slice(max(0, a - o), max(0, b - o)) for a, b, o in zip(starts, stops, offset, strict=True))
    array[place] = function(array[place], part[shown])
