"""A target that was found in a frame, as the pipeline gives it."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

KEYS = ("score", "label", "box", "mask")


class Target(Mapping[str, Any]):
    """
    A mapping of `score`, `label`, `box` and `mask`, of which the mask is kept as large as the box.

    `target["mask"]` makes an image of the frame's size of it each time: of thousands of targets in a large frame all
    such images together would take gigabytes.

    Args:
        score: the mean probability inside.
        place: rows and columns of the box in the frame.
        inside: the target's pixels in the box, bool, its shape.
        frame_size: height and width of the frame.
    """

    def __init__(self, score: float, place: tuple[slice, slice], inside: np.ndarray, frame_size: tuple[int, int]):
        rows, columns = place
        self.box = {"xmin": columns.start, "ymin": rows.start, "xmax": columns.stop, "ymax": rows.stop}
        self.score, self.label = score, "target"
        self.frame_size = frame_size
        self._inside = np.packbits(inside)

    @property
    def mask(self) -> Image.Image:
        """A PIL image of the frame's size, 255 inside the target and 0 outside."""
        height, width = self.box["ymax"] - self.box["ymin"], self.box["xmax"] - self.box["xmin"]
        inside = np.unpackbits(self._inside, count=height * width).reshape(height, width)
        mask = Image.new("L", self.frame_size[::-1])
        mask.paste(Image.fromarray(inside * np.uint8(255)), (self.box["xmin"], self.box["ymin"]))
        return mask

    def __getitem__(self, key: str) -> Any:
        if key not in KEYS:
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(KEYS)

    def __len__(self) -> int:
        return len(KEYS)

    def __repr__(self) -> str:
        size = f"{self.frame_size[1]}x{self.frame_size[0]}"
        return f"{{'score': {self.score}, 'label': {self.label!r}, 'box': {self.box}, 'mask': <L image {size}>}}"
