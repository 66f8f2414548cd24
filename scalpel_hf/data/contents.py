"""Hashes of rows and frames by content, independent of files and their format."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import datasets
import numpy as np
from PIL import Image

from scalpel_hf.modeling.frame_io import read_frame

from .image_cells import cell_content, undecoded

LOOK_ALIKE = 12  # of 64 bits: fewer differ between versions of one frame, about 32 between different frames


def hash_rows(rows: datasets.Dataset | Iterable[dict[str, Any]]) -> str:
    """
    Hash of all columns of all rows, in their order; of images, the files' bytes are hashed.

    Args:
        rows: a `Dataset`, or rows with undecoded images.
    """
    digest = hashlib.sha256()
    for row in undecoded(rows).with_format(None) if isinstance(rows, datasets.Dataset) else rows:
        for column, value in sorted(row.items()):
            content = _content(value)
            digest.update(f"{column} {len(content)} ".encode())
            digest.update(content)
        digest.update(b"\n")
    return digest.hexdigest()[:32]


def _content(value: Any) -> bytes:
    """The bytes of a value: an image's file, or JSON for others."""
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        try:
            return cell_content(value)
        except (OSError, ValueError):  # the error is raised when the image is read
            return repr(value).encode()
    return json.dumps(value, sort_keys=True, default=str).encode()


class FrameKey(NamedTuple):
    """
    The identity of a frame, to recognise it in other data sets.

    Args:
        name: in its data set.
        pixels: hash of its size and pixel values.
        look: perceptual hash (difference hash) of 64 bits, hexadecimal. It hardly changes with size, bit depth and
            lossy compression, and tells different frames with the same name apart.

    Source of the difference hash: Krawetz, "Kind of Like That", 2013.
    """

    name: str
    pixels: str
    look: str

    @classmethod
    def of(cls, name: str, image: Any) -> "FrameKey":
        """The key of a frame (path, image, array or cell); `ValueError`, which names it, if it can't be read."""
        try:
            frame = read_frame(image).astype(np.float32)
        except (OSError, ValueError) as error:
            raise ValueError(f"the frame {name} can't be read: {error}") from error
        pixels = hashlib.sha256(f"{frame.shape}".encode() + frame.tobytes()).hexdigest()[:16]
        small = np.asarray(Image.fromarray(frame).resize((9, 8), Image.Resampling.BOX))
        return cls(name, pixels, np.packbits(np.diff(small, axis=1) > 0).tobytes().hex())

    def looks_like(self, look: str) -> bool:
        """Whether another frame's `look` is similar."""
        return (int(self.look, 16) ^ int(look, 16)).bit_count() < LOOK_ALIKE
