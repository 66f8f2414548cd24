"""Between one foreground logit a pixel and transformers' semantic segmentation: class maps in, two classes out."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

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


def as_two_classes(logits: Tensor) -> Tensor:
    """
    Logits `(B, 2, H, W)` of background and target from foreground logits `(B, 1, H, W)`.

    The background's are 0 and the target's the foreground logit z itself, so that `argmax(1)`, `softmax(1)[:, 1]` and
    `sigmoid()[:, 1]` all say the same: a target where z > 0, with the probability 1 / (1 + exp(-z)).
    """
    return torch.cat([torch.zeros_like(logits), logits], 1)


def as_foreground(logits: Tensor) -> Tensor:
    """
    Foreground logits `(B, 1, H, W)` of logits with one channel (unchanged) or two (target minus background, whose
    sigmoid is the softmax).

    Raises `ValueError` on another shape.
    """
    if logits.ndim != 4 or logits.shape[1] not in (1, 2):
        raise ValueError(f"Logits have the shape (B, 1|2, height, width), got {tuple(logits.shape)}.")
    return logits if logits.shape[1] == 1 else logits[:, 1:] - logits[:, :1]


def class_maps(probabilities: Sequence[Tensor]) -> list[Tensor]:
    """Of each frame's probabilities `(H, W)` its class ids, int64: 1 where the target is the likelier class, else 0."""
    return [(probability > 0.5).long() for probability in probabilities]


__all__ = ["IGNORE_INDEX", "as_foreground", "as_two_classes", "class_maps", "read_segmentation_maps"]
