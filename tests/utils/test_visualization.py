import numpy as np

from scalpel_hf.modeling.configuration_experts import OPERATOR_SCALES
from scalpel_hf.utils.visualization import EXPERT_COLORS, GREEN, gray, level, outline, strongest_expert


def test_gray_stretches_any_range() -> None:
    ramp = np.linspace(14000, 15000, 64 * 64).reshape(64, 64).astype(np.float32)
    pixels = np.array(gray(ramp))
    assert pixels.shape == (64, 64, 3) and pixels.min() == 0 and pixels.max() == 255
    assert not np.array(gray(np.full((8, 8), 3.0))).any()


def test_an_outline_leaves_the_target_itself_visible() -> None:
    frame, mask = np.random.default_rng(0).normal(size=(20, 20)), np.zeros((20, 20), bool)
    mask[10, 10] = True
    picture = np.array(outline(frame, mask, GREEN))
    line = (picture == GREEN).all(-1)
    assert line.sum() == 16 and not line[9:12, 9:12].any()  # the 5 × 5 ring around a pixel and its neighbours
    assert (picture[~line] == np.array(gray(frame))[~line]).all()


def test_a_level_is_not_stretched() -> None:
    pixels = np.array(level(np.array([[0.0, 0.2], [0.4, 0.6]], np.float32)))
    assert pixels[..., 0].tolist() == [[0, 51], [102, 153]]


def test_the_strongest_expert_or_none() -> None:
    weights = {
        "top_hat": np.array([[0.5, 0.2, 0.1]], np.float32),
        "matched_filter": np.array([[0.1, 0.5, 0.1]], np.float32),
    }
    picture = np.array(strongest_expert(weights))
    assert [tuple(p) for p in picture[0]] == [EXPERT_COLORS[n] for n in ("top_hat", "matched_filter", "none")]


def test_every_expert_has_a_colour_of_its_own() -> None:
    assert set(EXPERT_COLORS) == {*OPERATOR_SCALES, "none"}
    assert len(set(EXPERT_COLORS.values())) == len(EXPERT_COLORS)
