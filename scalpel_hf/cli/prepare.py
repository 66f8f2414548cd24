"""Turn a data set's folder, or synthetic frames, into a prepared folder that later steps read.

It is a `DatasetDict` in which the masks outside the label budget are hidden, and the budget in `label_budget.json`.

Examples:

    scalpel-hf prepare --layout nuaa-sirst --root data/NUAA-SIRST --skip-broken --budget 0.1 --out data/nuaa-10
    scalpel-hf prepare --synthetic 400 --budget 0.1 --out data/synthetic-10
"""

import argparse
import statistics
from pathlib import Path

from datasets import Dataset, DatasetDict, disable_progress_bars

from scalpel_hf.cli.mask_options import add_mask_options
from scalpel_hf.cli.numbers import SEED, between
from scalpel_hf.cli.program import verb_parser
from scalpel_hf.data import LAYOUTS, LabelBudget, MaskValues, SyntheticInfrared, apply_label_budget, load_irst_dataset
from scalpel_hf.utils.files import check_can_be_made, whole_folder

BUDGET_FILE = "label_budget.json"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = verb_parser("prepare", __doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--layout", choices=[*LAYOUTS, "hub"], help="how the data set in --root is laid out")
    source.add_argument(
        "--synthetic", type=between(int, 1, 10**6), metavar="N", help="make N frames to train and N/4 to test instead"
    )
    parser.add_argument("--root", help="the data set's folder; with `--layout hub` also a repository or parquet file")
    parser.add_argument("--split-list", help="a split list of the layout by name; default: its first")
    add_mask_options(parser)
    parser.add_argument("--skip-broken", action="store_true", help="leave broken pairs out, naming them")
    parser.add_argument(
        "--mask-grid", choices=("shown", "stored"), help="what masks of frames that ask to be turned are drawn on"
    )
    share = between(float, 1e-6, 1.0)
    parser.add_argument("--budget", type=share, metavar="F", help="share of the train split that keeps its masks: 0.1")
    parser.add_argument("--seed", type=SEED, default=0, help="of the label budget and of synthetic frames")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; it must not exist")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it is a prepared folder")
    args = parser.parse_args(argv)
    if args.layout and not args.root:
        parser.error("--layout needs --root")
    if args.synthetic is not None and (args.synthetic < 1 or args.root or args.split_list or args.skip_broken):
        parser.error("--synthetic takes a positive number, and no --root, --split-list or --skip-broken")
    if args.synthetic is not None and (args.mask_values or args.ignore_value):
        parser.error("--mask-values and --ignore-value are for data sets that are read")
    return args


def check_out(out: Path, overwrite: bool) -> None:
    check_can_be_made(out.parent, "--out")
    if not out.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{out} exists: choose another --out, or pass --overwrite")
    if not (out / "dataset_dict.json").is_file():
        raise FileExistsError(f"{out} is no prepared folder (no dataset_dict.json): it is not overwritten")


def load(args: argparse.Namespace) -> DatasetDict:
    if args.synthetic:
        camera = SyntheticInfrared(seed=args.seed)
        test = camera.to_dataset(max(1, args.synthetic // 4), start=args.synthetic)
        return DatasetDict({"train": camera.to_dataset(args.synthetic), "test": test})
    return load_irst_dataset(
        args.layout,
        args.root,
        split_list=args.split_list,
        skip_broken=args.skip_broken,
        mask_grid=args.mask_grid,
        mask_values=MaskValues.stated(args.mask_values, args.ignore_value),
        say=print,
    )


def describe(split: str, dataset: Dataset) -> str:
    """A row of the summary: images, and what their masks hold, those outside the label budget being unknown."""
    areas = [objects["area"] for objects in dataset["objects"] if objects is not None]
    counts = [min(len(area), 2) for area in areas]
    pixels = [pixel_count for area in areas for pixel_count in area]
    median = f"{statistics.median(pixels):g}" if pixels else "-"
    columns = [split, len(dataset), len(areas), *(counts.count(n) for n in range(3)), len(pixels), median]
    return " ".join(f"{column:>11}" for column in columns)


def note_large_targets(splits: DatasetDict) -> None:
    """Say so where targets cover most of the frames, as they do when masks are inverted."""
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
    splits = load(args)
    budget = None
    if args.budget is not None:
        if "train" not in splits:
            raise ValueError(f"--budget is drawn from a split train, here are {', '.join(splits)}")
        budget = LabelBudget.draw(splits["train"]["name"], args.budget, args.seed)
        splits["train"] = apply_label_budget(splits["train"], budget=budget)
    with whole_folder(args.out, replace=args.overwrite) as part:
        splits.save_to_disk(str(part))
        if budget is not None:
            budget.save(part / BUDGET_FILE)
    header = ["split", "images", "labelled", "no target", "one", "several", "targets", "median px"]
    print(" ".join(f"{column:>11}" for column in header))
    for split, dataset in splits.items():
        print(describe(split, dataset))
    note_large_targets(splits)
    print(f"written to {args.out}")
