"""Candidates: components of a teacher's soft mask, with the features that tell targets from false alarms."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import torch
from scipy import ndimage

from scalpel_hf.data.masks import IGNORED, TARGET
from scalpel_hf.data.objects import EIGHT_CONNECTED
from scalpel_hf.data.pseudo_columns import is_above
from scalpel_hf.modeling.moe import classical_prior
from scalpel_hf.modeling.normalization import normalize_frame
from scalpel_hf.predictors.prediction import Prediction

WEAK = 0.1  # probability above which a component is a weak candidate, which can't become an object
WINDOW = 64  # side in pixels of the window in which a candidate's contrast is measured
WINDOWS_AT_A_TIME = 64

EVIDENCE = ("probability", "contrast", "agreement", "area")
CANDIDATE_FEATURES = {
    "bbox": datasets.List(datasets.List(datasets.Value("float32"))),
    "strong": datasets.List(datasets.Value("bool")),
    "true": datasets.List(datasets.Value("bool")),
    "has_target": datasets.Value("bool"),
    **{name: datasets.List(datasets.Value("float32")) for name in EVIDENCE},
}


def label_candidates(confidence: np.ndarray, threshold: float) -> tuple[np.ndarray, int, int]:
    """
    The candidates of a soft mask `(H, W)` of 8 bits.

    Strong candidates are the 8-connected components above the threshold. Weak candidates are the components above
    `WEAK` without a strong one in them: they never become objects, but a frame that has one may not be empty.

    Returns a label map `(H, W)` (0 for background, then strong candidates, then weak ones), the number of strong
    candidates, and the number of all.
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
    The candidates of a frame, see [`label_candidates`]; each entry of the result is a list over them:

    - `bbox`: x, y, width, height in pixels;
    - `strong`: whether it is above the threshold;
    - `probability`: the teacher's mean probability over its pixels;
    - `contrast`: response of the classical operators, see [`contrast`];
    - `agreement`: 1 − 2 σ, where σ is the standard deviation of the probability over the teacher's views of the frame,
      averaged over the candidate's pixels: 1 where all views agree, 0 where half of them give 0 and half 1;
    - `area` in pixels.

    Unknown values are NaN. With `truth`, `true` says of each candidate whether it is a target, see [`judge`], and
    `has_target` whether the frame has one; `None` where pixels to ignore leave that undecided.

    Args:
        frame: `(H, W)` in sensor units.
        confidence: `prediction.probability` in 8 bits, `(H, W)` uint8.
        threshold: of strong candidates, a probability.
        truth: a person's mask from [`read_mask`], `(H, W)`.
    """
    labels, strong, count = label_candidates(confidence, threshold)
    index = np.arange(1, count + 1)
    agreement = [float("nan")] * count
    if prediction.spread is not None:
        agreement = [1 - 2 * s for s in _mean_inside(prediction.spread, labels, index)]
    found: dict[str, Any] = {
        "bbox": [_box(place) for place in ndimage.find_objects(labels)],
        "strong": (index <= strong).tolist(),
        "true": None,
        "has_target": None,
        "probability": _mean_inside(confidence / np.float32(255), labels, index),
        "contrast": contrast(frame, labels, ndimage.maximum_position(confidence, labels, index) if count else []),
        "agreement": agreement,
        "area": np.bincount(labels.ravel(), minlength=count + 1)[1:].tolist(),
    }
    if truth is not None:
        found["true"], found["has_target"] = judge(labels, count, truth), has_target(truth)
    return found


def judge(labels: np.ndarray, count: int, truth: np.ndarray) -> list[bool | None]:
    """
    Whether each of `count` components is a true target: more than half of its pixels lie on a target or next to one.

    `None` for a component that isn't, if more than half of its pixels are to be ignored.

    Args:
        labels: label map `(H, W)`, components numbered from 1.
        truth: a mask from [`read_mask`], `(H, W)`.
    """
    index = np.arange(1, count + 1)
    near = ndimage.binary_dilation(truth == TARGET, EIGHT_CONNECTED)
    on_target, left_open = (_mean_inside(where, labels, index) for where in (near, truth == IGNORED))
    return [
        True if share > 0.5 else None if unknown > 0.5 else False
        for share, unknown in zip(on_target, left_open, strict=True)
    ]


def has_target(truth: np.ndarray) -> bool | None:
    """Whether a mask from [`read_mask`] holds a target; `None` if it has no target but pixels to ignore."""
    if (truth == TARGET).any():
        return True
    return None if (truth == IGNORED).any() else False


def _mean_inside(values: np.ndarray, labels: np.ndarray, index: np.ndarray) -> list[float]:
    """Mean of the values inside each of the components `index`."""
    return [float(value) for value in ndimage.mean(values, labels, index)] if len(index) else []


def _box(place: tuple[slice, slice]) -> list[float]:
    rows, cols = place
    return [float(n) for n in (cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start)]


def contrast(frame: np.ndarray, labels: np.ndarray, centres: Sequence[tuple[int, int]]) -> list[float]:
    """
    Response of the four white-box operators to each candidate, `n` values.

    The operators run with their classical parameters, independent of the teacher, on a window of `WINDOW` pixels around
    the candidate. At each pixel the response is the maximum over an operator's scales, averaged over the operators; a
    candidate's contrast is the maximum over its pixels. Units are those of [`PriorPyramid`]: log(1 + response / mean
    response in the window).

    Args:
        frame: `(H, W)` in sensor units.
        labels: label map `(H, W)` of the candidates, numbered from 1.
        centres: (row, column) of a pixel of each candidate.
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
