"""Label Studio: `tasks.json` with brush masks, `label_config.xml` and `images/`; and its JSON export back."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from scalpel_hf.data import read_frame
from scalpel_hf.data.objects import encode_png

from .brush_rle import decode_brush_rle, encode_brush_rle
from .frames import IGNORE, TARGET, AnyDataset, Frame, read_frames, whole_folder
from .human_labels import HumanLabel, LabelFileError, read_json, stem

TASKS, CONFIG = "tasks.json", "label_config.xml"
FROM_NAME, TO_NAME = "mask", "image"
LABEL_CONFIG = f"""<View>
  <Image name="{TO_NAME}" value="$image" zoom="true" zoomControl="true" smoothing="false"/>
  <BrushLabels name="{FROM_NAME}" toName="{TO_NAME}">
    <Label value="{TARGET}" background="#ff0000"/>
    <Label value="{IGNORE}" background="#ffff00"/>
  </BrushLabels>
</View>
"""
LOCAL_FILES = "/data/local-files/?d="
SHOWN_BY_BROWSERS = (".png", ".jpg", ".jpeg", ".bmp")
DRAWN = ("x", "points", "vertices")  # in the values of boxes, ellipses, key points, polygons, vectors


def write_label_studio(dataset: AnyDataset, folder: str | Path, image_url: str = LOCAL_FILES) -> Counter[str]:
    """
    Write all frames as tasks for Label Studio.

    A human's label becomes an annotation, a pseudo label a prediction with the teacher's scores, each target a brush
    region of its own (exact), pixels that are neither target nor background one with the label `ignore`. A frame
    without label is a task without either. Browsers show 8-bit PNG, JPEG and BMP: such files are copied as they are, of
    others an 8-bit PNG of the same size is made to look at, stretched linearly from the frame's lowest value to its
    highest. Memory does not grow with the number of frames.

    Args:
        image_url: what precedes an image's file name in a task. By default files are read from Label Studio's local
            storage, whose root must then be the folder `images`.

    Returns how many `frames`, `targets` and `frames without label`. Raises as `read_frames` and `whole_folder` do.
    """
    counts = Counter[str]()
    with whole_folder(folder) as part, open(part / TASKS, "w", encoding="utf-8") as file:
        (part / "images").mkdir()
        (part / CONFIG).write_text(LABEL_CONFIG, encoding="utf-8")
        for frame in read_frames(dataset):
            file_name, content = _image(frame)
            (part / "images" / file_name).write_bytes(content)
            task: dict[str, Any] = {"data": {"image": image_url + quote(file_name), "name": frame.name}}
            if frame.mask is None:
                counts["frames without label"] += 1
            else:
                regions = list(_regions(frame))
                counts["targets"] += sum(region["value"]["brushlabels"] == [TARGET] for region in regions)
                task |= _labels(frame, regions)
            file.write(("[\n" if not counts["frames"] else ",\n") + json.dumps(task, ensure_ascii=False))
            counts["frames"] += 1
        if not counts["frames"]:
            raise ValueError("the data set has no rows to export")
        file.write("\n]\n")
    return counts


def read_label_studio(path: str | Path, label: str | None = None) -> Iterator[HumanLabel]:
    """
    The masks of Label Studio's JSON export, one a task that a person has annotated: the union of its brush regions,
    empty where the annotation has none.

    Predictions are no one's labels and are passed over, and so are tasks without annotation and cancelled annotations.
    A task's frame is `data.name`, as `write_label_studio` has it, or else the stem of `data.image`.

    Args:
        path: the JSON file.
        label: the brush label that is target; needed where there are several. What is called `ignore` is none by
            itself.

    Raises `LabelFileError` naming the file, the task and the annotation, where two annotations of a task are left, a
    region isn't a brush mask, or an RLE is damaged or of another size.
    """
    path = Path(path)
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(task, dict) and "data" in task for task in content):
        raise LabelFileError(f"{path}: not Label Studio's JSON export, a list of tasks with `data` and `annotations`")
    labels: set[str] = set()
    for number, task in enumerate(content):
        origin = f"{path}, task {task.get('id', number)}"
        done = [entry for entry in task.get("annotations") or [] if not entry.get("was_cancelled")]
        if len(done) > 1:
            ids = ", ".join(str(entry.get("id")) for entry in done)
            raise LabelFileError(f"{origin}: has {len(done)} annotations ({ids}): keep one of them")
        if not done:
            continue
        origin += f", annotation {done[0].get('id', 0)}"
        masks = []
        for region in done[0].get("result") or []:
            found = _brush(region, f"{origin}, region {region.get('id')}")
            if found is not None and (label in found[1] if label else found[1] != [IGNORE]):
                labels.update(found[1])
                masks.append(found[0])
        if label is None and len(labels) > 1:
            raise LabelFileError(f"{origin}: there are brush labels {sorted(labels)}: say which one is target")
        if len({mask.shape for mask in masks}) > 1:
            raise LabelFileError(f"{origin}: its regions have different sizes")
        data = task["data"]
        name = data.get("name") or stem(unquote(str(data.get("image"))).rpartition("=")[2])
        yield HumanLabel(name, np.logical_or.reduce(masks) if masks else None, origin)


def _image(frame: Frame) -> tuple[str, bytes]:
    pixels = read_frame(frame.content)
    if frame.suffix in SHOWN_BY_BROWSERS and pixels.dtype == np.uint8:
        return frame.file_name, frame.content
    shifted = pixels.astype(np.float64) - pixels.min()
    return f"{frame.name}.png", encode_png(np.rint(shifted * (255 / (shifted.max() or 1))).astype(np.uint8))


def _regions(frame: Frame) -> Iterator[dict[str, Any]]:
    for number, target in enumerate(frame.targets()):
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


def _labels(frame: Frame, regions: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    if frame.label_source == "human":
        return {"annotations": [{"result": regions}]}
    teacher = (frame.teacher or {}).get("repo")
    score = max((region["score"] for region in regions if "score" in region), default=0.0)
    return {"predictions": [{"model_version": teacher or "teacher", "score": score, "result": regions}]}


def _brush(region: dict[str, Any], origin: str) -> tuple[np.ndarray, list[str]] | None:
    """A region's mask and brush labels; `None` for a result that draws nothing, such as a choice or a comment."""
    value = region.get("value")
    if not isinstance(value, dict) or (value.get("format") != "rle" and not any(key in value for key in DRAWN)):
        return None
    if value.get("format") != "rle":
        raise LabelFileError(f"{origin}: is drawn as {region.get('type')}, which has no pixels: use the brush")
    if region.get("image_rotation"):
        raise LabelFileError(f"{origin}: its image was rotated: turn it back and save the annotation again")
    try:
        mask = decode_brush_rle(value["rle"], int(region["original_height"]), int(region["original_width"]))
    except (KeyError, TypeError, ValueError) as error:
        raise LabelFileError(f"{origin}: {error}") from error
    return mask, list(value.get("brushlabels") or value.get("labels") or [])
