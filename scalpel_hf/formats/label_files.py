"""One reader for all formats of labels, chosen by the format's name."""

from collections.abc import Callable, Iterator
from pathlib import Path

from scalpel_hf.data.masks import MaskValues

from .coco import read_coco
from .human_labels import HumanLabel
from .label_studio import read_label_studio
from .mask_files import read_masks
from .plain_json import read_boxes
from .voc import read_voc_boxes
from .yolo import read_yolo

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
    Yields the labels in a file or folder.

    Args:
        kind: the format, one of `READABLE`; `json` is the one of [`read_boxes`].
        path: the file; for `masks`, `voc` and `yolo` the folder of the files.
        category: the class that counts as target, in formats with classes.
        mask_values, say: as in [`read_masks`]; for `masks` only.

    Raises `ValueError` for an argument that the format doesn't take, and `LabelFileError` where the format's reader
    does.
    """
    if category is not None and kind not in WITH_CATEGORIES:
        raise ValueError(f"a category is for {', '.join(WITH_CATEGORIES)}; the format {kind} has none: leave it out")
    if mask_values is not None and kind != "masks":
        raise ValueError(f"mask values are for masks; the format {kind} has none: leave them out")
    if kind == "masks":
        return read_masks(path, mask_values, say=say)
    return read_boxes(path) if kind == "json" else WITH_CATEGORIES[kind](path, category)
