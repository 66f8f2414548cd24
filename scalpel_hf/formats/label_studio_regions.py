"""Reads the regions that people drew in Label Studio: brush masks, bitmasks, rectangles and key points."""

import base64
import binascii
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from .brush_rle import decode_brush_rle
from .human_labels import LabelFileError, covered, image_size, objects_of

# Types of results that describe a region, the frame or two regions, but draw nothing.
NOTES = (
    "choices",
    "datetime",
    "labels",
    "number",
    "pairwise",
    "ranker",
    "rating",
    "relation",
    "taxonomy",
    "textarea",
)
BOXES = ("rectangle", "keypoint")  # types of boxes and points begin with one of these
SHAPES = ("polygon", "ellipse", "vector")  # types of shapes that can't be read begin with one of these
SHAPE_KEYS = ("x", "points", "vertices")  # the values of such shapes have one of these keys
LABELS = ("brushlabels", "bitmasklabels", "rectanglelabels", "keypointlabels", "labels")
NO_LABEL = "(no label)"
PNG_URL = "data:image/png;base64,"


@dataclass(frozen=True)
class Region:
    """
    What a person drew in one place of an image.

    Args:
        shape: (H, W) of the image.
        mask: `(H, W)` bool; `None` for rectangles and key points.
        box: `(x, y, width, height)` of a rectangle or `(x, y)` of a key point, in pixels; `None` for masks.
        labels: the names that people gave it; `NO_LABEL` alone where they gave none.
    """

    shape: tuple[int, int]
    mask: np.ndarray | None
    box: tuple[float, ...] | None
    labels: frozenset[str]

    def pixels(self) -> np.ndarray:
        """`(H, W)` bool: the mask, or the pixels of the rectangle, see [`covered`]."""
        return np.asarray(self.mask) if self.box is None else covered(self.box, self.shape)


def read_regions(result: Any, origin: str) -> list[Region]:
    """
    The regions in the `result` of an annotation.

    Entries with the same `id` and the same mask are one region: Label Studio writes an entry for each control that
    people used on it, such as a rating.

    Args:
        origin: the file, task and annotation, for messages.

    Raises `LabelFileError` for a region that is drawn as something else than a mask, box or point, is of an unknown
    type, or is damaged.
    """
    drawn: dict[tuple[str, bytes], tuple[tuple[int, int], np.ndarray | None, tuple[float, ...] | None]] = {}
    labels: dict[tuple[str, bytes], set[str]] = {}
    for entry in objects_of(result, f"{origin}: its `result`"):
        try:
            mask, box = _mask(entry), _box(entry)
            names = [name for kind in LABELS for name in _labels(_value(entry), kind)]
        except ValueError as error:
            raise LabelFileError(f"{origin}, region {entry.get('id')}: {error}") from error
        if mask is not None or box is not None:
            content = np.packbits(mask).tobytes() if mask is not None else repr(box).encode()
            key = (str(entry.get("id")), content)
            drawn[key] = image_size(entry["original_width"], entry["original_height"]), mask, box
            labels.setdefault(key, set()).update(names)
    return [Region(*region, frozenset(labels[key] or {NO_LABEL})) for key, region in drawn.items()]


def _value(entry: dict[str, Any]) -> dict[str, Any]:
    value = entry.get("value", {})
    if not isinstance(value, dict):
        raise ValueError("its `value` is no object")
    return value


def _labels(value: dict[str, Any], kind: str) -> list[str]:
    names = value.get(kind) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"its `{kind}` are no list of names")
    return names


def _is_box(entry: dict[str, Any]) -> bool:
    return str(entry.get("type")).startswith(BOXES)


def _box(entry: dict[str, Any]) -> tuple[float, ...] | None:
    """The box of a rectangle and the point of a key point, in pixels; `None` for another entry."""
    if not _is_box(entry):
        return None
    value, is_point = _value(entry), str(entry["type"]).startswith("keypoint")
    if entry.get("image_rotation") or (value.get("rotation") and not is_point):
        raise ValueError("is turned, or its image was: draw it upright, on the image as it is")
    height, width = image_size(entry.get("original_width"), entry.get("original_height"))
    percent: list[Any] = [value.get(name) for name in (("x", "y") if is_point else ("x", "y", "width", "height"))]
    if not all(type(number) in (int, float) for number in percent):
        raise ValueError("has no x, y, width and height in percent")
    sides = (width, height, width, height)
    box = tuple(number * side / 100 for number, side in zip(percent, sides, strict=False))
    return tuple(round(number, 6) for number in box)


def _mask(entry: dict[str, Any]) -> np.ndarray | None:
    """The mask of an entry, `(H, W)` bool; `None` for an entry without a mask."""
    value, kind = _value(entry), entry.get("type")
    if _is_box(entry):
        return None
    if "rle" not in value and "imageDataURL" not in value:
        if str(kind).startswith(SHAPES) or any(key in value for key in SHAPE_KEYS):
            raise ValueError(f"is drawn as {kind}, which is neither a mask nor a box: use the brush or rectangles")
        if kind not in NOTES or "format" in value:
            raise ValueError(f"is of the type {kind!r}, which isn't understood here: export brush masks or bitmasks")
        return None
    if entry.get("image_rotation"):
        raise ValueError("its image was rotated: turn it back and save the annotation again")
    if value.get("format", "rle") != "rle":
        raise ValueError(f"its mask has the format {value['format']!r}, which isn't understood here")
    shape = image_size(entry.get("original_width"), entry.get("original_height"))
    return decode_brush_rle(value["rle"], *shape) if "rle" in value else _bitmask(value["imageDataURL"], shape)


def _bitmask(url: Any, shape: tuple[int, int]) -> np.ndarray:
    """The mask in a PNG's data URL, black targets on a transparent ground: target where alpha exceeds 127."""
    if not isinstance(url, str) or not url.startswith(PNG_URL):
        raise ValueError(f"its bitmask isn't a PNG file as `{PNG_URL}…`")
    try:
        with Image.open(BytesIO(base64.b64decode(url.removeprefix(PNG_URL), validate=True)), formats=["PNG"]) as image:
            if image.size != shape[::-1]:
                width, height = image.size
                raise ValueError(f"its bitmask has {width} × {height} pixels, its image {shape[1]} × {shape[0]}")
            alpha = np.asarray(image.convert("RGBA"))[:, :, 3]
            if alpha.min() == 255:  # not a target as large as the image, but an image without transparency
                raise ValueError("its bitmask has no transparency, which is what tells target from background")
            return alpha > 127
    except (binascii.Error, OSError, SyntaxError) as error:
        raise ValueError(f"its bitmask is damaged: {error}") from error
