from pathlib import Path

import numpy as np
import pytest
import skimage.draw
import yaml
from hypothesis import example, given, settings
from PIL import Image, ImageDraw
from scipy import ndimage

from scalpel_hf.data import objects_from_mask
from scalpel_hf.formats import LossyExportWarning, write_yolo_detection, write_yolo_segmentation
from scalpel_hf.formats.polygons import outline
from scalpel_hf.formats.yolo import _box

from .small_sets import TINY, draw, human_frame, labelled, masks, raw, row, tiny

RING = draw((slice(0, 3), slice(0, 3)), shape=(3, 3)) & ~draw((1, 1), shape=(3, 3))


def lines(folder: Path, name: str) -> list[list[float]]:
    return [[float(word) for word in line.split()] for line in (folder / "labels" / f"{name}.txt").open()]


def components(mask: np.ndarray) -> list[np.ndarray]:
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    return [labels == number for number in range(1, count + 1)]


def filled_by_centres(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Which pixels' centres lie in a polygon, by scikit-image, whose coordinates are 0 in a pixel's centre."""
    mask = np.zeros(shape, bool)
    mask[skimage.draw.polygon(points[:, 1] - 0.5, points[:, 0] - 0.5, shape)] = True
    return mask


def filled_by_whole_pixels(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """As trainers do it: corners cut off to integers, edges belonging to the polygon."""
    image = Image.new("1", (shape[1], shape[0]))
    ImageDraw.Draw(image).polygon([tuple(point) for point in points.astype(int).tolist()], fill=1, outline=1)
    return np.asarray(image)


def test_boxes(tmp_path: Path) -> None:
    dataset = tiny()
    counts = write_yolo_detection(dataset, tmp_path / "out")
    assert counts == {"frames": 6, "targets": 7, "frames without label": 2}
    stored = {n: cell["bytes"] for n, cell in zip(dataset["name"], raw(dataset, "image"), strict=True)}
    for name, mask in TINY.items():
        boxes = []
        for kind, x, y, width, height in lines(tmp_path / "out", name):
            assert kind == 0
            boxes.append([(x - width / 2) * 24, (y - height / 2) * 20, width * 24, height * 20])
        expected = objects_from_mask(mask)["bbox"]
        assert len(boxes) == len(expected)
        np.testing.assert_allclose(np.reshape(boxes, (-1, 4)), np.reshape(expected, (-1, 4)), rtol=0, atol=24 * 2e-8)
        assert (tmp_path / "out" / "images" / f"{name}.png").read_bytes() == stored[name]
    settings = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert settings == {"path": ".", "train": "images", "names": {0: "target"}}
    assert len(list((tmp_path / "out" / "labels").iterdir())) == len(list((tmp_path / "out" / "images").iterdir())) == 6


@given(masks())
@settings(deadline=None)
def test_boxes_round_trip(mask: np.ndarray) -> None:
    frame = human_frame(mask)
    back = []
    for target in frame.targets():
        x, y, width, height = (float(word) for word in _box(target, frame).split())
        corner = [(x - width / 2) * frame.width, (y - height / 2) * frame.height]
        back.append([round(side) for side in (*corner, width * frame.width, height * frame.height)])
    assert back == objects_from_mask(mask)["bbox"]


def test_tiny_polygons_are_exact_and_a_named_warning(tmp_path: Path) -> None:
    with pytest.warns(LossyExportWarning, match="one or two pixels") as caught:
        write_yolo_segmentation(tiny(), tmp_path / "out")
    (warning,) = caught
    named = str(warning.message).split(": ")[-1]
    assert named == "h1 at (11, 7), h2 at (0, 0), h2 at (23, 19), p1 at (9, 5), p1 at (2, 15), p2 at (4, 3)"
    for name, mask in TINY.items():
        polygons = [np.reshape(line[1:], (-1, 2)) * (24, 20) for line in lines(tmp_path / "out", name)]
        assert all(len(polygon) >= 4 for polygon in polygons)
        for fill in (filled_by_centres, filled_by_whole_pixels):
            np.testing.assert_array_equal(
                sum((fill(p, mask.shape) for p in polygons), np.zeros(mask.shape, bool)), mask
            )


def test_holes_are_a_named_warning(tmp_path: Path) -> None:
    with pytest.warns(LossyExportWarning, match=r"no holes, these targets' are filled: ring at \(0, 0\)"):
        write_yolo_segmentation(labelled(row("ring", RING, "human")), tmp_path / "out")


@pytest.mark.parametrize("write", [write_yolo_detection, write_yolo_segmentation])
def test_ignored_pixels_are_a_named_warning(tmp_path: Path, write) -> None:
    block = draw((slice(0, 3), slice(0, 3)))
    frame = row("p", block, "pseudo", ignored=draw((10, 10)))
    with pytest.warns(LossyExportWarning, match=r"left open are background in this format, in the frames: p$"):
        write(labelled(frame), tmp_path / "out")


def test_outlines_of_simple_targets() -> None:
    pixel = [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]
    np.testing.assert_allclose(outline(np.ones((1, 1), bool)), pixel, atol=1e-12)
    bar = [[0.1, 0.1], [2.9, 0.1], [2.9, 0.9], [0.1, 0.9]]
    np.testing.assert_allclose(outline(np.ones((1, 3), bool)), bar, atol=1e-12)
    diagonal = [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [1.1, 1.1], [1.9, 1.1], [1.9, 1.9], [1.1, 1.9]]
    diagonal += [[1.1, 1.1], [0.9, 0.9], [0.1, 0.9]]
    np.testing.assert_allclose(outline(np.eye(2, dtype=bool)), diagonal, atol=1e-12)
    assert len(outline(RING)) == 4


@given(masks(16))
@example(RING)
@settings(deadline=None)
def test_outlines_give_the_pixels_back(mask: np.ndarray) -> None:
    for component in components(mask):
        points = outline(component)
        expected = ndimage.binary_fill_holes(component)
        np.testing.assert_array_equal(filled_by_centres(points, mask.shape), expected)
        np.testing.assert_array_equal(filled_by_whole_pixels(points, mask.shape), expected)
