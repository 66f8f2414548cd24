"""Which frames a training sees, in which order, and how much likelier its crops make targets."""

import math
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from scalpel_hf.data.transforms import Sample


def shuffled(i: int, count: int, seed: int) -> int:
    """The i-th index of endless passes over `count`, each in another order: a pure function."""
    epoch, position = divmod(i, count)
    return int(_order(count, seed, epoch)[position])


@lru_cache(maxsize=8)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


class LabelledCrops(Protocol):
    """Samples of a training, and the whole frame that each is a view of."""

    def __getitem__(self, i: int) -> dict[str, Any]: ...

    def labelled_frame(self, i: int) -> Sample: ...


def prior_shift(samples: LabelledCrops, count: int = 256) -> float:
    """
    By how much the crops raise the log-odds of a target pixel over the frames that they are of: most are made to hold
    a target, and many get further ones. Over the first `count` samples, each pixel by the weight of its label; 0 where
    either shows no target, or nothing else.
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
    """What a training says of its [`prior_shift`]."""
    return f"target pixels are {math.exp(shift):.1f} times as likely in crops as in frames"
