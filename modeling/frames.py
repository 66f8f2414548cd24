"""Infrared frames as arrays and tensors: reading them, and the linear maps that models want to see them through."""

import math
import os
from collections.abc import Sequence
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

ImageLike: TypeAlias = str | os.PathLike | bytes | dict[str, Any] | Image.Image | np.ndarray | torch.Tensor

NORMALIZATIONS = ("zscore", "percentile")
NUMBER_MODES = ("L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow modes whose pixels are one number
REC_601_LUMA = (0.299, 0.587, 0.114)
SAM_MEAN = (123.675, 116.28, 103.53)  # of SAM's training images, on a scale of 0 to 255
SAM_STD = (58.395, 57.12, 57.375)


def read_frame(image: ImageLike) -> np.ndarray:
    """Pixels of one infrared frame as a (H, W) array in the image's own dtype: nothing is scaled or clipped.

    Colour images whose channels are equal give that channel, others their Rec. 601 luma; alpha is dropped, palettes
    are looked up, one-bit images become 0 and 255. EXIF orientation is left alone: frame and mask share one grid.

    Args:
        image: path, a file's bytes, an undecoded cell of a `datasets.Image` column (`{"bytes", "path"}`), PIL image,
            NumPy array or torch tensor; arrays are (H, W), (H, W, 1 to 4) or (1|3, H, W).

    Raises:
        OSError: if a file is missing, unreadable, truncated or larger than `PIL.Image.MAX_IMAGE_PIXELS`.
        ValueError: if a file has several frames or 16-bit colour channels, or an array has another shape or dtype, no
            pixels, or pixels that are NaN or infinite. Either message names the file.
    """
    if isinstance(image, dict):
        image = image["path"] if image.get("bytes") is None else image["bytes"]
    if isinstance(image, bytes):
        return _read_file(BytesIO(image), "The image given as bytes")
    if isinstance(image, str | os.PathLike):
        return _read_file(image, os.fspath(image))
    if isinstance(image, Image.Image):
        return _check_frame(_pil_to_gray(image))
    if isinstance(image, torch.Tensor):
        image = (image.float() if image.dtype == torch.bfloat16 else image).detach().cpu().numpy()
    if not isinstance(image, np.ndarray):
        raise ValueError(f"A frame is a path, PIL image, NumPy array or torch tensor, got {type(image).__name__}.")
    return _check_frame(_array_to_gray(image))


def normalize_frame(
    frame: torch.Tensor, normalization: str = "zscore", percentiles: Sequence[float] = (1.0, 99.0)
) -> torch.Tensor:
    """Linear normalisation of a frame by its own statistics; no value is clipped.

    `"zscore"`: (x - mean) / std, with the population's standard deviation. `"percentile"`: (x - p_lo) / (p_hi - p_lo),
    percentiles interpolated linearly; should the two coincide, as on a black sky with one star, the frame's range
    takes the place of p_hi - p_lo. A constant frame gives zeros.

    Args:
        frame: (H, W), floating point.
        normalization: `"zscore"` or `"percentile"`.
        percentiles: (lo, hi) in percent.

    Returns:
        (H, W) of the same dtype.
    """
    frame = frame - frame.min()  # first, so that float32 keeps the digits of a 16-bit frame with a large offset
    if normalization == "zscore":
        offset, scale = frame.mean(), frame.std(correction=0)
    elif normalization == "percentile":
        low, high = (_percentile(frame, q) for q in percentiles)
        offset, scale = low, torch.where(high > low, high - low, frame.max())
    else:
        raise ValueError(f"`normalization` is one of {NORMALIZATIONS}, got {normalization!r}.")
    return (frame - offset) / torch.where(scale > 0, scale, 1)


def to_sam_input(frame: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A frame as SAM sees it: [min, max] to [0, 255], three channels, longest side `size`, SAM's mean and std, padded.

    The rescaling is linear, so any linear normalisation of the frame before it makes no difference. Resizing is
    bilinear, with antialiasing where it shrinks; padding is zeros at the bottom and the right.

    Args:
        frame: (H, W), floating point.
        size: side of SAM's square input in pixels.

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
    mean, std = (gray.new_tensor(values)[:, None, None] for values in (SAM_MEAN, SAM_STD))
    pixel_values = F.pad((gray - mean) / std, (0, size - new_width, 0, size - new_height))
    return pixel_values, gray.new_tensor([0, 0, new_width, new_height])


def _read_file(source: str | os.PathLike | BytesIO, name: str) -> np.ndarray:
    try:
        with Image.open(source) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            return _check_frame(_pil_to_gray(image))
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise  # they name the file
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    except Image.DecompressionBombError as error:
        raise OSError(f"{name}: too large ({error}); raise `PIL.Image.MAX_IMAGE_PIXELS` if you trust it") from error
    except Exception as error:  # Pillow's decoders raise SyntaxError, struct.error, EOFError, ... on broken files
        raise OSError(f"{name}: truncated, or not an image that can be read ({error})") from error


def _pil_to_gray(image: Image.Image) -> np.ndarray:
    if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
        raise ValueError(f"holds {getattr(image, 'n_frames', 1)} frames: store each in its own file.")
    if image.mode in NUMBER_MODES:
        return np.asarray(image)
    if any(_raw_mode(tile).endswith((";16B", ";16L", ";16N")) for tile in getattr(image, "tile", [])):
        raise ValueError("has several channels of 16 bits, which Pillow cuts to 8: store it as 16-bit gray.")
    if image.mode == "1":
        return np.asarray(image.convert("L"))
    return _array_to_gray(np.asarray(image.convert("RGBA" if image.mode == "P" else "RGB")))


def _raw_mode(tile: Any) -> str:
    """Pixel layout in the file, such as `"RGB;16B"`, of an entry of the list that Pillow decodes an image by."""
    return str(tile[3][0] if isinstance(tile[3], tuple) else tile[3])


def _array_to_gray(array: np.ndarray) -> np.ndarray:
    """(H, W) of an array (H, W), (H, W, 1 to 4) or (1|3, H, W)."""
    if array.ndim == 2:
        return array
    channels_last = array.ndim == 3 and array.shape[2] in (1, 2, 3, 4)
    channels_first = array.ndim == 3 and array.shape[0] in (1, 3)
    if channels_last == channels_first:
        problem = "may have its channels first or last; pass (H, W)" if channels_last else "is no frame's"
        raise ValueError(
            f"Shape {array.shape} {problem}. A frame is (H, W), (H, W, 1 to 4) or (1|3, H, W); several make a list."
        )
    channels = array if channels_last else np.moveaxis(array, 0, 2)  # (H, W, C)
    channels = channels[..., : 3 if channels.shape[2] >= 3 else 1]  # without alpha
    gray = channels[..., 0]
    if (channels == gray[..., None]).all():
        return gray
    luma = channels @ np.array(REC_601_LUMA)
    return (np.rint(luma) if array.dtype.kind in "ui" else luma).astype(array.dtype)


def _check_frame(frame: np.ndarray) -> np.ndarray:
    if frame.dtype.kind not in "buif":
        raise ValueError(f"A frame has a numeric dtype, got {frame.dtype}.")
    if frame.size == 0:
        raise ValueError(f"A frame has pixels, got the shape {frame.shape}.")
    if frame.dtype.kind == "f" and not np.isfinite(frame).all():
        raise ValueError("A frame has finite pixels, some here are NaN or infinite.")
    if frame.dtype.kind == "b":
        return frame.astype(np.uint8) * 255
    return frame.astype(frame.dtype.newbyteorder("="), copy=False)


def _percentile(values: torch.Tensor, percent: float) -> torch.Tensor:
    """Linearly interpolated percentile. `torch.quantile` sorts, and refuses frames of more than 2^24 pixels."""
    values = values.flatten()
    position = percent / 100 * (len(values) - 1)
    rank = int(position)
    low = values.kthvalue(rank + 1).values
    high = values.kthvalue(min(rank + 2, len(values))).values
    return torch.lerp(low, high, position - rank)


__all__ = ["normalize_frame", "read_frame", "to_sam_input"]
