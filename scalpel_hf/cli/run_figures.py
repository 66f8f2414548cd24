"""The figures that a job ends with, and their intervals: on frames held out, or cross-validated where masks are few."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from scalpel_hf.data import load_prepared
from scalpel_hf.evaluation.comparison import bootstrap_differences, bootstrap_pairs, count_frames, mean_metrics
from scalpel_hf.predictors.load import load_trained
from scalpel_hf.runtime.onnx_models import OnnxStudent, load_exported
from scalpel_hf.runtime.settings import FOLDER, INT8_FILE

from .run_data import FOLDS, fold_folder

MODELS = {
    "teacher": "teacher",
    "student": "student, labels and pseudo labels",
    "student-labels-alone": "student, labels alone",
}
METRICS = {"IoU %": 100, "nIoU %": 100, "Pd %": 100, "Fa 1e-6": 1}  # in the order of `mean_metrics`
LEAST_FRAMES = 10  # on which two models are told apart: draws of fewer all look alike
INTERVAL = (2.5, 97.5)  # percentiles


@dataclass(frozen=True)
class Figures:
    """
    Args:
        rows: of each model its name and, by metric, the value with its interval.
        frames, targets: how many were measured on, and `found`, how many of the targets the student finds.
        folds: of a cross-validation; 0 where frames were held out.
        verdict: whether pseudo labels helped; empty where that isn't measured.
    """

    rows: list[tuple[str, list[str]]]
    frames: int
    targets: int
    found: int
    folds: int = 0
    verdict: str = ""

    def table(self) -> str:
        """As it is printed."""
        lines = [(f"{self.frames} frames, {self.targets} targets", list(METRICS)), *self.rows]
        return "\n".join(f"{name:38}" + "".join(f"{cell:>26}" for cell in cells) for name, cells in lines)


def measure(out: Path) -> Figures | None:
    """Figures of a job's folder in which all stages are done; `None` where there is nothing to measure on."""
    data = load_prepared(out / "data")
    if "test" in data:
        return _held_out(out, data["test"])
    folds = [folder for folder in (fold_folder(out, number) for number in range(FOLDS)) if folder.exists()]
    return _cross_validated(folds) if folds else None


def _held_out(out: Path, rows: datasets.Dataset) -> Figures:
    counts = {folder: _counts(load_trained(out / folder).probabilities, rows) for folder in MODELS}
    table = [(name, _cells(counts[folder])) for folder, name in MODELS.items()]
    table.insert(2, ("the same in 8 bits", _cells(_counts(_in_8_bits(out / "student").probabilities, rows))))
    verdict = _verdict(counts["student"], counts["student-labels-alone"])
    _, _, targets, found, *_ = counts["student"][0].sum(0)
    return Figures(table, len(rows), int(targets), int(found), verdict=verdict)


def _cross_validated(folds: list[Path]) -> Figures:
    """Over all frames with a mask, each measured by the student that has not seen it."""
    seen = [
        _counts(load_trained(folder / "student").probabilities, load_prepared(folder / "data")["test"])
        for folder in folds
    ]
    counts = np.concatenate(seen, axis=1)
    _, _, targets, found, *_ = counts[0].sum(0)
    table = [("student, labels alone, cross-validated", _cells(counts))]
    return Figures(table, counts.shape[1], int(targets), int(found), folds=len(folds))


def _in_8_bits(student: Path) -> OnnxStudent:
    exported = load_exported(student / FOLDER, INT8_FILE)
    assert isinstance(exported, OnnxStudent)  # what the job trains
    return exported


def _counts(probabilities: Callable[[Any], np.ndarray], rows: datasets.Dataset) -> np.ndarray:
    """`(1, frames, 6)` of [`count_frames`]."""
    return count_frames(probabilities, rows)[0][None]


def _cells(counts: np.ndarray) -> list[str]:
    drawn = np.percentile(bootstrap_pairs(counts, counts)[0], INTERVAL, axis=0)
    return [
        f"{scale * value:.1f} ({scale * low:.1f} to {scale * high:.1f})"
        for value, low, high, scale in zip(mean_metrics(counts), *drawn, METRICS.values(), strict=True)
    ]


def _verdict(student: np.ndarray, alone: np.ndarray) -> str:
    low, high = np.percentile(bootstrap_differences(student, alone), INTERVAL, axis=0)
    found = "ahead of" if low[0] > 0 else "behind" if high[0] < 0 else "not told apart from"
    if student.shape[1] < LEAST_FRAMES:
        found = f"not to be compared on {student.shape[1]} frames with"
    return (
        f"With pseudo labels the student is {found} the one of the labels alone: a difference in IoU of "
        f"{100 * low[0]:.1f} to {100 * high[0]:.1f} points."
    )
