"""A recording with what a model finds drawn into it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scalpel_hf.app import clips
from scalpel_hf.app.clips import draw_clip
from tests.runtime.made_by_hand import write_video

from .test_predictions import Blind, Detector

av = pytest.importorskip("av")
SHAPE, FRAMES = (48, 64), 6


@pytest.fixture
def recording(tmp_path: Path) -> str:
    noise = np.random.default_rng(0).integers(90, 110, (FRAMES, *SHAPE)).astype(np.uint8)
    return str(write_video(tmp_path / "a.mkv", [*noise], "ffv1", "gray"))


def reddish(path: Path) -> list[np.ndarray]:
    """Where each frame is more red than green, which the recording nowhere is."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
        assert (container.streams.video[0].codec_context.name, container.streams.video[0].average_rate) == ("h264", 10)
    return [frame[..., 0] - frame[..., 1] > 60 for frame in frames]


@pytest.mark.parametrize(
    ("model", "threshold", "boxes"),
    [
        (Blind, 0.5, [(10, 3, 12, 5)]),
        (Blind, 0.9, []),
        (Detector, 0.3, [(2, 3, 8, 9), (50, 40, 64, 48)]),
        (Detector, 0.5, [(2, 3, 8, 9)]),
    ],
)
def test_boxes_are_drawn_in_every_frame(
    tmp_path: Path, recording: str, model: Callable[[], Any], threshold: float, boxes: list[tuple[int, ...]]
) -> None:
    out, told = tmp_path / "drawn.mp4", []
    assert draw_clip(model(), recording, threshold, out, told.append) == FRAMES and told == [*range(1, FRAMES + 1)]
    drawn = reddish(out)
    assert len(drawn) == FRAMES
    for red in drawn:
        assert red.any() == bool(boxes)
        for x0, y0, x1, y1 in boxes:
            assert red[max(0, y0 - 3) : y1 + 3, max(0, x0 - 3) : x1 + 3].any()
            assert not red[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].any(), "the target itself stays as it is"


def test_a_long_recording_is_drawn_in_part(tmp_path: Path, recording: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "DRAWN_FRAMES", 4)
    assert draw_clip(Blind(), recording, 0.5, tmp_path / "drawn.mp4", lambda _: None) == 4
    assert len(reddish(tmp_path / "drawn.mp4")) == 4
