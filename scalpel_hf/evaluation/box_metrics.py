"""Metrics for frames labelled by boxes or points: targets found, and false alarms per frame."""

from collections.abc import Callable, Iterable
from typing import Any

import datasets
import numpy as np
from tqdm.auto import tqdm

from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.data.label_sources import BOX, BY_PEOPLE, POINT
from scalpel_hf.data.masks import IGNORED, read_row_mask
from scalpel_hf.data.splits import recordings_of
from scalpel_hf.runtime.components import find_detections

from .ratios import ratio_or_nan

COUNTS = ("n_targets", "n_detected", "n_false", "n_images")
RADIUS = 3.0  # pixels: half the side of the box around a point, and the matching distance for masks

Detect = Callable[[Any], tuple[np.ndarray, np.ndarray]]  # from a frame to scores (N,) and boxes (N, 4) as corners
Frame = tuple[np.ndarray, np.ndarray, np.ndarray]  # scores, predicted boxes, true boxes


def judged_by_boxes(rows: Any) -> bool:
    """Whether rows are evaluated by boxes: some of them are labelled by boxes or points, not by a mask."""
    if not isinstance(rows, datasets.Dataset) or "label_source" not in rows.column_names:
        return False
    return not {BOX, POINT}.isdisjoint(rows["label_source"][:])


def as_detector(probabilities: Callable[[Any], np.ndarray], threshold: float = 0.5) -> Detect:
    """A detector from a segmentation model: boxes of components above the threshold, scored by mean probability."""

    def detect(frame: Any) -> tuple[np.ndarray, np.ndarray]:
        found = find_detections(probabilities(frame), threshold)
        return found.scores, found.boxes

    return detect


def detector_of(model: Any, threshold: float = 0.5) -> Detect:
    """A detector from any model: its own boxes, of all scores, or those of [`as_detector`] for segmentation models."""
    if hasattr(model, "probabilities"):
        return as_detector(model.probabilities, threshold)

    def detect(frame: Any) -> tuple[np.ndarray, np.ndarray]:
        found = model.detect(frame, threshold=0.0)
        return (found.scores, found.boxes) if hasattr(found, "scores") else found

    return detect


def as_corners(boxes: Any) -> np.ndarray:
    """
    Convert boxes from (x, y, width, height) to `(M, 4)`, (x0, y0, x1, y1).

    Examples:
        >>> as_corners([[4, 2, 3, 1]])
        array([[4., 2., 7., 3.]])
    """
    corners = np.array(boxes, dtype=float).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return corners


def truth_of(row: dict[str, Any]) -> np.ndarray:
    """
    The true boxes of a row, `(M, 4)` as (x0, y0, x1, y1) in pixels; a point is a box from −`RADIUS` to +`RADIUS`.

    Raises `ValueError` if nobody labelled the row.
    """
    if row["label_source"] not in BY_PEOPLE:
        raise ValueError(f"{row['name']} has no label to evaluate with: choose a split that people labelled")
    corners = as_corners(row["objects"]["bbox"])
    points = (corners[:, 2:] == corners[:, :2]).all(1)
    return corners + np.where(points[:, None], RADIUS * np.array([-1.0, -1.0, 1.0, 1.0]), 0.0)


def count_found(boxes: np.ndarray, truth: np.ndarray) -> tuple[int, int, int, int]:
    """
    The `COUNTS` of one frame: targets, found targets, false alarms, and 1 for the frame.

    A target is found if the centre of a detection lies in its box (edges included). A detection with its centre in no
    box is a false alarm. IoU isn't used, since people draw boxes with a margin, which is large for targets of a few
    pixels.

    Args:
        boxes: detections `(N, 4)`, (x0, y0, x1, y1) in pixels.
        truth: targets `(M, 4)`, alike.

    Examples:
        >>> count_found(np.array([[4, 2, 6, 4], [20, 20, 22, 22]]), np.array([[2, 0, 9, 8]]))
        (1, 1, 1, 1)
    """
    inside = centres_inside(boxes, truth)
    return inside.shape[1], int(inside.any(0).sum()), int((~inside.any(1)).sum()), 1


def centres_inside(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Whether the centre of each detection `(N, 4)` lies in each true box `(M, 4)`: `(N, M)` bool."""
    x, y = (boxes.reshape(-1, 4)[:, :2] / 2 + boxes.reshape(-1, 4)[:, 2:] / 2).T[..., None]
    x0, y0, x1, y1 = truth.reshape(-1, 4).T
    return (x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)


def detect_all(detect: Detect, rows: Iterable[dict[str, Any]]) -> list[Frame]:
    """Detections and true boxes of each row. On pixels that a row's mask ignores, detections don't count."""
    files = undecoded(rows) if isinstance(rows, datasets.Dataset) else rows
    frames = []
    for row in tqdm(files, "evaluation", leave=False, unit="frame"):
        found = detect(row["image"])
        if row.get("mask") is not None:
            found = outside_ignored(found, read_row_mask(row))
        frames.append((*found, truth_of(row)))
    return frames


def outside_ignored(found: tuple[np.ndarray, np.ndarray], mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores `(N,)` and boxes `(N, 4)`, as corners, without those with their centre on a pixel that a mask ignores."""
    scores, boxes = found
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).T.astype(int)
    kept = mask[y.clip(0, mask.shape[0] - 1), x.clip(0, mask.shape[1] - 1)] != IGNORED
    return scores[kept], boxes[kept]


def count_boxes(frames: Iterable[Frame], threshold: float = 0.5) -> np.ndarray:
    """[`count_found`] for each frame, `(frames, 4)`, with the detections that score above the threshold."""
    counts = [count_found(boxes[scores > threshold], truth) for scores, boxes, truth in frames]
    return np.array(counts, dtype=np.int64).reshape(-1, len(COUNTS))


def by_recording(counts: np.ndarray, rows: datasets.Dataset) -> np.ndarray:
    """
    Counts summed over each recording, `(recordings, 4)`; a frame of no recording counts as one.

    Frames of a recording are correlated, so recordings, not frames, are resampled for intervals.

    Args:
        counts: `(frames, 4)` from [`count_boxes`].
        rows: the frames.
    """
    recordings, of_frame = np.unique(recordings_of(rows), return_inverse=True)
    sums = np.zeros((len(recordings), len(COUNTS)), dtype=np.int64)
    np.add.at(sums, of_frame, counts)
    return sums


def metrics_of_box_counts(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """
    F1, Pd and false alarms per frame, `(seeds, draws, 3)`.

    Pd = found / targets and F1 = 2 · found / (2 · found + false alarms + missed), both in [0, 1]; NaN for 0 / 0.

    Args:
        counts: `(seeds, units, 4)`, where units are frames or recordings.
        weights: `(draws, units)`, how often each unit is drawn.
    """
    targets, found, false, frames = np.moveaxis((weights @ counts).astype(float), -1, 0)
    f1 = ratio_or_nan(2 * found, found + false + targets)
    return np.stack([f1, ratio_or_nan(found, targets), false / np.maximum(frames, 1)], -1)


def metrics_by_boxes(counts: np.ndarray, threshold: float) -> dict[str, Any]:
    """F1, Pd and false alarms per frame from counts `(frames, 4)`, with the sums of the counts and the threshold."""
    metrics = metrics_of_box_counts(counts[None], np.ones((1, len(counts)), dtype=np.int64))[0, 0]
    f1, pd, false_alarms = np.nan_to_num(metrics).tolist()
    sums = dict(zip(COUNTS, counts.sum(0).tolist(), strict=True))
    return {"f1": f1, "pd": pd, "false_alarms_per_frame": false_alarms, **sums, "threshold": threshold}
