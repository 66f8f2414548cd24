"""Conversions between one foreground logit for each pixel and transformers' semantic segmentation of two classes."""

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
    Read segmentation maps as int64 arrays `(H, W)`: 0 background, 1 target, 255 ignored.

    Args:
        maps: PIL image, array or tensor with these values, or a list of them, one for each frame.
        sizes: `(height, width)` of each frame.

    Raises `ValueError`, with the map's number, for other values and sizes. Warns if a map has only the values 0 and
    255, as it may be a mask whose targets are 255.

    Examples:
        >>> read_segmentation_maps(np.eye(2), sizes=[(2, 2)])
        [array([[1, 0],
               [0, 1]])]
    """
    is_batch = isinstance(maps, list | tuple) or getattr(maps, "ndim", 0) == 3
    items = list(maps) if is_batch else [maps]
    if len(items) != len(sizes):
        raise ValueError(f"{len(items)} segmentation maps do not pair with {len(sizes)} frames.")
    return [_read_map(index, item, size) for index, (item, size) in enumerate(zip(items, sizes, strict=True))]


def _read_map(index: int, item: Any, size: tuple[int, ...]) -> np.ndarray:
    """Read one map, and check its shape and values."""
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


def target_and_weight(labels: Tensor) -> tuple[Tensor, Tensor]:
    """
    The target, float32, and the weight of labels of any shape: in [0, 1], or 255 where a pixel is ignored.

    Raises `ValueError` for other labels.
    """
    valid = labels != IGNORE_INDEX
    target = torch.where(valid, labels, 0).float()
    if not ((target >= 0) & (target <= 1)).all():
        raise ValueError(f"`labels` lie in [0, 1], or are {IGNORE_INDEX} where a pixel is ignored.")
    return target, valid.float()


def as_two_classes(logits: Tensor) -> Tensor:
    """
    Convert foreground logits z `(B, 1, H, W)` to logits `(B, 2, H, W)` of background, 0, and target, z.

    So `softmax(1)[:, 1]` and `sigmoid()[:, 1]` are the same probability, 1 / (1 + exp(-z)), and `argmax(1)` is 1 where
    it exceeds 0.5.

    Examples:
        >>> as_two_classes(torch.full((1, 1, 1, 1), 3.0)).flatten()
        tensor([0., 3.])
    """
    return torch.cat([torch.zeros_like(logits), logits], 1)


def as_foreground(logits: Tensor) -> Tensor:
    """
    Convert logits of one or two channels to foreground logits `(B, 1, H, W)`.

    One channel is returned as it is. With two, background and target, it's the target's minus the background's: its
    sigmoid is the softmax. Raises `ValueError` for another shape.

    Examples:
        >>> as_foreground(torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)).flatten()
        tensor([2.])
    """
    if logits.ndim != 4 or logits.shape[1] not in (1, 2):
        raise ValueError(f"Logits have the shape (B, 1|2, height, width), got {tuple(logits.shape)}.")
    return logits if logits.shape[1] == 1 else logits[:, 1:] - logits[:, :1]


def class_maps(probabilities: Sequence[Tensor]) -> list[Tensor]:
    """Class ids of each frame, int64 `(H, W)`: 1 where the target's probability is above 0.5, else 0."""
    return [(probability > 0.5).long() for probability in probabilities]


__all__ = ["IGNORE_INDEX", "as_foreground", "as_two_classes", "class_maps", "read_segmentation_maps"]
