"""Augmentations for infrared frames `(H, W)` in sensor units, with their labels.

A label is a set of arrays of the frame's size: `target` in [0, 1], `weight` ≥ 0 (0 for pixels to ignore) and, for
boxes, the number of each pixel's box. Random functions take a `numpy.random.Generator`, so that their result is a pure
function of its seed. Zooming computes only the pixels of the crop.
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
    A frame with its label. All arrays are `(H, W)`.

    Args:
        frame: in sensor units.
        target: in [0, 1].
        weight: of each pixel in the loss.
        boxes: if the label is boxes or points: the number of the box that contains the pixel, see [`WeakLabel`].
    """

    frame: Array
    target: Array
    weight: Array
    boxes: Array | None = None

    def map(self, function) -> "Sample":  # type: ignore[no-untyped-def]
        """Apply a function to each array."""
        boxes = None if self.boxes is None else function(self.boxes)
        return Sample(
            frame=function(self.frame), target=function(self.target), weight=function(self.weight), boxes=boxes
        )

    def pixels(self) -> Array:
        """The pixels of targets and boxes, `(N, 2)`, as (y, x)."""
        is_target = self.target if self.target.dtype == bool else self.target > 0.5
        return np.argwhere(is_target if self.boxes is None else is_target | (self.boxes > 0))

    def numbered_boxes(self) -> Array:
        """`boxes`, or zeros (int32) if the label is a mask."""
        return np.zeros(self.target.shape, np.int32) if self.boxes is None else self.boxes


def dihedral(sample: Sample, k: int) -> Sample:
    """Apply one of the square's eight symmetries: `k % 4` quarter turns, then a flip if `k >= 4`. Returns views."""

    def turn(a: Array) -> Array:
        a = np.rot90(a, k % 4)
        return a[:, ::-1] if k >= 4 else a

    return sample.map(turn)


def dihedral_points(points: Array, shape: tuple[int, int], k: int) -> Array:
    """Coordinates of pixels `(N, 2)`, as (y, x) in an array of `shape`, after [`dihedral`]."""
    y, x = points.T
    height, width = shape
    for _ in range(k % 4):
        y, x, height, width = width - 1 - x, y, width, height
    return np.stack([y, width - 1 - x if k >= 4 else x], axis=1)


@dataclass(frozen=True)
class Zoom:
    """A random factor: with probability `share` between `low` and `high`, log-uniform, else 1."""

    low: float = 0.7
    high: float = 1.4
    share: float = 0.5

    def __call__(self, rng: np.random.Generator) -> float:
        if rng.random() < self.share:
            return float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))
        return 1.0


ZOOM = Zoom()
PASTE_SHARE = 0.5  # of the crops into which targets are pasted


def zoomed_shape(shape: Sequence[int], factor: float) -> tuple[int, int]:
    """The shape (height, width), times `factor` and rounded; at least 1 × 1."""
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
    A random crop of `size` × `size` pixels from a zoomed frame.

    Args:
        sample: arrays of any dtype.
        size: side of the crop.
        factor: of the zoom.
        rng: for the position.
        on_target: probability that the crop is chosen to contain a random pixel of a target or box.
        pixels: the sample's [`Sample.pixels`], if already computed.
        patches: targets to paste into the zoomed frame.
        full_weight: weight of pasted pixels, in the sample's units.

    Returns the crop, float32, see [`resampled_window`], and its box (x0, y0, x1, y1) in pixels of the frame. If the
    zoomed frame is smaller than the crop, the crop is filled at the bottom and right with the mirror image, which has
    weight 0.
    """
    pixels = sample.pixels() if pixels is None else pixels
    height, width = shape = zoomed_shape(sample.frame.shape, factor)
    y0, x0 = corner = _choose_corner(
        sample.frame.shape,
        zoomed=shape,
        size=size,
        rng=rng,
        on_target=on_target,
        pixels=pixels,
        patches=patches,
    )
    taps = window_taps(sample.frame.shape, zoomed=shape, corner=corner, size=size)
    window = Sample(
        frame=resampled_window(sample.frame, *taps),
        target=resampled_window(sample.target, *taps),
        weight=resampled_window(sample.weight, *taps),
        boxes=None if sample.boxes is None else nearest_window(sample.boxes, *taps),
    )
    for label in (window.target, window.weight, window.boxes):
        if label is not None:
            label[height:], label[:, width:] = 0, 0
    add_patches(
        frame=window.frame,
        target=window.target,
        weight=window.weight,
        patches=patches,
        corner=corner,
        full_weight=full_weight,
    )
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
    """A random corner (y0, x0) of the crop in the zoomed frame. Targets are chosen in proportion to their area."""
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
    """Linear interpolation along an axis: indices of both neighbours, and the weight of the higher one."""

    low: Array
    high: Array
    share: Array


def window_taps(shape: Sequence[int], zoomed: Sequence[int], corner: Sequence[int], size: int) -> tuple[Taps, Taps]:
    """
    Interpolation along rows and columns for a crop of `size` × `size` at `corner` (y0, x0) of arrays that are resampled
    from `shape` to `zoomed` (pixel centres as with `align_corners=False`), mirrored beyond the bottom and right edges.
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
    """
    The crop of [`window_taps`] from an array `(H, W)`, bilinearly interpolated, float32.

    Masks and weights are interpolated too.
    """
    top, left = rows.low.min(), columns.low.min()
    part = array[top : rows.high.max() + 1, left : columns.high.max() + 1].astype(np.float32)
    part = _between(part[rows.low - top], part[rows.high - top], rows.share[:, None])
    return _between(part[:, columns.low - left], part[:, columns.high - left], columns.share)


def nearest_window(numbers: Array, rows: Taps, columns: Taps) -> Array:
    """The crop of [`window_taps`] from numbers of boxes `(H, W)`, of which the nearest are taken."""
    return numbers[np.ix_(*(np.where(taps.share < 0.5, taps.low, taps.high) for taps in (rows, columns)))]


def _between(low: Array, high: Array, share: Array) -> Array:
    """Linear interpolation, skipped if all shares are 0."""
    return low + (high - low) * share if share.any() else low


def paste_targets(
    sample: Sample, cutouts: Sequence[Cutout], rng: np.random.Generator, count: int = 2, unit: float = 1.0
) -> Sample:
    """
    Paste targets of another frame at random places without a target, see [`cut_out`] and [`place_cutouts`].

    Nothing is pasted onto constant frames, in which targets have no contrast.

    Args:
        sample: the frame.
        cutouts: targets of the other frame.
        rng: for choice, place and contrast.
        count: most targets to paste.
        unit: factor for the targets' contrast: the ratio of this frame's standard deviation to the other's.
    """
    if not has_spread(float(sample.frame.min()), float(sample.frame.max())):
        return sample
    patches = place_cutouts(cutouts, sample.target, zoomed=sample.target.shape, rng=rng, count=count, unit=unit)
    result = sample.map(np.copy)
    add_patches(frame=result.frame, target=result.target, weight=result.weight, patches=patches)
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
    """A gamma curve that maps `low` and `high` to themselves; values below `low` become `low`."""

    low: float
    high: float
    gamma: float

    def __call__(self, frame: Array) -> Array:
        share = np.maximum((frame - np.float32(self.low)) / np.float32(self.high - self.low), 0)
        return np.float32(self.low) + np.float32(self.high - self.low) * share ** np.float32(self.gamma)


def response_curve(low: float, high: float, rng: np.random.Generator) -> Curve | None:
    """A random response curve of a camera, with probability 1/2; `None` otherwise, and for constant frames."""
    if rng.random() < 0.5 and high > low:
        return Curve(low, high, rng.uniform(0.7, 1.4))
    return None


def sensor_noise(frame: Array, rng: np.random.Generator, deviation: float) -> Array:
    """
    Random defocus blur, noise, and fixed-pattern noise of columns.

    Noise levels are relative to `deviation`, the frame's standard deviation.
    """
    if rng.random() < 0.2:
        frame = ndimage.gaussian_filter(frame, rng.uniform(0.3, 0.8))
    if rng.random() < 0.5:
        frame = frame + rng.normal(0, rng.uniform(0, 0.08) * deviation, frame.shape)
    if rng.random() < 0.2:
        frame = frame + rng.normal(0, rng.uniform(0, 0.05) * deviation, (1, frame.shape[1]))
    return frame.astype(np.float32)


def photometric(frame: Array, rng: np.random.Generator) -> Array:
    """
    [`response_curve`] and [`sensor_noise`]. Gain and offset are not varied, since the normalisation removes them.
    """
    spread = Spread.of(frame)
    curve = response_curve(spread.low, spread.high, rng)
    return sensor_noise(curve(frame) if curve else frame, rng, spread.deviation + 1e-6)
