"""Pictures of frames, priors, routers and predictions, by Pillow alone."""

from collections.abc import Mapping

import numpy as np
from PIL import Image
from scipy import ndimage

Color = tuple[int, int, int]

GREEN, RED = (60, 220, 90), (255, 70, 60)
# Told apart by readers who don't see red and green alike: after Okabe and Ito.
EXPERT_COLORS: dict[str, Color] = {
    "local_contrast": (240, 228, 66),
    "top_hat": (0, 114, 178),
    "matched_filter": (213, 94, 0),
    "anisotropic_diffusion": (86, 180, 233),
    "none": (225, 225, 225),
}


def gray(values: np.ndarray) -> Image.Image:
    """A map `(H, W)` stretched from its 1st to its 99.9th percentile."""
    low, high = np.percentile(values, [1, 99.9])
    scaled = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    return Image.fromarray((255 * scaled).astype(np.uint8)).convert("RGB")


def outline(frame: np.ndarray, mask: np.ndarray, color: Color) -> Image.Image:
    """A frame with a line just outside each component of a mask, so that the smallest target stays visible."""
    image = np.array(gray(frame))
    near, far = (ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=i) for i in (1, 2))
    image[far & ~near] = color
    return Image.fromarray(image)


def level(probability: np.ndarray) -> Image.Image:
    """A map `(H, W)` of probabilities, black at 0 and white at 1."""
    return Image.fromarray(np.rint(255 * probability).astype(np.uint8)).convert("RGB")


def strongest_expert(weights: Mapping[str, np.ndarray]) -> Image.Image:
    """
    A router's choice: each pixel in the colour of the expert with the largest weight there.

    Args:
        weights: maps `(H, W)` by the experts' names, keys of `EXPERT_COLORS`. What they lack of 1 is *none*'s.
    """
    maps = {**weights, "none": 1 - sum(weights.values())}
    colors = np.array([EXPERT_COLORS[name] for name in maps], np.uint8)
    return Image.fromarray(colors[np.argmax(np.stack([np.asarray(m) for m in maps.values()]), axis=0)])
