"""What is a box or a point worth beside a mask? Teachers of the same steps from different kinds of labels.

    python scripts/experiments/label_kinds.py --dataset data/nuaa --budget data/nuaa-10/label_budget.json \\
        --voc data/NUAA-SIRST/boxes --base-model models/mobile-sam --seeds 0 1 2 --work runs/label_kinds \\
        --out results/weak_labels

`--dataset` has all masks, the budget names the tenth of its training frames that has a label. Boxes are those of the
VOC files; a point lies within a pixel of its target's centre. Each teacher is measured, one view, threshold 0.5, on the
test split and, where it saw labels of the tenth alone, on the other training frames. Writes one JSON a teacher under
OUT/test and OUT/hidden, with its counts on every frame. Run again after a kill, it resumes.
"""

import argparse
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np

from scalpel_hf.cli.numbers import COUNT, SEED
from scalpel_hf.cli.program import run_program
from scalpel_hf.data import LabelBudget, apply_label_budget, load_prepared, objects_from_mask, read_target
from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.evaluation.comparison import count_record, frames_to_compare
from scalpel_hf.evaluation.run_files import has_result
from scalpel_hf.formats import HumanLabel, import_human_labels, read_voc_boxes
from scalpel_hf.predictors.load import load_trained
from scalpel_hf.training.run_record import training_facts
from scalpel_hf.utils.files import whole_folder, write_json

ROOT = Path(__file__).parents[2]
# By arm: what the tenth has, and what the other training frames have.
ARMS = {
    "34-masks": ("mask", None),
    "34-masks-307-boxes": ("mask", "box"),
    "34-boxes": ("box", None),
    "34-points": ("point", None),
    "341-masks": ("mask", "mask"),
}
COMMON = ("--crop_size", "160", "--batch_size", "8", "--learning_rate", "2e-3", "--eval_split", "")


def points_of(rows: datasets.Dataset) -> Iterator[HumanLabel]:
    """A point for each target of the masks, up to a pixel from its centre, as a hand would set it."""
    for row in undecoded(rows):
        generator = np.random.default_rng(zlib.crc32(row["name"].encode()))
        boxes = objects_from_mask(read_target(row["mask"]))["bbox"]
        centres = (np.array([x + w / 2, y + h / 2]) + generator.uniform(-1, 1, 2) for x, y, w, h in boxes)
        yield HumanLabel(row["name"], None, row["name"], boxes=[(float(x), float(y)) for x, y in centres])


def label(args: argparse.Namespace, everything: datasets.Dataset, kinds: tuple[str, str | None]) -> datasets.Dataset:
    """The training frames with a tenth and the others labelled as an arm has them."""
    tenth = set(LabelBudget.load(args.budget).names) & set(everything["name"])
    rest = set(everything["name"]) - tenth
    by_kind = {kind: names for kind, names in zip(kinds, (tenth, rest), strict=True) if kind is not None}
    if kinds == ("mask", "mask"):
        by_kind["mask"] = tenth | rest
    masked = by_kind.get("mask", tenth)  # those that are to have boxes or points get them in the masks' place
    rows = apply_label_budget(everything, budget=LabelBudget(tuple(sorted(masked)), 1.0, seed=0, total=len(everything)))
    if "box" in by_kind:
        rows = import_human_labels(rows, read_voc_boxes(args.voc), by_kind["box"], keep_in_memory=True)
    if "point" in by_kind:
        rows = import_human_labels(rows, points_of(everything), by_kind["point"], keep_in_memory=True)
    return rows


def prepare(args: argparse.Namespace, arm: str) -> Path:
    folder = args.work / "data" / arm
    if not folder.exists():
        train = label(args, load_prepared(args.dataset)["train"], ARMS[arm])
        with whole_folder(folder) as part:
            datasets.DatasetDict({"train": train}).save_to_disk(str(part))
    return folder


def train(args: argparse.Namespace, arm: str, seed: int) -> Path:
    run = args.work / f"{arm}-{seed}"
    options = ("--max_steps", str(args.steps), "--seed", str(seed), "--base_model", args.base_model)
    where = ("--dataset", str(prepare(args, arm)), "--output_dir", str(run))
    command = [sys.executable, str(ROOT / "recipes/distill.py"), *COMMON, *options, *where]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return run


def record(args: argparse.Namespace, arm: str, seed: int, run: Path, split: str, to: Path) -> None:
    rows = frames_to_compare(args.dataset, split, models=[run], labelled=None)
    setting = {"arm": arm, "dataset": Path(args.dataset).name, "seed": seed, "split": split}
    write_json(to, {**setting, **count_record(load_trained(run).probabilities, rows), **training_facts(run)})


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="prepared, with all masks and the splits train and test")
    parser.add_argument("--budget", required=True, type=Path, help="label_budget.json of the tenth")
    parser.add_argument("--voc", required=True, type=Path, help="folder with the boxes that people drew")
    parser.add_argument("--base-model", required=True, help="Segment Anything model of the teachers")
    parser.add_argument("--arms", nargs="+", choices=[*ARMS], default=[*ARMS], help="(default: all)")
    parser.add_argument("--seeds", nargs="+", type=SEED, default=[0, 1, 2])
    parser.add_argument("--steps", type=COUNT, default=600, help="of each teacher (default: %(default)s)")
    parser.add_argument("--work", type=Path, required=True, help="folder for the labelled data and the teachers")
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files")
    args = parser.parse_args(argv)

    for seed in args.seeds:
        for arm in args.arms:
            splits = {"test": "test"} | ({"hidden": "train"} if ARMS[arm][1] is None else {})
            files = {part: args.out / part / f"{arm}-{seed}.json" for part in splits}
            todo = {part: s for part, s in splits.items() if not has_result(files[part], steps=args.steps)}
            if todo:
                run = train(args, arm, seed)
            for part, split in todo.items():
                record(args, arm, seed=seed, run=run, split=split, to=files[part])
                print(f"{arm}, seed {seed}, {part}: done", flush=True)


if __name__ == "__main__":
    run_program(main)
