"""Infrared frames from files and arrays, in NumPy and Pillow alone: what runs without torch reads them too."""

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

# The kinds of files that are read, whatever a file is called, and what files of that kind are called, the usual suffix
# first. Pillow knows more, some of which start other programs (EPS), or are many kinds in one (FITS, HDF5).
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

NUMBER_MODES = ("L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow modes whose pixels are one number
REC_601_LUMA = (0.299, 0.587, 0.114)
TURNED = range(2, 9)  # EXIF orientations other than as stored
PNG_TAGS = (b"eXIf", b"iTXt", b"zTXt", b"tEXt")  # kinds of PNG chunks that may hold an orientation
REDUCED_OR_MASK = 0b101  # bits of TIFF's NewSubfileType: a page that shows another one smaller, or is its mask
OLD_REDUCED = 2  # of TIFF's older SubfileType


def read_frame(image: ImageLike) -> np.ndarray:
    """Pixels of one infrared frame as a (H, W) array in the image's own dtype: nothing is scaled or clipped.

    A file gives the frame as viewers, `datasets` and transformers show it: turned as its EXIF or TIFF orientation says.
    Colour images whose channels are equal give that channel, others their Rec. 601 luma; alpha is dropped, palettes
    are looked up, one-bit images become 0 and 255. Thumbnails and masks that a file holds beside its frame are passed
    over.

    Args:
        image: path, a file's bytes, an undecoded cell of a `datasets.Image` column (`{"bytes", "path"}`), PIL image,
            NumPy array or torch tensor; arrays are (H, W), (H, W, 1 to 4) or (1|3, H, W).

    Raises:
        OSError: if a file is missing, of another kind than `FORMATS`, unreadable, truncated (of a JPEG file also where
            its decoder would make up the rest) or larger than `PIL.Image.MAX_IMAGE_PIXELS`, or if there is a pipe or
            device in its place.
        ValueError: if a file has several frames or 16-bit colour channels, or an array has another shape or dtype, no
            pixels, or pixels that are NaN or infinite. Either message names the file.
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
        raise ValueError(f"A frame is a path, PIL image, NumPy array or torch tensor, got {type(image).__name__}.")
    return _check_frame(_array_to_gray(image))


def read_pages(path: str | os.PathLike, skip: Callable[[Exception], object] | None = None) -> Iterator[np.ndarray]:
    """Frames of an image file with one page or several, such as a recorded sequence as TIFF, one after the other.

    `skip` is called with what is wrong with a page that can't be read, which is left out then. Other arguments and
    errors are those of [`read_frame`], except that several pages are no error.
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
    """How many frames an image file holds, see [`read_pages`]; raises `OSError` as [`read_frame`] does."""
    with _opened(path) as image:
        return sum(1 for _ in _pages(image))


@contextmanager
def open_image(source: str | os.PathLike | bytes | Image.Image, name: str | None = None) -> Iterator[Image.Image]:
    """What [`read_frame`] takes a file's pixels from: its frame's page, decoded and turned, in Pillow's mode.

    Args and errors as of [`read_frame`]; `name` is what errors call bytes. Errors that are raised while it is open name
    the file too.
    """
    if not isinstance(source, Image.Image):
        with _opened(source, name) as image:
            yield _decoded(_only_page(image))
    elif getattr(source, "tile", None) and getattr(source, "filename", None) and source.tell() == 0:
        with open_image(source.filename) as image:  # type: ignore[attr-defined]  # opened, not decoded: as any file
            yield image
    else:
        yield _decoded(_page_of(source))


def file_orientation(source: str | os.PathLike | bytes) -> int:
    """How a file asks to be turned: EXIF's orientation, 1 for as stored, 2 to 8 for what [`read_frame`] turns.

    Args and errors as of [`read_frame`].
    """
    if isinstance(source, bytes) and source.startswith(b"\x89PNG") and not any(kind in source for kind in PNG_TAGS):
        return 1  # without decoding all of it to find that out
    with _opened(source) as image:
        return _orientation(_only_page(image))


def image_format(content: bytes) -> str:
    """Which of `FORMATS` a file's content is. Raises as [`read_frame`] does."""
    with _opened(content) as image:
        return "JPEG" if image.format == "MPO" else str(image.format)


def is_plain_file(content: bytes) -> bool:
    """Whether a program that ignores orientations and thumbnails reads the same frame as [`read_frame`].

    Args and errors as of [`read_frame`].
    """
    if file_orientation(content) in TURNED:
        return False
    with _opened(content) as image:
        return _only_page(image).tell() == 0


def turn(array: np.ndarray, orientation: int) -> np.ndarray:
    """An array (H, W) as stored, turned as an EXIF orientation asks for."""
    if orientation in (5, 6, 7, 8):
        array = array.T
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array


def _cell_content(cell: dict[str, Any]) -> str | os.PathLike | bytes:
    content = cell.get("path") if cell.get("bytes") is None else cell["bytes"]
    if content is None:
        raise ValueError("The image's cell is empty: it has neither bytes nor a path.")
    return content


@contextmanager
def _opened(source: str | os.PathLike | bytes, name: str | None = None) -> Iterator[Image.Image]:
    """An open image; whatever goes wrong with it is an error that names the file, in one line."""
    name = (name or "The image given as bytes") if isinstance(source, bytes) else os.fspath(source)
    # Pillow is given a file instead of its path, as it reads turned TIFF files wrongly where it maps them.
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
    """A file, open to be read. Raises `OSError` naming it, also for a pipe, which one might wait for without end."""
    if "\0" in os.fspath(path):
        raise OSError(f"{os.fspath(path)!r} is no path")
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(f"{os.fspath(path)}: a pipe, socket or device, not an image file")
    return open(path, "rb")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _pages(image: Image.Image) -> Iterator[Image.Image]:
    """The pages of an open file that are frames."""
    if image.format == "MPO":  # a JPEG file; what follows are previews of it, or another camera's view
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
    pages = _pages(image)
    place = next(pages).tell()
    if others := sum(1 for _ in pages):
        raise ValueError(f"holds {1 + others} frames: store each in its own file.")
    image.seek(place)
    return image


def _page_of(image: Image.Image) -> Image.Image:
    """The frame's page of an image that somebody else opened, and perhaps decoded or turned to a page of his choice."""
    if getattr(image, "tile", None) and image.format not in (*FORMATS, "MPO"):
        raise ValueError(f"A PIL image of the kind {image.format} is not decoded: none but {', '.join(FORMATS)} are.")
    return _only_page(image) if getattr(image, "is_animated", False) and image.tell() == 0 else image


def _checked_size(image: Image.Image) -> Image.Image:
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
    return image


def _orientation(image: Image.Image) -> int:
    """Of a page that isn't decoded yet: Pillow forgets a TIFF file's when it decodes it."""
    if image.format == "PNG":
        image.load()  # the chunk may follow the pixels
    orientation = image.getexif().get(Tag.Orientation, 1)
    return orientation if orientation in TURNED else 1


def _decoded(image: Image.Image) -> Image.Image:
    """A page with its pixels, turned as its orientation says."""
    if image.mode not in NUMBER_MODES and any(_is_16_bit(tile) for tile in getattr(image, "tile", [])):
        raise ValueError("has several channels of 16 bits, which Pillow cuts to 8: store it as 16-bit gray.")
    file = (
        getattr(image, "fp", None) if image.format in ("JPEG", "MPO") else None
    )  # none of an image that is decoded already
    image.load()  # which turns a TIFF file already
    if file is not None and not jpeg_is_whole(image, file):
        raise OSError("damaged: its data end before its picture does")
    return ImageOps.exif_transpose(image) if image.getexif().get(Tag.Orientation) in TURNED else image


def _is_16_bit(tile: Any) -> bool:
    """Of an entry of the list that Pillow decodes an image by: whether pixels in the file are as in `"RGB;16B"`."""
    return str(tile[3][0] if isinstance(tile[3], tuple) else tile[3]).endswith((";16B", ";16L", ";16N"))


def _to_gray(image: Image.Image) -> np.ndarray:
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
        problem = "may have its channels first or last; pass (H, W)" if channels_last else "is no frame's"
        raise ValueError(
            f"Shape {array.shape} {problem}. A frame is (H, W), (H, W, 1 to 4) or (1|3, H, W); several make a list."
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
    if frame.dtype.kind not in "buif":
        raise ValueError(f"A frame has a numeric dtype, got {frame.dtype}.")
    if frame.size == 0:
        raise ValueError(f"A frame has pixels, got the shape {frame.shape}.")
    if frame.dtype.kind == "f" and not np.isfinite(frame).all():
        raise ValueError("A frame has finite pixels, some here are NaN or infinite.")
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
