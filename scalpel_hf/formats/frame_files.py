"""What every export reads of a data set, and folders that are written whole or not at all."""

import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import numpy as np
from scipy import ndimage

from scalpel_hf.data.image_cells import image_columns, stored_cell, undecoded
from scalpel_hf.data.label_sources import BOX, POINT
from scalpel_hf.data.objects import EIGHT_CONNECTED
from scalpel_hf.data.pseudo_columns import training_mask
from scalpel_hf.modeling.frame_io import FORMATS, image_format
from scalpel_hf.utils.files import safe_name

NEEDED_COLUMNS = ("name", "image", "width", "height")

TARGET, IGNORE = "target", "ignore"  # what labels are called in other programs
IGNORED_LOST = "Pixels that quality control left open are background in this format, in the frames"

AnyDataset: TypeAlias = datasets.Dataset | datasets.IterableDataset


class LossyExportWarning(UserWarning):
    """A format that was asked for can't carry some labels as they are; the message names them."""


@dataclass(frozen=True)
class Target:
    """
    An 8-connected component of a mask, or a box or point that a person drew.

    Args:
        x, y, width, height: its bounding box in pixels; a single pixel in row 3, column 5 is 5, 3, 1, 1. A point has no
            width and height.
        pixels: `(height, width)` bool, which pixels of the box are its own; none where only the box is known.
        score: a teacher's, in [0, 1]; `None` for a human's.
    """

    x: float
    y: float
    width: float
    height: float
    pixels: np.ndarray
    score: float | None = None

    @property
    def area(self) -> int:
        return int(self.pixels.sum())

    @property
    def is_point(self) -> bool:
        return not self.width

    def mask(self, shape: tuple[int, int]) -> np.ndarray:
        """`(H, W)` bool, in the whole frame."""
        mask, y, x = np.zeros(shape, bool), int(self.y), int(self.x)
        mask[y : y + self.pixels.shape[0], x : x + self.pixels.shape[1]] = self.pixels
        return mask


@dataclass(frozen=True)
class Frame:
    """
    A row as an export needs it.

    Args:
        content: the image's file, byte for byte.
        suffix: of that file, such as `.png`.
        label_source: `human`, `box`, `point`, `pseudo` or `none`.
        mask: `(H, W)` bool, the label that counts (`training_mask`); `None` where there is none.
        boxes: `[x, y, width, height]` of each target where people drew boxes and points, and no mask.
        ignored: `(H, W)` bool, pixels that are neither target nor background; `None` where there is no mask.
        scores: a teacher's score by bounding box; empty for a human's label.
        teacher: what the column `teacher` says.
    """

    name: str
    content: bytes
    suffix: str
    width: int
    height: int
    label_source: str
    mask: np.ndarray | None
    ignored: np.ndarray | None
    scores: dict[tuple[int, ...], float]
    teacher: dict[str, Any] | None
    boxes: Sequence[Sequence[float]] = ()

    @property
    def file_name(self) -> str:
        return self.name + self.suffix

    def targets(self) -> Iterator[Target]:
        """The targets of a frame that has a label, of a mask in the order of `objects_from_mask`."""
        if self.boxes:
            for x, y, width, height in self.boxes:
                yield Target(_whole(x), _whole(y), _whole(width), _whole(height), np.zeros((0, 0), bool))
            return
        labels, _ = ndimage.label(self.mask, structure=EIGHT_CONNECTED)
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
            x, y, width, height = columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start
            score = self.scores.get((x, y, width, height))  # no two components have the same box
            yield Target(x, y, width, height, labels[rows, columns] == number, score)


def read_frames(dataset: AnyDataset) -> Iterator[Frame]:
    """The frames of [`read_rows`]."""
    return (frame for _, frame in read_rows(dataset))


def read_rows(dataset: AnyDataset) -> Iterator[tuple[dict[str, Any], Frame]]:
    """
    The rows of a data set, one at a time, their images not decoded, and what an export needs of each.

    Args:
        dataset: with the columns of [`load_irst_dataset`], those of `add_pseudo_labels` where it has pseudo labels, and
            `label_source`, without which every mask is a human's. It may be streamed.

    Raises `ValueError` for missing columns, a name that can't be a file's or that occurs twice, and a mask whose size
    isn't the frame's, naming the row.
    """
    columns = dataset.column_names or []
    if missing := [column for column in NEEDED_COLUMNS if column not in columns]:
        raise ValueError(f"the data set lacks the columns {missing}: prepare it with `scalpel-hf prepare`")
    images = image_columns(dataset.features)
    seen: set[str] = set()
    for row in undecoded(dataset):
        if row["image"] is None:
            raise ValueError(f"{row['name']}: the row has no image")
        row |= {column: row[column] and stored_cell(row[column]) for column in images}
        frame = _frame(row)
        if frame.name in seen:
            raise ValueError(f"two rows are called {frame.name!r}: files need one name each")
        seen.add(frame.name)
        yield row, frame


def labelled_frames(dataset: AnyDataset, counts: Counter[str], carries: Collection[str] = ()) -> Iterator[Frame]:
    """
    The frames that have a label. The others are counted and left out: in these formats a frame without annotations is
    one without targets. Frames whose boxes or points the format can't carry are left out too, with a
    [`LossyExportWarning`].

    `counts` gets `frames`, `frames without label` and `frames left out`. Raises `ValueError` where none is left.

    Args:
        carries: which of `box` and `point` the format can carry; it always carries masks.
    """
    left_out: list[str] = []
    for frame in read_frames(dataset):
        if frame.boxes and frame.label_source not in carries:
            left_out.append(frame.name)
        elif frame.mask is None and not frame.boxes:
            counts["frames without label"] += 1
        else:
            counts["frames"] += 1
            yield frame
    if left_out:
        counts["frames left out"] = len(left_out)
        lost = " and ".join(kind for kind in (BOX, POINT) if kind not in carries)
        warn_of_loss(f"This format carries no labels of the kind {lost}, left out are", left_out)
    if not counts["frames"]:
        raise ValueError("no frame has a label to export: label some, or choose label-studio, which also takes frames")


def warn_of_loss(what: str, names: list[str]) -> None:
    """Warn with the names of the frames or targets that a format doesn't carry as they are, if there are any."""
    if names:
        listing = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        warnings.warn(f"{what}: {listing}", LossyExportWarning, stacklevel=3)


def _frame(row: dict[str, Any]) -> Frame:
    name, source = safe_name(row["name"], "the row's name"), row.get("label_source", "human")
    content = row["image"]["bytes"]
    label = training_mask({**row, "label_source": source})
    boxes = ((row.get("objects") or {}).get("bbox") or ()) if source in (BOX, POINT) else ()
    mask, ignored = (None, None) if label is None else (label[0] > 0.5, label[1] == 0)
    if mask is not None and mask.shape != (row["height"], row["width"]):
        size, mask_size = f"{row['width']} × {row['height']}", f"{mask.shape[1]} × {mask.shape[0]}"
        raise ValueError(f"{name}: the frame has {size} pixels, its mask {mask_size}")
    objects = (row.get("pseudo_objects") if source == "pseudo" else None) or {"bbox": [], "score": []}
    places = (tuple(int(side) for side in box) for box in objects["bbox"])
    scores = dict(zip(places, objects["score"], strict=True))
    teacher = row.get("teacher") if source == "pseudo" else None
    suffix = _suffix(row["image"]["path"], content, name)
    return Frame(
        name,
        content,
        suffix=suffix,
        width=row["width"],
        height=row["height"],
        label_source=source,
        mask=mask,
        ignored=ignored,
        scores=scores,
        teacher=teacher,
        boxes=boxes,
    )


def _whole(value: float) -> float:
    """A number of pixels that float32 has rounded, as it was meant."""
    return int(value) if value == int(value) else round(value, 4)


def _suffix(path: str | None, content: bytes, name: str) -> str:
    """What a file of this content is called: as its path has it, where that is true."""
    try:
        suffixes = FORMATS[image_format(content)]
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: its image is no file of the kinds {', '.join(FORMATS)}") from error
    suffix = Path(path or "").suffix.lower()
    return suffix if suffix in suffixes else suffixes[0]
