import numpy as np

from scalpel_hf.modeling.configuration_experts import OPERATOR_SCALES
from scalpel_hf.utils.visualization import GREEN, gray, level, operator_maps, outline


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


def test_operators_see_a_target() -> None:
    frame = np.random.default_rng(0).normal(0, 1, (48, 64)).astype(np.float32)
    frame[20:23, 30:33] += 30
    maps = operator_maps(frame)
    assert list(maps) == [name.replace("_", " ") for name in OPERATOR_SCALES]
    for name in ("local contrast", "top hat", "matched filter"):  # diffusion answers to what is smaller than that
        brightest = np.unravel_index(np.argmax(np.array(maps[name])[..., 0]), frame.shape)
        assert np.abs(np.subtract(brightest, (21, 31))).max() <= 3, name
