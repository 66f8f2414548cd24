"""Two models side by side on the same frames: is their difference more than other frames and seeds would make?"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from scipy import ndimage

from scalpel_hf.data import human_labelled, load_split
from scalpel_hf.data.objects import EIGHT_CONNECTED
from scalpel_hf.evaluation import IRSTDMetrics

from .evaluator import predictions_and_masks
from .unseen import TrainedOn, rows_to_measure, trained_on

COUNTS = ("n_intersection", "n_union", "n_targets", "n_detected", "n_false_pixels", "n_pixels")
DRAWS = 10_000
MetricsOfCounts = Callable[[np.ndarray, np.ndarray], np.ndarray]
SIZES = (10, 40, 100)  # pixels: upper ends of the classes of targets, with one more for what is larger


def frames_to_compare(dataset: str, split: str, models: Iterable[str | Path], labelled: str | None) -> datasets.Dataset:
    """
    The split's rows, without those that any of the models was trained on.

    Args:
        models: folders, which say what that was.
        labelled: a data set whose frames with a human's mask are left out too.
    """
    known = trained_on(models)
    if labelled is not None:
        known = known + TrainedOn.of(human_labelled(load_split(labelled, split), labelled))
    return rows_to_measure(dataset, split, known)


def count_frames(
    probabilities: Callable[[Any], np.ndarray], rows: Iterable[dict[str, Any]], threshold: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """
    What [`IRSTDMetrics`] counts on each frame alone, `(frames, 6)` in the order of `COUNTS`; and for each target of the
    frames `(targets, 2)`, its pixels and how many of them are found.
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
    """Metrics at threshold 0.5, and the counts on every frame that they come from, as results/ holds them."""
    counts, _ = count_frames(probabilities, rows)
    iou, niou, pd, fa = mean_metrics(counts[None]).tolist()
    return {
        "metrics": {"iou": iou, "niou": niou, "pd": pd, "fa": fa, "n_images": len(counts)},
        "counts": {"columns": list(COUNTS), "frames": counts.tolist()},
    }


def found_by_size(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    How much of the targets is found by their size, as a share of all their pixels, the mean over seeds.

    Args:
        targets: `(seeds, targets, 2)` of [`count_frames`].

    Returns two of `(len(SIZES) + 1,)`: how many targets are of up to 10, 40 and 100 pixels and larger, and the share.
    """
    sizes = np.searchsorted(SIZES, targets[0, :, 0])
    classes = sizes == np.arange(len(SIZES) + 1)[:, None]  # (classes, targets)
    pixels, found = np.moveaxis(classes.astype(np.int64) @ targets, -1, 0)  # (seeds, classes)
    return classes.sum(1), _ratio(found, pixels).mean(0)


def iou_by_size(objects: np.ndarray) -> list[tuple[int, float, float, float]]:
    """
    How many boxes or points there are, the mean IoU of what was proposed for them, and the ends of what 95 % of draws
    of them give: all, then those of one target by its size, the classes being those of [`found_by_size`], and those of
    several targets.

    Args:
        objects: `(n, 3)`, the pixels and the number of the targets that each is of, and the IoU.
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
    `(seeds, draws, 4)`: IoU, nIoU and Pd in [0, 1] and Fa in 1e-6, as [`IRSTDMetrics`] has them.

    Args:
        counts: `(seeds, frames, 6)` of [`count_frames`]. weights: `(draws, frames)`, how often each frame counts.
    """
    intersection, union, targets, detected, false, pixels = np.moveaxis(weights @ counts, -1, 0)
    niou = (_ratio(counts[..., 0], counts[..., 1]) @ weights.T) / weights.sum(-1)
    return np.stack([_ratio(intersection, union), niou, _ratio(detected, targets), 1e6 * _ratio(false, pixels)], -1)


def mean_metrics(counts: np.ndarray) -> np.ndarray:
    """`(4,)` over all frames, the mean over seeds."""
    return metrics_of_counts(counts, np.ones((1, counts.shape[1]), dtype=np.int64))[:, 0].mean(0)


def bootstrap_differences(
    first: np.ndarray,
    second: np.ndarray,
    metrics: MetricsOfCounts = metrics_of_counts,
    units: Sequence[str] | None = None,
) -> np.ndarray:
    """`(DRAWS, 4)`: metrics of the first model less those of the second, see [`bootstrap_pairs`]."""
    drawn = bootstrap_pairs(first, second, metrics, units)
    return drawn[0] - drawn[1]


def bootstrap_ratios(first: np.ndarray, second: np.ndarray, metrics: MetricsOfCounts = metrics_of_counts) -> np.ndarray:
    """`(DRAWS, 4)`: metrics of the first model over those of the second, see [`bootstrap_pairs`]; NaN over 0."""
    drawn = bootstrap_pairs(first, second, metrics)
    return np.divide(*drawn, out=np.full_like(drawn[0], np.nan), where=drawn[1] != 0)


def bootstrap_pairs(
    first: np.ndarray,
    second: np.ndarray,
    metrics: MetricsOfCounts = metrics_of_counts,
    units: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """
    `(DRAWS, 4)` for each of two models: their metrics, had the frames and the seeds been others.

    A draw takes, with replacement, as many frames as there are, the same for both models, and as many seeds as each
    has; a model's metrics are the mean over its seeds. Few seeds vary less when drawn from than new ones would: with
    three their share of the spread comes out a fifth too small, with one it is left out.

    Args:
        first, second: `(seeds, frames, 6)` of [`count_frames`] on the same frames.
        metrics: of such counts, by how often each frame is drawn; [`metrics_of_box_counts`] where the counts are by
            boxes.
        units: of each frame the recording that it is of; whole recordings are drawn then, since frames of one are
            near each other.

    Source: Efron, Tibshirani: An Introduction to the Bootstrap, 1993.
    """
    generator = np.random.default_rng(0)  # the same models always give the same interval
    names, of_frame = np.unique(np.arange(first.shape[1]) if units is None else units, return_inverse=True)
    weights = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)[:, of_frame]

    def draw(counts: np.ndarray) -> np.ndarray:
        seeds = generator.integers(len(counts), size=(len(counts), DRAWS))
        return np.take_along_axis(metrics(counts, weights), seeds[..., None], 0).mean(0)

    return draw(first), draw(second)


def iou_without_each_frame(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`(frames,)`: the difference of the two models' mean pooled IoU with that frame left out."""

    def mean_iou(counts: np.ndarray) -> np.ndarray:
        rest = counts.sum(1, keepdims=True) - counts  # (seeds, frames, 6)
        return _ratio(rest[..., 0], rest[..., 1]).mean(0)

    return mean_iou(first) - mean_iou(second)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return numerator / np.maximum(denominator, 1)  # of 0 to 0: 0
