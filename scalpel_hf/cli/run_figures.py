"""The metrics at the end of a job, with intervals: on held-out frames, or cross-validated if labels are few."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from scalpel_hf.data import load_prepared
from scalpel_hf.data.splits import recordings_of
from scalpel_hf.evaluation.box_metrics import (
    count_boxes,
    detect_all,
    detector_of,
    judged_by_boxes,
    metrics_of_box_counts,
)
from scalpel_hf.evaluation.comparison import (
    MetricsOfCounts,
    bootstrap_differences,
    bootstrap_pairs,
    count_frames,
    metrics_of_counts,
)
from scalpel_hf.predictors.load import Predictor, default_device, load_predictor
from scalpel_hf.runtime.onnx_models import load_exported
from scalpel_hf.runtime.settings import FOLDER, INT8_FILE

from .run_data import ALONE, BOTH, FOLDS, fold_folder, students_of, task_of

LEAST = 10  # frames or recordings needed for intervals: with fewer, those of the bootstrap are too narrow
INTERVAL = (2.5, 97.5)  # percentiles

Counts = np.ndarray  # (1, frames, n)


@dataclass(frozen=True)
class Criterion:
    """
    How models are measured: by masks or by boxes.

    Args:
        metrics: unit and decimals of each metric, by its title; models are compared by the first metric.
        count: computes the counts of each frame, `(frames, n)`, from a model and rows.
        of_counts: computes the metrics from such counts.
        columns: of the counts that hold targets, targets found and false alarms.
        explained: the report's explanation of the metrics.
    """

    metrics: dict[str, tuple[float, int]]
    count: Callable[[Any, datasets.Dataset], np.ndarray]
    of_counts: MetricsOfCounts
    columns: tuple[int, int, int]
    explained: str


BY_MASKS = Criterion(
    metrics={"IoU %": (100, 1), "nIoU %": (100, 1), "Pd %": (100, 1), "Fa 1e-6": (1, 1)},
    count=lambda model, rows: count_frames(model.probabilities, rows)[0],
    of_counts=metrics_of_counts,
    columns=(2, 3, 4),
    explained=(
        "Targets are matched within 3 pixels. Pd is the share of targets found, Fa the share of pixels in false "
        "alarms, IoU is pooled over all pixels, nIoU averaged over frames, of which empty ones count 0."
    ),
)
BY_BOXES = Criterion(
    metrics={"F1 %": (100, 1), "Pd %": (100, 1), "false alarms a frame": (1, 2)},
    count=lambda model, rows: count_boxes(detect_all(detector_of(model), rows)),
    of_counts=metrics_of_box_counts,
    columns=(0, 1, 2),
    explained=(
        "A target is found where the centre of a detection lies in its box, or within 3 pixels of its point; a "
        "detection in no box is a false alarm, also of something that nobody drew. Pd is the share of targets found, "
        "F1 twice these over themselves, false alarms and targets."
    ),
)


def criterion_of(task: str, splits: Iterable[datasets.Dataset]) -> Criterion:
    """By boxes for detectors, and where people drew boxes or points in some of the frames; else by masks."""
    return BY_BOXES if task == "detection" or any(map(judged_by_boxes, splits)) else BY_MASKS


@dataclass(frozen=True)
class Figures:
    """
    The metrics of a job's models.

    Args:
        titles: of the metrics.
        rows: for each model, its name and its metrics, with their intervals if there are any, in the order of `titles`.
        frames, targets: how many of each the models were measured on.
        found: how many of the targets the student finds.
        explained: explanation of the metrics, see [`Criterion`].
        drawn: what the bootstrap draws, see [`drawn_of`]; empty where that is too little for intervals.
        folds: number of folds of a cross-validation; 0 where frames were held out.
        verdict: whether pseudo labels helped; empty where that isn't measured.
    """

    titles: list[str]
    rows: list[tuple[str, list[str]]]
    frames: int
    targets: int
    found: int
    explained: str
    drawn: str
    folds: int = 0
    verdict: str = ""

    def table(self) -> str:
        """The metrics as a table of plain text."""
        lines = [(f"{self.frames} frames, {self.targets} targets", self.titles), *self.rows]
        return "\n".join(f"{name:38}" + "".join(f"{cell:>26}" for cell in cells) for name, cells in lines)


def measure(out: Path) -> Figures | None:
    """Measure the models in the folder of a finished job; `None` where there is nothing to measure on."""
    data = load_prepared(out / "data")
    if "test" in data:
        return _held_out(out, data["test"])
    folds = [folder for folder in (fold_folder(out, number) for number in range(FOLDS)) if folder.exists()]
    return _cross_validated(folds, task_of(out / "data")) if folds else None


def _held_out(out: Path, rows: datasets.Dataset) -> Figures:
    criterion, students = criterion_of(task_of(out / "data"), [rows]), students_of(out)
    models = {"teacher": "teacher"} | {folder: f"student, {taught}" for folder, taught in students.items()}
    counts = {folder: criterion.count(load_model(out / folder), rows)[None] for folder in models}
    in_8_bits, units = criterion.count(_in_8_bits(out / "student"), rows)[None], recordings_of(rows)
    table = {name: _cells(criterion, counts[folder], units) for folder, name in models.items()}
    table[f"{models['student']}, 8 bits"] = _cells(criterion, in_8_bits, units)
    folder_of = {taught: folder for folder, taught in students.items()}
    verdict = ""
    if BOTH in folder_of:
        both, alone = (counts[folder_of[taught]] for taught in (BOTH, ALONE))
        verdict = _verdict(criterion, both=both, alone=alone, units=units)
    return _figures(criterion, [*table.items()], counts=counts["student"], units=units, verdict=verdict)


def _cross_validated(folds: list[Path], task: str) -> Figures:
    """Measure all labelled frames, each by the student of the fold in which it is `test`."""
    tests = [load_prepared(folder / "data")["test"] for folder in folds]
    criterion = criterion_of(task, tests)
    seen = [criterion.count(load_model(folder / "student"), test) for folder, test in zip(folds, tests, strict=True)]
    counts, units = np.concatenate(seen)[None], recordings_of(datasets.concatenate_datasets(tests))
    table = [("student, labels alone, cross-validated", _cells(criterion, counts, units))]
    return _figures(criterion, table, counts=counts, units=units, folds=len(folds))


def _figures(
    criterion: Criterion,
    rows: list[tuple[str, list[str]]],
    counts: Counts,
    units: list[str],
    folds: int = 0,
    verdict: str = "",
) -> Figures:
    targets, found = (int(counts[..., column].sum()) for column in criterion.columns[:2])
    return Figures(
        titles=[*criterion.metrics],
        rows=rows,
        frames=len(units),
        targets=targets,
        found=found,
        explained=criterion.explained,
        drawn=drawn_of(units) if is_enough(units) else "",
        folds=folds,
        verdict=verdict,
    )


def drawn_of(units: list[str]) -> str:
    """
    What the bootstrap draws: frames, or recordings where some frames are of the same one.

    Args:
        units: the recording of each frame, see [`recordings_of`].
    """
    return "frames" if len(set(units)) == len(units) else "recordings (or frames that are of none)"


def is_enough(units: list[str]) -> bool:
    """Whether there are enough frames or recordings to say by draws of them how sure a metric is."""
    return len(set(units)) >= LEAST


def load_model(folder: Path) -> Predictor:
    """A model that the job trained, on the default device."""
    return load_predictor(folder, device=default_device())


def _in_8_bits(student: Path) -> Predictor:
    return load_exported(student / FOLDER, INT8_FILE)


def _cells(criterion: Criterion, counts: Counts, units: list[str]) -> list[str]:
    values = criterion.of_counts(counts, np.ones((1, counts.shape[1]), dtype=np.int64))[:, 0].mean(0)
    scales = [*criterion.metrics.values()]
    if not is_enough(units):
        return [
            "–" if np.isnan(v) else f"{unit * v:.{places}f}" for v, (unit, places) in zip(values, scales, strict=True)
        ]
    pairs = bootstrap_pairs(counts, counts, metrics=criterion.of_counts, units=units)
    known = ~np.isnan(values)  # Pd is unknown, and has no draws, where there is no target
    drawn = np.full((2, len(values)), np.nan)
    drawn[:, known] = np.nanpercentile(pairs[0][:, known], INTERVAL, axis=0)
    return [
        "–" if np.isnan(value) else f"{unit * value:.{places}f} ({unit * low:.{places}f} to {unit * high:.{places}f})"
        for value, low, high, (unit, places) in zip(values, *drawn, scales, strict=True)
    ]


def _verdict(criterion: Criterion, both: Counts, alone: Counts, units: list[str]) -> str:
    """Whether the student trained on `both` kinds of labels is better than the one trained on people's labels alone."""
    if not is_enough(units):
        return (
            f"With pseudo labels the student is not to be compared on {len(set(units))} {drawn_of(units)} with the one "
            "of the labels alone."
        )
    differences = bootstrap_differences(both, alone, metrics=criterion.of_counts, units=units)[:, 0]
    if np.isnan(differences).all():
        return "No frame held out shows a target: what pseudo labels add is not known."
    low, high = np.nanpercentile(differences, INTERVAL)
    found = "ahead of" if low > 0 else "behind" if high < 0 else "not told apart from"
    return (
        f"With pseudo labels the student is {found} the one of the labels alone: a difference in "
        f"{next(iter(criterion.metrics)).removesuffix(' %')} of {100 * low:.1f} to {100 * high:.1f} points."
    )
