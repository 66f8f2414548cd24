"""Splits of a person's own frames: whole recordings are held out, for frames of one recording are near each other."""

from collections.abc import Mapping

import numpy as np
from datasets import Dataset, DatasetDict

from .label_sources import HUMAN

TRAIN = "train"


def split_by_recording(rows: Dataset, shares: Mapping[str, float], seed: int = 0) -> tuple[DatasetDict, int]:
    """
    Hold shares of the frames with a person's mask out, as `validation` and `test`.

    A recording, as the column `recording` names it, is in one split alone; a frame that is of none counts as one of its
    own. The other splits hold frames with a mask only, since nothing is measured on others; those of their recordings
    that have none are in no split.

    Args:
        rows: with `recording`, if their frames are of recordings, and `label_source`, if not all are labelled.
        shares: of the frames with a mask, by split; what is left is `train`. Splits of share 0 are not made.
        seed: of the draw.

    Returns the splits, and how many frames are in none.

    Raises `ValueError` where there is no mask, or those that there are come from too few recordings for so many splits.
    """
    wanted = {split: share for split, share in shares.items() if share}
    if sum(wanted.values()) >= 1:
        raise ValueError(f"shares of {', '.join(f'{s:g}' for s in wanted.values())} leave nothing to train on")
    groups = recordings_of(rows)
    sources = rows["label_source"][:] if "label_source" in rows.column_names else [HUMAN] * len(rows)
    masked = [source == HUMAN for source in sources]
    if wanted and not any(masked):
        raise ValueError("no frame has a person's mask, and boxes and points are not measured on: hold out none")
    place = _draw(groups, masked, wanted, seed)
    parts: dict[str, list[int]] = {TRAIN: [], **{split: [] for split in wanted}}
    for index, (group, has_mask) in enumerate(zip(groups, masked, strict=True)):
        split = place.get(group, TRAIN)
        if split == TRAIN or has_mask:
            parts[split].append(index)
    splits = DatasetDict({split: rows.select(indices) for split, indices in parts.items()})
    return splits, len(rows) - sum(map(len, parts.values()))


def recordings_of(rows: Dataset) -> list[str]:
    """What each frame must not be parted from: its recording's name, or, of a frame that is of none, one of its own."""
    recordings = rows["recording"][:] if "recording" in rows.column_names else [""] * len(rows)
    return [recording or f"\0{index}" for index, recording in enumerate(recordings)]


def _draw(groups: list[str], masked: list[bool], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """The split of each group that is held out."""
    counts: dict[str, int] = {}
    for group, has_mask in zip(groups, masked, strict=True):
        if has_mask:
            counts[group] = counts.get(group, 0) + 1
    if shares and len(counts) <= len(shares):
        raise ValueError(
            f"the {sum(masked)} frames with a mask come from {len(counts)} recordings, of which {len(shares)} splits "
            "besides `train` can't be held out: mask frames of further recordings, or hold out fewer splits"
        )
    order = list(counts)
    np.random.default_rng(seed).shuffle(order)
    place: dict[str, str] = {}
    for later, (split, share) in zip(range(len(shares), 0, -1), shares.items(), strict=True):
        held = 0
        while len(order) > later and (not held or held < round(share * sum(masked))):  # one stays for each split
            group = order.pop()
            place[group] = split
            held += counts[group]
    return place
