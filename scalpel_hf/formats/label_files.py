"""Labels of any format that can be read, by the format's name."""

from collections.abc import Callable, Iterator
from pathlib import Path

from scalpel_hf.data.masks import MaskValues

from .box_files import read_boxes, read_voc_boxes, read_yolo
from .coco import read_coco
from .human_labels import HumanLabel
from .label_studio import read_label_studio
from .mask_files import read_masks

WITH_CATEGORIES: dict[str, Callable[[Path, str | None], Iterator[HumanLabel]]] = {
    "coco": read_coco,
    "label-studio": read_label_studio,
    "voc": read_voc_boxes,
    "yolo": read_yolo,
}
READABLE = (*WITH_CATEGORIES, "json", "masks")


def read_label_file(
    kind: str,
    path: Path,
    category: str | None = None,
    mask_values: MaskValues | None = None,
    say: Callable[[str], object] | None = None,
) -> Iterator[HumanLabel]:
    """
    The labels in a file or folder.

    Args:
        kind: one of `READABLE`; `json` is [`read_boxes`]' own.
        category: what is target where a file has several classes.
        mask_values, say: of [`read_masks`].

    Raises `ValueError` for what the format doesn't have, and as its reader does.
    """
    if category is not None and kind not in WITH_CATEGORIES:
        raise ValueError(f"a category is for {', '.join(WITH_CATEGORIES)}: {kind} has none")
    if mask_values is not None and kind != "masks":
        raise ValueError(f"mask values are for masks: {kind} has none")
    if kind == "masks":
        return read_masks(path, mask_values, say=say)
    return read_boxes(path) if kind == "json" else WITH_CATEGORIES[kind](path, category)
