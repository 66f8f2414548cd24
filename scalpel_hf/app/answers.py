"""What a model says about a frame, kept so that the page shows it at another threshold without asking again."""

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

SHOWN_SIDE = 896  # pixels that a small frame is enlarged to, so that a target of two pixels is seen
TEXT = 14  # pixels
MOST_FRAMES = 1000  # of a recording

Captioned = list[tuple[Image.Image, str]]


@dataclass(frozen=True)
class Answer:
    """
    Args:
        name: what the frame is called in its file.
        frame: `(H, W)`.
        probability: of a target, `(H, W)`; `None` of a detector.
        boxes: of a detector `(N, 4)`, (x0, y0, x1, y1), and its scores `(N,)`.
        operators: what each operator sees.
        routers: where each operator counts, of a teacher whose routers choose.
        routed_in: in how many passes the frame went through the routers.
    """

    name: str
    frame: np.ndarray
    probability: np.ndarray | None
    boxes: tuple[np.ndarray, np.ndarray] | None
    operators: Captioned
    routers: Captioned
    routed_in: int

    def found(self, threshold: float) -> Detections:
        """The targets with a probability, or of a detector a score, above the threshold."""
        if self.probability is not None:
            return find_detections(self.probability, threshold)
        assert self.boxes is not None
        return _above(*self.boxes, threshold)

    def picture(self, threshold: float) -> Image.Image:
        """The frame with an outline around each target and its score; small frames are enlarged."""
        found, factor = self.found(threshold), max(1, SHOWN_SIDE // max(self.frame.shape))
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
            draw.text((left, max(0, y0 - TEXT / 2)), text, RED, font, stroke_width=2, stroke_fill="black")
        return image


def ask(model: Any, name: str, frame: np.ndarray) -> Answer:
    """
    Ask a model about a frame.

    Args:
        model: as [`load_predictor`] gives it: with `probabilities`, or a detector with `detect`.
        name: what the frame is called.
        frame: `(H, W)`, at its own depth.
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
    return Answer(name, frame, probability, boxes, operators, routers, len(records))


def find_targets(model: Any, frame: np.ndarray, threshold: float) -> Detections:
    """What [`Answer.found`] gives, of a model that is asked for nothing else."""
    if hasattr(model, "probabilities"):
        return find_detections(model.probabilities(frame), threshold)
    scores, boxes = detector_of(model)(frame)
    return _above(boxes, scores, threshold)


def _above(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> Detections:
    return Detections(boxes[scores > threshold], scores[scores > threshold], None)


def _captioned(pictures: dict[str, Image.Image]) -> Iterator[tuple[Image.Image, str]]:
    yield from ((picture, name) for name, picture in pictures.items())


def _routers(teacher: Teacher, records: list[dict[str, torch.Tensor]]) -> Iterator[tuple[Image.Image, str]]:
    """Where the first pass's routers let each operator count, and its weight, the mean of all passes."""
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
    How many frames a file has, up to `MOST_FRAMES`, and what a person should know about the others.

    Raises `OSError` or `ValueError` for a file without a frame that can be read.
    """
    damage = Damage()
    frames = read_stream(path, damage)
    count = sum(1 for _ in islice(frames, MOST_FRAMES))
    more = next(frames, None) is not None
    notes = [str(damage)] if damage else []
    notes += [f"the first {MOST_FRAMES} frames are here; `scalpel-hf predict` takes all"] if more else []
    return count, "; ".join(notes)


def read_one(path: str, number: int) -> tuple[str, np.ndarray]:
    """Name and pixels of a file's frame, by its number among those that can be read."""
    return next(islice(read_stream(path, Damage()), number, None))
