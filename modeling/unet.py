"""Parts of a residual U-Net whose levels are centred on the same pixels, shared by the students and the mask level.

- No layer of the U-Net itself runs at full resolution. The stem maps each cell of 2 x 2 pixels to one position, and the
  head predicts the four logits of each cell (sub-pixel convolution, Shi et al., "Real-Time Single Image and Video
  Super-Resolution", 2016). Compared to 8 channels at full resolution, 16 at half need as many multiplications, half the
  memory traffic and, on a CPU, half the time.
- `FullResolution` adds a few channels at full resolution, which make edges sharper and cost time.
- Max pooling keeps the peak of a one-pixel target.
- Batch norms keep the amplitude, by which a faint target differs from noise. Layer and group norms remove it
  (docs/log.md).
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


class ConvLayer(nn.Sequential):
    """Convolution, batch norm, ReLU: `(B, C, H, W)` → `(B, D, H / stride, W / stride)`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> None:
        padding = (kernel_size - stride) // 2
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False),
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
    """
    Project the coarse features, double their size, add the finer level's features, and convolve.

    Shape: `(B, C, h, w)` and `(B, D, 2h, 2w)` → `(B, D, 2h, 2w)`.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(in_channels, out_channels, 1)
        self.conv = ConvLayer(out_channels, out_channels)

    def forward(self, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        return self.conv(fine + F.interpolate(self.projection(coarse), scale_factor=2, mode="nearest"))


def encoder_levels(in_channels: int, sizes: Sequence[int], depths: Sequence[int]) -> nn.ModuleList:
    """The encoder's levels, of `sizes` channels and `depths` residual blocks each. The first has a stem of stride 2."""
    stem = ConvLayer(in_channels, sizes[0], kernel_size=6, stride=2)  # 3 x 3 cells of 2 x 2 pixels
    entries = [stem, *(ConvLayer(fine, coarse) for fine, coarse in pairwise(sizes))]
    return nn.ModuleList(
        nn.Sequential(entry, *(ResidualBlock(size) for _ in range(depth)))
        for entry, size, depth in zip(entries, sizes, depths, strict=True)
    )


def decoder_levels(sizes: Sequence[int]) -> nn.ModuleList:
    """The decoder's levels, finest first, for encoder levels of `sizes` channels."""
    return nn.ModuleList(DecoderLevel(coarse, fine) for fine, coarse in pairwise(sizes))


class FullResolution(nn.Module):
    """Two convolutions at full resolution before a U-Net, and one after it that combines both outputs.

    Args:
        in_channels: channels of the input, such as the frame and its prior maps.
        channels: channels at full resolution.
        unet_channels: channels of the U-Net's features at half resolution; a multiple of 4.
    """

    def __init__(self, in_channels: int, channels: int, unet_channels: int) -> None:
        super().__init__()
        self.before = nn.Sequential(ConvLayer(in_channels, channels), ConvLayer(channels, channels))
        self.after = ConvLayer(channels + unet_channels // 4, channels)

    def join(self, fine: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Combine the features before the U-Net (B, C, H, W) with the U-Net's (B, U, H/2, W/2) to (B, C, H, W)."""
        return self.after(torch.cat([fine, F.pixel_shuffle(features, 2)], 1))


def decode(decoder: nn.ModuleList, levels: list[torch.Tensor]) -> torch.Tensor:
    """Run the decoder on the encoder's features `levels`, at strides 2, 4, 8, ...; the result is at stride 2."""
    x = levels[-1]
    for level, fine in zip(reversed(decoder), reversed(levels[:-1]), strict=True):
        x = level(x, fine)
    return x


def pad_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """
    Pad `(B, C, H, W)` at the bottom and right, by repeating the edge, until H and W are multiples of `multiple`.

    Examples:
        >>> pad_to_multiple(torch.zeros(1, 1, 30, 33), multiple=16).shape
        torch.Size([1, 1, 32, 48])
    """
    right, bottom = ((multiple - side % multiple) % multiple for side in (x.shape[-1], x.shape[-2]))
    return F.pad(x, (0, right, 0, bottom), mode="replicate")
