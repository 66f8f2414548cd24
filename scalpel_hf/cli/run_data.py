"""A job's frames: what is there, which are held out to measure on, and the folds where few are labelled."""

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
from scalpel_hf.evaluation.unseen import TrainedOn, unseen_rows
from scalpel_hf.formats.own_frames import load_own_frames
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.utils.files import work_folder
from scalpel_hf.utils.reading import read_json

from .prepare import save

TEST_SHARE = 0.25
LEAST_LABELS = 12  # of fewer frames none is held out: what is left would teach too little, and two frames say nothing
FOLDS = 3
BOTH, ALONE = "labels and pseudo labels", "labels alone"


def prepare(args: argparse.Namespace) -> None:
    """The prepared folder `OUT/data`, with frames to measure on where there are some, else the folds beside it."""
    data: Path = args.out / "data"
    if data.exists():
        return
    datasets.disable_progress_bars()
    with work_folder(data.resolve()) as work:
        rows = read(args, args.frames, args.labels, work / "train")
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
        say=print,
    )
    for line in left_out.lines():
        print(line)
    return rows


def frames_to_measure(args: argparse.Namespace, rows: datasets.Dataset, work: Path) -> datasets.Dataset:
    """Those of `--test` that are measured on, see [`kinds_to_measure`], and are not among the job's frames."""
    given = read(args, args.test, args.test_labels, work)
    test, _ = split_by_source(given, kinds_to_measure(given))
    if not len(test):
        raise ValueError(f"no frame of {args.test} has a label in {args.test_labels}: there is nothing to measure on")
    return unseen_rows(test, TrainedOn.of(rows), str(args.test))


def hold_out(rows: datasets.Dataset, seed: int) -> datasets.DatasetDict:
    """
    `train`, and `test` of a quarter of the frames that are measured on, see [`kinds_to_measure`]; where few are
    labelled, or all of one recording, `train` alone.
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
    if unused:
        print(f"left out {unused}: frames without such a label of recordings that are held out")
    return splits


def labels_of_one_recording(rows: datasets.Dataset) -> bool:
    """Whether several frames are labelled, and all of them of one recording."""
    of_people = [source in BY_PEOPLE for source in rows["label_source"][:]]
    labelled = [name for name, is_labelled in zip(recordings_of(rows), of_people, strict=True) if is_labelled]
    return len(labelled) > 1 == len({*labelled})


def folds(rows: datasets.Dataset, seed: int) -> list[datasets.DatasetDict]:
    """
    The labelled frames in up to `FOLDS` ways, each of which is measured once, as `test`, and else trained on.

    No recording is in both splits; none where all are of one.
    """
    rows, _ = split_by_source(rows, BY_PEOPLE)
    parts = folds_by_recording(rows, FOLDS, seed)
    if len(parts) < 2:
        if len(rows) < 2:
            print(f"no cross-validation either: it takes two labelled frames, here {len(rows)}")
        return []
    return [
        datasets.DatasetDict(
            {"train": rows.select(np.setdiff1d(np.arange(len(rows)), part)), "test": rows.select(part)}
        )
        for part in parts
    ]


def task_of(data: Path) -> str:
    """What a student of a prepared folder's labels is to give: boxes, `detection`, where people drew these and nothing
    else around targets; else masks, `segmentation`."""
    return "detection" if _kinds_of_targets(_trained_on(data)) == {BOX} else "segmentation"


def students_of(out: Path) -> dict[str, str]:
    """
    A job's students by their folders: what each learns from, `BOTH` or `ALONE`.

    `student` is the one that is exported. Of boxes it is that of the labels alone: no gain of pseudo labels was seen
    (docs/log.md). Where there are no pseudo labels, it is the only one.
    """
    if no_pseudo_labels(out):
        return {"student": ALONE}
    if task_of(out / "data") == "detection":
        return {"student-pseudo-labels": BOTH, "student": ALONE}
    return {"student": BOTH, "student-labels-alone": ALONE}


def no_pseudo_labels(out: Path) -> str:
    """Why no frame of a job has a pseudo label, and what to do, once that is known; else nothing."""
    file = out / "pseudo" / "summary.json"
    summary = read_json(file) if file.exists() else {}
    if summary.get("pseudo") == 0 and "problem" not in summary:
        return "people labelled every frame: give it frames without a label, too, for the teacher to label"
    return str(summary.get("problem", ""))


def describe_student(data: Path) -> str:
    """What a student of a prepared folder gives, where people drew boxes: a line to print; else nothing."""
    kinds = _kinds_of_targets(_trained_on(data))
    if kinds == {BOX}:
        return "the labels are boxes: so is what the student gives, a detector that learns from these alone"
    return "not all labels are boxes: the student gives masks" if BOX in kinds else ""


def labels_tell_scores(data: Path) -> bool:
    """Whether some of the frames that people labelled has a target; of others alone no scores can be learnt."""
    return bool(_kinds_of_targets(_trained_on(data)))


def _trained_on(data: Path) -> datasets.Dataset:
    return load_prepared(data)["train"]


def _kinds_of_targets(rows: datasets.Dataset) -> set[str]:
    """By what people labelled the targets of frames."""
    pairs = zip(rows["label_source"][:], rows["objects"][:], strict=True)
    return {source for source, objects in pairs if source in BY_PEOPLE and objects["bbox"]}


def describe(data: Path) -> str:
    """What a prepared folder holds: frames by split, their sizes and depths, how many are labelled and how."""
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
    """How many bits the frames have; one of each kind of file is read for that."""
    dtypes: dict[tuple[str | None, str], np.dtype] = {}
    for row in undecoded(rows.select_columns(["image"])):
        kind = kind_of_file(cell_content(row["image"]))
        if kind not in dtypes:
            dtypes[kind] = read_frame(row["image"]).dtype
    return " and ".join(sorted({str(8 * dtype.itemsize) for dtype in dtypes.values()}, key=int))


def _label(source: str, objects: dict | None) -> str:
    """What a frame has for a label, in words; nothing where it has none."""
    if source == HUMAN and not (objects and objects["bbox"]):
        return "no target"
    return {HUMAN: "a mask", BOX: "boxes", POINT: "points"}.get(source, "")
