"""Infrared frames as models want to see them: the linear maps that take a frame as it was read to a model's input.

`scalpel_hf/runtime/preprocessing.py` has the same without torch.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .frame_io import ImageLike, read_frame

NORMALIZATIONS = ("zscore", "percentile", "range")
RANGE = 8.0  # brings frames to about the spread that z-scores have
SAM_MEAN = (123.675, 116.28, 103.53)  # of SAM's training images, on a scale of 0 to 255
SAM_STD = (58.395, 57.12, 57.375)


def normalize_frame(
    frame: torch.Tensor, normalization: str = "zscore", percentiles: Sequence[float] = (1.0, 99.0)
) -> torch.Tensor:
    """Linear normalisation of a frame by its own statistics; no value is clipped.

    `"zscore"`: (x - mean) / std, with the population's standard deviation. `"percentile"`: (x - p_lo) / (p_hi - p_lo),
    percentiles interpolated linearly; should the two coincide, as on a black sky with one star, the frame's range
    takes the place of p_hi - p_lo. `"range"`: 8 (x - mean) / (max - min), which says how bright a place is beside the
    frame's brightest, where a z-score blows the texture of an even frame up. A constant frame gives zeros.

    Args:
        frame: (H, W), floating point.
        normalization: `"zscore"`, `"percentile"` or `"range"`.
        percentiles: (lo, hi) in percent, for `"percentile"`.

    Returns:
        (H, W) of the same dtype.
    """
    frame = frame - frame.min()  # first, so that float32 keeps the digits of a 16-bit frame with a large offset
    if normalization == "zscore":
        offset, scale = frame.mean(), frame.std(correction=0)
    elif normalization == "percentile":
        low, high = (_percentile(frame, q) for q in percentiles)
        offset, scale = low, torch.where(high > low, high - low, frame.max())
    elif normalization == "range":
        offset, scale = frame.mean(), frame.max() / RANGE
    else:
        raise ValueError(f"`normalization` is one of {NORMALIZATIONS}, got {normalization!r}.")
    return (frame - offset) / torch.where(scale > 0, scale, 1)


def to_sam_input(
    frame: torch.Tensor, size: int, mean: Sequence[float] = SAM_MEAN, std: Sequence[float] = SAM_STD
) -> tuple[torch.Tensor, torch.Tensor]:
    """A frame as SAM sees it: [min, max] to [0, 255], three channels, longest side `size`, SAM's mean and std, padded.

    The rescaling is linear, so any linear normalisation of the frame before it makes no difference. Resizing is
    bilinear, with antialiasing where it shrinks; padding is zeros at the bottom and the right.

    Args:
        frame: (H, W), floating point.
        size: side of SAM's square input in pixels.
        mean, std: of its channels.

    Returns:
        Pixel values (3, `size`, `size`), float32, and the box (4,) as (x0, y0, x1, y1) of the region that the frame
        covers, in pixels of that input: (0, 0, W·s_x, H·s_y) with the scales as used, resized side / side.
    """
    height, width = frame.shape
    scale = size / max(height, width)
    new_height, new_width = (max(1, math.floor(side * scale + 0.5)) for side in (height, width))
    frame = frame - frame.min()
    peak = frame.max()
    gray = (frame * (255 / torch.where(peak > 0, peak, 1))).float()
    gray = F.interpolate(gray[None, None], (new_height, new_width), mode="bilinear", antialias=True)[0]  # (1, h, w)
    offset, spread = (gray.new_tensor(values)[:, None, None] for values in (mean, std))
    pixel_values = F.pad((gray - offset) / spread, (0, size - new_width, 0, size - new_height))
    return pixel_values, gray.new_tensor([0, 0, new_width, new_height])


def _percentile(values: torch.Tensor, percent: float) -> torch.Tensor:
    """Linearly interpolated percentile. `torch.quantile` sorts, and refuses frames of more than 2^24 pixels."""
    values = values.flatten()
    position = percent / 100 * (len(values) - 1)
    rank = int(position)
    low = values.kthvalue(rank + 1).values
    high = values.kthvalue(min(rank + 2, len(values))).values
    return torch.lerp(low, high, position - rank)


__all__ = ["ImageLike", "normalize_frame", "read_frame", "to_sam_input"]
