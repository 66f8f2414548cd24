"""Several teachers that answer as one."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError
from peft import PeftModel

from scalpel_hf.modeling.image_processing_infrared import read_frame
from scalpel_hf.utils.files import write_json
from scalpel_hf.utils.reading import read_json

from .prediction import Prediction
from .pretrained import COMMITTEE_FILE, MEMBER_FOLDERS, loading
from .student import SegmentationStudent
from .teacher import Teacher

TEACHER, STUDENT = "teacher", "student"
LEAST_PROBABILITY = 1e-4  # of a member: one that is beyond doubt can't decide alone


class Committee(Teacher):
    r"""
    Several teachers, or a teacher and students, that answer as one, and how far they are apart.

    What one takes for a target by chance the others seldom do, so false alarms average away. The probability has the
    mean of the members' log-odds, \(\operatorname{logit} p = \overline{\operatorname{logit} p_m}\), in which a member
    that is sure counts for more than in the mean of probabilities (a logarithmic opinion pool; Genest and Zidek 1986).
    With each member's spread \(s_m\) over its views, the spread is \(\sqrt{\overline{p_m^2 + s_m^2} -
    \overline{p_m}^2}\). Segment Anything's own estimate of an object is the first member's.

    Args:
        members: of one base or of several, the first one a teacher. `flips` and `scales` are the teachers': a student
            sees the frame as it is.

    Example:

        committee = Teacher.from_pretrained(["runs/teacher-0", "runs/teacher-1", "runs/teacher-2"])
        committee.probabilities("frame.png")  # (H, W)
    """

    def __init__(self, members: Sequence[Teacher | SegmentationStudent]):
        if not members:
            raise ValueError("a committee has at least one member")
        vars(self).update(vars(members[0]))
        self.folder = None
        self._members = list(members)

    @property
    def members(self) -> list[Teacher | SegmentationStudent]:
        return self._members

    @property
    def one_model(self) -> PeftModel:
        if len(self.members) > 1:
            raise ValueError(
                f"{len(self.members)} teachers answer together here, and this takes one: name a folder of one that was "
                "trained alone, or let them label for a student"
            )
        return self.model

    def save_pretrained(self, folder: str | Path) -> None:
        """The first member's files, as [`Teacher.save_pretrained`] writes them, and a folder for each other one."""
        folders = [member_folder(number) for number in range(len(self.members))]
        for name, member in zip(folders, self.members, strict=True):
            member.save_pretrained(Path(folder) / name)
        kinds = [STUDENT if isinstance(member, SegmentationStudent) else TEACHER for member in self.members]
        write_json(Path(folder) / COMMITTEE_FILE, {"members": dict(zip(folders[1:], kinds[1:], strict=True))})

    def to(self, device: torch.device | str) -> "Committee":
        for member in self.members:
            member.to(device)
        return self

    def predict(self, frames: Sequence[Any]) -> list[Prediction]:
        """See [`Teacher.predict`]; the spread is over members and the teachers' views."""
        arrays = [read_frame(frame) for frame in frames]
        of_members = [member.predict(arrays) for member in self.members]
        return [_joined(predictions) for predictions in zip(*of_members, strict=True)]

    def fingerprint(self) -> str:
        """Hash of everything a prediction depends on, the members' order too: the first one estimates overlaps."""
        members = [member.fingerprint() for member in self.members]
        return hashlib.sha256(" ".join(members).encode()).hexdigest()[:32]


def _joined(predictions: Sequence[Prediction]) -> Prediction:
    if len(predictions) == 1:
        return predictions[0]
    each = np.stack([p.probability for p in predictions])
    inside = np.clip(each, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    probability = 1 / (1 + np.exp(-np.mean(np.log(inside / (1 - inside)), axis=0)))
    squares = [p.probability**2 + (0 if p.spread is None else p.spread**2) for p in predictions]
    spread = np.sqrt(np.maximum(np.mean(squares, axis=0) - each.mean(0) ** 2, 0))
    return Prediction(probability, spread, predictions[0].predicted_iou)


def member_folder(number: int) -> str:
    """Where in a committee's folder a member is: the first lies beside the file that names the others."""
    return MEMBER_FOLDERS.replace("*", str(number)) if number else ""


def other_members(name_or_path: str | Path, **hub: Any) -> dict[str, str]:
    """The folders of a committee's other members in a folder or repository, each with its kind, `teacher` or `student`;
    none where it is of one teacher."""
    path = Path(name_or_path) / COMMITTEE_FILE
    if not Path(name_or_path).is_dir():
        try:
            path = Path(hf_hub_download(str(name_or_path), COMMITTEE_FILE, **hub))
        except (EntryNotFoundError, OSError, ValueError):  # what is wrong with the repository the adapter's load tells
            return {}
    if not path.is_file():
        return {}
    with loading(name_or_path, COMMITTEE_FILE):
        members = read_json(path)["members"]
        if isinstance(members, list):  # of before there were students
            members = dict.fromkeys(members, TEACHER)
        kinds = set(members.values())
    allowed = [member_folder(number) for number in range(1, len(members) + 1)]
    if list(members) != allowed or not kinds <= {TEACHER, STUDENT}:
        raise ValueError(f"{path} names {members} where a committee's members are {allowed}, teachers or students")
    return members


def local_folder(name_or_path: str | Path, folder: str, **hub: Any) -> Path:
    """A folder of a folder or repository, here; transformers would take the adapter beside it for the model's own."""
    if Path(name_or_path).is_dir():
        return Path(name_or_path) / folder
    return Path(snapshot_download(str(name_or_path), allow_patterns=f"{folder}/*", **hub)) / folder
