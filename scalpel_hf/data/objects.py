"""Target masks and the objects in them."""

from io import BytesIO

import numpy as np
from PIL import Image
from scipy import ndimage

EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)


def objects_from_mask(mask: np.ndarray) -> dict[str, list]:
    """
    The 8-connected components of a mask as objects, in COCO's format.

    Args:
        mask (`np.ndarray`): `(H, W)`; nonzero pixels are target. See [`read_target`].

    Returns:
        `dict` of lists with an entry for each object: `bbox`, `[x, y, width, height]` in pixels (float); `area` in
        pixels; `category`, always 0 (target).

    Examples:
        >>> objects_from_mask(np.array([[0, 0, 0], [0, 1, 1]]))
        {'bbox': [[1.0, 1.0, 2.0, 1.0]], 'area': [2], 'category': [0]}
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
