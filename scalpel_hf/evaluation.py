"""Measure anything that gives probabilities against human masks."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from .metrics import IRSTDMetrics
from .modeling.image_processing_infrared import read_frame


def evaluate_probabilities(
    probabilities: Callable[[Any], np.ndarray], rows: Iterable[dict[str, Any]], threshold: float = 0.5
) -> dict[str, float]:
    """
    IoU, nIoU, Pd, Fa and F1 of a model over a data set's rows, at the frames' own size.

    Args:
        probabilities: from a frame (whatever the processor takes) to `(H, W)` in [0, 1].
        rows: with `image` and a human's `mask`.
    """
    metrics = IRSTDMetrics(threshold=threshold)
    for row in tqdm(rows, desc="evaluation", leave=False, unit="frame"):
        metrics.update(probabilities(row["image"]), read_frame(row["mask"]) > 127)
    return metrics.compute()


def evaluate_pseudo_labels(labelled: Iterable[dict[str, Any]], truth: Iterable[dict[str, Any]]) -> dict[str, float]:
    """
    Quality of pseudo labels, at the threshold they were made with, against masks that were hidden from training.

    Args:
        labelled: rows with `label_source` and `pseudo_mask`; those of other sources are passed over.
        truth: rows with `name` and `mask`.
    """
    masks = {row["name"]: row["mask"] for row in truth}
    metrics = IRSTDMetrics(threshold=0.5)
    for row in labelled:
        if row["label_source"] == "pseudo":
            metrics.update(
                (read_frame(row["pseudo_mask"]) > 127).astype(np.float32), read_frame(masks[row["name"]]) > 127
            )
    return metrics.compute()
