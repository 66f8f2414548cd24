"""Label Studio: `tasks.json` with brush masks, `label_config.xml` and `images/`; and its JSON export back."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from scalpel_hf.data import read_frame
from scalpel_hf.data.label_sources import BOX, BY_PEOPLE, POINT
from scalpel_hf.data.objects import encode_png
from scalpel_hf.utils.files import whole_folder

from .brush_rle import encode_brush_rle
from .export_rows import IGNORE, TARGET, AnyDataset, Frame, Target, read_frames
from .human_labels import (
    HumanLabel,
    LabelFileError,
    label_of_drawing,
    named,
    named_by,
    objects_of,
    read_labels,
    warn_of_masks_as_boxes,
)
from .label_studio_regions import NO_LABEL, Region, read_regions

TASKS, CONFIG = "tasks.json", "label_config.xml"
FROM_NAME, TO_NAME = "mask", "image"
LABEL_CONFIG = f"""<View>
  <Image name="{TO_NAME}" value="$image" zoom="true" zoomControl="true" smoothing="false"/>
  <BrushLabels name="{FROM_NAME}" toName="{TO_NAME}">
    <Label value="{TARGET}" background="#ff0000"/>
    <Label value="{IGNORE}" background="#ffff00"/>
  </BrushLabels>
  <RectangleLabels name="{BOX}" toName="{TO_NAME}">
    <Label value="{TARGET}" background="#ff0000"/>
  </RectangleLabels>
  <KeyPointLabels name="{POINT}" toName="{TO_NAME}">
    <Label value="{TARGET}" background="#ff0000"/>
  </KeyPointLabels>
</View>
"""
LOCAL_FILES = "/data/local-files/?d="
SHOWN_BY_BROWSERS = (".png", ".jpg", ".jpeg", ".bmp")


def write_label_studio(dataset: AnyDataset, folder: str | Path, image_url: str = LOCAL_FILES) -> Counter[str]:
    """
    Write all frames as tasks for Label Studio.

    A person's label becomes an annotation. A pseudo label becomes a prediction with the teacher's scores. A frame
    without a label becomes a task without either. Each target of a mask is a brush region of its own (exact), each box
    a rectangle and each point a key point. Pixels that are neither target nor background are one brush region with the
    label `ignore`. Browsers show 8-bit PNG, JPEG and BMP: such files are copied as they are. Other files are converted
    to 8-bit PNG of the same size, stretched linearly from the frame's lowest value to its highest. Memory does not grow
    with the number of frames.

    Args:
        image_url: stands before an image's file name in a task. By default, files are read from Label Studio's local
            storage, whose root must then be the folder `images`.

    Returns how many `frames` and `targets` were written, and how many of the frames are `frames without label`. Raises
    `ValueError` for a data set that can't be exported, see [`read_rows`], and otherwise as [`whole_folder`] does.
    """
    counts = Counter[str]()
    with whole_folder(folder) as part, open(part / TASKS, "w", encoding="utf-8") as file:
        (part / "images").mkdir()
        (part / CONFIG).write_text(LABEL_CONFIG, encoding="utf-8")
        for frame in read_frames(dataset):
            file_name, content = _image(frame)
            (part / "images" / file_name).write_bytes(content)
            task: dict[str, Any] = {"data": {"image": image_url + quote(file_name), "name": frame.name}}
            if frame.mask is None and not frame.boxes:
                counts["frames without label"] += 1
            else:
                regions = list(_regions(frame))
                counts["targets"] += sum(region["id"] != IGNORE for region in regions)
                task |= _labels(frame, regions)
            file.write(("[\n" if not counts["frames"] else ",\n") + json.dumps(task, ensure_ascii=False))
            counts["frames"] += 1
        if not counts["frames"]:
            raise ValueError("the data set has no rows to export")
        file.write("\n]\n")
    return counts


def read_label_studio(path: str | Path, label: str | None = None) -> Iterator[HumanLabel]:
    """
    Yields one label for each task in Label Studio's JSON export that a person has annotated.

    The label is a mask: the union of the annotation's brush and bitmask regions, empty where it has none. Where the
    annotation has rectangles or key points, the label is boxes and points instead; masks of the same annotation then
    count as their boxes, with a warning.

    Skipped are predictions, which nobody has checked, cancelled annotations, and tasks without annotation. The name of
    a task's frame is `data.name`, as `write_label_studio` writes it, or else the name of the file in `data.image`.

    Args:
        path: the JSON file.
        label: the label of regions that counts as target; needed where there are several. The label `ignore` is neither
            target nor background.

    Raises `LabelFileError`, which names the file, the task and the annotation, where the file isn't such an export, a
    task has several annotations that aren't cancelled, a region is rotated or isn't brush, bitmask, rectangle or key
    point, a mask is damaged or has another size than the image, or no region has the `label`.
    """
    path = Path(path)
    content = read_labels(path)
    if not isinstance(content, list) or not all(
        isinstance(t, dict) and isinstance(t.get("data"), dict) for t in content
    ):
        raise LabelFileError(f"{path}: not Label Studio's JSON export, a list of tasks with `data` and `annotations`")
    taken, seen, reduced = set[str](), set[str](), 0
    for number, task in enumerate(content):
        origin = f"{path}, task {task.get('id', number)}"
        annotation = _annotation(task, origin)
        if annotation is None:
            continue
        origin += f", annotation {annotation.get('id', 0)}"
        targets, ignored = [], []
        for region in read_regions(annotation.get("result"), origin):
            seen |= region.labels
            if label in region.labels if label else region.labels != {IGNORE}:
                taken |= region.labels
                targets.append(region)
            elif region.labels == {IGNORE}:
                ignored.append(region)
        if len(taken) > 1 and label is None:
            raise LabelFileError(f"{origin}: there are the labels {sorted(taken)}: name the target by --category")
        if NO_LABEL in seen and label is not None:
            raise LabelFileError(f"{origin}: has a region without a label, of which {label!r} can't be told")
        yield _label(task["data"], origin, targets=targets, ignored=ignored)
        reduced += len({region.box is None for region in targets}) > 1
    warn_of_masks_as_boxes(path, reduced, "tasks")
    if label is not None and seen and label not in seen:
        raise LabelFileError(f"{path}: no region has the label {label!r}, there are {sorted(seen)}")


def _label(data: dict[str, Any], origin: str, targets: list[Region], ignored: list[Region]) -> HumanLabel:
    """The label of a task's frame; `LabelFileError` where the regions don't go together."""
    if len({region.shape for region in [*targets, *ignored]}) > 1:
        raise LabelFileError(f"{origin}: its regions have different sizes")
    with named(origin):
        open_pixels = _union(ignored)
    return label_of_drawing(
        _frame_name(data, origin),
        origin,
        mask=_union([region for region in targets if region.box is None]),
        boxes=[region.box for region in targets if region.box is not None],
        ignored=open_pixels,
        size=targets[0].shape if targets else None,
    )


def _union(regions: list[Region]) -> np.ndarray | None:
    """`(H, W)` bool: the pixels of any of the regions; `None` without regions."""
    return np.logical_or.reduce([region.pixels() for region in regions]) if regions else None


def _annotation(task: dict[str, Any], origin: str) -> dict[str, Any] | None:
    """The annotation of a task that isn't cancelled; `None` without one, `LabelFileError` for several."""
    if "completions" in task:
        raise LabelFileError(f"{origin}: has `completions`, as Label Studio wrote before 1.0: export with a newer one")
    entries = objects_of(task.get("annotations"), f"{origin}: `annotations`")
    done = [entry for entry in entries if not entry.get("was_cancelled")]
    if len(done) > 1:
        ids = ", ".join(str(entry.get("id")) for entry in done)
        raise LabelFileError(f"{origin}: has {len(done)} annotations ({ids}): keep one of them")
    return done[0] if done else None


def _frame_name(data: dict[str, Any], origin: str) -> str:
    name, image = data.get("name"), data.get("image")
    if name is None and isinstance(image, str):
        _, is_local, path = image.partition(LOCAL_FILES)
        name = named_by(unquote(path if is_local else image.partition("?")[0]))
    if not isinstance(name, str) or not name:
        raise LabelFileError(f"{origin}: names no frame, neither by `data.name` nor by a file in `data.image`")
    return name


def _image(frame: Frame) -> tuple[str, bytes]:
    """Name and content of an image file that browsers show."""
    pixels = read_frame(frame.content)
    if frame.suffix in SHOWN_BY_BROWSERS and pixels.dtype == np.uint8:
        return frame.file_name, frame.content
    shifted = pixels.astype(np.float64) - pixels.min()
    return f"{frame.name}.png", encode_png(np.rint(shifted * (255 / (shifted.max() or 1))).astype(np.uint8))


def _regions(frame: Frame) -> Iterator[dict[str, Any]]:
    for number, target in enumerate(frame.targets()):
        if frame.boxes:
            yield _box_region(f"{TARGET}-{number}", target, frame)
            continue
        region = _region(f"{TARGET}-{number}", TARGET, target.mask((frame.height, frame.width)))
        yield region if target.score is None else region | {"score": target.score}
    if frame.ignored is not None and frame.ignored.any():
        yield _region(IGNORE, IGNORE, frame.ignored)


def _region(key: str, label: str, mask: np.ndarray) -> dict[str, Any]:
    return {
        "id": key,
        "type": "brushlabels",
        "from_name": FROM_NAME,
        "to_name": TO_NAME,
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_brush_rle(mask), "brushlabels": [label]},
    }


def _box_region(key: str, target: Target, frame: Frame) -> dict[str, Any]:
    """A box or point as a region, whose numbers are percentages of the frame's sides."""
    kind, name = ("keypointlabels", POINT) if target.is_point else ("rectanglelabels", BOX)
    width, height = (100 / side for side in (frame.width, frame.height))
    value = {"x": target.x * width, "y": target.y * height, "width": target.width * width, kind: [TARGET]}
    value |= {"width": 1.0} if target.is_point else {"height": target.height * height, "rotation": 0}
    return {
        "id": key,
        "type": kind,
        "from_name": name,
        "to_name": TO_NAME,
        "original_width": frame.width,
        "original_height": frame.height,
        "image_rotation": 0,
        "value": value,
    }


def _labels(frame: Frame, regions: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    if frame.label_source in BY_PEOPLE:
        return {"annotations": [{"result": regions}]}
    teacher = (frame.teacher or {}).get("repo")
    score = max((region["score"] for region in regions if "score" in region), default=0.0)
    return {"predictions": [{"model_version": teacher or "teacher", "score": score, "result": regions}]}
