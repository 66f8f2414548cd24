"""Normalises frames in NumPy."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

NORMALIZATIONS = ("zscore", "percentile", "range")
ROWS = 256  # rows of a frame that are held in double precision at a time


def normalize_frame(
    frame: np.ndarray, normalization: str = "zscore", percentiles: Sequence[float] = (1.0, 99.0)
) -> np.ndarray:
    """
    Normalise a frame as `scalpel_hf.modeling.normalize_frame` does for students, in double precision.

    `"zscore"`: (x - mean) / std. `"percentile"`: (x - p_lo) / (p_hi - p_lo), or (x - p_lo) / (max - min) where the two
    percentiles coincide. `"range"`: 8 (x - mean) / (max - min). Nothing is clipped; a constant frame gives zeros.

    Args:
        frame: `(H, W)`, of any numeric type.
        normalization: `"zscore"`, `"percentile"` or `"range"`.
        percentiles: (lo, hi) in percent, for `"percentile"`.

    Returns `(H, W)` float32. Raises `ValueError` for another normalisation or other percentiles.

    Examples:
        >>> normalize_frame(np.array([[0, 4]], dtype=np.uint16), "range")
        array([[-4.,  4.]], dtype=float32)
    """
    offset, scale = offset_and_scale(frame, normalization, percentiles)
    return apply_normalization(frame, offset, scale)


def offset_and_scale(frame: np.ndarray, normalization: str, percentiles: Sequence[float]) -> tuple[float, float]:
    """Offset and scale with which (x - min - offset) / scale is the normalised frame; see [`normalize_frame`]."""
    lowest = float(frame.min())
    highest = float(frame.max()) - lowest
    if normalization == "percentile":
        check_percentiles(percentiles)
        if frame.dtype.kind == "u":  # unsigned integers need no conversion, which would take up to 8 times the memory
            offset, high = (float(p) - lowest for p in np.percentile(frame, percentiles))
        else:
            offset, high = (float(p) for p in np.percentile(centred(frame), percentiles))
        return offset, (high - offset if high > offset else highest) or 1.0
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"`normalization` is `zscore`, `percentile` or `range`, got {normalization!r}")
    offset = sum(float(block.sum()) for block in _blocks(frame)) / frame.size
    if normalization == "range":
        return offset, highest / 8 or 1.0
    squares = sum(float(np.square(block - offset).sum()) for block in _blocks(frame))
    return offset, math.sqrt(squares / frame.size) or 1.0


def apply_normalization(frame: np.ndarray, offset: float, scale: float, lowest: float | None = None) -> np.ndarray:
    """`(x - lowest - offset) / scale` as float32. For a part of a frame, `lowest` is the whole frame's minimum."""
    return ((centred(frame, lowest) - offset) / scale).astype(np.float32)


def centred(frame: np.ndarray, lowest: float | None = None) -> np.ndarray:
    """A frame minus its minimum, or minus `lowest`, in float64, so that less is lost when it becomes float32."""
    x = frame.astype(np.float64)
    return x - (x.min() if lowest is None else lowest)


def check_percentiles(percentiles: Any) -> None:
    """Raises `ValueError` unless these are two numbers, 0 <= lo < hi <= 100."""
    numbers = isinstance(percentiles, list | tuple) and [float(p) for p in percentiles if isinstance(p, int | float)]
    if not numbers or len(numbers) != len(percentiles) or len(numbers) != 2 or not 0 <= numbers[0] < numbers[1] <= 100:
        raise ValueError(f"`percentiles` are (lo, hi) with 0 <= lo < hi <= 100, got {percentiles!r:.200}")


def _blocks(frame: np.ndarray) -> Iterator[np.ndarray]:
    """Yields `ROWS` rows of a frame at a time, minus the whole frame's minimum, in float64."""
    lowest = float(frame.min())
    for first in range(0, len(frame), ROWS):
        yield centred(frame[first : first + ROWS], lowest)
