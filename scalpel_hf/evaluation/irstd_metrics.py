"""IoU, nIoU, Pd, Fa and F1 as the infrared small-target field computes them. NumPy and SciPy only."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import ndimage

EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)


class IRSTDMetrics:
    """Metrics of small-target segmentation, accumulated frame by frame at the frames' own size.

    A pixel is predicted when its probability is strictly above `threshold`. Components are 8-connected, and taken in
    label order: by their first pixel, row by row.

    - `iou`: foreground intersection over union, both summed over all pixels of all frames before dividing.
    - `f1`: the pooled 2·TP / (2·TP + FP + FN) = 2·IoU / (1 + IoU).
    - `niou`: the IoU of each frame, averaged over frames. A frame with neither target nor prediction counts as 0, as in
      the field's published code, so a set with empty frames can't reach 1.
    - `pd`: probability of detection, matched targets / targets. Each target in label order takes the first free
      predicted component whose centroid lies strictly closer than `distance` pixels: greedy, one to one, no overlap
      needed.
    - `fa`: false-alarm rate, pixels of unmatched predicted components / all pixels, in 1e-6. With `legacy_fa`, an
      unmatched component with the same area as a matched one in its frame is not counted, as in much published code;
      this understates the rate.

    0 / 0 (such as without any target) is 0. Results don't depend on the order of frames or their distribution over
    processes.

    Sources: Dai et al., "Asymmetric Contextual Modulation" (WACV 2021) for IoU and nIoU; Li et al., "Dense Nested
    Attention Network" (TIP 2022) for Pd and Fa.

    Args:
        threshold: probability above which a pixel is predicted, in [0, 1).
        distance: largest distance of matching centroids in pixels, exclusive.
        legacy_fa: compute `fa` as much published code does.

    Examples:
        >>> metrics = IRSTDMetrics()
        >>> metrics.update([[0.9, 0.1], [0.2, 0.0]], [[255, 0], [0, 0]])
        >>> metrics.compute()["iou"]
        1.0
    """

    def __init__(self, threshold: float = 0.5, distance: float = 3.0, legacy_fa: bool = False) -> None:
        if not 0 <= threshold < 1:
            raise ValueError(f"`threshold` is a probability in [0, 1), got {threshold}.")
        if not distance > 0:
            raise ValueError(f"`distance` is a positive number of pixels, got {distance}.")
        self.threshold = threshold
        self.distance = distance
        self.legacy_fa = legacy_fa
        self.reset()

    def reset(self) -> None:
        """Remove all frames."""
        self.frame_ious: list[float] = []
        self.n_intersection = self.n_union = self.n_pixels = 0
        self.n_targets = self.n_detected = self.n_false_pixels = 0

    def update(self, prob: Any, mask: Any) -> None:
        """Add a frame, or a sequence of frames of any sizes.

        Args:
            prob: predicted probabilities in [0, 1], (H, W), or a sequence (list or array (N, H, W)) of such.
            mask: true masks of the same sizes: boolean, 0/1, or 0 to 255 with target above 127.

        Raises:
            ValueError: if sizes differ, a frame isn't two-dimensional, or values are not numbers in range. No frame of
                the call is added then.
        """
        if _is_single_frame(prob):
            prob, mask = [prob], [mask]
        if len(prob) != len(mask):
            raise ValueError(f"{len(prob)} predictions do not pair with {len(mask)} masks.")
        frames = [_check_frame(p, m, index) for index, (p, m) in enumerate(zip(prob, mask, strict=True))]
        for frame_prob, frame_mask in frames:
            self._update_frame(frame_prob > self.threshold, frame_mask)

    def _update_frame(self, predicted: np.ndarray, mask: np.ndarray) -> None:
        intersection = int(np.count_nonzero(predicted & mask))
        union = int(np.count_nonzero(predicted | mask))
        target_centroids, _ = components(mask)
        centroids, areas = components(predicted)
        matched = np.isin(np.arange(len(areas)), match(target_centroids, centroids, self.distance))
        false_areas = areas[~matched]
        if self.legacy_fa:
            false_areas = false_areas[~np.isin(false_areas, areas[matched])]

        self.frame_ious.append(_ratio(intersection, union))
        self.n_intersection += intersection
        self.n_union += union
        self.n_pixels += mask.size
        self.n_targets += len(target_centroids)
        self.n_detected += int(matched.sum())
        self.n_false_pixels += int(false_areas.sum())

    def merge(self, other: "IRSTDMetrics") -> "IRSTDMetrics":
        """Add the frames of `other`, such as from another process, and return `self`.

        Raises:
            ValueError: if the two were made with different settings.
        """
        if self._settings() != other._settings():
            raise ValueError(f"Metrics with different settings do not add: {self._settings()}, {other._settings()}.")
        self.frame_ious += other.frame_ious
        self.n_intersection += other.n_intersection
        self.n_union += other.n_union
        self.n_pixels += other.n_pixels
        self.n_targets += other.n_targets
        self.n_detected += other.n_detected
        self.n_false_pixels += other.n_false_pixels
        return self

    def __add__(self, other: "IRSTDMetrics") -> "IRSTDMetrics":
        return IRSTDMetrics(**self._settings()).merge(self).merge(other)

    def compute(self) -> dict[str, float | int | bool]:
        """Metrics over all frames so far, the counts behind them and the settings they depend on.

        Returns:
            `iou`, `niou`, `pd`, `f1` in [0, 1]; `fa` in 1e-6; `n_images`, `n_targets`, `n_detected`,
            `n_false_pixels`; `threshold`, `distance`, `legacy_fa`.

        Raises:
            ValueError: if there has been no frame.
        """
        if not self.frame_ious:
            raise ValueError("There is nothing to compute: call `update` with at least one frame first.")
        iou = _ratio(self.n_intersection, self.n_union)
        return {
            "iou": iou,
            "niou": math.fsum(self.frame_ious) / len(self.frame_ious),
            "pd": _ratio(self.n_detected, self.n_targets),
            "fa": 1e6 * self.n_false_pixels / self.n_pixels,
            "f1": 2 * iou / (1 + iou),
            "n_images": len(self.frame_ious),
            "n_targets": self.n_targets,
            "n_detected": self.n_detected,
            "n_false_pixels": self.n_false_pixels,
            **self._settings(),
        }

    def _settings(self) -> dict[str, Any]:
        return {"threshold": self.threshold, "distance": self.distance, "legacy_fa": self.legacy_fa}


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else 0.0


def _is_single_frame(prob: Any) -> bool:
    """Whether `prob` is one (H, W) frame, as an array or as nested lists, rather than a sequence of frames."""
    if isinstance(prob, Iterable) and not hasattr(prob, "ndim"):
        return len(prob) > 0 and np.ndim(prob[0]) < 2  # type: ignore[arg-type,index]
    return np.ndim(prob) < 3


def _check_frame(prob: Any, mask: Any, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and boolean mask of one frame, or a `ValueError` that says which frame is wrong, and how."""
    prob, mask = np.asarray(prob), np.asarray(mask)
    if prob.ndim != 2 or prob.size == 0:
        raise ValueError(f"Frame {index}: a prediction has the shape (height, width), got {prob.shape}.")
    if mask.shape != prob.shape:
        raise ValueError(f"Frame {index}: the mask's shape {mask.shape} is not the prediction's {prob.shape}.")
    for name, array in (("prediction", prob), ("mask", mask)):
        if array.dtype.kind not in "buif":
            raise ValueError(f"Frame {index}: the {name} has no numeric dtype but {array.dtype}.")
        if not np.isfinite(array).all():
            raise ValueError(f"Frame {index}: the {name} has values that are NaN or infinite.")
    if prob.min() < 0 or prob.max() > 1:
        raise ValueError(
            f"Frame {index}: probabilities lie in [0, 1], got {prob.min()} to {prob.max()}; "
            "apply a sigmoid to logits, divide 8-bit maps by 255."
        )
    if mask.min() < 0 or mask.max() > 255:
        raise ValueError(f"Frame {index}: a mask is boolean, 0/1 or 0 to 255, got {mask.min()} to {mask.max()}.")
    middle = 0.5 if mask.max() <= 1 else 127.5
    return prob, mask if mask.dtype == bool else mask > middle


def components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centroids (N, 2) as (row, column) and areas (N,) of the 8-connected components, in label order."""
    labels, count = ndimage.label(mask, structure=EIGHT_CONNECTED)
    rows, columns = np.nonzero(labels)
    ids = labels[rows, columns] - 1
    areas = np.bincount(ids, minlength=count)
    sums = np.stack([np.bincount(ids, weights=axis, minlength=count) for axis in (rows, columns)], axis=1)
    return sums / areas[:, None], areas


def match(targets: np.ndarray, predictions: np.ndarray, distance: float) -> np.ndarray:
    """Greedy matching of centroids `(T, 2)` and `(P, 2)`: for each target in order, the index of the first prediction
    closer than `distance` that isn't taken yet, or −1."""
    taken: list[int] = []
    for target in targets:
        in_reach = np.flatnonzero(np.linalg.norm(predictions - target, axis=1) < distance)
        taken.append(next((int(index) for index in in_reach if index not in taken), -1))
    return np.array(taken, dtype=int)
