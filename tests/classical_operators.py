"""The four classical detectors without torch, pixel by pixel or from scipy, and what their maps are measured by."""

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


def surroundings(x: np.ndarray) -> np.ndarray:
    """Means over 9 x 9 cells of 8 x 8 pixels around each pixel, interpolated between the cells' centres."""
    height, width = x.shape
    cells = np.pad(x, ((0, -height % 8), (0, -width % 8)), mode="edge")
    cells = cells.reshape(cells.shape[0] // 8, 8, cells.shape[1] // 8, 8).mean((1, 3))
    means = ndimage.uniform_filter(cells, 9, mode="nearest")
    places = np.meshgrid((np.arange(height) - 3.5) / 8, (np.arange(width) - 3.5) / 8, indexing="ij")
    return ndimage.map_coordinates(means, places, order=1, mode="nearest")
