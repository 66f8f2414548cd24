"""Is a teacher worth labelling with: the comparison, what is said of it, and whether it may label."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from scalpel_hf.data import SyntheticInfrared, apply_label_budget, human_labelled
from scalpel_hf.data.masks import TARGET, read_row_mask
from scalpel_hf.evaluation import unseen
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.training.guard import Probabilities, can_compare, check_teacher, compare_with_small_network, verdict


@pytest.fixture(scope="module")
def labelled() -> datasets.Dataset:
    rows = SyntheticInfrared(size=(40, 56), n_targets=(1, 2), extent=(2, 5), seed=3).to_dataset(10)
    return human_labelled(apply_label_budget(rows, 1.0), "here")


def answers_from(labelled: datasets.Dataset, blind: str) -> Any:
    """Arms that know every mask, but for one that sees nothing; and what they were trained on."""
    truth = {read_frame(row["image"]).tobytes(): read_row_mask(row) == TARGET for row in labelled}
    seen: list[tuple[str, int, set[str]]] = []

    def train_arm(arm: str, fold: int, rows: datasets.Dataset) -> Probabilities:
        seen.append((arm, fold, set(rows["name"])))

        def probabilities(image: Any) -> np.ndarray:
            mask = truth[read_frame(image).tobytes()].astype(np.float32)
            return 0 * mask if arm == blind else mask

        return probabilities

    return train_arm, seen


def test_each_frame_is_measured_by_what_has_not_seen_it(labelled: datasets.Dataset) -> None:
    train_arm, seen = answers_from(labelled, blind="small network")
    record = compare_with_small_network(train_arm, labelled, seed=0)
    assert record["frames"] == 10
    assert record["teacher"]["iou"] == 1 and record["small network"]["iou"] == 0
    assert record["lead"]["iou"] == [1, 1, 1]
    assert [(arm, fold) for arm, fold, _ in seen] == [
        ("teacher", 0),
        ("teacher", 1),
        ("small network", 0),
        ("small network", 1),
    ]
    assert not seen[0][2] & seen[1][2] and seen[0][2] | seen[1][2] == set(labelled["name"])
    assert seen[0][2] == seen[2][2] and seen[1][2] == seen[3][2]


def test_frames_of_one_recording_are_in_one_half(labelled: datasets.Dataset) -> None:
    names = labelled["name"]
    recordings = ["a"] * 4 + ["b"] * 3 + [""] * 3
    rows = labelled.add_column("recording", recordings)
    train_arm, seen = answers_from(labelled, blind="small network")
    record = compare_with_small_network(train_arm, rows, seed=0)
    halves = [names for arm, _, names in seen if arm == "teacher"]
    for recording in (names[:4], names[4:7]):
        assert sorted(len(half & set(recording)) for half in halves) == [0, len(recording)]
    assert record["frames"] == 10 and record["lead"]["iou"] == [1, 1, 1]
    assert can_compare(rows) and can_compare(labelled)
    assert not can_compare(rows.select(range(7)))
    assert not can_compare(labelled.add_column("recording", ["a"] * 10))


def test_no_half_holds_copies_of_the_other(labelled: datasets.Dataset) -> None:
    copies = labelled.map(lambda row: {"name": f"copy of {row['name']}"})
    train_arm, seen = answers_from(labelled, blind="small network")
    compare_with_small_network(train_arm, datasets.concatenate_datasets([labelled, copies]), seed=0)
    first, second = ({name.removeprefix("copy of ") for name in names} for _, _, names in seen[:2])
    assert first and second and not first & second


@pytest.mark.parametrize(
    ("lead", "words"),
    [
        (
            [0.1, 0.02, 0.2],
            "the teacher is better than a small network trained on the same labels: IoU +10.0 (+2.0 to +20.0)",
        ),
        ([-0.1, -0.2, -0.02], "a small network trained on the same labels is better than the teacher: IoU -10.0"),
        ([0.01, -0.1, 0.1], "do not differ significantly: IoU +1.0 (-10.0 to +10.0) on 34 labelled frames"),
    ],
)
def test_verdict(lead: list[float], words: str) -> None:
    metrics = {"iou": 0.5, "niou": 0.5, "pd": 1.0, "fa": 30.0}
    record = {"frames": 34, "teacher": metrics, "small network": metrics, "lead": {"iou": lead}}
    assert words in verdict(record)
    assert "50.0 / 50.0 / 100.0 / 30" in verdict(record)


def test_a_beaten_teacher_labels_only_when_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = {"iou": 0.5, "niou": 0.5, "pd": 1.0, "fa": 30.0}
    record = {"frames": 34, "teacher": metrics, "small network": metrics}
    said: list[str] = []

    def write(lead: list[float]) -> None:
        (tmp_path / "metrics.json").write_text(json.dumps({"guard": {**record, "lead": {"iou": lead}}}))

    write([-0.1, -0.2, -0.02])
    with pytest.raises(ValueError, match=r"better than the teacher.*--any-teacher"):
        check_teacher(tmp_path, False, said.append)
    with monkeypatch.context() as on_hub:
        on_hub.setattr(unseen, "hf_hub_download", lambda repo_id, name, repo_type: tmp_path / name)
        with pytest.raises(ValueError, match=r"better than the teacher.*--any-teacher"):
            check_teacher("org/beaten", False, said.append)
    assert not said
    check_teacher(tmp_path, True, said.append)
    assert "is better than the teacher" in said.pop()
    write([0.01, -0.1, 0.1])
    check_teacher(tmp_path, False, said.append)
    assert "do not differ significantly" in said.pop()
    check_teacher(tmp_path / "elsewhere", False, said.append)
    assert "was not compared" in said.pop()
