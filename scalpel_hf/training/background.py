"""Unlabelled frames as background: all of each frame but what the white-box operators answer to."""

import datasets
import numpy as np
import torch
from scipy import ndimage

from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.data.transforms import Sample
from scalpel_hf.modeling.consensus_gate import GATE_REACH
from scalpel_hf.modeling.image_processing_infrared import normalize_frame, read_frame
from scalpel_hf.modeling.moe import classical_prior
from scalpel_hf.training.gate_fitting import half_of_the_faintest, target_responses


def background_samples(rows: datasets.Dataset, labelled: list[Sample], count: int, seed: int) -> list[Sample]:
    """
    Up to `count` unlabelled frames, drawn with `seed`, as samples without a target.

    Pixels within `GATE_REACH` of one where the operators' consensus is at least half of what it is on the faintest
    labelled target get weight 0, that is no label: there may be a target. All others are background. On NUAA-SIRST that
    leaves out 2 % of the background.

    Args:
        rows: with `label_source`; those of a human's or a pseudo label are passed over.
        labelled: frames with their targets, in sensor units.

    Raises `ValueError` where no row is without a label, or no labelled frame has a target that the operators see.
    """
    if count < 1:
        raise ValueError(f"`background_frames` must be at least 0, got {count}")
    unlabelled = [i for i, source in enumerate(rows["label_source"]) if source == "none"]
    if not unlabelled:
        raise ValueError("`background_frames` are frames without a label, and every row has one")
    drawn = np.random.default_rng(seed).permutation(unlabelled)[:count]
    bar = half_of_the_faintest(target_responses(labelled, consensus))
    if bar is None:
        raise ValueError("no labelled frame has a target that the operators see: nothing says how faint one may be")
    frames = (read_frame(row["image"]).astype(np.float32) for row in undecoded(rows.select(sorted(drawn.tolist()))))
    return [Sample(f, np.zeros_like(f), (~may_be_target(f, bar)).astype(np.float32)) for f in frames]


def tell_background(samples: list[Sample]) -> str:
    """What a training says of its [`background_samples`]."""
    left_out = 1 - np.mean([sample.weight.mean() for sample in samples])
    return f"{len(samples)} unlabelled frames as background, {left_out:.1%} of them left out"


def consensus(frame: np.ndarray) -> np.ndarray:
    """[`classical_prior`] of a frame `(H, W)`, normalised by its range: `(H, W)`."""
    return classical_prior(normalize_frame(torch.from_numpy(frame), "range")[None, None])[0].numpy()


def may_be_target(frame: np.ndarray, bar: float) -> np.ndarray:
    """`(H, W)`, whether a pixel lies within `GATE_REACH` of one where the consensus reaches the bar."""
    return ndimage.maximum_filter(consensus(frame) >= bar, 2 * GATE_REACH + 1)
