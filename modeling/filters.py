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
    The basis of the DCT-II along a dimension of length N, and the weights of its inverse.

    Row k of the basis is \(\cos(\omega_k (i + 1/2))\) with \(\omega_k = \pi k / N\). For every x of length N,
    `basis.T @ (weights * (basis @ x))` is x. In float32 this is exact to rounding for N up to 2896.

    Args:
        like: tensor that gives N, the dtype and the device.
        dim: its dimension of length N.

    Returns the basis `(N, N)`, frequencies by positions, and the weights `(N,)`.
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
    ω = 0. Six repetitions on each side are exact to float64 for σ ≥ ¼. A multiple of the Gaussian is subtracted from
    the second derivative, so that its symbol is 0 at ω = 0.

    Args:
        sigma: `(S, 1)`, in pixels.
        size: N, the dimension's length.

    Returns the Gaussian's and the second derivative's symbols, `(S, N)` each.
    """
    repeats = 2 * math.pi * torch.arange(-6, 7, device=sigma.device, dtype=sigma.dtype)
    omega = torch.arange(size, device=sigma.device, dtype=sigma.dtype) * (math.pi / size)
    squared = (omega[:, None] + repeats).square()  # (N, 13)
    terms = torch.exp(-0.5 * sigma[:, :, None].square() * squared)  # (S, N, 13)
    gauss, second = terms.sum(-1), -(squared * terms).sum(-1)
    second = second - gauss * (second[:, :1] / gauss[:, :1])
    return gauss / gauss[:, :1], second / gauss[:, :1]


def window_sum(x: Tensor, size: int, dim: int) -> Tensor:
    """Sums over all windows of `size` along `dim`, without padding, in about log2(size) additions."""
    if size == 1:
        return x
    half = window_sum(x, size // 2, dim)
    total = _combine_shifted(torch.add, half, step=size // 2, dim=dim)
    if size % 2:
        total = total.narrow(dim, 0, total.shape[dim] - 1) + x.narrow(dim, size - 1, x.shape[dim] - size + 1)
    return total


def _window_extreme(extreme: Callable[[Tensor, Tensor], Tensor], x: Tensor, size: int, dim: int) -> Tensor:
    """
    Extremes over all windows of `size` along `dim`, without padding, in about log2(size) steps: each step doubles the
    window. `extreme` is `torch.minimum` or `torch.maximum`.
    """
    covered = 1
    while covered < size:
        step = min(covered, size - covered)  # windows may overlap, as that doesn't change an extreme
        x = _combine_shifted(extreme, x, step=step, dim=dim)
        covered += step
    return x


def _combine_shifted(combine: Callable[[Tensor, Tensor], Tensor], x: Tensor, step: int, dim: int) -> Tensor:
    """`combine(x[i], x[i + step])` at all positions i along `dim` for which both exist."""
    length = x.shape[dim] - step
    return combine(x.narrow(dim, 0, length), x.narrow(dim, step, length))


def opening(x: Tensor, radius: int) -> Tensor:
    """Grey opening of `(..., H, W)` by a flat square of side 2 · radius + 1. Pixels outside the frame are ignored."""
    size = 2 * radius + 1
    padding = (radius, radius, radius, radius)
    for extreme, neutral in ((torch.minimum, math.inf), (torch.maximum, -math.inf)):  # erosion, dilation
        x = F.pad(x, padding, value=neutral)
        for dim in (-1, -2):
            x = _window_extreme(extreme, x, size=size, dim=dim)
    return x
