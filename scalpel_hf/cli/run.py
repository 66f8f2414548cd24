"""The whole job on one folder: from frames with labels for a few of them to a student that finds targets.

Examples:

    scalpel-hf run frames --labels masks --out runs/first
    scalpel-hf run frames --labels boxes.json --out runs/first
    scalpel-hf run recordings --every 10 --labels export.json --out runs/first --preset gpu
    scalpel-hf run frames --labels masks --test others --test-labels other-masks --out runs/first
    scalpel-hf run frames --labels masks --out runs/first --base-model models/mobile-sam --preset best

The command prints a summary of the frames and how long the job will take. Then it trains a teacher, which labels the
other frames. It trains one student on people's labels and pseudo labels and one on people's labels alone, and exports
a student to ONNX, also in 8 bits. It ends with OUT/report.html. After an interruption, run the same command again to
resume.

FRAMES is a folder of images, also in nested folders, of recordings or of multi-page images, or a text file that lists
such files. Frame 40 of flight.mp4 has the name flight_000040. LABELS is a folder of masks with the names of their
frames, or masks, boxes or points in the format of COCO, YOLO, Pascal VOC, Label Studio or plain JSON,
{"frame_7": [[x, y, width, height], [x, y]], "frame_8": []}. An empty mask or list means a frame without targets. If all
labels are boxes, the student is a detector and gives boxes.

The student is measured on the frames of `--test`; without it, on a quarter of the labelled frames. With fewer than 12
labelled frames, students of people's labels alone are cross-validated instead. The metrics are those of masks; if some
of these frames have boxes or points, those of boxes. Presets: `laptop` (two CPU cores), `gpu` (one GPU), `best` (as
long as it takes), `demo` (minutes, on small frames).
"""

import argparse
import hashlib
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path

from scalpel_hf.data import load_prepared
from scalpel_hf.data.frame_sources import RECORDING_SUFFIXES, listed_files
from scalpel_hf.utils.extras import check_detector_export, check_extra
from scalpel_hf.utils.files import write_json
from scalpel_hf.utils.image_files import visible_files
from scalpel_hf.utils.reading import read_json

from .mask_options import add_mask_grid, add_mask_options
from .numbers import COUNT, SEED
from .program import verb_parser
from .run_data import (
    BOTH,
    describe,
    describe_student,
    fold_folder,
    labels_tell_scores,
    no_pseudo_labels,
    prepare,
    students_of,
    task_of,
)
from .run_estimate import Estimate, estimate, minutes, trial_stages
from .small_sam import save_small_sam
from .stages import Stage, claim, run_stages

PRESETS = ("laptop", "gpu", "best", "demo")
MARKER = ".scalpel-run"
AGAIN = "the same command"
END = 2**20  # bytes at a file's start and end that are hashed
LABELLED = 2  # stages up to the pseudo labels, which decide on the stages after them
PATHS = ("frames", "labels", "test", "test_labels")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = verb_parser("run", __doc__)
    parser.add_argument("frames", type=Path, help="your frames")
    parser.add_argument("--labels", type=Path, required=True, help="masks, boxes or points for some of the frames")
    parser.add_argument("--out", type=Path, required=True, help="folder for all results")
    parser.add_argument("--test", type=Path, metavar="FRAMES", help="frames to measure on; nothing is trained on them")
    parser.add_argument("--test-labels", type=Path, metavar="LABELS", help="masks, boxes or points for those frames")
    parser.add_argument("--preset", choices=PRESETS, default="laptop", help="size of the job (default: %(default)s)")
    parser.add_argument(
        "--base-model", help="Segment Anything model for the teacher (default: a small one of random weights)"
    )
    parser.add_argument("--category", help="category or label that counts as target, if there are several")
    add_mask_options(parser)
    add_mask_grid(parser)
    parser.add_argument("--every", type=COUNT, default=1, help="take only every n-th frame of a recording")
    parser.add_argument("--max-frames", type=COUNT, help="take at most this many frames of a recording")
    parser.add_argument("--max-steps", type=COUNT, help="train for this many steps instead of the preset's number")
    parser.add_argument("--seed", type=SEED, default=0, help="seed of all random choices (default: %(default)s)")
    args = parser.parse_args(argv)
    if (args.test is None) != (args.test_labels is None):
        parser.error("--test and --test-labels go together")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    out: Path = args.out
    check_extra("onnx", "this job ends in ONNX files, and")
    if args.base_model is not None and not (out / "data").exists():
        check_base_model(args.base_model)
    claim(out, MARKER, settings(args))
    prepare(args)
    from scalpel_hf.training.contact_sheet import SHEET_FILE  # here, so that it answers at once

    from .run_figures import measure
    from .run_report import write_report

    print("\n" + describe(out / "data"), flush=True)
    if not (out / "sam").exists() and args.base_model is None:
        hide_loading_bars()
        save_small_sam(out / "sam")
        print("no Segment Anything model: the presets' teachers look at the frame alone (--base-model names one)")
    if line := describe_student(out / "data"):
        print(line)
    todo = stages(args)
    if not all(stage.done.exists() for stage in todo):
        if task_of(out / "data") == "detection":
            check_detector_export()
        print("\na few steps of each training, to say how long it will take")
        run_stages(out, trial_stages(out / "trial", trainings(args)), AGAIN)
        expected = estimate(out, trainings(args), [stage.name for stage in todo])
        check_room(out, expected)
        print(f"\nabout {minutes(expected.total)} on this machine, and {expected.gigabytes:.1f} GB in {out}")
        if "test" in load_prepared(out / "data"):
            print(f"held-out frames to look at while it trains: {out}/*/{SHEET_FILE}")
        run_stages(out, todo[:LABELLED], AGAIN, before=partial(tell_rest, todo, expected))
        todo = stages(args)  # again, because the pseudo labels decide which students are trained
        begin_anew_after_review(out)
        run_stages(out, todo, AGAIN, before=partial(tell_rest, todo, expected))
    hide_loading_bars()
    figures = measure(out)
    report = write_report(out, todo, figures)
    if figures is not None:
        write_json(out / "figures.json", asdict(figures))
        print(f"\n{figures.table()}\n{figures.verdict}".rstrip())
    if problem := no_pseudo_labels(out):
        print(f"\nno frame has a pseudo label, so the student learnt from people's labels alone: {problem}")
    print(f"\nreport: {report.resolve()}\nnext: scalpel-hf review {out / 'pseudo'}")
    print(f"or: scalpel-hf predict {out / 'student'} RECORDING --out boxes.jsonl --overlay seen.mp4")


def check_base_model(name: str) -> None:
    """Raise `ValueError` or `OSError` where no teacher can be built on this model, before the frames are prepared."""
    from scalpel_hf.predictors.sam import load_sam

    hide_loading_bars()
    load_sam(name)


def hide_loading_bars() -> None:
    """Hide the progress bars of transformers, which show only loading and saving here."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def settings(args: argparse.Namespace) -> dict[str, str]:
    """The settings of a job, by which a later run decides whether to resume; files are described by [`files_of`]."""
    values = {key: str(value) for key, value in vars(args).items() if key != "out"}
    return values | {key: files_of(getattr(args, key), args.out) for key in PATHS if getattr(args, key) is not None}


def files_of(path: Path, without: Path) -> str:
    """
    A file, a folder or a list of files in words: its path, the number of files and a hash of their names and contents.

    Args:
        without: folder whose files don't count, because the job itself writes them.
    """
    if path.is_dir():
        files = sorted(visible_files(path)[0])
    else:
        files = [path, *(file for _, file in listed_files(path))] if path.suffix.lower() == ".txt" else [path]
    outside = [f for f in files if f.is_file() and not f.resolve().is_relative_to(without.resolve())]
    listed = [f"{f} {content_of(f)}" for f in outside]
    digest = hashlib.sha256("\n".join(listed).encode(errors="surrogateescape")).hexdigest()
    return f"{path} of {len(listed)} files ({digest[:8]})"


def content_of(file: Path) -> str:
    """A file's size, and a hash of its content; of recordings that of the first and last megabyte, as they are long."""
    size = file.stat().st_size
    with file.open("rb") as content:
        digest = hashlib.sha256(content.read(END))
        if file.name.lower().endswith(RECORDING_SUFFIXES):
            content.seek(max(END, size - END))
        while block := content.read(END):
            digest.update(block)
    return f"{size} {digest.hexdigest()}"


def training(args: argparse.Namespace, verb: str, data: Path) -> list[str]:
    """
    The command of a training on a prepared folder, without `--output-dir`.

    It doesn't evaluate the model, because the report does.
    """
    command = [verb, "--config", f"presets/{args.preset}/{verb}", "--dataset", str(data), "--eval-split", ""]
    command += ["--watch-split", "test"] if "test" in load_prepared(data) else []
    command += ["--seed", str(args.seed)]
    command += [] if args.max_steps is None else ["--max-steps", str(args.max_steps)]
    command += ["--task", task_of(args.out / "data")] if verb == "transfer" else []
    return command + (["--base-model", args.base_model or str(args.out / "sam")] if verb == "distill" else [])


def trainings(args: argparse.Namespace) -> dict[str, list[str]]:
    """The commands of both trainings on the job's data, by their verb."""
    return {verb: training(args, verb, args.out / "data") for verb in ("distill", "transfer")}


def stages(args: argparse.Namespace) -> list[Stage]:
    """The stages of the job in order; until there are pseudo labels, it is assumed that there will be some."""
    out, train = args.out, trainings(args)
    data, teacher, pseudo = (out / name for name in ("data", "teacher", "pseudo"))
    label = ["label", "--dataset", str(data), "--teacher", str(teacher), "--out", str(pseudo)]
    label += ["--any-teacher", "--allow-none"]
    label += [] if labels_tell_scores(data) else ["--no-calibration"]
    pseudo_labels = ["--pseudo-labels", str(pseudo)]
    export = ["export", str(out / "student"), "--dataset", str(data), "--split", "train", "--int8"]
    folds = [fold_folder(out, number) for number in range(len(list((out / "folds").glob("*"))))]
    return [
        trained("teacher", teacher, train["distill"]),
        Stage("pseudo labels", pseudo / "summary.json", label),
        *(
            trained(f"student of {taught}", out / name, train["transfer"] + (pseudo_labels if taught == BOTH else []))
            for name, taught in students_of(out).items()
        ),
        *(
            trained(f"student {number} of {len(folds)} to cross-validate", fold / "student", command)
            for number, fold in enumerate(folds, 1)
            for command in [training(args, "transfer", fold / "data")]
        ),
        Stage("ONNX", out / "student" / "onnx" / "model_int8.onnx", export),
    ]


def begin_anew_after_review(out: Path) -> None:
    """Remove a half-trained student if people have decided about pseudo labels since: it can't go on with others."""
    from scalpel_hf.pseudo_labels.reviews import DECISIONS_FILE, REVIEW_FOLDER  # here, so that `--help` answers at once

    decisions, seen = out / "pseudo" / REVIEW_FOLDER / DECISIONS_FILE, out / "reviewed.json"
    now = content_of(decisions) if decisions.exists() else ""
    if seen.exists() and read_json(seen)["decisions"] != now:
        for student in (out / name for name, taught in students_of(out).items() if taught == BOTH):
            if student.exists() and not (student / "metrics.json").exists():
                print(f"\npeople have decided about pseudo labels since: {student} is trained anew")
                shutil.rmtree(student)
    write_json(seen, {"decisions": now})


def trained(name: str, folder: Path, command: list[str]) -> Stage:
    """The stage of a training whose result goes to `folder`."""
    return Stage(name, folder / "metrics.json", [*command, "--output-dir", str(folder)])


def check_room(out: Path, expected: Estimate) -> None:
    """Raise `ValueError` where the disk has less room than the job is expected to need."""
    free = shutil.disk_usage(out).free / 1e9
    if free < expected.gigabytes:
        raise ValueError(f"this takes about {expected.gigabytes:.1f} GB, and {out} has {free:.1f} GB left: make room")


def tell_rest(todo: list[Stage], expected: Estimate, stage: Stage) -> None:
    """Print the number and name of a stage that begins, and how long it and the rest will take."""
    rest = [s for s in todo[todo.index(stage) :] if not s.done.exists()]
    left = minutes(sum(expected.seconds[s.name] for s in rest))
    print(f"\n{stage.name}: {todo.index(stage) + 1} of {len(todo)}, about {left} to go in all", flush=True)
