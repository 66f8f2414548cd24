"""Labels that people drew or corrected elsewhere, as `label_source: human` in a data set that exists already."""

import hashlib
import math
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import datasets
import numpy as np
from PIL import Image

from scalpel_hf.data.image_cells import image_columns, stored_cell, undecoded
from scalpel_hf.data.masks import IGNORED, TARGET
from scalpel_hf.data.names import FrameNames, UnknownNameError
from scalpel_hf.data.objects import encode_png, objects_from_mask
from scalpel_hf.pseudo_labels import PSEUDO_FEATURES
from scalpel_hf.utils.files import read_json

SHOWN = 20  # problems that an error lists
LONGEST_LINE = 600  # characters


class LabelFileError(ValueError):
    """
    Labels that can't be taken; the message names the file and the image or annotation.

    Args:
        lines: of the message. What a file says in them is cut to what one reads, and stays on its line.
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
        mask: `(H, W)` bool; `None` for no target, where the file doesn't give the frame's size.
        origin: where it comes from, for messages: the file, and what in it.
        ignored: `(H, W)` bool, pixels that are neither target nor background, where they are not target too; `None` for
            none.
    """

    name: str
    mask: np.ndarray | None
    origin: str
    ignored: np.ndarray | None = None

    def stored(self, size: tuple[int, int]) -> np.ndarray:
        """As a data set holds it, see [`read_mask`]: uint8 of the frame's `size` (H, W)."""
        mask = np.zeros(size, np.uint8)
        if self.ignored is not None:
            mask[self.ignored] = IGNORED
        if self.mask is not None:
            mask[self.mask] = TARGET
        return mask


def import_human_labels(
    dataset: datasets.Dataset,
    labels: Iterable[HumanLabel],
    only: Collection[str] | None = None,
    keep_in_memory: bool = False,
) -> datasets.Dataset:
    """
    Put people's labels into a prepared or pseudo-labelled data set.

    Rows are found by `name`, see [`FrameNames`]. A labelled row gets the mask, its `objects` and `label_source: human`;
    an earlier human label is replaced, and what a teacher said of the row is emptied, as in every row that a human has
    labelled. Other rows stay as they are. All labels are checked before anything is changed.

    Args:
        dataset: with `name`, `mask`, `objects`, `width`, `height`, `label_source`.
        labels: from [`read_coco`], [`read_label_studio`] or [`read_masks`].
        only: names of the frames to take; labels of others are passed over.
        keep_in_memory: as of `Dataset.map`; otherwise the result is cached beside the data set's files.

    Raises [`LabelFileError`] for names that the data set lacks, masks of another size, two labels of one frame, names
    of `only` without a label, and where there is no label at all.
    """
    needed = {"name", "mask", "objects", "width", "height", "label_source"}
    if missing := needed - set(dataset.column_names):
        raise ValueError(f"the data set lacks the columns {sorted(missing)}: prepare it with `scalpel-hf prepare`")
    rows = zip(dataset["name"][:], dataset["height"][:], dataset["width"][:], strict=True)
    sizes = {name: (height, width) for name, height, width in rows}
    masks = _checked(labels, sizes, only)
    key = hashlib.sha256(dataset._fingerprint.encode())
    for name in sorted(masks):
        key.update(name.encode() + b"\0" + masks[name])
    emptied = dict.fromkeys(column for column in PSEUDO_FEATURES if column in dataset.column_names)

    def put(row: dict[str, Any]) -> dict[str, Any]:
        files = {column: row[column] and stored_cell(row[column]) for column in images}
        if row["name"] not in masks:
            return files
        height, width = sizes[row["name"]]
        mask = np.frombuffer(zlib.decompress(masks[row["name"]]), np.uint8).reshape(height, width)
        cell = {"bytes": encode_png(mask), "path": f"{row['name']}.png"}
        return {**files, "mask": cell, "objects": objects_from_mask(mask == TARGET), "label_source": "human", **emptied}

    features, images = dataset.features, image_columns(dataset.features)
    return undecoded(dataset).map(
        put,
        features=features,
        new_fingerprint=key.hexdigest()[:16],
        keep_in_memory=keep_in_memory,
        desc="human labels",
    )


def read_labels(path: Path) -> Any:
    """A label file's JSON. Raises [`LabelFileError`] naming the file where it is something else."""
    try:
        return read_json(path, (dict, list))
    except ValueError as error:
        raise LabelFileError(str(error)) from error


def objects_of(content: Any, what: str) -> list[dict[str, Any]]:
    """A list of objects as a JSON file has it, none where there is no list; [`LabelFileError`] for anything else."""
    entries = [] if content is None else content
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise LabelFileError(f"{what} must be a list of objects")
    return entries


def image_size(width: Any, height: Any) -> tuple[int, int]:
    """(H, W) as a label file gives it; `ValueError` for what is no image's."""
    if not all(type(side) in (int, float) and side >= 1 and side % 1 == 0 for side in (width, height)):
        raise ValueError(f"its width and height must be whole numbers above 0, not {width!r} and {height!r}")
    if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise ValueError(f"{width} × {height} pixels are more than any frame has that can be read")
    return int(height), int(width)


def named_by(path: str) -> str:
    """What a label file's path of an image, written with either slash, names: without the last suffix, and with its
    folders, which tell two files of one name apart; empty where there is no name in it."""
    whole = PureWindowsPath(path)
    return whole.with_suffix("").as_posix() if whole.stem else ""


def _checked(
    labels: Iterable[HumanLabel], sizes: dict[str, tuple[int, int]], only: Collection[str] | None
) -> dict[str, bytes]:
    """The labels' masks by name, as stored but compressed, or all that is wrong with them."""
    masks: dict[str, bytes] = {}
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
        size = sizes[name]
        if name in origins:
            problems.append(f"{label.origin}: {name!r} has a label already, from {origins[name]}")
        elif wrong := [m.shape for m in (label.mask, label.ignored) if m is not None and m.shape != size]:
            height, width = wrong[0]
            problems.append(f"{label.origin}: {width} × {height} pixels, the frame has {size[1]} × {size[0]}")
        else:
            masks[name] = zlib.compress(label.stored(size).tobytes(), 1)
        origins.setdefault(name, label.origin)
    problems += [f"{name}: no label for this frame" for name in sorted(wanted - set(origins))]
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise LabelFileError(f"nothing was imported, {len(problems)} labels can't be taken:", *problems[:SHOWN], *more)
    if not masks:
        raise LabelFileError("nothing was imported: there is no human's label")
    return masks
