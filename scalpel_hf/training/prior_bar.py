"""How much the operators must see for a place to be more than background, from labelled targets."""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage

from scalpel_hf.adapter.layer import mask_level_layer
from scalpel_hf.data.objects import EIGHT_CONNECTED
from scalpel_hf.data.transforms import Sample
from scalpel_hf.modeling.image_processing_infrared import normalize_frame
from scalpel_hf.modeling.moe import consensus
from scalpel_hf.predictors.teacher import Teacher


def target_responses(labelled: list[Sample], consensus_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """
    What the operators answer to labelled targets, `(n, 2)`: the consensus' peak on each, and in the whole of its frame.

    Both before compression. Targets that no operator answers to, such as a mask on a constant frame, don't count.

    Args:
        labelled: frames with their targets, in sensor units.
        consensus_of: from a frame `(H, W)` to what the operators agree on, `(H, W)`, in the prior maps' units.
    """
    responses: list[tuple[float, float]] = []
    for sample in labelled:
        targets, n = ndimage.label(sample.target > 0.5, EIGHT_CONNECTED)
        if n:
            agreed = np.expm1(consensus_of(sample.frame))
            responses += [(float(p), float(agreed.max())) for p in ndimage.maximum(agreed, targets, range(1, n + 1))]
    return np.array([response for response in responses if response[0] > 0]).reshape(-1, 2)


def half_of_the_faintest(responses: np.ndarray) -> float | None:
    """Half of the lowest of [`target_responses`]' peaks, compressed again; `None` where there is none."""
    return math.log1p(responses[:, 0].min() / 2) if len(responses) else None


@torch.no_grad()
def fit_prior_bar(teacher: Teacher, labelled: list[Sample], noise_floor: float | None = None) -> float:
    """
    Set the active adapter's `prior_bar` and `prior_share` to half of what its own learned operators see of the faintest
    labelled target: in the prior maps' units, and as a share of what they see at the strongest place of the target's
    frame. Returns the bar.

    0, which asks for nothing, where the adapter has no pixel level or its operators see none of the targets. With
    labelled frames of another camera both can be fitted anew, without any training.

    Args:
        labelled: frames with their targets, in sensor units.
        noise_floor: the prior maps' from now on, see `ScalpelMoeConfig`; the adapter's own when left out.
    """
    layer = mask_level_layer(teacher.model)
    if layer is None or layer.active_name is None or layer.active.pyramid is None:
        return 0.0
    level, processor = layer.active, teacher.processor
    config = teacher.model.peft_config[layer.active_name]
    if noise_floor is not None:
        config.noise_floor = level.pyramid.noise_floor = noise_floor

    def consensus_of(frame: np.ndarray) -> np.ndarray:
        normalised = normalize_frame(torch.from_numpy(frame), processor.normalization, processor.percentiles)
        maps, _ = level.pyramid(normalised[None, None].to(teacher.device))
        return consensus(maps)[0, 0].numpy(force=True)

    responses = target_responses(labelled, consensus_of)
    level.prior_bar = half_of_the_faintest(responses) or 0.0
    level.prior_share = float((responses[:, 0] / responses[:, 1]).min() / 2) if len(responses) else 0.0
    config.prior_bar, config.prior_share = level.prior_bar, level.prior_share
    return float(level.prior_bar)
