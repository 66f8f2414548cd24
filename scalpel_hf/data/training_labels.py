"""The label of a row that training uses: a target and a weight for each pixel."""

from typing import Any

import numpy as np

from scalpel_hf.modeling.frame_io import read_frame

from .masks import IGNORED, TARGET, read_row_mask
from .pseudo_columns import is_above


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
