"""A person's own frames with labels for some of them, whatever program these come from."""

from collections.abc import Callable, Iterator
from pathlib import Path

from datasets import Dataset

from scalpel_hf.data.frame_sources import LeftOut, frames_dataset
from scalpel_hf.data.layouts import LAYOUTS
from scalpel_hf.data.masks import MaskValues
from scalpel_hf.data.names import FrameNames
from scalpel_hf.utils.image_files import find_images

from .coco import read_coco
from .human_labels import HumanLabel, LabelFileError, import_human_labels, read_labels
from .label_studio import read_label_studio
from .mask_files import read_masks

LABEL_KINDS = ("masks", "coco", "label-studio")


def kind_of_labels(labels: str | Path) -> str:
    """
    What a person's labels are: one of `LABEL_KINDS`, told by what is there.

    Raises `LabelFileError` where it is none of them.
    """
    path = Path(labels)
    if path.is_dir():
        try:
            find_images(path)
        except FileNotFoundError as error:
            raise LabelFileError(f"no masks: {error}") from error
        return "masks"
    if not path.exists():
        raise LabelFileError(f"there are no labels {path}: name a folder of masks, or a JSON file")
    return "label-studio" if isinstance(read_labels(path), list) else "coco"


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
    say: Callable[[str], object] | None = None,
) -> Dataset:
    """
    Frames, and the labels that people made for some of them: `label_source` is `human` there and `none` elsewhere.

    A mask without a target pixel says that the frame has no target. Labels of frames that aren't there are left out.

    Args:
        root, cache_dir, left_out, every, max_frames: see [`frames_dataset`].
        labels: a folder of masks called like their frames, a COCO file or Label Studio's export; `None` for none.
        kind: of the labels, one of `LABEL_KINDS`; by default as [`kind_of_labels`] tells.
        category: which is target, where the labels have several.
        mask_values, say: see [`read_masks`].

    Raises:
        `FileNotFoundError`, `ValueError`: as [`frames_dataset`] does.
        `LabelFileError`: for labels that can't be read, or of which none is of a frame that is there.
    """
    without = None if labels is None else Path(labels)
    rows = frames_dataset(root, cache_dir, left_out, every, max_frames, without)
    if labels is None:
        return rows
    kind = kind or kind_of_labels(labels)
    if kind == "masks":
        found = read_masks(labels, mask_values, say)
    else:
        found = (read_coco if kind == "coco" else read_label_studio)(labels, category)
    frames = FrameNames(rows["name"][:])
    return import_human_labels(rows, _of_frames(found, frames, Path(labels), left_out))


def _of_frames(
    found: Iterator[HumanLabel], frames: FrameNames, labels: Path, left_out: LeftOut
) -> Iterator[HumanLabel]:
    """The labels of frames that are there; `LabelFileError` where there is none."""
    count, others = 0, 0
    for label in found:
        name = _plain(label.name, frames)
        if frames.get(name) is None:
            left_out.add(f"labels in {labels} of frames that aren't there", label.name)
            others += 1
            continue
        count += 1
        yield HumanLabel(name, label.mask, label.origin, label.ignored)
    if not count:
        raise LabelFileError(
            f"no label in {labels} is of a frame that is there ({others} are of others): labels and frames are matched "
            "by name"
        )


def _plain(name: str, frames: FrameNames) -> str:
    """A mask's name without what some programs add to its frame's."""
    candidates = [name, *(name.removesuffix(ending) for ending in LAYOUTS["generic"].mask_suffixes)]
    return next((candidate for candidate in candidates if frames.get(candidate) is not None), name)
