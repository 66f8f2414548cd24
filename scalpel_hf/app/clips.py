"""Makes a video of a recording with the detections drawn into it, which the page plays."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from scalpel_hf.runtime.overlay import Overlay, rate_of
from scalpel_hf.runtime.recordings import Damage
from scalpel_hf.runtime.results import Result
from scalpel_hf.runtime.sources import read_stream

from .predictions import find_targets

DRAWN_FRAMES = 300  # of a recording, ten seconds or more; a person waits up to two minutes for them


def draw_clip(model: Any, path: str, threshold: float, out: Path, tell: Callable[[int], object]) -> int:
    """
    Write a video of a file's first `DRAWN_FRAMES` frames, with a box and a score at each target.

    Args:
        model: as [`load_predictor`] returns it.
        path: of the file.
        threshold: of the probability, or for detectors of the score.
        out: path of the video, an .mp4 with H.264, which browsers play.
        tell: is called after each frame with the number of frames so far.

    Returns the number of frames in the video. Raises `ImportError` without PyAV.
    """
    count = 0
    with Overlay(out, rate_of(path)) as overlay:
        for name, frame in islice(read_stream(path, Damage()), DRAWN_FRAMES):
            found = find_targets(model, frame, threshold)
            overlay.write(Result(name, frame, boxes=found.boxes, scores=found.scores))
            count += 1
            tell(count)
    return count
