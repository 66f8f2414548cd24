"""Several teachers that answer as one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import get_peft_model
from transformers import pipeline

from scalpel_hf import InfraredImageProcessor, ScalpelMoeConfig, Teacher
from scalpel_hf.export import export_teacher
from scalpel_hf.hub.standalone import save_standalone
from scalpel_hf.predictors.committee import Committee
from scalpel_hf.predictors.load import load_predictor
from scalpel_hf.predictors.prediction import Prediction
from scalpel_hf.predictors.sam import load_sam
from scalpel_hf.predictors.student import SegmentationStudent, new_student
from tests.small_models import SIZE, perturb, small_mobile_sam

FRAME = np.zeros((2, 3), np.uint8)


class Member:
    """Answers each frame with the same probability and spread."""

    def __init__(self, probability: float, spread: float | None = None):
        self.value, self.spread = probability, spread

    def predict(self, frames: list[np.ndarray]) -> list[Prediction]:
        spread = None if self.spread is None else np.full((2, 3), self.spread)
        return [Prediction(np.full((2, 3), self.value), spread) for _ in frames]

    def fingerprint(self) -> str:
        return f"{self.value} {self.spread}"


def test_the_mean_and_how_far_members_are_apart() -> None:
    committee = Committee([Member(0.2), Member(0.8), Member(0.8)])
    first, second = committee.predict([FRAME, FRAME])
    pooled = 4 ** (1 / 3) / (1 + 4 ** (1 / 3))  # the odds are 1/4, 4 and 4, whose geometric mean is the cube root of 4
    assert np.allclose(first.probability, pooled) and np.allclose(second.probability, pooled)
    assert np.allclose(first.spread, np.std([0.2, 0.8, 0.8]))
    assert np.array_equal(committee.probabilities(FRAME), first.probability)


def test_a_member_beyond_doubt_does_not_decide_alone() -> None:
    (answer,) = Committee([Member(0.0), Member(0.9999), Member(0.9999)]).predict([FRAME])
    assert answer.probability.min() > 0.9 and np.isfinite(answer.probability).all()


def test_the_spread_of_views_counts_too() -> None:
    """A member's views are those numbers whose mean and spread it gives: two at 0.1 and 0.3, two at 0.5."""
    (answer,) = Committee([Member(0.2, 0.1), Member(0.5, 0.0)]).predict([FRAME])
    assert np.allclose(answer.spread, np.std([0.1, 0.3, 0.5, 0.5]))


def test_one_member_is_that_teacher() -> None:
    (answer,) = Committee([Member(0.3)]).predict([FRAME])
    assert answer.spread is None and np.allclose(answer.probability, 0.3)
    (answer,) = Committee([Member(0.3, 0.2)]).predict([FRAME])
    assert np.allclose(answer.spread, 0.2)


def test_the_fingerprint_is_of_all_members() -> None:
    two = [Member(0.2), Member(0.8)]
    others = [Committee([Member(0.2)]), Committee([*two, Member(0.8)]), Committee(two[::-1])]
    assert Committee(two).fingerprint() == Committee([Member(0.2), Member(0.8)]).fingerprint()
    assert len({committee.fingerprint() for committee in [Committee(two), *others]}) == 4


def test_nobody_is_no_committee() -> None:
    with pytest.raises(ValueError, match="at least one member"):
        Committee([])


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[Teacher]:
    base = tmp_path_factory.mktemp("base") / "sam"
    small_mobile_sam().save_pretrained(str(base))
    made = []
    for levels in (["pixel", "mask"], ["mask"]):
        config = ScalpelMoeConfig(channels=8, levels=levels)
        model = get_peft_model(load_sam(base, SIZE), config)
        perturb(model)
        made.append(Teacher(model, InfraredImageProcessor(sam_size=SIZE)))
    return made


def test_saved_and_loaded_it_answers_the_same(teachers: list[Teacher], tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 4000, (40, 56)).astype(np.uint16)
    committee = Committee(teachers)
    committee.save_pretrained(tmp_path / "both")
    loaded = Teacher.from_pretrained(tmp_path / "both")
    assert isinstance(loaded, Committee) and loaded.fingerprint() == committee.fingerprint()
    bounded = [np.clip(teacher.probabilities(frame).astype(float), 1e-4, 1 - 1e-4) for teacher in teachers]
    odds = np.sqrt(np.prod([p / (1 - p) for p in bounded], axis=0))
    assert np.allclose(loaded.probabilities(frame), odds / (1 + odds), atol=1e-5)  # in another memory format
    for number, teacher in enumerate(teachers):
        teacher.save_pretrained(tmp_path / str(number))
    of_two = Teacher.from_pretrained([tmp_path / "0", tmp_path / "1"])
    assert np.array_equal(of_two.probabilities(frame), loaded.probabilities(frame))
    teachers[0].save_pretrained(tmp_path / "both")  # in its place one alone
    assert not isinstance(Teacher.from_pretrained(tmp_path / "both"), Committee)


def test_a_student_is_a_member(teachers: list[Teacher], tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 4000, (40, 56)).astype(np.uint16)
    student = new_student("segmentation", size="nano", normalization="range")
    student.model.eval()
    committee = Committee([teachers[0], student])
    committee.save_pretrained(tmp_path / "both")
    loaded = Teacher.from_pretrained(tmp_path / "both")
    assert [type(member) for member in loaded.members] == [Teacher, SegmentationStudent]
    assert loaded.fingerprint() == committee.fingerprint()
    assert np.allclose(loaded.probabilities(frame), committee.probabilities(frame), atol=1e-6)
    assert np.array_equal(student.predict([frame])[0].probability, student.probabilities(frame))
    with torch.no_grad():
        next(student.model.parameters()).add_(1e-3)
    assert committee.fingerprint() != loaded.fingerprint()


def test_a_member_of_another_kind_leaves_nothing_of_the_one_before(teachers: list[Teacher], tmp_path: Path) -> None:
    student = new_student("segmentation", size="nano", normalization="range")
    for second, expected in ((student, SegmentationStudent), (teachers[1], Teacher), (student, SegmentationStudent)):
        Committee([teachers[0], second]).save_pretrained(tmp_path / "both")
        loaded = Teacher.from_pretrained(tmp_path / "both")
        assert [type(member) for member in loaded.members] == [Teacher, expected]
        files = {path.name for path in (tmp_path / "both" / "committee-1").iterdir()}
        assert ("adapter_config.json" in files) == (expected is Teacher) != ("model.safetensors" in files)


def test_what_takes_one_model_says_so(teachers: list[Teacher], tmp_path: Path) -> None:
    Committee(teachers).save_pretrained(tmp_path / "both")
    for refused in (
        lambda: save_standalone(tmp_path / "both", tmp_path / "standalone"),
        lambda: export_teacher(Committee(teachers), tmp_path / "onnx"),
    ):
        with pytest.raises(ValueError, match="committee of 2 models"):
            refused()
    with pytest.warns(UserWarning, match="a committee of 2 teachers, a pipeline runs the first alone"):
        pipeline("infrared-small-target-detection", model=str(tmp_path / "both"))


def test_a_member_that_was_not_copied_is_not_looked_for_elsewhere(teachers: list[Teacher], tmp_path: Path) -> None:
    Committee(teachers).save_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "committee-1")
    with pytest.raises(ValueError, match=rf"{tmp_path} isn't a whole model \(there is no folder committee-1\)"):
        Teacher.from_pretrained(tmp_path)


def test_other_folders_than_its_own_are_refused(teachers: list[Teacher], tmp_path: Path) -> None:
    Committee(teachers).save_pretrained(tmp_path / "both")
    for content in (
        {"members": ["../elsewhere"]},
        {"members": "committee-1"},
        {"members": {"committee-1": "cat"}},
        {},
        [],
    ):
        (tmp_path / "both" / "committee.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"committee\.json|can't be loaded"):
            Teacher.from_pretrained(tmp_path / "both")


def test_members_are_loaded_as_teachers_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        Teacher.from_pretrained([tmp_path / "nowhere"])


def test_a_committee_in_a_subfolder(teachers: list[Teacher], tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 4000, (40, 56)).astype(np.uint16)
    student = new_student("segmentation", size="nano", normalization="range")
    Committee([teachers[0], teachers[1], student]).save_pretrained(tmp_path / "many" / "v2")
    here = Teacher.from_pretrained(tmp_path / "many" / "v2")
    above = Teacher.from_pretrained(tmp_path / "many", subfolder="v2")
    assert [type(member) for member in above.members] == [Teacher, Teacher, SegmentationStudent]
    assert np.array_equal(above.probabilities(frame), here.probabilities(frame))
    assert load_predictor(tmp_path / "many", subfolder="v2").fingerprint() == here.fingerprint()
