"""The guard: compares a teacher with a small network trained on the same labels, by cross-validation.

If the small network is better, the teacher's pseudo labels would make students worse than the labels alone do. On a new
data set only this comparison tells.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from accelerate import Accelerator

from scalpel_hf.data import split_by_source
from scalpel_hf.data.label_sources import HUMAN
from scalpel_hf.data.splits import folds_by_recording, recordings_of, without_recordings_held_out
from scalpel_hf.evaluation.comparison import bootstrap_differences, count_frames, mean_metrics
from scalpel_hf.evaluation.unseen import find_in_model, without_copies
from scalpel_hf.utils.reading import read_json

from .members import Train
from .recipe_arguments import DistillArguments
from .run_record import METRICS_FILE

ARMS = ("teacher", "small network")
METRICS = ("iou", "niou", "pd", "fa")
LEAST_FRAMES = 8  # labelled frames that the comparison needs

Probabilities = Callable[[Any], np.ndarray]
TrainArm = Callable[[str, int, datasets.Dataset], Probabilities]


def guard(
    args: DistillArguments, accelerator: Accelerator, rows: datasets.Dataset, arms: dict[str, Train]
) -> dict[str, Any] | None:
    """
    [`compare_with_small_network`], with a third of the steps that the teacher will be trained for.

    Args:
        args: of the teacher.
        rows: the teacher's training data.
        arms: how each of [`ARMS`] is trained.

    Returns the comparison; `None`, with a message, if there are too few frames or more than one process.
    """
    masks, others = split_by_source(rows, (HUMAN,))
    if not can_compare(masks) or accelerator.num_processes > 1:
        accelerator.print(
            f"no comparison with a small network: it needs {LEAST_FRAMES} frames with a mask, from two recordings or "
            "more, and a single process"
        )
        return None
    steps, features = max(1, args.max_steps // 3), args.features_folder  # the teacher's cache: its frames are the same
    short = replace(args, max_steps=steps, validation_fraction=0.0, watch_split="", feature_cache_dir=features)

    def train_arm(arm: str, fold: int, half: datasets.Dataset) -> Probabilities:
        folder = f"{args.output_dir}/guard/{arm.replace(' ', '-')}-{fold}"
        # Other frames of a recording look like those that will be measured.
        arm_rows = datasets.concatenate_datasets([half, without_recordings_held_out(others, masks, kept=half)])
        trained, _ = arms[arm](replace(short, output_dir=folder), accelerator, arm_rows, None)
        return trained.probabilities

    record = compare_with_small_network(train_arm, masks, args.seed)
    accelerator.print(verdict(record))
    return record


def can_compare(labelled: datasets.Dataset) -> bool:
    """Whether there are enough labelled frames for two folds, and at least two recordings among them."""
    return len(labelled) >= LEAST_FRAMES and len(set(recordings_of(labelled))) > 1


def compare_with_small_network(train_arm: TrainArm, labelled: datasets.Dataset, seed: int) -> dict[str, Any]:
    """
    Cross-validate a teacher and a small network in two folds. All frames of a recording are in the same fold.

    Args:
        train_arm: `(arm, fold, rows to train on) → predict`, where `arm` is one of `ARMS` and `predict(frame)` gives
            probabilities `(H, W)`.
        labelled: rows with a person's mask.
        seed: of the folds.

    Returns `frames` (their number); for each of `ARMS` its `METRICS` over all frames, each predicted by the model that
    was not trained on it; and `lead`, for each metric: teacher minus small network, and both ends of its 95 % bootstrap
    interval over recordings (or over frames, if there are no recordings).
    """
    halves = folds_by_recording(labelled, 2, seed)
    counts = {}
    for arm in ARMS:
        seen = []
        for fold, half in enumerate(halves):
            measured = labelled.select(half)
            probabilities = train_arm(arm, fold, without_copies(labelled.select(halves[1 - fold]), of=measured))
            seen.append(count_frames(probabilities, measured)[0])
        counts[arm] = np.concatenate(seen)[None]  # (1, frames, 6)
    units = recordings_of(labelled.select(np.concatenate(halves)))
    draws = bootstrap_differences(counts[ARMS[0]], counts[ARMS[1]], units=units)
    low, high = np.nanpercentile(draws, [2.5, 97.5], axis=0)
    metrics = {arm: mean_metrics(c) for arm, c in counts.items()}
    lead = metrics[ARMS[0]] - metrics[ARMS[1]]
    return {
        "frames": len(labelled),
        **{arm: dict(zip(METRICS, map(float, values), strict=True)) for arm, values in metrics.items()},
        "lead": {
            name: [float(lead[i]), float(low[i]), float(high[i])] for i, name in enumerate(METRICS)
        },  # mean, 2.5 %, 97.5 %
    }


def verdict(record: dict[str, Any]) -> str:
    """One sentence about the result of [`compare_with_small_network`]: which is better, and by how much."""
    lead, low, high = (100 * value for value in record["lead"]["iou"])
    metrics = " against ".join(
        "{:.1f} / {:.1f} / {:.1f} / {:.0f}".format(*(record[arm][k] * (100 if k != "fa" else 1) for k in METRICS))
        for arm in ARMS
    )
    if low > 0:
        found = "the teacher is better than a small network trained on the same labels"
    elif high < 0:
        found = "a small network trained on the same labels is better than the teacher"
    else:
        found = "the teacher and a small network trained on the same labels do not differ significantly"
    return (
        f"{found}: IoU {lead:+.1f} ({low:+.1f} to {high:+.1f}) on {record['frames']} labelled frames held out; "
        f"IoU / nIoU / Pd / Fa {metrics}"
    )


def check_teacher(name_or_path: str | Path, any_teacher: bool, say: Callable[[str], None]) -> None:
    """
    Report, before a teacher labels, how it compared with a small network in its training.

    Args:
        name_or_path: folder or repository of the teacher.
        any_teacher: don't raise.
        say: called with the message.

    Raises `ValueError` if the small network was significantly better (95 % interval of IoU), unless `any_teacher`.
    """
    path = find_in_model(name_or_path, METRICS_FILE)
    record = None if path is None else read_json(path).get("guard")
    if record is None:
        say(
            "this teacher was not compared with a small network trained on the same labels: for that, train it with "
            "`--guard`"
        )
        return
    if record["lead"]["iou"][2] < 0 and not any_teacher:
        raise ValueError(
            f"{verdict(record)}. Train a student on the labels alone, train the teacher on more labels, or use it "
            "anyway with --any-teacher"
        )
    say(verdict(record))
