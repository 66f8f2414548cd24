"""The frames of a job: reads them, holds some out to measure on, or makes folds if few frames are labelled."""

import argparse
from collections import Counter
from pathlib import Path

import datasets
import numpy as np

from scalpel_hf.data import load_prepared, split_by_source
from scalpel_hf.data.frame_sources import LeftOut
from scalpel_hf.data.image_cells import cell_content, kind_of_file, undecoded
from scalpel_hf.data.label_sources import BOX, BY_PEOPLE, HUMAN, POINT
from scalpel_hf.data.masks import MaskValues
from scalpel_hf.data.splits import folds_by_recording, kinds_to_measure, recordings_of, split_by_recording
from scalpel_hf.evaluation.unseen import TrainedOn, unseen_rows, without_copies
from scalpel_hf.formats.own_frames import load_own_frames
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.utils.files import work_folder
from scalpel_hf.utils.reading import read_json

from .prepare import save

TEST_SHARE = 0.25  # of the labelled frames
LEAST_LABELS = 12  # with fewer, none is held out: too few would remain to train on, and to measure on
FOLDS = 3
BOTH, ALONE = "labels and pseudo labels", "labels alone"  # what a student was trained on


def prepare(args: argparse.Namespace) -> None:
    """
    Write the prepared folder `OUT/data`, unless it exists.

    It has a split `test` where frames can be held out or are given. Otherwise folds are written to `OUT/folds`. Raises
    `ValueError` where no labelled frame shows a target.
    """
    data: Path = args.out / "data"
    if data.exists():
        return
    datasets.disable_progress_bars()
    with work_folder(data.resolve()) as work:
        rows = read(args, frames=args.frames, labels=args.labels, work=work / "train")
        if not _kinds_of_targets(rows):
            raise ValueError(f"no labelled frame of {args.frames} shows a target to learn from: label some that do")
        if args.test is None:
            splits = hold_out(rows, args.seed)
        else:
            splits = datasets.DatasetDict({"train": rows, "test": frames_to_measure(args, rows, work / "test")})
        if "test" not in splits:
            for number, fold in enumerate(folds(rows, args.seed)):
                fold.save_to_disk(str(fold_folder(args.out, number) / "data"))
        save(splits, data)


def fold_folder(out: Path, number: int) -> Path:
    return out / "folds" / str(number)


def read(args: argparse.Namespace, frames: Path, labels: Path, work: Path) -> datasets.Dataset:
    """Load frames with their labels, and print what is left out. `work` is a folder for files of the frames."""
    left_out = LeftOut()
    rows = load_own_frames(
        frames,
        work,
        left_out,
        labels=labels,
        category=args.category,
        mask_values=MaskValues.stated(args.mask_values, args.ignore_value),
        every=args.every,
        max_frames=args.max_frames,
        mask_grid=args.mask_grid,
        say=print,
    )
    for line in left_out.lines():
        print(line)
    return rows


def frames_to_measure(args: argparse.Namespace, rows: datasets.Dataset, work: Path) -> datasets.Dataset:
    """
    The frames of `--test` with labels that can be measured by, see [`kinds_to_measure`].

    Frames that are also among the `rows` to train on are left out. Raises `ValueError` where none has a label.
    """
    given = read(args, frames=args.test, labels=args.test_labels, work=work)
    test, _ = split_by_source(given, kinds_to_measure(given))
    if not len(test):
        raise ValueError(f"no frame of {args.test} has a label in {args.test_labels}: there is nothing to measure on")
    return unseen_rows(test, TrainedOn.of(rows), str(args.test))


def hold_out(rows: datasets.Dataset, seed: int) -> datasets.DatasetDict:
    """
    Split rows into `train` and `test`.

    `test` has a quarter of the frames with labels that can be measured by, see [`kinds_to_measure`]; no recording is in
    both splits. Where few frames are labelled, or all are of one recording, there is only `train`, and the reason is
    printed.
    """
    labels = sum(source in BY_PEOPLE for source in rows["label_source"][:])
    if labels_of_one_recording(rows):
        print(
            f"no frame is held out to measure on, and none cross-validated: all {labels} labelled frames are of one "
            "recording, whose frames are alike. Label some of another one too, or measure on it: --test, --test-labels"
        )
        return datasets.DatasetDict({"train": rows})
    if labels < LEAST_LABELS:
        print(f"none of {labels} labelled frames is held out to measure on: from {LEAST_LABELS} on a quarter is")
        return datasets.DatasetDict({"train": rows})
    try:
        splits, unused = split_by_recording(rows, {"test": TEST_SHARE}, seed)
    except ValueError as error:
        print(f"no frame is held out to measure on: {error}")
        return datasets.DatasetDict({"train": rows})
    notes = [f"left out {unused}: frames without such a label of recordings that are held out"] if unused else []
    splits["train"] = without_copies(splits["train"], of=splits["test"], say=notes.append)
    if not _kinds_of_targets(splits["train"]):
        notes = ["no frame is held out to measure on: those to train on would show no target. Label more that do"]
        splits = datasets.DatasetDict({"train": rows})
    for note in notes:
        print(note)
    return splits


def labels_of_one_recording(rows: datasets.Dataset) -> bool:
    """Whether at least two frames are labelled, and all labelled frames are of the same recording."""
    of_people = [source in BY_PEOPLE for source in rows["label_source"][:]]
    labelled = [name for name, is_labelled in zip(recordings_of(rows), of_people, strict=True) if is_labelled]
    return len(labelled) > 1 == len({*labelled})


def folds(rows: datasets.Dataset, seed: int) -> list[datasets.DatasetDict]:
    """
    Folds of the labelled frames for cross-validation, `FOLDS` or fewer.

    In each fold, another part of the frames is `test` and the others, without copies of these, are `train`. No
    recording is in both. Returns no folds where all labelled frames are of one recording, or a fold would have no
    target to learn from.
    """
    rows, _ = split_by_source(rows, BY_PEOPLE)
    parts = folds_by_recording(rows, FOLDS, seed)
    if len(parts) < 2:
        if len(rows) < 2:
            print(f"no cross-validation either: it takes two labelled frames, here {len(rows)}")
        return []
    made = []
    for part in parts:
        test, others = rows.select(part), rows.select(np.setdiff1d(np.arange(len(rows)), part))
        made.append(datasets.DatasetDict({"train": without_copies(others, of=test, say=print), "test": test}))
    if not all(_kinds_of_targets(fold["train"]) for fold in made):
        print("no cross-validation either: a part to train on would show no target")
        return []
    return made


def task_of(data: Path) -> str:
    """The task of a student for a prepared folder: `detection` where people labelled all targets by boxes, else
    `segmentation`."""
    return "detection" if _kinds_of_targets(_train_split(data)) == {BOX} else "segmentation"


def students_of(out: Path) -> dict[str, str]:
    """
    The students of a job: what each is trained on, `BOTH` or `ALONE`, by the name of its folder.

    The one in the folder `student` is exported. If all labels are boxes, that is the one trained on people's labels
    alone: pseudo labels are not shown to raise a detector's F1 (docs/results.md). Without these labels there is only
    this one.
    """
    if no_pseudo_labels(out):
        return {"student": ALONE}
    if task_of(out / "data") == "detection":
        return {"student-pseudo-labels": BOTH, "student": ALONE}
    return {"student": BOTH, "student-labels-alone": ALONE}


def no_pseudo_labels(out: Path) -> str:
    """Why no frame of a job has a pseudo label, and what to do; empty where some have, or before they are made."""
    file = out / "pseudo" / "summary.json"
    summary = read_json(file) if file.exists() else {}
    if summary.get("pseudo") == 0 and "problem" not in summary:
        return "people labelled every frame: give it frames without a label, too, for the teacher to label"
    return str(summary.get("problem", ""))


def describe_student(data: Path) -> str:
    """A line to print on what the student gives, masks or boxes; empty where people drew no boxes."""
    kinds = _kinds_of_targets(_train_split(data))
    if kinds == {BOX}:
        return "the labels are boxes: so is what the student gives, a detector that learns from these alone"
    return "not all labels are boxes: the student gives masks" if BOX in kinds else ""


def labels_tell_scores(data: Path) -> bool:
    """Whether scores can be calibrated: people labelled at least one frame that has a target."""
    return bool(_kinds_of_targets(_train_split(data)))


def _train_split(data: Path) -> datasets.Dataset:
    return load_prepared(data)["train"]


def _kinds_of_targets(rows: datasets.Dataset) -> set[str]:
    """The kinds of labels, such as `human` and `box`, with which people labelled frames that have targets."""
    pairs = zip(rows["label_source"][:], rows["objects"][:], strict=True)
    return {source for source, objects in pairs if source in BY_PEOPLE and objects["bbox"]}


def describe(data: Path) -> str:
    """A line for each split of a prepared folder: number, sizes and bits of its frames, and how many are labelled."""
    lines = []
    for split, rows in load_prepared(data).items():
        kinds = Counter(map(_label, rows["label_source"][:], rows["objects"][:]))
        sizes = Counter(zip(rows["width"][:], rows["height"][:], strict=True))
        shown = ", ".join(f"{width} × {height}" for (width, height), _ in sizes.most_common(3))
        many = f" and {len(sizes) - 3} other sizes" if len(sizes) > 3 else ""
        labelled = " and ".join(f"{count} with {kind}" for kind, count in kinds.items() if kind)
        lines.append(
            f"{split}: {len(rows)} frames of {shown}{many} pixels, {_bits(rows)} bits; {labelled or 'no label'}"
        )
    return "\n".join(lines)


def _bits(rows: datasets.Dataset) -> str:
    """The bits per pixel of the frames, such as `8 and 16`; one frame of each file type is read to find out."""
    dtypes: dict[tuple[str | None, str], np.dtype] = {}
    for row in undecoded(rows.select_columns(["image"])):
        kind = kind_of_file(cell_content(row["image"]))
        if kind not in dtypes:
            dtypes[kind] = read_frame(row["image"]).dtype
    return " and ".join(sorted({str(8 * dtype.itemsize) for dtype in dtypes.values()}, key=int))


def _label(source: str, objects: dict | None) -> str:
    """A frame's label in words; empty where it has none."""
    if source == HUMAN and not (objects and objects["bbox"]):
        return "no target"
    return {HUMAN: "a mask", BOX: "boxes", POINT: "points"}.get(source, "")
