"""Connected components, without SciPy, which doesn't travel with a model."""

import torch
import torch.nn.functional as F
from torch import Tensor


def label_components(mask: Tensor) -> tuple[Tensor, int]:
    """
    Label the 8-connected components of a mask.

    Every pixel starts with a number of its own and takes the highest among its neighbours until nothing changes. That
    takes as many passes as the longest way through a component has pixels: few, where targets are small.

    Args:
        mask: `(H, W)`, bool.

    Returns `(H, W)`, int64, 0 outside and 1 to n within the components, in the order of their first pixels, and n.
    """
    numbers = torch.arange(mask.numel(), 0, -1, device=mask.device, dtype=torch.float64).view(mask.shape) * mask
    while True:
        spread = F.max_pool2d(numbers[None, None], 3, stride=1, padding=1)[0, 0] * mask
        if torch.equal(spread, numbers):
            break
        numbers = spread
    found, labels = (-numbers).unique(return_inverse=True)  # the first pixel has the highest number
    if mask.all():
        return labels + 1, len(found)
    background = len(found) - 1
    return torch.where(labels == background, 0, labels + 1), background
