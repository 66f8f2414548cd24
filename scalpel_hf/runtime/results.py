"""What was found in a frame, and the file that tells of all frames at the end: COCO's."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scalpel_hf.utils.files import write_json


@dataclass(frozen=True)
class Result:
    """
    What was found in a frame.

    Args:
        name: of the frame.
        pixels: `(H, W)`, as they were read.
        boxes, scores: `(N, 4)` and `(N,)`, see [`Detections`].
        tracks: `(N,)`, the number of each target through the frames, where they are followed.
    """

    name: str
    pixels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    tracks: np.ndarray | None = None

    def only(self, kept: np.ndarray, tracks: np.ndarray) -> "Result":
        """The same with some of the boxes, `kept` (N,) bool, and the numbers of all."""
        return replace(self, boxes=self.boxes[kept], scores=self.scores[kept], tracks=tracks[kept])

    def line(self) -> dict[str, Any]:
        """As a line of JSON."""
        line = {"frame": self.name, "boxes": self.boxes.tolist(), "scores": _rounded(self.scores)}
        return line if self.tracks is None else {**line, "tracks": self.tracks.tolist()}


class CocoFile:
    """A COCO file of detections as annotations with a `score`, and `track_id` where targets are followed; it is written
    when it is closed, whole or not at all."""

    def __init__(self, path: Path):
        self.path = path
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def write(self, result: Result) -> None:
        height, width = result.pixels.shape
        image = {"id": len(self.images) + 1, "file_name": result.name, "width": width, "height": height}
        self.images.append(image)
        tracks = [None] * len(result.boxes) if result.tracks is None else result.tracks.tolist()
        for (x0, y0, x1, y1), score, track in zip(result.boxes.tolist(), _rounded(result.scores), tracks, strict=True):
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": image["id"],
                    "category_id": 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                    "score": score,
                    **({} if track is None else {"track_id": track}),
                }
            )

    def close(self) -> None:
        if self.images:
            categories = [{"id": 1, "name": "target"}]
            write_json(self.path, {"images": self.images, "annotations": self.annotations, "categories": categories})


def _rounded(scores: np.ndarray) -> list[float]:
    return [round(float(score), 4) for score in scores]
