"""Losses in place of `10 · BCE + soft IoU`, and what is learned of a teacher's probability, for the ablations."""

import torch
import torch.nn.functional as F
from torch import Tensor

from scalpel_hf.modeling.losses import BCE_WEIGHT, soft_iou_loss

EDGE_WEIGHT = 4.0
Label = tuple[Tensor, Tensor]  # target and weight of pixels


def edges(target: Tensor) -> Tensor:
    """1 at the pixels of a binary target `(B, 1, H, W)` that differ from one of their 3 × 3 neighbours, else 0."""
    return F.max_pool2d(target, 3, 1, 1) + F.max_pool2d(-target, 3, 1, 1)


def edge_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """`10 · BCE + soft IoU` with heavier edges, the hardest half of the pixels, and the mean IoU of crops."""
    weight = weight * (1 + (EDGE_WEIGHT - 1) * edges((target > 0.5).float()))
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


def hard_weighed(p: Tensor) -> Label:
    """Target and weight of pixels, `(B, 1, H, W)` each, of which p is a teacher's probability: hard, by |2p - 1|."""
    return (p > 0.5).float(), (2 * p - 1).abs()


def soft_edges(p: Tensor) -> Label:
    """[`hard_weighed`], but p itself, with weight 1, at the edges."""
    target, weight = hard_weighed(p)
    at_edge = edges(target) > 0
    return torch.where(at_edge, p, target), torch.where(at_edge, 1, weight)
