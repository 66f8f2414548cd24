"""The threshold of a probability, chosen on frames that people labelled and on no others."""

from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from scalpel_hf.data.objects import read_mask
from scalpel_hf.modeling.image_processing_infrared import read_frame

from .columns import is_above
from .labelling import ask

THRESHOLDS = tuple(round(0.1 + 0.05 * i, 2) for i in range(17))  # 0.1 to 0.9


@dataclass(frozen=True)
class ThresholdChoice:
    """
    Args:
        threshold: the one chosen.
        iou: of the labelled frames' pixels, pooled, at each of `THRESHOLDS`.
        left_out_iou: the same where each frame is measured at the threshold that the other frames choose.
    """

    threshold: float
    iou: tuple[float, ...]
    left_out_iou: float


def choose_threshold(labelled: datasets.Dataset, teacher: Any, batch_size: int = 8) -> ThresholdChoice:
    """
    The threshold with the best IoU on labelled frames; of equal ones that nearest to 0.5.

    A teacher that was trained on these frames does better on them than elsewhere at any threshold. What is used is
    where its IoU peaks, not how high.

    Args:
        labelled: rows with `image` and `mask`.
    """
    if not len(labelled):
        raise ValueError("no frame has a human's label to choose a threshold on: give one")
    counts = []  # of each frame and threshold, pixels in the intersection and in the union
    for start in range(0, len(labelled), batch_size):
        rows = list(labelled.select(range(start, min(start + batch_size, len(labelled)))))
        answers = ask(teacher, [read_frame(row["image"]) for row in rows])
        for row, answer in zip(rows, answers, strict=True):
            truth, confidence = read_mask(row["mask"]) > 0, np.rint(answer.probability * 255)
            found = [is_above(confidence, threshold) for threshold in THRESHOLDS]
            counts.append([(np.count_nonzero(f & truth), np.count_nonzero(f | truth)) for f in found])
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
