"""What the page shows of a model's prediction, without the page."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scalpel_hf import SyntheticInfrared
from scalpel_hf.app import predictions
from scalpel_hf.app.model_page import listing
from scalpel_hf.app.predictions import count_frames, predict_frame, read_one
from scalpel_hf.modeling.configuration_experts import OPERATOR_SCALES
from scalpel_hf.predictors.committee import Committee
from scalpel_hf.runtime.components import Detections
from scalpel_hf.utils.visualization import RED
from tests.hub.models import make_teacher
from tests.pseudo_labels.helpers import FakeTeacher
from tests.runtime.made_by_hand import write_video
from tests.small_models import small_mobile_sam

FRAME = SyntheticInfrared(size=(48, 64), bit_depth=16, seed=1).frame(0)["image"]


class Detector:
    """Two boxes, whatever the frame."""

    def detect(self, frame: np.ndarray, threshold: float) -> Any:
        assert threshold == 0
        return np.array([0.9, 0.4], np.float32), np.array([[2, 3, 8, 9], [50, 40, 64, 48]], np.float32)


class Blind(FakeTeacher):
    def probabilities(self, frame: np.ndarray) -> np.ndarray:
        probability = np.zeros(frame.shape, np.float32)
        probability[3:5, 10:12] = [[0.6, 0.8], [0.6, 0.2]]
        return probability


def test_targets_by_threshold() -> None:
    prediction = predict_frame(Blind(), "f", FRAME)
    assert prediction.detections(0.5).boxes.tolist() == [[10, 3, 12, 5]]
    assert prediction.detections(0.5).scores == pytest.approx([2 / 3])
    assert prediction.detections(0.7).boxes.tolist() == [[11, 3, 12, 4]]
    assert not len(prediction.detections(0.8).boxes), "above means above"
    assert [name for _, name in prediction.operators] == [name.replace("_", " ") for name in OPERATOR_SCALES]


def test_the_outline_is_around_the_target_in_an_enlarged_frame() -> None:
    picture = np.asarray(predict_frame(Blind(), "f", FRAME).picture(0.7))
    factor = predictions.SHOWN_SIDE // 64
    assert picture.shape == (48 * factor, 64 * factor, 3)
    red = np.argwhere((picture == RED).all(-1))
    rows, columns = red[:, 0], red[:, 1]
    assert rows.min() == 3 * factor - 3 and columns.min() == 11 * factor - 3
    inside = picture[3 * factor : 4 * factor, 11 * factor : 12 * factor]
    assert not (inside == RED).all(-1).any()
    assert not (np.asarray(predict_frame(Blind(), "f", FRAME).picture(0.9)) == RED).all(-1).any()


class Exported(Detector):
    def detect(self, frame: np.ndarray, threshold: float) -> Any:
        scores, boxes = super().detect(frame, threshold)
        return Detections(boxes, scores, None)


@pytest.mark.parametrize("kind", [Detector, Exported])
def test_a_detector_has_boxes(kind: type[Detector]) -> None:
    prediction = predict_frame(kind(), "f", FRAME)
    assert prediction.detections(0.5).boxes.tolist() == [[2, 3, 8, 9]]
    assert len(prediction.detections(0.3).boxes) == 2
    assert prediction.picture(0.3).size == (64 * 14, 48 * 14)
    text = listing(prediction, 0.3)
    assert text.startswith("2 targets above 0.3 in f, 64 × 48 pixels")
    assert text.index("| 2 | 3 | 6 | 6 | 0.900 |") < text.index("| 50 | 40 | 14 | 8 | 0.400 |"), "the best come first"


def test_names_are_no_markup() -> None:
    assert "a\\_b&lt;i&gt;" in listing(predict_frame(Blind(), "a_b<i>", FRAME), 0.5)


def test_routers_of_a_teacher_a_committee_and_tiles(tmp_path: Path) -> None:
    teacher = make_teacher(tmp_path, small_mobile_sam())
    alone = predict_frame(teacher, "f", FRAME)
    assert alone.router_passes == 1 and len(alone.routers) == 4
    weights = [float(name.split(": ")[1]) for _, name in alone.routers]
    assert sum(weights) == pytest.approx(1, abs=0.03)
    assert predict_frame(Committee([teacher, teacher]), "f", FRAME).router_passes == 2
    teacher.tile_size = 48
    assert predict_frame(teacher, "f", FRAME).router_passes > 1


def test_frames_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [FRAME, FRAME + np.uint16(1), FRAME + np.uint16(2)]
    images = [Image.fromarray(frame) for frame in frames]
    path = str(tmp_path / "three.tif")
    images[0].save(path, save_all=True, append_images=images[1:])
    assert count_frames(path) == (3, "")
    name, frame = read_one(path, 2)
    assert name == "three_000002" and np.array_equal(frame, frames[2])
    monkeypatch.setattr(predictions, "MOST_FRAMES", 2)
    count, note = count_frames(path)
    assert count == 2 and "first 2 frames" in note
    with pytest.raises(OSError, match=r"absent"):
        count_frames(str(tmp_path / "absent.png"))


def test_frames_of_a_recording(tmp_path: Path) -> None:
    pytest.importorskip("av")
    frames = [np.full((32, 48), 40 + 20 * index, np.uint8) for index in range(4)]
    path = str(write_video(tmp_path / "clip.mkv", frames, "ffv1", "gray"))
    assert count_frames(path) == (4, "")
    name, frame = read_one(path, 3)
    assert name == "clip_000003" and np.array_equal(frame, frames[3])
