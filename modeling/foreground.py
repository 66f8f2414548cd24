"""One foreground logit a pixel as the two classes of semantic segmentation, and back."""

import torch
from torch import Tensor


def as_two_classes(logits: Tensor) -> Tensor:
    """
    Logits `(B, 2, H, W)` of background and target from foreground logits `(B, 1, H, W)`.

    The background's are 0 and the target's the foreground logit z itself, so that `argmax(1)`, `softmax(1)[:, 1]` and
    `sigmoid()[:, 1]` all say the same: a target where z > 0, with the probability 1 / (1 + exp(-z)).
    """
    return torch.cat([torch.zeros_like(logits), logits], 1)


def as_foreground(logits: Tensor) -> Tensor:
    """
    Foreground logits `(B, 1, H, W)` of logits with one channel, which they are already, or with two, of which they are
    the difference: its sigmoid is the softmax.

    Raises `ValueError` on another shape.
    """
    if logits.ndim != 4 or logits.shape[1] not in (1, 2):
        raise ValueError(f"Logits have the shape (B, 1|2, height, width), got {tuple(logits.shape)}.")
    return logits if logits.shape[1] == 1 else logits[:, 1:] - logits[:, :1]


__all__ = ["as_foreground", "as_two_classes"]
