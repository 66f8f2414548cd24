"""Loads a person's own frames, with labels for some of them in any readable format."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from scalpel_hf.data.frame_sources import LeftOut, frames_dataset
from scalpel_hf.data.layouts import LAYOUTS
from scalpel_hf.data.masks import MaskValues
from scalpel_hf.data.names import FrameNames, few
from scalpel_hf.data.rows import on_shown_grid
from scalpel_hf.modeling.frame_io import IMAGE_SUFFIXES
from scalpel_hf.utils.image_files import find_images, visible_files

from .class_boxes import is_sidecar
from .human_labels import HumanLabel, LabelFileError, import_human_labels, named, read_labels
from .label_files import read_label_file
from .yolo import FOLDERS as YOLO_FOLDERS

FORMS_OF_LABELS = (
    "a folder of masks, of YOLO's or of Pascal VOC's files, or a JSON file: of COCO, of Label Studio, or of boxes by "
    'frame, {"frame_7": [[x, y, width, height]]}'
)
LABEL_SUFFIXES = {"voc": ".xml", "yolo": ".txt"}  # of labels that may stand beside their frames
ONLY_BOXES = ("json", "voc", "yolo")


def kind_of_labels(labels: str | Path, beside: bool = False) -> str:
    """
    The format of a file or folder of labels, one of `READABLE`, told from its content.

    Args:
        beside: whether the frames lie in that folder too, so that its images need not be masks.

    Raises `LabelFileError` where it is none of them, or a folder may be of two.
    """
    path = Path(labels)
    if path.is_dir():
        return _kind_of_folder(path, beside)
    if not path.exists():
        raise LabelFileError(f"there are no labels {path}: they are {FORMS_OF_LABELS}")
    try:
        content = read_labels(path)
    except LabelFileError as error:
        raise LabelFileError(f"{error}. Labels are {FORMS_OF_LABELS}") from error
    if isinstance(content, list):
        return "label-studio"
    if content == {}:
        raise LabelFileError(f"{path}: there is no label in it")
    return "coco" if "annotations" in content or _lists_objects(content.get("images")) else "json"


def _lists_objects(content: Any) -> bool:
    return isinstance(content, list) and any(isinstance(entry, dict) for entry in content)


def _kind_of_folder(path: Path, beside: bool) -> str:
    """The format of a folder of labels. XML files, or a folder `labels`, may stand beside the frames themselves."""
    images, boxes, texts = _by_suffix(path)
    if images and boxes and not beside:
        mask, box = images[0], boxes[0]
        apart = path not in (mask.parent, box.parent)
        remedy = f"name {mask.parent} or {box.parent}" if apart else "leave those of one kind in it"
        raise LabelFileError(f"{path} has images ({mask.name}) and XML files ({box.name}), masks or boxes: {remedy}")
    if boxes:
        return "voc"
    if _folder_of_masks(path) != path:
        return "masks"
    if any((path / name).is_dir() for name in YOLO_FOLDERS) or (texts and not images):
        return "yolo"
    if not images:
        try:
            find_images(path)
        except FileNotFoundError as error:
            raise LabelFileError(f"neither masks nor boxes: {error}") from error
    return "masks"


def _folder_of_masks(path: Path) -> Path:
    """The folder of masks in a folder: `labels` if there are masks in that one, and not YOLO's text files."""
    images, _, texts = _by_suffix(path / "labels")
    return path / "labels" if images and not texts else path


def _by_suffix(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """The images, the XML files and the text files in a folder and its sub-folders, without hidden ones."""
    files = sorted(visible_files(folder)[0]) if folder.is_dir() else []
    images = [file for file in files if file.name.lower().endswith(IMAGE_SUFFIXES)]
    boxes = [file for file in files if file.suffix == ".xml" and not is_sidecar(file)]
    return images, boxes, [file for file in files if file.suffix == ".txt"]


def load_own_frames(
    root: str | Path,
    cache_dir: str | Path,
    left_out: LeftOut,
    labels: str | Path | None = None,
    kind: str | None = None,
    category: str | None = None,
    mask_values: MaskValues | None = None,
    every: int = 1,
    max_frames: int | None = None,
    mask_grid: str | None = None,
    say: Callable[[str], object] | None = None,
) -> Dataset:
    """
    Load frames and the labels that people made for some of them.

    `label_source` is `human`, `box` or `point` for frames with a label, and `none` for the others. A mask without a
    target pixel says that the frame has no target. Labels of frames that `root` lacks are left out and counted in
    `left_out`.

    Args:
        root, cache_dir, left_out, every, max_frames: see [`frames_dataset`].
        labels: a folder of masks with their frames' names, a COCO file, Label Studio's export, or boxes of YOLO, Pascal
            VOC or [`read_boxes`]; `None` for no labels.
        kind: format of the labels, one of `READABLE`; by default [`kind_of_labels`] finds it.
        category: the class that counts as target, where the labels have several.
        mask_grid: `"shown"` or `"stored"`, see [`load_irst_dataset`]; for masks only.
        mask_values, say: see [`read_masks`].

    Raises:
        `FileNotFoundError`, `ValueError`: as [`frames_dataset`] does.
        `LabelFileError`: for labels that can't be read, where no label belongs to a frame of `root`, and where it's
            unknown whether a mask fits its frame as shown or as stored.
    """
    frames = partial(frames_dataset, root, cache_dir, left_out, every=every, max_frames=max_frames)
    if labels is None:
        return frames().remove_columns("orientation")
    labels, frames_root = Path(labels), Path(root).resolve()
    kind = kind or kind_of_labels(labels, beside=frames_root.is_relative_to(labels.resolve()))
    labels = _folder_of_masks(labels) if kind == "masks" else labels
    if mask_grid is not None and kind in ONLY_BOXES:
        raise ValueError(f"a mask grid is for masks; the format {kind} has none: leave it out")
    beside = frames_root.is_relative_to(labels.resolve())  # then its images are frames
    rows = frames(without=labels, label_suffix=LABEL_SUFFIXES.get(kind, "") if beside else "")
    orientations = dict(zip(rows["name"][:], rows["orientation"][:], strict=True))
    sizes = dict(zip(rows["name"][:], zip(rows["height"][:], rows["width"][:], strict=True), strict=True))
    found = read_label_file(kind, labels, category=category, mask_values=mask_values, say=say)
    of_frames = _labels_of_frames(found, FrameNames(sizes), labels=labels, left_out=left_out)
    shown = (_as_shown(label, orientations[label.name], sizes[label.name], mask_grid) for label in of_frames)
    return import_human_labels(rows.remove_columns("orientation"), shown)


def _as_shown(label: HumanLabel, orientation: int, shown: tuple[int, int], mask_grid: str | None) -> HumanLabel:
    """The label, whose mask may fit its frame as stored, on the frame as shown, which has the size `shown`."""
    if orientation == 1 or label.turned:
        return label

    def turned(pixels: np.ndarray | None) -> np.ndarray | None:
        return None if pixels is None else on_shown_grid(pixels, orientation, shown=shown, mask_grid=mask_grid)

    with named(label.origin):
        return replace(label, mask=turned(label.mask), ignored=turned(label.ignored))


def _labels_of_frames(
    found: Iterator[HumanLabel], frames: FrameNames, labels: Path, left_out: LeftOut
) -> Iterator[HumanLabel]:
    """
    Yields the labels that belong to one of the `frames`; `LabelFileError` where none does. A warning where labels of
    several folders belong to frames by the files' names alone, which may be another folder's.
    """
    count = 0
    others: list[str] = []
    folders: dict[str, str] = {}  # of labels; "" of those that belong to a frame with its folder
    for label in found:
        name = _frame_of(label.name, frames)
        if name is None:
            left_out.add(f"labels in {labels} of frames that aren't there", label.name)
            others.append(label.name)
            continue
        if name in left_out.same_names:
            one, other = (place.as_posix() for place in left_out.same_names[name])
            raise LabelFileError(
                f"{label.origin}: means the frame {name!r}, which may be of {one} or of {other}: rename one of them"
            )
        count += 1
        folder, _, last = label.name.rpartition("/")
        folders.setdefault(folder if _frame_of(last, frames) == name else "", label.name)
        yield replace(label, name=name)
    if len(folders) > 1 and any(folders):
        warnings.warn(
            f"{labels}: labels of several folders ({few([*folders.values()], 2)}) are taken for frames by the files' "
            "names alone: look whether they are of these frames, or give the frames in the same folders",
            stacklevel=2,
        )
    if not count:
        raise LabelFileError(
            f"no label in {labels} is of a frame that is there ({len(others)} are of others): labels and frames are "
            f"matched by name, and the frames are called {few(frames.names, 1)}, the labels {few(others, 1)}"
        )


def _frame_of(name: str, frames: FrameNames) -> str | None:
    """The frame that a label's name means, also without a suffix such as `_mask`; `None` if there is none."""
    candidates = [name, *(name.removesuffix(ending) for ending in LAYOUTS["generic"].mask_suffixes)]
    return next(filter(None, map(frames.get, candidates)), None)
