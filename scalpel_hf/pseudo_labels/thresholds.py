"""The teacher's threshold, chosen on the frames that people labelled."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.data.masks import IGNORED, TARGET
from scalpel_hf.data.pseudo_columns import is_above
from scalpel_hf.utils.reading import read_json

from .labelling import confidence_of, predict, read_pair

THRESHOLDS = tuple(round(0.1 + 0.05 * i, 2) for i in range(17))  # 0.1 to 0.9


@dataclass(frozen=True)
class ThresholdChoice:
    """
    The result of [`choose_threshold`].

    Args:
        threshold: the chosen one.
        iou: IoU over all pixels of the labelled frames, at each of `THRESHOLDS`.
        left_out_iou: leave-one-out IoU: each frame is measured at the threshold chosen on the other frames.
    """

    threshold: float
    iou: tuple[float, ...]
    left_out_iou: float

    @classmethod
    def load(cls, path: str | Path) -> "ThresholdChoice":
        """Read from a JSON file; `ValueError`, which names it, if it has other content."""
        content = read_json(path)
        try:
            return cls(content["threshold"], tuple(content["iou"]), content["left_out_iou"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no chosen threshold: remove it, and the next run chooses one") from error


def choose_threshold(labelled: datasets.Dataset, teacher: Any, batch_size: int = 8) -> ThresholdChoice:
    """
    Choose the threshold with the highest IoU on labelled frames; among equals, the one nearest to 0.5.

    A teacher that was trained on these frames has a higher IoU on them than elsewhere, at every threshold. Only the
    threshold is used, not the IoU.

    Args:
        labelled: rows with `name`, `image`, `mask`, and `label_source` human.
        teacher: see `add_pseudo_labels`.
        batch_size: frames in one call of the teacher.

    Raises `ValueError` without rows, and, naming the row, if a frame can't be read or its prediction isn't a map of
    probabilities.
    """
    if not len(labelled):
        raise ValueError("no frame has a person's mask to choose a threshold on: give a threshold")
    counts = []  # (intersection, union) in pixels, for each frame and threshold
    labelled = undecoded(labelled)
    for start in range(0, len(labelled), batch_size):
        rows = list(labelled.select(range(start, min(start + batch_size, len(labelled)))))
        pairs = [read_pair(row) for row in rows]
        for row, (frame, truth), prediction in zip(rows, pairs, predict(teacher, [f for f, _ in pairs]), strict=True):
            confidence = confidence_of(prediction, frame, row["name"])
            found = [is_above(confidence, threshold) & (truth != IGNORED) for threshold in THRESHOLDS]
            target = truth == TARGET
            counts.append([(np.count_nonzero(f & target), np.count_nonzero(f | target)) for f in found])
    table = np.array(counts)  # (frames, thresholds, 2)
    total = table.sum(0)
    left_out = np.array([table[i, _best(total - table[i])] for i in range(len(table))]).sum(0)
    iou = tuple(float(i) for i in _iou(total))
    return ThresholdChoice(THRESHOLDS[_best(total)], iou, float(_iou(left_out)))


def _best(total: np.ndarray) -> int:
    iou = _iou(total)
    return min(range(len(THRESHOLDS)), key=lambda i: (-iou[i], abs(THRESHOLDS[i] - 0.5)))


def _iou(counts: np.ndarray) -> np.ndarray:
    return counts[..., 0] / np.maximum(counts[..., 1], 1)
