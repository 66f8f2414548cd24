"""Backgrounds of synthetic infrared frames: radiance `(H, W)`, float32, mostly within 0 to 1, before the optics."""

from collections.abc import Callable

import numpy as np
from scipy import fft, ndimage

Rng = np.random.Generator
Shape = tuple[int, int]


def power_law(rng: Rng, shape: Shape, beta: float, stretch: float = 1.0) -> np.ndarray:
    """
    A Gaussian random field of zero mean and unit variance with the power spectrum `1 / f^beta`.

    Correlation lengths along x are `stretch` times those along y. The field is cut from a larger one, so that opposite
    borders don't match as the Fourier transform would have it.
    """
    rows, cols = (fft.next_fast_len(side + side // 4, real=True) for side in shape)
    fy = np.fft.fftfreq(rows).astype(np.float32)[:, None]
    fx = np.fft.rfftfreq(cols).astype(np.float32)[None, :] * np.float32(stretch)
    power = fy * fy + fx * fx
    power[0, 0] = np.inf
    noise = rng.standard_normal((2, *power.shape), dtype=np.float32)
    spectrum = (noise[0] + 1j * noise[1]) * power ** np.float32(-beta / 4)
    field = fft.irfft2(spectrum, s=(rows, cols))[: shape[0], : shape[1]]
    field = field - field.mean()
    return field / field.std()


def sky(rng: Rng, shape: Shape) -> np.ndarray:
    """Clear sky: path radiance that grows towards the ground, thin haze."""
    y = np.linspace(0, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-0.5, 0.5, shape[1], dtype=np.float32)[None, :]
    gradient = rng.uniform(0, 0.5) * y ** rng.uniform(0.7, 2.5) + rng.normal(0, 0.06) * x
    haze = rng.uniform(0.0, 0.05) * power_law(rng, shape, beta=rng.uniform(2.8, 3.6), stretch=rng.uniform(1, 3))
    return (0.2 + gradient + haze).astype(np.float32)


def cloud(rng: Rng, shape: Shape) -> np.ndarray:
    """Cloud banks over a sky: opacity by thickness, one side lit, ragged edges."""
    background = sky(rng, shape)
    thickness = power_law(rng, shape, beta=rng.uniform(2.9, 3.6), stretch=rng.uniform(1, 2.2))
    detail = power_law(rng, shape, beta=rng.uniform(2.0, 2.6), stretch=rng.uniform(1, 1.5))
    thickness += rng.uniform(0.05, 0.2) * detail
    depth = np.maximum(thickness - rng.uniform(-0.9, 0.9), 0)
    opacity = 1 - np.exp(-rng.uniform(0.8, 5) * depth)
    lit = np.zeros_like(thickness)
    step = int(rng.integers(2, 6))
    lit[step:, step:] = thickness[step:, step:] - thickness[:-step, :-step]
    lit *= rng.choice([-1, 1]) * rng.uniform(0.1, 0.5)
    bright = rng.uniform(0.25, 0.6) * rng.choice([1, 1, 1, 1, -0.4])
    body = bright * (1 + 0.4 * np.tanh(depth - 0.7)) + 0.1 * np.tanh(lit) + rng.uniform(0, 0.03) * detail
    return (background + opacity * body).astype(np.float32)


def sea(rng: Rng, shape: Shape) -> np.ndarray:
    """Waves that grow towards the viewer, glint, and mostly a horizon with sky or a coast above it."""
    height, width = shape
    horizon = rng.uniform(0.1, 0.6) * height if rng.random() < 0.7 else -rng.uniform(0.05, 1) * height
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :]
    y = np.arange(height, dtype=np.float32)[:, None]
    below = y - horizon - rng.normal(0, 0.015) * width * x
    near = np.clip(below / (height - min(horizon, 0)), 0, 1)

    fine = power_law(rng, shape, beta=rng.uniform(0.8, 1.4), stretch=rng.uniform(3, 6))
    coarse = power_law(rng, shape, beta=rng.uniform(1.6, 2.4), stretch=rng.uniform(2, 4))
    waves = (1 - near) * fine + (0.3 + near) * coarse
    glint = np.exp(-(((x - rng.uniform(-0.5, 0.5)) / rng.uniform(0.08, 0.4)) ** 2)) * rng.uniform(0, 0.35)
    swell = rng.uniform(0.01, 0.06) * (0.4 + near) * waves
    sparkle = glint * (0.25 + np.maximum(fine + coarse - rng.uniform(0.8, 2), 0) ** 2 * 0.25)
    water = rng.uniform(0.1, 0.4) + rng.uniform(-0.15, 0.15) * near + swell + sparkle

    above = sky(rng, shape) + rng.uniform(-0.1, 0.25)
    if rng.random() < 0.4:
        above = np.where(-below < _skyline(rng, width) * height, _coast(rng, shape), above)
    edge = np.clip(below + 0.5, 0, 1)
    return (edge * water + (1 - edge) * above).astype(np.float32)


def ground(rng: Rng, shape: Shape) -> np.ndarray:
    """Fields, vegetation, roads and buildings with hot edges, corners and windows; at times sky beyond a ridge."""
    height, width = shape
    relief = power_law(rng, shape, beta=rng.uniform(2.2, 3.0), stretch=rng.uniform(1, 3))
    patches = power_law(rng, shape, beta=3.2, stretch=rng.uniform(1, 3))
    level = rng.normal(0, 0.09) * np.tanh(rng.uniform(2, 12) * (patches - rng.normal(0, 0.5)))
    level += rng.normal(0, 0.07) * np.tanh(rng.uniform(2, 12) * (relief + patches - rng.normal(0, 0.7)))
    plants = power_law(rng, shape, beta=rng.uniform(0.9, 1.6), stretch=rng.uniform(1, 2))
    leafy = np.clip(patches + rng.normal(0, 0.5), 0, 1)
    scene = rng.uniform(0.25, 0.45) + 0.06 * relief + level + rng.uniform(0.02, 0.06) * leafy * plants

    y, x = np.ogrid[:height, :width]
    for _ in range(rng.integers(0, 3)):
        angle, tint = rng.uniform(0, np.pi), rng.normal(0, 0.12)
        across = np.cos(angle) * (x - rng.uniform(0, width)) + np.sin(angle) * (y - rng.uniform(0, height))
        across += 4 * np.sin(np.sin(angle) * x / 40 - np.cos(angle) * y / 40)
        scene += tint * np.clip(rng.uniform(1, 4) - np.abs(across) + 0.5, 0, 1)
    top = 0
    if rng.random() < 0.4:
        ridge = (rng.uniform(0.15, 0.45) - _skyline(rng, width)) * height
        scene = np.where(y < ridge, sky(rng, shape) + rng.uniform(-0.2, 0.1), scene)
        top = int(max(ridge.max(), 0))
    for _ in range(rng.integers(0, 9)):
        _building(rng, scene, top)
    return scene.astype(np.float32)


def _skyline(rng: Rng, width: int) -> np.ndarray:
    """Height of a distant ridge over each column, `(1, W)`, as a share of the frame's height; 0 or more."""
    walk = ndimage.gaussian_filter1d(np.cumsum(rng.normal(0, 1, width)), 2)
    walk -= walk.min()
    return (walk / max(walk.max(), 1e-6) * rng.uniform(0.02, 0.15))[None, :].astype(np.float32)


def _coast(rng: Rng, shape: Shape) -> np.ndarray:
    """Land across the water, with blocks of warm and cold houses."""
    blocks = np.repeat(rng.uniform(-0.15, 0.25, shape[1]), rng.integers(3, 14, shape[1]))[: shape[1]]
    return rng.uniform(0.3, 0.6) + blocks[None, :] + 0.05 * power_law(rng, shape, beta=1.5)


def _building(rng: Rng, scene: np.ndarray, top: int) -> None:
    """Draw a building below row `top`: walls, a roof edge, windows in rows, a hot corner and a vent."""
    height, width = scene.shape
    h, w = (int(rng.integers(6, max(7, side // 4))) for side in (height, width))
    y, x = int(rng.integers(top, max(top + 1, height - 4))), int(rng.integers(-w // 2, width - 4))
    walls = scene[y : y + h, max(x, 0) : max(x + w, 0)]
    if walls.size == 0:
        return
    walls[...] = rng.uniform(0.15, 0.75) + rng.uniform(0.1, 0.5) * (walls - walls.mean())
    walls[: int(rng.integers(1, 3))] += rng.uniform(0, 0.2)
    if rng.random() < 0.6:
        dy, dx = rng.integers(4, 9, 2)
        size_y, size_x = int(rng.integers(1, 3)), int(rng.integers(1, 4))
        lit = rng.normal(0, 0.15, (h // dy + 1, w // dx + 1)).astype(np.float32)
        for row in range(size_y):
            for col in range(size_x):
                window = walls[2 + row :: dy, 2 + col :: dx]
                window += lit[: window.shape[0], : window.shape[1]]
    corner = rng.uniform(0.1, 0.5)
    length = int(rng.integers(2, 7))
    walls[:1, :length] += corner
    walls[:length, :1] += corner
    vent_y, vent_x = int(rng.integers(walls.shape[0])), int(rng.integers(walls.shape[1]))
    walls[vent_y : vent_y + 1, vent_x : vent_x + int(rng.integers(2, 8))] += rng.uniform(0, 0.4)


SCENES: dict[str, Callable[[Rng, Shape], np.ndarray]] = {"sky": sky, "cloud": cloud, "sea": sea, "ground": ground}
