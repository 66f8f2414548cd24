"""Augmentations that fit infrared physics, on frames `(H, W)` in sensor units with their masks.

A label travels as arrays beside the frame: `target` in [0, 1], `weight` ≥ 0 (0 = ignore) and, where people drew boxes,
the number of each pixel's box. Every function takes a `numpy.random.Generator`, so that a view of a frame is a pure
function of its seed. Of a zoomed frame, nothing but the window that is shown is computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from .pasting import Cutout, Patch, add_patches, has_spread, place_cutouts

Array = np.ndarray


@dataclass
class Sample:
    """
    A frame `(H, W)` in sensor units, its target map in [0, 1] and the weight of each pixel in the loss; and where its
    label is of boxes or points the number of the box that a pixel lies in, see [`WeakLabel`].
    """

    frame: Array
    target: Array
    weight: Array
    boxes: Array | None = None

    def map(self, function) -> "Sample":  # type: ignore[no-untyped-def]
        boxes = None if self.boxes is None else function(self.boxes)
        return Sample(function(self.frame), function(self.target), function(self.weight), boxes)

    def pixels(self) -> Array:
        """Those of targets and boxes, (N, 2), as (y, x)."""
        is_target = self.target if self.target.dtype == bool else self.target > 0.5
        return np.argwhere(is_target if self.boxes is None else is_target | (self.boxes > 0))

    def numbered_boxes(self) -> Array:
        """The boxes' numbers, int32; all 0 where the label is a mask."""
        return np.zeros(self.target.shape, np.int32) if self.boxes is None else self.boxes


def dihedral(sample: Sample, k: int) -> Sample:
    """One of the square's eight symmetries, as views: `k % 4` quarter turns, then a flip when `k >= 4`."""

    def turn(a: Array) -> Array:
        a = np.rot90(a, k % 4)
        return a[:, ::-1] if k >= 4 else a

    return sample.map(turn)


def dihedral_points(points: Array, shape: tuple[int, int], k: int) -> Array:
    """Where pixels (N, 2), as (y, x) in an array of `shape`, are after [`dihedral`]."""
    y, x = points.T
    height, width = shape
    for _ in range(k % 4):
        y, x, height, width = width - 1 - x, y, width, height
    return np.stack([y, width - 1 - x if k >= 4 else x], axis=1)


def zoomed_shape(shape: Sequence[int], factor: float) -> tuple[int, int]:
    height, width = (max(1, round(side * factor)) for side in shape)
    return height, width


def zoomed_crop(
    sample: Sample,
    size: int,
    factor: float,
    rng: np.random.Generator,
    on_target: float = 0.7,
    pixels: Array | None = None,
    patches: Sequence[Patch] = (),
    full_weight: float = 1.0,
) -> tuple[Sample, Array]:
    """
    A random `size` × `size` window of a frame that is zoomed by `factor`, with probability `on_target` one that
    contains a random pixel of a target or box.

    Args:
        sample: arrays of any type.
        pixels: the sample's [`Sample.pixels`], if known.
        patches: targets that are pasted into the zoomed frame; those in the window are.
        full_weight: what their pixels weigh, in the sample's units.

    Returns the window, float32, see [`resampled_window`], and its box (x0, y0, x1, y1) in the frame's own pixels. Where
    the zoomed frame is smaller than the window, its mirror image is at the bottom and right, with weight 0.
    """
    pixels = sample.pixels() if pixels is None else pixels
    height, width = shape = zoomed_shape(sample.frame.shape, factor)
    y0, x0 = corner = _choose_corner(sample.frame.shape, shape, size, rng, on_target, pixels, patches)
    taps = window_taps(sample.frame.shape, shape, corner, size)
    window = sample.map(lambda a: resampled_window(a, *taps))
    for label in (window.target, window.weight, window.boxes):
        if label is not None:
            label[height:], label[:, width:] = 0, 0
    add_patches(window.frame, window.target, window.weight, patches, corner, full_weight)
    scale = np.array(sample.frame.shape[::-1]) / (width, height)
    return window, np.array([x0, y0, x0 + size, y0 + size]) * np.tile(scale, 2)


def _choose_corner(
    shape: Sequence[int],
    zoomed: tuple[int, int],
    size: int,
    rng: np.random.Generator,
    on_target: float,
    pixels: Array,
    patches: Sequence[Patch],
) -> tuple[int, int]:
    """Corner (y0, x0) of a window in the zoomed frame. A target counts by its area there."""
    room = np.maximum(np.array(zoomed) - size, 0)
    corner = rng.integers(room + 1)
    scale = np.array(zoomed) / shape
    pasted = np.concatenate([np.empty((0, 2), int), *(patch.pixels() for patch in patches)])
    area = len(pixels) * scale.prod()
    if area + len(pasted) and rng.random() < on_target:
        if rng.random() * (area + len(pasted)) < area:
            pixel = np.floor((pixels[rng.integers(len(pixels))] + 0.5) * scale).astype(int)
        else:
            pixel = pasted[rng.integers(len(pasted))]
        corner = np.clip(pixel - rng.integers(size, size=2), 0, room)
    return int(corner[0]), int(corner[1])


class Taps(NamedTuple):
    """Between which two of an array's rows, or columns, each of a window's lies, and what the higher one's share is."""

    low: Array
    high: Array
    share: Array


def window_taps(shape: Sequence[int], zoomed: Sequence[int], corner: Sequence[int], size: int) -> tuple[Taps, Taps]:
    """
    Of the rows and of the columns of the `size` × `size` window at `corner` (y0, x0) of arrays of `shape` that are
    resampled to `zoomed`: pixels as areas, edges repeated, mirrored beyond `zoomed` at the bottom and right.
    """

    def taps(side: int, zoomed: int, start: int) -> Taps:
        place = np.arange(start, start + size) % (2 * zoomed)
        place = np.minimum(place, 2 * zoomed - 1 - place)
        position = np.minimum(np.maximum((place + 0.5) * (side / zoomed) - 0.5, 0), side - 1)
        low = position.astype(int)
        return Taps(low, np.minimum(low + 1, side - 1), (position - low).astype(np.float32))

    rows, columns = map(taps, shape, zoomed, corner)
    return rows, columns


def resampled_window(array: Array, rows: Taps, columns: Taps) -> Array:
    """The bilinear resampling of an array `(H, W)` in the window of [`window_taps`], float32. Target and weight are
    resampled so too, which keeps partial pixels partial; boxes have the nearest number, int32."""
    if array.dtype == np.int32:
        return array[np.ix_(*(np.where(taps.share < 0.5, taps.low, taps.high) for taps in (rows, columns)))]
    top, left = rows.low.min(), columns.low.min()
    part = array[top : rows.high.max() + 1, left : columns.high.max() + 1].astype(np.float32)
    part = _between(part[rows.low - top], part[rows.high - top], rows.share[:, None])
    return _between(part[:, columns.low - left], part[:, columns.high - left], columns.share)


def _between(low: Array, high: Array, share: Array) -> Array:
    return low + (high - low) * share if share.any() else low


def paste_targets(
    sample: Sample, cutouts: Sequence[Cutout], rng: np.random.Generator, count: int = 2, unit: float = 1.0
) -> Sample:
    """
    Add some of another frame's targets at free random places, see [`cut_out`] and [`place_cutouts`].

    `unit` is what the cut-outs' contrast is multiplied by: the ratio of this frame's standard deviation to theirs.
    Onto a frame that is constant nothing is pasted: a target has no contrast there, and would be a label of nothing.
    """
    if not has_spread(float(sample.frame.min()), float(sample.frame.max())):
        return sample
    patches = place_cutouts(cutouts, sample.target, sample.target.shape, rng, count, unit)
    result = sample.map(np.copy)
    add_patches(result.frame, result.target, result.weight, patches)
    return result


@dataclass(frozen=True)
class Spread:
    """A frame's lowest and highest value, and its standard deviation."""

    low: float
    high: float
    deviation: float

    @classmethod
    def of(cls, frame: Array) -> "Spread":
        return cls(float(frame.min()), float(frame.max()), float(frame.std(dtype=np.float64)))


@dataclass(frozen=True)
class Curve:
    """A response curve that leaves `low` and `high` where they are: a gamma between them. Nothing is below `low`."""

    low: float
    high: float
    gamma: float

    def __call__(self, frame: Array) -> Array:
        share = np.maximum((frame - np.float32(self.low)) / np.float32(self.high - self.low), 0)
        return np.float32(self.low) + np.float32(self.high - self.low) * share ** np.float32(self.gamma)


def response_curve(low: float, high: float, rng: np.random.Generator) -> Curve | None:
    """A camera's, with a chance of one half; none for a constant frame."""
    if rng.random() < 0.5 and high > low:
        return Curve(low, high, rng.uniform(0.7, 1.4))
    return None


def sensor_noise(frame: Array, rng: np.random.Generator, deviation: float) -> Array:
    """Blur by defocus, noise, and column fixed-pattern noise, each with its own chance. `deviation` is what the noises'
    spread is in units of."""
    if rng.random() < 0.2:
        frame = ndimage.gaussian_filter(frame, rng.uniform(0.3, 0.8))
    if rng.random() < 0.5:
        frame = frame + rng.normal(0, rng.uniform(0, 0.08) * deviation, frame.shape)
    if rng.random() < 0.2:
        frame = frame + rng.normal(0, rng.uniform(0, 0.05) * deviation, (1, frame.shape[1]))
    return frame.astype(np.float32)


def photometric(frame: Array, rng: np.random.Generator) -> Array:
    """
    What a camera does to a scene: [`response_curve`] and [`sensor_noise`]. Gain and offset are left to the
    normalisation, which removes them.
    """
    spread = Spread.of(frame)
    curve = response_curve(spread.low, spread.high, rng)
    return sensor_noise(curve(frame) if curve else frame, rng, spread.deviation + 1e-6)
