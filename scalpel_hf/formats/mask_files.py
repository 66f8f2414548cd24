"""PNG masks: `images/` and `masks/` with the same names, which `scalpel-hf prepare` reads as the layout `generic`."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from scalpel_hf.data.masks import IGNORED, TARGET, MaskValues, MaskValuesError, decide_mask_values, read_mask
from scalpel_hf.data.objects import encode_png
from scalpel_hf.modeling.frame_io import file_orientation
from scalpel_hf.utils.files import whole_folder
from scalpel_hf.utils.image_files import find_images, frame_name

from .export_rows import IGNORED_LOST, AnyDataset, labelled_frames, warn_of_loss
from .human_labels import HumanLabel, LabelFileError


def write_masks(dataset: AnyDataset, folder: str | Path) -> Counter[str]:
    """
    Write the frames that have a label, and their masks as PNG: 255 is target, 0 is background.

    Pixels that are neither target nor background become background, with a [`LossyExportWarning`]. Image files are
    copied as they are. Memory does not grow with the number of frames.

    Returns how many `frames` and `targets` were written, and how many `frames without label` were left out. Raises
    `ValueError` for a data set that can't be exported, see [`read_rows`], and otherwise as [`whole_folder`] does.
    """
    counts, lost = Counter[str](), list[str]()
    with whole_folder(folder) as part:
        (part / "images").mkdir()
        (part / "masks").mkdir()
        for frame in labelled_frames(dataset, counts):
            mask = np.where(np.asarray(frame.mask), np.uint8(255), np.uint8(0))
            (part / "images" / frame.file_name).write_bytes(frame.content)
            (part / "masks" / f"{frame.name}.png").write_bytes(encode_png(mask))
            counts["targets"] += sum(1 for _ in frame.targets())
            lost += [frame.name] if np.any(frame.ignored) else []
    warn_of_loss(IGNORED_LOST, lost)
    return counts


def read_masks(
    folder: str | Path, mask_values: MaskValues | None = None, say: Callable[[str], object] | None = None
) -> Iterator[HumanLabel]:
    """
    Yields the masks in a folder of image files, each of which has the name of its frame.

    Such folders are `masks` of `write_masks` and `SegmentationClass` of `write_voc`.

    Args:
        folder: of the masks.
        mask_values: the meaning of the pixels' values; by default it is told from all masks together, see
            [`decide_mask_values`].
        say: is called with one line about that meaning. Without it, values other than the usual ones give a warning.

    Raises `LabelFileError`, which names the file that can't be read, or the folder where it has no images or where the
    meaning of the values is ambiguous.
    """
    try:
        paths = find_images(folder)
    except FileNotFoundError as error:
        raise LabelFileError(f"no masks: {error}") from error
    try:
        values = decide_mask_values([(path.name, partial(Path, path)) for path in paths], mask_values, say=say)
    except MaskValuesError as error:
        raise LabelFileError(f"{folder}: {error}") from error
    for path in paths:
        try:
            mask, turned = read_mask(path, values), file_orientation(path.read_bytes()) != 1
        except (OSError, ValueError) as error:
            raise LabelFileError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
        name = frame_name(path.relative_to(folder))
        yield HumanLabel(name, mask=mask == TARGET, origin=str(path), ignored=mask == IGNORED, turned=turned)
