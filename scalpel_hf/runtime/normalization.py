"""A frame's normalisation, in NumPy."""

from collections.abc import Sequence

import numpy as np


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
    x = centred(frame)
    if normalization == "zscore":
        offset, scale = x.mean(), x.std()
    elif normalization == "percentile":
        offset, high = np.percentile(x, percentiles)
        scale = high - offset if high > offset else x.max()
    elif normalization == "range":
        offset, scale = x.mean(), x.max() / 8
    else:
        raise ValueError(f"`normalization` is `zscore`, `percentile` or `range`, got {normalization!r}")
    return ((x - offset) / (scale if scale > 0 else 1.0)).astype(np.float32)


def centred(frame: np.ndarray) -> np.ndarray:
    """The frame in double precision less its minimum, so that float32 can hold what is left of 16 bits and more."""
    x = frame.astype(np.float64)
    return x - x.min()
