"""COCO: `images/` and `annotations.json`, one annotation per target, masks in COCO's compressed RLE."""

import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import numpy as np

from scalpel_hf.data.label_sources import BOX, BY_PEOPLE, HUMAN, POINT
from scalpel_hf.utils.files import whole_folder

from .coco_masks import boxes_of_annotation, decode_annotation
from .export_rows import IGNORE, TARGET, AnyDataset, Frame, Target, labelled_frames
from .human_labels import (
    HumanLabel,
    LabelFileError,
    covered,
    image_size,
    label_of_drawing,
    named,
    named_by,
    read_labels,
    warn_of_masks_as_boxes,
)
from .polygons import can_be_centres, corners_are_centres, mask_codec, read_polygons

CATEGORIES = [{"id": 1, "name": TARGET, "supercategory": TARGET}, {"id": 2, "name": IGNORE, "supercategory": IGNORE}]
ANNOTATIONS = "annotations.json"


def write_coco(dataset: AnyDataset, folder: str | Path) -> Counter[str]:
    """
    Write the frames that have a label as a COCO data set.

    Each target is one annotation. A target of a mask has `segmentation` (compressed RLE, exact), `bbox`, `area` and,
    where a teacher labelled it, `score`. A box has `bbox` and `area`; a point has one of `keypoints` as well. The
    pixels of a frame that are neither target nor background are one annotation of the category `ignore` with
    `iscrowd: 1`. In addition to COCO's own fields, each image has its `label_source` and, where that is `pseudo`, the
    `teacher`. Image files are copied as they are. Memory does not grow with the number of frames.

    Returns how many `frames`, `targets` and `ignored regions` were written, and how many `frames without label` were
    left out. Raises `ValueError` for a data set that can't be exported, see [`read_rows`], and otherwise as
    [`whole_folder`] does.
    """
    codec, counts = mask_codec(), Counter[str]()
    with (
        whole_folder(folder) as part,
        open(part / ANNOTATIONS, "w", encoding="utf-8") as file,
        tempfile.TemporaryFile("w+", encoding="utf-8") as annotations,  # behind the images in the file
    ):
        (part / "images").mkdir()
        file.write('{"info": {"description": "scalpel-hf"},\n"images": [')
        for frame in labelled_frames(dataset, counts, carries=(BOX, POINT)):
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
    Yields one label for each image that a COCO file lists.

    The label is a mask: the union of the image's annotations, empty where there are none. Where an annotation of the
    image has a `bbox` or `keypoints` but no `segmentation`, the label is boxes and points instead; masks of the same
    image then count as their boxes, with a warning.

    Segmentations are RLE, compressed or not, or polygons. A polygon's corners are corners of pixels. Where `bbox` or
    `area` shows that they are centres of pixels, they are read as centres, with a warning. Images with
    `"label_source": "pseudo"`, as `write_coco` writes it, are skipped with a warning, because nobody has checked their
    labels. Programs in which people correct labels drop that entry.

    Args:
        path: the JSON file.
        category: name of the category that counts as target; needed where the annotations have several. The category
            `ignore` is neither target nor background.

    Raises `LabelFileError`, which names the file and the image or annotation, where the file isn't COCO's, an id occurs
    twice, an annotation has no mask, box or point, its mask has another size than the image or covers no pixel, or its
    `bbox` or `area` contradicts the mask.
    """
    path = Path(path)
    content = read_labels(path)
    lists = ("images", "annotations")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in lists):
        raise LabelFileError(f"{path}: not a COCO file, which has the lists `images` and `annotations`")
    images, annotations = (_by_id(content, key, path) for key in lists)
    wanted = _wanted_categories(content, category, path)
    ignored = {number for number, entry in _by_id(content, "categories", path).items() if entry.get("name") == IGNORE}
    ignored -= wanted
    of_image: dict[int | str, list[dict[str, Any]]] = {key: [] for key in images}
    for number, annotation in annotations.items():
        if type(image := annotation.get("image_id")) not in (int, str) or image not in images:
            raise LabelFileError(f"{path}, annotation {number}: there is no image {image!r}")
        if annotation.get("category_id") in wanted | ignored:
            of_image[image].append(annotation)
    checked = {n: image for n, image in images.items() if image.get("label_source", HUMAN) in BY_PEOPLE}
    sizes = {number: _size(image, _origin(image, path)) for number, image in checked.items()}
    centres = _corners_are_centres({n: of_image[n] for n in checked}, sizes, path)
    reduced = 0
    for number, image in checked.items():
        mask, open_pixels, boxes = _drawn(of_image[number], sizes[number], ignored=ignored, centres=centres, path=path)
        name, origin = named_by(image["file_name"]), _origin(image, path)
        yield label_of_drawing(name, origin, mask=mask, boxes=boxes, ignored=open_pixels, size=sizes[number])
        reduced += bool(boxes) and bool(mask.any())
    warn_of_masks_as_boxes(path, reduced, "images")
    if unchecked := len(images) - len(checked):
        warnings.warn(
            f"{path}: {unchecked} images say that their label is no human's and are left as they are; set "
            '`"label_source": "human"` on those that a person has checked',
            stacklevel=2,
        )


def _drawn(
    annotations: list[dict[str, Any]],
    size: tuple[int, int],
    ignored: set[int | str],
    centres: dict[int | str, bool],
    path: Path,
) -> tuple[np.ndarray, np.ndarray, list[tuple[float, ...]]]:
    """
    What people drew on an image: targets and ignored pixels `(H, W)` bool, and the boxes of targets without a mask.

    Args:
        size: (H, W) of the image.
        ignored: ids of the categories that are neither target nor background.
        centres: see [`_corners_are_centres`].
    """
    mask, open_pixels = np.zeros(size, bool), np.zeros(size, bool)
    boxes: list[tuple[float, ...]] = []
    for annotation in annotations:
        is_target = annotation.get("category_id") not in ignored
        with named(f"{path}, annotation {annotation['id']}"):
            if is_target and not annotation.get("segmentation"):
                boxes += boxes_of_annotation(annotation)
                continue
            pixels = mask if is_target else open_pixels
            pixels |= _pixels(annotation, size, centres.get(annotation["id"], False))
    return mask, open_pixels, boxes


def _pixels(annotation: dict[str, Any], shape: tuple[int, int], centres: bool) -> np.ndarray:
    """`(H, W)` bool: an annotation's mask or, where it has none, the pixels of its boxes."""
    if annotation.get("segmentation"):
        return decode_annotation(annotation, shape, centres)
    return np.logical_or.reduce([covered(box, shape) for box in boxes_of_annotation(annotation)])


def _append(file: TextIO, entry: dict[str, Any], number: int) -> None:
    file.write(("\n" if number == 1 else ",\n") + json.dumps(entry, ensure_ascii=False))


def _image(frame: Frame, number: int) -> dict[str, Any]:
    entry = {"id": number, "file_name": frame.file_name, "width": frame.width, "height": frame.height}
    entry["label_source"] = frame.label_source
    return entry if frame.teacher is None else entry | {"teacher": frame.teacher}


def _annotations(frame: Frame, codec: ModuleType) -> Iterator[dict[str, Any]]:
    for target in frame.targets():
        if frame.boxes:
            yield _box_annotation(target)
            continue
        entry = _annotation(target.mask((frame.height, frame.width)), codec, crowd=False)
        yield entry if target.score is None else entry | {"score": target.score}
    if frame.ignored is not None and frame.ignored.any():
        yield _annotation(frame.ignored, codec, crowd=True)


def _box_annotation(target: Target) -> dict[str, Any]:
    entry = {
        "category_id": CATEGORIES[0]["id"],
        "bbox": [target.x, target.y, target.width, target.height],
        "area": target.width * target.height,
        "iscrowd": 0,
    }
    return entry | ({"keypoints": [target.x, target.y, 2], "num_keypoints": 1} if target.is_point else {})


def _annotation(mask: np.ndarray, codec: ModuleType, crowd: bool) -> dict[str, Any]:
    rle = codec.encode(np.asfortranarray(mask, np.uint8))
    return {
        "category_id": CATEGORIES[crowd]["id"],
        "bbox": codec.toBbox(rle).tolist(),
        "area": int(codec.area(rle)),
        "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")},
        "iscrowd": int(crowd),
    }


def _by_id(content: dict[str, Any], key: str, path: Path) -> dict[int | str, dict[str, Any]]:
    """The entries of the file's list `key` by their `id`; `LabelFileError` for a missing or repeated `id`."""
    if not isinstance(entries := content.get(key) or [], list):
        raise LabelFileError(f"{path}: its `{key}` are no list")
    by_id: dict[int | str, dict[str, Any]] = {}
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or type(entry.get("id")) not in (int, str):
            raise LabelFileError(f"{path}: number {place} of its `{key}` has no `id`")
        if entry["id"] in by_id:
            raise LabelFileError(f"{path}: two {key} have the id {entry['id']!r}")
        by_id[entry["id"]] = entry
    return by_id


def _origin(image: dict[str, Any], path: Path) -> str:
    return f"{path}, image {image['id']} ({image.get('file_name')!r})"


def _size(image: dict[str, Any], origin: str) -> tuple[int, int]:
    """(H, W) of an image; `LabelFileError` where it has no file name or no size."""
    name = image.get("file_name")
    if not isinstance(name, str) or not named_by(name):
        raise LabelFileError(f"{origin}: needs `file_name`, `width` and `height`")
    with named(origin):
        return image_size(image.get("width"), image.get("height"))


def _wanted_categories(content: dict[str, Any], category: str | None, path: Path) -> set[int | str | None]:
    """The ids of the categories that count as target; `None` among them stands for annotations without a category."""
    names: dict[int | str | None, Any] = {
        number: entry.get("name") for number, entry in _by_id(content, "categories", path).items()
    }
    listed = sorted(map(str, names.values()))
    used: set[int | str | None] = set()
    for annotation in content["annotations"]:
        number = annotation.get("category_id")
        if not isinstance(number, int | str | None):
            raise LabelFileError(f"{path}, annotation {annotation['id']}: its `category_id` is {number!r}")
        if names and number is not None and number not in names:
            origin = f"{path}, annotation {annotation['id']}"
            raise LabelFileError(f"{origin}: its `category_id` {number!r} is of none of the categories {listed}")
        used.add(number)
    if category is not None:
        wanted: set[int | str | None] = {key for key, name in names.items() if name == category}
        if not wanted:
            raise LabelFileError(f"{path}: no category {category!r}, there are {listed}")
        return wanted
    used = {key for key in used if key not in names or names[key] != IGNORE}
    if len(used) > 1:
        listing = sorted(str(names.get(key, key)) for key in used)
        raise LabelFileError(f"{path}: annotations of the categories {listing}: name the target by --category")
    return used


def _corners_are_centres(
    annotations: dict[int | str, list[dict[str, Any]]],
    sizes: dict[int | str, tuple[int, int]],
    path: Path,
) -> dict[int | str, bool]:
    """
    Whether polygons' corners are pixels' centres, by the annotation's id, for the annotations where they can be.

    Where an annotation's `bbox` and `area` don't tell, the other annotations of the file decide. Raises
    `LabelFileError` where these contradict one another.
    """
    says: dict[int | str, bool | None] = {}
    for number, some in annotations.items():
        for annotation in some:
            with named(f"{path}, annotation {annotation['id']}"):
                polygons = read_polygons(annotation.get("segmentation"), sizes[number])
                if can_be_centres(polygons):
                    says[annotation["id"]] = corners_are_centres(annotation, polygons, sizes[number])
    found = Counter(says.values())
    if found[True]:
        warnings.warn(
            f"{path}: the polygons of {found[True]} annotations go through the centres of their outermost pixels, as "
            "contours of OpenCV do; their `bbox` or `area` says so. They are filled with these pixels",
            stacklevel=3,
        )
    if found[True] and found[False] and found[None]:
        number = next(key for key, value in says.items() if value is None)
        raise LabelFileError(
            f"{path}, annotation {number}: doesn't say by `bbox` or `area` whether the corners of its polygons are "
            "pixels' corners or centres, and there are both kinds in the file"
        )
    return {key: bool(found[True]) if value is None else value for key, value in says.items()}
