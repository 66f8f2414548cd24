"""Quality of pseudo labels, measured by masks that the teacher didn't see."""

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any

import datasets
import numpy as np
from scipy import ndimage

from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.data.masks import IGNORED, TARGET, read_target, read_truth
from scalpel_hf.data.names import check_names, few
from scalpel_hf.data.objects import EIGHT_CONNECTED
from scalpel_hf.data.pseudo_columns import is_above
from scalpel_hf.evaluation import IRSTDMetrics
from scalpel_hf.modeling.frame_io import read_frame

from .evidence import has_target, judge

UNKNOWN = "unknown"
BINS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)  # of the scores


def check_truth(truth: datasets.Dataset, names: Sequence[str] | None = None) -> None:
    """
    Check, before frames are labelled, that `truth` has the masks that [`compare_with_truth`] needs.

    Args:
        truth: rows with `name` and `mask`.
        names: of the frames that will be labelled, if known.

    Raises `ValueError` if a column is missing, if a name occurs twice, or if frames have no mask (it names them).
    """
    if missing := {"name", "mask"} - set(truth.column_names):
        raise ValueError(f"the data set with the truth lacks the columns {sorted(missing)}")
    known = truth["name"][:]
    check_names(known, "the data set with the truth")
    masks = truth.select_columns("mask").with_format("arrow")[:].column("mask").is_valid().to_pylist()
    there = {name for name, mask in zip(known, masks, strict=True) if mask}
    if lacking := [name for name in names or [] if name not in there]:
        raise ValueError(f"the data set with the truth has no mask of {few(lacking)}")


def check_sizes(frames: datasets.Dataset, truth: datasets.Dataset) -> None:
    """Raise `ValueError`, which names the first such frame, if a mask of `truth` doesn't have its frame's size."""
    place = {name: index for index, name in enumerate(truth["name"])}
    masks = undecoded(truth.select_columns("mask"))
    for row in undecoded(frames.select_columns(["name", "image"])):
        read_truth(masks[place[row["name"]]]["mask"], row["name"], shape=read_frame(row["image"]).shape)


def compare_with_truth(
    labelled: datasets.Dataset | datasets.IterableDataset, truth: datasets.Dataset, skipped: Collection[str] = ()
) -> dict[str, Any]:
    """
    Measure pseudo labels by masks of the same frames.

    An object, or a component of ignored pixels, is true if more than half of its pixels lie on a target or next to one;
    see [`judge`] for pixels that the masks ignore. A target is found if an object touches it, open if only ignored
    pixels touch it, missed otherwise.

    Args:
        labelled: the result of `add_pseudo_labels`.
        truth: rows with `name` and `mask`.
        skipped: names of frames to leave out, such as those that the teacher was trained on.

    Returns the metrics of [`IRSTDMetrics`] over the pseudo-labelled frames, with ignored pixels as background, and

    - `objects`, `true_objects`: number of objects, and of true ones; `ignored`, `true_ignored`: the same of components
      of ignored pixels;
    - `targets_found`, `targets_open`, `targets_missed`: in the pseudo-labelled frames;
    - `empty_right`, `empty_wrong`: frames labelled as empty that hold no target, or do;
    - `unsure_empty`, `unsure_with_target`: the same of frames that the teacher left without a label;
    - `unknown`: frames of the last two lines whose mask has no target but pixels to ignore;
    - `scores`: for each bin of scores its limits (`from`, `to`), the number of `objects`, their mean `score`, and the
      number of true ones (`true`).

    Raises `ValueError` if `truth` lacks a frame or its mask.
    """
    place = {name: index for index, name in enumerate(truth["name"])}
    masks = undecoded(truth.select_columns("mask"))
    metrics, counts = IRSTDMetrics(threshold=0.5), dict.fromkeys(COUNTS, 0)
    scores: list[tuple[float, bool]] = []
    wanted = ["name", "label_source", "pseudo_mask", "pseudo_confidence", "pseudo_objects", "teacher"]
    for row in undecoded(labelled.select_columns(wanted)):
        if row["label_source"] == "human" or row["teacher"] is None or row["name"] in skipped:
            continue
        cell = masks[place[row["name"]]]["mask"] if row["name"] in place else None
        human = read_truth(cell, row["name"], shape=read_frame(row["pseudo_confidence"]).shape)
        target = human == TARGET
        if row["label_source"] == "none":
            counts[{True: "unsure_with_target", False: "unsure_empty", None: UNKNOWN}[has_target(human)]] += 1
            continue
        found = read_target(row["pseudo_mask"])
        metrics.update((found & (human != IGNORED)).astype(np.float32), target)
        if not found.any():
            counts[{True: "empty_wrong", False: "empty_right", None: UNKNOWN}[has_target(human)]] += 1
        scores += _count_row(row, found=found, truth=human, counts=counts)
    computed = metrics.compute() if metrics.frame_ious else {}
    return {**computed, **counts, "scores": _score_bins(scores)}


COUNTS = (
    *("objects", "true_objects", "ignored", "true_ignored", "targets_found", "targets_open", "targets_missed"),
    *("empty_right", "empty_wrong", "unsure_empty", "unsure_with_target"),
    UNKNOWN,
)


def _count_row(
    row: dict[str, Any], found: np.ndarray, truth: np.ndarray, counts: dict[str, int]
) -> list[tuple[float, bool]]:
    ignored = is_above(read_frame(row["pseudo_confidence"]), row["teacher"]["threshold"]) & ~found
    objects = _judge_components(found, truth)
    for name, judged in (("objects", objects), ("ignored", _judge_components(ignored, truth))):
        counts[name] += len(judged) - judged.count(None)
        counts[f"true_{name}"] += judged.count(True)
    targets, n = ndimage.label(truth == TARGET, EIGHT_CONNECTED)
    hit, opened = (set(np.unique(targets[m])) - {0} for m in (found, ignored))
    counts["targets_found"] += len(hit)
    counts["targets_open"] += len(opened - hit)
    counts["targets_missed"] += n - len(hit | opened)
    scored = zip(row["pseudo_objects"]["score"], objects, strict=True)
    return [(score, is_true) for score, is_true in scored if is_true is not None]


def _judge_components(mask: np.ndarray, truth: np.ndarray) -> list[bool | None]:
    labels, count = ndimage.label(mask, EIGHT_CONNECTED)
    return judge(labels, count, truth)


def _score_bins(scores: list[tuple[float, bool]]) -> list[dict[str, Any]]:
    bins = []
    for low, high in pairwise(BINS):
        inside = [(s, t) for s, t in scores if low <= s < high or s == high == 1]
        mean = float(np.mean([s for s, _ in inside])) if inside else None
        bins.append({"from": low, "to": high, "objects": len(inside), "score": mean, "true": sum(t for _, t in inside)})
    return bins
