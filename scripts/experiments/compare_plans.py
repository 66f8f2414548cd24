"""Does planning pay? Train teachers on planned and on random label budgets, and compare them on the test split.

    python scripts/experiments/compare_plans.py --dataset data/nuaa --config recipes/nuaa_sirst/distill_10pct.yaml \\
        --base-model models/mobile-sam --out runs/plans

Plans: `random` (`LabelBudget.draw`, as `scalpel-hf prepare` does it), `coverage` (as `scalpel-hf plan` plans without
a teacher) and `uncertainty` (the same, at each budget with the teacher of the one before; at the first there is none,
so its run is that of `coverage`). Every plan, budget and seed is a run of recipes/distill.py with the same
configuration; flags that this program doesn't know go to the recipe, such as `--max_steps 1200`. Run again after a kill
to resume: finished runs are kept, the broken one resumes from its last checkpoint. All runs share OUT/features, the
encoder's activations, so that test frames and whole training frames pass the frozen encoder once. Writes
OUT/results.json and OUT/results.md. The test split chooses nothing.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np

from scalpel_hf.cli.numbers import SEED, SHARE, SIDE
from scalpel_hf.cli.program import run_program
from scalpel_hf.data import LabelBudget, apply_label_budget, load_prepared
from scalpel_hf.data.contents import hash_rows
from scalpel_hf.evaluation.evaluator import mean_and_deviation
from scalpel_hf.predictors.load import default_device, on_default_device
from scalpel_hf.predictors.sam import load_sam
from scalpel_hf.predictors.teacher import Teacher
from scalpel_hf.pseudo_labels.planner import candidates, describe_frames, plan_labels, teacher_uncertainty
from scalpel_hf.utils.files import remove_folder, remove_leftovers, whole_file, whole_folder, write_json, write_text
from scalpel_hf.utils.reading import read_json

ROOT = Path(__file__).parents[2]
PLANS = ("random", "coverage", "uncertainty")
METRICS = ("iou", "niou", "pd", "fa")


def frame_features(frames: datasets.Dataset, base_model: str, image_size: int, path: Path) -> dict[str, np.ndarray]:
    """Each frame's features by name; computed once and kept."""
    if not path.exists():
        features = describe_frames(frames, load_sam(base_model, image_size).to(default_device()))
        with whole_file(path) as part, open(part, "wb") as file:
            np.savez(file, names=np.array(frames["name"][:]), features=features)
    content = np.load(path)
    return dict(zip(content["names"].tolist(), content["features"], strict=True))


def draw_budget(
    plan: str,
    count: int,
    seed: int,
    frames: datasets.Dataset,
    features: dict[str, np.ndarray],
    before: Path | None,
    base_model: str,
    feature_cache_dir: Path,
) -> LabelBudget:
    """The frames that a plan labels: `count` of them. `before`: the run with the next smaller budget, if any;
    `feature_cache_dir`: where the frozen features are kept."""
    if plan == "random":
        return LabelBudget.draw(frames["name"][:], count / len(frames), seed)
    known = set(LabelBudget.load(before / "label_budget.json").names) if before is not None else set()
    sources = ["human" if name in known else "none" for name in frames["name"]]
    rows = candidates(frames.select_columns(["name", "image"]).add_column("label_source", sources), seed)
    unsure = None
    if plan == "uncertainty" and before is not None:
        teacher = Teacher.from_pretrained(before / "teacher", base_model, feature_cache_dir=feature_cache_dir)
        unsure = teacher_uncertainty(rows, on_default_device(teacher))
    described = np.stack([features[name] for name in rows["name"]])
    return plan_labels(rows, described, budget=count, uncertainty=unsure, seed=seed, total=len(frames)).budget


def train(
    run: Path, splits: datasets.DatasetDict, budget: LabelBudget, seed: int, flags: list[str], feature_cache_dir: Path
) -> None:
    """One run of the recipe in `run`; its data are removed in the end."""
    data, teacher = run / "data", run / "teacher"
    remove_leftovers(data)
    if not data.exists():
        hidden = datasets.DatasetDict({**splits, "train": apply_label_budget(splits["train"], budget=budget)})
        with whole_folder(data) as part:
            hidden.save_to_disk(str(part))
    command = [sys.executable, str(ROOT / "recipes" / "distill.py"), *flags]
    command += ["--dataset", str(data), "--output_dir", str(teacher), "--seed", str(seed), "--eval_split", "test"]
    command += ["--feature_cache_dir", str(feature_cache_dir)]
    if subprocess.run(command, check=False).returncode:
        raise ValueError(f"the training in {run} failed: run this again to resume")
    remove_folder(data)


def table(results: list[dict]) -> str:
    """Mean and, over several seeds, standard deviation of the test metrics, IoU and so on in %, Fa in 1e-6."""
    lines = ["| plan | labels | seeds | IoU % | nIoU % | Pd % | Fa 1e-6 |", "|---|---|---|---|---|---|---|"]
    for plan, count in dict.fromkeys((r["plan"], r["labels"]) for r in results):
        runs = [r for r in results if (r["plan"], r["labels"]) == (plan, count)]
        cells = []
        for figure in METRICS:
            values = [run["test"][figure] * (1 if figure == "fa" else 100) for run in runs]
            cells.append(mean_and_deviation(values))
        lines.append(f"| {plan} | {count} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="made by `scalpel-hf prepare` without a budget: all masks")
    parser.add_argument("--config", required=True, help="YAML file of recipes/distill.py")
    parser.add_argument("--base-model", required=True, help="Segment Anything model, of the plans and the teachers")
    parser.add_argument("--image-size", type=SIDE, default=512, help="side of its input (default: %(default)s)")
    parser.add_argument("--budgets", type=SHARE, nargs="+", default=[0.01, 0.05, 0.1], help="shares of the train split")
    parser.add_argument("--seeds", type=SEED, nargs="+", default=[0, 1, 2])
    parser.add_argument("--plans", nargs="+", choices=PLANS, default=list(PLANS))
    parser.add_argument("--out", required=True, type=Path, help="folder of the runs")
    args, flags = parser.parse_known_args(argv)
    flags = ["--config", args.config, "--base_model", args.base_model, "--image_size", str(args.image_size), *flags]

    datasets.disable_progress_bars()
    splits = load_prepared(args.dataset)
    if not {"train", "test"} <= splits.keys():
        raise ValueError(f"{args.dataset!r} needs the splits train and test")
    frames = splits["train"]
    settings = {"flags": flags, "rows": {split: hash_rows(splits[split]) for split in ("train", "test")}}
    if (args.out / "settings.json").exists():
        if read_json(args.out / "settings.json") != settings:
            raise ValueError(f"{args.out} holds runs with other settings: choose another folder")
    else:
        write_json(args.out / "settings.json", settings)
    features = frame_features(frames, args.base_model, image_size=args.image_size, path=args.out / "features.npz")
    feature_cache_dir = args.out / "features"

    counts = sorted({max(1, round(share * len(frames))) for share in args.budgets})
    results = []
    for seed in args.seeds:
        for plan in args.plans:
            before = None
            for count in counts:
                planned_alike = plan == "uncertainty" and before is None
                run = args.out / ("coverage" if planned_alike else plan) / f"labels{count}-seed{seed}"
                if not (run / "label_budget.json").exists():
                    budget = draw_budget(
                        plan,
                        count,
                        seed=seed,
                        frames=frames,
                        features=features,
                        before=before,
                        base_model=args.base_model,
                        feature_cache_dir=feature_cache_dir,
                    )
                    run.mkdir(parents=True, exist_ok=True)
                    budget.save(run / "label_budget.json")
                if not (run / "teacher" / "metrics.json").exists():
                    print(f"== {run.parent.name}, {count} labels, seed {seed}", flush=True)
                    train(
                        run,
                        splits,
                        budget=LabelBudget.load(run / "label_budget.json"),
                        seed=seed,
                        flags=flags,
                        feature_cache_dir=feature_cache_dir,
                    )
                metrics = read_json(run / "teacher" / "metrics.json")["metrics"]["test"]
                results.append({"plan": plan, "labels": count, "seed": seed, "test": metrics})
                ordered = sorted(results, key=lambda r: (r["labels"], PLANS.index(r["plan"]), r["seed"]))
                write_json(args.out / "results.json", ordered)
                write_text(args.out / "results.md", table(ordered))
                before = run
    print((args.out / "results.md").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    run_program(main, resumes=True)
