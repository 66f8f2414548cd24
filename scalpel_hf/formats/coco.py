"""COCO: `images/` and `annotations.json`, one annotation a target, masks in COCO's compressed RLE."""

import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import numpy as np

from .frames import IGNORE, TARGET, AnyDataset, Frame, labelled_frames, whole_folder
from .human_labels import HumanLabel, LabelFileError, read_json, stem

CATEGORIES = [{"id": 1, "name": TARGET, "supercategory": TARGET}, {"id": 2, "name": IGNORE, "supercategory": IGNORE}]
ANNOTATIONS = "annotations.json"


def write_coco(dataset: AnyDataset, folder: str | Path) -> Counter[str]:
    """
    Write the frames that have a label as a COCO data set.

    Every target is an annotation with `segmentation` (compressed RLE, exact), `bbox`, `area` and, from a teacher,
    `score`. A frame's pixels that are neither target nor background are one of the category `ignore` with `iscrowd: 1`.
    Beyond the format, images say their `label_source` and, where it is `pseudo`, the `teacher`. Image files are copied
    as they are. Memory does not grow with the number of frames.

    Returns how many `frames`, `targets`, `ignored regions` and `frames without label`, which are left out. Raises as
    `read_frames` and `whole_folder` do.
    """
    codec, counts = _mask_codec(), Counter[str]()
    with (
        whole_folder(folder) as part,
        open(part / ANNOTATIONS, "w", encoding="utf-8") as file,
        tempfile.TemporaryFile("w+", encoding="utf-8") as annotations,  # behind the images in the file
    ):
        (part / "images").mkdir()
        file.write('{"info": {"description": "scalpel-hf"},\n"images": [')
        for frame in labelled_frames(dataset, counts):
            (part / "images" / frame.file_name).write_bytes(frame.content)
            _append(file, _image(frame, counts["frames"]), counts["frames"])
            for entry in _annotations(frame, codec):
                number = counts["targets"] + counts["ignored regions"] + 1
                _append(annotations, {"id": number, "image_id": counts["frames"], **entry}, number)
                counts["ignored regions" if entry["iscrowd"] else "targets"] += 1
        categories = CATEGORIES[: 2 if counts["ignored regions"] else 1]
        file.write(f'],\n"categories": {json.dumps(categories)},\n"annotations": [')
        annotations.seek(0)
        for line in annotations:
            file.write(line)
        file.write("]}\n")
    return counts


def read_coco(path: str | Path, category: str | None = None) -> Iterator[HumanLabel]:
    """
    The masks of a COCO file, one a listed image: the union of its annotations, empty where there are none.

    Segmentations may be RLE, compressed or not, or polygons. Images that still say `"label_source": "pseudo"`, as
    `write_coco` has it, are passed over with a warning: nobody has checked them. Other programs leave that entry out.

    Args:
        path: the JSON file.
        category: name of the category that is target; needed where the annotations have several. What is called
            `ignore` is none by itself.

    Raises `LabelFileError` naming the file and the image or annotation, where the file isn't COCO's, ids occur twice,
    or an annotation has no mask, one of another size, or none that covers a pixel.
    """
    codec, path = _mask_codec(), Path(path)
    content = read_json(path)
    lists = ("images", "annotations")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in lists):
        raise LabelFileError(f"{path}: not a COCO file, which has the lists `images` and `annotations`")
    images = _by_id(content["images"], "image", path)
    wanted = _wanted_categories(content, category, path)
    annotations: dict[Any, list[dict[str, Any]]] = {key: [] for key in images}
    for number, annotation in _by_id(content["annotations"], "annotation", path).items():
        if annotation.get("image_id") not in annotations:
            raise LabelFileError(f"{path}, annotation {number}: there is no image {annotation.get('image_id')!r}")
        if annotation.get("category_id") in wanted:
            annotations[annotation["image_id"]].append(annotation)
    unchecked = 0
    for number, image in images.items():
        if image.get("label_source", "human") != "human":
            unchecked += 1
            continue
        origin = f"{path}, image {number} ({image.get('file_name')})"
        try:
            shape = (int(image["height"]), int(image["width"]))
            name = stem(image["file_name"])
            mask = np.zeros(shape, bool)
        except (KeyError, TypeError, ValueError, AttributeError, MemoryError) as error:
            raise LabelFileError(f"{origin}: needs `file_name`, `width` and `height`") from error
        for annotation in annotations[number]:
            mask |= _decode(annotation, shape, f"{path}, annotation {annotation['id']}", codec)
        yield HumanLabel(name, mask, origin)
    if unchecked:
        warnings.warn(
            f"{path}: {unchecked} images say that their label is no human's and are left as they are; set "
            '`"label_source": "human"` on those that a person has checked',
            stacklevel=2,
        )


def _mask_codec() -> ModuleType:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError("COCO's masks need pycocotools: pip install 'scalpel-hf[formats]'") from error
    return mask


def _append(file: TextIO, entry: dict[str, Any], number: int) -> None:
    file.write(("\n" if number == 1 else ",\n") + json.dumps(entry, ensure_ascii=False))


def _image(frame: Frame, number: int) -> dict[str, Any]:
    entry = {"id": number, "file_name": frame.file_name, "width": frame.width, "height": frame.height}
    entry["label_source"] = frame.label_source
    return entry if frame.teacher is None else entry | {"teacher": frame.teacher}


def _annotations(frame: Frame, codec: ModuleType) -> Iterator[dict[str, Any]]:
    for target in frame.targets():
        entry = _annotation(target.mask((frame.height, frame.width)), codec, crowd=False)
        yield entry if target.score is None else entry | {"score": target.score}
    if frame.ignored is not None and frame.ignored.any():
        yield _annotation(frame.ignored, codec, crowd=True)


def _annotation(mask: np.ndarray, codec: ModuleType, crowd: bool) -> dict[str, Any]:
    rle = codec.encode(np.asfortranarray(mask, np.uint8))
    return {
        "category_id": CATEGORIES[crowd]["id"],
        "bbox": codec.toBbox(rle).tolist(),
        "area": int(codec.area(rle)),
        "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")},
        "iscrowd": int(crowd),
    }


def _by_id(entries: list[Any], what: str, path: Path) -> dict[Any, dict[str, Any]]:
    by_id: dict[Any, dict[str, Any]] = {}
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int | str):
            raise LabelFileError(f"{path}: {what} number {place} has no `id`")
        if entry["id"] in by_id:
            raise LabelFileError(f"{path}: two {what}s have the id {entry['id']!r}")
        by_id[entry["id"]] = entry
    return by_id


def _wanted_categories(content: dict[str, Any], category: str | None, path: Path) -> set[Any]:
    names = {entry.get("id"): entry.get("name") for entry in content.get("categories") or []}
    used = {annotation.get("category_id") for annotation in content["annotations"] if isinstance(annotation, dict)}
    if category is not None:
        wanted = {key for key, name in names.items() if name == category}
        if not wanted:
            raise LabelFileError(f"{path}: no category {category!r}, there are {sorted(map(str, names.values()))}")
        return wanted
    used = {key for key in used if names.get(key) != IGNORE}
    if len(used) > 1:
        listing = sorted(str(names.get(key, key)) for key in used)
        raise LabelFileError(f"{path}: annotations of the categories {listing}: say which one is target")
    return used


def _decode(annotation: dict[str, Any], shape: tuple[int, int], origin: str, codec: ModuleType) -> np.ndarray:
    segmentation = annotation.get("segmentation")
    if not segmentation:
        raise LabelFileError(f"{origin}: has no `segmentation`; a box alone doesn't say which pixels are target")
    try:
        if isinstance(segmentation, list):
            mask = codec.decode(codec.merge(codec.frPyObjects(segmentation, *shape))).astype(bool)
        else:
            mask = _decode_rle(segmentation["counts"], *segmentation["size"])
    except Exception as error:  # pycocotools raises plain Exceptions
        raise LabelFileError(f"{origin}: its segmentation can't be decoded ({error})") from error
    if mask.shape != shape:
        raise LabelFileError(f"{origin}: its mask has the size {list(mask.shape)}, its image {list(shape)}")
    if not mask.any():
        raise LabelFileError(f"{origin}: its segmentation covers no pixel: remove it, or draw it as a mask")
    return mask


def _decode_rle(counts: list[int] | str, height: int, width: int) -> np.ndarray:
    """
    `(H, W)` bool of runs down the columns, of background and target in turn.

    Not by pycocotools, which leaves pixels undefined where the runs don't reach the end.
    """
    runs = _decompress(counts) if isinstance(counts, str) else [int(run) for run in counts]
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"its runs make {sum(runs)} pixels, not {width} × {height}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _decompress(counts: str) -> list[int]:
    """Runs from a string: 5 bits a character, lowest first, the sixth saying that more follow; from the fourth run on
    the difference to the last but one."""
    runs: list[int] = []
    value, shift = 0, 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} isn't a character of a compressed RLE")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift  # negative
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    if shift:
        raise ValueError("the compressed RLE is cut off")
    return runs
