"""A recording with what a model finds drawn into it, to be played in the page."""

from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from scalpel_hf.runtime.overlay import Overlay, rate_of
from scalpel_hf.runtime.recordings import Damage
from scalpel_hf.runtime.results import Result
from scalpel_hf.runtime.sources import read_stream

from .answers import find_targets

DRAWN_FRAMES = 300  # of a recording: ten seconds and more, for which a person waits up to a minute or two


def draw_clip(model: Any, path: str, threshold: float, out: Path, tell: Callable[[int], object]) -> int:
    """
    Write a video of a file's first `DRAWN_FRAMES` frames, with a box and a score at each target; returns how many
    frames it has.

    Args:
        model: as [`load_predictor`] gives it.
        threshold: of the probability, or of a detector of the score.
        out: the video, H.264 in an .mp4, which browsers play.
        tell: is called with the number of frames that are done.

    Raises `ImportError` without PyAV.
    """
    count = 0
    with closing(Overlay(out, rate_of(path))) as overlay:
        for name, frame in islice(read_stream(path, Damage()), DRAWN_FRAMES):
            found = find_targets(model, frame, threshold)
            overlay.write(Result(name, frame, found.boxes, found.scores))
            count += 1
            tell(count)
    return count
