"""Evaluates a model on labelled rows: segmentation or detection, against masks or boxes."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import datasets
import numpy as np
from tqdm.auto import tqdm

from scalpel_hf.data import objects_from_mask
from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.data.label_sources import PSEUDO
from scalpel_hf.data.masks import IGNORED, TARGET, read_row_mask, read_target, read_truth
from scalpel_hf.evaluation import DetectionMetrics, IRSTDMetrics
from scalpel_hf.evaluation.box_metrics import (
    as_corners,
    as_detector,
    count_boxes,
    detect_all,
    detector_of,
    judged_by_boxes,
    metrics_by_boxes,
    outside_ignored,
)

Predicted = TypeVar("Predicted")


def predictions_and_masks(
    predict: Callable[[Any], Predicted], rows: Iterable[dict[str, Any]]
) -> Iterator[tuple[Predicted, np.ndarray]]:
    """
    A model's prediction for each row's `image`, and the row's `mask` as bool `(H, W)`.

    On pixels that the mask ignores, predictions don't count: probabilities are set to 0, and boxes with their centre
    there are removed.

    Args:
        predict: from a frame to probabilities `(H, W)`, or to scores `(N,)` and boxes `(N, 4)`.
        rows: with `image` and `mask`.

    Raises `ValueError`, which names the row, if a mask is missing, unreadable or not of the prediction's size.
    """
    files = undecoded(rows) if isinstance(rows, datasets.Dataset) else rows
    for row in tqdm(files, desc="evaluation", leave=False, unit="frame"):
        if row["mask"] is None:
            raise ValueError(
                f"{row.get('name')} has no mask to evaluate with: choose a split in which every frame has one"
            )
        mask = read_row_mask(row)
        yield _without_ignored(predict(row["image"]), mask, row.get("name")), mask == TARGET


def _without_ignored(predicted: Any, mask: np.ndarray, name: str | None) -> Any:
    """A prediction without those on pixels that the mask ignores."""
    if isinstance(predicted, tuple):
        return outside_ignored(predicted, mask)
    if predicted.shape != mask.shape:
        raise ValueError(f"{name}: the prediction is {predicted.shape}, the mask {mask.shape} (height, width)")
    ignored = mask == IGNORED
    return np.where(ignored, 0, predicted) if ignored.any() else predicted


def evaluate_predictor(predictor: Any, rows: Iterable[dict[str, Any]], threshold: float = 0.5) -> dict[str, Any]:
    """Evaluate any model from `load_predictor`, by [`evaluate_probabilities`] or [`evaluate_detections`]."""
    if hasattr(predictor, "probabilities"):
        return evaluate_probabilities(predictor.probabilities, rows, threshold)
    return evaluate_detections(detector_of(predictor), rows, threshold)


def evaluate_probabilities(
    probabilities: Callable[[Any], np.ndarray], rows: Iterable[dict[str, Any]], threshold: float = 0.5
) -> dict[str, float]:
    """
    Evaluate a segmentation model on rows, at the frames' own sizes.

    Returns IoU, nIoU, Pd, Fa and F1, see [`IRSTDMetrics`]. If some rows are labelled by boxes or points, components of
    the prediction are compared with these, see [`metrics_by_boxes`].

    Args:
        probabilities: from a frame to probabilities `(H, W)`.
        rows: with `image` and a person's `mask`, or `objects` and `label_source`.
        threshold: probability above which a pixel is predicted as target.

    Raises `ValueError`, which names the row, if a row has no label.

    Examples:
        >>> from scalpel_hf import SyntheticInfrared, load_predictor
        >>> rows = SyntheticInfrared(size=(64, 64)).to_dataset(2)
        >>> metrics = evaluate_probabilities(load_predictor("runs/nuaa/student").probabilities, rows)
        >>> metrics["n_images"]
        2
    """
    if judged_by_boxes(rows):
        frames = detect_all(as_detector(probabilities, threshold), rows)
        return metrics_by_boxes(count_boxes(frames, threshold), threshold)
    return evaluate_curve(probabilities, rows, [threshold])[0]


def evaluate_curve(
    probabilities: Callable[[Any], np.ndarray], rows: Iterable[dict[str, Any]], thresholds: Sequence[float]
) -> list[dict[str, float]]:
    """The metrics of [`IRSTDMetrics`] at several thresholds, such as for a curve of Pd over Fa (ROC)."""
    points = [IRSTDMetrics(threshold=threshold) for threshold in thresholds]
    for predicted, truth in predictions_and_masks(probabilities, rows):
        for metrics in points:
            metrics.update(predicted, truth)
    return [metrics.compute() for metrics in points]


def pd_at_fa(curve: Iterable[dict[str, float]], fa: float) -> float:
    """
    The highest Pd of a curve's points with a false-alarm rate of at most `fa`, in 1e-6; 0 without such a point.

    Examples:
        >>> pd_at_fa([{"pd": 0.9, "fa": 30.0}, {"pd": 0.8, "fa": 5.0}], fa=10)
        0.8
    """
    return max((point["pd"] for point in curve if point["fa"] <= fa), default=0.0)


def mean_and_deviation(values: Sequence[float]) -> str:
    """`mean ± standard deviation` over seeds, to one decimal; of a single seed the value."""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def evaluate_detections(
    detect: Callable[[Any], tuple[np.ndarray, np.ndarray]], rows: Iterable[dict[str, Any]], threshold: float = 0.5
) -> dict[str, float | None]:
    """
    Evaluate a detector on rows, at the frames' own sizes.

    Returns AP, precision, recall and F1, see [`DetectionMetrics`]. If some rows are labelled by boxes or points, AP is
    computed with these, and the other metrics are those of [`metrics_by_boxes`].

    Args:
        detect: from a frame to scores `(N,)` and boxes `(N, 4)`, (x0, y0, x1, y1) in pixels, with all scores.
        rows: with `image` and a person's `mask`, whose 8-connected components are the targets; or `objects` and
            `label_source`.
        threshold: score above which a box counts for precision, recall and F1.

    Raises `ValueError`, which names the row, if a row has no label.
    """
    if not judged_by_boxes(rows):
        return metrics_by_masks(detect, rows, threshold).compute()
    metrics = DetectionMetrics(threshold=threshold)
    frames = detect_all(detect, rows)
    for frame in frames:
        metrics.update(*frame)
    return metrics.compute() | metrics_by_boxes(count_boxes(frames, threshold), threshold)


def metrics_by_masks(
    detect: Callable[[Any], tuple[np.ndarray, np.ndarray]], rows: Iterable[dict[str, Any]], threshold: float = 0.5
) -> DetectionMetrics:
    """[`DetectionMetrics`] of rows with a `mask`, whose 8-connected components are the targets."""
    metrics = DetectionMetrics(threshold=threshold)
    for detected, mask in predictions_and_masks(detect, rows):
        metrics.update(*detected, as_corners(objects_from_mask(mask)["bbox"]))
    return metrics


def evaluate_pseudo_labels(labelled: datasets.Dataset, truth: datasets.Dataset) -> dict[str, float]:
    """
    The metrics of [`IRSTDMetrics`] for pseudo labels, against masks that the teacher didn't see.

    Args:
        labelled: rows with `name`, `label_source` and `pseudo_mask`; only those with source `pseudo` are evaluated.
        truth: rows with `name` and `mask`.

    Raises `ValueError` if `truth` lacks a frame or its mask, or if no row has a pseudo label.
    """
    if PSEUDO not in labelled["label_source"][:]:
        raise ValueError("no frame has a pseudo label to measure")
    place = {name: index for index, name in enumerate(truth["name"])}
    masks = undecoded(truth.select_columns("mask"))
    metrics = IRSTDMetrics(threshold=0.5)
    for row in undecoded(labelled.select_columns(["name", "label_source", "pseudo_mask"])):
        if row["label_source"] != PSEUDO:
            continue
        cell = masks[place[row["name"]]]["mask"] if row["name"] in place else None
        prediction = read_target(row["pseudo_mask"])
        human = read_truth(cell, row["name"], shape=prediction.shape)
        metrics.update((prediction & (human != IGNORED)).astype(np.float32), human == TARGET)
    return metrics.compute()
