"""Pascal VOC: `JPEGImages/`, `Annotations/` with boxes, `SegmentationClass/` and `SegmentationObject/` with masks."""

from collections import Counter
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from scalpel_hf.data.label_sources import BOX
from scalpel_hf.utils.files import whole_folder

from .class_boxes import ClassBoxes, frame_of, label_files_in, label_text, target_classes
from .export_rows import AnyDataset, Frame, Target, labelled_frames, warn_of_loss
from .human_labels import HumanLabel, LabelFileError

VOID = 255  # neither background nor target
MOST_OBJECTS = 254


def write_voc(dataset: AnyDataset, folder: str | Path) -> Counter[str]:
    """
    Write the frames that have a label as a Pascal VOC data set.

    Boxes count pixels from 1 and include both corners, as VOC's do: `xmin = x + 1`, `xmax = x + width`. A single pixel
    has `xmin = xmax`. `SegmentationClass` holds the masks: 0 is background, 1 target, and 255 neither.
    `SegmentationObject` holds the targets' numbers in the order of the boxes; frames with more than 254 targets have no
    such file, with a [`LossyExportWarning`]. Frames labelled by boxes have no masks. Frames labelled by points are left
    out, with the same warning. Image files are copied as they are, whatever their type. Memory does not grow with the
    number of frames.

    Returns how many `frames` and `targets` were written, and how many `frames without label` were left out. Raises
    `ValueError` for a data set that can't be exported, see [`read_rows`], and otherwise as [`whole_folder`] does.
    """
    counts, crowded = Counter[str](), list[str]()
    with whole_folder(folder) as part:
        for name in ("JPEGImages", "Annotations", "SegmentationClass", "SegmentationObject"):
            (part / name).mkdir()
        for name in ("Main", "Segmentation"):
            (part / "ImageSets" / name).mkdir(parents=True)
        with (
            open(part / "ImageSets" / "Main" / "trainval.txt", "w", encoding="utf-8") as boxes,
            open(part / "ImageSets" / "Segmentation" / "trainval.txt", "w", encoding="utf-8") as masks,
        ):
            for frame in labelled_frames(dataset, counts, carries=(BOX,)):
                targets = list(frame.targets())
                counts["targets"] += len(targets)
                (part / "JPEGImages" / frame.file_name).write_bytes(frame.content)
                _annotation(frame, targets).write(part / "Annotations" / f"{frame.name}.xml", encoding="utf-8")
                boxes.write(f"{frame.name}\n")
                if frame.boxes:
                    continue
                classes = np.where(np.asarray(frame.ignored), np.uint8(VOID), np.asarray(frame.mask, np.uint8))
                _save(classes, part / "SegmentationClass" / f"{frame.name}.png")
                if len(targets) <= MOST_OBJECTS:
                    _save(_numbers(frame, targets), part / "SegmentationObject" / f"{frame.name}.png")
                else:
                    crowded.append(f"{frame.name} ({len(targets)})")
                masks.write(f"{frame.name}\n")
    warn_of_loss(f"VOC's object masks hold at most {MOST_OBJECTS} targets, left out for", crowded)
    return counts


def _annotation(frame: Frame, targets: list[Target]) -> ElementTree.ElementTree:
    with Image.open(BytesIO(frame.content)) as image:
        depth = len(image.getbands())
    root = ElementTree.Element("annotation")
    _add(root, {"folder": "JPEGImages", "filename": frame.file_name})
    _add(ElementTree.SubElement(root, "size"), {"width": frame.width, "height": frame.height, "depth": depth})
    _add(root, {"segmented": 0 if frame.boxes else 1})
    for target in targets:
        entry = ElementTree.SubElement(root, "object")
        _add(entry, {"name": "target", "pose": "Unspecified", "truncated": 0, "difficult": 0})
        corners = {"xmin": target.x + 1, "ymin": target.y + 1}
        corners |= {"xmax": target.x + target.width, "ymax": target.y + target.height}
        _add(ElementTree.SubElement(entry, "bndbox"), corners)
    ElementTree.indent(root)
    return ElementTree.ElementTree(root)


def _add(parent: ElementTree.Element, entries: Mapping[str, object]) -> None:
    for tag, value in entries.items():
        ElementTree.SubElement(parent, tag).text = str(value)


def _numbers(frame: Frame, targets: list[Target]) -> np.ndarray:
    numbers = np.zeros((frame.height, frame.width), np.uint8)
    for number, target in enumerate(targets, 1):
        numbers[target.mask(numbers.shape)] = number
    return numbers


def _save(indices: np.ndarray, path: Path) -> None:
    """Write class or object numbers `(H, W)` uint8 as a PNG with VOC's palette."""
    image = Image.fromarray(indices)
    image.putpalette(PALETTE)
    image.save(path)


def _voc_palette() -> list[int]:
    """VOC's colour map, 256 times R, G, B: bit 3k + c of an index is bit 7 − k of channel c."""
    return [sum((index >> (3 * k + c) & 1) << (7 - k) for k in range(3)) for index in range(256) for c in range(3)]


PALETTE = _voc_palette()


def read_voc_boxes(folder: str | Path, category: str | None = None) -> Iterator[HumanLabel]:
    """
    Yields Pascal VOC's boxes: one XML file per frame. As in VOC, pixels count from 1 and a box includes both corners.

    A file without an object says that the frame has no target. Where a file states a size, it must be the frame's.

    Args:
        folder: holds the XML files, itself or in a folder `Annotations`.
        category: name of the class that counts as target; needed where the files have several.

    Raises [`LabelFileError`], which names the file.
    """
    folder = Path(folder)
    root = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    found = [(path, _voc_annotation(path)) for path in label_files_in(root, ".xml")]
    read = [(path, _voc_size(annotation), _voc_boxes(annotation, path)) for path, annotation in found]
    used = {name for _, _, boxes in read for name, _ in boxes}
    wanted = target_classes(used, {}, category=category, where=root)
    for path, size, boxes in read:
        kept = tuple(box for name, box in boxes if name in wanted)
        yield HumanLabel(frame_of(path, root), None, str(path), boxes=kept, size=size)


def _voc_annotation(path: Path) -> ElementTree.Element:
    try:
        root = ElementTree.fromstring(label_text(path))
    except ElementTree.ParseError as error:
        raise LabelFileError(f"{path}: is no XML file ({error})") from error
    if root.tag != "annotation":
        raise LabelFileError(f"{path}: is no annotation of Pascal VOC: it starts with <{root.tag}>")
    return root


def _voc_size(annotation: ElementTree.Element) -> tuple[int, int] | None:
    """(H, W) of the frame; `None` where the file has no size or zeros, as some programs write it."""
    sides = [annotation.findtext(f"size/{side}", "").strip() for side in ("height", "width")]
    height, width = (int(side) if side.isdecimal() else 0 for side in sides)
    return (height, width) if height and width else None


def _voc_boxes(annotation: ElementTree.Element, path: Path) -> ClassBoxes:
    boxes: ClassBoxes = []
    for place, entry in enumerate(annotation.iter("object"), 1):
        try:
            x0, y0, x1, y1 = (float(entry.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
        except ValueError as error:
            raise LabelFileError(f"{path}, object {place}: needs a `bndbox` of four numbers") from error
        boxes.append((entry.findtext("name", ""), (x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1)))
    return boxes
