"""Pictures of frames, priors and answers, by Pillow alone."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from .adapter import record_router
from .modeling.image_processing_infrared import read_frame
from .student import Student
from .teacher import Teacher

GREEN, RED = (60, 220, 90), (255, 70, 60)


def gray(values: np.ndarray) -> Image.Image:
    """A map `(H, W)` stretched from its 1st to its 99.9th percentile."""
    low, high = np.percentile(values, [1, 99.9])
    scaled = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    return Image.fromarray((255 * scaled).astype(np.uint8)).convert("RGB")


def outline(frame: np.ndarray, mask: np.ndarray, color: tuple[int, int, int]) -> Image.Image:
    """A frame with a line just outside each component of a mask, so that the smallest target stays visible."""
    image = np.array(gray(frame))
    near, far = (ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=i) for i in (1, 2))
    image[far & ~near] = color
    return Image.fromarray(image)


def side_by_side(images: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """Images of one height in a row."""
    width = sum(i.width for i in images) + gap * (len(images) - 1)
    row = Image.new("RGB", (width, max(i.height for i in images)), "white")
    x = 0
    for image in images:
        row.paste(image, (x, 0))
        x += image.width + gap
    return row


def comparison(rows: Iterable[dict[str, Any]], teacher: Teacher, students: Sequence[Student]) -> list[Image.Image]:
    """
    For each row: the frame, its truth, the teacher's routed prior, and what teacher and students find.

    Truth is outlined in green, answers at threshold 0.5 in red.
    """
    pictures = []
    for row in rows:
        frame, truth = read_frame(row["image"]).astype(np.float32), read_frame(row["mask"]) > 127
        with record_router() as records:
            answers = [teacher.probabilities(row["image"])]
        answers += [student.probabilities(row["image"]) for student in students]
        prior = [gray(records[0]["prior"][0, 0].numpy(force=True))] if "prior" in records[0] else []
        found = [outline(frame, answer > 0.5, RED) for answer in answers]
        pictures.append(side_by_side([gray(frame), outline(frame, truth, GREEN), *prior, *found]))
    return pictures
