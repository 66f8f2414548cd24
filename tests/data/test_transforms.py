from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from scalpel_hf.data import SyntheticInfrared
from scalpel_hf.data.pasting import cut_out, place_cutouts
from scalpel_hf.data.transforms import (
    Sample,
    dihedral,
    dihedral_points,
    paste_targets,
    photometric,
    resampled_window,
    window_taps,
    zoomed_crop,
    zoomed_shape,
)
from scalpel_hf.modeling import normalize_frame

SHAPE = (40, 56)


def bright_target(y: int = 12, x: int = 30, shape: tuple[int, int] = SHAPE, side: int = 3) -> Sample:
    """A dark frame with a target that is bright exactly where the label is."""
    frame = np.random.default_rng(0).normal(100, 1, shape).astype(np.float32)
    target = np.zeros(shape, np.float32)
    target[y : y + side, x : x + side] = 1
    return Sample(frame + 50 * target, target, np.ones(shape, np.float32))


def synthetic(index: int) -> Sample:
    made = SyntheticInfrared(size=(48, 64), n_targets=(2, 2), extent=(2, 5), seed=1).frame(index)
    target = (made["mask"] > 0).astype(np.float32)
    return Sample(made["image"].astype(np.float32), target, np.ones_like(target))


def zoom(sample: Sample, factor: float) -> Sample:
    """The whole frame, resampled: what a crop of a zoomed frame is compared with."""
    return sample.map(lambda a: ndimage.zoom(a, factor, order=1, mode="nearest", grid_mode=True).astype(np.float32))


def crop(sample: Sample, size: int, rng: np.random.Generator, on_target: float = 0.7) -> tuple[Sample, tuple[int, int]]:
    window, box = zoomed_crop(sample, size, 1.0, rng, on_target)
    return window, (int(box[0]), int(box[1]))


def pasted(sample: Sample, donor: Sample, rng: np.random.Generator, margin: int = 4, **options: Any) -> Sample:
    """With the contrast in units of the frames' deviations."""
    unit = float(sample.frame.std() / max(donor.frame.std(), 1e-6))
    cutouts = cut_out(donor.frame, donor.target, donor.weight, margin)
    return paste_targets(sample, cutouts, rng, **{"unit": unit, **options})


def assert_aligned(sample: Sample) -> None:
    """The bright pixels are the target's."""
    assert sample.frame.shape == sample.target.shape == sample.weight.shape
    assert {a.dtype for a in (sample.frame, sample.target, sample.weight)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(sample.frame > 125, sample.target > 0.5)


@pytest.mark.parametrize("k", range(8))
def test_dihedral(k: int) -> None:
    turned = dihedral(bright_target(), k)
    assert turned.frame.shape == (SHAPE if k % 2 == 0 else SHAPE[::-1])
    assert_aligned(turned)
    np.testing.assert_array_equal(np.sort(turned.frame.ravel()), np.sort(bright_target().frame.ravel()))


def test_the_eight_symmetries_differ() -> None:
    square = Sample(*(np.arange(9, dtype=np.float32).reshape(3, 3),) * 3)
    assert len({dihedral(square, k).frame.tobytes() for k in range(8)}) == 8


@pytest.mark.parametrize("k", range(8))
def test_points_turn_with_the_frame(k: int) -> None:
    sample = bright_target(side=2)
    sample.target[5, 50] = 1
    expected = dihedral(sample, k).pixels()
    found = dihedral_points(sample.pixels(), SHAPE, k)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, expected.tolist()))


@pytest.mark.parametrize("factor", [0.3, 0.75, 0.9, 1.0, 1.17, 1.4, 2.3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_what_is_cropped_first_is_what_the_whole_zoom_gives(factor: float, dtype: type) -> None:
    """Everywhere, the window's edges and what is mirrored beyond the frame's among it."""
    array = np.random.default_rng(0).integers(0, 200, SHAPE).astype(dtype)
    whole = ndimage.zoom(array.astype(np.float32), factor, order=1, mode="nearest", grid_mode=True)
    assert whole.shape == zoomed_shape(SHAPE, factor)
    for size in (16, 64):
        pad = [(0, max(0, size - side)) for side in whole.shape]
        padded = np.pad(whole, pad, mode="symmetric")
        rooms = [side - size for side in padded.shape]
        for y, x in {(0, 0), (rooms[0], rooms[1]), (rooms[0] // 2, rooms[1] // 3)}:
            window = resampled_window(array, *window_taps(SHAPE, whole.shape, (y, x), size))
            assert window.dtype == np.float32 and window.shape == (size, size)
            np.testing.assert_allclose(window, padded[y : y + size, x : x + size], atol=2e-3)


def test_numbers_of_boxes_are_not_interpolated_and_frames_of_their_dtype_are() -> None:
    numbers = np.zeros(SHAPE, np.int32)
    numbers[4:9, 4:9], numbers[4:9, 12:17] = 3, 8
    blank = np.zeros(SHAPE, np.float32)
    sample = Sample(100 * numbers, target=blank, weight=blank, boxes=numbers)  # Pillow reads 16-bit PGM as int32
    crop, _ = zoomed_crop(sample, 24, 1.37, np.random.default_rng(0))
    assert crop.boxes is not None and crop.boxes.dtype == np.int32 and set(np.unique(crop.boxes)) <= {0, 3, 8}
    assert crop.frame.dtype == np.float32 and not set(np.unique(crop.frame)) <= {0.0, 300.0, 800.0}


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.4])
def test_crops_lie_where_those_of_the_whole_zoomed_frame_did(factor: float) -> None:
    """Their corners have the distribution of: zoom all, draw a window, at times one with a random target pixel."""
    sample, size, draws = bright_target(shape=(60, 90), side=4), 24, 1000
    rng = np.random.default_rng(0)
    whole = zoom(sample, factor)
    room = np.array(whole.frame.shape) - size
    pixels = np.argwhere(whole.target > 0.5)
    expected = rng.integers(room + 1, size=(draws, 2))
    centred = np.clip(pixels[rng.integers(len(pixels), size=draws)] - rng.integers(size, size=(draws, 2)), 0, room)
    expected = np.where(rng.random((draws, 1)) < 0.7, centred, expected)
    scale = np.array(whole.frame.shape) / (60, 90)
    crops = [zoomed_crop(sample, size, factor, rng) for _ in range(draws)]
    found = np.array([box[1::-1] * scale for _, box in crops])
    np.testing.assert_allclose(found, found.round(), atol=1e-6)
    for axis in range(2):
        assert stats.ks_2samp(found[:, axis].round(), expected[:, axis]).statistic < 0.08
    shown = [(window.target > 0.5).any() for window, _ in crops]
    expected_shown = [whole.target[y : y + size, x : x + size].max() > 0.5 for y, x in expected]
    assert np.mean(shown) == pytest.approx(np.mean(expected_shown), abs=0.06)


def test_a_pasted_target_is_centred_on_as_often_as_its_area_says() -> None:
    sample = bright_target(5, 5, shape=(300, 300), side=4)
    donor = bright_target(side=2)
    rng, near_own, near_pasted = np.random.default_rng(0), 0, 0
    for _ in range(300):
        patches = place_cutouts(
            cut_out(donor.frame, donor.target, donor.weight), sample.target, (300, 300), rng, 1, 1.0
        )
        window, _ = zoomed_crop(sample, 16, 1.0, rng, on_target=1.0, patches=patches)
        sizes = ndimage.sum(window.target, *reversed([[1, 2], ndimage.label(window.target)[0]]))
        near_pasted += window.target.sum() == 4 and 4 in sizes
        near_own += window.target.max() == 1 and not (window.target.sum() == 4 and 4 in sizes)
    assert near_own + near_pasted == 300 and near_own == pytest.approx(300 * 16 / 20, rel=0.1)


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.3])
def test_a_patch_is_seen_in_its_window_and_on_no_target(factor: float) -> None:
    sample, donor, rng = bright_target(side=8), bright_target(), np.random.default_rng(0)
    shape, seen = zoomed_shape(SHAPE, factor), 0
    taps = window_taps(SHAPE, shape, (0, 0), max(shape))
    own = resampled_window(sample.target, *taps)[: shape[0], : shape[1]]
    for _ in range(60):
        patches = place_cutouts(cut_out(donor.frame, donor.target, donor.weight), sample.target, shape, rng, 3, 1.0)
        everything = own.copy()
        for patch in patches:
            place = tuple(slice(c, c + n) for c, n in zip(patch.corner, patch.own.shape, strict=True))
            assert not everything[place].any()
            everything[place] += patch.own
        window, box = zoomed_crop(sample, 16, factor, rng, patches=patches)
        y, x = (round(c * n / m) for c, n, m in zip(box[1::-1], shape, SHAPE, strict=True))
        np.testing.assert_allclose(window.target, everything[y : y + 16, x : x + 16], atol=1e-5)
        seen += window.target.sum() > 0
    assert seen > 20


def test_crop_keeps_label_and_frame_together() -> None:
    sample = bright_target()
    for seed in range(20):
        window, (x0, y0) = crop(sample, 16, np.random.default_rng(seed))
        assert window.frame.shape == (16, 16)
        assert_aligned(window)
        np.testing.assert_array_equal(window.frame, sample.frame[y0 : y0 + 16, x0 : x0 + 16])


def test_crop_finds_the_target_as_often_as_asked() -> None:
    sample = bright_target(shape=(200, 200))
    hits = [crop(sample, 16, np.random.default_rng(s), on_target=1.0)[0].target.any() for s in range(50)]
    assert all(hits)
    hits = [crop(sample, 16, np.random.default_rng(s), on_target=0.0)[0].target.any() for s in range(50)]
    assert sum(hits) < 10


@pytest.mark.parametrize("place", [(0, 0), (37, 53)])
def test_crop_reaches_targets_at_the_edge(place: tuple[int, int]) -> None:
    sample = bright_target(*place)
    for seed in range(20):
        assert crop(sample, 16, np.random.default_rng(seed), on_target=1.0)[0].target.any()


@pytest.mark.parametrize("size", [48, 64, 150])
def test_crop_pads_without_weight(size: int) -> None:
    sample = bright_target()
    window, (x0, y0) = crop(sample, size, np.random.default_rng(0))
    height, width = min(size, SHAPE[0]), min(size, SHAPE[1])
    assert window.frame.shape == (size, size)
    np.testing.assert_array_equal(window.frame[:height, :width], sample.frame[y0 : y0 + height, x0 : x0 + width])
    assert (window.weight[:height, :width] == 1).all()
    assert not window.weight[height:].any() and not window.weight[:, width:].any()
    assert not window.target[height:].any() and not window.target[:, width:].any()


def test_pasted_targets_are_seen_at_their_masks() -> None:
    frame = np.random.default_rng(3).normal(10, 0.2, (64, 64)).astype(np.float32)
    sample = Sample(frame, np.zeros_like(frame), np.full_like(frame, 0.3))
    donor = bright_target()
    donor_contrast = 50 / donor.frame.std()
    margin, found = 4, 0
    for seed in range(10):
        out = pasted(sample, donor, np.random.default_rng(seed), count=2, margin=margin)
        new = out.target > 0.5
        count = ndimage.label(new)[1]
        found += count
        assert count >= 1 and new.sum() == 9 * count
        change = out.frame - sample.frame
        # Added contrast, in units of the frame's spread: half to one and a half of the donor's.
        contrast = change[new] / frame.std()
        assert contrast.min() > 0.4 * donor_contrast and contrast.max() < 1.6 * donor_contrast
        beyond = ndimage.distance_transform_edt(~new) >= margin
        assert not change[beyond].any()
        assert (out.weight[new] == 1).all() and (out.weight[~new] == np.float32(0.3)).all()
    assert found > 12
    assert not sample.target.any()  # the given sample is left as it was


def test_pasting_spares_targets_and_frames_too_small() -> None:
    noise = np.random.default_rng(1).standard_normal((40, 40), dtype=np.float32)
    full = Sample(noise, np.ones_like(noise), np.ones_like(noise))
    assert np.array_equal(pasted(full, bright_target(), np.random.default_rng(0)).frame, full.frame)
    small = Sample(noise[:6, :6], np.zeros((6, 6), np.float32), np.ones((6, 6), np.float32))
    assert np.array_equal(pasted(small, bright_target(), np.random.default_rng(0)).frame, small.frame)
    empty = Sample(bright_target().frame, *(np.zeros(SHAPE, np.float32),) * 2)
    assert np.array_equal(pasted(bright_target(), empty, np.random.default_rng(0)).frame, bright_target().frame)


@pytest.mark.parametrize("level", [0.0, 7.1, 14321.7])
def test_nothing_is_pasted_where_it_could_not_be_seen(level: float) -> None:
    """Onto a constant frame and from one, as it is and after resampling, which rounds."""
    flat = Sample(np.full(SHAPE, level, np.float32), bright_target().target, np.ones(SHAPE, np.float32))
    blank = Sample(flat.frame, np.zeros(SHAPE, np.float32), flat.weight)
    for factor in (1.0, 0.83, 1.37):
        for seed in range(10):
            rng = np.random.default_rng(seed)
            for sample, donor in ((zoom(blank, factor), bright_target()), (bright_target(), zoom(flat, factor))):
                out = pasted(sample, donor, rng)
                np.testing.assert_array_equal(out.target, sample.target)
                np.testing.assert_array_equal(out.frame, sample.frame)


def test_the_least_spread_is_enough_to_paste() -> None:
    frame = np.full((64, 64), 65534, np.float32)
    frame[::2] = 65535  # one step of 16 bits
    sample = Sample(frame, np.zeros_like(frame), np.ones_like(frame))
    assert pasted(sample, bright_target(), np.random.default_rng(0)).target.any()


def test_photometric_keeps_targets_brightest() -> None:
    sample = bright_target()
    changed = 0
    for seed in range(30):
        frame = photometric(sample.frame, np.random.default_rng(seed))
        assert frame.shape == SHAPE and frame.dtype == np.float32 and np.isfinite(frame).all()
        changed += not np.array_equal(frame, sample.frame)
        assert sample.target[np.unravel_index(frame.argmax(), SHAPE)] == 1
    assert changed > 20


def only(part: int) -> np.random.Generator:
    """A generator of which `photometric` hears *yes* to one of its four parts alone."""
    rng = np.random.default_rng(0)
    answers = iter(0.0 if index == part else 1.0 for index in range(4))

    class Chosen:
        random = staticmethod(lambda: next(answers))
        uniform = staticmethod(lambda low, high: high)
        normal = staticmethod(rng.normal)

    return Chosen()  # type: ignore[return-value]


def test_each_part_of_photometric_by_its_definition() -> None:
    frame = bright_target().frame
    low, high, spread = frame.min(), frame.max(), frame.std()
    curved = photometric(frame, only(0))
    expected = ((frame - low) / (high - low)) ** 1.4
    np.testing.assert_allclose((curved - low) / (high - low), expected, atol=1e-5)
    blurred = photometric(frame, only(1))
    np.testing.assert_allclose(blurred, ndimage.gaussian_filter(frame, 0.8), atol=1e-4)
    noise = photometric(frame, only(2)) - frame
    assert noise.std() == pytest.approx(0.08 * spread, rel=0.1)
    assert np.abs(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]) < 0.1
    pattern = photometric(frame, only(3)) - frame
    assert np.ptp(pattern, axis=0).max() < 1e-4 < 0.02 * spread < pattern[0].std()
    np.testing.assert_array_equal(photometric(frame, only(4)), frame)


def test_gain_and_offset_make_no_difference_after_the_normalisation() -> None:
    frame = bright_target().frame
    normalized = [normalize_frame(torch.from_numpy(f)) for f in (frame, 7.5 * frame + 12000)]
    torch.testing.assert_close(*normalized, atol=2e-3, rtol=0)  # 12000 leaves float32 three digits of the noise


def test_constant_frames_stay_finite() -> None:
    flat = Sample(np.full(SHAPE, 7, np.float32), bright_target().target, np.ones(SHAPE, np.float32))
    for seed in range(10):
        rng = np.random.default_rng(seed)
        assert np.isfinite(photometric(flat.frame, rng)).all()
        for a, b in ((flat, bright_target()), (bright_target(), flat), (flat, flat)):
            assert np.isfinite(pasted(a, b, rng).frame).all()


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.37])
def test_a_zoomed_crop_is_the_window_that_it_says(factor: float) -> None:
    positions = np.mgrid[:90, :130].astype(np.float32)
    for seed in range(10):
        for axis, position in enumerate(positions):
            sample = Sample(position, np.zeros_like(position), np.ones_like(position))
            made, box = zoomed_crop(sample, 40, factor, np.random.default_rng(seed))
            start, stop = box[1 - axis], box[3 - axis]
            assert made.frame.shape == (40, 40) and stop - start == pytest.approx(40 / factor, abs=0.3)
            centres = start + (np.arange(40) + 0.5) * (stop - start) / 40 - 0.5  # of the crop's pixels, in the frame's
            found = made.frame[:, 0] if axis == 0 else made.frame[0]
            np.testing.assert_allclose(found, np.clip(centres, 0, position.max()), atol=0.01)


def test_a_zoomed_crop_larger_than_the_frame_is_padded_without_a_label() -> None:
    made, box = zoomed_crop(bright_target(), 64, 0.5, np.random.default_rng(0))
    np.testing.assert_allclose(box, [0, 0, 128, 128])
    assert made.frame.shape == (64, 64) and made.weight[0, 0] == 1 and made.weight[-1, -1] == 0


def test_pasted_contrast_goes_by_the_frame_that_a_crop_is_of() -> None:
    flat = np.random.default_rng(0).normal(0, 1, (64, 64)).astype(np.float32)
    crop_of = Sample(flat, np.zeros_like(flat), np.ones_like(flat))
    one, two = (
        pasted(crop_of, bright_target(), np.random.default_rng(1), count=1, unit=unit).frame - flat
        for unit in (1.0, 2.0)
    )
    np.testing.assert_allclose(two, 2 * one, atol=1e-4)
    assert one.max() > 0


def test_everything_is_a_function_of_the_seed() -> None:
    sample, donor = synthetic(0), synthetic(1)
    for function in (
        lambda rng: crop(sample, 24, rng)[0].frame,
        lambda rng: pasted(sample, donor, rng).frame,
        lambda rng: zoomed_crop(sample, 24, 1.2, rng)[0].frame,
        lambda rng: photometric(sample.frame, rng),
    ):
        a, b, c = (function(np.random.default_rng(seed)) for seed in (4, 4, 5))
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
