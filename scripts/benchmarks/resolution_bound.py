"""How well masks can be told by a model whose logits are coarser than the frame: what a stride costs tiny targets.

    python scripts/benchmarks/resolution_bound.py --dataset data/nuaa --strides 2 4 8

Prints a table for human masks, in two ways. "resampled": the mask averaged over cells of stride x stride pixels and
resized bilinearly to the frame's size, above one half. "fitted": the best that logits of that grid can do when they are
resized bilinearly, found for each mask by minimising the cross-entropy with it, which is a convex problem: a bound for
all models with such logits, as they are trained.
"""

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from scalpel_hf.cli.numbers import between
from scalpel_hf.cli.program import run_program
from scalpel_hf.data import load_split, read_target
from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.evaluation import IRSTDMetrics


def resampled(mask: Tensor, stride: int) -> Tensor:
    """Where a mask `(H, W)` is still one after a coarse grid, bool."""
    grid = F.avg_pool2d(_padded(mask, stride), stride)
    return _resized(grid, mask.shape, stride) > 0.5


def fitted(mask: Tensor, stride: int, iterations: int = 200) -> Tensor:
    """Where the logits of a coarse grid, fitted to a mask `(H, W)`, are positive at the mask's size, bool."""
    start = F.avg_pool2d(_padded(mask, stride), stride) * 2 - 1
    logits = start.requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=iterations, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(_resized(logits, mask.shape, stride), mask, reduction="sum")
        value.backward()
        return value

    optimizer.step(loss)
    return _resized(logits.detach(), mask.shape, stride) > 0


def _padded(mask: Tensor, stride: int) -> Tensor:
    """(1, 1, H', W') with sides that are multiples of the stride, padded by repeating the edge, as frames are."""
    height, width = mask.shape
    return F.pad(mask[None, None], (0, -width % stride, 0, -height % stride), mode="replicate")


def _resized(grid: Tensor, size: torch.Size, stride: int) -> Tensor:
    full = F.interpolate(grid, scale_factor=stride, mode="bilinear", align_corners=False)
    return full[0, 0, : size[0], : size[1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="with all masks of the split: a folder or a Hub repository")
    parser.add_argument("--split", default="test", help="default: %(default)s")
    parser.add_argument("--strides", type=between(int, 1, 1024), nargs="+", default=[2, 4, 8], help="default: 2 4 8")
    args = parser.parse_args()

    rows = undecoded(load_split(args.dataset, args.split).select_columns(["name", "mask"]))
    ways = {"resampled": resampled, "fitted": fitted}
    metrics = {(way, stride): IRSTDMetrics() for stride in args.strides for way in ways}
    for row in tqdm(rows, leave=False, unit="mask"):
        if row["mask"] is None:
            raise ValueError(f"the mask of {row['name']} is hidden: choose a split with all masks")
        mask = read_target(row["mask"])
        for (way, stride), metric in metrics.items():
            found = ways[way](torch.from_numpy(mask.astype(np.float32)), stride)
            metric.update(found.numpy().astype(np.float32), mask)

    print("| stride | logits | IoU % | nIoU % | Pd % | Fa 1e-6 |\n|---|---|---|---|---|---|")
    for (way, stride), metric in metrics.items():
        m = metric.compute()
        print(
            f"| {stride} | {way} | {m['iou']:.1%} | {m['niou']:.1%} | {m['pd']:.1%} | {m['fa']:.1f} |".replace("%", "")
        )


if __name__ == "__main__":
    run_program(main)
