"""What the student's settings are worth: students of four fifths of a data set's masks, measured on the other fifth.

    python scripts/experiments/ablate_student.py --data data/irstd --seeds 0 1 2 --work runs/ablation \\
        --out results/student_settings/irstd

`--data` is a prepared data set with all masks; only its training split is used, so what pays can be chosen by the
result. A seed draws the fifth; every arm is trained on the same frames. Writes one JSON an arm and seed, with its
counts on every frame. Run again after a kill, it resumes.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from scalpel_hf.cli.numbers import SEED
from scalpel_hf.cli.program import run_program
from scalpel_hf.data import load_prepared, load_split
from scalpel_hf.evaluation.comparison import count_record
from scalpel_hf.predictors.load import load_trained
from scalpel_hf.training.run_record import training_facts
from scalpel_hf.utils.files import whole_folder, write_json

HELD_OUT = 0.2
COMMON: dict[str, object] = {
    "crop_size": 160,
    "batch_size": 8,
    "learning_rate": 2e-3,
    "normalization": "range",
    "max_steps": 2000,
}
ARMS: dict[str, dict[str, object]] = {
    "steps-1000": {"max_steps": 1000},
    "steps-2000": {},
    "steps-4000": {"max_steps": 4000},
    "steps-8000": {"max_steps": 8000},
    "steps-16000": {"max_steps": 16000},
    "crops-of-256": {"crop_size": 256, "max_steps": 800},  # as many pixels as 2000 crops of 160
    "zscore": {"normalization": "zscore"},
    "base": {"size": "base"},
}


def split(data: Path, seed: int, to: Path) -> None:
    """`train` and `test` of a data set's training split, in a prepared folder of their own."""
    if not to.exists():
        parts = load_split(str(data), "train").train_test_split(HELD_OUT, seed=seed)
        with whole_folder(to) as folder:
            parts.save_to_disk(str(folder))


def train(arm: str, data: Path, seed: int, run: Path) -> None:
    fields = {**COMMON, **ARMS[arm], "dataset": data, "output_dir": run, "seed": seed, "eval_split": ""}
    options = [text for name, value in fields.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    subprocess.run([sys.executable, "-m", "scalpel_hf", "transfer", *options], check=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="prepared data set with all masks")
    parser.add_argument("--arms", nargs="+", choices=[*ARMS], default=[*ARMS], help="(default: all)")
    parser.add_argument("--seeds", nargs="+", type=SEED, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, required=True, help="folder for the parts and the trained students")
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files")
    args = parser.parse_args(argv)

    for seed in args.seeds:
        data = args.work / f"data-{seed}"
        split(args.data, seed, data)
        for arm in args.arms:
            result, run = args.out / f"{arm}-{seed}.json", args.work / f"{arm}-{seed}"
            if result.exists():
                continue
            train(arm, data, seed=seed, run=run)
            record = count_record(load_trained(run).probabilities, load_prepared(data)["test"])
            write_json(result, {"arm": arm, "dataset": args.data.name, "seed": seed, **record, **training_facts(run)})
            print(arm, seed, record["metrics"], flush=True)


if __name__ == "__main__":
    run_program(main, resumes=True)
