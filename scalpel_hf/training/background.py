"""Unlabelled frames as background samples, without the pixels to which the white-box operators respond."""

import datasets
import numpy as np
import torch
from scipy import ndimage

from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.data.transforms import Sample
from scalpel_hf.modeling.consensus_gate import GATE_REACH
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.modeling.image_processing_infrared import normalize_frame
from scalpel_hf.modeling.moe import classical_prior
from scalpel_hf.training.gate_fitting import half_of_faintest_response, target_responses


def background_samples(rows: datasets.Dataset, labelled: list[Sample], count: int, seed: int) -> list[Sample]:
    """
    Up to `count` random unlabelled frames as samples without targets.

    Pixels that may be target have weight 0: those within `GATE_REACH` pixels of a consensus of the operators that is at
    least half of that on the faintest labelled target. All other pixels are background. On NUAA-SIRST 2 % of the
    background get weight 0.

    Args:
        rows: with `image` and `label_source`; rows with any label are skipped.
        labelled: frames with their targets, in sensor units.
        count: number of frames, at least 1.
        seed: of the draw.

    Raises `ValueError` if every row has a label, or the operators respond to no labelled target.
    """
    if count < 1:
        raise ValueError(f"`background_frames` must be at least 0, got {count}")
    unlabelled = [i for i, source in enumerate(rows["label_source"]) if source == "none"]
    if not unlabelled:
        raise ValueError("`background_frames` needs frames without a label, but every row has one")
    drawn = np.random.default_rng(seed).permutation(unlabelled)[:count]
    threshold = half_of_faintest_response(target_responses(labelled, consensus))
    if threshold is None:
        raise ValueError(
            "the operators respond to no labelled target, so the background can't be told from targets: leave out "
            "`background_frames`"
        )
    frames = (read_frame(row["image"]).astype(np.float32) for row in undecoded(rows.select(sorted(drawn.tolist()))))
    return [Sample(f, np.zeros_like(f), (~may_be_target(f, threshold)).astype(np.float32)) for f in frames]


def tell_background(samples: list[Sample]) -> str:
    """A message about the [`background_samples`]."""
    left_out = 1 - np.mean([sample.weight.mean() for sample in samples])
    return f"{len(samples)} unlabelled frames as background, {left_out:.1%} of their pixels ignored"


def consensus(frame: np.ndarray) -> np.ndarray:
    """[`classical_prior`] `(H, W)` of a frame `(H, W)`, which is first normalised by its range."""
    return classical_prior(normalize_frame(torch.from_numpy(frame), "range")[None, None])[0].numpy()


def may_be_target(frame: np.ndarray, threshold: float) -> np.ndarray:
    """`(H, W)`, whether the consensus reaches the threshold within `GATE_REACH` pixels of a pixel."""
    return ndimage.maximum_filter(consensus(frame) >= threshold, 2 * GATE_REACH + 1)
