import numpy as np
import pytest
import torch
from scipy import ndimage

from scalpel_hf.data.masks import IGNORED, TARGET
from scalpel_hf.modeling.configuration_experts import OPERATOR_SCALES
from scalpel_hf.modeling.moe import PriorPyramid
from scalpel_hf.modeling.normalization import normalize_frame
from scalpel_hf.predictors.prediction import Prediction
from scalpel_hf.pseudo_labels import evidence
from scalpel_hf.pseudo_labels.evidence import contrast, extract_candidates, has_target, judge, label_candidates

RNG = np.random.default_rng(0)


def scene() -> np.ndarray:
    """In 8 bits: a strong candidate with a weak rim, a weak one, and what is not even that."""
    confidence = np.zeros((24, 30), np.uint8)
    confidence[3:8, 3:8] = 60
    confidence[5, 5:7] = 200
    confidence[15:17, 20:23] = 90
    confidence[20, 2] = 25
    confidence[5, 25] = 255
    return confidence


def test_firm_and_faint_candidates() -> None:
    labels, strong, count = label_candidates(scene(), 0.5)
    assert (strong, count) == (2, 3)
    np.testing.assert_array_equal(np.argwhere(labels == 1), [[5, 5], [5, 6]])
    np.testing.assert_array_equal(np.argwhere(labels == 2), [[5, 25]])
    np.testing.assert_array_equal(labels == 3, scene() == 90)  # the rim of the first is no candidate of its own
    assert label_candidates(scene(), 0.05)[1:] == (4, 4)  # at such a threshold nothing is weak


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_candidates_of_random_maps_are_the_components(threshold: float) -> None:
    confidence = (255 * ndimage.gaussian_filter(RNG.random((60, 50)), 1.5) ** 3 * 6).clip(0, 255).astype(np.uint8)
    labels, strong, count = label_candidates(confidence, threshold)
    probability = confidence / 255
    components, n = ndimage.label(probability > threshold, np.ones((3, 3)))
    assert strong == n
    np.testing.assert_array_equal(np.where(labels <= strong, labels, 0), components)
    wide, wide_count = ndimage.label(probability > 0.1, np.ones((3, 3)))
    without = [i for i in range(1, wide_count + 1) if not (components[wide == i] > 0).any()]
    assert count == n + len(without)
    np.testing.assert_array_equal(labels > strong, np.isin(wide, without))


def test_what_speaks_for_a_candidate() -> None:
    confidence = scene()
    frame = RNG.normal(1000, 3, confidence.shape).astype(np.float32)
    frame[5, 25] += 200
    spread = np.zeros(confidence.shape, np.float32)
    spread[5, 5], spread[5, 6], spread[15:17, 20:23] = 0.1, 0.3, 0.5
    truth = np.zeros(confidence.shape, np.uint8)
    truth[4, 4:6], truth[10, 10] = TARGET, TARGET
    found = extract_candidates(frame, confidence, Prediction(confidence / 255, spread), 0.5, truth)
    assert found["bbox"] == [[5, 5, 2, 1], [25, 5, 1, 1], [20, 15, 3, 2]]
    assert found["strong"] == [True, True, False] and found["area"] == [2, 1, 6]
    assert found["probability"] == pytest.approx([200 / 255, 1, 90 / 255])
    assert found["agreement"] == pytest.approx([0.6, 1, 0])
    assert found["contrast"][1] > 2 * max(found["contrast"][0], found["contrast"][2])
    assert found["true"] == [True, False, False] and found["has_target"] is True

    alone = extract_candidates(frame, confidence, Prediction(confidence / 255), 0.5)
    assert np.isnan(alone["agreement"]).all()
    assert alone["true"] is None and alone["has_target"] is None
    nothing = extract_candidates(frame, confidence * 0, Prediction(confidence * 0.0, spread), 0.5, truth)
    assert nothing["bbox"] == nothing["true"] == nothing["contrast"] == []


def test_what_a_mask_leaves_open_is_neither_true_nor_false() -> None:
    labels = np.zeros((12, 40), np.int32)
    for number, place in enumerate([0, 8, 16, 24, 32], 1):
        labels[2:4, place : place + 4] = number
    truth = np.zeros(labels.shape, np.uint8)
    truth[2:4, 0:4] = TARGET  # 1 is on a target
    truth[2:4, 8:12] = IGNORED  # 2 is open
    truth[2:4, 16:18] = IGNORED  # 3 is half open, half background
    truth[2:4, 25:28], truth[2:4, 24] = (
        IGNORED,
        TARGET,
    )  # 4 is mostly open, half beside a target
    truth[5, 30:40], truth[2:4, 32] = IGNORED, TARGET  # 5 has half of its pixels on a target or beside it
    assert judge(labels, 5, truth) == [True, None, False, None, False]
    assert judge(labels, 5, np.where(truth == IGNORED, 0, truth)) == [True, False, False, False, False]
    assert [has_target(mask) for mask in (truth, truth[:, 8:23], truth[:2])] == [True, None, False]


def prior_of(window: np.ndarray) -> np.ndarray:
    maps, _ = PriorPyramid(OPERATOR_SCALES)(normalize_frame(torch.from_numpy(window))[None, None])
    return sum(m[0].amax(0) for m in maps).detach().numpy() / 4


def test_contrast_is_that_of_the_pyramid_around_the_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = RNG.normal(0, 1, (100, 150)).astype(np.float32)
    places = [(50, 70), (2, 3), (97, 148), (20, 146)]  # one in the middle, others where the window must move
    labels = np.zeros(frame.shape, np.int32)
    for number, (y, x) in enumerate(places, 1):
        labels[y : y + 2, x : x + 2] = number
        frame[y : y + 2, x : x + 2] += 3 * number
    corners = [(50 - 32, 70 - 32), (0, 0), (100 - 64, 150 - 64), (0, 150 - 64)]
    expected = []
    for number, (y, x) in enumerate(corners, 1):
        window = (slice(y, y + 64), slice(x, x + 64))
        expected.append(prior_of(frame[window])[labels[window] == number].max())
    found = contrast(frame, labels, places)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(contrast(frame * 40 + 12000, labels, places), found, atol=1e-2)  # no gain, no offset
    monkeypatch.setattr(evidence, "WINDOWS_AT_A_TIME", 3)
    np.testing.assert_allclose(contrast(frame, labels, places), found, rtol=1e-5)

    small = frame[:40, :50]  # smaller than the window: all of it
    np.testing.assert_allclose(
        contrast(small, (labels[:40, :50] == 2).astype(int), places[1:2]), prior_of(small)[2:4, 3:5].max(), rtol=1e-5
    )


def test_contrast_sees_what_is_not_brighter_than_its_surroundings() -> None:
    frame = RNG.normal(0, 1, (64, 64)).astype(np.float32)
    labels = np.zeros(frame.shape, np.int32)
    labels[30:32, 30:32], labels[10:12, 50:52] = 1, 2
    frame[30:32, 30:32] += 8
    target, noise = contrast(frame, labels, [(30, 30), (10, 50)])
    assert target > 2 * noise


def test_a_candidate_larger_than_the_window_has_a_contrast() -> None:
    frame = RNG.normal(0, 1, (150, 150)).astype(np.float32)
    confidence = np.zeros(frame.shape, np.uint8)
    confidence[10:140, 10], confidence[139, 10:140] = 200, 200  # in the middle of its box there is nothing of it
    found = extract_candidates(frame, confidence, Prediction(confidence / 255), 0.5)
    assert found["bbox"] == [[10, 10, 130, 130]] and np.isfinite(found["contrast"]).all()
