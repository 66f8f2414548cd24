"""Reads the stored pixel values of masks, without interpreting them."""

import os
from dataclasses import dataclass

import numpy as np
from PIL import Image

from scalpel_hf.modeling.frame_io import ImageLike, open_image, read_frame

COLOUR = 1 << 24  # added to the 24 bits of a pixel that is not gray
LOSSY = ("JPEG", "MPO", "WEBP", "JPEG2000")  # their compression blurs edges


@dataclass(frozen=True)
class Pixels:
    """A mask's `values` `(H, W)`; whether they are palette indices; whether the file's compression is lossy."""

    values: np.ndarray
    indexed: bool = False
    lossy: bool = False

    def exact(self) -> np.ndarray:
        """The values; for lossy files thresholded at 127 to 0 and 255, if any is above that."""
        blurred = self.lossy and (self.values > 127).any()
        return np.where(self.values > 127, 255, 0) if blurred else self.values


def mask_pixels(source: ImageLike) -> Pixels:
    """The pixels of a mask from a path, image, array or cell; raises as `read_frame`."""
    frame = read_frame(source)
    if isinstance(source, dict):
        source = source["path"] if source.get("bytes") is None else source["bytes"]
    if isinstance(source, Image.Image | bytes | str | os.PathLike):
        with open_image(source) as image:
            return _image_pixels(image, frame)
    array = source if isinstance(source, np.ndarray) else frame
    if array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8:
        colours = _color_values(array[..., :3])
        return _rgba_pixels(Pixels(colours), array[..., 3]) if array.shape[2] == 4 else Pixels(colours)
    return Pixels(frame)


def _image_pixels(image: Image.Image, frame: np.ndarray) -> Pixels:
    """The pixels of an open image; `frame` is the same image, read by `read_frame`."""
    lossy = image.format in LOSSY
    alpha = image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info
    if alpha and image.mode not in ("1", "L", "I;16", "I", "F"):
        rgba = np.asarray(image.convert("RGBA"))
        colours = Pixels(frame, lossy=True) if lossy else Pixels(_color_values(rgba[..., :3]))
        return _rgba_pixels(colours, rgba[..., 3])
    if lossy:
        return Pixels(frame, lossy=True)
    if image.mode == "P":
        return _palette_pixels(np.asarray(image), image)
    return Pixels(_color_values(np.asarray(image)) if image.mode == "RGB" else frame)


def _palette_pixels(places: np.ndarray, image: Image.Image) -> Pixels:
    """Apply a palette of grays; with other colours, the indices are the values. An error if 0 isn't black."""
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    palette = np.pad(palette, ((0, 256 - len(palette)), (0, 0)))
    used = palette[np.unique(places)]
    if (used == used[:, :1]).all():
        return Pixels(palette[places, 0])
    if palette[0].any():
        raise ValueError(
            "its palette's entry 0 isn't black, so the meaning of its indices is unknown: store it as a gray image"
        )
    return Pixels(places, indexed=True)


def _rgba_pixels(colours: Pixels, alpha: np.ndarray) -> Pixels:
    """The pixels of a mask with an alpha channel: its `colours`, or its alpha if all colours are equal."""
    shown = colours.values > 127 if colours.lossy else colours.values  # lossy colours are nowhere quite equal
    if alpha.any() and ((alpha == alpha[0, 0]).all() or ((shown > 0) == (alpha > 0)).all()):
        return colours
    if (shown == shown[0, 0]).all():  # where alpha is 0 everywhere too, there is no target
        return Pixels(alpha, lossy=colours.lossy)
    raise ValueError("its colours and its alpha channel differ: store the mask as one channel")


def _color_values(rgb: np.ndarray) -> np.ndarray:
    """Values of an RGB mask `(H, W, 3)`: the gray level, or `COLOUR + 0xRRGGBB` for other colours."""
    gray = (rgb == rgb[..., :1]).all(-1)
    if gray.all():
        return rgb[..., 0]
    packed = COLOUR + (rgb.astype(np.int64) << np.array([16, 8, 0])).sum(-1)
    return np.where(gray, rgb[..., 0], packed)
