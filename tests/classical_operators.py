"""The four classical detectors without torch, pixel by pixel or from scipy: what the operators are compared with."""

import numpy as np
from scipy import ndimage


def mpcm(f: np.ndarray, s: int) -> np.ndarray:
    padded = np.pad(f, s + s // 2, mode="edge")
    out = np.zeros_like(f)
    for i, j in np.ndindex(f.shape):
        cell = {
            (a, b): padded[i + a * s : i + a * s + s, j + b * s : j + b * s + s].mean() for a, b in np.ndindex(3, 3)
        }
        d = {k: max(cell[1, 1] - m, 0) for k, m in cell.items()}
        out[i, j] = min(d[k] * d[2 - k[0], 2 - k[1]] for k in [(0, 0), (0, 1), (0, 2), (1, 0)])
    return out


def top_hat(f: np.ndarray, r: int) -> np.ndarray:
    return ndimage.white_tophat(f, size=2 * r + 1)


def laplacian_of_gaussian(f: np.ndarray, s: float) -> np.ndarray:
    """scipy's, less the multiple of scipy's Gaussian that makes it sum to zero."""
    leak = ndimage.gaussian_laplace(np.ones((1, 1)), s, truncate=10)
    return -(s**2) * (ndimage.gaussian_laplace(f, s, truncate=10) - leak * ndimage.gaussian_filter(f, s, truncate=10))


def perona_malik(f: np.ndarray, s: int, k: float = 8.0, rate: float = 1 / 6, steps: int = 3) -> np.ndarray:
    u = f.copy()
    for _ in range(steps):
        new = u.copy()
        for i, j in np.ndindex(f.shape):
            for di, dj in ((s, 0), (-s, 0), (0, s), (0, -s)):
                if 0 <= i + di < f.shape[0] and 0 <= j + dj < f.shape[1]:
                    gradient = u[i + di, j + dj] - u[i, j]
                    if gradient:
                        new[i, j] += rate * np.exp(-((gradient / (k * f.std())) ** 2)) * gradient
        u = new
    return f - u
