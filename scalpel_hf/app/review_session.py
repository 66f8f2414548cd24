"""A person's review of pseudo labels, without the page: the frames in order, and decisions that are saved at once."""

import threading
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from filelock import FileLock, Timeout

from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.data.names import few
from scalpel_hf.data.prepared import holds_data_set
from scalpel_hf.data.pseudo_columns import PSEUDO_FEATURES, is_above
from scalpel_hf.data.stored import load_stored
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.pseudo_labels.output import REVIEW_FOLDER
from scalpel_hf.pseudo_labels.reviews import (
    NEEDED_COLUMNS,
    Decision,
    add_to_history,
    append_decisions,
    decisions_about,
    hash_frame,
    mask_of_runs,
    now,
    runs_of_mask,
)
from scalpel_hf.utils.visualization import gray, level

from .certainty import rank, target_of
from .server import ConflictError


class ReviewSession:
    """
    The frames of a run that a teacher has labelled, least certain first, and people's decisions about them.

    Earlier decisions are loaded, see [`decisions_about`]. A run has one session at a time; it ends with `close`.

    Args:
        run: folder that `scalpel-hf label` made.
        reviewer: name of the person who decides.

    Raises `ValueError` for a folder without pseudo labels, and where another program is reviewing it.
    """

    def __init__(self, run: str | Path, reviewer: str):
        self.folder, self.reviewer = Path(run), reviewer
        self.rows = load_pseudo_labelled(self.folder)
        (self.folder / REVIEW_FOLDER).mkdir(exist_ok=True)
        self._one_at_a_time = FileLock(self.folder / REVIEW_FOLDER / "lock")
        try:
            self._one_at_a_time.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"{self.folder} is being reviewed already: end that program first") from None
        self._lock = threading.Lock()
        self.names = self.rows["name"][:]
        self.decisions = decisions_about(self.rows, self.folder)
        self.order = rank(self.rows, self.folder / REVIEW_FOLDER)
        objects, sources = self.rows.select_columns("pseudo_objects"), self.rows["label_source"]
        self.empty = [
            sources[index] == "pseudo" and not objects[index]["pseudo_objects"]["area"] for index, _ in self.order
        ]

    def close(self) -> None:
        self._one_at_a_time.release()

    def queue(self) -> list[dict[str, Any]]:
        """
        The frames, least certain first.

        Each has the `index` of its row, its `name` and `certainty`, whether it is `empty` by the teacher's label, and
        the `decision` with the time `at`, both `None` without one.
        """
        return [
            {
                "index": index,
                "name": self.names[index],
                "certainty": sure,
                "empty": empty,
                **self._decided(index),
            }
            for (index, sure), empty in zip(self.order, self.empty, strict=True)
        ]

    def _decided(self, index: int) -> dict[str, str | None]:
        return last_of(self.decisions.get(self.names[index]))

    def frame(self, index: int) -> dict[str, Any]:
        """
        A frame's `name`, `height`, `width`, the teacher's `objects`, `decision` and `at` as in [`queue`], and masks as
        runs of pixels.

        The masks are the teacher's targets (`teacher`), what quality control rejected (`ignored`), and the person's
        targets (`person`, `None` without a decision).
        """
        row = self._row(index)
        size = (row["height"], row["width"])
        taken, left_open = target_of(row, size), np.zeros(size, bool)
        if row["pseudo_confidence"] is not None:
            left_open = is_above(read_frame(row["pseudo_confidence"]), row["teacher"]["threshold"]) & ~taken
        past = self.decisions.get(row["name"])
        return {
            **last_of(past),
            "name": row["name"],
            "height": size[0],
            "width": size[1],
            "objects": row["pseudo_objects"] or {"bbox": [], "score": [], "area": []},
            "teacher": runs_of_mask(taken),
            "ignored": runs_of_mask(left_open),
            "person": past[-1].runs if past else None,
        }

    def picture(self, index: int, what: str) -> bytes:
        """
        A picture of the row `index` as the content of a PNG file, 8 bits gray.

        Args:
            what: `frame`, which is stretched to 8 bits; anything else is the teacher's probability.

        Raises `ValueError` for an unknown row, and where there is no prediction.
        """
        row = self._row(index)
        if what == "frame":
            image = gray(read_frame(row["image"]).astype(np.float32)).convert("L")
        elif row["pseudo_confidence"] is None:
            raise ValueError(f"{row['name']} has no prediction of a teacher")
        else:
            image = level(read_frame(row["pseudo_confidence"]).astype(np.float32) / 255).convert("L")
        content = BytesIO()
        image.save(content, "PNG", compress_level=1)
        return content.getvalue()

    def decide(self, wishes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """
        Save decisions: all of them, or none if one is wrong.

        Args:
            wishes: each with the row's `index` and the `decision`; for `mend` also `runs`. `undo` restores the decision
                before the frame's last, if there was one. `known`, if given, is the time `at` of the last decision that
                the person has seen, or `None`.

        Returns `index`, `decision` and `at` of each, as in [`queue`]. Raises `ValueError` for an unknown row or
        decision, for a frame that can't be read, and for runs that don't describe a mask of the frame; `ConflictError`
        where a frame's last decision isn't the one that is `known`.
        """
        decisions = [self._decision(wish) for wish in wishes]
        with self._lock:
            stale = [w["index"] for w in wishes if "known" in w and w["known"] != self._decided(w["index"])["at"]]
            if stale:
                names = few([self.names[index] for index in stale])
                raise ConflictError(f"not saved: decided meanwhile in another tab, look again: {names}")
            append_decisions(self.folder, decisions)
            for decision in decisions:
                add_to_history(self.decisions, decision)
        return [{"index": wish["index"], **self._decided(wish["index"])} for wish in wishes]

    def _decision(self, wish: dict[str, Any]) -> Decision:
        index, kind = wish.get("index"), wish.get("decision")
        row = self._row(index)
        past = self.decisions.get(row["name"], [])
        if kind == "undo" and len(past) > 1:
            return past[-2]  # counts again when it is written again
        size = (row["height"], row["width"])
        if kind == "accept":
            runs = runs_of_mask(target_of(row, size))
        elif kind == "mend":
            if not isinstance(wish.get("runs"), list):
                raise ValueError("`mend` needs `runs`, a list")
            runs = tuple(wish["runs"])
            mask_of_runs(runs, size)
        elif kind in ("reject", "undo"):
            runs = ()
        else:
            raise ValueError(f"{kind!r} is no decision")
        return Decision(
            name=row["name"],
            decision=kind,
            by=self.reviewer,
            at=now(),
            size=size,
            frame=hash_frame(row),
            runs=runs,
        )

    def _row(self, index: Any) -> dict[str, Any]:
        if type(index) is not int or not 0 <= index < len(self.names):
            raise ValueError(f"there is no row {index!r}")
        with self._lock:
            return self.rows[index]


def last_of(past: list[Decision] | None) -> dict[str, str | None]:
    return {"decision": past[-1].decision, "at": past[-1].at} if past else {"decision": None, "at": None}


def load_pseudo_labelled(folder: Path) -> datasets.Dataset:
    """The rows of a folder with pseudo labels, without people's decisions and with images undecoded. Raises
    `ValueError` for another folder."""
    if not holds_data_set(folder) and holds_data_set(folder / "pseudo"):
        raise ValueError(f"{folder} is a folder of several steps: name the labels' own, {folder / 'pseudo'}")
    if not holds_data_set(folder):
        raise ValueError(f"{folder} holds no pseudo labels: name a folder that `scalpel-hf label` made")
    rows = load_stored(folder)
    if isinstance(rows, datasets.DatasetDict):
        if len(rows) != 1:
            raise ValueError(f"{folder} has the splits {', '.join(rows)}: pseudo labels have one")
        rows = next(iter(rows.values()))
    if missing := {*NEEDED_COLUMNS, *PSEUDO_FEATURES} - set(rows.column_names):
        raise ValueError(f"{folder} lacks the columns {', '.join(sorted(missing))}: it holds no pseudo labels")
    return undecoded(rows)
