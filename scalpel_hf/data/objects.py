"""Target masks and the objects in them."""

from io import BytesIO

import numpy as np
from PIL import Image
from scipy import ndimage

from scalpel_hf.modeling.frames import ImageLike, read_frame

EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)


def read_mask(source: ImageLike) -> np.ndarray:
    """
    A target mask `(H, W)`, uint8, of 0 (background) and 255 (target), from whatever `read_frame` reads.

    Masks whose values are 0 and 1 are taken as they are; of any other a pixel is target where its value exceeds half
    of the most that its type holds (127 of 255, 32767 of 65535; 0.5 for floating point).

    Raises:
        `OSError` and `ValueError`: as `read_frame` does. `ValueError` also if there are values above 0 and none that
            exceeds half: the scale of such a mask is unknown, and reading it as empty would lose targets in silence.
    """
    frame = read_frame(source)
    top = np.iinfo(frame.dtype).max if frame.dtype.kind in "iu" else 1
    peak = frame.max()
    mask = frame > (top / 2 if peak > 1 or frame.dtype.kind == "f" else 0)
    if peak > 0 and not mask.any():
        raise ValueError(f"values up to {peak} of {top} are neither 0/1 nor above half: rescale the mask to 0/255")
    return mask.astype(np.uint8) * 255


def objects_from_mask(mask: np.ndarray) -> dict[str, list]:
    """
    The 8-connected components of a mask as objects of the COCO kind.

    Args:
        mask (`np.ndarray`): `(H, W)`; target where it isn't 0.

    Returns:
        `dict`: `bbox`, one `[x, y, width, height]` in pixels each (float, the corner is the pixel's own: a single
        pixel in row 3, column 5 is `[5, 3, 1, 1]`); `area`, pixels in each; `category`, 0 for each (target).
    """
    labels, n = ndimage.label(mask != 0, structure=EIGHT_CONNECTED)
    bbox = [
        [float(cols.start), float(rows.start), float(cols.stop - cols.start), float(rows.stop - rows.start)]
        for rows, cols in ndimage.find_objects(labels)
    ]
    area = np.bincount(labels.ravel(), minlength=n + 1)[1:].tolist()
    return {"bbox": bbox, "area": area, "category": [0] * n}


def encode_png(array: np.ndarray) -> bytes:
    """An `(H, W)` uint8 or uint16 array as a PNG file, losslessly."""
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
