"""Candidates: what a teacher may have seen in a frame, and what speaks for each of them."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import torch
from scipy import ndimage

from scalpel_hf.data.masks import IGNORED, TARGET
from scalpel_hf.data.objects import EIGHT_CONNECTED
from scalpel_hf.modeling.moe import classical_prior
from scalpel_hf.modeling.normalization import normalize_frame
from scalpel_hf.predictors.prediction import Prediction

from .columns import is_above

WEAK = 0.1  # probability from which something is a candidate, though not one that could become a label
WINDOW = 64  # side in pixels of what is looked at to say how much a candidate stands out
WINDOWS_AT_A_TIME = 64

EVIDENCE = ("probability", "contrast", "agreement", "predicted_iou", "area")
CANDIDATE_FEATURES = {
    "bbox": datasets.List(datasets.List(datasets.Value("float32"))),
    "strong": datasets.List(datasets.Value("bool")),
    "true": datasets.List(datasets.Value("bool")),
    "has_target": datasets.Value("bool"),
    **{name: datasets.List(datasets.Value("float32")) for name in EVIDENCE},
}


def label_candidates(confidence: np.ndarray, threshold: float) -> tuple[np.ndarray, int, int]:
    """
    The candidates of a soft mask of 8 bits.

    Strong ones are the 8-connected components above the threshold. Weak ones are those above `WEAK` that hold no pixel
    of a strong one: nothing to label as target, but a reason not to call the frame empty.

    Returns a map `(H, W)` of 0 and the candidates' numbers, strong ones first, how many are strong, and how many there
    are.
    """
    labels, strong = ndimage.label(is_above(confidence, threshold), EIGHT_CONNECTED)
    if threshold <= WEAK:
        return labels, strong, strong
    wide, count = ndimage.label(is_above(confidence, WEAK), EIGHT_CONNECTED)
    weak = np.setdiff1d(np.arange(1, count + 1), wide[labels > 0])
    number = np.zeros(count + 1, labels.dtype)
    number[weak] = np.arange(strong + 1, strong + 1 + len(weak))
    return labels + number[wide] * (labels == 0), strong, strong + len(weak)


def extract_candidates(
    frame: np.ndarray, confidence: np.ndarray, prediction: Prediction, threshold: float, truth: np.ndarray | None = None
) -> dict[str, Any]:
    """
    The candidates of a frame, each with its box (x, y, width, height), whether it is `strong`, and the evidence for it:

    - `probability`: the mean of the teacher's inside it;
    - `contrast`: how much it stands out from its surroundings, by the classical operators (see [`contrast`]);
    - `agreement`: 1 − 2 σ, σ the mean over its pixels of the standard deviation between the teacher's views of the
      frame: 1 where all views say the same, 0 where one half is sure and the other half sure of the contrary;
    - `predicted_iou`: Segment Anything's own, when it is prompted with the box;
    - `area` in pixels.

    What is not known is NaN. Where a human's mask is given, `true` says whether a candidate is one, see
    [`judge`], and `has_target` whether the frame has any; `None` where the mask leaves it open.

    Args:
        frame: `(H, W)` in sensor units.
        confidence: the prediction's probability in 8 bits.
        truth: as [`read_mask`] reads it.
    """
    labels, strong, count = label_candidates(confidence, threshold)
    index = np.arange(1, count + 1)
    boxes = np.array([_box(place) for place in ndimage.find_objects(labels)], np.float32).reshape(-1, 4)
    unknown = [float("nan")] * count
    asked = prediction.predicted_iou is not None and count > 0
    found: dict[str, Any] = {
        "bbox": boxes.tolist(),
        "strong": (index <= strong).tolist(),
        "true": None,
        "has_target": None,
        "probability": _inside(ndimage.mean, confidence / np.float32(255), labels, index),
        "contrast": contrast(frame, labels, ndimage.maximum_position(confidence, labels, index) if count else []),
        "agreement": unknown,
        "predicted_iou": prediction.predicted_iou(boxes).tolist() if asked and prediction.predicted_iou else unknown,
        "area": np.bincount(labels.ravel(), minlength=count + 1)[1:].tolist(),
    }
    if prediction.spread is not None:
        found["agreement"] = [1 - 2 * s for s in _inside(ndimage.mean, prediction.spread, labels, index)]
    if truth is not None:
        found["true"], found["has_target"] = judge(labels, count, truth), has_target(truth)
    return found


def judge(labels: np.ndarray, count: int, truth: np.ndarray) -> list[bool | None]:
    """
    Whether each of `count` labelled components is true: more than half of its pixels lie on a target or next to one.

    `None` for one that isn't, and of which the mask leaves more than half open.

    Args:
        truth: as [`read_mask`] reads it.
    """
    index = np.arange(1, count + 1)
    near = ndimage.binary_dilation(truth == TARGET, EIGHT_CONNECTED)
    on_target, left_open = (_inside(ndimage.mean, where, labels, index) for where in (near, truth == IGNORED))
    return [
        True if share > 0.5 else None if unknown > 0.5 else False
        for share, unknown in zip(on_target, left_open, strict=True)
    ]


def has_target(truth: np.ndarray) -> bool | None:
    """Whether a mask holds a target; `None` if it has open pixels but no target."""
    if (truth == TARGET).any():
        return True
    return None if (truth == IGNORED).any() else False


def _inside(statistic: Any, values: np.ndarray, labels: np.ndarray, index: np.ndarray) -> list[float]:
    return [float(value) for value in statistic(values, labels, index)] if len(index) else []


def _box(place: tuple[slice, slice]) -> tuple[int, int, int, int]:
    rows, cols = place
    return cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start


def contrast(frame: np.ndarray, labels: np.ndarray, centres: Sequence[tuple[int, int]]) -> list[float]:
    """
    How much each candidate stands out from its surroundings, `(n,)`.

    In a window of `WINDOW` pixels the prior pyramid of the four operators at their classical parameters, which know
    nothing of any teacher's weights: the highest of each operator's scales, averaged over the operators, and of that
    the highest on the candidate. Values are in units of the operators' mean response over the window, compressed as
    `PriorPyramid` does it.

    Args:
        labels: map `(H, W)` of the candidates' numbers, from 1 on.
        centres: row and column of a pixel of each candidate, around which the window lies.
    """
    places = [_window(centre, frame.shape) for centre in centres]
    found: list[float] = []
    for start in range(0, len(places), WINDOWS_AT_A_TIME):
        part = places[start : start + WINDOWS_AT_A_TIME]
        windows = [normalize_frame(torch.from_numpy(frame[place].astype(np.float32))) for place in part]
        priors = classical_prior(torch.stack(windows)[:, None]).numpy()  # (windows, h, w)
        numbers = range(start + 1, start + len(part) + 1)
        found += [float(p[labels[place] == i].max()) for p, place, i in zip(priors, part, numbers, strict=True)]
    return found


def _window(centre: tuple[int, int], shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The window around a pixel, moved to lie within the frame."""
    y, x = (
        min(max(int(middle) - WINDOW // 2, 0), max(side - WINDOW, 0))
        for middle, side in zip(centre, shape, strict=True)
    )
    return slice(y, y + WINDOW), slice(x, x + WINDOW)
