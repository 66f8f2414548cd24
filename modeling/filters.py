"""The arithmetic under the operators: sliding windows, and Gaussian filters by a cosine transform.

A convolution with a symmetric kernel and a border that reflects about the pixels' edge (d c b a | a b c d | d c b a)
multiplies each cosine of the DCT-II by a number, the kernel's symbol. On a CPU two products with a matrix of a frame's
size are faster than a long convolution, they need no padding, and they can be exported.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_basis(like: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    r"""
    The DCT-II for a dimension of `like`: `(size, size)`, frequencies by positions, and its weights `(size,)`.

    Row k is \(\cos(\omega_k (i + 1/2))\) with \(\omega_k = \pi k / size\); x is `basis.T @ (weights * (basis @ x))`.
    In float32 this is exact to rounding up to 2896 pixels.
    """
    size = like.shape[dim]
    index = torch.arange(size, device=like.device, dtype=like.dtype)
    angles = index[:, None] * (2 * index + 1)  # in units of π / (2 size)
    # Whole turns are taken off first: in float32 the cosine of hundreds of radians is wrong in the fifth digit.
    angles = angles - 4 * size * torch.round(angles / (4 * size))
    return torch.cos(angles * (math.pi / (2 * size))), (1 + index.sign()) / size


def gaussian_symbols(sigma: Tensor, size: int) -> tuple[Tensor, Tensor]:
    r"""
    Symbols of the sampled, normalised Gaussian and of its second derivative, the latter made to sum to zero.

    Sampling repeats a spectrum every 2π: the Gaussian's symbol is \(\sum_m e^{-\sigma^2 (\omega + 2\pi m)^2 / 2}\),
    its second derivative's has the factor \(-(\omega + 2\pi m)^2\) in the sum, and both are divided by the former at
    ω = 0. Six repetitions a side are exact to float64 for σ ≥ ¼. What the second derivative lets through at ω = 0 is
    taken off as a multiple of the Gaussian.

    Args:
        sigma: `(S, 1)` in pixels. size: N, the dimension's length.

    Returns two tensors `(S, N)`.
    """
    repeats = 2 * math.pi * torch.arange(-6, 7, device=sigma.device, dtype=sigma.dtype)
    omega = torch.arange(size, device=sigma.device, dtype=sigma.dtype) * (math.pi / size)
    squared = (omega[:, None] + repeats).square()  # (N, 13)
    terms = torch.exp(-0.5 * sigma[:, :, None].square() * squared)  # (S, N, 13)
    gauss, second = terms.sum(-1), -(squared * terms).sum(-1)
    second = second - gauss * (second[:, :1] / gauss[:, :1])
    return gauss / gauss[:, :1], second / gauss[:, :1]


def window_sum(x: Tensor, size: int, dim: int) -> Tensor:
    """Sums over all windows of `size` that fit, in about log2(size) additions."""
    if size == 1:
        return x
    half = window_sum(x, size // 2, dim)
    total = _shifted(torch.add, half, size // 2, dim)
    if size % 2:
        total = total.narrow(dim, 0, total.shape[dim] - 1) + x.narrow(dim, size - 1, x.shape[dim] - size + 1)
    return total


def _window_extreme(pick: Callable[[Tensor, Tensor], Tensor], x: Tensor, size: int, dim: int) -> Tensor:
    """Extremes over all windows of `size` that fit, in about log2(size) steps (van Herk's idea, by doubling)."""
    covered = 1
    while covered < size:
        step = min(covered, size - covered)  # windows may overlap: an extreme does not mind
        x = _shifted(pick, x, step, dim)
        covered += step
    return x


def _shifted(pick: Callable[[Tensor, Tensor], Tensor], x: Tensor, step: int, dim: int) -> Tensor:
    length = x.shape[dim] - step
    return pick(x.narrow(dim, 0, length), x.narrow(dim, step, length))


def opening(x: Tensor, radius: int) -> Tensor:
    """Grey opening by a flat square of side 2 · radius + 1. Outside the frame there is nothing to compare with."""
    size = 2 * radius + 1
    padding = (radius, radius, radius, radius)
    for pick, outside in ((torch.minimum, math.inf), (torch.maximum, -math.inf)):
        x = F.pad(x, padding, value=outside)
        x = _window_extreme(pick, _window_extreme(pick, x, size, -1), size, -2)
    return x
