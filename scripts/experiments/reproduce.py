"""The claim, from a data set's folder to its table: does a student of a tenth of the masks and pseudo labels do as well
as one of all masks?

    python scripts/experiments/reproduce.py --dataset nuaa-sirst --root data/NUAA-SIRST \\
        --base-model models/mobile-sam --student-steps 4000 --seeds 0 1 2 --work runs/claim --out results/claim

For each budget and seed: a teacher of that share of the masks, its pseudo labels, and three students of the same steps:
(a) of all masks, (b) of the share alone, (c) of the share and the pseudo labels. Each is measured on the test split,
threshold 0.5. One JSON a student under OUT/DATASET-BUDGET, with its counts on every frame, and one for the pseudo
labels, measured on the frames whose masks were hidden. With `--task detection` the students are detectors, measured by
boxes. Run again after a kill, it resumes; the students of all masks
are trained once for all budgets. `--quick` runs everything in minutes, to see that it works: its metrics mean nothing.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from scalpel_hf.cli.numbers import SEED, between
from scalpel_hf.cli.program import run_program
from scalpel_hf.data import load_split
from scalpel_hf.evaluation.box_metrics import detector_of
from scalpel_hf.evaluation.comparison import count_record, detection_record, frames_to_compare
from scalpel_hf.evaluation.run_files import has_result
from scalpel_hf.predictors.load import default_device, load_predictor
from scalpel_hf.training.run_record import METRICS_FILE, training_facts
from scalpel_hf.utils.files import write_json
from scalpel_hf.utils.reading import read_yaml
from scalpel_hf.utils.recipe_files import recipe_file

# By data set: the recipes' folder, and whether the layout is to pass over broken pairs.
DATASETS = {"nuaa-sirst": ("nuaa_sirst", True), "nudt-sirst": ("nudt_sirst", False), "irstd-1k": ("irstd_1k", False)}
ARMS = ("all-masks", "few-masks", "pseudo-labels")
QUICK = ("--max_steps", "8", "--batch_size", "2", "--crop_size", "64")
# So few steps teach nothing: anything is taken for a target.
ANY_TEACHER = ("--any-teacher", "--min-empty", 0, "--no-calibration", "--threshold", 0.01)


def run(verb: str, *options: object) -> None:
    subprocess.run([sys.executable, "-m", "scalpel_hf", verb, *map(str, options)], check=True)


def prepare(args: argparse.Namespace, budget: float | None, to: Path) -> None:
    if to.exists():
        return
    share = () if budget is None else ("--budget", budget)
    broken = ("--skip-broken",) if DATASETS[args.dataset][1] else ()
    run("prepare", "--layout", args.dataset, "--root", args.root, "--out", to, *share, *broken)


def label(args: argparse.Namespace, budget: float, seed: int, few: Path, everything: Path) -> Path:
    """A teacher of the few masks, and what it makes of the other frames."""
    teacher, labels = (args.work / f"{args.dataset}-{budget:g}" / f"{kind}-{seed}" for kind in ("teacher", "labels"))
    config = args.teacher_config or f"{DATASETS[args.dataset][0]}/distill_10pct"
    # What the guard would say of the teacher is what this program measures.
    where = ("--base_model", args.base_model, "--output_dir", teacher, "--dataset", few, "--eval_split", "")
    if not (teacher / METRICS_FILE).exists():
        run("distill", "--config", config, *where, "--guard", "false", "--seed", seed, *args.teacher_options)
    any_teacher = ANY_TEACHER if args.quick else ()
    run("label", "--dataset", few, "--teacher", teacher, "--out", labels, "--truth", everything, *any_teacher)
    return labels


def recipe_steps(dataset: str) -> int:
    return int(read_yaml(recipe_file(f"{DATASETS[dataset][0]}/transfer_10pct"))["max_steps"])


def train_student(args: argparse.Namespace, data: Path, labels: Path | str, seed: int, to: Path) -> None:
    config = f"{DATASETS[args.dataset][0]}/transfer_10pct"
    where = ("--dataset", data, "--pseudo_labels", labels, "--output_dir", to, "--eval_split", "")
    run("transfer", "--config", config, *where, "--task", args.task, "--seed", seed, *args.student_options)


def record(args: argparse.Namespace, arm: str, budget: float, seed: int, student: Path, everything: Path) -> None:
    rows = frames_to_compare(str(everything), "test", models=[student], labelled=None)
    setting = {"arm": arm, "dataset": args.dataset, "budget": budget, "seed": seed, "test frames": len(rows)}
    model: Any = load_predictor(student, device=default_device())
    detects = args.task == "detection"
    measured = detection_record(detector_of(model), rows) if detects else count_record(model.probabilities, rows)
    result = args.out / f"{args.dataset}-{budget:g}" / f"{arm}-{seed}.json"
    write_json(result, {**setting, **measured, **training_facts(student)})


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=[*DATASETS], required=True)
    parser.add_argument("--root", type=Path, required=True, help="the data set's folder as it was published")
    parser.add_argument("--base-model", required=True, help="Segment Anything model of the teachers")
    parser.add_argument(
        "--budget", type=between(float, 1e-4, 1.0), nargs="+", default=[0.1], help="shares of the masks"
    )
    parser.add_argument("--seeds", type=SEED, nargs="*", default=[0, 1, 2], help="none: prepare the data, no more")
    parser.add_argument("--work", type=Path, required=True, help="folder for prepared data, models and labels")
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files")
    parser.add_argument("--task", choices=["segmentation", "detection"], default="segmentation", help="of the students")
    parser.add_argument("--teacher-config", help="recipe of the teachers (default: the data set's distill_10pct)")
    parser.add_argument(
        "--student-steps", type=between(int, 1, 10**7), help="steps of each student (default: recipe's)"
    )
    parser.add_argument("--quick", action="store_true", help="a few steps each, to see that it works")
    args = parser.parse_args(argv)
    args.teacher_options, args.student_options = (), ("--max_steps", args.student_steps) if args.student_steps else ()
    if args.quick:
        args.teacher_options, args.student_options = (*QUICK, "--committee", "1"), QUICK
    steps = int(args.student_options[1]) if args.student_options else recipe_steps(args.dataset)
    prefix = "detection-" if args.task == "detection" else ""

    everything = args.work / "data" / args.dataset
    prepare(args, None, everything)
    load_split(str(everything), "test", "a data set with a test split")
    for budget in args.budget:
        few = args.work / "data" / f"{args.dataset}-{budget:g}"
        prepare(args, budget, few)
        for seed in args.seeds:
            files = {arm: args.out / few.name / f"{prefix}{arm}-{seed}.json" for arm in ARMS}
            todo = [arm for arm, file in files.items() if not has_result(file, steps=steps)]
            for arm in todo:
                student = args.work / (args.dataset if arm == "all-masks" else few.name) / f"{prefix}{arm}-{seed}"
                labels = (
                    label(args, budget, seed=seed, few=few, everything=everything) if arm == "pseudo-labels" else ""
                )
                train_student(args, everything if arm == "all-masks" else few, labels=labels, seed=seed, to=student)
                record(args, f"{prefix}{arm}", budget=budget, seed=seed, student=student, everything=everything)
                print(f"{args.dataset}, {budget:g} of the masks, {arm}, seed {seed}: done", flush=True)


if __name__ == "__main__":
    run_program(main, resumes=True)
