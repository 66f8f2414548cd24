"""What a box asks of a mask: that it reaches the box's four sides."""

import math

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

SURE = 0.9  # probability from which on a side counts as touched


def box_projection_loss(logits: Tensor, boxes: Tensor, margin: float = 0.0, slack: int = 1) -> Tensor:
    """
    How far a mask is from touching the sides of the boxes that people drew around its targets.

    The mask's projections onto x and y are its highest probabilities in each column and row of a box. At each of the
    four sides `relu(log SURE − log p)` of the highest of the outermost ones is taken, and the mean over sides: 0,
    without a gradient, for a mask that touches them all. A side at the crop's edge may be a cut and asks nothing.

    The outermost ones are as many as boxes are drawn larger than their targets, half of the margin, and `slack`: asked
    to touch the sides of boxes that have a margin, a network puts a pixel at each side, and elsewhere too.

    Unlike BoxInst's projection term it doesn't ask for a target in every row and column of a box, which is true of one
    connected target only, and nothing of the pixels outside, where the background says it all.

    Args:
        logits: `(B, 1, H, W)`.
        boxes: `(B, H, W)`, the number of the box that a pixel lies in, 0 outside.
        margin: pixels by which people's boxes are wider and higher than targets, see [`margin_of_boxes`].
        slack: pixels by which a side may be further away besides.

    Returns a scalar; 0 where there is no box.

    Source: Tian et al., "BoxInst: High-Performance Instance Segmentation with Box Annotations", CVPR 2021.
    """
    sides: list[Tensor] = []
    depth = 1 + slack + round(margin / 2)
    height, width = boxes.shape[1:]
    for image, numbers in zip(logits[:, 0], boxes.cpu().numpy(), strict=True):
        for window in ndimage.find_objects(numbers):
            if window is None:
                continue
            rows, columns = window
            inside = image[window]
            for projection, extent, end in ((inside.amax(1), rows, height), (inside.amax(0), columns, width)):
                sides += [projection[:depth].amax()] if extent.start > 0 else []
                sides += [projection[-depth:].amax()] if extent.stop < end else []
    if not sides:
        return logits.new_zeros(())
    return F.relu(math.log(SURE) - F.logsigmoid(torch.stack(sides).float())).mean()
