"""What a teacher is asked for: masks, prior guidance, and routers that use all of their experts.

`scalpel-hf distill` weighs these parts, and adds what boxes say, in `scalpel_hf/training/distillation.py`; a model that
is called with `labels` adds them up in [`loss_of_labels`].
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .losses import mask_loss
from .mask_level import FrameRegion
from .moe import load_balance_loss
from .segmentation_maps import IGNORE_INDEX

PRIOR_WEIGHT = 0.3
BALANCE_WEIGHT = 0.01


def teacher_losses(
    logits: Tensor, target: Tensor, weight: Tensor, seen: dict[str, Tensor], logit_shift: float = 0.0
) -> dict[str, Tensor]:
    """
    The parts of a teacher's loss by name.

    Args:
        logits, target, weight: `(B, M, H, W)`.
        seen: what the mask level gave besides; without `prior` there are masks alone.
        logit_shift: is added to the logits.
    """
    logits = logits + logit_shift
    losses = {"supervised": mask_loss(logits, target, weight)}
    if "prior" in seen:
        losses["prior"] = prior_guidance(logits, seen["prior"], target, weight)
        losses["balance"] = load_balance_loss(seen["router_weights"])
    return losses


def weighted_sum(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """The parts of [`teacher_losses`], each times its weight."""
    parts = [weights[name] * loss for name, loss in losses.items()]
    return sum(parts[1:], start=parts[0])


def prior_guidance(logits: Tensor, prior: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """
    Both directions between prediction and prior, `(B, 1, H, W)` each.

    The mixture, in units of its own spread, explains the labels: `BCE(prior − 2, target)`. And where it is silent a
    prediction is unlikely: `mean p · (1 − s)` with `s = σ(max prior in 5 × 5)`, held constant, off the labels.
    """
    explain = F.binary_cross_entropy_with_logits(prior - 2, target, weight)
    fires = torch.sigmoid(F.max_pool2d(prior.detach(), 5, 1, 2) - 1)
    silent = (torch.sigmoid(logits) * (1 - fires) * (1 - target) * weight).mean()
    return explain + silent


def loss_of_labels(masks: Tensor, labels: Tensor, region: FrameRegion | None, seen: dict[str, Tensor]) -> Tensor:
    """
    The whole loss of a model that was called with labels. Every trained part of the experts gets a gradient from it.

    Args:
        masks: logits `(B, P, 1, h, w)`.
        labels: `(B, H, W)`, or `(B, P, H, W)` with prompts: 0 to 1, 255 where a pixel is ignored.
        region: of the frames that the labels are of. Masks on SAM's own grid are resampled to it where no mask level
            has a say in them.
        seen: what the mask level gave besides; empty with prompts, or without it.

    Raises `ValueError` where masks and labels don't go together.
    """
    labels = labels[:, None] if labels.ndim == 3 else labels  # (B, P, H, W)
    if not seen and region is not None and masks.shape[-2:] != labels.shape[-2:]:
        masks = region.sample(masks)
    if labels[:, :, None].shape != masks.shape:
        raise ValueError(f"`labels` {tuple(labels.shape)} go with one mask a prompt, got {tuple(masks.shape)}.")
    logits = masks[:, :, 0].float()
    valid = (labels != IGNORE_INDEX).to(logits.dtype)
    target = torch.where(valid > 0, labels, 0).to(logits.dtype)
    losses = teacher_losses(logits, target, valid, seen)
    return weighted_sum(losses, {"supervised": 1.0, "prior": PRIOR_WEIGHT, "balance": BALANCE_WEIGHT})


__all__ = ["BALANCE_WEIGHT", "PRIOR_WEIGHT", "loss_of_labels", "prior_guidance", "teacher_losses", "weighted_sum"]
