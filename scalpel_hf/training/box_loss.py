"""A mask loss for labels that are boxes: the mask must touch the four sides of each box."""

import math

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

TOUCHING = 0.9  # probability from which on a side counts as touched


def box_projection_loss(logits: Tensor, boxes: Tensor, margin: float = 0.0, slack: int = 1) -> Tensor:
    """
    How far the predicted mask is from touching the sides of the boxes that people drew around targets.

    For each side of each box, p is the highest probability in the strip of `1 + slack + round(margin / 2)` pixels at
    this side. The loss is the mean over all sides of `relu(log 0.9 − log p)`: 0, without gradient, for a mask that
    touches all sides. Sides at the edge of the crop are left out, since the crop may cut the target there.

    The strip allows for boxes that are drawn larger than their targets: if the mask had to touch such sides exactly,
    the network would learn to predict extra pixels there.

    It differs from BoxInst's projection term in two ways: not every row and column of a box needs a target pixel, since
    a box may hold several components; and pixels outside of boxes don't count, since labels have them as background.

    Args:
        logits: `(B, 1, H, W)`.
        boxes: `(B, H, W)`, the number of the box that contains the pixel, 0 outside of boxes.
        margin: pixels by which people's boxes are wider and higher than targets, see [`margin_of_boxes`].
        slack: additional pixels of the strip.

    Returns a scalar; 0 without boxes.

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
    return F.relu(math.log(TOUCHING) - F.logsigmoid(torch.stack(sides).float())).mean()
