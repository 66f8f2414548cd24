"""What an addition to the teacher's training is worth on frames with a mask, cross-validated.

    python scripts/experiments/cross_validate.py --few data/nuaa-10pct --base-model models/mobile-sam \\
        --arms base zoom --seeds 0 1 2 --work runs/folds --out results/folds/nuaa

`--few` is a prepared data set with masks for a few frames. A seed draws three folds of these; a network of an arm of
ablate_additions.py that learns from labelled frames alone is trained on two and measured on the third. So no hidden
mask has a part in what is chosen. Writes one JSON an arm and seed, with its counts on every labelled frame. Run again
after a kill, it resumes.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from ablate_additions import ARMS, facts_of, train_network
from additions_loss import EDGES

from scalpel_hf.cli.numbers import COUNT, SEED
from scalpel_hf.cli.program import run_program
from scalpel_hf.data import labelled_by_people, load_split
from scalpel_hf.data.splits import folds_by_recording
from scalpel_hf.evaluation.comparison import count_frames, record_of_counts
from scalpel_hf.evaluation.run_files import has_result
from scalpel_hf.predictors.teacher import Teacher
from scalpel_hf.utils.files import write_json

FOLDS = 3
OF_LABELS_ALONE = [
    name for name, arm in ARMS.items() if not (arm.additions - {EDGES} or arm.labels_of or arm.members_of)
]


def cross_validate(arm: str, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Metrics and counts of the labelled frames, each measured by the network that was not trained on it."""
    rows = labelled_by_people(load_split(str(args.few), "train"), str(args.few))
    folds = folds_by_recording(rows, FOLDS, seed)
    runs = [args.work / f"{arm}-{seed}-{k}" for k in range(len(folds))]
    counts: dict[int, np.ndarray] = {}
    for fold, run in zip(folds, runs, strict=True):
        train_network(ARMS[arm], args, rows.select(np.setdiff1d(np.arange(len(rows)), fold)), seed=seed, run=run)
        measured, _ = count_frames(Teacher.from_pretrained(run, args.base_model).probabilities, rows.select(fold))
        counts.update(zip(fold, measured, strict=True))
    record = record_of_counts(np.array([counts[i] for i in range(len(rows))]))
    return {"arm": arm, "dataset": args.few.name, "seed": seed, **record, **facts_of(runs, args.steps)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=Path, required=True, help="prepared data set with few masks")
    parser.add_argument("--base-model", required=True, help="MobileSAM")
    parser.add_argument("--arms", nargs="+", choices=OF_LABELS_ALONE, default=OF_LABELS_ALONE, help="(default: all)")
    parser.add_argument("--seeds", nargs="+", type=SEED, default=[0, 1, 2])
    parser.add_argument("--steps", type=COUNT, default=400, help="of each network (default: %(default)s)")
    parser.add_argument("--work", type=Path, required=True, help="folder for networks")
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files")
    args = parser.parse_args(argv)

    for seed in args.seeds:
        for arm in args.arms:
            result = args.out / f"{arm}-{seed}.json"
            if has_result(result, dataset=args.few.name, steps=args.steps):
                continue
            record = cross_validate(arm, args, seed)
            args.out.mkdir(parents=True, exist_ok=True)
            write_json(result, record)
            print(arm, seed, record["metrics"], flush=True)


if __name__ == "__main__":
    run_program(main, resumes=True)
