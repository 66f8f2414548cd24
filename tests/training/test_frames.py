"""Labelled frames in memory: what they hold, how much of them is kept, and how crops are normalised by them."""

import copy
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.utils.data import DataLoader

from scalpel_hf import InfraredImageProcessor, SyntheticInfrared, add_pseudo_labels, apply_label_budget
from scalpel_hf.data.pasting import Patch, add_patches, with_patches
from scalpel_hf.data.transforms import Curve
from scalpel_hf.modeling import normalize_frame
from scalpel_hf.training import frames as frames_module
from scalpel_hf.training.frames import LabelledFrame, LabelledFrames, labelled_sample
from scalpel_hf.training.knowledge_transfer import StudentSamples

FRAME = 40 * 56 * (1 + 1 + 1)  # bytes of an 8-bit frame and its label


class Soft:
    """A teacher with every confidence."""

    def probabilities(self, frame: np.ndarray) -> np.ndarray:
        return np.linspace(0, 1, frame.size).reshape(frame.shape)

    def fingerprint(self) -> str:
        return "soft"


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    """Four frames with a human's mask and four with pseudo labels."""
    dataset = SyntheticInfrared(size=(40, 56), n_targets=(1, 3), extent=(1, 4), seed=1).to_dataset(8)
    return add_pseudo_labels(apply_label_budget(dataset, 0.5), Soft(), keep_in_memory=True)


def frames(rows: datasets.Dataset, **options: Any) -> LabelledFrames:
    return LabelledFrames(rows, InfraredImageProcessor(), **options)


def test_frames_are_the_labelled_rows(rows: datasets.Dataset) -> None:
    kept = frames(rows)
    assert len(kept) == 8
    for index, row in enumerate(rows):
        expected, found = labelled_sample(row), kept[index].labelled()
        np.testing.assert_array_equal(found.frame, expected.frame)
        np.testing.assert_array_equal(found.target, expected.target)
        np.testing.assert_allclose(found.weight, expected.weight, atol=1e-7)
        assert {a.dtype for a in (found.frame, found.target, found.weight)} == {np.dtype(np.float32)}
        assert kept[index].frame.dtype == np.asarray(row["image"]).dtype


def test_a_frame_is_decoded_once_and_memory_is_bounded(rows: datasets.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    real = frames_module._read
    monkeypatch.setattr(frames_module, "_read", lambda row, *a: decoded.append(row["name"]) or real(row, *a))
    everything, some, none = (frames(rows, memory=memory) for memory in (1 << 30, 5 * FRAME, FRAME - 1))
    for kept, expected in ((everything, 8), (some, 5 + 3 * 3), (none, 8 * 3)):
        decoded.clear()
        for _ in range(3):
            for index in range(8):
                np.testing.assert_array_equal(kept[index].frame, everything[index].frame)
        assert len(decoded) == expected
        assert kept.bytes_kept <= kept.memory and kept.bytes_kept == sum(f.nbytes for f in kept.kept.values())


def test_another_process_gets_no_decoded_frames_and_makes_the_same_crops(rows: datasets.Dataset) -> None:
    kept = frames(rows)
    kept[0]
    elsewhere = copy.deepcopy(kept)  # by what is sent to another process, too
    assert not elsewhere.kept and elsewhere.bytes_kept == 0 and kept.kept
    samples = StudentSamples(rows, InfraredImageProcessor(), 32, 5)
    for workers in (0, 2):
        made = [
            crop
            for batch in DataLoader(samples, 4, sampler=range(16), num_workers=workers)
            for crop in batch["pixel_values"]
        ]
        assert all(torch.equal(crop, samples[i]["pixel_values"]) for i, crop in enumerate(made))


class ManyWorkers:
    num_workers = 3


def test_workers_share_the_memory(rows: datasets.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_module, "get_worker_info", ManyWorkers)
    kept = frames(rows, memory=7 * FRAME)
    for index in range(8):
        kept[index]
    assert len(kept.kept) == 2


@pytest.mark.parametrize("normalization", ["zscore", "range", "percentile"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("gamma", [None, 0.7, 1.4])
def test_a_crop_is_normalized_as_a_part_of_its_frame(normalization: str, dtype: type, gamma: float | None) -> None:
    array = np.random.default_rng(0).integers(20, 200, (40, 56)).astype(dtype)
    processor = InfraredImageProcessor(normalization=normalization)
    frame = LabelledFrame(array, np.zeros(array.shape, bool), np.ones(array.shape, np.uint8), None, processor)
    whole = array.astype(np.float32)
    curve = None if gamma is None else Curve(frame.spread.low, frame.spread.high, gamma)
    curved = curve(whole) if curve else whole
    found = frame.normalize(curved[5:30, 8:40], curve=curve)
    expected = normalize_frame(torch.from_numpy(curved), normalization, processor.percentiles).numpy()
    np.testing.assert_allclose(found, expected[5:30, 8:40], atol=1e-4)


@pytest.mark.parametrize("normalization", ["zscore", "range", "percentile"])
@pytest.mark.parametrize("factor", [0.7, 1.0, 1.4])
def test_pasted_targets_count_in_the_normalization_wherever_they_are(normalization: str, factor: float) -> None:
    """As those of the zoomed frame that they are pasted into; a frame without noise, as the zoom takes some of it."""
    y, x = np.mgrid[:60, :80]
    array = (100 + 40 * np.sin(x / 9) * np.cos(y / 7)).astype(np.float32)
    processor = InfraredImageProcessor(normalization=normalization)
    frame = LabelledFrame(array, np.zeros(array.shape, bool), np.ones(array.shape, np.uint8), None, processor)
    zoomed = ndimage.zoom(array, factor, order=1, mode="nearest", grid_mode=True)
    bright = 300 * np.exp(-(np.square(np.mgrid[-6:7, -6:7]).sum(0)) / 12).astype(np.float32)
    own = bright > 100
    patches = [Patch((5, 8), bright, own, ~own), Patch((20, 30), -bright, own, ~own)]
    before = zoomed.copy()
    add_patches(zoomed, np.zeros_like(zoomed), np.zeros_like(zoomed), patches)
    expected = normalize_frame(torch.from_numpy(zoomed), normalization, processor.percentiles).numpy()
    whole = with_patches(array, patches, zoomed.shape)
    found = frame.normalize(zoomed, whole)
    unaware = frame.normalize(before)
    assert np.ptp(found) == pytest.approx(np.ptp(expected), rel=0.05)  # a patch has whole pixels in either
    np.testing.assert_allclose(found, expected, atol=0.05 * np.ptp(expected))
    assert np.abs(unaware - expected).max() > 0.1 * np.ptp(expected)


def test_a_frame_without_a_label_and_one_of_another_size_are_named(rows: datasets.Dataset) -> None:
    unlabelled = {**rows[0], "label_source": "none"}
    with pytest.raises(ValueError, match=f"{rows[0]['name']} has neither a human nor a pseudo label"):
        labelled_sample(unlabelled)
    other = {**rows[0], "image": np.zeros((8, 9), np.uint8)}
    with pytest.raises(ValueError, match=rf"{rows[0]['name']}: the frame is \(8, 9\), its mask \(40, 56\)"):
        labelled_sample(other)
