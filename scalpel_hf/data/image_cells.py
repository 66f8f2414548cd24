"""Images as cells of a data set: undecoded, `{"bytes", "path"}`."""

from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import datasets
import fsspec
import numpy as np
from PIL import Image

from scalpel_hf.modeling.frame_io import FORMATS, NUMBER_MODES, is_plain_file, open_image, open_plain_file

AnyDataset = TypeVar("AnyDataset", datasets.Dataset, datasets.IterableDataset)

COLOUR_NOISE = 32  # of 255
PNG_MODES = ("1", "L", "P", "RGB", "RGBA", "I;16")  # of Pillow, which PNG keeps as they are


def image_columns(features: datasets.Features) -> list[str]:
    """The columns that hold images."""
    return [column for column, feature in features.items() if isinstance(feature, datasets.Image)]


def undecoded(dataset: AnyDataset) -> AnyDataset:
    """Image columns as their files' bytes: nothing is decoded that isn't looked at, and nothing by anyone but
    [`read_frame`]."""
    for column in image_columns(dataset.features or {}):
        dataset = dataset.cast_column(column, datasets.Image(mode=dataset.features[column].mode, decode=False))
    return dataset


def stored_cell(cell: dict[str, Any]) -> dict[str, Any]:
    """
    An image's cell as a data set stores it: every program reads the same image, wherever the data set is moved.

    It holds the file's bytes and its name without folders. A file with an orientation, or whose first page is a
    thumbnail, is stored again, without loss, as [`read_frame`] reads it. Any other file stays byte for byte, also one
    that can't be read.

    Raises `OSError` where the cell's path leads to no file that can be read, and `ValueError` where there is no path.
    """
    content = cell_content(cell)
    name = cell["path"] and PurePosixPath(cell["path"]).name
    try:
        if is_plain_file(content):
            return {"bytes": content, "path": name}
        with open_image(content) as image:
            anew, suffix = _encoded(image)
    except (OSError, ValueError):
        return {"bytes": content, "path": name}
    return {"bytes": anew, "path": name and Path(name).stem + suffix}


def kind_of_file(content: bytes) -> tuple[str | None, str]:
    """Format and mode of an image file, as Pillow calls them; no pixel is decoded."""
    with Image.open(BytesIO(content), formats=list(FORMATS)) as image:
        return image.format, image.mode


def is_coloured(content: bytes) -> bool:
    """Whether channels of an image file differ, by more than the noise that JPEG adds to gray ones."""
    if kind_of_file(content)[1] in (*NUMBER_MODES, "1", "LA"):
        return False
    with open_image(content) as image:
        channels = np.asarray(image.convert("RGB")).astype(np.int16)
    return bool((np.ptp(channels, axis=2) > COLOUR_NOISE).any())


def cell_content(cell: dict[str, Any]) -> bytes:
    """The bytes of an undecoded image; raises as [`stored_cell`] does."""
    path, content = cell["path"], cell["bytes"]
    if content is not None:
        return content
    if not path:
        raise ValueError("an image's cell is empty: it has neither bytes nor a path")
    is_on_hub = path.split("::")[-1].startswith("hf://")  # a streamed folder of images, perhaps in an archive
    with fsspec.open(path, "rb") if is_on_hub else open_plain_file(path) as file:
        return file.read()


def stored_cells(columns: dict[str, list], features: datasets.Features) -> dict[str, list]:
    """The image columns of a batch of undecoded rows, each cell a [`stored_cell`]; one whose file can't be read stays,
    for [`read_frame`] to say what is wrong with it."""

    def attempt(cell: dict[str, Any] | None) -> dict[str, Any] | None:
        try:
            return cell and stored_cell(cell)
        except (OSError, ValueError):
            return cell

    return {column: [attempt(cell) for cell in columns[column]] for column in image_columns(features)}


def _encoded(image: Image.Image) -> tuple[bytes, str]:
    """A file of the same pixels, and its suffix."""
    kind, suffix = ("PNG", ".png") if image.mode in PNG_MODES else ("TIFF", ".tif")
    if image.mode in NUMBER_MODES:
        array = np.asarray(image)
        image = Image.fromarray(array.astype(array.dtype.newbyteorder("=")))  # without the tags that it came with
        kind, suffix = ("PNG", ".png") if array.dtype in (np.uint8, np.uint16) else ("TIFF", ".tif")
    elif kind == "TIFF":
        image, kind, suffix = image.convert("RGBA" if image.mode in ("LA", "PA", "La") else "RGB"), "PNG", ".png"
    buffer = BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue(), suffix
