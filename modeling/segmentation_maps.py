"""Segmentation maps beside frames, as trainings of transformers' semantic segmentation pass them to a processor."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

IGNORE_INDEX = 255


def read_segmentation_maps(maps: Any, sizes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """
    Class maps, one `(H, W)` int64 array a frame: 0 background, 1 target, 255 ignored.

    Args:
        maps: an image, array or tensor with these values, or a list of such, one a frame.
        sizes: height and width of each frame.

    Raises `ValueError`, with the map's number, on other values and sizes. Warns of a map of 0 and 255 alone: it may be
    a mask whose targets are 255.
    """
    is_batch = isinstance(maps, list | tuple) or getattr(maps, "ndim", 0) == 3
    items = list(maps) if is_batch else [maps]
    if len(items) != len(sizes):
        raise ValueError(f"{len(items)} segmentation maps do not pair with {len(sizes)} frames.")
    return [_read(index, item, size) for index, (item, size) in enumerate(zip(items, sizes, strict=True))]


def _read(index: int, item: Any, size: tuple[int, ...]) -> np.ndarray:
    name = f"Segmentation map {index}"
    if isinstance(item, str | bytes):
        raise ValueError(f"{name} is {type(item).__name__}: pass an image, an array or a tensor.")
    array = np.asarray(item if isinstance(item, Image.Image) else getattr(item, "numpy", lambda: item)())
    if array.shape != tuple(size):
        raise ValueError(f"{name} has the shape {array.shape}, its frame {tuple(size)}.")
    values = set(np.unique(array).tolist())
    if not values <= {0, 1, IGNORE_INDEX}:
        found = ", ".join(f"{value:g}" for value in sorted(values)[:5])
        raise ValueError(f"{name} has values such as {found}: 0 is background, 1 target, {IGNORE_INDEX} ignored.")
    if values == {0, IGNORE_INDEX}:
        warnings.warn(
            f"{name} has the values 0 and {IGNORE_INDEX} alone, and {IGNORE_INDEX} is what a training ignores: divide "
            f"a mask whose targets are {IGNORE_INDEX} by {IGNORE_INDEX} first.",
            stacklevel=4,
        )
    return array.astype(np.int64)


__all__ = ["IGNORE_INDEX", "read_segmentation_maps"]
