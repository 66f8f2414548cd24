"""Measure anything that gives probabilities against human masks."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import datasets
import numpy as np
from tqdm.auto import tqdm

from scalpel_hf.data import objects_from_mask
from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.data.label_sources import PSEUDO
from scalpel_hf.data.masks import IGNORED, TARGET, read_mask, read_row_mask, read_target
from scalpel_hf.evaluation import DetectionMetrics, IRSTDMetrics
from scalpel_hf.evaluation.box_metrics import (
    as_corners,
    as_detector,
    count_boxes,
    detect_all,
    detector_of,
    judged_by_boxes,
    metrics_by_boxes,
)

Predicted = TypeVar("Predicted")


def predictions_and_masks(
    predict: Callable[[Any], Predicted], rows: Iterable[dict[str, Any]]
) -> Iterator[tuple[Predicted, np.ndarray]]:
    """
    What a model says of each row's `image`, and where the human's `mask` is target, boolean `(H, W)`.

    Where that leaves pixels open, the prediction is taken for none: probability 0, or no box whose centre lies there.
    Raises `ValueError` naming the row whose mask is hidden, can't be read, or has another size than the prediction.
    """
    files = undecoded(rows) if isinstance(rows, datasets.Dataset) else rows
    for row in tqdm(files, desc="evaluation", leave=False, unit="frame"):
        if row["mask"] is None:
            raise ValueError(f"{row.get('name')} has no mask to measure against: evaluate on a split with all masks")
        mask = read_row_mask(row)
        yield _where_judged(predict(row["image"]), mask, row.get("name")), mask == TARGET


def _where_judged(predicted: Any, mask: np.ndarray, name: str | None) -> Any:
    """A prediction without what it says of pixels that the mask leaves open."""
    ignored = mask == IGNORED
    if isinstance(predicted, tuple):  # scores (N,) and boxes (N, 4) as corners
        scores, boxes = predicted
        x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).T.astype(int)
        kept = ~ignored[y.clip(0, mask.shape[0] - 1), x.clip(0, mask.shape[1] - 1)]
        return scores[kept], boxes[kept]
    if predicted.shape != mask.shape:
        raise ValueError(f"{name}: the prediction is {predicted.shape}, the mask {mask.shape} (height, width)")
    return np.where(ignored, 0, predicted) if ignored.any() else predicted


def evaluate_predictor(predictor: Any, rows: Iterable[dict[str, Any]], threshold: float = 0.5) -> dict[str, Any]:
    """Metrics of whatever `load_predictor` gives, see [`evaluate_probabilities`] and [`evaluate_detections`]."""
    if hasattr(predictor, "probabilities"):
        return evaluate_probabilities(predictor.probabilities, rows, threshold)
    return evaluate_detections(detector_of(predictor), rows, threshold)


def evaluate_probabilities(
    probabilities: Callable[[Any], np.ndarray], rows: Iterable[dict[str, Any]], threshold: float = 0.5
) -> dict[str, float]:
    """
    IoU, nIoU, Pd, Fa and F1 of a model over a data set's rows, at the frames' own size.

    Where people drew boxes or points in some of the rows, it is measured by these instead: [`metrics_by_boxes`].

    Args:
        probabilities: from a frame (whatever the processor takes) to `(H, W)` in [0, 1].
        rows: with `image` and a human's `mask`, or `objects` and `label_source`.

    Raises `ValueError` where a row's mask is hidden.
    """
    if judged_by_boxes(rows):
        frames = detect_all(as_detector(probabilities, threshold), rows)
        return metrics_by_boxes(count_boxes(frames, threshold), threshold)
    return evaluate_curve(probabilities, rows, [threshold])[0]


def evaluate_curve(
    probabilities: Callable[[Any], np.ndarray], rows: Iterable[dict[str, Any]], thresholds: Sequence[float]
) -> list[dict[str, float]]:
    """[`evaluate_probabilities`] at several thresholds, in their order: the points of a curve of Pd over Fa."""
    points = [IRSTDMetrics(threshold=threshold) for threshold in thresholds]
    for predicted, truth in predictions_and_masks(probabilities, rows):
        for metrics in points:
            metrics.update(predicted, truth)
    return [metrics.compute() for metrics in points]


def pd_at_fa(curve: Iterable[dict[str, float]], fa: float) -> float:
    """The largest Pd among a curve's points of at most `fa` false alarms, in 1e-6; 0 where there is none."""
    return max((point["pd"] for point in curve if point["fa"] <= fa), default=0.0)


def mean_and_deviation(values: Sequence[float]) -> str:
    """`mean ± standard deviation` over seeds to one decimal; of a single value the value alone."""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def evaluate_detections(
    detect: Callable[[Any], tuple[np.ndarray, np.ndarray]], rows: Iterable[dict[str, Any]], threshold: float = 0.5
) -> dict[str, float | None]:
    """
    AP, precision, recall and F1 of a detector over a data set's rows, at the frames' own size: [`DetectionMetrics`].

    Args:
        detect: from a frame to scores `(N,)` and boxes `(N, 4)`, (x0, y0, x1, y1) in pixels, whatever their score.
        rows: with `image` and a human's `mask`, whose 8-connected components are the targets.
        threshold: score above which a box counts for precision, recall and F1.

    Where people drew boxes or points in some of the rows, AP is of those boxes, and the rest [`metrics_by_boxes`].

    Raises `ValueError` where a row's mask is hidden.
    """
    metrics = DetectionMetrics(threshold=threshold)
    if judged_by_boxes(rows):
        frames = detect_all(detect, rows)
        for frame in frames:
            metrics.update(*frame)
        return metrics.compute() | metrics_by_boxes(count_boxes(frames, threshold), threshold)
    for detected, mask in predictions_and_masks(detect, rows):
        metrics.update(*detected, as_corners(objects_from_mask(mask)["bbox"]))
    return metrics.compute()


def evaluate_pseudo_labels(labelled: datasets.Dataset, truth: datasets.Dataset) -> dict[str, float]:
    """
    Quality of pseudo labels, at the threshold they were made with, against masks that were hidden from training.

    Args:
        labelled: rows with `label_source` and `pseudo_mask`; those of other sources are passed over.
        truth: rows with `name` and `mask`.

    Raises `ValueError` where `truth` lacks a row or its mask, and where no row has a pseudo label.
    """
    if PSEUDO not in labelled["label_source"][:]:
        raise ValueError("no frame has a pseudo label to measure")
    place = {name: index for index, name in enumerate(truth["name"])}
    masks = undecoded(truth.select_columns("mask"))
    metrics = IRSTDMetrics(threshold=0.5)
    for row in undecoded(labelled.select_columns(["name", "label_source", "pseudo_mask"])):
        if row["label_source"] != PSEUDO:
            continue
        mask = masks[place[row["name"]]]["mask"] if row["name"] in place else None
        if mask is None:
            raise ValueError(f"the data set with the truth has no mask of {row['name']}")
        prediction, human = read_target(row["pseudo_mask"]), read_mask(mask)
        metrics.update((prediction & (human != IGNORED)).astype(np.float32), human == TARGET)
    return metrics.compute()
