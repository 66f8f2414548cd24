"""Is the teacher one? It against a student of the same labels, and a student-sized network trained in its place.

    python scripts/experiments/teacher_against_student.py --data data --datasets nuaa nudt irstd --seeds 0 1 2 \\
        --base-model models/mobile-sam --runs runs/teacher --results results/teacher

`data/NAME-10pct` has a tenth of the masks and `data/NAME` all of them, both made by `scalpel-hf prepare`. Each arm is
trained on the former and measured, one view, threshold 0.5, on frames whose masks it has not seen: every `--every`-th
of the training split, or all of the test split. Writes one JSON a run, with its counts on every frame; run again after
a kill, or for another split, it trains what is not trained yet.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from scalpel_hf.cli.numbers import COUNT, SEED
from scalpel_hf.cli.program import run_program
from scalpel_hf.evaluation.comparison import count_record, frames_to_compare
from scalpel_hf.evaluation.run_files import has_result
from scalpel_hf.predictors.load import load_trained
from scalpel_hf.training.run_record import METRICS_FILE, training_facts
from scalpel_hf.utils.files import write_json

ROOT = Path(__file__).parents[2]
TEACHER, FRAME_ALONE = "recipes/distill.py", ("--levels", "mask")
COMMITTEE = (TEACHER, "--max_steps", "800", "--committee", "3")
ARMS = {
    "teacher": COMMITTEE,
    "no-operators": (*COMMITTEE, *FRAME_ALONE),
    "background": (*COMMITTEE, "--background_frames", "150"),
    "small-network": (TEACHER, "--max_steps", "600", *FRAME_ALONE, "--full_resolution_channels", "0"),
    "student": ("recipes/transfer.py", "--max_steps", "2000", "--normalization", "range"),
}
TABLE = ["teacher", "small-network", "student"]
COMMON = ("--crop_size", "160", "--batch_size", "8", "--learning_rate", "2e-3", "--eval_split", "")


def train(arm: str, data: Path, base_model: str, seed: int, run: Path) -> None:
    program, *options = ARMS[arm]
    base = ("--base_model", base_model) if program.endswith("distill.py") else ()
    where = ("--dataset", str(data), "--output_dir", str(run), "--seed", str(seed))
    subprocess.run([sys.executable, str(ROOT / program), *options, *COMMON, *base, *where], check=True)


def measure(run: Path, all_masks: Path, data: Path, split: str, every: int) -> dict[str, Any]:
    """Figures and each frame's counts on every `every`-th frame of a split whose mask was not seen."""
    rows = frames_to_compare(str(all_masks), split, models=[run], labelled=str(data) if split == "train" else None)
    rows = rows.select(range(0, len(rows), every))
    return count_record(load_trained(run).probabilities, rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the prepared data sets")
    parser.add_argument("--datasets", nargs="+", required=True, help="names of them")
    parser.add_argument("--few", default="10pct", help="suffix of the sets with few masks (default: %(default)s)")
    parser.add_argument("--arms", nargs="+", choices=[*ARMS], default=TABLE, help="(default: %(default)s)")
    parser.add_argument("--seeds", nargs="+", type=SEED, default=[0, 1, 2])
    parser.add_argument("--split", choices=["train", "test"], default="train", help="(default: %(default)s)")
    parser.add_argument("--every", type=COUNT, default=1, help="measure on every N-th hidden frame (default: all)")
    parser.add_argument("--base-model", required=True, help="Segment Anything model of the teachers")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the trained models")
    parser.add_argument("--results", type=Path, required=True, help="folder for the JSON files")
    args = parser.parse_args(argv)

    for seed in args.seeds:
        for dataset in args.datasets:
            for arm in args.arms:
                result = args.results / dataset / f"{arm}-{seed}.json"
                if has_result(result, split=args.split, every=args.every):
                    continue
                data, run = args.data / f"{dataset}-{args.few}", args.runs / dataset / f"{arm}-{seed}"
                if not (run / METRICS_FILE).exists():
                    train(arm, data, base_model=args.base_model, seed=seed, run=run)
                metrics = measure(run, args.data / dataset, data=data, split=args.split, every=args.every)
                result.parent.mkdir(parents=True, exist_ok=True)
                setting = {"arm": arm, "dataset": data.name, "split": args.split, "seed": seed, "every": args.every}
                write_json(result, {**setting, "options": ARMS[arm], **metrics, **training_facts(run)})
                print(dataset, arm, seed, metrics["metrics"], flush=True)


if __name__ == "__main__":
    run_program(main)
