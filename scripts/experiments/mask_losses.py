"""Losses in place of `10 · BCE + soft IoU`, for the ablations of teachers and students."""

import torch.nn.functional as F
from torch import Tensor

from scalpel_hf.modeling.losses import BCE_WEIGHT, soft_iou_loss

EDGE_WEIGHT = 4.0


def edge_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """`10 · BCE + soft IoU` with heavier edges, the hardest half of the pixels, and the mean IoU of crops."""
    is_target = (target > 0.5).float()
    edge = F.max_pool2d(is_target, 3, 1, 1) + F.max_pool2d(-is_target, 3, 1, 1)
    weight = weight * (1 + (EDGE_WEIGHT - 1) * edge)
    pixels = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight
    hardest = pixels.flatten(1).topk(pixels[0].numel() // 2, dim=1).values
    bce = hardest.sum() / weight.sum().clamp(min=1e-6)
    p = logits.sigmoid()
    overlap, union = ((weight * x).sum((1, 2, 3)) for x in (p * target, p + target - p * target))
    return BCE_WEIGHT * bce + (1 - (overlap + 1) / (union + 1)).mean()


def dice_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Soft Dice alone, pooled over the batch: 1 - 2 I / (U + I), from the soft IoU I / U."""
    iou = 1 - soft_iou_loss(logits, target, weight)
    return 1 - 2 * iou / (1 + iou)
