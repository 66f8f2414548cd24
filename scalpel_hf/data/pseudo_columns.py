"""The columns of pseudo labels, and the label of a row that training uses."""

from typing import Any

import datasets
import numpy as np

from scalpel_hf.modeling.frame_io import read_frame

from .masks import IGNORED, TARGET, read_row_mask
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
    return confidence > 255 * threshold


def png(array: np.ndarray) -> dict[str, Any]:
    """A uint8 array `(H, W)` as an undecoded cell of an `Image` column."""
    return {"bytes": encode_png(array), "path": None}


def training_mask(row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """
    The label that a row is trained with: target and weight of each pixel, `(H, W)` float32 each.

    - `label_source` is `human`: the person's mask with weight 1, or 0 on its pixels to ignore ([`read_mask`]).
    - `pseudo`: `pseudo_mask` with weight |2p − 1|, where p is `pseudo_confidence`: 0 where the teacher is undecided.
      Pixels above the teacher's threshold that `pseudo_mask` doesn't contain, because quality control rejected them,
      have weight 0.
    - else `None`.

    Raises `ValueError`, which names the row, if a `human` row has no mask.
    """
    if row["label_source"] == "human":
        if row["mask"] is None:
            raise ValueError(f"{row.get('name')}: `label_source` is human, but there is no mask")
        mask = read_row_mask(row)
        return (mask == TARGET).astype(np.float32), (mask != IGNORED).astype(np.float32)
    if row["label_source"] == "pseudo":
        confidence = read_frame(row["pseudo_confidence"])
        target = (read_row_mask(row, "pseudo_mask") == TARGET).astype(np.float32)
        weight = np.abs(2 * (confidence.astype(np.float32) / 255) - 1)
        weight[is_above(confidence, row["teacher"]["threshold"]) & (target == 0)] = 0
        return target, weight
    return None
