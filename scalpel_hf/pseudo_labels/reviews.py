"""What a person decided about a data set's frames: a line a decision, and the rows that they make."""

import json
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import numpy as np

from scalpel_hf.formats.human_labels import HumanLabel, import_human_labels
from scalpel_hf.utils.reading import read_text

from .output import REVIEW_FOLDER

DECISIONS_FILE = "decisions.jsonl"
KINDS = ("accept", "reject", "mend", "undo")
REVIEW_FEATURE = {name: datasets.Value("string") for name in ("decision", "by", "at")}
NEEDED_COLUMNS = {"name", "image", "mask", "objects", "width", "height", "label_source"}


@dataclass(frozen=True)
class Decision:
    """
    What someone decided about one frame, which makes its row a `human` one.

    Args:
        name: the frame's.
        decision: `accept` (the label is right), `reject` (there is no target), `mend` (the label is `mask`), or `undo`
            (the frame is as if nobody had looked at it).
        by, at: who, and when: ISO 8601 with the offset from UTC.
        size: height and width of the frame.
        runs: the target's pixels, row by row, as first pixel and length of each run; none of them for no target.
    """

    name: str
    decision: str
    by: str
    at: str
    size: tuple[int, int]
    runs: tuple[int, ...] = ()

    def mask(self) -> np.ndarray:
        """The target `(H, W)`, bool."""
        return mask_of_runs(self.runs, self.size)


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def runs_of_mask(mask: np.ndarray) -> tuple[int, ...]:
    """First pixel and length of each run of target, row by row: `[[0, 1, 1], [0, 0, 1]]` has `(1, 2, 5, 1)`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask.ravel() != 0, [False]]).astype(np.int8)))
    starts, stops = edges[::2], edges[1::2]
    return tuple(np.stack([starts, stops - starts], axis=1).ravel().tolist())


def mask_of_runs(runs: Iterable[int], size: tuple[int, int]) -> np.ndarray:
    """
    The mask `(H, W)`, bool, of [`runs_of_mask`].

    Raises `ValueError` for runs that overlap, are out of order or leave the frame.
    """
    height, width = size
    numbers = list(runs)
    if not all(type(number) is int for number in numbers):
        raise ValueError("runs are whole numbers")
    pairs = np.array(numbers, dtype=np.int64)
    if len(pairs) % 2:
        raise ValueError("a run is a first pixel and a length: there is one number too many")
    starts, lengths = pairs[::2], pairs[1::2]
    stops = starts + lengths
    if (lengths < 1).any() or (starts[1:] < stops[:-1]).any() or (starts < 0).any() or (stops > height * width).any():
        raise ValueError(f"the runs are no mask of {width} × {height} pixels")
    flat = np.zeros(height * width, bool)
    for start, stop in zip(starts, stops, strict=True):
        flat[start:stop] = True
    return flat.reshape(height, width)


def append_decisions(folder: str | Path, decisions: Iterable[Decision]) -> None:
    """Add decisions to those of a data set's folder; they are on the disk when this returns."""
    path = Path(folder) / REVIEW_FOLDER / DECISIONS_FILE
    path.parent.mkdir(exist_ok=True)
    lines = "".join(json.dumps(asdict(decision), ensure_ascii=False) + "\n" for decision in decisions)
    with path.open("a+b") as file:
        file.truncate(_whole_lines(file))
        file.write(lines.encode())
        file.flush()
        os.fsync(file.fileno())


def read_decisions(folder: str | Path) -> dict[str, Decision]:
    """
    The last decision about each frame, by the frame's name; none for those that were undone.

    A last line that a crash has broken off is passed over with a warning. Raises `ValueError` naming the line for
    anything else that is no decision.
    """
    path = Path(folder) / REVIEW_FOLDER / DECISIONS_FILE
    decisions: dict[str, Decision] = {}
    if not path.exists():
        return decisions
    lines = read_text(path).split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            decision = _decision(json.loads(line))
        except json.JSONDecodeError:
            if number == len(lines):
                warnings.warn(f"{path}, line {number} was broken off and is passed over", stacklevel=2)
                continue
            raise ValueError(f"{path}, line {number} is no JSON: mend or remove it") from None
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"{path}, line {number} is no decision ({error}): mend or remove it") from error
        decisions.pop(decision.name, None)  # the order is that of the last decisions
        if decision.decision != "undo":
            decisions[decision.name] = decision
    return decisions


def with_reviews(rows: datasets.Dataset, folder: str | Path) -> datasets.Dataset:
    """
    The rows of a data set in a folder with what people decided there: a frame that someone has looked at is a `human`
    row with that mask, and `review` says who it was, when and what (`None` in other rows).

    The rows that are made so are held in memory; the others stay where they are. Raises `ValueError` where a decision
    is about a frame that isn't there or has another size.
    """
    decisions = read_decisions(folder)
    if not decisions:
        return rows
    place = {name: index for index, name in enumerate(rows["name"])}
    if unknown := [name for name in decisions if name not in place]:
        where = Path(folder) / REVIEW_FOLDER
        raise ValueError(f"{where} is about {len(unknown)} frames that {folder} lacks, such as {unknown[0]!r}")
    chosen = [place[name] for name in decisions]
    labels = [HumanLabel(d.name, d.mask(), f"{REVIEW_FOLDER} of {d.name!r}") for d in decisions.values()]
    reviewed = import_human_labels(rows.select(chosen), labels, keep_in_memory=True)
    said = [{"decision": d.decision, "by": d.by, "at": d.at} for d in decisions.values()]
    order = np.arange(len(rows))
    order[chosen] = len(rows) + np.arange(len(chosen))
    both = [_with_column(rows, [None] * len(rows)), _with_column(reviewed, said)]
    return datasets.concatenate_datasets(both).select(order)


def _with_column(rows: datasets.Dataset, values: Sequence[dict[str, str] | None]) -> datasets.Dataset:
    if "review" in rows.column_names:
        rows = rows.remove_columns("review")
    return rows.add_column("review", list(values), feature=REVIEW_FEATURE)


def _decision(entry: dict[str, Any]) -> Decision:
    height, width = entry.pop("size")
    decision = Decision(**entry | {"size": (height, width), "runs": tuple(entry["runs"])})
    if decision.decision not in KINDS:
        raise ValueError(f"`decision` is {decision.decision!r}, not one of {', '.join(KINDS)}")
    decision.mask()
    return decision


def _whole_lines(file: BinaryIO) -> int:
    """Where the last whole line ends; a crash may have broken off one that nobody was told is there."""
    end = file.seek(0, os.SEEK_END)
    if not end:
        return 0
    file.seek(end - 1)
    if file.read() == b"\n":
        return end
    file.seek(0)
    return file.read().rfind(b"\n") + 1
