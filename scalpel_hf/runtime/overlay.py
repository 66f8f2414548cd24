"""Writes a video of frames with the detections drawn into them, by PyAV and Pillow."""

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from scalpel_hf.modeling.frame_io import IMAGE_SUFFIXES
from scalpel_hf.utils.files import whole_file

from .recordings import frame_rate
from .results import Result

RATE = 25  # frames per second, for sources without a rate
COLOUR = (255, 64, 64)
ROOM = 2  # pixels between a target and the box around it
SHOWN = (1.0, 99.9)  # percentiles of a frame that are drawn as black and white


class Overlay:
    """
    A video of frames with boxes, scores and the numbers of tracks; see [`draw`]. It is at `path` once it is closed.

    As a context it is closed at the end, and where an error ends the block, an older video stays as it was.

    Args:
        path: an .mp4, .mkv or .mov.
        rate: frames per second.

    Raises `ImportError` without PyAV, and `ValueError` for another suffix.
    """

    def __init__(self, path: Path, rate: Fraction | int = RATE):
        try:
            import av
        except ImportError as error:
            raise ImportError('an overlay needs PyAV: pip install "scalpel-hf[video]"') from error
        if path.suffix.lower() not in (".mp4", ".mkv", ".mov"):
            raise ValueError(f"an overlay is an .mp4, .mkv or .mov, got {path}")
        self.path, self.rate, self._av = path, rate, av
        self._open = ExitStack()
        self._container: Any = None
        self._stream: Any = None

    def write(self, result: Result) -> None:
        image = draw(result)
        if self._container is None:
            self._begin(image.width, image.height)
        if image.size != (self._stream.width, self._stream.height):
            image = image.resize((self._stream.width, self._stream.height))
        frame = self._av.VideoFrame.from_image(image)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        with self._open:
            if self._container is not None:
                self._container.mux(self._stream.encode())

    def __enter__(self) -> "Overlay":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None:
            self.close()
        else:  # the part file is removed
            self._open.__exit__(kind, error, trace)

    def _begin(self, width: int, height: int) -> None:
        part = self._open.enter_context(whole_file(self.path))
        kind = {".mkv": "matroska"}.get(self.path.suffix.lower(), self.path.suffix[1:].lower())
        self._container = self._open.enter_context(self._av.open(str(part), "w", format=kind))
        self._stream = self._container.add_stream("h264", rate=self.rate)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"


def draw(result: Result) -> Image.Image:
    """
    A frame as 8-bit RGB image, stretched between its percentiles `SHOWN`, with boxes, scores and numbers of tracks.

    Odd sides get one more pixel, because videos need even ones.
    """
    low, high = np.percentile(result.pixels, SHOWN)
    shades = np.clip((result.pixels - low) / max(high - low, 1e-9), 0, 1) * 255
    height, width = shades.shape
    even = np.pad(np.rint(shades).astype(np.uint8), ((0, height % 2), (0, width % 2)), mode="edge")
    image = Image.fromarray(even).convert("RGB")
    pen = ImageDraw.Draw(image)
    for index, (x0, y0, x1, y1) in enumerate(result.boxes):
        pen.rectangle((x0 - ROOM, y0 - ROOM, x1 + ROOM - 1, y1 + ROOM - 1), outline=COLOUR)
        number = "" if result.tracks is None else f"{result.tracks[index]}: "
        pen.text((x1 + ROOM + 1, y0 - ROOM), f"{number}{result.scores[index]:.2f}", fill=COLOUR)
    return image


def rate_of(source: str) -> Fraction | int:
    """Frames per second of a recording in a file; 25 for other sources, and where the file states none."""
    is_recording = Path(source).is_file() and not source.lower().endswith(IMAGE_SUFFIXES)
    return (frame_rate(source) if is_recording else None) or RATE
