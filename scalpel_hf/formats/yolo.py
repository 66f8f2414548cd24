"""YOLO: `images/`, `labels/` with one line per target, and `data.yaml`; boxes for detection, polygons for masks."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
from scipy import ndimage

from scalpel_hf.data.label_sources import BOX
from scalpel_hf.utils.files import whole_folder
from scalpel_hf.utils.reading import read_yaml

from .class_boxes import ClassBoxes, ClassNames, frame_of, label_files_in, label_text, target_classes
from .export_rows import IGNORED_LOST, AnyDataset, Frame, Target, labelled_frames, warn_of_loss
from .human_labels import HumanLabel, LabelFileError
from .polygons import outline

DATA_YAML = """# Frames and labels of one split. Name your validation frames here before training: val: ...
path: .
train: images
names:
  0: target
"""
FOLDERS = ("labels", "obj_train_data")  # of label files; the second is CVAT's
SMALL = 2  # pixels: polygons of targets up to this area are warned of, see `write_yolo_segmentation`


def write_yolo_detection(dataset: AnyDataset, folder: str | Path) -> Counter[str]:
    """
    Write the frames that have a label with YOLO's boxes: `0 x y width height`, centre and size as shares of the frame.

    The shares have eight decimals, so that rounding to whole pixels gives the exact box. Frames labelled by points are
    left out, and pixels that are neither target nor background become background; both with a [`LossyExportWarning`].
    Image files are copied as they are. Memory does not grow with the number of frames.

    Returns how many `frames` and `targets` were written, and how many `frames without label` were left out. Raises
    `ValueError` for a data set that can't be exported, see [`read_rows`], and otherwise as [`whole_folder`] does.

    Examples:
        >>> from scalpel_hf import SyntheticInfrared
        >>> write_yolo_detection(SyntheticInfrared(n_targets=(2, 2)).to_dataset(3), "exports/yolo")["targets"]
        6
    """
    return _write(dataset, folder, _box, carries=(BOX,))


def write_yolo_segmentation(dataset: AnyDataset, folder: str | Path) -> Counter[str]:
    """
    Write the frames that have a label with YOLO's polygons: `0 x1 y1 x2 y2 …`, as shares of the frame's size.

    The polygons are those of [`outline`]: filled at the frame's own size, they give the target's pixels. A
    [`LossyExportWarning`] names targets with holes, which a polygon can't hold, and targets of one or two pixels, which
    are lost where a trainer fills polygons at a smaller size. Frames labelled by boxes or points are left out. The rest
    is as in [`write_yolo_detection`].
    """
    small: list[str] = []
    holes: list[str] = []

    def polygon(target: Target, frame: Frame) -> str:
        place = f"{frame.name} at ({target.x}, {target.y})"
        if target.area <= SMALL:
            small.append(place)
        if ndimage.binary_fill_holes(target.pixels).sum() != target.area:
            holes.append(place)
        points = (outline(target.pixels) + np.array([target.x, target.y])) / (frame.width, frame.height)
        return " ".join(f"{value:.8f}" for value in points.ravel())

    counts = _write(dataset, folder, polygon)
    warn_of_loss("YOLO polygons of one or two pixels, which trainers may lose: use boxes or masks", small)
    warn_of_loss("YOLO polygons have no holes, these targets' are filled", holes)
    return counts


def _write(
    dataset: AnyDataset, folder: str | Path, line: Callable[[Target, Frame], str], carries: Collection[str] = ()
) -> Counter[str]:
    counts, lost = Counter[str](), list[str]()
    with whole_folder(folder) as part:
        (part / "images").mkdir()
        (part / "labels").mkdir()
        (part / "data.yaml").write_text(DATA_YAML, encoding="utf-8")
        for frame in labelled_frames(dataset, counts, carries):
            (part / "images" / frame.file_name).write_bytes(frame.content)
            lines = [f"0 {line(target, frame)}\n" for target in frame.targets()]
            (part / "labels" / f"{frame.name}.txt").write_text("".join(lines), encoding="utf-8")
            counts["targets"] += len(lines)
            lost += [frame.name] if np.any(frame.ignored) else []
    warn_of_loss(IGNORED_LOST, lost)
    return counts


def _box(target: Target, frame: Frame) -> str:
    x, y = target.x + target.width / 2, target.y + target.height / 2
    box = (x / frame.width, y / frame.height, target.width / frame.width, target.height / frame.height)
    return " ".join(f"{value:.8f}" for value in box)


def read_yolo(folder: str | Path, category: str | None = None) -> Iterator[HumanLabel]:
    """
    Yields YOLO's boxes: one text file per frame, one line per target with class, centre and size as shares of the
    frame.

    An empty file says that the frame has no target. `classes.txt` is not the file of a frame.

    Args:
        folder: holds the text files, itself or in a folder `labels`, or `obj_train_data` as CVAT has it.
        category: the class that counts as target; needed where the files have several. It is the class's number, or
            its name where `data.yaml`, `classes.txt` or `obj.names`, up to two folders above, gives one.

    Raises [`LabelFileError`], which names the file and the line.
    """
    folder = Path(folder)
    root = next((folder / name for name in FOLDERS if (folder / name).is_dir()), folder)
    files = [path for path in label_files_in(root, ".txt") if path.name != "classes.txt"]
    found = [(path, _yolo_boxes(path)) for path in files]
    used = {name for _, boxes in found for name, _ in boxes}
    wanted = target_classes(used, _yolo_classes(folder, root), category=category, where=root)
    for path, boxes in found:
        kept = tuple(box for name, box in boxes if name in wanted)
        yield HumanLabel(frame_of(path, root), None, str(path), boxes=kept, shares=True)


def _yolo_boxes(path: Path) -> ClassBoxes:
    boxes: ClassBoxes = []
    for number, line in enumerate(label_text(path).splitlines(), 1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) > 6:
            raise LabelFileError(f"{path}, line {number}: a polygon of {len(parts)} numbers: make it a mask or a box")
        try:
            x, y, width, height = map(float, parts[1:5])
            int(parts[0])
        except ValueError as error:
            raise LabelFileError(f"{path}, line {number}: must be class, x, y, width and height as shares") from error
        if not all(math.isfinite(v) and 0 <= v <= 1.01 for v in (x, y, width, height)):
            raise LabelFileError(
                f"{path}, line {number}: {line.strip()!r} has numbers that are no shares of a frame, which are 0 to 1"
            )
        boxes.append((parts[0], (x - width / 2, y - height / 2, width, height)))
    return boxes


def _yolo_classes(folder: Path, root: Path) -> ClassNames:
    """The names of the classes, from the nearest file that has them: Label Studio's, CVAT's or Ultralytics'."""
    places = dict.fromkeys((root, folder, *root.absolute().parents[:2]))
    files = (place / name for place in places for name in ("classes.txt", "obj.names", "data.yaml"))
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return {}
    if file.suffix != ".yaml":
        return {str(number): name.strip() for number, name in enumerate(label_text(file).splitlines())}
    names = read_yaml(file).get("names")
    pairs = names.items() if isinstance(names, dict) else enumerate(names if isinstance(names, list) else [])
    return {str(number): str(name) for number, name in pairs}
