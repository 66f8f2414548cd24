"""The JSON files that experiments write, one a run: read back and checked, with the metrics that their counts give."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scalpel_hf.utils.reading import read_json

from .box_metrics import COUNTS as BOX_COUNTS
from .box_metrics import metrics_of_box_counts
from .comparison import COUNTS, MetricsOfCounts, metrics_of_counts

KEYS = {"arm", "dataset", "seed", "seconds", "commit", "machine", "metrics", "counts"}

Runs = dict[str, list[dict[str, Any]]]  # by arm, in the order of seeds


class Kind(NamedTuple):
    """What counts are of, their columns, the metrics that they give with titles and units, and those without counts."""

    units: str
    counts: Sequence[str]
    of_counts: MetricsOfCounts
    titles: dict[str, tuple[str, float]]
    others: dict[str, tuple[str, float]]


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
        titles={
            "f1": ("F1 %", 100),
            "pd": ("Pd %", 100),
            "false_alarms_per_frame": ("false alarms in 100 frames", 100),
        },
        others={"ap50": ("AP50 %", 100)},
    ),
)


def read_runs(folder: Path) -> Runs:
    """The folder's runs by arm; a file whose metrics aren't those of its counts is an error."""
    runs: Runs = {}
    for path in sorted(folder.glob("*.json")):
        run = read_json(path)
        if missing := KEYS - set(run):
            raise ValueError(f"{path}: has no {', '.join(sorted(missing))}")
        if path.stem != f"{run['arm']}-{run['seed']}":
            raise ValueError(f"{path}: is of {run['arm']}, seed {run['seed']}, which its name doesn't say")
        try:
            kind = kind_of_run(run)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        metrics = metrics_of_seeds(kind, stacked_counts(kind, [run]))[0]
        if not np.allclose([run["metrics"][name] for name in kind.titles], metrics, rtol=1e-6, atol=1e-9):
            raise ValueError(f"{path}: its metrics are not those of its counts")
        runs.setdefault(run["arm"], []).append(run)
    every = [run for seeds in runs.values() for run in seeds]
    if len({kind_of_run(run).units for run in every}) > 1:
        raise ValueError(f"{folder}: some of its runs were measured by masks and some by boxes")
    if len(numbers := numbers_of_units(every)) > 1:
        raise ValueError(
            f"{folder}: its runs were measured on {' and '.join(map(str, numbers))} {kind_of_run(every[0]).units}"
        )
    return {arm: sorted(seeds, key=lambda run: run["seed"]) for arm, seeds in runs.items()}


def kind_of_run(run: dict[str, Any]) -> Kind:
    for kind in KINDS:
        if run["counts"]["columns"] == list(kind.counts):
            return kind
    raise ValueError(f"the columns of its counts are not {' nor '.join(', '.join(kind.counts) for kind in KINDS)}")


def numbers_of_units(runs: list[dict[str, Any]]) -> list[int]:
    """How many frames or recordings runs were measured on."""
    return sorted({len(run["counts"][kind_of_run(run).units]) for run in runs})


def stacked_counts(kind: Kind, runs: list[dict[str, Any]]) -> np.ndarray:
    return np.array([run["counts"][kind.units] for run in runs], dtype=np.int64)


def metrics_of_seeds(kind: Kind, counts: np.ndarray) -> np.ndarray:
    """`(seeds, metrics)` over all frames."""
    return kind.of_counts(counts, np.ones((1, counts.shape[1]), dtype=np.int64))[:, 0]
