"""A frame's normalisation, in NumPy."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

NORMALIZATIONS = ("zscore", "percentile", "range")
ROWS = 256  # of a frame that are held in double precision at a time


def normalize_frame(
    frame: np.ndarray, normalization: str = "zscore", percentiles: Sequence[float] = (1.0, 99.0)
) -> np.ndarray:
    """
    The frame as a student sees it: what `scalpel_hf.modeling.normalize_frame` computes, in double precision.

    `"zscore"`: (x - mean) / std. `"percentile"`: (x - p_lo) / (p_hi - p_lo), or over the frame's range where the two
    coincide. `"range"`: 8 (x - mean) / (max - min). Nothing is clipped; a constant frame gives zeros.

    Args:
        frame: `(H, W)`, of any numeric type.
        normalization: `"zscore"`, `"percentile"` or `"range"`.
        percentiles: (lo, hi) in percent, for `"percentile"`.

    Returns `(H, W)` float32.
    """
    offset, scale = offset_and_scale(frame, normalization, percentiles)
    return apply_normalization(frame, offset, scale)


def offset_and_scale(frame: np.ndarray, normalization: str, percentiles: Sequence[float]) -> tuple[float, float]:
    """The two numbers that normalise a frame, (x - minimum - offset) / scale; see [`normalize_frame`]."""
    lowest = float(frame.min())
    highest = float(frame.max()) - lowest
    if normalization == "percentile":
        check_percentiles(percentiles)
        if frame.dtype.kind == "u":  # exact as it is, in an eighth of the memory: differences can't wrap
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
    """`(x - lowest - offset) / scale` as float32; `lowest` is the frame's minimum, unless this is part of one."""
    return ((centred(frame, lowest) - offset) / scale).astype(np.float32)


def centred(frame: np.ndarray, lowest: float | None = None) -> np.ndarray:
    """The frame in double precision less its minimum, so that float32 can hold what is left of 16 bits and more."""
    x = frame.astype(np.float64)
    return x - (x.min() if lowest is None else lowest)


def check_percentiles(percentiles: Any) -> None:
    """Raises `ValueError` unless these are two numbers, 0 <= lo < hi <= 100."""
    numbers = isinstance(percentiles, list | tuple) and [float(p) for p in percentiles if isinstance(p, int | float)]
    if not numbers or len(numbers) != len(percentiles) or len(numbers) != 2 or not 0 <= numbers[0] < numbers[1] <= 100:
        raise ValueError(f"`percentiles` are (lo, hi) with 0 <= lo < hi <= 100, got {percentiles!r:.200}")


def _blocks(frame: np.ndarray) -> Iterator[np.ndarray]:
    """Some rows at a time, less the whole frame's minimum, in double precision."""
    lowest = float(frame.min())
    for first in range(0, len(frame), ROWS):
        yield centred(frame[first : first + ROWS], lowest)
