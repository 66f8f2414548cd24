"""Splits of frames into training, validation and test. Recordings are never divided: their frames are similar."""

from collections.abc import Mapping

import numpy as np
from datasets import Dataset, DatasetDict

from .label_sources import BOX, BY_PEOPLE, HUMAN, POINT

TRAIN = "train"
LEAST_MASKS = 12  # fewer masks give no reliable IoU


def kinds_to_measure(rows: Dataset) -> tuple[str, ...]:
    """
    Values of `label_source` whose frames are held out for evaluation.

    These are masks. If fewer than `LEAST_MASKS` masks have a target, and there are boxes or points too, they are all
    labels by people, and the evaluation uses boxes.
    """
    if "label_source" not in rows.column_names:
        return (HUMAN,)
    sources = rows["label_source"][:]
    objects = rows["objects"][:] if "objects" in rows.column_names else [{"bbox": [True]}] * len(rows)
    masks = sum(source == HUMAN and bool(found["bbox"]) for source, found in zip(sources, objects, strict=True))
    return (HUMAN,) if masks >= LEAST_MASKS or {BOX, POINT}.isdisjoint(sources) else BY_PEOPLE


def split_by_recording(rows: Dataset, shares: Mapping[str, float], seed: int = 0) -> tuple[DatasetDict, int]:
    """
    Split frames into `train` and splits for evaluation, such as `validation` and `test`.

    All frames of a recording, by the column `recording`, are in the same split; a frame of no recording counts as a
    recording of its own. Splits for evaluation have only frames with a label of [`kinds_to_measure`]; the other frames
    of their recordings are in no split.

    Args:
        rows: with a column `recording` if frames are of recordings, and `label_source` if not all have a mask.
        shares: for each split for evaluation its share of the labelled frames. A split of share 0 is left out.
        seed: of the draw.

    Returns the splits, and the number of frames that are in none.

    Raises `ValueError` if the shares leave nothing for `train`, if there is no label, or if the labelled frames come
    from fewer recordings than there are splits.
    """
    wanted = {split: share for split, share in shares.items() if share}
    if sum(wanted.values()) >= 1:
        raise ValueError(f"shares of {', '.join(f'{s:g}' for s in wanted.values())} leave nothing to train on")
    groups = recordings_of(rows)
    sources = rows["label_source"][:] if "label_source" in rows.column_names else [HUMAN] * len(rows)
    kinds = kinds_to_measure(rows)
    labelled = [source in kinds for source in sources]
    if wanted and not any(labelled):
        raise ValueError("no frame has a person's label to measure by: hold out none")
    place = _draw_splits(groups, labelled, shares=wanted, seed=seed)
    parts: dict[str, list[int]] = {TRAIN: [], **{split: [] for split in wanted}}
    for index, (group, is_labelled) in enumerate(zip(groups, labelled, strict=True)):
        split = place.get(group, TRAIN)
        if split == TRAIN or is_labelled:
            parts[split].append(index)
    splits = DatasetDict({split: rows.select(indices) for split, indices in parts.items()})
    return splits, len(rows) - sum(map(len, parts.values()))


def train_val_split(rows: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """
    Split rows into training and validation rows. The latter are `fraction` of the rows with a person's mask.

    Whole recordings (and frames of no recording) are drawn for validation, as near to that share as they come; their
    rows without a mask are in neither part. The draw doesn't depend on the order of rows. Training rows with a mask
    come first. With a fraction of 0 there are no validation rows.

    Raises `ValueError` if `fraction` is not in [0, 1), or leaves no mask for one of the parts, or none with a target to
    validate with.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"`validation_fraction` must be at least 0 and below 1, got {fraction}")
    has_mask = np.array(rows["label_source"][:]) == HUMAN
    names = np.array([recording or name for recording, name in zip(_recordings(rows), rows["name"][:], strict=True)])
    masks = int(has_mask.sum())
    units, counts = np.unique(names[has_mask], return_counts=True)
    order = units[np.random.default_rng(seed).permutation(len(units))].tolist()
    wanted = round(fraction * masks)
    drawn = _nearest_to(wanted, dict(zip(units.tolist(), counts.tolist(), strict=True)), order) if wanted else []
    held = np.isin(names, drawn)
    if fraction and not 0 < (held & has_mask).sum() < masks:
        of = f", of {len(units)} recordings," if len(units) < masks else ""
        raise ValueError(
            f"`validation_fraction`: {fraction} of {masks} frames with a person's mask{of} leaves none to train on or "
            "to validate with; 0 holds out none"
        )
    masks_first = np.argsort(~has_mask, kind="stable")
    validation = rows.select(np.flatnonzero(held & has_mask))
    objects = validation["objects"][:] if "objects" in rows.column_names else []
    if objects and all(found and not found["bbox"] for found in objects):
        raise ValueError(
            f"`validation_fraction`: none of the {len(validation)} frames held out, of {masks} with a person's mask, "
            "shows a target to validate with: take another seed or a larger fraction; 0 holds out none"
        )
    return rows.select(masks_first[~held[masks_first]]), validation


def folds_by_recording(rows: Dataset, count: int, seed: int) -> list[np.ndarray]:
    """Row indices of up to `count` cross-validation folds, with all rows of a recording in one fold."""
    groups = np.array(recordings_of(rows))
    order = np.random.default_rng(seed).permutation(np.unique(groups))
    return [np.flatnonzero(np.isin(groups, order[fold::count])) for fold in range(min(count, len(order)))]


def recordings_of(rows: Dataset) -> list[str]:
    """The recording of each frame, which must stay in one split; a unique text for frames of no recording."""
    return [recording or f"\0{index}" for index, recording in enumerate(_recordings(rows))]


def without_recordings_held_out(rows: Dataset, labelled: Dataset, kept: Dataset) -> Dataset:
    """The rows, without those of recordings that `labelled` has and `kept`, a part of it, doesn't have."""
    held_out = set(_recordings(labelled)) - set(_recordings(kept)) - {""}
    return rows.select([i for i, recording in enumerate(_recordings(rows)) if recording not in held_out])


def _recordings(rows: Dataset) -> list[str]:
    """The column `recording`; empty texts without it."""
    return rows["recording"][:] if "recording" in rows.column_names else [""] * len(rows)


def _draw_splits(groups: list[str], labelled: list[bool], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Draw recordings for the splits for evaluation: the split of each drawn recording."""
    counts: dict[str, int] = {}
    for group, is_labelled in zip(groups, labelled, strict=True):
        if is_labelled:
            counts[group] = counts.get(group, 0) + 1
    if shares and len(counts) <= len(shares):
        raise ValueError(
            f"the {sum(labelled)} labelled frames come from too few recordings, {len(counts)}, for {len(shares) + 1} "
            "splits: label frames of further recordings, or hold out fewer splits"
        )
    order = list(counts)
    np.random.default_rng(seed).shuffle(order)
    place: dict[str, str] = {}
    for later, (split, share) in zip(range(len(shares), 0, -1), shares.items(), strict=True):
        left = [group for group in reversed(order) if group not in place]
        drawn = _nearest_to(round(share * sum(labelled)), counts, left)
        place |= dict.fromkeys(drawn[: len(left) - later], split)  # at least one recording is left for each later split
    return place


def _nearest_to(wanted: int, counts: Mapping[str, int], order: list[str]) -> list[str]:
    """The recordings, in their order, that each bring the number of frames nearer to `wanted`; or else the smallest."""
    drawn, held = [], 0
    for recording in order:
        if abs(held + counts[recording] - wanted) < abs(held - wanted):
            drawn.append(recording)
            held += counts[recording]
    return drawn or [min(order, key=lambda recording: counts[recording])]
