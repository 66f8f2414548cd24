"""Frames for evaluation: those that people labelled and the model was not trained on."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import datasets
from huggingface_hub import hf_hub_download
from tqdm.auto import tqdm

from scalpel_hf.data import load_split
from scalpel_hf.data.contents import FrameKey
from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.data.label_sources import BOX, BY_PEOPLE, POINT
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
    The frames with whose labels (people's or pseudo) a model was trained, or its best step was chosen.

    Frames used without their label, as background, are not included: a teacher may be evaluated on them.
    """

    frames: list[FrameKey] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._pixels = {frame.pixels for frame in self.frames}
        self._looks: dict[str, list[str]] = {}
        for frame in self.frames:
            self._looks.setdefault(frame.name, []).append(frame.look)

    @classmethod
    def of(cls, rows: datasets.Dataset) -> "TrainedOn":
        """The record of rows with `name` and `image`; reads all images."""
        return cls(list(_keys(rows, "frames trained on")))

    def __add__(self, other: "TrainedOn | None") -> "TrainedOn":
        return TrainedOn([*self.frames, *(other.frames if other else [])])

    def holds(self, frame: FrameKey) -> bool:
        """Whether a frame is one of these: same pixels, or same name and similar image."""
        return frame.pixels in self._pixels or any(map(frame.looks_like, self._looks.get(frame.name, [])))

    def save(self, folder: str | Path) -> None:
        write_json(Path(folder) / TRAINED_ON_FILE, {"frames": self.frames})

    @classmethod
    def load(cls, model: str | Path) -> "TrainedOn | None":
        """
        Read the record of a model; `None` if it has none.

        Args:
            model: folder of a run or of its ONNX files, an ONNX file, or a repository on the Hub. A folder or
                repository of pseudo labels has the record of their teacher.

        Raises `ValueError`, which names the file, if it is damaged.
        """
        path = find_in_model(model, TRAINED_ON_FILE)
        if path is None:
            return None
        try:
            frames = [FrameKey(*map(str, frame)) for frame in read_json(path)["frames"]]
            if any(len(frame.look) != 16 or not frame.looks_like(frame.look) for frame in frames):
                raise ValueError("an image hash is malformed")
            return cls(frames)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}): copy it again from the folder of the training") from error


def find_in_model(model: str | Path, name: str) -> Path | None:
    """A file beside a model's weights, in its folder or repository; `None` if it isn't there."""
    here = Path(model)
    folder = here.parent if here.is_file() else here
    if folder.is_dir():
        places = (folder, folder.parent) if folder.name == "onnx" else (folder,)
        return next((place / name for place in places if (place / name).is_file()), None)
    for kind in ("model", "dataset"):  # a repository of pseudo labels has the record of their teacher
        try:
            return Path(hf_hub_download(str(model), name, repo_type=kind))
        except Exception:  # of the HTTP library; if the Hub can't be reached, loading the model says so
            continue
    return None


def trained_on(models: Iterable[str | Path]) -> TrainedOn:
    """The frames that any of several models was trained on; logs a warning for models without a record."""
    known = TrainedOn()
    for model in models:
        record = TrainedOn.load(model)
        if record is None:
            logger.warning("note: %s has no record of what it was trained on, so those frames can't be left out", model)
        known = known + record
    return known


def rows_to_measure(dataset: str | Path, split: str, known: TrainedOn, remedy: str = "") -> datasets.Dataset:
    """
    The rows of a split on which a model can be evaluated: labelled, and not among those it was trained on.

    Args:
        dataset: folder or repository.
        split: name of the split.
        known: what the model was trained on.
        remedy: appended to error messages, such as a flag to skip the evaluation.

    Raises `ValueError` if the split doesn't exist, has rows without a label, or no row is left.
    """
    name = f"split {split!r} of {str(dataset)!r}"
    rows = with_labels(load_split(dataset, split, remedy), name, remedy)
    return unseen_rows(rows, known, name=name, remedy=remedy)


def with_labels(rows: datasets.Dataset, name: str, remedy: str = "") -> datasets.Dataset:
    """The rows; `ValueError` unless people labelled each: by masks, or in part by boxes or points."""
    if not judged_by_boxes(rows):
        return with_masks(rows, name, remedy)
    sources = rows["label_source"][:]
    objects = rows["objects"][:] if "objects" in rows.column_names else [None] * len(rows)
    if empty := [i for i, (s, o) in enumerate(zip(sources, objects, strict=True)) if s in (BOX, POINT) and o is None]:
        raise ValueError(
            f"{name} can't be used for evaluation: {_listed(_names(rows.select(empty)))} should have boxes or points "
            f"by `label_source`, but no `objects`{remedy and '; ' + remedy}"
        )
    if none := [index for index, source in enumerate(sources) if source not in BY_PEOPLE]:
        raise ValueError(
            f"{name} can't be used for evaluation: people labelled {len(rows) - len(none)} of its {len(rows)} frames, "
            f"but not {_listed(_names(rows.select(none)))}{remedy and '; ' + remedy}"
        )
    return rows


def with_masks(rows: datasets.Dataset, name: str, remedy: str = "") -> datasets.Dataset:
    """The rows; `ValueError` unless each has a person's mask. Reads no image."""
    if "mask" not in rows.column_names:
        raise ValueError(f"{name} has no column `mask` to evaluate with{remedy and '; ' + remedy}")
    hidden = [index for index, is_there in enumerate(has_mask(rows)) if not is_there]
    if hidden:
        raise ValueError(
            f"{name} can't be used for evaluation: {len(hidden)} of its {len(rows)} frames have no mask "
            f"({_listed(_names(rows.select(hidden)))}); name one with all masks{remedy and ', or ' + remedy}"
        )
    return rows


def unseen_rows(rows: datasets.Dataset, known: TrainedOn, name: str, remedy: str = "") -> datasets.Dataset:
    """The rows that a model was not trained on; logs which are left out. `ValueError` if no row is left."""
    seen = seen_rows(rows, known)
    if not seen:
        return rows
    names = _names(rows.select(sorted(seen)))
    if len(seen) == len(rows):
        raise ValueError(
            f"all {len(rows)} frames of {name} were trained on ({_listed(names)}), so the model can't be evaluated on "
            f"them: name other frames, or rename these if others had their names{remedy and ', or ' + remedy}"
        )
    logger.warning(
        "note: %d of the %d frames of %s were trained on and are left out: %s",
        *(len(seen), len(rows), name, _listed(names)),
    )
    return rows.select([index for index in range(len(rows)) if index not in seen])


def seen_rows(rows: datasets.Dataset, known: TrainedOn) -> set[int]:
    """Indices of the rows that were trained on."""
    if not known.frames:
        return set()
    return {index for index, key in enumerate(_keys(rows, "frames to measure on")) if known.holds(key)}


def without_copies(
    rows: datasets.Dataset, of: datasets.Dataset, say: Callable[[str], object] | None = None
) -> datasets.Dataset:
    """The rows whose frames are not among those `of` other rows, under another name; `say` gets how many are."""
    copies = seen_rows(rows, TrainedOn.of(of))
    if not copies:
        return rows
    if say is not None:
        say(f"left out {len(copies)}: copies of frames that are held out, under other names")
    return rows.select([index for index in range(len(rows)) if index not in copies])


def _keys(rows: datasets.Dataset, what: str) -> Iterator[FrameKey]:
    images = tqdm(undecoded(rows.select_columns(["image"])), what, leave=False, unit="frame")
    return (FrameKey.of(name, row["image"]) for name, row in zip(_names(rows), images, strict=True))


def _names(rows: datasets.Dataset) -> list[str]:
    return rows["name"][:] if "name" in rows.column_names else [f"row {index}" for index in range(len(rows))]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
