"""What a box asks of a mask: that it reaches the box's four sides."""

import math

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

SURE = 0.9  # probability from which on a side counts as touched


def box_projection_loss(logits: Tensor, boxes: Tensor, slack: int = 1, sure: float = SURE) -> Tensor:
    """
    How far a mask is from touching the sides of the boxes that people drew around its targets.

    The mask's projections onto x and y are its highest probabilities in each column and row of a box. At each of the
    four sides `relu(log sure − log p)` of the highest of the outermost `1 + slack` is taken, and the mean over sides:
    0, without a gradient, for a mask that touches them all. A side at the crop's edge may be a cut and asks nothing.

    Unlike BoxInst's projection term it doesn't ask for a target in every row and column of a box, which is true of one
    connected target only, and nothing of the pixels outside, where the background says it all.

    Args:
        logits: `(B, 1, H, W)`.
        boxes: `(B, H, W)`, the number of the box that a pixel lies in, 0 outside.
        slack: pixels by which a box may be wider than its target.

    Returns a scalar; 0 where there is no box.

    Source: Tian et al., "BoxInst: High-Performance Instance Segmentation with Box Annotations", CVPR 2021.
    """
    sides: list[Tensor] = []
    height, width = boxes.shape[1:]
    for image, numbers in zip(logits[:, 0], boxes.cpu().numpy(), strict=True):
        for window in ndimage.find_objects(numbers):
            if window is None:
                continue
            rows, columns = window
            inside = image[window]
            for projection, extent, end in ((inside.amax(1), rows, height), (inside.amax(0), columns, width)):
                sides += [projection[: 1 + slack].amax()] if extent.start > 0 else []
                sides += [projection[-1 - slack :].amax()] if extent.stop < end else []
    if not sides:
        return logits.new_zeros(())
    return F.relu(math.log(sure) - F.logsigmoid(torch.stack(sides).float())).mean()
