"""Which frames a model may be measured on: those with a human's mask that it was not trained on."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import datasets
from huggingface_hub import hf_hub_download
from tqdm.auto import tqdm

from scalpel_hf.data import load_split
from scalpel_hf.data.contents import FrameKey
from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.data.label_sources import BY_PEOPLE
from scalpel_hf.data.prepared import has_mask
from scalpel_hf.evaluation.box_metrics import judged_by_boxes
from scalpel_hf.utils.files import write_json
from scalpel_hf.utils.reading import read_json

logger = logging.getLogger(__name__)

TRAINED_ON_FILE = "trained_on.json"  # in a trained model's folder
SHOWN = 5  # names in a message


@dataclass
class TrainedOn:
    """
    The frames whose labels, a human's or a teacher's, a model was trained on, or that chose its best step.

    Frames that it saw without a label, as background, are not among them: their masks had no part in it, and how well
    it labels them is what a teacher is measured by.
    """

    frames: list[FrameKey] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._pixels = {frame.pixels for frame in self.frames}
        self._looks: dict[str, list[str]] = {}
        for frame in self.frames:
            self._looks.setdefault(frame.name, []).append(frame.look)

    @classmethod
    def of(cls, rows: datasets.Dataset) -> "TrainedOn":
        """Made of rows with `name` and `image`; reads all images."""
        return cls(list(_keys(rows, "frames trained on")))

    def __add__(self, other: "TrainedOn | None") -> "TrainedOn":
        return TrainedOn([*self.frames, *(other.frames if other else [])])

    def holds(self, frame: FrameKey) -> bool:
        """Whether a frame is one of these: by its pixels whatever its name, or by its name where it looks alike too."""
        return frame.pixels in self._pixels or any(map(frame.looks_like, self._looks.get(frame.name, [])))

    def save(self, folder: str | Path) -> None:
        write_json(Path(folder) / TRAINED_ON_FILE, {"frames": self.frames})

    @classmethod
    def load(cls, model: str | Path) -> "TrainedOn | None":
        """
        What a model says that it was trained on; `None` where it doesn't say.

        Args:
            model: folder of a run or of its ONNX files, an ONNX file, or a repository on the Hub. For a folder of
                pseudo labels the answer is that of their teacher.

        Raises `ValueError`, naming the file, where that is damaged.
        """
        path = _find(model)
        if path is None:
            return None
        try:
            frames = [FrameKey(*map(str, frame)) for frame in read_json(path)["frames"]]
            if any(len(frame.look) != 16 or not frame.looks_like(frame.look) for frame in frames):
                raise ValueError("a hash is none")
            return cls(frames)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}): take it from where the model was trained") from error


def _find(model: str | Path) -> Path | None:
    here = Path(model)
    folder = here.parent if here.is_file() else here
    if folder.is_dir():
        places = (folder, folder.parent) if folder.name == "onnx" else (folder,)
        return next((p / TRAINED_ON_FILE for p in places if (p / TRAINED_ON_FILE).is_file()), None)
    for kind in ("model", "dataset"):  # pseudo labels say what their teacher was trained on
        try:
            return Path(hf_hub_download(str(model), TRAINED_ON_FILE, repo_type=kind))
        except Exception:  # whatever its HTTP library raises; a Hub that isn't reached is said by what loads it
            continue
    return None


def trained_on(models: Iterable[str | Path]) -> TrainedOn:
    """What any of several models was trained on; says so where one has no record of it."""
    known = TrainedOn()
    for model in models:
        record = TrainedOn.load(model)
        if record is None:
            logger.warning("note: %s doesn't say what it was trained on, so that isn't left out here", model)
        known = known + record
    return known


def rows_to_measure(dataset: str | Path, split: str, known: TrainedOn, remedy: str = "") -> datasets.Dataset:
    """
    The rows of a split that a model may be measured on, see [`with_labels`] and [`unseen_rows`].

    Args:
        known: what the model was trained on.
        remedy: what to do where the split isn't there, or can't be measured on: a flag that does without.
    """
    name = f"split {split!r} of {str(dataset)!r}"
    return unseen_rows(with_labels(load_split(dataset, split, remedy), name, remedy), known, name, remedy)


def with_labels(rows: datasets.Dataset, name: str, remedy: str = "") -> datasets.Dataset:
    """The rows, each of which has a mask to measure against or, where people drew boxes or points, their label."""
    if not judged_by_boxes(rows):
        return with_masks(rows, name, remedy)
    if none := [index for index, source in enumerate(rows["label_source"][:]) if source not in BY_PEOPLE]:
        raise ValueError(
            f"{name} can't be measured on: people labelled {len(rows) - len(none)} of its {len(rows)} frames, but not "
            f"{_listed(_names(rows.select(none)))}{remedy and '; ' + remedy}"
        )
    return rows


def with_masks(rows: datasets.Dataset, name: str, remedy: str = "") -> datasets.Dataset:
    """The rows; `ValueError`, before any work, unless each has a human's mask to measure against."""
    if "mask" not in rows.column_names:
        raise ValueError(f"{name} has no column `mask` to measure against{remedy and '; ' + remedy}")
    hidden = [index for index, is_there in enumerate(has_mask(rows)) if not is_there]
    if hidden:
        raise ValueError(
            f"{name} can't be measured on: {len(hidden)} of its {len(rows)} frames have no mask "
            f"({_listed(_names(rows.select(hidden)))}); name one with all masks{remedy and ', or ' + remedy}"
        )
    return rows


def unseen_rows(rows: datasets.Dataset, known: TrainedOn, name: str, remedy: str = "") -> datasets.Dataset:
    """The rows that a model was not trained on; says which are left out. `ValueError` where none is left."""
    seen = seen_rows(rows, known)
    if not seen:
        return rows
    names = _names(rows.select(sorted(seen)))
    if len(seen) == len(rows):
        raise ValueError(
            f"all {len(rows)} frames of {name} were trained on ({_listed(names)}), so nothing can be measured on them: "
            f"name other frames{remedy and ', or ' + remedy}"
        )
    logger.warning(
        "note: %d of the %d frames of %s were trained on and are left out: %s",
        *(len(seen), len(rows), name, _listed(names)),
    )
    return rows.select([index for index in range(len(rows)) if index not in seen])


def seen_rows(rows: datasets.Dataset, known: TrainedOn) -> set[int]:
    """Numbers of the rows that were trained on."""
    if not known.frames:
        return set()
    return {index for index, key in enumerate(_keys(rows, "frames to measure on")) if known.holds(key)}


def _keys(rows: datasets.Dataset, what: str) -> Iterator[FrameKey]:
    images = tqdm(undecoded(rows.select_columns(["image"])), what, leave=False, unit="frame")
    return (FrameKey.of(name, row["image"]) for name, row in zip(_names(rows), images, strict=True))


def _names(rows: datasets.Dataset) -> list[str]:
    return rows["name"][:] if "name" in rows.column_names else [f"row {index}" for index in range(len(rows))]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
