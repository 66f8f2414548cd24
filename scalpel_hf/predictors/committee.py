"""Several teachers that predict as one."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .prediction import Prediction
from .teacher import Teacher


class Committee:
    r"""
    The mean of several teachers' probabilities, and how far they are apart.

    What one teacher takes for a target by chance the others seldom do, so false alarms average away. Over members m,
    each with mean \(p_m\) and spread \(s_m\) over its views, the probability is \(p = \overline{p_m}\) and the spread
    \(\sqrt{\overline{p_m^2 + s_m^2} - p^2}\).

    Args:
        members: teachers, of one base or of several.
        predicted_iou: whether Segment Anything is asked, by the first member, how well it would outline an object.

    Example:

        committee = Committee.from_pretrained(["runs/teacher-0", "runs/teacher-1", "runs/teacher-2"])
        committee.probabilities("frame.png")  # (H, W)
    """

    def __init__(self, members: Sequence[Teacher], predicted_iou: bool = True):
        if not members:
            raise ValueError("a committee has at least one member")
        self.members, self.predicted_iou = list(members), predicted_iou

    @classmethod
    def from_pretrained(cls, names: Sequence[str | Path], *args: Any, **kwargs: Any) -> "Committee":
        """Each of `names` as [`Teacher.from_pretrained`] loads it, which says what else may be given."""
        return cls([Teacher.from_pretrained(name, *args, **kwargs) for name in names])

    def to(self, device: torch.device | str) -> "Committee":
        for member in self.members:
            member.model.to(device)
        return self

    def probabilities(self, frame: Any) -> np.ndarray:
        """See [`Teacher.probabilities`]."""
        return self.predict([frame])[0].probability

    def predict(self, frames: Sequence[Any]) -> list[Prediction]:
        """See [`Teacher.predict`]; the spread is over members and their views."""
        of_members = [member.predict(frames) for member in self.members]
        return [self._joined(predictions) for predictions in zip(*of_members, strict=True)]

    def _joined(self, predictions: Sequence[Prediction]) -> Prediction:
        probability = np.mean([a.probability for a in predictions], axis=0)
        squares = [a.probability**2 + (0 if a.spread is None else a.spread**2) for a in predictions]
        spread = np.sqrt(np.maximum(np.mean(squares, axis=0) - probability**2, 0))
        asked: Callable[[np.ndarray], np.ndarray] | None = predictions[0].predicted_iou if self.predicted_iou else None
        return Prediction(probability, spread if len(predictions) > 1 else predictions[0].spread, asked)

    def fingerprint(self) -> str:
        """Hash of everything a prediction depends on, whatever the members' order."""
        members = sorted(member.fingerprint() for member in self.members)
        return hashlib.sha256(f"{members} {self.predicted_iou}".encode()).hexdigest()[:32]
