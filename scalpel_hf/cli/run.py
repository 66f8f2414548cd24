"""The whole job on one folder: from frames with labels for a few of them to a student that finds targets.

Examples:

    scalpel-hf run frames --labels masks --out runs/first
    scalpel-hf run recordings --every 10 --labels export.json --out runs/first --preset gpu
    scalpel-hf run frames --labels masks --out runs/first --base-model models/mobile-sam --preset best

Says what is there and how long it will take, then holds a part of the labelled frames out, trains a teacher, has it
label the other frames, trains a student on all of that and one on the labels alone, and exports the student to ONNX, in
8 bits too. It ends with OUT/report.html. Run it again after Ctrl-C or a kill and it resumes.

FRAMES are images in nested folders, recordings, files of several pages, or a text file that lists those; the labels a
folder of masks called like their frames, a COCO file or Label Studio's export. A mask without target says that there is
none. The presets: `laptop` (two CPU cores), `gpu` (one GPU), `best` (whatever it takes).
"""

import argparse
import hashlib
import shutil
from pathlib import Path

import datasets

from scalpel_hf.data.frame_sources import LeftOut
from scalpel_hf.data.splits import split_by_recording
from scalpel_hf.formats.own_frames import load_own_frames
from scalpel_hf.utils.files import work_folder

from .demo import save_small_sam
from .numbers import COUNT, SEED
from .prepare import save
from .program import verb_parser
from .run_estimate import Estimate, estimate, minutes, trial_stages
from .stages import Stage, claim, run_stages

PRESETS = ("laptop", "gpu", "best")
MARKER = ".scalpel-run"
TEST_SHARE = 0.25
LEAST_LABELLED = 6  # of fewer frames none is held out: what is left would teach too little, and one frame says nothing
AGAIN = "the same command"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = verb_parser("run", __doc__)
    parser.add_argument("frames", type=Path, help="your frames")
    parser.add_argument("--labels", type=Path, required=True, help="of some of them: masks, or a JSON file")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything")
    parser.add_argument("--preset", choices=PRESETS, default="laptop", help="how much to spend (default: %(default)s)")
    parser.add_argument("--base-model", help="Segment Anything model, which the presets' teachers don't ask")
    parser.add_argument("--category", help="category or brush label that is target, where there are several")
    parser.add_argument("--every", type=COUNT, default=1, help="take every so many-th frame of a recording")
    parser.add_argument("--max-frames", type=COUNT, help="take at most so many frames of a recording")
    parser.add_argument("--max-steps", type=COUNT, help="train for so many steps, in place of the preset's")
    parser.add_argument("--seed", type=SEED, default=0, help="of everything that is drawn")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    out: Path = args.out
    settings = {key: str(value) for key, value in vars(args).items() if key != "out"}
    claim(out, MARKER, settings | {"labels": digest(args.labels)})
    prepare(args)
    from .run_report import describe, write_report  # here, so that it answers at once

    print("\n" + describe(out / "data"), flush=True)
    if not (out / "sam").exists() and args.base_model is None:
        save_small_sam(out / "sam")
        print("no Segment Anything model: the presets' teachers look at the frame alone (--base-model names one)")
    todo = stages(args)
    if not all(stage.done.exists() for stage in todo):
        run_stages(out, trial_stages(out / "trial", train_commands(args)), AGAIN)
        expected = estimate(out, train_commands(args))
        check_room(out, expected)
        print(f"\nabout {minutes(expected.total)} on this machine, and {expected.gigabytes:.1f} GB in {out}")
        run_stages(out, todo, AGAIN, before=lambda stage: tell_rest(stage, todo, expected))
    report = write_report(out, todo)
    print(f"\n{report.resolve()}")


def digest(labels: Path) -> str:
    """What tells whether labels are others: names and sizes of the files."""
    files = sorted(labels.rglob("*")) if labels.is_dir() else [labels]
    listed = "\n".join(f"{file.name} {file.stat().st_size}" for file in files if file.is_file())
    return hashlib.sha256(f"{labels}\n{listed}".encode()).hexdigest()[:12]


def prepare(args: argparse.Namespace) -> None:
    """The prepared folder, with a test split where the labels suffice."""
    data, left_out = args.out / "data", LeftOut()
    if data.exists():
        return
    datasets.disable_progress_bars()
    with work_folder(data.resolve()) as work:
        rows = load_own_frames(
            args.frames,
            work,
            left_out,
            labels=args.labels,
            category=args.category,
            every=args.every,
            max_frames=args.max_frames,
            say=print,
        )
        for line in left_out.lines():
            print(line)
        save(hold_out(rows, args.seed), data)


def hold_out(rows: datasets.Dataset, seed: int) -> datasets.DatasetDict:
    labelled = rows["label_source"][:].count("human")
    if labelled < LEAST_LABELLED:
        print(f"none of {labelled} labelled frames is held out to measure on: from {LEAST_LABELLED} on a quarter is")
        return datasets.DatasetDict({"train": rows})
    try:
        splits, unused = split_by_recording(rows, {"test": TEST_SHARE}, seed)
    except ValueError as error:
        print(f"no frame is held out to measure on: {error}")
        return datasets.DatasetDict({"train": rows})
    if unused:
        print(f"left out {unused}: frames without a label of recordings that are held out")
    return splits


def train_commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """The commands that train, without where they read and write what others make."""
    has_test = (args.out / "data" / "test").exists()
    common = ["--dataset", str(args.out / "data"), "--seed", str(args.seed)]
    common += ["--eval-split", "test" if has_test else ""]
    common += [] if args.max_steps is None else ["--max-steps", str(args.max_steps)]
    base = ["--base-model", args.base_model or str(args.out / "sam")]
    return {
        "distill": ["distill", "--config", f"presets/{args.preset}/distill", *common, *base],
        "transfer": ["transfer", "--config", f"presets/{args.preset}/transfer", *common],
    }


def stages(args: argparse.Namespace) -> list[Stage]:
    out, train = args.out, train_commands(args)
    data, teacher, pseudo, student, alone = (
        str(out / name) for name in ("data", "teacher", "pseudo", "student", "student-labels-alone")
    )
    calibration = ["--dataset", data, "--int8"] + ([] if (out / "data" / "test").exists() else ["--split", "train"])
    label = ["label", "--dataset", data, "--teacher", teacher, "--out", pseudo, "--any-teacher"]
    return [
        Stage("teacher", out / "teacher" / "metrics.json", [*train["distill"], "--output-dir", teacher]),
        Stage("pseudo labels", out / "pseudo" / "summary.json", label),
        Stage(
            "student",
            out / "student" / "metrics.json",
            [*train["transfer"], "--pseudo-labels", pseudo, "--output-dir", student],
        ),
        Stage(
            "student of the labels alone",
            out / "student-labels-alone" / "metrics.json",
            [*train["transfer"], "--output-dir", alone],
        ),
        Stage("ONNX", out / "student" / "onnx" / "model_int8.onnx", ["export", student, *calibration]),
    ]


def check_room(out: Path, expected: Estimate) -> None:
    free = shutil.disk_usage(out).free / 1e9
    if free < expected.gigabytes:
        raise ValueError(f"this takes about {expected.gigabytes:.1f} GB, and {out} has {free:.1f} GB left: make room")


def tell_rest(stage: Stage, todo: list[Stage], expected: Estimate) -> None:
    rest = [s for s in todo[todo.index(stage) :] if not s.done.exists()]
    left = minutes(sum(expected.seconds.get(s.name, 0.0) for s in rest))
    print(f"\n{stage.name}: {todo.index(stage) + 1} of {len(todo)}, about {left} to go in all", flush=True)
