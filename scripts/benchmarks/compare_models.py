"""Models on the same frames: the differences of their metrics, and how far other frames and seeds would move them.

    python scripts/benchmarks/compare_models.py --dataset data/nuaa \\
        --models runs/ablation/full-? runs/ablation/no-operators-?
    python scripts/benchmarks/compare_models.py --dataset data/nuaa --split train --trained-on data/nuaa-10pct \\
        --models ...

Folders that differ in a last "-NUMBER" alone are seeds of one model. The first model is compared with each further
one. Prints their mean metrics at one threshold, the difference with a bootstrap interval that holds 95 % of draws of
frames and seeds, how much of small and of large targets each finds, and the frames without which the difference in
pooled IoU would change most: the figure is made of few targets' pixels, and one frame can be worth points of it.
"""

import argparse
from pathlib import Path

import numpy as np

from scalpel_hf.cli.numbers import PROBABILITY
from scalpel_hf.cli.program import run_program
from scalpel_hf.data.splits import recordings_of
from scalpel_hf.evaluation.comparison import (
    COUNTS,
    SIZES,
    bootstrap_differences,
    count_frames,
    found_by_size,
    frames_to_compare,
    iou_without_each_frame,
    mean_metrics,
)
from scalpel_hf.predictors.load import load_trained, seeds_of_models

COLUMNS = (("IoU %", 100.0), ("nIoU %", 100.0), ("Pd %", 100.0), ("Fa 1e-6", 1.0))
FRAMES = 5


def table(names: list[str], counts: list[np.ndarray], units: list[str]) -> list[str]:
    """Markdown: a row a figure, with its interval over `units`, the recording of each frame."""
    first, second = (mean_metrics(c) for c in counts)
    low, high = np.nanpercentile(bootstrap_differences(counts[0], counts[1], units=units), [2.5, 97.5], axis=0)
    heads = [f"{name} ({len(c)})" for name, c in zip(names, counts, strict=True)]
    lines = [f"| | {heads[0]} | {heads[1]} | difference | 95 % |", "|---|---|---|---|---|"]
    for (figure, unit), *values in zip(COLUMNS, first, second, low, high, strict=True):
        a, b, least, most = (unit * value for value in values)
        lines.append(f"| {figure} | {a:.1f} | {b:.1f} | {a - b:+.1f} | {least:+.1f} to {most:+.1f} |")
    return lines


def size_table(names: list[str], targets: list[np.ndarray]) -> list[str]:
    """Markdown: a row a class of targets, with the share of their pixels that is found."""
    ends = [f"{low} to {high}" for low, high in zip((1, *(s + 1 for s in SIZES)), SIZES, strict=False)]
    (numbers, first), (_, second) = (found_by_size(t) for t in targets)
    lines = [f"| pixels of a target | targets | found by {names[0]}, % | by {names[1]}, % |", "|---|---|---|---|"]
    for size, n, a, b in zip([*ends, f"more than {SIZES[-1]}"], numbers, first, second, strict=True):
        lines.append(f"| {size} | {n} | {100 * a:.1f} | {100 * b:.1f} |")
    return lines


def heaviest_frames(frames: list[str], counts: list[np.ndarray]) -> list[str]:
    first, second = (mean_metrics(c)[0] for c in counts)
    without = iou_without_each_frame(*counts)
    order = np.argsort(-np.abs(without - (first - second)), kind="stable")[:FRAMES]
    return [f"{frames[i]}: without it the IoU differs by {100 * without[i]:+.1f}" for i in order]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="with all masks of the split: a folder or a Hub repository")
    parser.add_argument("--split", default="test", help="split to compare on (default: %(default)s)")
    parser.add_argument(
        "--models", nargs="+", type=Path, required=True, help="folders of the seeds of two or more models"
    )
    parser.add_argument("--base-model", help="the teachers' base, if it isn't where their adapters say")
    parser.add_argument("--feature-cache-dir", type=Path, help="where the teachers' frozen features are kept")
    parser.add_argument("--trained-on", help="data set whose labelled frames are left out, where models don't say it")
    parser.add_argument(
        "--threshold", type=PROBABILITY, default=0.5, help="probability of a target (default: %(default)s)"
    )
    args = parser.parse_args(argv)

    (reference, folders), *others = seeds_of_models(args.models).items()
    if not others:
        raise ValueError(f"--models names no other model to compare {reference} with")
    rows = frames_to_compare(args.dataset, args.split, models=args.models, labelled=args.trained_on)

    def count(folders: list[Path]) -> tuple[np.ndarray, np.ndarray]:
        models = (load_trained(folder, args.base_model, args.feature_cache_dir) for folder in folders)  # one at a time
        seeds = [count_frames(model.probabilities, rows, args.threshold) for model in models]
        return np.stack([counts for counts, _ in seeds]), np.stack([targets for _, targets in seeds])

    first, first_targets = count(folders)
    n_targets = first[0, :, COUNTS.index("n_targets")].sum()
    print(f"{len(rows)} frames, {n_targets} targets, threshold {args.threshold:g}", flush=True)
    for name, folders in others:
        second, second_targets = count(folders)
        counts = [first, second]
        print("\n" + "\n".join(table([reference, name], counts, recordings_of(rows))))
        print("\n" + "\n".join(size_table([reference, name], [first_targets, second_targets])))
        print("\n" + "\n".join(heaviest_frames(rows["name"][:], counts)), flush=True)


if __name__ == "__main__":
    run_program(main)
