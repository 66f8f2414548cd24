"""Convolutions that train as a sum of branches and answer as one (structural re-parameterisation).

The kernel of a 3 x 3 convolution is the sum of a 3 x 3, a 1 x 3, a 3 x 1 and a 1 x 1 kernel, each with a scale for each
output channel. The kernels are summed, not the branches' answers, so that a step costs one convolution. The branches
are those of Ding et al., "ACNet" (ICCV 2019) and "RepVGG" (CVPR 2021), summed as in Hu et al., "Online Convolutional
Re-parameterization" (CVPR 2022).

A network gets its branches before it is trained and loses them afterwards: what is saved has none.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

CROSS = (0, 0, 1, 1), (1, 1, 0, 0), (1, 1, 1, 1)  # what 1 x 3, 3 x 1 and 1 x 1 lack of 3 x 3
SHARE = 0.25  # of a kernel's weights, for each smaller kernel at first


class KernelOfBranches(nn.Module):
    """The kernel (O, I, 3, 3) of those of four branches (O, I, 3 or 1, 3 or 1) and their scales (4 · O,)."""

    def forward(self, square: Tensor, row: Tensor, column: Tensor, point: Tensor, scales: Tensor) -> Tensor:
        branches = [square, *(F.pad(kernel, lack) for kernel, lack in zip((row, column, point), CROSS, strict=True))]
        scaled = (s[:, None, None, None] * b for s, b in zip(scales.view(4, -1), branches, strict=True))
        return torch.stack([*scaled]).sum(0)

    def right_inverse(self, kernel: Tensor) -> tuple[Tensor, ...]:
        """Branches that make up a kernel, each of them with something to learn from."""
        row, column, point = (SHARE * part for part in (kernel[:, :, 1:2], kernel[..., 1:2], kernel[:, :, 1:2, 1:2]))
        square = kernel - sum(F.pad(part, lack) for part, lack in zip((row, column, point), CROSS, strict=True))
        return square, row.contiguous(), column.contiguous(), point.contiguous(), kernel.new_ones(4 * len(kernel))


def add_branches(model: nn.Module) -> None:
    """Give branches to every 3 x 3 convolution that a norm follows, which is one without bias. The model's answers stay
    what they are."""
    for conv in [*_convolutions(model)]:
        parametrize.register_parametrization(conv, "weight", KernelOfBranches())


def merge_branches(model: nn.Module) -> None:
    """One kernel in place of each convolution's branches; the model's answers stay what they are."""
    for conv in [*_convolutions(model)]:
        if parametrize.is_parametrized(conv, "weight"):
            parametrize.remove_parametrizations(conv, "weight", leave_parametrized=True)


def _convolutions(model: nn.Module) -> Iterator[nn.Conv2d]:
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and module.bias is None:
            yield module
