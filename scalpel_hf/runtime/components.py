"""Computes boxes from a probability map in NumPy: 8-connected components, and rounding of boxes to whole pixels."""

from typing import NamedTuple

import numpy as np


class Detections(NamedTuple):
    """
    The detections in a frame.

    Args:
        boxes: `(N, 4)` float32, (x0, y0, x1, y1) in pixels: a single pixel in row 3, column 5 is (5, 3, 6, 4).
        scores: `(N,)` float32; for segmentation students, the mean probability in the component.
        mask: `(H, W)` bool, true where the probability exceeds the threshold; `None` for detection students.
    """

    boxes: np.ndarray
    scores: np.ndarray
    mask: np.ndarray | None


def find_detections(probability: np.ndarray, threshold: float) -> Detections:
    """
    The 8-connected components of `probability > threshold` as boxes with scores.

    Args:
        probability: of a target, `(H, W)`.
        threshold: of the probability.

    Returns the components in the order of their first pixel, row by row.

    Examples:
        >>> find_detections(np.array([[0, 0.9], [0, 0.7]], dtype=np.float32), 0.5).boxes
        array([[1., 0., 2., 2.]], dtype=float32)
    """
    mask = probability > threshold
    rows, starts, stops = _runs(mask)
    labels = _label_runs(rows, starts, stops)
    count = labels.max(initial=-1) + 1
    boxes = np.empty((count, 4), np.float32)
    boxes[:, :2] = np.inf
    boxes[:, 2:] = -np.inf
    for column, values in enumerate((starts, rows, stops, rows + 1)):
        (np.minimum if column < 2 else np.maximum).at(boxes[:, column], labels, values.astype(np.float32))
    sums = np.concatenate([[0.0], np.cumsum(probability[mask], dtype=np.float64)])  # over the mask's pixels in order
    ends = np.cumsum(stops - starts)
    totals = np.bincount(labels, sums[ends] - sums[ends - (stops - starts)], count)
    areas = np.bincount(labels, stops - starts, count)
    return Detections(boxes, (totals / areas).astype(np.float32), mask)


def snap_boxes(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """
    Round boxes `(N, 4)`, (x0, y0, x1, y1), to whole pixels inside the frame, at least one pixel wide and high.

    Returns `(N, 4)` float32, as `InfraredImageProcessor.post_process_object_detection` does.

    Examples:
        >>> snap_boxes(np.array([[2.4, 0.2, 2.6, 1.7]]), height=10, width=20)
        array([[2., 0., 3., 2.]], dtype=float32)
    """
    sides = np.array([width, height], np.float32)
    low, high = np.rint(boxes[:, :2]), np.rint(boxes[:, 2:])
    centres = np.floor(boxes[:, :2] / 2 + boxes[:, 2:] / 2)
    low = np.where(high <= low, centres, low)  # where a box rounds to no pixel, it becomes the one of its centre
    low = np.minimum(np.maximum(low, 0), sides - 1)
    high = np.minimum(np.maximum(high, low + 1), sides)
    return np.concatenate([low, high], 1).astype(np.float32)


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The runs of true pixels in each row, in order: their row, their first column, and the column after their last."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).view(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    return rows, starts, np.nonzero(edges == -1)[1]


def _label_runs(rows: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """
    The number of each run's component, from 0 in the order of the components' first runs.

    Two runs touch if they are in neighbouring rows and overlap, or meet at a corner. Each run takes the smallest number
    of the runs that it touches, and then the number that the run of this number has, until nothing changes.
    """
    stride = int(stops.max(initial=0)) + 2
    keys = rows * stride
    # The runs in the next row that a run touches are neighbours in the list: from `first` up to `last`.
    first = np.searchsorted(keys + stops, keys + stride + starts, side="left")
    last = np.searchsorted(keys + starts, keys + stride + stops, side="right")
    touching = np.maximum(last - first, 0)
    above = np.repeat(np.arange(len(rows)), touching)
    below = np.arange(touching.sum()) - np.repeat(np.cumsum(touching) - touching, touching) + np.repeat(first, touching)
    labels = np.arange(len(rows))
    while True:
        lowest = np.minimum(labels[above], labels[below])
        if (labels[above] == labels[below]).all():
            return np.unique(labels, return_inverse=True)[1].reshape(-1)
        np.minimum.at(labels, labels[above], lowest)
        np.minimum.at(labels, labels[below], lowest)
        labels = labels[labels]
