"""The columns that a teacher's labels make in a data set, and the view that says which label of a row counts."""

import io
from typing import Any

import datasets
import numpy as np
from PIL import Image

from scalpel_hf.data.masks import IGNORED, TARGET, read_row_mask
from scalpel_hf.modeling.image_processing_infrared import read_frame

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
    """Where a soft mask of 8 bits, uint8, exceeds a probability."""
    return confidence > 255 * threshold


def png(array: np.ndarray) -> dict[str, Any]:
    """An array `(H, W)` of 8 bits as an undecoded cell of an image column."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def training_mask(row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """
    The label of a row that counts, as target and weight `(H, W)` float32; `None` where there is none.

    A human's mask weighs 1, and 0 where it leaves pixels open ([`read_mask`]). A pseudo label's pixel weighs its
    confidence, |2p − 1|: a pixel about which the teacher is undecided is left out. So is, with weight 0, what the
    teacher took for target (`pseudo_confidence` above its threshold) and quality control did not (`pseudo_mask` is 0):
    it is neither target nor background.
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
