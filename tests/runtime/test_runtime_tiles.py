import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
from transformers import SegformerForSemanticSegmentation

from scalpel_hf import (
    InfraredImageProcessor,
    ScalpelStudentConfig,
    ScalpelStudentForSemanticSegmentation,
    SegmentationStudent,
)
from scalpel_hf.export.onnx_student import reach, runtime_config
from scalpel_hf.modeling.configuration_scalpel_student import SIZES
from scalpel_hf.runtime import load_exported
from scalpel_hf.runtime.onnx_models import InexactTilesWarning
from scalpel_hf.runtime.tiles import GRID, MARGIN, tiles
from tests.runtime.made_by_hand import write_detector, write_student
from tests.small_students import segformer


@given(st.integers(1, 2000), st.integers(1, 2000), st.sampled_from([256, 512, 1536]))
@settings(deadline=None, max_examples=60)
def test_cores_cover_each_pixel_once_and_margins_are_whole(height: int, width: int, size: int) -> None:
    count = np.zeros((height, width), np.uint8)
    for tile in tiles(height, width, size):
        count[tile.core] += 1
        for seen, core, inner, length in zip(tile.seen, tile.core, tile.inner, (height, width), strict=True):
            assert 0 < core.stop - core.start <= size
            assert seen.start % GRID == 0 and seen.start == max(core.start - MARGIN, 0)
            assert seen.stop == min(core.stop + MARGIN, length)
            assert (inner.start + seen.start, inner.stop + seen.start) == (core.start, core.stop)
    assert (count == 1).all()


@pytest.mark.parametrize("size", [*SIZES, "deep"])
def test_a_student_looks_no_further_than_the_margin(size: str) -> None:
    torch.manual_seed(0)
    deep = {"hidden_sizes": (8,) * 5, "depths": (0,) * 5}
    config = ScalpelStudentConfig(**SIZES.get(size, deep))
    model = ScalpelStudentForSemanticSegmentation(config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.ReLU):
            module.register_forward_hook(lambda module, inputs, output: inputs[0])  # whatever the signs, all is seen
    side, centre = 4 * MARGIN, 2 * MARGIN + 1
    x = torch.randn(1, 1, side, side, requires_grad=True)
    model(pixel_values=x).logits[0, -1, centre, centre].backward()
    rows, columns = torch.nonzero(x.grad[0, 0], as_tuple=True)
    furthest = max(int((axis - centre).abs().max()) for axis in (rows, columns))
    assert 20 < furthest <= reach(config) <= MARGIN


@pytest.mark.parametrize("shape", [(700, 300), (257, 1000), (64, 5000)])
@pytest.mark.parametrize("config", [{}, {"normalization": "percentile"}, {"normalization": "range"}])
def test_tiles_are_normalised_as_their_frame(tmp_path: Path, shape: tuple[int, int], config: dict) -> None:
    folder = write_student(tmp_path, **config)
    frame = np.random.default_rng(0).integers(30000, 30010, shape).astype(np.uint16)
    frame[:30] += 500  # so that tiles differ in their statistics
    frame[-3, 250:253] = 40000
    whole, tiled = (load_exported(folder, tile_size=size) for size in (1536, 256))
    np.testing.assert_allclose(tiled.probabilities(frame), whole.probabilities(frame), rtol=1e-5, atol=1e-7)
    assert tiled.detect(frame).boxes.tolist() == whole.detect(frame).boxes.tolist()


@pytest.mark.parametrize(
    ("processor", "config", "exact"),
    [
        ({}, {}, True),
        ({"size_divisor": 48}, {}, False),
        ({}, {"hidden_sizes": (8,) * 5, "depths": (0,) * 5}, True),
        ({}, {"hidden_sizes": (8,) * 5, "depths": (0, 0, 0, 0, 1)}, False),
        ({}, {"hidden_sizes": (8,) * 6, "depths": (0,) * 6}, False),
    ],
)
def test_an_export_says_whether_its_tiles_give_the_whole_frames_result(
    processor: dict, config: dict, exact: bool
) -> None:
    config = {"hidden_sizes": (8, 8), "depths": (1, 0), **config}
    model = ScalpelStudentForSemanticSegmentation(ScalpelStudentConfig(**config))
    student = SegmentationStudent(model, InfraredImageProcessor(**processor))
    assert runtime_config(student, True, 0.5, True, "segmentation").exact_tiles == exact
    other = SegmentationStudent(SegformerForSemanticSegmentation(segformer()), InfraredImageProcessor())
    assert not runtime_config(other, True, 0.5, True, "segmentation").exact_tiles


def test_tiles_that_differ_from_the_frame_are_said_once_with_the_remedy(tmp_path: Path) -> None:
    frame = np.eye(300, 500)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_exported(write_student(tmp_path / "old"), tile_size=256).probabilities(frame)  # without the entry
        write_student(tmp_path / "s", exact_tiles=False)
        load_exported(tmp_path / "s", tile_size=416).probabilities(frame)
    student = load_exported(tmp_path / "s", tile_size=384)
    with pytest.warns(InexactTilesWarning, match="300 x 500 pixels .* `tile_size` .* to 416") as said:
        for _ in range(3):
            student.detect(frame)
    assert len(said) == 1


def test_frames_of_few_pixels_are_one(tmp_path: Path) -> None:
    student = load_exported(write_student(tmp_path), tile_size=256)
    calls, run = [], student.graph.run
    student.graph.run = lambda frames, *rest: calls.append(frames.shape) or run(frames, *rest)
    student.probabilities(np.eye(200, 320))
    assert calls == [(1, 1, 200, 320)]
    student.probabilities(np.eye(200, 400))
    assert calls[1:] == [(1, 1, 200, 224 + MARGIN), (1, 1, 200, 176 + MARGIN)]


def test_boxes_of_tiles_are_those_of_the_frame(tmp_path: Path) -> None:
    """Each once, at the tiles' seams and at the frame's edges too."""
    targets = [(0, 0), (191, 223), (192, 224), (300, 223), (400, 100), (599, 409), (599, 0)]

    def peaks(frames: np.ndarray, normalization: object = None) -> list[np.ndarray]:
        """What a detector gives: boxes of 3 x 3 around bright pixels, cut at the frame's edge, and one that is none."""
        rows, columns = np.nonzero(frames[0, 0] > 100)
        low, high = np.stack([columns - 1, rows - 1], 1), np.stack([columns + 2, rows + 2], 1)
        boxes = np.concatenate([np.maximum(low, 0), np.minimum(high, frames.shape[:1:-1])], 1)
        scores = frames[0, 0, rows, columns] / 400
        return [np.append(scores, 0)[None], np.append(boxes, [[1, 1, 2, 2]], 0)[None].astype(np.float32)]

    pixels = np.full((600, 410), 14000, np.uint16)
    for index, target in enumerate(targets):
        pixels[target] = 15000 + 10 * index
    found = []
    for size in (1536, 256):
        detector = load_exported(write_detector(tmp_path), tile_size=size)
        detector.graph.run = peaks
        found.append(detector.detect(pixels, 0.3))
    whole, parts = found
    assert len(whole.boxes) == len(targets) and whole.boxes[0].tolist() == [0, 598, 2, 600]
    np.testing.assert_array_equal(parts.boxes, whole.boxes)
    np.testing.assert_array_equal(parts.scores, whole.scores)
