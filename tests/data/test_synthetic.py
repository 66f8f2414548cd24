import numpy as np
import pytest
from datasets import concatenate_datasets
from scipy import ndimage

from scalpel_hf.data import FEATURES, LAYOUTS, SyntheticInfrared, load_irst_dataset
from scalpel_hf.data.scenes import SCENES, power_law


def same(one, other):
    return (
        one["targets"] == other["targets"]
        and np.array_equal(one["image"], other["image"])
        and np.array_equal(one["mask"], other["mask"])
    )


def test_a_frame_is_a_function_of_seed_and_index():
    forth, back = SyntheticInfrared(size=(64, 80), seed=4), SyntheticInfrared(size=(64, 80), seed=4)
    frames = [forth.frame(index) for index in range(6)]
    again = [back.frame(index) for index in reversed(range(6))][::-1]
    assert all(same(one, other) for one, other in zip(frames, again, strict=True))
    images = [frame["image"] for frame in frames] + [SyntheticInfrared(size=(64, 80), seed=5).frame(0)["image"]]
    assert len({image.tobytes() for image in images}) == 7


@pytest.mark.parametrize("background", SCENES)
@pytest.mark.parametrize(("bits", "dtype", "top"), [(8, np.uint8, 255), (16, np.uint16, 16383)])
def test_values_use_the_range_without_saturating(background, bits, dtype, top):
    camera = SyntheticInfrared(size=(96, 128), bit_depth=bits, background=background, n_targets=(1, 3), seed=1)
    for index in range(5):
        frame = camera.frame(index)
        image = frame["image"]
        assert (image.dtype, image.shape, frame["background"]) == (dtype, (96, 128), background)
        assert image.max() <= top
        assert (image == top).sum() <= 2
        assert (image == 0).sum() <= 0.01 * image.size
        assert len(np.unique(image)) > 12
        assert 1 <= len(frame["targets"]) <= 3


def test_all_backgrounds_come_up():
    camera = SyntheticInfrared(size=(32, 32), extent=(1, 4))
    assert {camera.frame(index)["background"] for index in range(30)} == set(SCENES)


def test_masks_hold_each_target_where_it_is_said_to_be():
    camera = SyntheticInfrared(size=(128, 96), n_targets=(0, 4), extent=(1, 9), seed=9)
    counts = set()
    for index in range(25):
        frame = camera.frame(index)
        assert set(np.unique(frame["mask"])) <= {0, 255}
        labels, n = ndimage.label(frame["mask"], np.ones((3, 3)))
        assert n == len(frame["targets"])
        counts.add(n)
        for target in frame["targets"]:
            label = labels[round(target["y"]), round(target["x"])]
            y, x = ndimage.center_of_mass(labels == label)
            assert label > 0
            assert np.hypot(y - target["y"], x - target["x"]) < 0.5
    assert counts == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("extent", "psf", "low", "high"), [(1, 0.6, 1, 5), (1, 1.2, 4, 10), (9, 0.6, 30, 75)])
def test_mask_areas_follow_extent_and_blur(extent, psf, low, high):
    """A point blurred by σ is above half within 1.18 σ; a large ellipse of axes 9 and 9 / 1 to 1.8 keeps its area."""
    camera = SyntheticInfrared(size=(64, 64), n_targets=(1, 1), extent=(extent,) * 2, psf_sigma=(psf,) * 2, seed=2)
    areas = [int((camera.frame(index)["mask"] > 0).sum()) for index in range(12)]
    assert low <= min(areas)
    assert max(areas) <= high
    assert len(set(areas)) > 1  # positions are sub-pixel


@pytest.mark.parametrize("snr", [5, 20])
def test_contrast_is_the_chosen_snr(snr):
    """In a sky, where the surroundings tell the local standard deviation."""
    camera = SyntheticInfrared(n_targets=(1, 1), extent=(7, 7), snr=(snr, snr), bit_depth=16, background="sky", seed=3)
    ratios = []
    for index in range(20):
        frame = camera.frame(index)
        image, target = frame["image"].astype(float), frame["targets"][0]
        distance = np.hypot(
            *(axis - centre for axis, centre in zip(np.indices(image.shape), (target["y"], target["x"]), strict=True))
        )
        ring = image[(distance > 8) & (distance < 13)]
        ratios.append((image[distance < 1.5].mean() - ring.mean()) / ring.std())
    assert np.mean(ratios) == pytest.approx(snr, rel=0.15)


def test_the_fixed_pattern_belongs_to_the_camera():
    def columns(camera, indices):
        frames = [camera.frame(index)["image"].astype(float) for index in indices]
        rough = [frame - ndimage.uniform_filter(frame, (1, 9)) for frame in frames]
        return np.mean([(part / part.std()).mean(axis=0) for part in rough], axis=0)[8:-8]

    camera = SyntheticInfrared(size=(96, 96), n_targets=(0, 0), background="sky", seed=1)
    other = SyntheticInfrared(size=(96, 96), n_targets=(0, 0), background="sky", seed=2)
    pattern = columns(camera, range(20))
    assert np.corrcoef(pattern, columns(camera, range(20, 40)))[0, 1] > 0.7
    assert abs(np.corrcoef(pattern, columns(other, range(20)))[0, 1]) < 0.4


def best_iou(maps, masks):
    """Pooled IoU of the best single threshold there is, chosen with the masks in hand."""
    maps, masks = np.stack(maps), np.stack(masks)
    thresholds = np.quantile(maps, 1 - np.logspace(-1, -5, 50))
    return max((masks & (maps > t)).sum() / (masks | (maps > t)).sum() for t in thresholds)


@pytest.mark.parametrize("background", SCENES)
def test_thresholding_does_not_solve_it_and_local_contrast_helps(background):
    """Difference of Gaussians over its local scale: what makes a small target stand out to a human eye."""
    camera = SyntheticInfrared(n_targets=(1, 3), background=background, seed=5)
    frames = [camera.frame(index) for index in range(30)]
    masks = [frame["mask"] > 0 for frame in frames]
    images = [frame["image"].astype(np.float32) for frame in frames]
    plain = [(image - image.mean()) / image.std() for image in images]
    local = []
    for image in images:
        contrast = ndimage.gaussian_filter(image, 1.2) - ndimage.gaussian_filter(image, 4)
        local.append(contrast / (np.sqrt(ndimage.gaussian_filter(contrast**2, 8)) + 0.1 * contrast.std()))
    assert best_iou(plain, masks) < 0.2
    assert 2 * best_iou(plain, masks) < best_iou(local, masks) < 0.7


def test_spectrum_of_the_correlated_noise():
    rng = np.random.default_rng(0)
    power = sum(
        np.abs(np.fft.fft2(power_law(rng, (128, 128), 2.0) * np.hanning(128)[:, None] * np.hanning(128))) ** 2
        for _ in range(20)
    )
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    means = [power[(f > low) & (f < 1.25 * low)].mean() for low in (0.05, 0.1, 0.2)]
    slopes = np.diff(np.log(means)) / np.log(2)
    assert slopes == pytest.approx([-2, -2], abs=0.3)


def test_data_set(make_set, toy_pair):
    camera = SyntheticInfrared(size=(40, 48), extent=(1, 6), bit_depth=16, n_targets=(0, 2), seed=6)
    data = camera.to_dataset(5, start=10)
    assert data.features == FEATURES
    assert data["name"][0] == "synthetic-000010"
    for index, row in enumerate(data):
        frame = camera.frame(10 + index)
        assert np.array_equal(np.asarray(row["image"]), frame["image"])
        assert row["image"].mode == "I;16"
        assert np.array_equal(np.asarray(row["mask"]), frame["mask"])
        assert len(row["objects"]["bbox"]) == len(frame["targets"])
        assert (row["width"], row["height"]) == (48, 40)
    real = load_irst_dataset("generic", make_set(LAYOUTS["generic"], ["one"], {}), split="train")
    assert len(concatenate_datasets([data, real])) == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (31, 64)}, "size must be at least"),
        ({"bit_depth": 12}, "8 or 16"),
        ({"background": "space"}, "sky, cloud, sea, ground or None, not 'space'"),
        ({"n_targets": (3, 1)}, "n_targets must be"),
        ({"extent": (0, 5)}, "extent must be"),
        ({"extent": (1, 20), "size": (40, 40)}, "a third of the frame"),
        ({"snr": (-1, 5)}, "snr must be"),
        ({"psf_sigma": (0, 1)}, "psf_sigma must be"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SyntheticInfrared(**settings)
