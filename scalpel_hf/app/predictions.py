"""A model's prediction for a frame, kept so that the page can show it at any threshold without a new prediction."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from scalpel_hf.adapter.layer import active_mask_level, record_router
from scalpel_hf.evaluation.box_metrics import detector_of
from scalpel_hf.predictors.teacher import Teacher
from scalpel_hf.runtime.components import Detections, find_detections
from scalpel_hf.runtime.recordings import Damage
from scalpel_hf.runtime.sources import read_stream
from scalpel_hf.utils.visualization import RED, level, operator_maps, outline

SHOWN_SIDE = 896  # pixels: small frames are enlarged up to this side, so that targets of two pixels are visible
TEXT = 14  # size of the font in pixels
MOST_FRAMES = 1000  # frames of a recording that the page can show

Captioned = list[tuple[Image.Image, str]]


@dataclass(frozen=True)
class FramePrediction:
    """
    A model's prediction for a frame, with pictures of what led to it.

    Args:
        name: of the frame.
        frame: `(H, W)`.
        probability: of a target, `(H, W)`; `None` for detectors.
        boxes: of a detector: boxes `(N, 4)`, (x0, y0, x1, y1) in pixels, and scores `(N,)`; `None` for other models.
        operators: picture and name of each operator's response.
        routers: for each operator, a picture of the router's weights, and its name with the mean weight; empty for
            models without routers.
        router_passes: number of passes of the frame's parts through routers, such as one for each tile.
    """

    name: str
    frame: np.ndarray
    probability: np.ndarray | None
    boxes: tuple[np.ndarray, np.ndarray] | None
    operators: Captioned
    routers: Captioned
    router_passes: int

    def detections(self, threshold: float) -> Detections:
        """The targets whose probability, or for detectors score, is above the threshold."""
        if self.probability is not None:
            return find_detections(self.probability, threshold)
        assert self.boxes is not None
        return _above(*self.boxes, threshold)

    def picture(self, threshold: float) -> Image.Image:
        """The frame with an outline around each target and its score; small frames are enlarged."""
        found, factor = self.detections(threshold), max(1, SHOWN_SIDE // max(self.frame.shape))
        mask = np.zeros(self.frame.shape, bool) if found.mask is None else found.mask
        image = outline(_enlarged(self.frame, factor), _enlarged(mask, factor), RED, width=2)
        draw, font = ImageDraw.Draw(image), ImageFont.load_default(TEXT)
        for box, score in zip(found.boxes * factor, found.scores, strict=True):
            x0, y0, x1, _ = box.tolist()
            if found.mask is None:
                draw.rectangle([v - 2 if i < 2 else v + 1 for i, v in enumerate(box.tolist())], outline=RED, width=2)
            text = f"{score:.2f}"
            width = draw.textlength(text, font)
            left = x1 + 5 if x1 + 5 + width < image.width else max(0, x0 - 5 - width)
            place = (left, max(0, y0 - TEXT / 2))
            draw.text(place, text, fill=RED, font=font, stroke_width=2, stroke_fill="black")
        return image


def predict_frame(model: Any, name: str, frame: np.ndarray) -> FramePrediction:
    """
    Compute a model's prediction for a frame, and the pictures of operators and routers.

    Args:
        model: as [`load_predictor`] returns it: with `probabilities`, or a detector with `detect`.
        name: of the frame.
        frame: `(H, W)`, at its own depth.

    Examples:
        >>> from scalpel_hf import load_predictor
        >>> from scalpel_hf.modeling import read_frame
        >>> prediction = predict_frame(load_predictor("runs/nuaa/student"), "frame", read_frame("frame.png"))
        >>> prediction.picture(threshold=0.5).save("targets.png")
    """
    probability, boxes = None, None
    with record_router() as records:
        if hasattr(model, "probabilities"):
            probability = model.probabilities(frame)
        else:
            scores, found = detector_of(model)(frame)
            boxes = found, scores
    operators = list(_captioned(operator_maps(frame.astype(np.float32))))
    routers = list(_routers(model, records)) if isinstance(model, Teacher) else []
    return FramePrediction(
        name=name,
        frame=frame,
        probability=probability,
        boxes=boxes,
        operators=operators,
        routers=routers,
        router_passes=len(records),
    )


def find_targets(model: Any, frame: np.ndarray, threshold: float) -> Detections:
    """The targets in a frame as in [`FramePrediction.detections`], without the pictures."""
    if hasattr(model, "probabilities"):
        return find_detections(model.probabilities(frame), threshold)
    scores, boxes = detector_of(model)(frame)
    return _above(boxes, scores, threshold)


def _above(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> Detections:
    return Detections(boxes[scores > threshold], scores[scores > threshold], None)


def _captioned(pictures: dict[str, Image.Image]) -> Iterator[tuple[Image.Image, str]]:
    yield from ((picture, name) for name, picture in pictures.items())


def _routers(teacher: Teacher, records: list[dict[str, torch.Tensor]]) -> Iterator[tuple[Image.Image, str]]:
    """Yields, for each operator, a picture of its weights in the first pass, and its name with its mean weight."""
    mask_level = active_mask_level(teacher.model)
    if mask_level is None or mask_level.pyramid is None or not records:
        return
    first = records[0]["router_weights"][0].float().numpy(force=True)  # (E, H, W)
    alike = [r["image_weights"][0] for r in records if r["image_weights"].shape[1] == len(first)]
    weights = torch.stack(alike).float().mean(0).tolist()
    for name, places, weight in zip(mask_level.pyramid.num_maps, first, weights, strict=True):
        yield level(np.clip(places, 0, 1)), f"{name.replace('_', ' ')}: {weight:.2f}"


def _enlarged(values: np.ndarray, factor: int) -> np.ndarray:
    return values.repeat(factor, 0).repeat(factor, 1)


def count_frames(path: str) -> tuple[int, str]:
    """
    The number of a file's frames that can be read, up to `MOST_FRAMES`, and a note on the others, which may be empty.

    Raises `OSError` or `ValueError` where no frame can be read.
    """
    damage = Damage()
    frames = read_stream(path, damage)
    count = sum(1 for _ in islice(frames, MOST_FRAMES))
    more = next(frames, None) is not None
    notes = [str(damage)] if damage else []
    notes += [f"the first {MOST_FRAMES} frames are here; `scalpel-hf predict` takes all"] if more else []
    return count, "; ".join(notes)


def read_one(path: str, number: int) -> tuple[str, np.ndarray]:
    """Name and pixels `(H, W)` of a frame, by its number among the file's frames that can be read."""
    return next(islice(read_stream(path, Damage()), number, None))
