"""Puts labels that people drew or corrected in another program into an existing data set."""

import hashlib
import math
import warnings
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import datasets
import numpy as np
from PIL import Image

from scalpel_hf.data.image_cells import image_columns, stored_cell, undecoded
from scalpel_hf.data.label_sources import HUMAN, as_objects, drawn_inside, source_of_objects
from scalpel_hf.data.masks import IGNORED, TARGET
from scalpel_hf.data.names import FrameNames, UnknownNameError
from scalpel_hf.data.objects import encode_png, objects_from_mask
from scalpel_hf.data.pseudo_columns import PSEUDO_FEATURES
from scalpel_hf.modeling.frame_io import IMAGE_SUFFIXES
from scalpel_hf.utils.reading import read_json

from .export_rows import IGNORE

OF_EARLIER_LABELS = (*PSEUDO_FEATURES, "review")  # columns about the label that was there before
SHOWN = 20  # problems that an error lists
LONGEST_LINE = 600  # characters


class LabelFileError(ValueError):
    """
    Labels that can't be used; the message names the file and the image or annotation.

    Args:
        lines: of the message. Long lines are shortened, and characters that can't be printed become spaces, since parts
            of the lines come from files.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__("\n  ".join(map(_one_line, lines)))


def _one_line(text: str) -> str:
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE // 2]} … {line[-LONGEST_LINE // 2 :]}"


@dataclass(frozen=True)
class HumanLabel:
    """
    A person's label of one frame.

    Args:
        name: the frame's, as in the column `name`.
        mask: `(H, W)` bool; `None` where the label is boxes, and for a frame without targets of unknown size.
        origin: the file and the entry in it that the label comes from, for messages.
        ignored: `(H, W)` bool, pixels that are neither target nor background; a pixel that is also in `mask` is target.
            `None` for none.
        boxes: instead of a mask: a box `(x, y, width, height)` or a point `(x, y)` for each target, in pixels; 0 is the
            left edge of the first column.
        shares: whether the boxes' numbers are shares of the frame's sides instead of pixels.
        size: (H, W) of the frame on which the boxes were drawn, where the file states it.
        turned: whether the mask's own file has an orientation, so that the mask fits the frame as it is shown.
    """

    name: str
    mask: np.ndarray | None
    origin: str
    ignored: np.ndarray | None = None
    boxes: Sequence[Sequence[float]] = ()
    shares: bool = False
    size: tuple[int, int] | None = None
    turned: bool = False

    def cells(self, size: tuple[int, int]) -> dict[str, Any]:
        """
        The values of the columns `mask`, `objects` and `label_source` for a frame of `size` (H, W).

        The mask is compressed by zlib, `None` for boxes. A repeated box counts once, with a warning. Raises
        `ValueError` for a label of another size, and for boxes that have no extent or lie outside the frame.
        """
        height, width = size
        for shape in (self.size, *(pixels.shape for pixels in (self.ignored, self.mask) if pixels is not None)):
            if shape not in (None, size):
                raise ValueError(f"{shape[1]} × {shape[0]} pixels, the frame has {width} × {height}")
        if self.boxes:
            sides = (width, height, width, height) if self.shares else (1, 1, 1, 1)
            once = dict.fromkeys(map(tuple, self.boxes))
            if len(once) < len(self.boxes):
                twice = len(self.boxes) - len(once)
                warnings.warn(f"{self.origin}: {twice} boxes stand there twice, and are taken once", stacklevel=2)
            scaled = [[value * side for value, side in zip(box, sides, strict=False)] for box in once]
            objects = as_objects([drawn_inside(box, width, height) for box in scaled])
            return {"mask": None, "objects": objects, "label_source": source_of_objects(objects["bbox"])}
        mask = np.zeros(size, np.uint8)
        for pixels, value in ((self.ignored, IGNORED), (self.mask, TARGET)):
            if pixels is not None:
                mask[pixels] = value
        objects = objects_from_mask(mask == TARGET)
        return {"mask": zlib.compress(mask.tobytes(), 1), "objects": objects, "label_source": HUMAN}


def label_of_drawing(
    name: str,
    origin: str,
    *,
    mask: np.ndarray | None,
    boxes: Sequence[Sequence[float]],
    ignored: np.ndarray | None,
    size: tuple[int, int] | None,
) -> HumanLabel:
    """
    The label of a frame on which people may have drawn both masks and boxes: the mask, or, where there are boxes, these
    and the bounding boxes of the mask's targets. The arguments are those of [`HumanLabel`].

    Raises `LabelFileError` for boxes beside ignored pixels, which only a mask can have.
    """
    if not boxes:
        return HumanLabel(name, mask, origin, ignored=ignored)
    if ignored is not None and ignored.any():
        raise LabelFileError(f"{origin}: has boxes and regions called {IGNORE!r}, which only a mask can hold")
    of_mask = [] if mask is None else [tuple(box) for box in objects_from_mask(mask)["bbox"]]
    return HumanLabel(name, None, origin, boxes=[*boxes, *of_mask], size=size)


def warn_of_masks_as_boxes(path: Path, count: int, frames: str) -> None:
    """Warn, in a reader of label files, that in `count` frames masks count as boxes, see [`label_of_drawing`]."""
    if count:
        warnings.warn(
            f"{path}: {count} {frames} have masks of some targets and boxes or points of others: they are labelled by "
            "boxes, the masks counting as theirs. Draw the masks that are missing to keep them",
            stacklevel=3,
        )


def import_human_labels(
    dataset: datasets.Dataset,
    labels: Iterable[HumanLabel],
    only: Collection[str] | None = None,
    keep_in_memory: bool = False,
) -> datasets.Dataset:
    """
    Put people's labels into a prepared or pseudo-labelled data set; returns the new data set.

    Rows are found by `name`, see [`FrameNames`]. A labelled row gets the mask, its `objects` and `label_source: human`;
    or boxes and points as `objects`, no mask, and `label_source: box` or `point`. An earlier label is replaced, and the
    columns of a teacher's pseudo label and of its `review` become `None`. Other rows stay as they are. All labels are
    checked before anything is changed.

    Args:
        dataset: with `name`, `mask`, `objects`, `width`, `height`, `label_source`.
        labels: from [`read_coco`], [`read_label_studio`], [`read_masks`], [`read_yolo`], [`read_voc_boxes`] or
            [`read_boxes`].
        only: names of the frames to take; labels of other frames are skipped.
        keep_in_memory: as in `Dataset.map`; otherwise the result is cached beside the data set's files.

    Raises [`LabelFileError`], which lists all problems: names that the data set lacks, masks of another size, boxes
    outside their frame, two labels for one frame, names in `only` without a label, or no label at all. Raises
    `ValueError` where `dataset` lacks columns.

    Examples:
        >>> from scalpel_hf import SyntheticInfrared
        >>> frames = SyntheticInfrared(size=(32, 48)).to_dataset(2).add_column("label_source", ["none", "none"])
        >>> mask = np.zeros((32, 48), bool)
        >>> mask[5:8, 10:14] = True
        >>> label = HumanLabel(frames["name"][0], mask, origin="drawn by hand")
        >>> import_human_labels(frames, [label], keep_in_memory=True)["label_source"][:]
        ['human', 'none']
    """
    needed = {"name", "mask", "objects", "width", "height", "label_source"}
    if missing := needed - set(dataset.column_names):
        raise ValueError(f"the data set lacks the columns {sorted(missing)}: prepare it with `scalpel-hf prepare`")
    rows = zip(dataset["name"][:], dataset["height"][:], dataset["width"][:], strict=True)
    sizes = {name: (height, width) for name, height, width in rows}
    found = _checked(labels, sizes, only)
    key = hashlib.sha256(dataset._fingerprint.encode())
    for name in sorted(found):
        key.update(f"{name}\0{found[name]['objects']}\0".encode() + (found[name]["mask"] or b""))
    emptied = dict.fromkeys(column for column in OF_EARLIER_LABELS if column in dataset.column_names)

    def put(row: dict[str, Any]) -> dict[str, Any]:
        files = {column: row[column] and stored_cell(row[column]) for column in images}
        if row["name"] not in found:
            return files
        cells = {**files, **found[row["name"]], **emptied}
        if cells["mask"] is not None:
            mask = np.frombuffer(zlib.decompress(cells["mask"]), np.uint8).reshape(sizes[row["name"]])
            cells["mask"] = {"bytes": encode_png(mask), "path": f"{row['name']}.png"}
        return cells

    features, images = dataset.features, image_columns(dataset.features)
    return undecoded(dataset).map(
        put,
        features=features,
        new_fingerprint=key.hexdigest()[:16],
        keep_in_memory=keep_in_memory,
        desc="human labels",
    )


def read_labels(path: Path) -> Any:
    """The object or list in a JSON file of labels. Raises [`LabelFileError`], which names the file, for another."""
    try:
        return read_json(path, (dict, list))
    except ValueError as error:
        raise LabelFileError(str(error)) from error


def objects_of(content: Any, what: str) -> list[dict[str, Any]]:
    """`content` as a list of JSON objects, empty for `None`. Raises [`LabelFileError`], which begins with `what`, for
    anything else."""
    entries = [] if content is None else content
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise LabelFileError(f"{what} must be a list of objects")
    return entries


def covered(box: Sequence[float], shape: tuple[int, int]) -> np.ndarray:
    """The pixels that a box of an ignored region touches, `(H, W)` bool. Raises `ValueError` for a point, and as
    [`drawn_inside`] does."""
    x, y, width, height = drawn_inside(box, shape[1], shape[0])
    if not width:
        raise ValueError("a point covers nothing to ignore: draw a box or a mask")
    filled = np.zeros(shape, bool)
    filled[math.floor(y) : math.ceil(y + height), math.floor(x) : math.ceil(x + width)] = True
    return filled


@contextmanager
def named(origin: str) -> Iterator[None]:
    """Turn a `ValueError` of the block into a [`LabelFileError`] that begins with `origin`."""
    try:
        yield
    except ValueError as error:
        raise LabelFileError(f"{origin}: {error}") from error


def image_size(width: Any, height: Any) -> tuple[int, int]:
    """(H, W) from a label file's numbers; `ValueError` unless they are whole, above 0 and not too large to read."""
    if not all(type(side) in (int, float) and side >= 1 and side % 1 == 0 for side in (width, height)):
        raise ValueError(f"its width and height must be whole numbers above 0, not {width!r} and {height!r}")
    if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise ValueError(f"{width} × {height} pixels are more than any frame has that can be read")
    return int(height), int(width)


def named_by(path: str) -> str:
    """
    The frame's name from the path of an image in a label file: without an image's suffix, with its folders, which
    distinguish files of the same name. Both slashes separate folders. Empty where the path has no file name.

    Examples:
        >>> named_by(r"clips\\night\\0042.png")
        'clips/night/0042'
    """
    whole = PureWindowsPath(path)
    is_image = whole.suffix.lower() in IMAGE_SUFFIXES  # a frame of `cam.2024-05-01.mkv` is no file
    return (whole.with_suffix("") if is_image else whole).as_posix() if whole.stem else ""


def _checked(
    labels: Iterable[HumanLabel], sizes: dict[str, tuple[int, int]], only: Collection[str] | None
) -> dict[str, dict[str, Any]]:
    """The labels' cells by the frame's name. Raises [`LabelFileError`], which lists all problems."""
    found: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}
    problems: list[str] = []
    frames, wanted = FrameNames(sizes), set[str]()
    for name in only or ():
        try:
            wanted.add(frames.find(name))
        except UnknownNameError as error:
            problems.append(f"{name}: {error}")
    for label in labels:
        try:
            name = frames.find(label.name)
        except UnknownNameError as error:
            if only is None:
                problems.append(f"{label.origin}: {error}")
            continue
        if only is not None and name not in wanted:
            continue
        if name in origins:
            problems.append(f"{label.origin}: {name!r} has a label already, from {origins[name]}")
        else:
            try:
                found[name] = label.cells(sizes[name])
            except ValueError as error:
                problems.append(f"{label.origin}: {error}")
        origins.setdefault(name, label.origin)
    problems += [f"{name}: no label for this frame" for name in sorted(wanted - set(origins))]
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise LabelFileError(f"nothing was imported, {len(problems)} labels can't be taken:", *problems[:SHOWN], *more)
    if not found:
        raise LabelFileError("nothing was imported: there is no human's label")
    return found
