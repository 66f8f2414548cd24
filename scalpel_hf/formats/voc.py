"""Pascal VOC: `JPEGImages/`, `Annotations/` with boxes, `SegmentationClass/` and `SegmentationObject/` with masks."""

from collections import Counter
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from scalpel_hf.data.label_sources import BOX
from scalpel_hf.utils.files import whole_folder

from .frame_files import AnyDataset, Frame, Target, labelled_frames, warn_of_loss

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
