"""Augmentations that fit infrared physics, on frames `(H, W)` float32 in sensor units with their masks.

A label travels as arrays beside the frame: `target` in [0, 1], `weight` ≥ 0 (0 = ignore) and, where people drew boxes,
the number of each pixel's box. Every function takes a
`numpy.random.Generator`, so that a view of a frame is a pure function of its seed.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

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

    def numbered_boxes(self) -> Array:
        """The boxes' numbers, int32; all 0 where the label is a mask."""
        return np.zeros(self.target.shape, np.int32) if self.boxes is None else self.boxes


def dihedral(sample: Sample, k: int) -> Sample:
    """One of the square's eight symmetries: `k % 4` quarter turns, then a flip when `k >= 4`."""

    def turn(a: Array) -> Array:
        a = np.rot90(a, k % 4)
        return np.ascontiguousarray(a[:, ::-1] if k >= 4 else a)

    return sample.map(turn)


def zoom(sample: Sample, factor: float) -> Sample:
    """Resample by `factor`: bilinear for the frame, and for target and weight, which keeps partial pixels partial;
    the nearest number of boxes."""

    def resample(a: Array) -> Array:
        if a.dtype == np.int32:
            return ndimage.zoom(a, factor, order=0, mode="nearest", grid_mode=True)
        return ndimage.zoom(a, factor, order=1, mode="nearest", grid_mode=True).astype(np.float32)

    return sample.map(resample)


def crop(sample: Sample, size: int, rng: np.random.Generator, on_target: float = 0.7) -> tuple[Sample, tuple[int, int]]:
    """
    A random `size` × `size` window, with probability `on_target` one that contains a random pixel of a target or box.

    Frames smaller than the window are padded by reflection at the bottom and right, with weight 0 there. Returns the
    window and its corner (x0, y0).
    """
    height, width = sample.frame.shape
    pad = ((0, max(0, size - height)), (0, max(0, size - width)))
    if pad[0][1] or pad[1][1]:
        sample = Sample(
            np.pad(sample.frame, pad, mode="symmetric"),
            np.pad(sample.target, pad),
            np.pad(sample.weight, pad),
            None if sample.boxes is None else np.pad(sample.boxes, pad),
        )
    room_y, room_x = sample.frame.shape[0] - size, sample.frame.shape[1] - size
    y0, x0 = int(rng.integers(room_y + 1)), int(rng.integers(room_x + 1))
    pixels = np.argwhere((sample.target > 0.5) | (sample.numbered_boxes() > 0))
    if len(pixels) and rng.random() < on_target:
        y, x = pixels[rng.integers(len(pixels))]
        y0 = int(np.clip(y - rng.integers(size), 0, room_y))
        x0 = int(np.clip(x - rng.integers(size), 0, room_x))
    return sample.map(lambda a: np.ascontiguousarray(a[y0 : y0 + size, x0 : x0 + size])), (x0, y0)


def zoomed_crop(
    sample: Sample, size: int, factor: float, rng: np.random.Generator
) -> tuple[Sample, tuple[int, int], int]:
    """
    A random window of a frame, see [`crop`], resampled by `factor` to `size` × `size`.

    Returns it, the window's corner (x0, y0) and its side, both in the frame's pixels.
    """
    side = max(1, round(size / factor))
    window, corner = crop(sample, side, rng)
    return (window if side == size else zoom(window, size / side)), corner, side


def paste_targets(
    sample: Sample,
    donor: Sample,
    rng: np.random.Generator,
    count: int = 2,
    margin: int = 4,
    unit: float | None = None,
) -> Sample:
    """
    Add targets of another frame: its contrast above its own surroundings, point spread included, not its pixels.

    For each drawn component the excess over the median of the ring around it is faded out over `margin` pixels and
    added at a free random place, scaled to between half and one and a half of its contrast in units of the frames'
    standard deviations; of a crop, `unit` is the ratio of its whole frame's to the donor's. What the donor leaves open
    around it stays open. Onto a frame that is constant, or from one, nothing is pasted: a target has no contrast there,
    and would be a label of nothing.
    """
    if not (_has_spread(sample.frame) and _has_spread(donor.frame)):
        return sample
    labels, n = ndimage.label(donor.target > 0.5, structure=np.ones((3, 3)))
    if n == 0:
        return sample
    frame, target, weight = sample.frame.copy(), sample.target.copy(), sample.weight.copy()
    unit = sample.frame.std() / donor.frame.std() if unit is None else unit
    boxes = ndimage.find_objects(labels)
    for index in rng.integers(n, size=count):
        rows, cols = boxes[index]
        window = (
            slice(max(rows.start - margin, 0), min(rows.stop + margin, labels.shape[0])),
            slice(max(cols.start - margin, 0), min(cols.stop + margin, labels.shape[1])),
        )
        own = labels[window] == index + 1
        distance = ndimage.distance_transform_edt(~own)
        ring = distance > margin - 1.5
        excess = (donor.frame[window] - np.median(donor.frame[window][ring] if ring.any() else donor.frame[window])) * (
            np.clip(1 - distance / margin, 0, 1)
        )
        turn = int(rng.integers(4))
        own, excess = np.rot90(own, turn), np.rot90(excess, turn)
        height, width = own.shape
        if height > frame.shape[0] or width > frame.shape[1]:
            continue
        y, x = rng.integers(frame.shape[0] - height + 1), rng.integers(frame.shape[1] - width + 1)
        place = (slice(y, y + height), slice(x, x + width))
        if (target[place] > 0).any():  # pasted over a target, both would be mislabelled
            continue
        frame[place] += excess * unit * rng.uniform(0.5, 1.5)
        target[place] = np.maximum(target[place], own)
        unsure = np.rot90(donor.weight[window] == 0, turn)
        weight[place] = np.where(own, 1.0, np.where(unsure, 0.0, weight[place]))
    return Sample(frame, target, weight, sample.boxes)


def _has_spread(frame: Array) -> bool:
    """Whether a frame's values differ by more than resampling rounds them by."""
    return float(np.ptp(frame)) > 1e-6 * float(np.abs(frame).max())


def photometric(frame: Array, rng: np.random.Generator, strength: float = 1.0) -> Array:
    """
    What a camera does to a scene, each with its own chance: a gamma of the response curve, blur by defocus, sensor
    noise, column fixed-pattern noise. Gain and offset are left to the normalisation, which removes them.

    `strength` multiplies every chance, the logarithm of the gamma, the width of the blur and the spread of the noises.
    """
    spread = float(frame.std()) + 1e-6
    low, high = float(frame.min()), float(frame.max())
    if rng.random() < 0.5 * strength and high > low:
        frame = low + (high - low) * ((frame - low) / (high - low)) ** (rng.uniform(0.7, 1.4) ** strength)
    if rng.random() < 0.2 * strength:
        frame = ndimage.gaussian_filter(frame, rng.uniform(0.3, 0.8) * strength)
    if rng.random() < 0.5 * strength:
        frame = frame + rng.normal(0, rng.uniform(0, 0.08) * strength * spread, frame.shape)
    if rng.random() < 0.2 * strength:
        frame = frame + rng.normal(0, rng.uniform(0, 0.05) * strength * spread, (1, frame.shape[1]))
    return frame.astype(np.float32)
