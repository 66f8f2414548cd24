"""The detections of a frame as the program writes them, and a COCO file of the detections of all frames."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scalpel_hf.utils.files import write_json


@dataclass(frozen=True)
class Result:
    """
    The detections in a frame.

    Args:
        name: of the frame.
        pixels: of the frame, `(H, W)`, as they were read.
        boxes, scores: `(N, 4)` and `(N,)`, see [`Detections`].
        tracks: `(N,)` int, the number of each target's track; `None` without tracking.
    """

    name: str
    pixels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    tracks: np.ndarray | None = None

    def only(self, kept: np.ndarray, tracks: np.ndarray) -> "Result":
        """
        The result with some of its boxes.

        Args:
            kept: `(N,)` bool.
            tracks: `(N,)`, the numbers of all boxes' tracks.
        """
        return replace(self, boxes=self.boxes[kept], scores=self.scores[kept], tracks=tracks[kept])

    def line(self) -> dict[str, Any]:
        """The content of the frame's line of JSON."""
        line = {"frame": self.name, "boxes": self.boxes.tolist(), "scores": _rounded(self.scores)}
        return line if self.tracks is None else {**line, "tracks": self.tracks.tolist()}


class CocoFile:
    """
    A COCO file with the detections as annotations with a `score`, and a `track_id` if targets are tracked.

    It is written when it is closed, whole or not at all; without frames no file is written. As a context it is closed
    at the end, and where an error ends the block, an older file stays as it was.
    """

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

    def __enter__(self) -> "CocoFile":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close()


def _rounded(scores: np.ndarray) -> list[float]:
    return [round(float(score), 4) for score in scores]
