"""Probability of detection at given false-alarm rates, for teachers and students side by side.

    python scripts/benchmarks/pd_fa_curve.py --dataset data/nuaa \\
        --models runs/ablation/full-? runs/ablation/no-operators-?
    python scripts/benchmarks/pd_fa_curve.py --dataset data/nuaa --split train --trained-on data/nuaa-10pct --models ...

At one fixed threshold a model that is surer of itself has more of both, detections and false alarms. Here each model's
threshold runs from 0.001 to 0.999, and a cell is the largest Pd with no more false alarms than its column allows.
Folders that differ in a last "-NUMBER" alone are seeds of one model: a row has their mean and standard deviation.
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from scalpel_hf.cli.numbers import between
from scalpel_hf.cli.program import run_program
from scalpel_hf.evaluation.comparison import frames_to_compare
from scalpel_hf.evaluation.evaluator import evaluate_curve, mean_and_deviation, pd_at_fa
from scalpel_hf.predictors.load import load_trained, seeds_of_models

LOGITS = np.linspace(-7, 7, 57)
THRESHOLDS = [float(t) for t in 1 / (1 + np.exp(-LOGITS))]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="with all masks of the split: a folder or a Hub repository")
    parser.add_argument("--split", default="test", help="split to measure on (default: %(default)s)")
    parser.add_argument("--models", nargs="+", type=Path, required=True, help="folders of teachers or students")
    parser.add_argument("--base-model", help="the teachers' base, if it isn't where their adapters say")
    parser.add_argument("--feature-cache-dir", type=Path, help="where the teachers' frozen features are kept")
    parser.add_argument("--trained-on", help="data set whose labelled frames are left out, where models don't say it")
    parser.add_argument(
        "--fa",
        nargs="+",
        type=between(float, 0.0, 1e6),
        default=[10.0, 20.0, 50.0, 100.0],
        help="in 1e-6 (default: 10 20 50 100)",
    )
    args = parser.parse_args(argv)

    models_of = seeds_of_models(args.models)
    rows = frames_to_compare(args.dataset, args.split, models=args.models, labelled=args.trained_on)
    curves = {}
    for name, folders in tqdm(models_of.items(), desc="models"):
        models = (load_trained(folder, args.base_model, args.feature_cache_dir) for folder in folders)  # one at a time
        curves[name] = [evaluate_curve(model.probabilities, rows, THRESHOLDS) for model in models]
    print("| Pd in % at Fa, 1e-6, of at most | seeds | " + " | ".join(f"{fa:g}" for fa in args.fa) + " |")
    print("|---|---|" + "---|" * len(args.fa))
    for name, seeds in curves.items():
        cells = [mean_and_deviation([100 * pd_at_fa(curve, fa) for curve in seeds]) for fa in args.fa]
        print(f"| {name} | {len(seeds)} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    run_program(main)
