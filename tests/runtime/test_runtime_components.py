import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from scalpel_hf.modeling.image_processing_infrared import _round_boxes
from scalpel_hf.runtime.components import find_detections, snap_boxes


def check_against_scipy(probability: np.ndarray, threshold: float) -> None:
    found = find_detections(probability, threshold)
    mask = probability > threshold
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    boxes = [(c.start, r.start, c.stop, r.stop) for r, c in ndimage.find_objects(labels)]
    assert [tuple(box) for box in found.boxes] == boxes
    scores = ndimage.mean(probability.astype(np.float64), labels, range(1, count + 1)) if count else []
    np.testing.assert_allclose(found.scores, scores, rtol=1e-6)
    np.testing.assert_array_equal(found.mask, mask)
    assert found.boxes.shape == (count, 4) and found.scores.shape == (count,)


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.sampled_from([0, 0.6, 1]))
)
@settings(deadline=None, max_examples=300)
def test_as_scipy_labels(probability: np.ndarray) -> None:
    check_against_scipy(probability, 0.5)


@pytest.mark.parametrize("density", [0.01, 0.3, 0.5, 0.7, 0.99])
def test_noise_of_any_density(density: float) -> None:
    check_against_scipy(np.random.default_rng(1).random((60, 80)).astype(np.float32), 1 - density)


def test_a_spiral_is_one_component() -> None:
    spiral = np.zeros((41, 41), np.float32)
    row, column, step = 20, 20, 1
    for turn in range(18):
        for direction in ((0, 1), (1, 0)) if turn % 2 == 0 else ((0, -1), (-1, 0)):
            for _ in range(step):
                spiral[row, column] = 1
                row, column = row + direction[0], column + direction[1]
            step += 1
        if not 0 <= min(row, column) <= max(row, column) < 41 - step:
            break
    check_against_scipy(spiral, 0.5)
    assert len(find_detections(spiral, 0.5).boxes) == 1


def test_single_pixels_touch_at_corners_and_not_across_a_gap() -> None:
    probability = np.zeros((5, 8), np.float32)
    probability[0, 0] = probability[1, 1] = 0.8
    probability[3, 5], probability[3, 7] = 0.6, 0.9
    found = find_detections(probability, 0.5)
    assert found.boxes.tolist() == [[0, 0, 2, 2], [5, 3, 6, 4], [7, 3, 8, 4]]
    np.testing.assert_allclose(found.scores, [0.8, 0.6, 0.9])


def test_boxes_lie_on_the_grid_as_the_image_processor_has_them() -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(-4, 42, (500, 2))
    boxes = np.concatenate([low, low + rng.choice([0.1, 0.6, 1.4, 7], (500, 2))], 1).astype(np.float32)
    boxes[:50] = np.rint(2 * boxes[:50]) / 2  # between two edges, both are as near
    expected = _round_boxes(torch.from_numpy(boxes), 30, 40).numpy()
    np.testing.assert_array_equal(snap_boxes(boxes, 30, 40), expected)
    assert snap_boxes(boxes[:0], 30, 40).shape == (0, 4)
