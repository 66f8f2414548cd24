"""Pictures of frames, operators' maps and predictions."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from scalpel_hf.modeling.configuration_experts import OPERATOR_SCALES
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.modeling.image_processing_infrared import normalize_frame
from scalpel_hf.modeling.moe import PriorPyramid

Color = tuple[int, int, int]

GREEN, RED, YELLOW, BLUE = (60, 220, 90), (255, 70, 60), (250, 210, 40), (90, 170, 255)


def gray(values: np.ndarray) -> Image.Image:
    """A map `(H, W)` as an RGB image of grays: black is its 1st percentile and white its 99.9th."""
    low, high = np.percentile(values, [1, 99.9])
    scaled = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    return Image.fromarray((255 * scaled).astype(np.uint8)).convert("RGB")


def outline(frame: np.ndarray, mask: np.ndarray, color: Color, width: int = 1) -> Image.Image:
    """
    A frame `(H, W)` as RGB image, with a line of `width` pixels around each component of a mask `(H, W)` bool.

    The line lies just outside of the component, so that the smallest target stays visible.
    """
    image = np.array(gray(frame))
    draw_outline(image, mask, color, width=width)
    return Image.fromarray(image)


def draw_outline(image: np.ndarray, mask: np.ndarray, color: Color, distance: int = 1, width: int = 1) -> None:
    """Draw a line into an image `(H, W, 3)`, `distance` pixels outside each component of a mask `(H, W)` bool."""
    near, far = (ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=i) for i in (distance, distance + width))
    image[far & ~near] = color


def fill_boxes(boxes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """
    The pixels inside of boxes `(N, 4)`, (x0, y0, x1, y1), as `(H, W)` bool. Each box has at least one pixel.

    Examples:
        >>> fill_boxes(np.array([[1, 0, 3, 1]]), (2, 3)).astype(int)
        array([[0, 1, 1],
               [0, 0, 0]])
    """
    mask = np.zeros(shape, bool)
    for x0, y0, x1, y1 in np.rint(boxes).astype(int).clip(0):
        mask[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = True
    return mask


def mark_targets(model: Any, image: Any, threshold: float = 0.5) -> np.ndarray:
    """A model's prediction for a frame as `(H, W)` bool: its mask, or the pixels inside a detector's boxes."""
    if hasattr(model, "probabilities"):
        return model.probabilities(image) > threshold
    return fill_boxes(model.detect(image, threshold)[1], read_frame(image).shape)


def level(probability: np.ndarray) -> Image.Image:
    """A map `(H, W)` of probabilities as an RGB image of grays: black is 0 and white is 1."""
    return Image.fromarray(np.rint(255 * probability).astype(np.uint8)).convert("RGB")


def operator_maps(frame: np.ndarray) -> dict[str, Image.Image]:
    """A picture of each untrained operator's response to a frame `(H, W)`, by the operator's name; at each pixel, the
    maximum over the operator's scales."""
    pyramid = PriorPyramid(OPERATOR_SCALES)
    with torch.no_grad():
        maps, _ = pyramid(normalize_frame(torch.from_numpy(frame))[None, None])
    return {
        name.replace("_", " "): gray(scales[0].amax(0).clamp(min=0).numpy())
        for name, scales in zip(pyramid.num_maps, maps, strict=True)
    }


def side_by_side(pictures: Iterable[Image.Image], side: int = 256, gap: int = 6) -> Image.Image:
    """Pictures in a row, each resized without smoothing to fit a square of `side` pixels, and `gap` pixels apart."""
    small = [picture.resize(_fitted(picture, side), Image.Resampling.NEAREST) for picture in pictures]
    row = Image.new("RGB", (max(1, len(small) * (side + gap) - gap), side), "white")
    for place, picture in enumerate(small):
        row.paste(picture, (place * (side + gap), 0))
    return row


def _fitted(picture: Image.Image, side: int) -> tuple[int, int]:
    scale = side / max(picture.size)
    return max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
