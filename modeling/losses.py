"""Segmentation losses for tiny foregrounds, with a weight for every pixel."""

import torch
import torch.nn.functional as F

BCE_WEIGHT = 10.0  # large targets dominate the soft IoU: with 1, a one-pixel target takes twice the steps


def weighted_bce(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Binary cross-entropy, averaged by weight: Σ w·(softplus(z) - t·z) / Σ w, the stable form of -log-likelihood.

    Args:
        logits: z, any shape.
        target: t, the same shape, in [0, 1]; soft labels are fine. Where the weight is 0 any finite value is.
        weight: w ≥ 0, broadcastable to that shape; None counts every element once. All zeros give a loss of 0.

    Returns:
        Scalar, float32 or wider.
    """
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    loss = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
    if weight is None:
        return loss.mean()
    weight = weight.to(logits.dtype).expand_as(loss)
    total = weight.sum()
    return (loss * weight).sum() / torch.where(total > 0, total, 1)  # a tiny divisor would make the gradient infinite


def soft_iou_loss(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, smooth: float = 1.0
) -> torch.Tensor:
    """Soft intersection over union, pooled over the whole batch as the IoU metric is.

    1 - (Σ w·p·t + s) / (Σ w·(p + t - p·t) + s) with p = sigmoid(z). Pooling keeps frames without a target from
    asking for an exact zero everywhere. Source: Rahman and Wang, "Optimizing Intersection-Over-Union in Deep Neural
    Networks for Image Segmentation" (ISVC 2016).

    Args:
        logits: z, any shape.
        target: t, the same shape, in [0, 1]; soft labels are fine. Where the weight is 0 any finite value is.
        weight: w ≥ 0, broadcastable to that shape; None counts every element once.
        smooth: s, in pixels; keeps the loss of an empty batch at 0 and smooth around it.

    Returns:
        Scalar in [0, 1], float32 or wider.
    """
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    prob, target = logits.sigmoid(), target.to(logits.dtype)
    weight = torch.ones_like(prob) if weight is None else weight.to(logits.dtype).expand_as(prob)
    overlap = prob * target
    intersection = (weight * overlap).sum()
    union = (weight * (prob + target - overlap)).sum()
    return 1 - (intersection + smooth) / (union + smooth)


def mask_loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """The loss of a mask, for teachers and students: 10 · [`weighted_bce`] + [`soft_iou_loss`]."""
    return BCE_WEIGHT * weighted_bce(logits, target, weight) + soft_iou_loss(logits, target, weight)


__all__ = ["BCE_WEIGHT", "mask_loss", "soft_iou_loss", "weighted_bce"]
