"""Copy-paste augmentation: cuts targets out of one frame and adds them to another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .objects import EIGHT_CONNECTED

Array = np.ndarray


@dataclass(frozen=True)
class Cutout:
    """
    A target cut out of a frame. All arrays are `(h, w)`.

    Args:
        excess: the target's contrast to its surroundings.
        own: its pixels, bool.
        is_open: pixels to ignore, bool.
    """

    excess: Array
    own: Array
    is_open: Array


@dataclass(frozen=True)
class Patch:
    """A [`Cutout`] to add at a corner (y, x) of a frame."""

    corner: tuple[int, int]
    excess: Array
    own: Array
    is_open: Array

    def pixels(self) -> Array:
        """The target's pixels, `(N, 2)` as (y, x) in the frame."""
        return np.argwhere(self.own) + self.corner


def cut_out(frame: Array, target: Array, weight: Array, margin: int = 4) -> list[Cutout]:
    """
    Cut the targets out of a frame, as contrast to their surroundings.

    The contrast is the frame minus the median of the ring around the target, faded out over `margin` pixels, so that it
    includes the target's point spread. Pixels with weight 0 are to be ignored. Constant frames have no cut-outs.

    Args:
        frame, target, weight: arrays `(H, W)` of a [`Sample`].
        margin: width of the faded border in pixels.
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
        excess = (shown - level) * np.clip(1 - distance / margin, 0, 1)
        cutouts.append(Cutout(excess, own=own, is_open=weight[window] == 0))
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
    Place at most `count` random cut-outs, randomly rotated, where they don't overlap a target or each other.

    Args:
        cutouts: to choose from.
        target: `(H, W)`, the frame's own targets.
        zoomed: shape of the zoomed frame, to which the cut-outs will be added.
        rng: for choice, rotation, place and contrast.
        count: number of attempts.
        unit: factor for the contrast, besides a random one between 0.5 and 1.5.
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
        rows, columns = (_source_range(*axis) for axis in zip((y, x), own.shape, zoomed, target.shape, strict=True))
        before = np.zeros(own.shape, bool)
        for patch in patches:
            offset = patch.corner[0] - y, patch.corner[1] - x
            _apply_overlap(before, np.logical_or, part=patch.own, offset=offset)
        if not (target[rows, columns].any() or before.any()):
            excess = excess * (unit * rng.uniform(0.5, 1.5))
            patches.append(Patch(corner=(y, x), excess=excess, own=own, is_open=is_open))
    return patches


def add_patches(
    frame: Array,
    target: Array,
    weight: Array,
    patches: Sequence[Patch],
    corner: tuple[int, int] = (0, 0),
    full_weight: float = 1.0,
) -> None:
    """
    Add patches to the arrays of a crop, in place. Parts outside of the crop are cut off.

    Args:
        frame, target, weight: arrays `(h, w)` of the crop.
        patches: patches with corners in the frame.
        corner: the crop's corner (y, x) in the frame.
        full_weight: weight of the patches' target pixels.
    """
    for patch in patches:
        offset = patch.corner[0] - corner[0], patch.corner[1] - corner[1]
        _apply_overlap(frame, np.add, part=patch.excess, offset=offset)
        _apply_overlap(target, np.maximum, part=patch.own, offset=offset)
        _apply_overlap(weight, lambda old, is_open: np.where(is_open, 0, old), part=patch.is_open, offset=offset)
        _apply_overlap(weight, lambda old, own: np.where(own, full_weight, old), part=patch.own, offset=offset)


def with_patches(frame: Array, patches: Sequence[Patch], zoomed: Sequence[int]) -> Array:
    """A frame, float32, with patches that were placed in its zoomed version of shape `zoomed`, for its statistics."""
    result = frame.astype(np.float32)
    scale = np.array(frame.shape) / zoomed
    for patch in patches:
        shape = np.maximum(np.rint(scale * patch.excess.shape), 1).astype(int)
        rows, columns = (
            ((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(shape, patch.excess.shape, strict=True)
        )
        y, x = np.rint(scale * patch.corner).astype(int)
        resized = patch.excess[np.ix_(rows, columns)]
        _apply_overlap(result, np.add, part=resized, offset=(int(y), int(x)))
    return result


def has_spread(low: float, high: float) -> bool:
    """Whether a frame with this minimum and maximum is not constant (up to rounding)."""
    return high - low > 1e-6 * max(abs(low), abs(high))


def _source_range(start: int, length: int, zoomed: int, side: int) -> slice:
    """The range of a frame's pixels from which `start` to `start + length` of its zoomed version are computed."""
    low, high = ((place + 0.5) * (side / zoomed) - 0.5 for place in (start, start + length - 1))
    return slice(max(int(np.floor(low)), 0), int(np.ceil(high)) + 1)


def _apply_overlap(array: Array, function, part: Array, offset: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    """`array = function(array, part)` where `part`, placed at `offset` (may be negative), overlaps the array."""
    starts = [max(0, start) for start in offset]
    stops = [max(0, min(n, start + m)) for n, start, m in zip(array.shape, offset, part.shape, strict=True)]
    place = tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))
    shown = tuple(slice(max(0, a - o), max(0, b - o)) for a, b, o in zip(starts, stops, offset, strict=True))
    array[place] = function(array[place], part[shown])
