"""Reading of infrared frames from files and arrays. It needs NumPy and Pillow only, as the runtime has no torch."""

import math
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError
from PIL.ExifTags import Base as Tag

from .jpeg_damage import jpeg_is_whole

if TYPE_CHECKING:
    import torch

ImageLike: TypeAlias = Union[str, os.PathLike, bytes, dict[str, Any], Image.Image, np.ndarray, "torch.Tensor"]

# Image formats that are read, recognised by a file's content, and their suffixes, the usual one first. Pillow has more
# formats, but some of them run other programs (EPS) or are containers of many kinds (FITS, HDF5).
FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".mpo"),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "PPM": (".pgm", ".ppm", ".pnm"),
}
IMAGE_SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)

NUMBER_MODES = ("L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow modes with one number for each pixel
REC_601_LUMA = (0.299, 0.587, 0.114)
TURNED = range(2, 9)  # EXIF orientations that need a rotation or a flip
PNG_TAGS = (b"eXIf", b"iTXt", b"zTXt", b"tEXt")  # kinds of PNG chunks that may hold an orientation
REDUCED_OR_MASK = 0b101  # bits of TIFF's NewSubfileType: the page is a thumbnail or a mask of another
OLD_REDUCED = 2  # value of TIFF's older SubfileType for a thumbnail


def read_frame(image: ImageLike) -> np.ndarray:
    """Read one infrared frame as an array (H, W) of the image's own dtype. Values are neither scaled nor clipped.

    Frames from files are rotated and flipped by their EXIF or TIFF orientation, as in viewers, `datasets` and
    transformers. A colour image with equal channels gives that channel, another its Rec. 601 luma. Alpha is dropped,
    palettes are applied, and one-bit images become 0 and 255. TIFF files in which white is zero are inverted.
    Thumbnails and masks beside a file's frame are skipped.

    Args:
        image: path, content of a file as bytes, undecoded cell of a `datasets.Image` column (`{"bytes", "path"}`), PIL
            image, NumPy array or torch tensor. Arrays are (H, W), (H, W, 1 to 4) or (1|3, H, W).

    Raises:
        OSError: if a file is missing, not a regular file, of a format that isn't in `FORMATS`, damaged (also a JPEG
            file that a decoder would complete), or larger than `PIL.Image.MAX_IMAGE_PIXELS`.
        ValueError: if a file has several frames, 16-bit colour channels or floats in which white is zero, or if an
            array has another shape or dtype, no pixels, or NaN or infinite pixels. Both errors name the file.

    Examples:
        >>> read_frame("frame.png").shape
        (64, 96)
        >>> read_frame(np.full((2, 3, 3), 7, np.uint8))  # a colour image with equal channels
        array([[7, 7, 7],
               [7, 7, 7]], dtype=uint8)
    """
    name = None
    if isinstance(image, dict):
        name, image = image.get("path"), _cell_content(image)
    if isinstance(image, str | os.PathLike | bytes | Image.Image):
        with open_image(image, name) as page:
            return _check_frame(_to_gray(page))
    torch = sys.modules.get("torch")  # without it, there are no tensors
    if torch is not None and isinstance(image, torch.Tensor):
        image = (image.float() if image.dtype == torch.bfloat16 else image).detach().cpu().numpy()
    if not isinstance(image, np.ndarray):
        kind = type(image).__name__
        raise ValueError(f"A frame must be a path, bytes, PIL image, NumPy array or torch tensor, got {kind}.")
    return _check_frame(_array_to_gray(image))


def read_pages(path: str | os.PathLike, skip: Callable[[Exception], object] | None = None) -> Iterator[np.ndarray]:
    """Read the frames of an image file with one or several pages, such as a recorded sequence as TIFF, one by one.

    Args:
        path: the file.
        skip: called with the error of a page that can't be read; the page is then left out. Default: raise the error.

    Raises as [`read_frame`] does, except that several frames are allowed.
    """
    with _opened(path) as image:
        for page in _pages(image):
            try:
                frame = _check_frame(_to_gray(_decoded(page)))
            except Exception as error:
                if skip is None:
                    raise
                skip(error)
            else:
                yield frame


def count_pages(path: str | os.PathLike) -> int:
    """Number of frames that [`read_pages`] finds in a file. Raises `OSError` as [`read_frame`] does."""
    with _opened(path) as image:
        return sum(1 for _ in _pages(image))


@contextmanager
def open_image(source: str | os.PathLike | bytes | Image.Image, name: str | None = None) -> Iterator[Image.Image]:
    """Open the PIL image that [`read_frame`] reads: the frame's page, decoded and oriented, in its own mode.

    Args:
        source: path, content of a file as bytes, or PIL image.
        name: name of the bytes in error messages.

    Raises as [`read_frame`] does. Errors raised within the `with` block are given the file's name too.
    """
    if not isinstance(source, Image.Image):
        with _opened(source, name) as image:
            yield _decoded(_only_page(image))
    elif getattr(source, "tile", None) and getattr(source, "filename", None) and source.tell() == 0:
        with open_image(source.filename) as image:  # type: ignore[attr-defined]  # opened but not decoded
            yield image
    else:
        yield _decoded(_selected_page(source))


def file_orientation(source: str | os.PathLike | bytes) -> int:
    """EXIF or TIFF orientation of a path's or bytes' frame, 1 to 8; 1 is as stored, [`turn`] applies the others.

    Raises as [`read_frame`] does.
    """
    if isinstance(source, bytes) and source.startswith(b"\x89PNG") and not any(kind in source for kind in PNG_TAGS):
        return 1  # no need to decode the file
    with _opened(source) as image:
        return _orientation(_only_page(image))


def image_format(content: bytes) -> str:
    """Format of a file's content, a key of `FORMATS`. Raises as [`read_frame`] does."""
    with _opened(content) as image:
        return "JPEG" if image.format == "MPO" else str(image.format)


def is_plain_file(content: bytes) -> bool:
    """Whether a program that only decodes the first page gets the same frame as [`read_frame`].

    `content` is a file's content. Raises as [`read_frame`] does.
    """
    if file_orientation(content) in TURNED:
        return False
    with _opened(content) as image:
        page = _only_page(image)
        return page.tell() == 0 and not _is_inverted(page)


def turn(array: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate and flip an array (H, W), as stored, by an EXIF orientation from 1 to 8.

    Examples:
        >>> turn(np.array([[1, 2], [3, 4]]), 6)  # by 90° clockwise
        array([[3, 1],
               [4, 2]])
    """
    if orientation in (5, 6, 7, 8):
        array = array.T
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array


def _cell_content(cell: dict[str, Any]) -> str | os.PathLike | bytes:
    """The bytes of a `datasets.Image` cell, or else its path."""
    content = cell.get("path") if cell.get("bytes") is None else cell["bytes"]
    if content is None:
        raise ValueError("The image's cell is empty: it has neither bytes nor a path.")
    return content


@contextmanager
def _opened(source: str | os.PathLike | bytes, name: str | None = None) -> Iterator[Image.Image]:
    """Open an image file. Errors, also those of the `with` block, become one line that names the file."""
    name = (name or "The image given as bytes") if isinstance(source, bytes) else os.fspath(source)
    # Pillow gets a file object: of a path, it would memory-map TIFF files, and then decode rotated ones wrongly.
    with BytesIO(source) if isinstance(source, bytes) else open_plain_file(source) as file:
        try:
            with Image.open(file, formats=list(FORMATS)) as image:
                yield image
        except ValueError as error:
            raise ValueError(f"{name}: {_line(error)}") from error
        except Image.DecompressionBombError as error:
            remedy = "raise `PIL.Image.MAX_IMAGE_PIXELS` if you trust it"
            raise OSError(f"{name}: too large ({_line(error)}); {remedy}") from error
        except UnidentifiedImageError as error:
            raise OSError(f"{name}: truncated, or not an image of the kinds {', '.join(FORMATS)}") from error
        except Exception as error:  # Pillow's decoders raise SyntaxError, struct.error, EOFError, ... on broken files
            raise OSError(f"{name}: truncated, or not an image that can be read ({_line(error)})") from error


def open_plain_file(path: str | os.PathLike) -> IO[bytes]:
    """Open a file for reading bytes. Raises `OSError` if it isn't a regular file: reading a pipe might never end."""
    if "\0" in os.fspath(path):
        raise OSError(f"{os.fspath(path)!r} isn't a path")
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(f"{os.fspath(path)}: a pipe, socket or device, not an image file")
    return open(path, "rb")


def _line(error: Exception) -> str:
    """The error's message in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _pages(image: Image.Image) -> Iterator[Image.Image]:
    """The pages of an open file without thumbnails and masks. Raises `ValueError` if there are none."""
    if image.format == "MPO":  # a JPEG file followed by previews or another camera's image
        yield _checked_size(image)
        return
    found = False
    for page in ImageSequence.Iterator(image):
        tags = getattr(page, "tag_v2", {})
        if int(tags.get(Tag.NewSubfileType, 0)) & REDUCED_OR_MASK or tags.get(Tag.SubfileType) == OLD_REDUCED:
            continue
        found = True
        yield _checked_size(page)
    if not found:
        raise ValueError("holds nothing but thumbnails and masks.")


def _only_page(image: Image.Image) -> Image.Image:
    """The file's only frame. Raises `ValueError` if there are several."""
    pages = _pages(image)
    place = next(pages).tell()
    if others := sum(1 for _ in pages):
        raise ValueError(f"holds {1 + others} frames: store each in its own file.")
    image.seek(place)
    return image


def _selected_page(image: Image.Image) -> Image.Image:
    """The frame of a PIL image that the caller opened, at the page that the caller may have selected."""
    if getattr(image, "tile", None) and image.format not in (*FORMATS, "MPO"):
        raise ValueError(f"A PIL image of the kind {image.format} can't be decoded, only {', '.join(FORMATS)} can.")
    return _only_page(image) if getattr(image, "is_animated", False) and image.tell() == 0 else image


def _checked_size(image: Image.Image) -> Image.Image:
    """The image. Raises `DecompressionBombError` if it has too many pixels."""
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF orientation of a page before it's decoded: Pillow applies and removes a TIFF file's in decoding."""
    if image.format == "PNG":
        image.load()  # the chunk may follow the pixels
    orientation = image.getexif().get(Tag.Orientation, 1)
    return orientation if orientation in TURNED else 1


def _decoded(image: Image.Image) -> Image.Image:
    """Decode a page, and apply its orientation."""
    if image.mode not in NUMBER_MODES and any(_is_16_bit(tile) for tile in getattr(image, "tile", [])):
        raise ValueError("has several channels of 16 bits, which Pillow cuts to 8: store it as 16-bit gray.")
    is_jpeg = image.format in ("JPEG", "MPO")
    file = getattr(image, "fp", None) if is_jpeg else None  # None if the image has been decoded already
    image.load()  # applies the orientation of a TIFF file
    if file is not None and not jpeg_is_whole(image, file):
        raise OSError("damaged: its data end before its picture does")
    turned = ImageOps.exif_transpose(image) if image.getexif().get(Tag.Orientation) in TURNED else image
    return _black_as_zero(turned) if _is_inverted(image) else turned


def _is_inverted(image: Image.Image) -> bool:
    """Whether white is zero in a TIFF file's numbers, which Pillow inverts up to 8 bits alone."""
    return image.mode not in ("1", "L") and getattr(image, "tag_v2", {}).get(Tag.PhotometricInterpretation) == 0


def _black_as_zero(image: Image.Image) -> Image.Image:
    """Invert a decoded page in which white is zero. Raises `ValueError` if its numbers have no highest value."""
    if not image.mode.startswith("I;16"):
        raise ValueError(
            "has numbers without a highest value in which white is zero: store them so that black is zero "
            "(PhotometricInterpretation 1)."
        )
    return Image.fromarray(~np.asarray(image, np.uint16))


def _is_16_bit(tile: Any) -> bool:
    """Whether an entry of `Image.tile` has a raw mode of 16 bits, such as `"RGB;16B"`."""
    return str(tile[3][0] if isinstance(tile[3], tuple) else tile[3]).endswith((";16B", ";16L", ";16N"))


def _to_gray(image: Image.Image) -> np.ndarray:
    """(H, W) of a decoded PIL image."""
    if image.mode in NUMBER_MODES:
        return np.asarray(image)
    if image.mode == "1":
        return np.asarray(image.convert("L"))
    return _channels_to_gray(np.asarray(image.convert("RGBA" if image.mode == "P" else "RGB")))


def _array_to_gray(array: np.ndarray) -> np.ndarray:
    """(H, W) of an array (H, W), (H, W, 1 to 4) or (1|3, H, W)."""
    if array.ndim == 2:
        return array
    channels_last = array.ndim == 3 and array.shape[2] in (1, 2, 3, 4)
    channels_first = array.ndim == 3 and array.shape[0] in (1, 3)
    if channels_last == channels_first:
        problem = "may have its channels first or last; pass (H, W)" if channels_last else "isn't that of a frame"
        raise ValueError(
            f"Shape {array.shape} {problem}. A frame is (H, W), (H, W, 1 to 4) or (1|3, H, W); pass several as a list."
        )
    return _channels_to_gray(array if channels_last else np.moveaxis(array, 0, 2))


def _channels_to_gray(channels: np.ndarray) -> np.ndarray:
    """(H, W) of an array (H, W, 1 to 4)."""
    channels = channels[..., : 3 if channels.shape[2] >= 3 else 1]  # without alpha
    gray = channels[..., 0]
    if (channels == gray[..., None]).all():
        return gray
    luma = channels @ np.array(REC_601_LUMA)
    return (np.rint(luma) if channels.dtype.kind in "ui" else luma).astype(channels.dtype)


def _check_frame(frame: np.ndarray) -> np.ndarray:
    """The frame in native byte order, bool as 0 and 255. Raises `ValueError` if it isn't numeric, finite, non-empty."""
    if frame.dtype.kind not in "buif":
        raise ValueError(f"A frame must have a numeric dtype, got {frame.dtype}.")
    if frame.size == 0:
        raise ValueError(f"A frame must have pixels, got the shape {frame.shape}.")
    if frame.dtype.kind == "f" and not np.isfinite(frame).all():
        raise ValueError("A frame must have finite pixels, some are NaN or infinite.")
    if frame.dtype.kind == "b":
        return frame.astype(np.uint8) * 255
    return frame.astype(frame.dtype.newbyteorder("="), copy=False)


__all__ = [
    "FORMATS",
    "IMAGE_SUFFIXES",
    "file_orientation",
    "image_format",
    "is_plain_file",
    "open_image",
    "read_frame",
    "read_pages",
    "turn",
]
