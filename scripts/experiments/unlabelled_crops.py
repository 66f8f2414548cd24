"""Crops of labelled frames, each with one of an unlabelled frame, for scripts/experiments/ablate_additions.py."""

import copy
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import torch
from mask_losses import Label
from scipy import ndimage
from torch import Tensor

from scalpel_hf import Teacher
from scalpel_hf.data import read_frame
from scalpel_hf.data.label_sources import NONE
from scalpel_hf.data.pasting import Cutout
from scalpel_hf.data.prepared import split_by_source
from scalpel_hf.data.transforms import Sample, dihedral, photometric, zoomed_crop
from scalpel_hf.training.distillation import TeacherSamples
from scalpel_hf.training.sampling import shuffled

CUT_OUTS, CUT_OUT_SIDE = 4, 12


class WithUnlabelled(TeacherSamples):
    """
    Crops of labelled frames, each with one of an unlabelled frame: `plain` and `shown` `(1, S, S)`, the latter with
    pasted targets and a camera's effects, and what is known of it, `known` and `known_weights` `(S, S)`.

    Args:
        unlabelled: frames whose targets have weight 0 where nothing is known; may be changed between samples.
        pseudo: labels of the round before; half of the labelled crops come from them.
    """

    def __init__(self, *args: Any, unlabelled: list[Sample], pseudo: list[Sample], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.unlabelled, self.pseudo = unlabelled, pseudo

    def _frame(self, i: int) -> tuple[Sample, int, bool]:
        number, of_pseudo = divmod(i, 2) if self.pseudo else (i, 0)
        pool = self.pseudo if of_pseudo else self.samples
        index = shuffled(number, len(pool), self.seed)
        return pool[index], index, False

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        item = super().__getitem__(i)
        if self.unlabelled:
            item |= self._unlabelled_crop(i)
        return item

    def _unlabelled_crop(self, i: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, 2, i])
        frame = self.unlabelled[shuffled(i, len(self.unlabelled), self.seed + 1)]
        turned = dihedral(frame, int(rng.integers(8)))
        plain, _ = zoomed_crop(turned, size=self.crop_size, factor=1.0, rng=rng, on_target=0.0)
        shown = self.with_pasted(plain, frame, rng)
        seen, weight = photometric(photometric(shown.frame, rng), rng), shown.weight.copy()
        hidden = np.ones_like(weight)
        for y, x in rng.integers(self.crop_size - CUT_OUT_SIDE, size=(CUT_OUTS, 2)):
            window = slice(y, y + CUT_OUT_SIDE), slice(x, x + CUT_OUT_SIDE)
            seen[window], hidden[window] = np.median(seen[window]), 0
        item = {"plain": plain.frame[None], "shown": seen[None], "known": shown.target, "known_weights": weight}
        return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in item.items()} | {
            "visible": torch.from_numpy(hidden)
        }


class UnlabelledCrops:
    """The unlabelled crops alone, of labelled frames: for the odds of a target pixel in them."""

    def __init__(self, dataset: WithUnlabelled, labelled: list[Sample]):
        self.dataset = copy.copy(dataset)
        self.dataset.unlabelled = labelled

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        crop = self.dataset._unlabelled_crop(i)
        return {"labels": crop["known"], "weights": crop["known_weights"]}

    def labelled_frame(self, i: int) -> Sample:
        return self.dataset.unlabelled[shuffled(i, len(self.dataset.unlabelled), self.dataset.seed + 1)]


def scaled(cutout: Cutout, factor: float) -> Cutout:
    """A target to paste, enlarged."""
    excess, own, is_open = (
        ndimage.zoom(a.astype(np.float32), factor, order=1, grid_mode=True, mode="nearest")
        for a in (cutout.excess, cutout.own, cutout.is_open)
    )
    return Cutout(excess, own=own > 0.5, is_open=is_open > 0.5)


def frames_without_label(rows: datasets.Dataset) -> tuple[list[str], list[np.ndarray]]:
    """Names and frames of the rows that have no label."""
    unlabelled, _ = split_by_source(rows, (NONE,))
    return unlabelled["name"], [read_frame(row["image"]).astype(np.float32) for row in unlabelled]


def pseudo_labels(teacher: Teacher, frames: list[np.ndarray], label: Callable[[Tensor], Label]) -> list[Sample]:
    """A teacher's labels of frames, `label` the target and weight of its probability."""
    samples = []
    for frame in frames:
        target, weight = label(torch.from_numpy(teacher.probabilities(frame))[None, None])
        samples.append(Sample(frame, target=target[0, 0].numpy(), weight=weight[0, 0].numpy()))
    return samples
