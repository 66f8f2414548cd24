"""The rows of a data set as all exports read them, and the warning of what a format can't hold."""

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
from scalpel_hf.data.training_labels import training_mask
from scalpel_hf.modeling.frame_io import FORMATS, image_format
from scalpel_hf.utils.files import safe_name

NEEDED_COLUMNS = ("name", "image", "width", "height")

TARGET, IGNORE = "target", "ignore"  # names of the two classes in other programs
IGNORED_LOST = "Pixels that quality control left open are background in this format, in the frames"

AnyDataset: TypeAlias = datasets.Dataset | datasets.IterableDataset


class LossyExportWarning(UserWarning):
    """The format of an export can't hold some labels as they are; the message names their frames."""


@dataclass(frozen=True)
class Target:
    """
    An 8-connected component of a mask, or a box or point that a person drew.

    Args:
        x, y, width, height: its bounding box in pixels; a single pixel in row 3, column 5 is 5, 3, 1, 1. Width and
            height of a point are 0.
        pixels: `(height, width)` bool, the pixels of the box that belong to the target; `(0, 0)` where a person drew
            the box or point.
        score: the teacher's, in [0, 1]; `None` for a person's label.
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
        """The target's pixels in a frame of this `shape` (H, W): `(H, W)` bool."""
        mask, y, x = np.zeros(shape, bool), int(self.y), int(self.x)
        mask[y : y + self.pixels.shape[0], x : x + self.pixels.shape[1]] = self.pixels
        return mask


@dataclass(frozen=True)
class Frame:
    """
    A row of a data set, with what exports need of it.

    Args:
        name: the frame's, unique in the data set and usable as a file's name.
        content: the image's file, byte for byte.
        suffix: of that file, such as `.png`.
        width, height: of the frame in pixels.
        label_source: `human`, `box`, `point`, `pseudo` or `none`.
        mask: `(H, W)` bool, the label that a training would use, see [`training_mask`]; `None` where there is none.
        ignored: `(H, W)` bool, pixels that are neither target nor background; `None` where there is no mask.
        scores: the teacher's scores by bounding box `(x, y, width, height)`; empty for a person's label.
        teacher: content of the column `teacher`; `None` unless the label is a pseudo label.
        boxes: `[x, y, width, height]` of each target where people drew boxes or points instead of a mask.
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
        """The targets of a frame that has a label; those of a mask are in the order of [`objects_from_mask`]."""
        if self.boxes:
            for x, y, width, height in self.boxes:
                box = {"x": _whole(x), "y": _whole(y), "width": _whole(width), "height": _whole(height)}
                yield Target(**box, pixels=np.zeros((0, 0), bool))
            return
        labels, _ = ndimage.label(self.mask, structure=EIGHT_CONNECTED)
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
            x, y, width, height = columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start
            score = self.scores.get((x, y, width, height))  # no two components have the same box
            pixels = labels[rows, columns] == number
            yield Target(x=x, y=y, width=width, height=height, pixels=pixels, score=score)


def read_frames(dataset: AnyDataset) -> Iterator[Frame]:
    """Yields the frames of [`read_rows`] without their rows."""
    return (frame for _, frame in read_rows(dataset))


def read_rows(dataset: AnyDataset) -> Iterator[tuple[dict[str, Any], Frame]]:
    """
    Yields each row of a data set, its images not decoded, with its [`Frame`].

    Args:
        dataset: with the columns of [`load_irst_dataset`], and those of `add_pseudo_labels` where it has pseudo labels.
            Without the column `label_source`, all masks count as drawn by people. It may be streamed.

    Raises `ValueError` for missing columns. Raises `ValueError`, which names the row, for a row without an image, a
    name that can't be a file's name or that occurs twice, and a mask of another size than the frame.
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
    Yields the frames that have a label.

    Frames without a label are left out, because most formats take a frame without annotations as one without targets.
    Frames whose boxes or points the format can't hold are left out too, with a [`LossyExportWarning`].

    Args:
        counts: the numbers of `frames`, `frames without label` and `frames left out` are added to it.
        carries: which of `box` and `point` the format can hold; it can always hold masks.

    Raises `ValueError` where no frame is left.
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
    """Warn of `what` the format can't hold, with the names of the frames or targets; without names nothing happens."""
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
        name=name,
        content=content,
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
    """A number of pixels without the rounding error of float32: to four decimals, or whole."""
    return int(value) if value == int(value) else round(value, 4)


def _suffix(path: str | None, content: bytes, name: str) -> str:
    """The suffix for an image's file: that of `path` where it fits the content, else the usual one of its format."""
    try:
        suffixes = FORMATS[image_format(content)]
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: its image is no file of the kinds {', '.join(FORMATS)}") from error
    suffix = Path(path or "").suffix.lower()
    return suffix if suffix in suffixes else suffixes[0]
