"""How well a white-box operator's map tells targets from background on labelled frames, as a Markdown table.

    python scripts/benchmarks/measure_operators.py --dataset data/nuaa-10pct
    python scripts/benchmarks/measure_operators.py --dataset data/nuaa-10pct --diffusion-k 4 8 16 --diffusion-steps 3 8

Without `--diffusion-k` all four operators at the adapter's scales, at their initial parameters. Per frame, over pixels:
ROC-AUC, average precision, and the separation, (mean on targets − mean off) / standard deviation off; means over the
frames. Milliseconds are CPU time, the median over the frames, one map at a time. Only rows with `label_source: human`
count.
"""

import argparse
import math
import time

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from scalpel_hf.cli.numbers import between
from scalpel_hf.cli.program import run_program
from scalpel_hf.data import load_split, read_target
from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.modeling.configuration_experts import OPERATOR_SCALES
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.modeling.image_processing_infrared import normalize_frame
from scalpel_hf.modeling.operators import OPERATORS, AnisotropicDiffusion


def roc_auc(response: np.ndarray, target: np.ndarray) -> float:
    """Probability that a target's pixel answers more strongly than one of the background, ties counting half."""
    positives = target.sum()
    ranks = rankdata(response.ravel())[target.ravel()].sum()
    return (ranks - positives * (positives + 1) / 2) / (positives * (target.size - positives))


def average_precision(response: np.ndarray, target: np.ndarray) -> float:
    hits = target.ravel()[np.argsort(-response.ravel(), kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, hits.size + 1))[hits].mean())


def separation(response: np.ndarray, target: np.ndarray) -> float:
    off = response[~target]
    return float((response[target].mean() - off.mean()) / max(off.std(), 1e-12))


def diffusion(scale: float, k: float, steps: int) -> AnisotropicDiffusion:
    operator = AnisotropicDiffusion([scale])
    operator.steps = steps
    nn.init.constant_(operator.raw_k, math.log(k / operator.initial_k))
    return operator


def cases(args: argparse.Namespace) -> dict[str, nn.Module]:
    if args.diffusion_k:
        return {
            f"anisotropic_diffusion, scale {scale:g}, K {k:g}, {steps} steps": diffusion(scale, k, steps)
            for scale in args.scales
            for steps in args.diffusion_steps
            for k in args.diffusion_k
        }
    chosen = [(name, scale) for name, scales in OPERATOR_SCALES.items() for scale in scales]
    return {f"{name}, scale {scale:g}": OPERATORS[name]([scale]) for name, scale in chosen}


def labelled_frames(dataset: str, split: str) -> list[tuple[Tensor, np.ndarray]]:
    """Normalised frames `(1, 1, H, W)` and their targets `(H, W)`; frames without a target tell nothing here."""
    frames = []
    for row in undecoded(load_split(dataset, split)):
        if row["label_source"] != "human":
            continue
        target = read_target(row["mask"])
        if target.any():
            frame = torch.from_numpy(read_frame(row["image"]).astype(np.float64))
            frames.append((normalize_frame(frame).float()[None, None], target))
    if not frames:
        raise ValueError(f"{dataset!r}, split {split!r}, has no frame with a human's mask of a target")
    return frames


@torch.no_grad()
def measure(operator: nn.Module, frames: list[tuple[Tensor, np.ndarray]]) -> tuple[np.ndarray, float]:
    """Mean ROC-AUC, average precision and separation; median seconds."""
    metrics, seconds = [], []
    for frame, target in frames:
        began = time.process_time()
        response = operator(frame)[0, 0, 0]
        seconds.append(time.process_time() - began)
        metrics.append([measure(response.numpy(), target) for measure in (roc_auc, average_precision, separation)])
    return np.mean(metrics, 0), float(np.median(seconds))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="made by `scalpel-hf prepare`: a folder or a Hub repository")
    parser.add_argument("--split", default="train", help="split whose labelled frames count (default: %(default)s)")
    parser.add_argument(
        "--diffusion-k", nargs="+", type=between(float, 1e-6, 1e6), help="the diffusion alone, at these K"
    )
    parser.add_argument(
        "--diffusion-steps", nargs="+", type=between(int, 1, 1000), default=[AnisotropicDiffusion.steps]
    )
    parser.add_argument(
        "--scales", nargs="+", type=between(float, 0.1, 100.0), default=OPERATOR_SCALES["anisotropic_diffusion"]
    )
    args = parser.parse_args(argv)
    frames = labelled_frames(args.dataset, args.split)
    print(f"{len(frames)} labelled frames of {args.split}\n")
    print("| map | ROC-AUC | average precision | separation | ms |\n|---|---|---|---|---|")
    for name, operator in cases(args).items():
        (auc, precision, apart), seconds = measure(operator, frames)
        print(f"| {name} | {auc:.3f} | {precision:.3f} | {apart:.1f} | {1000 * seconds:.1f} |", flush=True)


if __name__ == "__main__":
    run_program(main)
