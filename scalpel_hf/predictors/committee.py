"""A committee: an ensemble of teachers, or of a teacher and students."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError
from peft import PeftModel

from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.utils.files import write_json
from scalpel_hf.utils.reading import read_json

from .prediction import Prediction
from .sam import load_adapted
from .strict_loading import ADAPTER_CONFIG, COMMITTEE_FILE, MEMBER_FOLDERS, loading
from .student import SegmentationStudent
from .teacher import Teacher

TEACHER, STUDENT = "teacher", "student"
TEACHER_FILES, STUDENT_FILES = (ADAPTER_CONFIG, "adapter_model.safetensors"), ("config.json", "model.safetensors")
LEAST_PROBABILITY = 1e-4  # members are clipped to it and to 1 minus it, so that none decides alone


class Committee(Teacher):
    r"""
    An ensemble of teachers, or of teachers and students.

    Members seldom agree on a false alarm, so most of these average away. Predictions are combined by their log-odds,
    \(\operatorname{logit} p = \overline{\operatorname{logit} p_m}\), which gives confident members more weight than
    the mean of probabilities (a logarithmic opinion pool; Genest and Zidek, Combining probability distributions, 1986).
    With \(s_m\) a member's standard deviation over its views, that over members and views is
    \(\sqrt{\overline{p_m^2 + s_m^2} - \overline{p_m}^2}\), and is the prediction's `spread`.

    Args:
        members: the first one a teacher; their bases may differ. Students predict without flips and scales.

    Examples:
        >>> committee = Teacher.from_pretrained(["runs/teacher-0", "runs/teacher-1"])  # doctest: +SKIP
        >>> committee.probabilities("frame.png").shape  # doctest: +SKIP
        (256, 256)
    """

    def __init__(self, members: Sequence[Teacher | SegmentationStudent]):
        if not members:
            raise ValueError("a committee needs at least one member")
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
                f"this is a committee of {len(self.members)} models, where a single teacher is needed: name the folder "
                "of one teacher, or train a student on the committee's pseudo labels"
            )
        return self.model

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the first member's files as [`Teacher.save_pretrained`] does, and a subfolder for each other member."""
        folders = [member_folder(number) for number in range(len(self.members))]
        for name, member in zip(folders, self.members, strict=True):
            place = Path(folder) / name
            of_others = TEACHER_FILES if isinstance(member, SegmentationStudent) else STUDENT_FILES
            for file in of_others:  # of a member of the other kind, saved there before
                (place / file).unlink(missing_ok=True)
            member.save_pretrained(place)
        kinds = [STUDENT if isinstance(member, SegmentationStudent) else TEACHER for member in self.members]
        write_json(Path(folder) / COMMITTEE_FILE, {"members": dict(zip(folders[1:], kinds[1:], strict=True))})

    def to(self, device: torch.device | str) -> "Committee":
        for member in self.members:
            member.to(device)
        return self

    def predict(self, frames: Sequence[Any]) -> list[Prediction]:
        """See [`Teacher.predict`]; `spread` is over members and their views."""
        arrays = [read_frame(frame) for frame in frames]
        of_members = [member.predict(arrays) for member in self.members]
        return [_combined(predictions) for predictions in zip(*of_members, strict=True)]

    def fingerprint(self) -> str:
        """Hash of the members' fingerprints in their order."""
        members = [member.fingerprint() for member in self.members]
        return hashlib.sha256(" ".join(members).encode()).hexdigest()[:32]


def _combined(predictions: Sequence[Prediction]) -> Prediction:
    if len(predictions) == 1:
        return predictions[0]
    each = np.stack([p.probability for p in predictions])
    inside = np.clip(each, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    probability = 1 / (1 + np.exp(-np.mean(np.log(inside / (1 - inside)), axis=0)))
    squares = [p.probability**2 + (0 if p.spread is None else p.spread**2) for p in predictions]
    spread = np.sqrt(np.maximum(np.mean(squares, axis=0) - each.mean(0) ** 2, 0))
    return Prediction(probability, spread)


def load_members(
    name: str | Path,
    base: str | Path | None,
    dtype: torch.dtype | None,
    *,
    hub: dict[str, Any],
    settings: dict[str, Any],
) -> list[Teacher | SegmentationStudent]:
    """
    Load the members of the committee in a folder or repository, or its single teacher.

    Args:
        name, base, dtype: see [`Teacher.from_pretrained`].
        hub: `revision`, `subfolder`, `token`, `cache_dir` and `local_files_only`, if given.
        settings: further arguments of [`Teacher`].
    """

    def load_teacher(**of_hub: Any) -> Teacher:
        model, processor = load_adapted(name, base, dtype, **of_hub)
        return Teacher(model.to(memory_format=torch.channels_last), processor, **settings)  # 7 % faster on a CPU

    members: list[Teacher | SegmentationStudent] = [load_teacher(**hub)]
    above = hub.get("subfolder", "")
    for member, kind in other_members(name, **hub).items():
        folder = f"{above}/{member}" if above else member
        if kind == STUDENT:
            members.append(SegmentationStudent.from_pretrained(local_folder(name, **{**hub, "subfolder": folder})))
        else:
            members.append(load_teacher(**{**hub, "subfolder": folder}))
    return members


def member_folder(number: int) -> str:
    """Subfolder of a committee's member; the first member lies in the folder itself, beside `COMMITTEE_FILE`."""
    return MEMBER_FOLDERS.replace("*", str(number)) if number else ""


def other_members(name_or_path: str | Path, **hub: Any) -> dict[str, str]:
    """
    Subfolders of a committee's members after the first, each with its kind, `teacher` or `student`.

    Empty if the folder or repository holds a single teacher. Raises `ValueError` if the committee's file is damaged.
    """
    path = Path(name_or_path) / hub.get("subfolder", "") / COMMITTEE_FILE
    if not Path(name_or_path).is_dir():
        try:
            path = Path(hf_hub_download(str(name_or_path), COMMITTEE_FILE, **hub))
        except (EntryNotFoundError, OSError, ValueError):
            return {}  # if the repository is the problem, loading the adapter raises an error
    if not path.is_file():
        return {}
    with loading(name_or_path, COMMITTEE_FILE):
        members = read_json(path)["members"]
        kinds = set(members.values())
    allowed = [member_folder(number) for number in range(1, len(members) + 1)]
    if list(members) != allowed or not kinds <= {TEACHER, STUDENT}:
        raise ValueError(f"{path} names the members {members}, where {allowed}, teachers or students, are expected")
    return members


def local_folder(name_or_path: str | Path, subfolder: str, **hub: Any) -> Path:
    """Local path of a subfolder. (Loaded as `subfolder`, a student would get the adapter in the folder above.)"""
    if Path(name_or_path).is_dir():
        return Path(name_or_path) / subfolder
    return Path(snapshot_download(str(name_or_path), allow_patterns=f"{subfolder}/*", **hub)) / subfolder
