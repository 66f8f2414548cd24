"""Fitting the gate on the operators' consensus: how much they must see for a target, from labelled ones."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import torch
from scipy import ndimage

from scalpel_hf.adapter.layer import mask_level_layer
from scalpel_hf.data.objects import EIGHT_CONNECTED
from scalpel_hf.data.transforms import Sample
from scalpel_hf.modeling.consensus_gate import ConsensusGate, consensus
from scalpel_hf.modeling.image_processing_infrared import normalize_frame
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
def fit_consensus_gate(teacher: Teacher, labelled: list[Sample], noise_floor: float | None = None) -> ConsensusGate:
    """
    Fit the active adapter's [`ConsensusGate`] to labelled targets, and return it.

    It asks for half of what the adapter's own learned operators see of the faintest target: in the prior maps' units
    (`threshold`), and as a share of what they see at the strongest place of the target's frame (`share`). It asks for
    nothing where the adapter has no pixel level or its operators see none of the targets. With labelled frames of
    another camera it can be fitted anew, without any training.

    Args:
        labelled: frames with their targets, in sensor units.
        noise_floor: of the gate from now on; the adapter's own when left out.
    """
    layer = mask_level_layer(teacher.model)
    if layer is None or layer.active_name is None or layer.active.pyramid is None:
        return ConsensusGate()
    level, processor = layer.active, teacher.processor
    level.set_gate(ConsensusGate(noise_floor=level.gate.noise_floor if noise_floor is None else noise_floor))

    def consensus_of(frame: np.ndarray) -> np.ndarray:
        normalised = normalize_frame(torch.from_numpy(frame), processor.normalization, processor.percentiles)
        maps, _ = level.pyramid(normalised[None, None].to(teacher.device))
        return consensus(maps)[0, 0].numpy(force=True)

    responses = target_responses(labelled, consensus_of)
    if len(responses):
        threshold, share = half_of_the_faintest(responses), float((responses[:, 0] / responses[:, 1]).min() / 2)
        level.set_gate(replace(level.gate, threshold=threshold, share=share))
    teacher.model.peft_config[layer.active_name].consensus_gate = asdict(level.gate)
    return level.gate
