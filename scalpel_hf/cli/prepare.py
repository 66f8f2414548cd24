"""Prepare a data set for the later steps, from a folder, recordings or synthetic frames.

The result is a folder with a `DatasetDict`, in which masks outside the label budget are removed, and label_budget.json.

Examples:

    scalpel-hf prepare --layout nuaa-sirst --root data/NUAA-SIRST --skip-broken --budget 0.1 --out data/nuaa-10
    scalpel-hf prepare --root frames --labels masks --val 0.1 --test 0.2 --out data/mine
    scalpel-hf prepare --root frames --labels boxes.json --out data/mine
    scalpel-hf prepare --root recordings --every 10 --labels coco.json --test 0.2 --out data/mine
    scalpel-hf prepare --root frames --out data/mine-to-label
    scalpel-hf prepare --synthetic 400 --budget 0.1 --out data/synthetic-10

Without `--layout`, or with `folder`, --root holds your own frames: images in nested folders, recordings, multi-page
images, or a text file that lists such files. `--labels` are labels for some of them: a folder of masks with the names
of their frames, or masks, boxes and points in the format of COCO, Label Studio, YOLO, Pascal VOC or plain JSON. An
empty mask means a frame without targets; frames without a label are unlabelled. Files that can't be used are listed.
`--val` and `--test` hold out whole recordings.
"""

import argparse
import statistics
from pathlib import Path

from datasets import Dataset, DatasetDict, disable_progress_bars

from scalpel_hf.cli.mask_options import add_mask_grid, add_mask_options
from scalpel_hf.cli.numbers import COUNT, SEED, between
from scalpel_hf.cli.program import verb_parser
from scalpel_hf.data import LAYOUTS, LabelBudget, MaskValues, SyntheticInfrared, apply_label_budget, load_irst_dataset
from scalpel_hf.data.frame_sources import LeftOut
from scalpel_hf.data.layouts import sequences
from scalpel_hf.data.splits import split_by_recording
from scalpel_hf.formats import READABLE
from scalpel_hf.formats.own_frames import load_own_frames
from scalpel_hf.utils.files import check_can_be_made, whole_folder, work_folder

BUDGET_FILE = "label_budget.json"
OWN = ("folder", *READABLE)
LAYOUT_CHOICES = tuple(dict.fromkeys((*OWN, *LAYOUTS, "hub")))  # `voc` is boxes with --labels, masks without


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = verb_parser("prepare", __doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--layout",
        choices=LAYOUT_CHOICES,
        help="how --root is laid out (default: folder, your own frames)",
    )
    source.add_argument(
        "--synthetic",
        type=between(int, 1, 10**6),
        metavar="N",
        help="generate N frames for training and N/4 for testing instead",
    )
    parser.add_argument("--root", help="the data set's folder; with `--layout hub` also a repository or parquet file")
    parser.add_argument("--split-list", help="name of one of the layout's split lists (default: the first)")
    own = parser.add_argument_group("your own frames")
    own.add_argument(
        "--labels", type=Path, help="for some of the frames: a folder of masks, or boxes in any supported format"
    )
    own.add_argument("--category", help="the category that is target, if the labels have several")
    own.add_argument("--every", type=COUNT, default=1, help="take only every n-th frame of a recording")
    own.add_argument("--max-frames", type=COUNT, help="take at most this many frames of a recording")
    held_out = between(float, 0.0, 0.9)
    parser.add_argument(
        "--val", type=held_out, default=0.0, metavar="F", help="share of the labelled frames for validation"
    )
    parser.add_argument(
        "--test", type=held_out, default=0.0, metavar="F", help="share of the labelled frames for testing"
    )
    add_mask_options(parser)
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave out frames with a broken file or mask, and list them"
    )
    add_mask_grid(parser)
    share = between(float, 1e-6, 1.0)
    parser.add_argument(
        "--budget", type=share, metavar="F", help="share of the train split that keeps its masks, such as 0.1"
    )
    parser.add_argument("--seed", type=SEED, default=0, help="of the label budget and of synthetic frames")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; it must be new or empty")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it is a prepared folder")
    args = parser.parse_args(argv)
    if args.synthetic is None and not args.root:
        parser.error("say with --root where the frames are, or generate some with --synthetic")
    args.layout = args.layout or "folder"
    is_own = args.layout in OWN and (args.layout not in LAYOUTS or bool(args.labels))
    if not is_own and (args.labels or args.category or args.every > 1 or args.max_frames):
        parser.error(f"--labels, --category, --every and --max-frames are for --layout {', '.join(OWN)}")
    if is_own and args.layout != "folder" and not args.labels:
        parser.error(f"--layout {args.layout} needs --labels")
    if is_own and (args.split_list or args.skip_broken):
        parser.error("--split-list and --skip-broken are for data sets' layouts")
    if args.synthetic is not None and (args.root or args.split_list or args.skip_broken):
        parser.error("--synthetic takes a positive number, and no --root, --split-list or --skip-broken")
    of_frames = ("labels", "category", "max_frames", "val", "test", "mask_values", "ignore_value", "mask_grid")
    if args.synthetic is not None and (args.every > 1 or any(getattr(args, name) for name in of_frames)):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in ("every", *of_frames))
        parser.error(f"{flags} are for frames that are read: leave them out with --synthetic")
    if is_own and not args.labels and (args.mask_values or args.ignore_value or args.mask_grid or args.category):
        parser.error("--mask-values, --ignore-value, --mask-grid and --category are for labels: name them by --labels")
    args.own = is_own
    return args


def is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def check_out(out: Path, overwrite: bool) -> None:
    check_can_be_made(out.parent, "--out")
    if not out.exists() or is_empty_folder(out):
        return
    if not overwrite:
        raise FileExistsError(f"{out} exists: choose another --out, or pass --overwrite")
    if not (out / "dataset_dict.json").is_file():
        raise FileExistsError(f"{out} is not a prepared folder (no dataset_dict.json), so it is not overwritten")


def load(args: argparse.Namespace, work: str) -> DatasetDict:
    """Load the data set with its splits. `work` is a folder for the frames' files, needed until the result is saved."""
    if args.synthetic:
        camera = SyntheticInfrared(seed=args.seed)
        test = camera.to_dataset(max(1, args.synthetic // 4), start=args.synthetic)
        return DatasetDict({"train": camera.to_dataset(args.synthetic), "test": test})
    if args.own:
        return own_frames(args, work)
    splits = load_irst_dataset(
        args.layout,
        args.root,
        split_list=args.split_list,
        skip_broken=args.skip_broken,
        mask_grid=args.mask_grid,
        mask_values=MaskValues.stated(args.mask_values, args.ignore_value),
        say=print,
    )
    if (args.val or args.test) and set(splits) != {"train"}:
        raise ValueError(f"--val and --test are for a data set without splits, here are {', '.join(splits)}")
    if not (args.val or args.test):
        return splits
    rows = splits["train"]
    if args.layout not in LAYOUTS:
        return held_out(rows, args)
    sequence_of = sequences(LAYOUTS[args.layout], args.root)
    recordings = [sequence_of[name] for name in rows["name"]]  # what is written has no such column
    return held_out(rows.add_column("recording", recordings), args).remove_columns("recording")


def own_frames(args: argparse.Namespace, work: str) -> DatasetDict:
    left_out = LeftOut()
    rows = load_own_frames(
        args.root,
        work,
        left_out,
        labels=args.labels,
        kind=None if args.layout == "folder" else args.layout,
        category=args.category,
        mask_values=MaskValues.stated(args.mask_values, args.ignore_value),
        every=args.every,
        max_frames=args.max_frames,
        mask_grid=args.mask_grid,
        say=print,
    )
    for line in left_out.lines():
        print(line)
    return held_out(rows, args)


def held_out(rows: Dataset, args: argparse.Namespace) -> DatasetDict:
    splits, unused = split_by_recording(rows, {"validation": args.val, "test": args.test}, args.seed)
    if unused:
        print(f"left out {unused}: frames without a mask of recordings that are held out")
    return splits


def describe(split: str, dataset: Dataset) -> str:
    """The row of the summary for a split: the number of images, and of targets in those with a label."""
    areas = [objects["area"] for objects in dataset["objects"] if objects is not None]
    counts = [min(len(area), 2) for area in areas]
    pixels = [pixel_count for area in areas for pixel_count in area]
    known = [pixel_count for pixel_count in pixels if pixel_count]  # a point has no extent
    median = f"{statistics.median(known):g}" if known else "-"
    columns = [split, len(dataset), len(areas), *(counts.count(n) for n in range(3)), len(pixels), median]
    return " ".join(f"{column:>11}" for column in columns)


def note_large_targets(splits: DatasetDict) -> None:
    """Print a note if targets cover more than half of the pixels, as they do where masks are inverted."""
    target, pixels = 0, 0
    for dataset in splits.values():
        for objects, width, height in zip(*(dataset[c][:] for c in ("objects", "width", "height")), strict=True):
            target += sum(objects["area"]) if objects is not None else 0
            pixels += width * height if objects is not None else 0
    if target > pixels / 2:
        print(f"note: targets cover {target / pixels:.0%} of the pixels; if 0 means target, pass --mask-values 0")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    disable_progress_bars()
    check_out(args.out, args.overwrite)
    with work_folder(args.out.resolve()) as work:
        splits = load(args, str(work))
        overwrite = args.overwrite or is_empty_folder(args.out)
        save(splits, args.out, share=args.budget, seed=args.seed, overwrite=overwrite)


def save(splits: DatasetDict, out: Path, share: float | None = None, seed: int = 0, overwrite: bool = False) -> None:
    """
    Write the data set and print a summary of it.

    Args:
        share: of the train split's frames that keep their masks; `None` for all.
        seed: of the draw of these frames.
        overwrite: whether to replace the folder `out`.

    Raises `ValueError` for a share without a split `train`, and as [`whole_folder`] does.
    """
    budget = None
    if share is not None:
        if "train" not in splits:
            raise ValueError(f"--budget needs a split `train`, here are {', '.join(splits)}: leave it out")
        budget = LabelBudget.draw(splits["train"]["name"], share, seed)
        splits["train"] = apply_label_budget(splits["train"], budget=budget)
    with whole_folder(out, replace=overwrite) as part:
        splits.save_to_disk(str(part))
        if budget is not None:
            budget.save(part / BUDGET_FILE)
    header = ["split", "images", "labelled", "no target", "one", "several", "targets", "median px"]
    print(" ".join(f"{column:>11}" for column in header))
    for split, dataset in splits.items():
        print(describe(split, dataset))
    note_large_targets(splits)
    print(f"written to {out}")
