"""Fits the consensus gate: how strongly the operators must respond to a target, from labelled targets."""

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
    The operators' responses to labelled targets, `(n, 2)`: the maximum of the consensus map on each target, and the
    maximum in the target's whole frame.

    Both are linear responses, without the prior maps' log(1 + x). Targets without response, such as a mask on a
    constant frame, are left out.

    Args:
        labelled: frames with their targets, in sensor units.
        consensus_of: from a frame `(H, W)` to its consensus map `(H, W)`, in the prior maps' units.
    """
    responses: list[tuple[float, float]] = []
    for sample in labelled:
        targets, n = ndimage.label(sample.target > 0.5, EIGHT_CONNECTED)
        if n:
            agreed = np.expm1(consensus_of(sample.frame))
            responses += [(float(p), float(agreed.max())) for p in ndimage.maximum(agreed, targets, range(1, n + 1))]
    return np.array([response for response in responses if response[0] > 0]).reshape(-1, 2)


def half_of_faintest_response(responses: np.ndarray) -> float | None:
    """log(1 + half of the lowest response to a target), from [`target_responses`]; `None` without responses."""
    return math.log1p(responses[:, 0].min() / 2) if len(responses) else None


@torch.no_grad()
def fit_consensus_gate(teacher: Teacher, labelled: list[Sample], noise_floor: float | None = None) -> ConsensusGate:
    """
    Fit the active adapter's [`ConsensusGate`] to labelled targets, and return it.

    The gate's two thresholds are half of the weakest response of the adapter's operators to a target:
    `threshold` of the response itself, in the prior maps' units, and `share` of the response relative to the maximum in
    the target's frame. Both stay 0 if the adapter has no pixel level, or its operators respond to no target. For
    another camera, the gate can be fitted again to its labelled frames, without training.

    Args:
        teacher: its adapter is changed.
        labelled: frames with their targets, in sensor units.
        noise_floor: of the gate; by default the present one.
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
        threshold, share = half_of_faintest_response(responses), float((responses[:, 0] / responses[:, 1]).min() / 2)
        level.set_gate(replace(level.gate, threshold=threshold, share=share))
    teacher.model.peft_config[layer.active_name].consensus_gate = asdict(level.gate)
    return level.gate
