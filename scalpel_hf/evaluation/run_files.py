"""Reads and checks the JSON files that experiments write for each run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scalpel_hf.utils.reading import read_json

from .box_metrics import COUNTS as BOX_COUNTS
from .box_metrics import metrics_of_box_counts
from .comparison import COUNTS, MetricsOfCounts, metrics_of_counts

KEYS = {"arm", "dataset", "seed", "seconds", "commit", "machine", "metrics", "counts"}

Runs = dict[str, list[dict[str, Any]]]  # of each arm, sorted by seed


class Kind(NamedTuple):
    """
    How runs are evaluated: by masks or by boxes.

    Args:
        units: what the counts are of, `frames` or `recordings`.
        counts: names of the counts' columns.
        of_counts: computes metrics from counts.
        titles: title and factor of each of these metrics.
        others: title and factor of metrics that can't be computed from counts.
    """

    units: str
    counts: Sequence[str]
    of_counts: MetricsOfCounts
    titles: dict[str, tuple[str, float]]
    others: dict[str, tuple[str, float]]


OF_BOXES = {
    "f1": ("F1 %", 100.0),
    "pd": ("Pd %", 100.0),
    "false_alarms_per_frame": ("false alarms in 100 frames", 100.0),
}
KINDS = (
    Kind(
        units="frames",
        counts=COUNTS,
        of_counts=metrics_of_counts,
        titles={"iou": ("IoU %", 100), "niou": ("nIoU %", 100), "pd": ("Pd %", 100), "fa": ("Fa 1e-6", 1)},
        others={},
    ),
    Kind(
        units="recordings",
        counts=BOX_COUNTS,
        of_counts=metrics_of_box_counts,
        titles=OF_BOXES,
        others={"ap50": ("AP50 %", 100)},
    ),
    Kind(
        units="frames",
        counts=BOX_COUNTS,
        of_counts=metrics_of_box_counts,
        titles=OF_BOXES,
        others={
            "ap50": ("AP50 %", 100),
            "ap50_tiny": ("tiny", 100),
            "ap50_small": ("small", 100),
            "ap50_large": ("large", 100),
        },
    ),
)


def read_runs(folder: Path) -> Runs:
    """The runs in a folder, by arm; `ValueError`, which names the file, if one is inconsistent."""
    runs: Runs = {}
    for path in sorted(folder.glob("*.json")):
        run = read_json(path)
        if missing := KEYS - set(run):
            raise ValueError(f"{path}: has no {', '.join(sorted(missing))}")
        if path.stem != f"{run['arm']}-{run['seed']}":
            raise ValueError(
                f"{path}: its content is of {run['arm']}, seed {run['seed']}, so its name should be "
                f"{run['arm']}-{run['seed']}.json"
            )
        try:
            kind = kind_of_run(run)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        metrics = metrics_of_seeds(kind, stacked_counts(kind, [run]))[0]
        if not np.allclose([run["metrics"][name] for name in kind.titles], metrics, rtol=1e-6, atol=1e-9):
            raise ValueError(f"{path}: its metrics differ from those that its counts give")
        runs.setdefault(run["arm"], []).append(run)
    for arm, seeds in runs.items():
        if len(steps := sorted({run["steps"] for run in seeds if "steps" in run})) > 1:
            raise ValueError(f"{folder}: {arm} was trained for {' and '.join(map(str, steps))} steps")
    every = [run for seeds in runs.values() for run in seeds]
    if len({kind_of_run(run).units for run in every}) > 1:
        raise ValueError(f"{folder}: some of its runs were evaluated by masks and some by boxes")
    if len(numbers := numbers_of_units(every)) > 1:
        raise ValueError(
            f"{folder}: its runs were evaluated on {' and '.join(map(str, numbers))} {kind_of_run(every[0]).units}"
        )
    return {arm: sorted(seeds, key=lambda run: run["seed"]) for arm, seeds in runs.items()}


def has_result(file: Path, **setting: Any) -> bool:
    """
    Whether an experiment has written a run's JSON, so that it can go on with the next.

    Args:
        setting: what the file should say of the run, such as `steps=400`. `ValueError`, which names the file, if it is
            of a run with another setting: a table would mix the two.
    """
    if not file.exists():
        return False
    found = {"split": "train", **read_json(file)}  # files of earlier versions, without a split, are of the training's
    for name, wanted in setting.items():
        if found.get(name) != wanted:
            raise ValueError(
                f"{file} is of {name} {found.get(name)}, not {wanted}: give the same again, or another folder"
            )
    return True


def kind_of_run(run: dict[str, Any]) -> Kind:
    for kind in KINDS:
        if run["counts"]["columns"] == list(kind.counts) and kind.units in run["counts"]:
            return kind
    raise ValueError(f"the columns of its counts are not {' nor '.join(', '.join(kind.counts) for kind in KINDS)}")


def numbers_of_units(runs: list[dict[str, Any]]) -> list[int]:
    """The numbers of frames (or recordings) that runs were evaluated on, without repeats."""
    return sorted({len(run["counts"][kind_of_run(run).units]) for run in runs})


def stacked_counts(kind: Kind, runs: list[dict[str, Any]]) -> np.ndarray:
    return np.array([run["counts"][kind.units] for run in runs], dtype=np.int64)


def paired_counts(
    kind: Kind, first: list[dict[str, Any]], second: list[dict[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    """
    Counts `(seeds, units, columns)` of two arms. If each seed drew other frames to measure on, those of the seeds that
    both arms have are put one after another, as if of one seed: to draw a frame is then to draw a seed.
    """
    targets = kind.counts.index("n_targets")
    stacks = stacked_counts(kind, first), stacked_counts(kind, second)
    if all((stack[..., targets] == stacks[0][0, :, targets]).all() for stack in stacks):
        return stacks
    one, other = ({run["seed"]: stacked_counts(kind, [run])[0] for run in arm} for arm in (first, second))
    both = sorted(one.keys() & other.keys())
    return np.concatenate([one[seed] for seed in both])[None], np.concatenate([other[seed] for seed in both])[None]


def metrics_of_seeds(kind: Kind, counts: np.ndarray) -> np.ndarray:
    """Metrics `(seeds, metrics)` from counts `(seeds, units, columns)`; 0 / 0 is 0."""
    return np.nan_to_num(kind.of_counts(counts, np.ones((1, counts.shape[1]), dtype=np.int64)))[:, 0]
