"""The parts of a residual U-Net with all levels centred on the same pixels, which students and mask level share.

- No layer of the U-Net itself runs at full resolution. Every 2 x 2 cell of the frame becomes one position whose
  channels hold its four pixels, and at the end gives its four logits back (sub-pixel convolution, Shi et al.,
  "Real-Time Single Image and Video Super-Resolution", 2016). Against 8 channels at full resolution, 16 at half take as
  many multiplications, half the memory traffic and, on a CPU, half the time.
- `FullResolution` puts a few channels at full resolution around it, where edges are worth the time: a teacher's.
- Max pooling carries the peak of a one-pixel target down.
- Batch norms keep the amplitude that tells a faint target from noise; norms over a position's channels, or over groups
  of them, remove it (docs/log.md).
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


class ConvLayer(nn.Sequential):
    """Convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> None:
        padding = (kernel_size - stride) // 2
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )


class ResidualBlock(nn.Module):
    """relu(x + norm(conv(relu(norm(conv(x)))))), the basic block of He et al., "Deep Residual Learning" (2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(channels, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.norm(self.conv2(self.conv1(x))))


class DecoderLevel(nn.Module):
    """Coarse features, projected and doubled in size, added to the finer level's, and convolved."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(in_channels, out_channels, 1)
        self.conv = ConvLayer(out_channels, out_channels)

    def forward(self, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        return self.conv(fine + F.interpolate(self.projection(coarse), scale_factor=2, mode="nearest"))


def encoder_levels(in_channels: int, sizes: Sequence[int], depths: Sequence[int]) -> nn.ModuleList:
    """The way down: a level for each of `sizes`, the first a stem of stride 2, each with `depths` residual blocks."""
    stem = ConvLayer(in_channels, sizes[0], kernel_size=6, stride=2)  # 3 x 3 cells of 2 x 2 pixels
    entries = [stem, *(ConvLayer(fine, coarse) for fine, coarse in pairwise(sizes))]
    return nn.ModuleList(
        nn.Sequential(entry, *(ResidualBlock(size) for _ in range(depth)))
        for entry, size, depth in zip(entries, sizes, depths, strict=True)
    )


def decoder_levels(sizes: Sequence[int]) -> nn.ModuleList:
    """The way up, finest level first."""
    return nn.ModuleList(DecoderLevel(coarse, fine) for fine, coarse in pairwise(sizes))


class FullResolution(nn.Module):
    """Two convolutions at full resolution before a U-Net, and one after it that sees both.

    Args:
        in_channels: of the frame and what joins it.
        channels: at full resolution.
        unet_channels: of the U-Net's features at half resolution; a multiple of 4.
    """

    def __init__(self, in_channels: int, channels: int, unet_channels: int) -> None:
        super().__init__()
        self.before = nn.Sequential(ConvLayer(in_channels, channels), ConvLayer(channels, channels))
        self.after = ConvLayer(channels + unet_channels // 4, channels)

    def join(self, fine: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Of the frame's features (B, C, H, W) and the U-Net's (B, U, H/2, W/2): (B, C, H, W)."""
        return self.after(torch.cat([fine, F.pixel_shuffle(features, 2)], 1))


def decode(decoder: nn.ModuleList, levels: list[torch.Tensor]) -> torch.Tensor:
    """Features of the finest of `levels`, strides 2, 4, 8, ..., from all of them."""
    x = levels[-1]
    for level, fine in zip(reversed(decoder), reversed(levels[:-1]), strict=True):
        x = level(x, fine)
    return x


def pad_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Repeat the edge at the bottom and right until both sides are multiples."""
    right, bottom = ((multiple - side % multiple) % multiple for side in (x.shape[-1], x.shape[-2]))
    return F.pad(x, (0, right, 0, bottom), mode="replicate")
