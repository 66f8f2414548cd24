"""Structural re-parameterisation: convolutions with several branches in training, merged into one afterwards.

The kernel of a 3 x 3 convolution is the sum of a 3 x 3, a 1 x 3, a 3 x 1 and a 1 x 1 kernel, each with a scale for each
output channel. Kernels are summed, not feature maps, so that a training step computes one convolution. The branches are
those of Ding et al., "ACNet" (ICCV 2019) and "RepVGG" (CVPR 2021), summed as in Hu et al., "Online Convolutional
Re-parameterization" (CVPR 2022).

Branches are added before training and merged after it; a saved model has none.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

PADDINGS = (0, 0, 1, 1), (1, 1, 0, 0), (1, 1, 1, 1)  # of 1 x 3, 3 x 1 and 1 x 1 kernels to 3 x 3
INITIAL_SHARE = 0.25  # of the kernel's weights in each smaller kernel


class KernelOfBranches(nn.Module):
    """The sum `(O, I, 3, 3)` of the kernels of four branches, `(O, I, 3 or 1, 3 or 1)`, with scales `(4 · O,)`."""

    def forward(self, square: Tensor, row: Tensor, column: Tensor, point: Tensor, scales: Tensor) -> Tensor:
        branches = [
            square,
            *(F.pad(kernel, padding) for kernel, padding in zip((row, column, point), PADDINGS, strict=True)),
        ]
        scaled = (s[:, None, None, None] * b for s, b in zip(scales.view(4, -1), branches, strict=True))
        return torch.stack([*scaled]).sum(0)

    def right_inverse(self, kernel: Tensor) -> tuple[Tensor, ...]:
        """Initial branches for a kernel: they sum to it, and none is 0."""
        row, column, point = (
            INITIAL_SHARE * part for part in (kernel[:, :, 1:2], kernel[..., 1:2], kernel[:, :, 1:2, 1:2])
        )
        square = kernel - sum(
            F.pad(part, padding) for part, padding in zip((row, column, point), PADDINGS, strict=True)
        )
        return square, row.contiguous(), column.contiguous(), point.contiguous(), kernel.new_ones(4 * len(kernel))


def add_branches(model: nn.Module) -> None:
    """Add branches to every 3 x 3 convolution without bias (a norm follows it). Outputs don't change."""
    for conv in [*_convolutions(model)]:
        parametrize.register_parametrization(conv, "weight", KernelOfBranches())


def merge_branches(model: nn.Module) -> None:
    """Replace each convolution's branches by their sum. Outputs don't change."""
    for conv in [*_convolutions(model)]:
        if parametrize.is_parametrized(conv, "weight"):
            parametrize.remove_parametrizations(conv, "weight", leave_parametrized=True)


def _convolutions(model: nn.Module) -> Iterator[nn.Conv2d]:
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and module.bias is None:
            yield module
