"""Infrared frames from files and arrays, in NumPy and Pillow alone: what runs without torch reads them too."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from PIL import Image, ImageSequence

if TYPE_CHECKING:
    import torch

ImageLike: TypeAlias = Union[str, os.PathLike, bytes, dict[str, Any], Image.Image, np.ndarray, "torch.Tensor"]

NUMBER_MODES = ("L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow modes whose pixels are one number
REC_601_LUMA = (0.299, 0.587, 0.114)


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
    torch = sys.modules.get("torch")  # without it, there are no tensors
    if torch is not None and isinstance(image, torch.Tensor):
        image = (image.float() if image.dtype == torch.bfloat16 else image).detach().cpu().numpy()
    if not isinstance(image, np.ndarray):
        raise ValueError(f"A frame is a path, PIL image, NumPy array or torch tensor, got {type(image).__name__}.")
    return _check_frame(_array_to_gray(image))


def read_pages(path: str | os.PathLike) -> Iterator[np.ndarray]:
    """Frames of an image file with one page or several, such as a recorded sequence as TIFF, one after the other.

    Args and errors as of [`read_frame`], but that several pages are none.
    """
    with _opened(path, os.fspath(path)) as image:
        for page in ImageSequence.Iterator(image):
            _check_size(page)
            yield _check_frame(_page_to_gray(page))


def _read_file(source: str | os.PathLike | BytesIO, name: str) -> np.ndarray:
    with _opened(source, name) as image:
        _check_size(image)
        return _check_frame(_pil_to_gray(image))


@contextmanager
def _opened(source: str | os.PathLike | BytesIO, name: str) -> Iterator[Image.Image]:
    """An open image; whatever goes wrong with it is an error that names the file."""
    try:
        with Image.open(source) as image:
            yield image
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise  # they name the file
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    except Image.DecompressionBombError as error:
        raise OSError(f"{name}: too large ({error}); raise `PIL.Image.MAX_IMAGE_PIXELS` if you trust it") from error
    except Exception as error:  # Pillow's decoders raise SyntaxError, struct.error, EOFError, ... on broken files
        raise OSError(f"{name}: truncated, or not an image that can be read ({error})") from error


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")


def _pil_to_gray(image: Image.Image) -> np.ndarray:
    if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
        raise ValueError(f"holds {getattr(image, 'n_frames', 1)} frames: store each in its own file.")
    return _page_to_gray(image)


def _page_to_gray(image: Image.Image) -> np.ndarray:
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


__all__ = ["read_frame", "read_pages"]
