"""What boxes and points say of pixels, on frames whose targets are known."""

import numpy as np
import pytest

from scalpel_hf.data.masks import IGNORED, TARGET
from scalpel_hf.data.proposals import LARGEST, row_weak_label, weak_label

SHAPE = (60, 80)


def flat(*targets: tuple[slice, slice], level: float = 100.0, contrast: float = 50.0) -> np.ndarray:
    """An even sky with a little noise, and even targets on it."""
    frame = level + np.random.default_rng(0).normal(0, 1, SHAPE)
    for place in targets:
        frame[place] += contrast
    return frame.astype(np.float32)


def as_mask(*targets: tuple[slice, slice]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for place in targets:
        mask[place] = True
    return mask


ONE, OTHER = (slice(20, 23), slice(40, 44)), (slice(40, 42), slice(10, 12))
BOXES = [[40, 20, 4, 3], [10, 40, 2, 2]]


def test_an_even_target_is_found_whole_and_all_away_from_boxes_is_background() -> None:
    label = weak_label(flat(ONE, OTHER), BOXES)
    assert np.array_equal(label.target > 0.5, as_mask(ONE, OTHER))
    away = ~as_mask(
        (slice(19, 24), slice(39, 45)), (slice(39, 43), slice(9, 13))
    )  # all but the boxes and a pixel around
    assert (label.weight[away] == 1).all() and (label.target[away] == 0).all()
    assert (label.weight[as_mask(ONE, OTHER)] == 1).all()
    assert (label.weight[19, 39:45] == 0).all() and (label.weight[20:23, 44] == 0).all()  # people draw within a pixel
    assert (label.boxes > 0).sum() == 4 * 3 + 2 * 2 and len(np.unique(label.boxes)) == 3


@pytest.mark.parametrize("gain, offset", [(1.0, 0.0), (257.0, 1000.0), (0.01, -3.0)])
def test_units_of_the_sensor_do_not_matter(gain: float, offset: float) -> None:
    frame = flat(ONE, OTHER)
    one, other = weak_label(frame, BOXES), weak_label(frame * gain + offset, BOXES)
    assert np.array_equal(one.target, other.target) and np.array_equal(one.weight, other.weight)


def test_a_pixel_between_high_and_low_contrast_is_open() -> None:
    frame = np.full(SHAPE, 100.0)
    frame[20, 40:45] = [110, 125, 200, 125, 106]  # shares of the peak's contrast 0.1, 0.25, 1, 0.25, 0.06
    frame[19:22, 42] = [130, 200, 130]
    label = weak_label(frame, [[40, 19, 5, 3]])
    assert label.weight[20, 42] == 1 and label.target[20, 42] == 1
    assert label.weight[20, 41] == label.weight[20, 43] == 0 and label.target[20, 41] == 1


def test_a_box_that_is_drawn_around_more_than_was_found_stays_open_inside() -> None:
    """Its two ends are targets, one so faint beside the other that contrast doesn't tell."""
    frame = np.full(SHAPE, 100.0, np.float32)
    frame[20:23, 30:33], frame[20:23, 50:53] = 200, 105
    label = weak_label(frame, [[30, 20, 23, 3]])
    inside = label.weight[20:23, 30:53]
    assert (inside[:, :3] == 1).all() and (inside[:, 3:] == 0).all()


def test_where_nothing_stands_out_all_that_is_known_is_that_there_is_something() -> None:
    for frame in (np.full(SHAPE, 7.0), flat(ONE, contrast=-50)):
        for objects in ([[40, 20, 4, 3]], [[41.5, 21.5, 0, 0]]):
            label = weak_label(frame, objects)
            assert not label.target.any()
            assert label.weight[21, 41] == 0 and label.weight[5, 5] == 1


def test_a_box_too_large_for_a_small_target_proposes_nothing() -> None:
    label = weak_label(flat(ONE), [[20, 10, LARGEST + 1, 30]])
    assert not label.target.any() and (label.weight[10:40, 20 : 21 + LARGEST] == 0).all()


def test_a_point_grows_to_its_target() -> None:
    label = weak_label(flat(ONE, OTHER), [[43.5, 20.5, 0, 0], [11.2, 41.9, 0, 0]])
    assert np.array_equal(label.target > 0.5, as_mask(ONE, OTHER))
    assert not label.boxes.any()
    assert (label.weight[as_mask(ONE, OTHER)] == 1).all() and label.weight[19, 42] == 0 and label.weight[5, 5] == 1


def test_a_point_beside_its_target_finds_it_within_two_pixels() -> None:
    assert np.array_equal(weak_label(flat(ONE), [[45.5, 21.5, 0, 0]]).target > 0.5, as_mask(ONE))


def test_boxes_that_overlap_keep_their_sides_or_ask_for_nothing() -> None:
    label = weak_label(flat(ONE), [[38, 18, 10, 10], [42, 22, 3, 3]])
    assert sorted(np.unique(label.boxes)) == [0, 1, 2] and (label.boxes == 2).sum() == 9
    covered = weak_label(flat(ONE), [[38, 18, 10, 4], [38, 18, 3, 4]])  # the smaller hides the left side
    assert sorted(np.unique(covered.boxes)) == [0, 2]


@pytest.mark.parametrize("box", [[0, 0, 3, 3], [77, 57, 3, 3], [79.9, 59.9, 0, 0], [0, 0, 0, 0], [0, 0, 80, 60]])
def test_at_the_frame_s_border(box: list[float]) -> None:
    label = weak_label(flat((slice(0, 3), slice(0, 3)), (slice(57, 60), slice(77, 80))), [box])
    assert label.target.shape == label.weight.shape == label.boxes.shape == SHAPE
    assert set(np.unique(label.weight)) <= {0.0, 1.0}


def test_a_box_covers_the_pixels_that_it_covers_half_of() -> None:
    assert np.argwhere(weak_label(flat(ONE), [[39.6, 20.4, 4.0, 2.8]]).boxes).tolist() == [
        [y, x] for y in (20, 21, 22) for x in (40, 41, 42, 43)
    ]
    assert (weak_label(flat(ONE), [[40.2, 20.2, 0.1, 0.1]]).boxes > 0).sum() == 1


def test_finds_are_measured_by_whole_boxes_and_by_what_points_propose() -> None:
    mask = weak_label(flat(ONE, OTHER), [[38, 18, 10, 8], [11.2, 41.9, 0, 0]]).as_mask()
    assert (mask[18:26, 38:48] == TARGET).all() and mask[17, 40] == mask[20, 37] == IGNORED
    assert (mask[OTHER] == TARGET).all() and mask[5, 5] == 0
    hidden = weak_label(np.full(SHAPE, 7.0), [[41.5, 21.5, 0, 0]]).as_mask()
    assert hidden[21, 41] == IGNORED and not (hidden == TARGET).any()


def test_a_row_of_boxes_without_the_column_is_named() -> None:
    with pytest.raises(ValueError, match="f: `label_source` is 'box', but there are no `objects`"):
        row_weak_label({"name": "f", "label_source": "box"}, np.zeros((8, 8)))
