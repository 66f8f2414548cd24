import numpy as np

from scalpel_hf.visualization import GREEN, gray, outline, side_by_side


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


def test_side_by_side_keeps_every_picture() -> None:
    row = side_by_side([gray(np.eye(4)), gray(np.eye(6))], gap=2)
    assert row.size == (12, 6)
