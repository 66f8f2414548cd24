"""Runs to review: synthetic frames labelled by a teacher that costs nothing."""

from pathlib import Path

import numpy as np

from scalpel_hf import SyntheticInfrared, apply_label_budget
from scalpel_hf.pseudo_labels.job import LabellingJob
from scalpel_hf.pseudo_labels.rules import Rules
from tests.pseudo_labels.helpers import FakeTeacher, on_disk


class SometimesBlind(FakeTeacher):
    """Sees nothing at all in about a third of the frames."""

    def probabilities(self, frame: np.ndarray) -> np.ndarray:
        return super().probabilities(frame) * (0.1 if int(frame.sum()) % 3 == 0 else 1)


def quiet(line: str) -> None:
    pass


def make_run(
    folder: Path,
    frames: int = 12,
    size: tuple[int, int] = (32, 40),
    rules: Rules | None = None,
    teacher: FakeTeacher | None = None,
) -> Path:
    """A finished run of a fake teacher; frames have 0 to 2 targets, and a quarter of them a human's label."""
    camera = SyntheticInfrared(size=size, n_targets=(0, 2), extent=(2, 5), seed=3)
    rows = on_disk(apply_label_budget(camera.to_dataset(frames), 0.25), folder / "frames")
    rules = rules or Rules(0.8, min_score=0.85, min_empty=0.0)
    job = LabellingJob(rows, teacher or SometimesBlind(), folder / "run", rules, report=quiet)
    job.predict()
    job.finalize()
    return folder / "run"
