"""Sums and extremes over sliding windows in about log2(size) passes, each a pointwise operation on shifted views.

On a CPU this is several times faster than pooling, whose cost grows with the window, and unlike a running sum over the
whole frame it adds up no more numbers than the window holds.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def window_sum(x: Tensor, size: int, dim: int) -> Tensor:
    """Sums over all windows of `size` that fit, in about log2(size) additions."""
    if size == 1:
        return x
    half = window_sum(x, size // 2, dim)
    total = _shifted(torch.add, half, size // 2, dim)
    if size % 2:
        total = total.narrow(dim, 0, total.shape[dim] - 1) + x.narrow(dim, size - 1, x.shape[dim] - size + 1)
    return total


def _window_extreme(pick: Callable[[Tensor, Tensor], Tensor], x: Tensor, size: int, dim: int) -> Tensor:
    """Extremes over all windows of `size` that fit, in about log2(size) steps (van Herk's idea, by doubling)."""
    covered = 1
    while covered < size:
        step = min(covered, size - covered)  # windows may overlap: an extreme does not mind
        x = _shifted(pick, x, step, dim)
        covered += step
    return x


def _shifted(pick: Callable[[Tensor, Tensor], Tensor], x: Tensor, step: int, dim: int) -> Tensor:
    length = x.shape[dim] - step
    return pick(x.narrow(dim, 0, length), x.narrow(dim, step, length))


def opening(x: Tensor, radius: int) -> Tensor:
    """Grey opening by a flat square of side 2 · radius + 1. Outside the frame there is nothing to compare with."""
    size = 2 * radius + 1
    padding = (radius, radius, radius, radius)
    for pick, outside in ((torch.minimum, math.inf), (torch.maximum, -math.inf)):
        x = F.pad(x, padding, value=outside)
        x = _window_extreme(pick, _window_extreme(pick, x, size, -1), size, -2)
    return x
