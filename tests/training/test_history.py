"""A training's curves as a picture."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from scalpel_hf.training.history import PICTURE_FILE, draw, write_history

HISTORY = [
    {"step": 50, "loss": 2.0, "a<b": 1.0},
    {"step": 100, "loss": 1.0, "a<b": float("nan")},
    {"step": 100, "validation": {"iou": 0.5, "pd": None, "n_images": 40}},
    {"step": 200, "loss": 0.5, "a<b": 0.25},
    {"step": 200, "validation": {"iou": 0.75, "pd": None, "n_images": 40}},
]


def test_losses_and_held_out_metrics_have_a_panel_each() -> None:
    text = draw(HISTORY)
    root = ElementTree.fromstring(text)
    assert root.get("height") == "440" and "a&lt;b" in text and "n_images" not in text
    lines = [line.get("points") for line in root.iter("{http://www.w3.org/2000/svg}polyline")]
    loss, other, iou = ([tuple(map(float, p.split(","))) for p in str(line).split()] for line in lines)
    assert len(loss) == 3 and len(other) == 2 and len(iou) == 2  # what is no number is left out
    heights = [y for _, y in loss]
    assert heights == sorted(heights) and heights[0] == pytest.approx(30)  # the greatest on top
    assert heights[1] - heights[0] == pytest.approx(2 * (heights[2] - heights[1]))
    assert [x for x, _ in iou] == [loss[1][0], loss[2][0]] and iou[1][1] < iou[0][1]


def test_it_is_there_once_there_is_something_to_see(tmp_path: Path) -> None:
    write_history(tmp_path, HISTORY[:1])
    assert not (tmp_path / PICTURE_FILE).exists()
    write_history(tmp_path, HISTORY)
    ElementTree.parse(tmp_path / PICTURE_FILE)
    draw([{"step": 1, "loss": 0.0}, {"step": 2, "loss": 0.0}])
