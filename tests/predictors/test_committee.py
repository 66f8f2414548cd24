"""Several teachers that predict as one."""

from pathlib import Path

import numpy as np
import pytest

from scalpel_hf.predictors.committee import Committee
from scalpel_hf.predictors.prediction import Prediction

FRAME = np.zeros((2, 3), np.uint8)


class Member:
    """Answers each frame with the same probability and spread."""

    def __init__(self, probability: float, spread: float | None = None):
        self.value, self.spread = probability, spread

    def predict(self, frames: list[np.ndarray]) -> list[Prediction]:
        spread = None if self.spread is None else np.full((2, 3), self.spread)
        value = self.value
        return [Prediction(np.full((2, 3), value), spread, lambda boxes: np.full(len(boxes), value)) for _ in frames]

    def fingerprint(self) -> str:
        return f"{self.value} {self.spread}"


def test_the_mean_and_how_far_members_are_apart() -> None:
    committee = Committee([Member(0.2), Member(0.8), Member(0.8)])
    first, second = committee.predict([FRAME, FRAME])
    assert np.allclose(first.probability, 0.6) and np.allclose(second.probability, 0.6)
    assert np.allclose(first.spread, np.std([0.2, 0.8, 0.8]))
    assert np.array_equal(committee.probabilities(FRAME), first.probability)


def test_the_spread_of_views_counts_too() -> None:
    """A member's views are those numbers whose mean and spread it gives: two at 0.1 and 0.3, two at 0.5."""
    (prediction,) = Committee([Member(0.2, 0.1), Member(0.5, 0.0)]).predict([FRAME])
    assert np.allclose(prediction.spread, np.std([0.1, 0.3, 0.5, 0.5]))


def test_one_member_is_that_teacher() -> None:
    (prediction,) = Committee([Member(0.3)]).predict([FRAME])
    assert prediction.spread is None and np.allclose(prediction.probability, 0.3)
    (prediction,) = Committee([Member(0.3, 0.2)]).predict([FRAME])
    assert np.allclose(prediction.spread, 0.2)


def test_sam_is_asked_once_and_only_where_it_should() -> None:
    members = [Member(0.2), Member(0.8)]
    boxes = np.zeros((5, 4))
    asked = Committee(members).predict([FRAME])[0].predicted_iou
    assert asked is not None and np.array_equal(asked(boxes), np.full(5, 0.2))
    assert Committee(members, predicted_iou=False).predict([FRAME])[0].predicted_iou is None


def test_the_fingerprint_is_of_the_members_in_any_order() -> None:
    two = [Member(0.2), Member(0.8)]
    assert Committee(two).fingerprint() == Committee(two[::-1]).fingerprint()
    others = [Committee([Member(0.2)]), Committee([*two, Member(0.8)]), Committee(two, predicted_iou=False)]
    assert len({committee.fingerprint() for committee in [Committee(two), *others]}) == 4


def test_nobody_is_no_committee() -> None:
    with pytest.raises(ValueError, match="at least one member"):
        Committee([])


def test_members_are_loaded_as_teachers_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        Committee.from_pretrained([tmp_path / "nowhere"])
