"""People's reviews of pseudo labels: a file with a line for each decision, and the rows that result."""

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

from scalpel_hf.data.contents import FrameKey
from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.data.label_sources import BY_PEOPLE
from scalpel_hf.data.names import few
from scalpel_hf.formats.human_labels import HumanLabel, import_human_labels
from scalpel_hf.utils.reading import read_bytes

from .output import REVIEW_FOLDER

DECISIONS_FILE = "decisions.jsonl"
KINDS = ("accept", "reject", "mend", "undo")
REVIEW_FEATURE = {name: datasets.Value("string") for name in ("decision", "by", "at")}
NEEDED_COLUMNS = {"name", "image", "mask", "objects", "width", "height", "label_source"}


@dataclass(frozen=True)
class Decision:
    """
    A person's decision about one frame. Its row becomes a `human` one.

    Args:
        name: of the frame.
        decision: `accept` (the label is right), `reject` (there is no target), `mend` (the person drew another mask),
            or `undo` (all earlier decisions about the frame are void).
        by: the person.
        at: the time, ISO 8601 with the offset from UTC.
        size: height and width of the frame.
        frame: hash of the frame's pixels, see [`FrameKey`].
        runs: the target's pixels in run-length encoding, see [`runs_of_mask`]; empty without a target.
    """

    name: str
    decision: str
    by: str
    at: str
    size: tuple[int, int]
    frame: str
    runs: tuple[int, ...] = ()

    def mask(self) -> np.ndarray:
        """The target mask `(H, W)`, bool."""
        return mask_of_runs(self.runs, self.size)


def now() -> str:
    """The time for `at`, so exact that two decisions of one person differ."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def runs_of_mask(mask: np.ndarray) -> tuple[int, ...]:
    """
    Run-length encoding of a mask `(H, W)`: first pixel and length of each run of target pixels, in row-major order.

    Examples:
        >>> runs_of_mask(np.array([[0, 1, 1], [0, 0, 1]]))
        (1, 2, 5, 1)
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask.ravel() != 0, [False]]).astype(np.int8)))
    starts, stops = edges[::2], edges[1::2]
    return tuple(np.stack([starts, stops - starts], axis=1).ravel().tolist())


def mask_of_runs(runs: Iterable[int], size: tuple[int, int]) -> np.ndarray:
    """
    The mask `(H, W)`, bool, of a run-length encoding from [`runs_of_mask`].

    Raises `ValueError` if runs overlap, are out of order or leave the frame.
    """
    height, width = size
    numbers = list(runs)
    if not all(type(number) is int for number in numbers):
        raise ValueError("runs are whole numbers")
    pairs = np.array(numbers, dtype=np.int64)
    if len(pairs) % 2:
        raise ValueError("a run is two numbers, first pixel and length: the last length is missing")
    starts, lengths = pairs[::2], pairs[1::2]
    stops = starts + lengths
    if (lengths < 1).any() or (starts[1:] < stops[:-1]).any() or (starts < 0).any() or (stops > height * width).any():
        raise ValueError(f"the runs overlap, are out of order or leave the frame of {width} × {height} pixels")
    flat = np.zeros(height * width, bool)
    for start, stop in zip(starts, stops, strict=True):
        flat[start:stop] = True
    return flat.reshape(height, width)


def append_decisions(folder: str | Path, decisions: Iterable[Decision]) -> None:
    """Append decisions to the file in a data set's folder, and sync it to the disk. Raises `OSError` where they can't
    be written; then none of them is there."""
    path = Path(folder) / REVIEW_FOLDER / DECISIONS_FILE
    path.parent.mkdir(exist_ok=True)
    lines = "".join(json.dumps(asdict(decision), ensure_ascii=False) + "\n" for decision in decisions)
    with path.open("a+b") as file:
        _complete_last_line(file)
    end = path.stat().st_size
    try:
        with path.open("ab") as file:
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        os.truncate(path, end)
        raise


def read_history(folder: str | Path) -> dict[str, list[Decision]]:
    """
    All decisions about each frame since the last `undo`, oldest first, by the frame's name; see [`add_to_history`].

    If a crash left the last line incomplete, it is skipped with a warning. Raises `ValueError`, which names the line,
    if another line isn't a decision.
    """
    path = Path(folder) / REVIEW_FOLDER / DECISIONS_FILE
    history: dict[str, list[Decision]] = {}
    if not path.exists():
        return history
    lines = read_bytes(path).split(b"\n")  # each is decoded alone, since the last may end inside a character
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            decision = _parse_decision(json.loads(line))
        except (json.JSONDecodeError, UnicodeDecodeError):
            if number == len(lines):
                warnings.warn(f"{path}, line {number} is incomplete and is skipped", stacklevel=2)
                continue
            raise ValueError(f"{path}, line {number} isn't JSON: correct or remove it") from None
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"{path}, line {number} isn't a decision ({error}): correct or remove it") from error
        add_to_history(history, decision)
    return history


def add_to_history(history: dict[str, list[Decision]], decision: Decision) -> None:
    """Add a decision to those of its frame. `undo` voids them all; one that is among them is restored: those after it
    are void."""
    past = history.pop(decision.name, [])  # so that the order is that of the last decisions
    if decision in past:
        past = past[: past.index(decision)]
    if decision.decision != "undo":
        history[decision.name] = [*past, decision]


def decisions_about(rows: datasets.Dataset, folder: str | Path) -> dict[str, list[Decision]]:
    """
    The decisions about each frame, as [`read_history`], without those that don't fit the data set.

    A run may have been labelled again from other data. One warning names the frames whose last decision is skipped,
    since the data set has no such frame, another one of that name, or a person's label that isn't from a review.

    Args:
        rows: the data set.
        folder: that it was loaded from, with the decisions.
    """
    history = read_history(folder)
    if not history:  # other data sets may have no names
        return history
    place = {name: index for index, name in enumerate(rows["name"])}
    fitting = {}
    for row in undecoded(rows.select([place[name] for name in history if name in place])):
        past = history[row["name"]]
        about_this = [decision for decision in past if _fits(decision, row)]
        if about_this[-1:] == past[-1:]:
            fitting[row["name"]] = about_this
    if skipped := [name for name in history if name not in fitting]:
        warnings.warn(
            f"{Path(folder) / REVIEW_FOLDER}: decisions about {few(skipped)} are skipped: the data set has no such "
            "frame, another one of that name, or a newer label",
            stacklevel=2,
        )
    return fitting


def _fits(decision: Decision, row: dict[str, Any]) -> bool:
    """Whether a decision is about the frame of an undecoded row, which no person has labelled but in a review."""
    if row["label_source"] in BY_PEOPLE and not row.get("review"):
        return False
    try:
        return decision.frame == hash_frame(row)
    except ValueError:  # nobody can have decided about a frame that can't be read
        return False


def hash_frame(row: dict[str, Any]) -> str:
    """Hash of the pixels of a row's frame. Raises `ValueError`, which names it, if it can't be read."""
    return FrameKey.of(row["name"], row["image"]).pixels


def with_reviews(rows: datasets.Dataset, folder: str | Path) -> datasets.Dataset:
    """
    A data set with people's decisions applied: each reviewed frame becomes a `human` row with the decided mask.

    Decisions that don't fit the data set are skipped with a warning, see [`decisions_about`]. The column `review` holds
    `decision`, `by` and `at`, and is `None` in other rows. Reviewed rows are held in memory; the others stay on disk.

    Args:
        rows: the data set.
        folder: that it was loaded from, with the decisions.
    """
    decisions = {name: past[-1] for name, past in decisions_about(rows, folder).items()}
    if not decisions:
        return rows
    place = {name: index for index, name in enumerate(rows["name"])}
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


def _parse_decision(entry: Any) -> Decision:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise TypeError("it has no `name`, which is text")
    height, width = entry.pop("size")
    decision = Decision(**entry | {"size": (height, width), "runs": tuple(entry["runs"])})
    if decision.decision not in KINDS:
        raise ValueError(f"`decision` is {decision.decision!r}, not one of {', '.join(KINDS)}")
    decision.mask()
    return decision


def _complete_last_line(file: BinaryIO) -> None:
    """Write the end of the last line where an editor left it out; cut off a line that a crash left incomplete."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(end - 1, 0))
    if file.read() in (b"", b"\n"):
        return
    file.seek(0)
    content = file.read()
    start = content.rfind(b"\n") + 1
    try:
        json.loads(content[start:])
    except ValueError:
        file.truncate(start)
    else:
        file.write(b"\n")
