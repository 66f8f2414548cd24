"""Curves of Pd over Fa, and the program that compares models by them."""

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest

from scalpel_hf import SegmentationStudent, SyntheticInfrared
from scalpel_hf.data import apply_label_budget
from scalpel_hf.evaluation.evaluator import evaluate_curve, evaluate_probabilities, pd_at_fa
from scalpel_hf.modeling import InfraredImageProcessor, ScalpelStudentConfig, ScalpelStudentForSemanticSegmentation
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.predictors.load import load_trained
from scripts.benchmarks import pd_fa_curve

CAMERA = SyntheticInfrared(size=(40, 50), n_targets=(1, 1), extent=(3, 5), seed=3)


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    return CAMERA.to_dataset(4)


def model(rows: Iterable[dict[str, Any]], certainties: list[float], false_alarm: float) -> SimpleNamespace:
    """What is as sure of the target of frame i as `certainties[i]`, and of one corner pixel as `false_alarm`."""
    predictions = []
    for row, certainty in zip(rows, certainties, strict=True):
        prediction = certainty * (np.asarray(row["mask"]) > 0).astype(np.float32)
        prediction[0, 0] = max(prediction[0, 0], false_alarm)
        predictions.append(prediction)
    turn = iter(predictions * 100)
    return SimpleNamespace(probabilities=lambda image: next(turn))


def test_a_curve_is_the_figures_at_each_threshold(rows: datasets.Dataset) -> None:
    made = lambda: model(rows, [0.9, 0.8, 0.6, 0.3], 0.5).probabilities  # noqa: E731 - a fresh turn each time
    thresholds = [0.7, 0.4, 0.85]
    curve = evaluate_curve(made(), rows, thresholds)
    assert curve == [evaluate_probabilities(made(), rows, threshold) for threshold in thresholds]
    assert [point["pd"] for point in curve] == [0.5, 0.75, 0.25]
    assert [point["fa"] for point in curve] == pytest.approx([0, 4e6 / (4 * 40 * 50), 0])  # a pixel a frame, or none


def test_pd_at_fa_is_the_best_point_that_is_allowed() -> None:
    curve = [{"pd": 0.9, "fa": 80.0}, {"pd": 0.7, "fa": 20.0}, {"pd": 0.75, "fa": 30.0}]
    assert [pd_at_fa(curve, fa) for fa in (10, 20, 29.9, 30, 100)] == [0, 0.7, 0.7, 0.75, 0.9]


def test_models_side_by_side_seeds_together(
    rows: datasets.Dataset,
    saved_rows: str,
    with_configurations: Callable[..., list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = {
        "full-0": model(rows, [0.9, 0.9, 0.9, 0.4], 0.5),  # three of four before the false alarm
        "full-1": model(rows, [0.9, 0.9, 0.9, 0.9], 0.5),
        "plain": model(rows, [0.4, 0.4, 0.6, 0.4], 0.5),
    }
    monkeypatch.setattr(pd_fa_curve, "load_trained", lambda folder, *_: models[folder.name])
    folders = with_configurations("full-0", "plain", "full-1")
    pd_fa_curve.main(["--dataset", saved_rows, "--models", *map(str, folders), "--fa", "0", "1000"])
    assert capsys.readouterr().out.splitlines() == [
        "| Pd in % at Fa, 1e-6, of at most | seeds | 0 | 1000 |",
        "|---|---|---|---|",
        "| full | 2 | 87.5 ± 17.7 | 100.0 ± 0.0 |",
        "| plain | 1 | 25.0 | 100.0 |",
    ]


def test_the_frames_without_a_label(
    rows: datasets.Dataset,
    saved_rows: str,
    tmp_path: Path,
    with_configurations: Callable[..., list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = apply_label_budget(rows, 0.5)
    datasets.DatasetDict({"train": known}).save_to_disk(str(tmp_path / "known"))
    predictions = {}
    for row, source in zip(rows, known["label_source"], strict=True):
        turn = model([row], [0.9 if source == "human" else 0.1], 0.5)
        predictions[read_frame(row["image"]).tobytes()] = turn.probabilities(None)
    knowing = SimpleNamespace(probabilities=lambda image: predictions[read_frame(image).tobytes()])
    monkeypatch.setattr(pd_fa_curve, "load_trained", lambda *_: knowing)
    command = ["--dataset", saved_rows, "--split", "train", "--models", *map(str, with_configurations("full"))]

    def row_of_the_table(*flags: str) -> str:
        pd_fa_curve.main([*command, "--fa", "0", "1000", *flags])
        return capsys.readouterr().out.splitlines()[2]

    assert row_of_the_table() == "| full | 1 | 50.0 | 100.0 |"
    assert row_of_the_table("--trained-on", str(tmp_path / "known")) == "| full | 1 | 0.0 | 100.0 |"


def test_a_student_on_disk_and_a_folder_that_holds_none(
    saved_rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    student = ScalpelStudentForSemanticSegmentation(ScalpelStudentConfig.from_size("nano")).eval()
    SegmentationStudent(student, InfraredImageProcessor()).save_pretrained(tmp_path / "student")
    pd_fa_curve.main(["--dataset", saved_rows, "--models", str(tmp_path / "student")])
    assert capsys.readouterr().out.splitlines()[2].startswith("| student | 1 |")
    monkeypatch.setattr("scalpel_hf.predictors.load.default_device", lambda: "meta")
    assert load_trained(tmp_path / "student").model.device.type == "meta"
    with pytest.raises(ValueError, match="absent holds no model"):
        pd_fa_curve.main(["--dataset", saved_rows, "--models", str(tmp_path / "absent")])
