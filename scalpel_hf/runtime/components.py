"""From a probability map to boxes, in NumPy: 8-connected components, and rounding of boxes to pixels."""

from typing import NamedTuple

import numpy as np


class Detections(NamedTuple):
    """
    The detections in a frame.

    Args:
        boxes: `(N, 4)` float32, (x0, y0, x1, y1) in pixels: a single pixel in row 3, column 5 is (5, 3, 6, 4).
        scores: `(N,)` float32; of a segmentation student, the mean probability in the component.
        mask: `(H, W)` bool, where the probability exceeds the threshold; `None` for detection students.
    """

    boxes: np.ndarray
    scores: np.ndarray
    mask: np.ndarray | None


def find_detections(probability: np.ndarray, threshold: float) -> Detections:
    """
    The 8-connected components of `probability > threshold` as boxes with scores.

    Args:
        probability: `(H, W)`.

    Components are in the order of their first pixel, row by row.

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

    `InfraredImageProcessor.post_process_object_detection` does the same.
    """
    sides = np.array([width, height], np.float32)
    low, high = np.rint(boxes[:, :2]), np.rint(boxes[:, 2:])
    centres = np.floor(boxes[:, :2] / 2 + boxes[:, 2:] / 2)
    low = np.where(high <= low, centres, low)  # both edges nearest to one: the pixel that the centre lies in
    low = np.minimum(np.maximum(low, 0), sides - 1)
    high = np.minimum(np.maximum(high, low + 1), sides)
    return np.concatenate([low, high], 1).astype(np.float32)


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, first column and column past the last of every run of true pixels, row by row."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).view(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    return rows, starts, np.nonzero(edges == -1)[1]


def _label_runs(rows: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """
    Component of every run, numbered from 0 in the order of their first runs.

    Two runs touch where they lie in neighbouring rows and overlap once each is widened by one pixel on one side. Every
    run then takes the smallest number among those that touch it, and follows that run's own, until nothing changes.
    """
    stride = int(stops.max(initial=0)) + 2
    keys = rows * stride
    # For each run, the range of runs in the next row that it touches: those are neighbours in the list.
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
