"""What each part of the teacher is worth: every variant of a recipe at every seed, and one table of them all.

    python scripts/experiments/ablate.py --config recipes/nuaa_sirst/ablation.yaml --runs runs/ablation \\
        --out runs/ablation.md

A cell, one variant at one seed, is a run of recipes/distill.py in RUNS/<variant>-<seed>, measured on the test split.
Run again after a kill to resume: finished cells are kept, a broken-off one is resumed. All cells share one cache of the
frozen features. The table is written anew after every cell.
"""

import argparse
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from scalpel_hf import Teacher
from scalpel_hf.cli.numbers import SEED
from scalpel_hf.cli.program import run_program
from scalpel_hf.data import load_split
from scalpel_hf.data.contents import hash_rows
from scalpel_hf.evaluation.evaluator import evaluate_probabilities, mean_and_deviation
from scalpel_hf.evaluation.unseen import rows_to_measure, trained_on, with_masks
from scalpel_hf.predictors.load import on_default_device
from scalpel_hf.predictors.sam import load_sam
from scalpel_hf.training.loop import hash_weights
from scalpel_hf.training.run_record import METRICS_FILE
from scalpel_hf.utils.files import write_json, write_text
from scalpel_hf.utils.reading import read_json, read_yaml
from scalpel_hf.version import __version__

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "distill.py"
CELL_FILE = "figures.json"  # written last: a cell that has it is finished
COLUMNS = {"iou": ("IoU", 100.0), "niou": ("nIoU", 100.0), "pd": ("Pd", 100.0), "fa": ("Fa", 1.0)}


def read_config(path: Path) -> dict[str, Any]:
    """The file's `common`, `seeds` and `variants`, checked."""
    config = read_yaml(path)
    if set(config) != {"common", "seeds", "variants"}:
        raise ValueError(f"{path} must have `common`, `seeds` and `variants`, and nothing else")
    seeds, variants = config["seeds"], config["variants"]
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise ValueError(f"{path}: `seeds` must be a list of whole numbers, and is {seeds!r}")
    if not isinstance(variants, dict) or not variants:
        raise ValueError(f"{path}: `variants` must have a name and fields a variant, and is {variants!r}")
    for name, fields in {"common": config["common"], **variants}.items():
        if not isinstance(fields, dict):
            raise ValueError(f"{path}: {name!r} must hold `field: value` lines, and holds {fields!r}")
    for name, variant in variants.items():
        if taken := {"seed", "output_dir", "feature_cache_dir", "eval_split"} & (set(variant) | set(config["common"])):
            raise ValueError(f"{path}: {', '.join(sorted(taken))} of {name!r} is set by this program")
    return config


def settings(config: dict[str, Any], variant: str, seed: int, runs: Path) -> dict[str, Any]:
    """All fields of recipes/distill.py for a cell."""
    return {
        **config["common"],
        **config["variants"][variant],
        "seed": seed,
        "output_dir": str(runs / f"{variant}-{seed}"),
        "feature_cache_dir": str(runs / "features"),
        "eval_split": "",
    }


def run_cell(values: dict[str, Any], split: str) -> dict[str, Any]:
    """Train and measure a cell, or read what was measured before."""
    folder = Path(values["output_dir"])
    key = {"settings": values, "split": split, "made_of": contents(values, split)}
    if (folder / CELL_FILE).exists():
        record = read_json(folder / CELL_FILE)
        for name, what in (("settings", "settings"), ("split", "settings"), ("made_of", "data, base or version")):
            if record.get(name) != key[name]:
                raise ValueError(f"{folder} is of other {what}: remove it, or give another --runs")
        return record
    train(values, folder)
    record = {**key, **measure(values, folder, split)}
    write_json(folder / CELL_FILE, record)
    return record


def contents(values: dict[str, Any], split: str) -> dict[str, str]:
    """What a cell's metrics depend on beside its settings, by content."""
    train_split, base = values.get("train_split", "train"), values["base_model"]
    return {
        "training rows": hash_of_split(values["dataset"], train_split),
        "measured rows": hash_of_split(values["dataset"], split),
        "base model": hash_of_base(base, values.get("image_size", 512)),
        "version of scalpel-hf": __version__,
    }


@cache
def hash_of_split(dataset: str, split: str) -> str:
    return hash_rows(load_split(dataset, split))


@cache
def hash_of_base(base_model: str, image_size: int) -> str:
    return hash_weights(load_sam(base_model, image_size))


def train(values: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "cell.yaml", yaml.safe_dump(values, sort_keys=False))
    with open(folder / "log.txt", "wb") as output:
        command = [sys.executable, str(RECIPE), "--config", str(folder / "cell.yaml")]
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        lines = (
            (folder / "log.txt").read_text(encoding="utf-8", errors="replace").replace("\r", "\n").strip().splitlines()
        )
        raise ValueError(f"{folder.name} ended with status {done.returncode}: {lines[-1] if lines else 'no output'}")


def measure(values: dict[str, Any], folder: Path, split: str) -> dict[str, Any]:
    rows = rows_to_measure(values["dataset"], split, trained_on([folder]))
    teacher = Teacher.from_pretrained(
        folder,
        values["base_model"],
        feature_cache_dir=values["feature_cache_dir"],
        feature_cache_dtype=values.get("feature_cache_dtype", "float16"),
    )
    metrics = evaluate_probabilities(on_default_device(teacher).probabilities, rows)
    run = read_json(folder / METRICS_FILE)
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        weights = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 - not a dict
    return {"figures": metrics, "weights": weights, "seconds": run["training"]["seconds"], "machine": run["machine"]}


def table(records: dict[str, list[dict[str, Any]]], command: str) -> str:
    """Markdown: a row a variant, the best IoU first."""
    columns = [name for name, _ in COLUMNS.values()]
    lines = [
        f"`{command}`",
        "",
        "Mean ± standard deviation over the seeds. IoU, nIoU and Pd in %, Fa in 1e-6 of all pixels, at threshold 0.5.",
        "",
        f"| variant | seeds | weights | {' | '.join(columns)} |",
        "|---|---|---|" + "---|" * len(columns),
    ]

    def values(variant: str, column: str) -> list[float]:
        return [COLUMNS[column][1] * record["figures"][column] for record in records[variant]]

    for variant in sorted(records, key=lambda v: -statistics.mean(values(v, "iou"))):
        cells = [mean_and_deviation(values(variant, column)) for column in COLUMNS]
        weights = records[variant][0]["weights"]
        lines.append(f"| {variant} | {len(records[variant])} | {weights / 1000:.0f} k | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML with `common`, `seeds` and `variants`")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"), help="folder of the cells")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file for the table")
    parser.add_argument("--split", default="test", help="split to measure on (default: %(default)s)")
    parser.add_argument("--variants", nargs="+", help="only these variants")
    parser.add_argument("--seeds", nargs="+", type=SEED, help="these seeds in place of the file's")
    args = parser.parse_args(argv)
    config = read_config(args.config)
    variants = args.variants or list(config["variants"])
    if unknown := [v for v in variants if v not in config["variants"]]:
        raise ValueError(f"{args.config} has no variant {', '.join(unknown)}, only {', '.join(config['variants'])}")
    command = f"python scripts/experiments/ablate.py --config {args.config}"
    datasets_used = {settings(config, variant, seed=0, runs=args.runs)["dataset"] for variant in variants}
    for name in datasets_used:  # an error now rather than after hours of training
        with_masks(load_split(name, args.split, "name another by `--split`"), f"split {args.split!r} of {name!r}")
    records: dict[str, list[dict[str, Any]]] = {}
    for seed in args.seeds or config["seeds"]:  # seed by seed: an unfinished table compares like with like
        for variant in variants:
            record = run_cell(settings(config, variant, seed=seed, runs=args.runs), args.split)
            records.setdefault(variant, []).append(record)
            metrics = record["figures"]
            print(f"{variant}-{seed}: IoU {100 * metrics['iou']:.1f}, nIoU {100 * metrics['niou']:.1f}", flush=True)
            write_text(args.out, table(records, command))


if __name__ == "__main__":
    run_program(main, resumes=True)
