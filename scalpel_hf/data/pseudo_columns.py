"""The columns of pseudo labels."""

from typing import Any

import datasets
import numpy as np

from .objects import encode_png

PSEUDO_FEATURES = {
    "pseudo_mask": datasets.Image(),
    "pseudo_confidence": datasets.Image(),
    "pseudo_objects": {
        "bbox": datasets.List(datasets.List(datasets.Value("float32"))),
        "area": datasets.List(datasets.Value("float32")),
        "score": datasets.List(datasets.Value("float32")),
    },
    "pseudo_score": datasets.Value("float32"),
    "teacher": {
        "repo": datasets.Value("string"),
        "revision": datasets.Value("string"),
        "fingerprint": datasets.Value("string"),
        "threshold": datasets.Value("float64"),
        "version": datasets.Value("string"),
    },
}


def is_above(confidence: np.ndarray, threshold: float) -> np.ndarray:
    """Where a soft mask of 8 bits (uint8, 255 is probability 1) exceeds a probability."""
    return confidence > 255 * float(threshold)  # rows in torch's format have tensors


def png(array: np.ndarray) -> dict[str, Any]:
    """A uint8 array `(H, W)` as an undecoded cell of an `Image` column."""
    return {"bytes": encode_png(array), "path": None}
