"""Against boxes and points that people drew: how many targets are found, how many false alarms there are a frame."""

from collections.abc import Callable, Iterable
from typing import Any

import datasets
import numpy as np
from tqdm.auto import tqdm

from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.data.label_sources import BOX, BY_PEOPLE, POINT
from scalpel_hf.data.splits import recordings_of
from scalpel_hf.runtime.components import find_detections

COUNTS = ("n_targets", "n_detected", "n_false", "n_images")
RADIUS = 3.0  # pixels around a point, the distance within which targets of masks are matched

Detect = Callable[[Any], tuple[np.ndarray, np.ndarray]]  # from a frame to scores (N,) and boxes (N, 4) as corners
Frame = tuple[np.ndarray, np.ndarray, np.ndarray]  # scores, boxes, and the boxes that are there


def judged_by_boxes(rows: Any) -> bool:
    """Whether frames are measured by boxes, since people drew boxes or points, and no mask, in some of them."""
    if not isinstance(rows, datasets.Dataset) or "label_source" not in rows.column_names:
        return False
    return not {BOX, POINT}.isdisjoint(rows["label_source"][:])


def as_detector(probabilities: Callable[[Any], np.ndarray], threshold: float = 0.5) -> Detect:
    """What a model for segmentation finds: the components of what exceeds the threshold, and their mean probability."""

    def detect(frame: Any) -> tuple[np.ndarray, np.ndarray]:
        found = find_detections(probabilities(frame), threshold)
        return found.scores, found.boxes

    return detect


def detector_of(model: Any, threshold: float = 0.5) -> Detect:
    """What a model detects, whichever kind it is: of a detector, torch's or an exported one's, boxes of any score; of
    one for segmentation see [`as_detector`]."""
    if hasattr(model, "probabilities"):
        return as_detector(model.probabilities, threshold)

    def detect(frame: Any) -> tuple[np.ndarray, np.ndarray]:
        found = model.detect(frame, threshold=0.0)
        return (found.scores, found.boxes) if hasattr(found, "scores") else found

    return detect


def as_corners(boxes: Any) -> np.ndarray:
    """Boxes `[x, y, width, height]`, any number of them, as `(M, 4)`, (x0, y0, x1, y1)."""
    corners = np.array(boxes, dtype=float).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return corners


def truth_of(row: dict[str, Any]) -> np.ndarray:
    """`(M, 4)`, (x0, y0, x1, y1) in pixels: the boxes of a row, with its points grown by `RADIUS`.

    Raises `ValueError` where no person labelled the row.
    """
    if row["label_source"] not in BY_PEOPLE:
        raise ValueError(f"{row['name']} has no label to measure against: name a split that people labelled")
    corners = as_corners(row["objects"]["bbox"])
    points = (corners[:, 2:] == corners[:, :2]).all(1)
    return corners + np.where(points[:, None], RADIUS * np.array([-1.0, -1.0, 1.0, 1.0]), 0.0)


def count_found(boxes: np.ndarray, truth: np.ndarray) -> tuple[int, int, int, int]:
    """
    `COUNTS` of one frame. A target is found where the centre of a detection lies in its box, the edges included; a
    detection whose centre lies in none is a false alarm.

    Overlap isn't required: people draw boxes with a margin, and a target of few pixels fills a small part of it.

    Args:
        boxes: (N, 4), what was detected. truth: (M, 4), the targets. Both (x0, y0, x1, y1) in pixels.

    Example:
        >>> count_found(np.array([[4, 2, 6, 4], [20, 20, 22, 22]]), np.array([[2, 0, 9, 8]]))
        (1, 1, 1, 1)
    """
    inside = centres_inside(boxes, truth)
    return inside.shape[1], int(inside.any(0).sum()), int((~inside.any(1)).sum()), 1


def centres_inside(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """`(N, M)`, bool: whether the centre of each of N boxes lies in each of M, both as [`count_found`] has them."""
    x, y = (boxes.reshape(-1, 4)[:, :2] / 2 + boxes.reshape(-1, 4)[:, 2:] / 2).T[..., None]
    x0, y0, x1, y1 = truth.reshape(-1, 4).T
    return (x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)


def detect_all(detect: Detect, rows: Iterable[dict[str, Any]]) -> list[Frame]:
    """What a model detects in each row, and what is there."""
    files = undecoded(rows) if isinstance(rows, datasets.Dataset) else rows
    return [(*detect(row["image"]), truth_of(row)) for row in tqdm(files, "evaluation", leave=False, unit="frame")]


def count_boxes(frames: Iterable[Frame], threshold: float = 0.5) -> np.ndarray:
    """`(frames, 4)`: [`count_found`] of each frame, by the detections whose score exceeds the threshold."""
    counts = [count_found(boxes[scores > threshold], truth) for scores, boxes, truth in frames]
    return np.array(counts, dtype=np.int64).reshape(-1, len(COUNTS))


def by_recording(counts: np.ndarray, rows: datasets.Dataset) -> np.ndarray:
    """
    `(recordings, 4)`: the counts of each recording, a frame that is of none being one by itself.

    Frames of one recording are near each other: what other frames would give is told by drawing recordings.
    """
    recordings, of_frame = np.unique(recordings_of(rows), return_inverse=True)
    sums = np.zeros((len(recordings), len(COUNTS)), dtype=np.int64)
    np.add.at(sums, of_frame, counts)
    return sums


def metrics_of_box_counts(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """
    `(seeds, draws, 3)`: F1 and Pd, the share of targets found, in [0, 1], and false alarms a frame.

    F1 is 2 · found / (2 · found + false alarms + missed).

    Args:
        counts: `(seeds, units, 4)`, frames or recordings. weights: `(draws, units)`, how often each counts.
    """
    targets, found, false, frames = np.moveaxis((weights @ counts).astype(float), -1, 0)
    f1 = 2 * found / np.maximum(found + false + targets, 1)
    return np.stack([f1, found / np.maximum(targets, 1), false / np.maximum(frames, 1)], -1)


def metrics_by_boxes(counts: np.ndarray, threshold: float) -> dict[str, Any]:
    """F1, Pd and false alarms a frame of `(frames, 4)` counts, with the sums they come from and the threshold."""
    f1, pd, false_alarms = metrics_of_box_counts(counts[None], np.ones((1, len(counts)), dtype=np.int64))[0, 0].tolist()
    sums = dict(zip(COUNTS, counts.sum(0).tolist(), strict=True))
    return {"f1": f1, "pd": pd, "false_alarms_per_frame": false_alarms, **sums, "threshold": threshold}
