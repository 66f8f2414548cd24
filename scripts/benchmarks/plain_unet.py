"""A plain U-Net of 0.40 million parameters, as large as ACM: what students are compared with in the benchmark."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN_SIZES = (16, 32, 64, 100)  # channels at strides 1, 2, 4, 8


class DoubleConv(nn.Sequential):
    """Twice convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int):
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            conv = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]
        super().__init__(*layers)


class PlainUNet(nn.Module):
    """
    Two convolutions a level, max pooling down, nearest-neighbour upsampling and concatenation up.

    After Ronneberger et al., "U-Net", 2015, with padding and batch norm.

    Shape: `(B, 1, H, W)`, H and W multiples of 8 → logits of the same shape.
    """

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(DoubleConv(i, o) for i, o in pairwise((1, *HIDDEN_SIZES)))
        self.up = nn.ModuleList(DoubleConv(fine + coarse, fine) for fine, coarse in pairwise(HIDDEN_SIZES))
        self.head = nn.Conv2d(HIDDEN_SIZES[0], 1, 1)

    def forward(self, frames: Tensor) -> Tensor:
        x, levels = frames, []
        for index, level in enumerate(self.down):
            x = level(F.max_pool2d(x, 2) if index else x)
            levels.append(x)
        for up, fine in zip(reversed(self.up), reversed(levels[:-1]), strict=True):
            x = up(torch.cat([fine, F.interpolate(x, scale_factor=2.0, mode="nearest")], 1))
        return self.head(x)
