"""Pictures of pseudo-labelled frames."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import datasets
import numpy as np
from PIL import Image
from scipy import ndimage

from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.data.masks import read_target
from scalpel_hf.modeling.image_processing_infrared import read_frame
from scalpel_hf.visualization import GREEN, RED, gray

from .columns import is_above
from .output import Labelled

YELLOW = (250, 210, 40)


def file_name(name: str) -> str:
    """For a frame's picture: names may hold what files' names can't."""
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def case_pictures(
    labelled: Labelled, names: set[str], truth: datasets.Dataset | None
) -> Iterable[tuple[str, Image.Image]]:
    """Of each frame of those names the frame, its soft mask, and the frame with its labels outlined."""
    places = {name: index for index, name in enumerate(truth["name"])} if truth is not None else {}
    for row in _rows_named(labelled, names):
        frame, confidence = read_frame(row["image"]).astype(np.float32), read_frame(row["pseudo_confidence"])
        taken = np.zeros(frame.shape, bool) if row["pseudo_mask"] is None else read_target(row["pseudo_mask"])
        left_open = is_above(confidence, row["teacher"]["threshold"]) & ~taken
        outlined = np.array(gray(frame))
        if truth is not None and row["name"] in places:
            _outline(outlined, read_target(truth[places[row["name"]]]["mask"]), GREEN, 1)
        _outline(outlined, taken, RED, 2)
        _outline(outlined, left_open, YELLOW, 2)
        soft = np.repeat(confidence[..., None], 3, axis=2)
        gap = np.full((frame.shape[0], 4, 3), 255, np.uint8)
        yield row["name"], Image.fromarray(np.concatenate([np.array(gray(frame)), gap, soft, gap, outlined], axis=1))


def _rows_named(labelled: Labelled, names: set[str]) -> Iterable[dict[str, Any]]:
    if isinstance(labelled, datasets.Dataset):
        indices = [i for i, name in enumerate(labelled["name"]) if name in names]
        return (labelled[i] for i in indices)
    return (row for row in undecoded(labelled) if row["name"] in names)


def picture_grid(pictures: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """Pictures below one another."""
    height = sum(picture.height + gap for picture in pictures) - gap
    grid = Image.new("RGB", (max(picture.width for picture in pictures), height), "white")
    y = 0
    for picture in pictures:
        grid.paste(picture, (0, y))
        y += picture.height + gap
    return grid


def _outline(picture: np.ndarray, mask: np.ndarray, color: tuple[int, int, int], distance: int) -> None:
    far, near = (ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=d) for d in (distance + 1, distance))
    picture[far & ~near] = color
