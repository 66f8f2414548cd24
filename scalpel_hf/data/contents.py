"""What rows and frames hold, as hashes: the same for the same content, wherever and in whatever file it is kept."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import datasets
import numpy as np
from PIL import Image

from scalpel_hf.modeling.frame_io import read_frame

from .image_cells import cell_content, undecoded

LOOK_ALIKE = 12  # of 64 bits: fewer differ between two files of one frame, about 32 between two frames


def hash_rows(rows: datasets.Dataset | Iterable[dict[str, Any]]) -> str:
    """
    Hash of all columns of rows, in their order; of images, of their files' bytes.

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
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        try:
            return cell_content(value)
        except (OSError, ValueError):  # whoever needs the image says what is wrong with it
            return repr(value).encode()
    return json.dumps(value, sort_keys=True, default=str).encode()


class FrameKey(NamedTuple):
    """
    What a frame is known by.

    Args:
        name: in its data set.
        pixels: hash of its size and values; another file of the same values has the same.
        look: difference hash of 64 bits, hexadecimal: whether it is brighter to the right, on a grid of 8 × 8. It
            survives other sizes, bit depths and lossy files, and tells two frames of one name apart.

    Source of the difference hash: Krawetz, "Kind of Like That", 2013.
    """

    name: str
    pixels: str
    look: str

    @classmethod
    def of(cls, name: str, image: Any) -> "FrameKey":
        """Of whatever [`read_frame`] takes; `ValueError` naming the frame where it can't be read."""
        try:
            frame = read_frame(image).astype(np.float32)
        except (OSError, ValueError) as error:
            raise ValueError(f"the frame {name} can't be read: {error}") from error
        pixels = hashlib.sha256(f"{frame.shape}".encode() + frame.tobytes()).hexdigest()[:16]
        small = np.asarray(Image.fromarray(frame).resize((9, 8), Image.Resampling.BOX))
        return cls(name, pixels, np.packbits(np.diff(small, axis=1) > 0).tobytes().hex())

    def looks_like(self, look: str) -> bool:
        return (int(self.look, 16) ^ int(look, 16)).bit_count() < LOOK_ALIKE
