"""Unlabelled frames as background, on synthetic frames whose hidden targets are known here."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from scipy import ndimage

from scalpel_hf import InfraredImageProcessor, SyntheticInfrared, apply_label_budget
from scalpel_hf.data import load_irst_dataset
from scalpel_hf.data.transforms import Sample
from scalpel_hf.modeling.consensus_gate import GATE_REACH
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.training.background import background_samples, consensus, may_be_target
from scalpel_hf.training.distillation import TeacherSamples
from scalpel_hf.training.frames import labelled_sample
from scalpel_hf.training.gate_fitting import half_of_faintest_response, target_responses


@pytest.fixture(scope="module")
def full() -> datasets.Dataset:
    camera = SyntheticInfrared(size=(96, 120), n_targets=(1, 3), extent=(2, 4), snr=(15, 30), seed=2)
    rows = camera.to_dataset(24)
    return rows.add_column("label_source", ["human"] * len(rows))


@pytest.fixture(scope="module")
def tenth(full: datasets.Dataset) -> datasets.Dataset:
    return apply_label_budget(full, 0.25, seed=0)


def labelled(rows: datasets.Dataset) -> list[Sample]:
    return [labelled_sample(row) for row in rows if row["label_source"] == "human"]


def test_hidden_targets_are_left_out_and_nearly_all_else_is_background(
    full: datasets.Dataset, tenth: datasets.Dataset
) -> None:
    truth = {np.asarray(row["image"]).tobytes(): np.asarray(row["mask"]) > 127 for row in full}
    samples = background_samples(tenth, labelled(tenth), 100, seed=0)
    assert len(samples) == sum(source == "none" for source in tenth["label_source"]) == 18
    peaks, clear = [], []
    for sample in samples:
        assert not sample.target.any() and set(np.unique(sample.weight)) <= {0.0, 1.0}
        mask = truth[sample.frame.astype(np.asarray(tenth[0]["image"]).dtype).tobytes()]
        targets, n = ndimage.label(mask, np.ones((3, 3)))
        peaks += list(ndimage.minimum(sample.weight, targets, range(1, n + 1)))
        clear.append(sample.weight[~mask].mean())
    assert np.mean(np.equal(peaks, 0)) > 0.9  # the faintest labelled target need not be the faintest of all
    assert np.mean(clear) > 0.8


def test_on_real_frames(shared_dir: Path) -> None:
    """NUAA-SIRST, a tenth of the labels: of the others' targets hardly one is called background."""
    full = load_irst_dataset("nuaa-sirst", shared_dir / "data" / "NUAA-SIRST", split="train")
    tenth = apply_label_budget(full, 0.1, seed=0)
    truth = {read_frame(row["image"]).astype(np.float32).tobytes(): np.asarray(row["mask"]) > 127 for row in full}
    left_out, missed, count = [], 0, 0
    for sample in background_samples(tenth, labelled(tenth), 100, seed=0):
        mask = truth[sample.frame.tobytes()]
        targets, n = ndimage.label(mask, np.ones((3, 3)))
        missed += sum(ndimage.minimum(sample.weight, targets, range(1, n + 1)) > 0) if n else 0
        count += n
        left_out.append(1 - sample.weight[~mask].mean())
    assert count > 100 and missed <= 0.02 * count
    assert np.mean(left_out) < 0.03


def test_no_labelled_target_would_be_background(tenth: datasets.Dataset) -> None:
    samples = labelled(tenth)
    bar = half_of_faintest_response(target_responses(samples, consensus))
    assert bar is not None
    for sample in samples:
        assert may_be_target(sample.frame, bar)[sample.target > 0.5].any()
        assert consensus(sample.frame)[sample.target > 0.5].max() > bar


def test_half_of_a_response_and_not_of_its_logarithm() -> None:
    frame = np.random.default_rng(0).normal(100, 1, (40, 50)).astype(np.float32)
    frame[20, 30] += 30
    target = np.zeros_like(frame)
    target[20, 30] = 1
    bar = half_of_faintest_response(target_responses([Sample(frame, target, np.ones_like(frame))], consensus))
    assert bar is not None
    assert np.expm1(bar) == pytest.approx(np.expm1(consensus(frame)[20, 30]) / 2, rel=1e-5)
    left_out = may_be_target(frame, bar)
    assert (
        left_out[20 - GATE_REACH : 21 + GATE_REACH, 30 - GATE_REACH : 31 + GATE_REACH].all() and left_out.mean() < 0.3
    )


def test_frames_are_drawn_by_the_seed(tenth: datasets.Dataset) -> None:
    samples = labelled(tenth)
    frames = [[s.frame.tobytes() for s in background_samples(tenth, samples, 5, seed)] for seed in (0, 0, 1)]
    assert frames[0] == frames[1] != frames[2] and len(set(frames[0])) == 5


def test_nothing_to_draw_from_is_an_error(full: datasets.Dataset, tenth: datasets.Dataset) -> None:
    with pytest.raises(ValueError, match="every row has one"):
        background_samples(full, labelled(full), 5, seed=0)
    empty = Sample(np.zeros((9, 9), np.float32), np.zeros((9, 9), np.float32), np.ones((9, 9), np.float32))
    unseen = Sample(empty.frame, np.eye(9, dtype=np.float32), empty.weight)
    for samples in ([empty], [unseen]):
        with pytest.raises(ValueError, match="the operators respond to no labelled target"):
            background_samples(tenth, samples, 5, seed=0)
    with pytest.raises(ValueError, match="must be at least 0, got -2"):
        background_samples(tenth, labelled(tenth), -2, seed=0)


def test_a_target_that_no_operator_sees_does_not_count(tenth: datasets.Dataset) -> None:
    samples = labelled(tenth)
    constant = Sample(np.full((40, 40), 9.0, np.float32), np.eye(40, dtype=np.float32), np.ones((40, 40), np.float32))
    bar = half_of_faintest_response(target_responses(samples, consensus))
    assert bar is not None
    assert half_of_faintest_response(target_responses([*samples, constant], consensus)) == bar > 0


class Prefix:
    """In place of a cache of SAM's activations."""

    frozen = SimpleNamespace(input_size=64)

    def key(self, pixel_values: torch.Tensor) -> str:
        return str(hash(pixel_values.numpy().tobytes()))

    def get(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1)

    def load(self, key: str) -> torch.Tensor:
        return torch.zeros(1)


def test_every_other_crop_is_of_background(tenth: datasets.Dataset) -> None:
    samples = labelled(tenth)
    background = [Sample(np.full((70, 80), 7.0, np.float32), *np.zeros((2, 70, 80), np.float32)) for _ in range(3)]
    arguments: Any = (samples, InfraredImageProcessor(normalization="range"), Prefix(), 32, 0)
    crops = TeacherSamples(*arguments, background=background)
    assert [bool(crops[i]["weights"].any()) for i in range(8)] == [True, False] * 4
    alone = TeacherSamples(*arguments)
    assert all(alone[i]["weights"].any() for i in range(8))
    assert torch.equal(crops[5]["frames"], TeacherSamples(*arguments, background=background)[5]["frames"])
