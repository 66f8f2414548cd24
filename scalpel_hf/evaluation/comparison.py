"""Paired comparison of two models on the same frames, with bootstrap intervals over frames and seeds."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from scipy import ndimage

from scalpel_hf.data import human_labelled, load_split
from scalpel_hf.data.objects import EIGHT_CONNECTED
from scalpel_hf.evaluation import IRSTDMetrics

from .box_metrics import COUNTS as BOX_COUNTS
from .box_metrics import metrics_by_boxes
from .evaluator import metrics_by_masks, predictions_and_masks
from .ratios import ratio_or_nan
from .unseen import TrainedOn, rows_to_measure, trained_on

COUNTS = ("n_intersection", "n_union", "n_targets", "n_detected", "n_false_pixels", "n_pixels")
DRAWS = 10_000
MetricsOfCounts = Callable[[np.ndarray, np.ndarray], np.ndarray]
SIZES = (10, 40, 100)  # pixels: largest target of each size class; a last class holds larger ones


def frames_to_compare(dataset: str, split: str, models: Iterable[str | Path], labelled: str | None) -> datasets.Dataset:
    """
    A split's rows, without those that any of the models was trained on.

    Args:
        dataset, split: the data.
        models: folders or repositories with a record of their training frames, see [`TrainedOn`].
        labelled: a data set whose frames with a person's mask are left out too.
    """
    known = trained_on(models)
    if labelled is not None:
        known = known + TrainedOn.of(human_labelled(load_split(labelled, split), labelled))
    return rows_to_measure(dataset, split, known)


def count_frames(
    probabilities: Callable[[Any], np.ndarray], rows: Iterable[dict[str, Any]], threshold: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """
    The counts of [`IRSTDMetrics`] for each frame, `(frames, 6)` in the order of `COUNTS`; and for each target its area
    and the number of its pixels that are predicted, `(targets, 2)`.

    Args:
        probabilities: from a frame to probabilities `(H, W)`.
        rows: with `image` and `mask`.
        threshold: probability above which a pixel is predicted as target.
    """
    counts, targets = [], []
    for predicted, truth in predictions_and_masks(probabilities, rows):
        metrics = IRSTDMetrics(threshold=threshold)
        metrics.update(predicted, truth)
        counts.append([getattr(metrics, name) for name in COUNTS])
        labels, n = ndimage.label(truth, EIGHT_CONNECTED)
        pixels = [np.bincount(labels[where], minlength=n + 1)[1:] for where in (truth, truth & (predicted > threshold))]
        targets.append(np.stack(pixels, 1))
    return np.array(counts, dtype=np.int64), np.concatenate(targets)


def count_record(probabilities: Callable[[Any], np.ndarray], rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Metrics at threshold 0.5, and the counts of every frame, as in the files of results/."""
    return record_of_counts(count_frames(probabilities, rows)[0])


def detection_record(detect: Callable[[Any], Any], rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Metrics of a detector at threshold 0.5 against masks, and the counts of every frame, as in results/."""
    found = metrics_by_masks(detect, rows)
    counts = found.counts()
    return {
        "metrics": {**found.compute(), **metrics_by_boxes(counts, found.threshold)},
        "counts": {"columns": [*BOX_COUNTS], "frames": counts.tolist()},
    }


def record_of_counts(counts: np.ndarray) -> dict[str, Any]:
    """Metrics and counts of frames `(frames, 6)`, see [`count_frames`], as in the files of results/."""
    iou, niou, pd, fa = mean_metrics(counts[None]).tolist()
    return {
        "metrics": {"iou": iou, "niou": niou, "pd": pd, "fa": fa, "n_images": len(counts)},
        "counts": {"columns": list(COUNTS), "frames": counts.tolist()},
    }


def found_by_size(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    For each size class of targets: the number of targets, and the share of their pixels that is predicted.

    Args:
        targets: `(seeds, targets, 2)` from [`count_frames`].

    Returns both as `(len(SIZES) + 1,)`, for targets of up to 10, 40 and 100 pixels, and larger. The share is the mean
    over seeds.
    """
    sizes = np.searchsorted(SIZES, targets[0, :, 0])
    classes = sizes == np.arange(len(SIZES) + 1)[:, None]  # (classes, targets)
    pixels, found = np.moveaxis(classes.astype(np.int64) @ targets, -1, 0)  # (seeds, classes)
    return classes.sum(1), _ratio(found, pixels).mean(0)


def iou_by_size(objects: np.ndarray) -> list[tuple[int, float, float, float]]:
    """
    Quality of the masks proposed for boxes or points: (number, mean IoU, both ends of its 95 % bootstrap interval).

    Returns one such row for all boxes, one for each size class of [`found_by_size`] (boxes with one target), and one
    for boxes with several targets.

    Args:
        objects: `(n, 3)`; for each box the area of its targets in pixels, their number, and the proposal's IoU.
    """
    pixels, targets, ious = objects.T
    sizes = np.where(targets == 1, np.searchsorted(SIZES, pixels), len(SIZES) + 1)
    generator = np.random.default_rng(0)
    rows = []
    for part in (ious, *(ious[sizes == size] for size in range(len(SIZES) + 2))):
        if not len(part):
            rows.append((0, float("nan"), float("nan"), float("nan")))
            continue
        means = part[generator.integers(len(part), size=(DRAWS // 10, len(part)))].mean(1)
        low, high = np.percentile(means, [2.5, 97.5])
        rows.append((len(part), float(part.mean()), float(low), float(high)))
    return rows


def metrics_of_counts(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """
    IoU, nIoU and Pd in [0, 1] and Fa in 1e-6, `(seeds, draws, 4)`, as defined in [`IRSTDMetrics`]; NaN for IoU and Pd
    of a draw that has nothing to find, which tells nothing.

    Args:
        counts: `(seeds, frames, 6)` from [`count_frames`].
        weights: `(draws, frames)`, how often each frame is drawn.
    """
    intersection, union, targets, detected, false, pixels = np.moveaxis(weights @ counts, -1, 0)
    niou = (_ratio(counts[..., 0], counts[..., 1]) @ weights.T) / weights.sum(-1)
    iou, pd = ratio_or_nan(intersection, union), ratio_or_nan(detected, targets)
    return np.stack([iou, niou, pd, 1e6 * _ratio(false, pixels)], -1)


def mean_metrics(counts: np.ndarray) -> np.ndarray:
    """[`metrics_of_counts`] over all frames, averaged over seeds, `(4,)`; 0 / 0 is 0."""
    return np.nan_to_num(metrics_of_counts(counts, np.ones((1, counts.shape[1]), dtype=np.int64)))[:, 0].mean(0)


def bootstrap_differences(
    first: np.ndarray,
    second: np.ndarray,
    metrics: MetricsOfCounts = metrics_of_counts,
    units: Sequence[str] | None = None,
) -> np.ndarray:
    """Bootstrap draws of the first model's metrics minus the second's, `(DRAWS, 4)`; see [`bootstrap_pairs`]."""
    drawn = bootstrap_pairs(first, second, metrics=metrics, units=units)
    return drawn[0] - drawn[1]


def bootstrap_ratios(first: np.ndarray, second: np.ndarray, metrics: MetricsOfCounts = metrics_of_counts) -> np.ndarray:
    """Bootstrap draws of the first model's metrics divided by the second's, `(DRAWS, 4)`; NaN where that is 0."""
    drawn = bootstrap_pairs(first, second, metrics)
    return ratio_or_nan(*drawn)


def bootstrap_pairs(
    first: np.ndarray,
    second: np.ndarray,
    metrics: MetricsOfCounts = metrics_of_counts,
    units: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Paired bootstrap of two models' metrics over frames and seeds.

    Each draw takes, with replacement, as many frames as there are (the same for both models) and as many seeds as the
    model has. A model's metrics are averaged over the drawn seeds. With few seeds the bootstrap underestimates the
    spread over seeds: with three by a fifth, with one completely.

    Args:
        first, second: counts of both models on the same frames, `(seeds, frames, 6)` from [`count_frames`].
        metrics: computes metrics from counts and weights; [`metrics_of_box_counts`] for counts by boxes.
        units: the recording of each frame. Whole recordings are drawn then, since their frames are correlated.

    Returns the drawn metrics of each model, `(DRAWS, 4)`.

    Source: Efron, Tibshirani: An Introduction to the Bootstrap, 1993.
    """
    generator = np.random.default_rng(0)  # a fixed seed, so that intervals are reproducible
    names, of_frame = np.unique(np.arange(first.shape[1]) if units is None else units, return_inverse=True)
    weights = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)[:, of_frame]

    def draw(counts: np.ndarray) -> np.ndarray:
        seeds = generator.integers(len(counts), size=(len(counts), DRAWS))
        return np.take_along_axis(metrics(counts, weights), seeds[..., None], 0).mean(0)

    return draw(first), draw(second)


def iou_without_each_frame(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """For each frame, `(frames,)`: the difference of the two models' IoU (mean over seeds) without this frame."""

    def mean_iou(counts: np.ndarray) -> np.ndarray:
        rest = counts.sum(1, keepdims=True) - counts  # (seeds, frames, 6)
        return _ratio(rest[..., 0], rest[..., 1]).mean(0)

    return mean_iou(first) - mean_iou(second)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return numerator / np.maximum(denominator, 1)  # 0 / 0 is 0
