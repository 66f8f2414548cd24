"""Synthetic infrared frames with small targets, by a model of scene, optics and sensor."""

from typing import Any

import numpy as np
from datasets import Dataset
from scipy import ndimage

from .objects import encode_png, objects_from_mask
from .rows import rows_to_dataset
from .scenes import SCENES

OVERSAMPLING = 5
ADC_CEILING = {8: 255, 16: 16383}  # thermal cameras digitise 14 bits into 16


class SyntheticInfrared:
    """
    Seeded generator of infrared frames with targets of a few pixels and their exact masks.

    A frame is `gain · (scene ∗ PSF + Σ A·target ∗ PSF + noise) + offset`, rounded:

    - scene: correlated noise of several power spectra shaped into sky, cloud, sea or ground ([`scenes`]), with edges,
      horizons and bright clutter;
    - targets: ellipses of `extent` pixels along the longer axis at sub-pixel positions, blurred by the Gaussian point
      spread function and integrated over each pixel; A, the highest pixel of the blurred target, is SNR · σ, where σ²
      is the variance of scene and noise in the window of 8 pixels around the target;
    - noise: shot noise of the photo-electrons, read noise, and a fixed pattern of columns, rows and pixels which, as
      in a camera, is the same in all frames of a generator, up to its strength;
    - gain and offset are random for each frame; no pixel saturates.

    The mask has the pixels where the noiseless target exceeds half of its highest pixel, which is at least one pixel.

    A frame depends only on `seed`, its index and the settings, not on frames generated before.

    Args:
        size (`tuple[int, int]`): height and width, at least 32.
        n_targets (`tuple[int, int]`): fewest and most targets in a frame. There are fewer if there is no room for a
            distance of 6 pixels between them.
        extent (`tuple[float, float]`): length of a target in pixels before blur.
        snr (`tuple[float, float]`): contrast of a target in local standard deviations.
        psf_sigma (`tuple[float, float]`): standard deviation of the point spread function in pixels.
        bit_depth (`int`): 8 or 16.
        background (`str`, *optional*): `"sky"`, `"cloud"`, `"sea"` or `"ground"`. Default: a random one for each frame.
        seed (`int`): seed, at least 0.

    Raises `ValueError` if a setting is out of its range.

    Examples:
        >>> frame = SyntheticInfrared(size=(64, 96), bit_depth=16).frame(0)
        >>> frame["image"].shape, frame["image"].dtype, frame["mask"].shape
        ((64, 96), dtype('uint16'), (64, 96))
    """

    def __init__(
        self,
        size: tuple[int, int] = (256, 256),
        n_targets: tuple[int, int] = (0, 3),
        extent: tuple[float, float] = (1, 9),
        snr: tuple[float, float] = (3, 12),
        psf_sigma: tuple[float, float] = (0.6, 1.2),
        bit_depth: int = 8,
        background: str | None = None,
        seed: int = 0,
    ) -> None:
        if min(size) < 32:
            raise ValueError(f"size must be at least (32, 32), not {size}")
        if bit_depth not in ADC_CEILING:
            raise ValueError(f"bit_depth must be 8 or 16, not {bit_depth}")
        if background is not None and background not in SCENES:
            raise ValueError(f"background must be one of {', '.join(SCENES)} or None, not {background!r}")
        limits = {"n_targets": (n_targets, 0), "extent": (extent, 1), "snr": (snr, 0), "psf_sigma": (psf_sigma, 0.3)}
        for name, ((low, high), least) in limits.items():
            if not least <= low <= high:
                raise ValueError(f"{name} must be (low, high) with {least} ≤ low ≤ high, not {(low, high)}")
        if extent[1] > min(size) / 3:
            raise ValueError(f"extent must be at most a third of the frame, not {extent[1]} of {min(size)} pixels")
        if seed < 0:
            raise ValueError(f"seed must not be negative, it is {seed}")
        self.size = size
        self.n_targets = n_targets
        self.extent = extent
        self.snr = snr
        self.psf_sigma = psf_sigma
        self.bit_depth = bit_depth
        self.background = background
        self.seed = seed
        camera = np.random.default_rng([seed])
        self._columns = camera.standard_normal((1, size[1]), dtype=np.float32)
        self._rows = camera.standard_normal((size[0], 1), dtype=np.float32)
        self._pixels = camera.standard_normal(size, dtype=np.float32)

    def frame(self, index: int) -> dict[str, Any]:
        """
        Generate frame number `index`, at least 0.

        Returns:
            `dict`: `name`; `image`, `(H, W)` uint8 or uint16; `mask`, `(H, W)` uint8 of 0 and 255; `background`;
            `targets`, a list with `x`, `y` (centre in pixels, pixel centres at whole numbers), `extent` and `snr` of
            each.
        """
        rng = np.random.default_rng([self.seed, index])
        background = self.background or str(rng.choice(list(SCENES)))
        psf = rng.uniform(*self.psf_sigma)
        scene = ndimage.gaussian_filter(SCENES[background](rng, self.size), psf, mode="nearest", truncate=3)

        well = np.exp(rng.uniform(np.log(6e3), np.log(1e5)))  # electrons at radiance 1
        read_noise = rng.uniform(10, 80)  # electrons
        electrons = well * np.maximum(0.3 + 0.7 * scene, 0.05)  # 0.3 is the radiance of the warm optics
        temporal = np.sqrt(electrons.mean() + read_noise**2)
        columns, rows, pixels = temporal * rng.uniform(0, (0.6, 0.3, 0.5))
        fixed = columns * self._columns + rows * self._rows + pixels * self._pixels
        noise_variance = temporal**2 + columns**2 + rows**2 + pixels**2

        mask = np.zeros(self.size, np.uint8)
        targets: list[dict[str, float]] = []
        for _ in range(rng.integers(self.n_targets[0], self.n_targets[1] + 1)):
            target = self._place(rng, targets)
            if target is None:
                break
            profile, window = _render_target(rng, target, psf=psf, size=self.size)
            y, x = round(target["y"]), round(target["x"])
            reach = round(target["extent"] / 2) + 8
            local = electrons[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
            electrons[window] += profile * (target["snr"] * np.sqrt(local.var() + noise_variance))
            mask[window][profile > 0.5] = 255
            targets.append(target)

        noise = rng.standard_normal(self.size, dtype=np.float32) * np.sqrt(electrons + read_noise**2)
        image = self._digitise(rng, electrons + noise + fixed, temporal)
        name = f"synthetic-{index:06d}"
        return {"name": name, "image": image, "mask": mask, "background": background, "targets": targets}

    def to_dataset(self, n: int, start: int = 0) -> Dataset:
        """Frames `start` to `start + n - 1` with the features of [`load_irst_dataset`]."""
        rows = []
        for index in range(start, start + n):
            frame = self.frame(index)
            name, mask = frame["name"], frame["mask"]
            rows.append(
                {
                    "name": name,
                    "image": {"bytes": encode_png(frame["image"]), "path": f"{name}.png"},
                    "mask": {"bytes": encode_png(mask), "path": f"{name}.png"},
                    "objects": objects_from_mask(mask),
                    "width": mask.shape[1],
                    "height": mask.shape[0],
                }
            )
        return rows_to_dataset(rows)

    def _place(self, rng: np.random.Generator, others: list[dict[str, float]]) -> dict[str, float] | None:
        """A random target inside the frame, at least 6 pixels from the others; `None` if 50 attempts find no room."""
        extent, snr = rng.uniform(*self.extent), rng.uniform(*self.snr)
        border = extent / 2 + 2
        for _ in range(50):
            y, x = (rng.uniform(border, side - 1 - border) for side in self.size)
            if all(np.hypot(y - o["y"], x - o["x"]) > (extent + o["extent"]) / 2 + 6 for o in others):
                return {"x": x, "y": y, "extent": extent, "snr": snr}
        return None

    def _digitise(self, rng: np.random.Generator, electrons: np.ndarray, noise: float) -> np.ndarray:
        """Convert electrons to grey levels: the scene fills a random part of the range, and noise is limited."""
        ceiling = ADC_CEILING[self.bit_depth]
        low, high = float(electrons.min()), float(electrons.max())
        share, start = (
            rng.uniform((0.25, 0.02), (0.95, 0.3)) if self.bit_depth == 8 else rng.uniform((0.02, 0.1), (0.3, 0.6))
        )
        gain = min(share * ceiling / (high - low), rng.uniform(0.01, 0.025) * ceiling / noise)
        offset = min(start * ceiling, ceiling - gain * (high - low))
        levels = np.rint((electrons - low) * gain + offset)
        return levels.astype(np.uint8 if self.bit_depth == 8 else np.uint16)


def _render_target(
    rng: np.random.Generator, target: dict[str, float], psf: float, size: tuple[int, int]
) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Render a target: its pixels `(h, w)`, with a maximum of 1, and their window (rows, columns) in the frame."""
    reach = int(np.ceil(target["extent"] / 2 + 3 * psf)) + 1
    y, x = round(target["y"]), round(target["x"])
    grid = (np.arange((2 * reach + 1) * OVERSAMPLING) + 0.5) / OVERSAMPLING - reach - 0.5
    dy, dx = grid[:, None] - (target["y"] - y), grid[None, :] - (target["x"] - x)
    angle, aspect = rng.uniform(0, np.pi), rng.uniform(1, 1.8)
    along, across = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
    half = target["extent"] / 2
    body = (along**2 + (across * aspect) ** 2 <= half**2).astype(np.float32)
    fine = ndimage.gaussian_filter(body, psf * OVERSAMPLING, truncate=3)
    pixels = fine.reshape(2 * reach + 1, OVERSAMPLING, 2 * reach + 1, OVERSAMPLING).mean(axis=(1, 3))
    rows = slice(max(y - reach, 0), min(y + reach + 1, size[0]))
    cols = slice(max(x - reach, 0), min(x + reach + 1, size[1]))
    seen = pixels[rows.start - y + reach : rows.stop - y + reach, cols.start - x + reach : cols.stop - x + reach]
    return seen / seen.max(), (rows, cols)
