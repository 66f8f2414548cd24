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
    """Names of the columns with images."""
    return [column for column, feature in features.items() if isinstance(feature, datasets.Image)]


def undecoded(dataset: AnyDataset) -> AnyDataset:
    """The data set with undecoded image columns, so that only [`read_frame`] decodes images, and only those in use."""
    for column in image_columns(dataset.features or {}):
        dataset = dataset.cast_column(column, datasets.Image(mode=dataset.features[column].mode, decode=False))
    return dataset


def stored_cell(cell: dict[str, Any]) -> dict[str, Any]:
    """
    Convert an image's cell to the form in which a data set is saved: the file's content and its name without folders.

    A file with an orientation, or whose first page is a thumbnail, is encoded again without loss, so that every program
    reads the same image as [`read_frame`]. Other files are kept byte for byte, also those that can't be decoded.

    Raises `OSError` if the file at the cell's path can't be read, and `ValueError` if it has neither bytes nor a path.
    """
    content = cell_content(cell)
    name = cell["path"] and PurePosixPath(cell["path"]).name
    try:
        if is_plain_file(content):
            return {"bytes": content, "path": name}
        with open_image(content) as image:
            encoded, suffix = _encoded(image)
    except (OSError, ValueError):
        return {"bytes": content, "path": name}
    return {"bytes": encoded, "path": name and Path(name).stem + suffix}


def kind_of_file(content: bytes) -> tuple[str | None, str]:
    """Pillow's names of an image file's format and mode, without decoding pixels."""
    with Image.open(BytesIO(content), formats=list(FORMATS)) as image:
        return image.format, image.mode


def is_coloured(content: bytes) -> bool:
    """Whether the channels of an image file differ by more than the noise of JPEG compression."""
    if kind_of_file(content)[1] in (*NUMBER_MODES, "1", "LA"):
        return False
    with open_image(content) as image:
        channels = np.asarray(image.convert("RGB")).astype(np.int16)
    return bool((np.ptp(channels, axis=2) > COLOUR_NOISE).any())


def cell_content(cell: dict[str, Any]) -> bytes:
    """The content of an undecoded image's file. Raises as [`stored_cell`] does."""
    path, content = cell["path"], cell["bytes"]
    if content is not None:
        return content
    if not path:
        raise ValueError("an image's cell is empty: it has neither bytes nor a path")
    is_on_hub = path.split("::")[-1].startswith("hf://")  # of a streamed folder of images, may be in an archive
    with fsspec.open(path, "rb") if is_on_hub else open_plain_file(path) as file:
        return file.read()


def stored_cells(columns: dict[str, list], features: datasets.Features) -> dict[str, list]:
    """
    Apply [`stored_cell`] to the image columns of a batch of undecoded rows.

    Cells whose file can't be read stay as they are; the error is raised when [`read_frame`] reads them.
    """

    def attempt(cell: dict[str, Any] | None) -> dict[str, Any] | None:
        try:
            return cell and stored_cell(cell)
        except (OSError, ValueError):
            return cell

    return {column: [attempt(cell) for cell in columns[column]] for column in image_columns(features)}


def _encoded(image: Image.Image) -> tuple[bytes, str]:
    """Encode an image without loss: the content of a PNG or TIFF file, and its suffix."""
    kind, suffix = ("PNG", ".png") if image.mode in PNG_MODES else ("TIFF", ".tif")
    if image.mode in NUMBER_MODES:
        array = np.asarray(image)
        image = Image.fromarray(array.astype(array.dtype.newbyteorder("=")))  # without the file's metadata
        kind, suffix = ("PNG", ".png") if array.dtype in (np.uint8, np.uint16) else ("TIFF", ".tif")
    elif kind == "TIFF":
        image, kind, suffix = image.convert("RGBA" if image.mode in ("LA", "PA", "La") else "RGB"), "PNG", ".png"
    buffer = BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue(), suffix
