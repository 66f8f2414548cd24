"""How good are the masks that boxes and points propose? Against a person's masks, by the targets' size.

    python scripts/experiments/measure_proposals.py --dataset data/nuaa --budget data/nuaa-10/label_budget.json \\
        --voc data/NUAA-SIRST/boxes --base-model models/mobile-sam --out results/weak_labels/proposals

`--dataset` has all masks. Its frames are all measured but those of the budget, whose masks chose the operators'
constants. `drawn` boxes are those of the VOC files, `tight` ones the masks' own; points lie within a pixel of the
target's centre. Filling the box, the operators, and SAM, prompted with the box or point, at two sizes, each give a
mask, cut off a pixel outside the box. Writes one JSON a way: of each box or point its target's pixels, how many targets
it holds, and the IoU. Run again, it measures what is missing.
"""

import argparse
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage

from scalpel_hf.cli.program import run_program
from scalpel_hf.data import LabelBudget, load_prepared, read_frame, read_target
from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.data.label_sources import inside_frame
from scalpel_hf.data.objects import EIGHT_CONNECTED, objects_from_mask
from scalpel_hf.data.proposals import MARGIN, weak_label
from scalpel_hf.formats import read_voc_boxes
from scalpel_hf.modeling import InfraredImageProcessor, ScalpelSamProcessor
from scalpel_hf.predictors.sam import load_sam
from scalpel_hf.training.run_record import commit_and_machine
from scalpel_hf.utils.files import write_json

KINDS = ("drawn", "tight", "point")
SAM_SIZES = (512, 1024)
WANTED = ("pixel_values", "input_boxes", "input_points", "input_labels")
Objects = list[list[float]]
Propose = Callable[[np.ndarray, Objects], list[np.ndarray]]


class Case(NamedTuple):
    """A frame, the boxes or points of one kind in it, and for each the pixels that it is about."""

    frame: np.ndarray
    objects: Objects
    truths: list[np.ndarray]


def filled(frame: np.ndarray, objects: Objects) -> list[np.ndarray]:
    return [weak_label(frame, [box]).boxes > 0 for box in objects]


def by_operators(frame: np.ndarray, objects: Objects) -> list[np.ndarray]:
    return [weak_label(frame, [box]).target > 0.5 for box in objects]


def by_sam(base_model: str, size: int) -> Propose:
    """SAM's mask for each box or point of a frame, encoded once."""
    model = load_sam(base_model, size)
    processor = ScalpelSamProcessor(InfraredImageProcessor(normalization="range", sam_size=size), mask_grid="base")

    @torch.no_grad()
    def propose(frame: np.ndarray, objects: Objects) -> list[np.ndarray]:
        is_point = objects[0][2] == 0
        corners = [[x, y, x + w, y + h] for x, y, w, h in objects]
        prompts: dict[str, Any] = {"input_boxes": [corners]}
        if is_point:
            prompts = {"input_points": [[[[x - 0.5, y - 0.5]] for x, y, _, _ in objects]]}
        inputs = processor([frame], **prompts)
        wanted = {key: inputs[key] for key in WANTED if key in inputs}
        outputs = model(**wanted, multimask_output=is_point)  # a point may mean a part or the whole, a box doesn't
        best = outputs.iou_scores.argmax(-1)[:, :, None, None, None]
        masks = outputs.pred_masks.take_along_dim(best, 2)
        (found,) = processor.post_process_masks(masks, [frame.shape])
        return list(found[:, 0].numpy())

    return propose


def cases(dataset: str, budget: LabelBudget, voc: Path, kind: str) -> Iterator[Case]:
    drawn = {label.name: label.boxes for label in read_voc_boxes(voc)}
    for split in load_prepared(dataset).values():
        for row in undecoded(split):
            if row["name"] in budget.names:
                continue
            frame, truth = read_frame(row["image"]).astype(np.float32), read_target(row["mask"])
            objects = _objects(kind, row["name"], truth=truth, drawn=drawn)
            if objects:
                labels, _ = ndimage.label(truth, EIGHT_CONNECTED)
                yield Case(
                    frame, objects, [_truth(labels, box, kind=kind, number=i + 1) for i, box in enumerate(objects)]
                )


def _objects(kind: str, name: str, truth: np.ndarray, drawn: dict[str, Any]) -> Objects:
    height, width = truth.shape
    if kind == "drawn":
        return [inside_frame(box, width, height) for box in drawn.get(name, ())]
    tight = objects_from_mask(truth)["bbox"]
    if kind == "tight":
        return tight
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    centres = [np.array([x + w / 2, y + h / 2]) + generator.uniform(-1, 1, 2) for x, y, w, h in tight]
    return [[float(np.clip(x, 0, width - 1)), float(np.clip(y, 0, height - 1)), 0.0, 0.0] for x, y in centres]


def _truth(labels: np.ndarray, box: list[float], kind: str, number: int) -> np.ndarray:
    """The pixels of the target that a tight box or a point is of; those of all targets in a drawn box."""
    return labels == number if kind != "drawn" else (labels > 0) & _near(box, labels.shape)


def _near(box: list[float], shape: tuple[int, ...]) -> np.ndarray:
    """A box with its margin; of a point the whole frame."""
    near = np.ones(shape, bool)
    if box[2]:
        grown = ndimage.binary_dilation(weak_label(np.zeros(shape), [box]).boxes > 0, EIGHT_CONNECTED, MARGIN)
        near &= grown
    return near


def measure(propose: Propose, all_cases: Iterator[Case]) -> list[list[float]]:
    """Of each box or point its target's pixels, how many targets it holds, and the IoU of what is proposed."""
    found = []
    for case in all_cases:
        for box, truth, proposed in zip(case.objects, case.truths, propose(case.frame, case.objects), strict=True):
            kept = proposed & _near(box, truth.shape)
            iou = float((kept & truth).sum() / max((kept | truth).sum(), 1))
            found.append([int(truth.sum()), ndimage.label(truth, EIGHT_CONNECTED)[1], round(iou, 4)])
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="prepared, with all masks")
    parser.add_argument("--budget", required=True, type=Path, help="label_budget.json of the frames to leave out")
    parser.add_argument("--voc", required=True, type=Path, help="folder with the drawn boxes")
    parser.add_argument("--base-model", required=True, help="Segment Anything model")
    parser.add_argument("--ways", nargs="+", help="names of the ways to measure (default: all)")
    parser.add_argument("--out", required=True, type=Path, help="folder for the JSON files")
    args = parser.parse_args(argv)

    budget = LabelBudget.load(args.budget)
    ways: dict[str, Callable[[], Propose]] = {"filled": lambda: filled, "operators": lambda: by_operators}
    ways |= {f"sam-{size}": lambda size=size: by_sam(args.base_model, size) for size in SAM_SIZES}  # type: ignore[misc]
    for way in args.ways or ways:
        for kind in KINDS:
            path = args.out / f"{kind}-{way}.json"
            if path.exists() or (kind, way) == ("point", "filled"):
                continue
            start = time.monotonic()
            found = measure(ways[way](), cases(args.dataset, budget, voc=args.voc, kind=kind))
            record = {"labels": kind, "way": way, "columns": ["pixels", "targets", "iou"], "objects": found}
            write_json(path, {**record, "seconds": time.monotonic() - start, **commit_and_machine()})
            print(kind, way, f"mean IoU {np.mean([iou for _, _, iou in found]):.3f} of {len(found)}", flush=True)


if __name__ == "__main__":
    run_program(main)
