"""Plain PNG masks: `images/` and `masks/` under the same names, the layout `generic` of `scalpel-hf prepare`."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from scalpel_hf.data.masks import IGNORED, TARGET, MaskValues, MaskValuesError, decide_mask_values, read_mask
from scalpel_hf.data.objects import encode_png
from scalpel_hf.utils.files import whole_folder
from scalpel_hf.utils.image_files import find_images, frame_name

from .frame_files import IGNORED_LOST, AnyDataset, labelled_frames, warn_of_loss
from .human_labels import HumanLabel, LabelFileError


def write_masks(dataset: AnyDataset, folder: str | Path) -> Counter[str]:
    """
    Write the frames that have a label and their masks, PNG of 0 and 255. Pixels that are neither target nor background
    become background, with a [`LossyExportWarning`]. Image files are copied as they are. Memory does not grow
    with the number of frames.

    Returns how many `frames`, `targets` and `frames without label`, which are left out. Raises as `read_frames` and
    `whole_folder` do.
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
    A folder of masks, image files each under its frame's name: `write_masks` has one, and `write_voc` in
    `SegmentationClass`.

    Args:
        folder: of the masks.
        mask_values: what their values mean; by default what all of them together say, see [`decide_mask_values`].
        say: gets a line about that; by default a warning, unless they are as usual.

    Raises `LabelFileError` naming the file that can't be read, or the folder where there is no image in it, or where
    what the values mean would be a guess.
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
            mask = read_mask(path, values)
        except (OSError, ValueError) as error:
            raise LabelFileError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
        yield HumanLabel(frame_name(path.relative_to(folder)), mask == TARGET, str(path), mask == IGNORED)
