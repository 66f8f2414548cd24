"""Linear normalisations of infrared frames to the input of students and of SAM.

`scalpel_hf/runtime/preprocessing.py` has the same without torch.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .frame_io import ImageLike, read_frame

NORMALIZATIONS = ("zscore", "percentile", "range")
RANGE = 8.0  # gives frames about the same spread as z-scores
SAM_MEAN = (123.675, 116.28, 103.53)  # mean and standard deviation of ImageNet's channels, on a scale of 0 to 255
SAM_STD = (58.395, 57.12, 57.375)


def normalize_frame(
    frame: torch.Tensor, normalization: str = "zscore", percentiles: Sequence[float] = (1.0, 99.0)
) -> torch.Tensor:
    """Normalise a frame linearly by its own statistics. No value is clipped; a constant frame gives zeros.

    - `"zscore"`: (x - mean) / std, with the standard deviation of the population.
    - `"percentile"`: (x - p_lo) / (p_hi - p_lo), with linearly interpolated percentiles. If both are equal, as in a
      black sky with one star, the divisor is max - min.
    - `"range"`: 8 (x - mean) / (max - min). Values are relative to the frame's contrast, while z-scores amplify the
      texture of a uniform frame.

    Args:
        frame: (H, W), floating point.
        normalization: `"zscore"`, `"percentile"` or `"range"`.
        percentiles: (lo, hi) in percent, for `"percentile"`.

    Returns:
        (H, W), of the same dtype.

    Raises:
        ValueError: if `normalization` is another.

    Examples:
        >>> normalize_frame(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "range")
        tensor([[-4.0000, -1.3333],
                [ 1.3333,  4.0000]])
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
    """Convert a frame to SAM's input.

    The frame's [min, max] is scaled to [0, 255], so that an earlier linear normalisation makes no difference. It is
    resized to a longest side of `size` (bilinearly, with antialiasing if it shrinks), repeated in three channels,
    normalised by `mean` and `std`, and padded with zeros at the bottom and right.

    Args:
        frame: (H, W), floating point.
        size: side of SAM's square input in pixels.
        mean: of the input's channels, on a scale of 0 to 255.
        std: standard deviation of the input's channels, on the same scale.

    Returns:
        Pixel values (3, `size`, `size`), float32, and a box (4,): the region (x0, y0, x1, y1) of the input that the
        frame covers, (0, 0, resized width, resized height).

    Examples:
        >>> pixel_values, box = to_sam_input(torch.rand(120, 160), size=256)
        >>> pixel_values.shape, box
        (torch.Size([3, 256, 256]), tensor([  0.,   0., 256., 192.]))
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
