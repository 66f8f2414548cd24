"""The teacher's loss: supervised mask loss, prior guidance, and load balance of the routers.

A model that is called with `labels` sums these terms by [`loss_of_labels`]. `scalpel-hf distill` has weights of its own
and adds a loss for boxes, in `scalpel_hf/training/distillation.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .losses import mask_loss
from .mask_level import FrameRegion
from .moe import load_balance_loss
from .segmentation_maps import target_and_weight

PRIOR_WEIGHT = 0.3
BALANCE_WEIGHT = 0.01


def teacher_losses(
    logits: Tensor, target: Tensor, weight: Tensor, seen: dict[str, Tensor], logit_shift: float = 0.0
) -> dict[str, Tensor]:
    """
    The terms of a teacher's loss: `supervised` ([`mask_loss`]) and, if the mask level has operators, `prior`
    ([`prior_guidance`]) and `balance` ([`load_balance_loss`]).

    Args:
        logits: `(B, M, H, W)`.
        target: `(B, M, H, W)`, in [0, 1].
        weight: `(B, M, H, W)`, at least 0.
        seen: outputs of [`MaskLevel`] other than the logits; empty without operators.
        logit_shift: added to the logits.

    Returns scalars by the terms' names.
    """
    logits = logits + logit_shift
    losses = {"supervised": mask_loss(logits, target, weight)}
    if "prior" in seen:
        losses["prior"] = prior_guidance(logits, seen["prior"], target=target, weight=weight)
        losses["balance"] = load_balance_loss(seen["router_weights"])
    return losses


def weighted_sum(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """The sum of the terms of [`teacher_losses`], each times the weight of its name. Every term needs a weight."""
    parts = [weights[name] * loss for name, loss in losses.items()]
    return sum(parts[1:], start=parts[0])


def prior_guidance(logits: Tensor, prior: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """
    The loss that makes prior and prediction agree: the sum of two terms, a scalar. All arguments are `(B, 1, H, W)`.

    - The prior must predict the labels: the mean of `weight · BCE(prior − 2, target)`, with prior − 2 as logits.
    - Predictions where no operator responds are penalised: the mean of `weight · (1 − target) · p · (1 − s)`. Here p is
      the predicted probability and `s = σ(m − 1)`, with m the maximum of the prior within 5 × 5 pixels. There is no
      gradient through s.
    """
    explain = F.binary_cross_entropy_with_logits(prior - 2, target, weight)
    fires = torch.sigmoid(F.max_pool2d(prior.detach(), 5, 1, 2) - 1)
    silent = (torch.sigmoid(logits) * (1 - fires) * (1 - target) * weight).mean()
    return explain + silent


def loss_of_labels(masks: Tensor, labels: Tensor, region: FrameRegion | None, seen: dict[str, Tensor]) -> Tensor:
    """
    The loss of a model that was called with labels: the sum of [`teacher_losses`] with default weights.

    Args:
        masks: mask logits `(B, P, 1, h, w)`.
        labels: `(B, H, W)`, or `(B, P, H, W)` with P prompts: in [0, 1], or 255 where a pixel is ignored.
        region: the frames of the labels. Without a mask level, SAM's masks are resampled to their resolution.
        seen: outputs of [`MaskLevel`] other than the logits; empty with prompts or without a mask level.

    Raises `ValueError` if the shapes of masks and labels differ, if there are several masks for a prompt, or labels are
    outside [0, 1] and not 255.
    """
    labels = labels[:, None] if labels.ndim == 3 else labels  # (B, P, H, W)
    if not seen and region is not None and masks.shape[-2:] != labels.shape[-2:]:
        masks = region.sample(masks)
    if labels[:, :, None].shape != masks.shape:
        raise ValueError(
            f"`labels` {tuple(labels.shape)} need one mask a prompt, on their grid (see `mask_grid`), got "
            f"{tuple(masks.shape)}."
        )
    logits = masks[:, :, 0].float()
    target, weight = target_and_weight(labels)
    losses = teacher_losses(logits, target=target, weight=weight, seen=seen)
    return weighted_sum(losses, {"supervised": 1.0, "prior": PRIOR_WEIGHT, "balance": BALANCE_WEIGHT})


__all__ = ["BALANCE_WEIGHT", "PRIOR_WEIGHT", "loss_of_labels", "prior_guidance", "teacher_losses", "weighted_sum"]
