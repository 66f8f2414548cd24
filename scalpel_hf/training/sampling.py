"""The order of frames in training, and how much more frequent target pixels are in crops than in frames."""

import math
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from scalpel_hf.data.transforms import Sample


def shuffled(i: int, count: int, seed: int) -> int:
    """Index i of an endless sequence of permutations of `range(count)`, one for each epoch: a pure function."""
    epoch, position = divmod(i, count)
    return int(_order(count, seed, epoch)[position])


@lru_cache(maxsize=8)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


class LabelledCrops(Protocol):
    """Training samples, and the whole frame that each is a crop of."""

    def __getitem__(self, i: int) -> dict[str, Any]: ...

    def labelled_frame(self, i: int) -> Sample: ...


def prior_shift(samples: LabelledCrops, count: int = 256) -> float:
    """
    Log-odds of a target pixel in the crops, minus that in the whole frames.

    Crops have more target pixels: most are chosen to contain a target, and targets are pasted into many. Measured over
    the first `count` samples, with each pixel weighted as its label. 0 if crops or frames have no target pixel, or no
    background pixel.
    """
    totals = np.zeros((2, 2))  # crops and frames, target and background
    for i in range(count):
        shown, frame = samples[i], samples.labelled_frame(i)
        pairs = (shown["labels"].numpy(), shown["weights"].numpy()), (frame.target, frame.weight)
        totals += [[np.sum(weight * target), np.sum(weight * (1 - target))] for target, weight in pairs]
    if not totals.all():
        return 0.0
    (target, background), (frame_target, frame_background) = totals
    return float(np.log(target / background * frame_background / frame_target))


def tell_shift(shift: float) -> str:
    """A message about the [`prior_shift`]."""
    return f"target pixels are {math.exp(shift):.1f} times as likely in crops as in frames"
