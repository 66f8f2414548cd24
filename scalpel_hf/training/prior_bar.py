"""How much the operators must see for a place to be more than background, from labelled targets."""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage

from scalpel_hf.adapter.layer import MaskLevelLayer
from scalpel_hf.data.objects import EIGHT_CONNECTED
from scalpel_hf.data.transforms import Sample
from scalpel_hf.modeling.image_processing_infrared import normalize_frame
from scalpel_hf.modeling.moe import consensus
from scalpel_hf.teacher import Teacher


def half_of_the_faintest(labelled: list[Sample], consensus_of: Callable[[np.ndarray], np.ndarray]) -> float | None:
    """
    Half of the lowest of the consensus' peaks on labelled targets, halved before compression.

    Targets that no operator answers to, such as a mask on a constant frame, don't count; `None` where no other is.

    Args:
        labelled: frames with their targets, in sensor units.
        consensus_of: from a frame `(H, W)` to what the operators agree on, `(H, W)`, in the prior maps' units.
    """
    peaks: list[float] = []
    for sample in labelled:
        targets, n = ndimage.label(sample.target > 0.5, EIGHT_CONNECTED)
        peaks += [float(p) for p in ndimage.maximum(consensus_of(sample.frame), targets, range(1, n + 1))] if n else []
    seen = [peak for peak in peaks if peak > 0]
    return math.log1p(math.expm1(min(seen)) / 2) if seen else None


@torch.no_grad()
def fit_prior_bar(teacher: Teacher, labelled: list[Sample]) -> float:
    """
    Set the active adapter's `prior_bar` to [`half_of_the_faintest`], by its own learned operators; returns it.

    0, which asks for nothing, where the adapter has no pixel level or its operators see none of the targets. With
    labelled frames of another camera the bar can be fitted anew, without any training.
    """
    layer = next((module for module in teacher.model.modules() if isinstance(module, MaskLevelLayer)), None)
    if layer is None or layer.active_name is None or layer.active.pyramid is None:
        return 0.0
    level, processor = layer.active, teacher.processor

    def consensus_of(frame: np.ndarray) -> np.ndarray:
        normalised = normalize_frame(torch.from_numpy(frame), processor.normalization, processor.percentiles)
        maps, _ = level.pyramid(normalised[None, None].to(teacher.device))
        return consensus(maps)[0, 0].numpy(force=True)

    level.prior_bar = half_of_the_faintest(labelled, consensus_of) or 0.0
    teacher.model.peft_config[layer.active_name].prior_bar = level.prior_bar
    return float(level.prior_bar)
