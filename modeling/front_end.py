"""The students' optional white-box front end: the operators' maps of a frame as further channels beside it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .moe import OPERATORS, PriorPyramid


class FrontEnd(nn.Module):
    """
    A frame and its prior maps, see [`PriorPyramid`]: what the operators see at their initial parameters is the
    classical detectors' answer, each map in its own spread.

    Args:
        scales: for each operator its scales in frame pixels.
        learned: whether the operators' parameters are trained; otherwise they stay as they are.

    Shape: `(B, 1, H, W)` → `(B, 1 + M, H, W)`, M the number of all scales.
    """

    def __init__(self, scales: Mapping[str, Sequence[float]], learned: bool) -> None:
        super().__init__()
        # In one order, whatever that of the configuration, whose file has its keys sorted.
        self.pyramid = PriorPyramid({name: list(scales[name]) for name in OPERATORS if name in scales})
        self.learned = learned

    def forward(self, frames: Tensor) -> Tensor:
        maps, _ = self.pyramid(frames)
        if not self.learned:  # `requires_grad` would be set again by `from_pretrained`
            maps = [m.detach() for m in maps]
        return torch.cat([frames, *maps], 1)


__all__ = ["FrontEnd"]
