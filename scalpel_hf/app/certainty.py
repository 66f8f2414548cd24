"""Computes how certain a teacher's label of a frame is, so that people review the least certain first."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
from scipy import ndimage

from scalpel_hf.data.label_sources import BY_PEOPLE
from scalpel_hf.data.masks import TARGET, read_row_mask
from scalpel_hf.data.pseudo_columns import is_above
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.utils.files import write_json
from scalpel_hf.utils.reading import read_json

BORDER = 3  # pixels around an object that count as its soft edge, not as background
CERTAINTY_FILE = "certainty.json"


def certainty(row: dict[str, Any]) -> float:
    """
    The certainty of a frame's pseudo label, from 0 (undecided) to 1: the smallest |2p − 1|.

    p is the score of each accepted object, and the highest probability of a target in the background away from these.
    The certainty is 0 where quality control rejected an object, and 1 where there is no prediction to check.

    Args:
        row: with the columns of pseudo labels.
    """
    if row["pseudo_confidence"] is None or row["teacher"] is None:
        return 1.0
    confidence = read_frame(row["pseudo_confidence"])
    taken = target_of(row, confidence.shape)
    around = ndimage.binary_dilation(taken, np.ones((3, 3)), iterations=BORDER) if taken.any() else taken
    elsewhere = int(np.max(confidence, where=~around, initial=0))
    if (is_above(confidence, row["teacher"]["threshold"]) & ~taken).any():
        return 0.0
    scores = row["pseudo_objects"]["score"] if row["pseudo_objects"] else []
    return min(abs(2 * p - 1) for p in (*scores, elsewhere / 255))


def target_of(row: dict[str, Any], size: tuple[int, ...]) -> np.ndarray:
    """The target pixels of a row's pseudo label, `(H, W)` bool; all false where it has no mask."""
    return np.zeros(size, bool) if row["pseudo_mask"] is None else read_row_mask(row, "pseudo_mask") == TARGET


def rank(rows: datasets.Dataset, folder: Path) -> list[tuple[int, float]]:
    """
    Row index and certainty of each frame that people have not labelled, least certain first.

    Args:
        rows: with the columns of pseudo labels.
        folder: in which the result is kept, so that it is computed only once.
    """
    path = folder / CERTAINTY_FILE
    kept = read_json(path) if path.exists() else {}
    if kept.get("data_set") != rows._fingerprint:
        places = [i for i, source in enumerate(rows["label_source"]) if source not in BY_PEOPLE]
        wanted = rows.select_columns(["pseudo_confidence", "pseudo_mask", "pseudo_objects", "teacher"])
        kept = {"data_set": rows._fingerprint, "frames": [[i, round(certainty(wanted[i]), 4)] for i in places]}
        write_json(path, kept)
    return sorted(((index, sure) for index, sure in kept["frames"]), key=lambda pair: (pair[1], pair[0]))
