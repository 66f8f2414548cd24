"""What the student's settings are worth: students of four fifths of a data set's masks, measured on the other fifth.

    python scripts/experiments/ablate_student.py --data data/irstd --seeds 0 1 2 --work runs/ablation \\
        --out results/student_settings/irstd

`--data` is a prepared data set with all masks; only its training split is used, so what pays can be chosen by the
result. A seed draws the fifth; every arm is trained on the same frames. Writes one JSON an arm and seed, with its
counts on every frame. Run again after a kill, it resumes.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from decoder_features import recorded
from mask_losses import dice_loss, edge_loss
from torch import Tensor, nn

from scalpel_hf.cli.numbers import SEED
from scalpel_hf.cli.program import run_program
from scalpel_hf.data import load_prepared, load_split
from scalpel_hf.data.contents import hash_rows
from scalpel_hf.data.transforms import PASTE_SHARE, ZOOM, Zoom
from scalpel_hf.evaluation.comparison import count_record
from scalpel_hf.evaluation.run_files import has_result
from scalpel_hf.modeling import ScalpelStudentForSemanticSegmentation
from scalpel_hf.modeling.losses import mask_loss
from scalpel_hf.predictors.load import load_trained
from scalpel_hf.predictors.student import SegmentationStudent, new_student
from scalpel_hf.training.knowledge_transfer import StudentSamples
from scalpel_hf.training.loop import LossFunction, make_accelerator, train
from scalpel_hf.training.recipe_arguments import TransferArguments
from scalpel_hf.training.run_record import training_facts, write_metrics
from scalpel_hf.training.sampling import prior_shift
from scalpel_hf.utils.files import whole_folder, write_json

HELD_OUT = 0.2
COMMON: dict[str, Any] = {
    "crop_size": 160,
    "batch_size": 8,
    "learning_rate": 2e-3,
    "normalization": "range",
    "max_steps": 2000,
}
MaskLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Arm:
    """What differs from the recipe: fields of `recipes/transfer.py`, how crops are made, the loss."""

    settings: dict[str, Any] = field(default_factory=dict)
    zoom: Zoom = ZOOM
    paste_share: float = PASTE_SHARE
    loss: MaskLoss = mask_loss
    deep_supervision: bool = False


ARMS = {
    "steps-1000": Arm({"max_steps": 1000}),
    "steps-2000": Arm(),
    "steps-4000": Arm({"max_steps": 4000}),
    "steps-8000": Arm({"max_steps": 8000}),
    "steps-16000": Arm({"max_steps": 16000}),
    "crops-of-256": Arm({"crop_size": 256, "max_steps": 800}),  # as many pixels as 2000 crops of 160
    "zoom-half-to-double": Arm(zoom=Zoom(low=0.5, high=2.0, share=1.0)),
    "half-the-learning-rate": Arm({"learning_rate": 1e-3}),
    "twice-the-learning-rate": Arm({"learning_rate": 4e-3}),
    "dice": Arm(loss=dice_loss),
    "edges": Arm(loss=edge_loss),
    "deep-supervision": Arm(deep_supervision=True),
    "full-resolution": Arm({"size": "base"}),
    "no-pasting": Arm(paste_share=0.0),
    "always-pasting": Arm(paste_share=1.0),
    "zscore": Arm({"normalization": "zscore"}),
}


def split(data: Path, seed: int, to: Path) -> None:
    """`train` and `test` of a data set's training split, in a prepared folder of their own."""
    if not to.exists():
        parts = load_split(str(data), "train").train_test_split(HELD_OUT, seed=seed)
        with whole_folder(to) as folder:
            parts.save_to_disk(str(folder))


def train_arm(arm: Arm, rows: datasets.Dataset, seed: int, run: Path) -> None:
    """Train an arm's student on all of the rows, and save it in `run`."""
    args = TransferArguments(**{**COMMON, **arm.settings}, output_dir=str(run), seed=seed, eval_split="")
    accelerator = make_accelerator(args)
    student = untrained(args)
    dataset = StudentSamples(rows, student.processor, crop_size=args.crop_size, seed=seed)
    dataset.zoom, dataset.paste_share = arm.zoom, arm.paste_share
    loss = student_loss(arm, student.model, logit_shift=prior_shift(dataset))
    fit(student, accelerator, rows=rows, dataset=dataset, loss=loss, args=args)


def untrained(args: TransferArguments) -> SegmentationStudent:
    set_seed(args.seed)
    student = new_student("segmentation", size=args.size, normalization=args.normalization)
    assert isinstance(student, SegmentationStudent)
    return student


def fit(
    student: SegmentationStudent,
    accelerator: Accelerator,
    rows: datasets.Dataset,
    dataset: StudentSamples,
    loss: LossFunction,
    args: TransferArguments,
) -> None:
    """Train a student and save it, without what was only `trained_with_it`, in the arguments' folder."""
    made_of = {"rows": hash_rows(rows)}
    outcome = train(accelerator, student.model, dataset=dataset, loss_function=loss, args=args, made_of=made_of)
    student.model.trained_with_it = None
    student.save_pretrained(args.output_dir)
    write_metrics(args, outcome, {})


def student_loss(arm: Arm, student: ScalpelStudentForSemanticSegmentation, logit_shift: float) -> LossFunction:
    """The arm's loss; with deep supervision plus the mean loss of a linear map of each level of the decoder."""
    student.add_to_logits(-logit_shift)
    heads = nn.ModuleList()
    if arm.deep_supervision:
        heads.extend(nn.Conv2d(width, 1, 1) for width in student.config.hidden_sizes[:-1])
        student.trained_with_it = heads

    def loss_function(_: nn.Module, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, float]]:
        target, weight = batch["labels"][:, None], batch["weights"][:, None]
        with recorded(student.decoder) as outputs:
            loss = arm.loss(student.foreground(batch["pixel_values"]) + logit_shift, target, weight)
        for head, features in zip(reversed(heads), outputs, strict=arm.deep_supervision):
            logits = F.interpolate(head(features), target.shape[2:], mode="bilinear") + logit_shift
            loss = loss + arm.loss(logits, target, weight) / len(heads)
        return loss, {}

    return loss_function


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
        parts = load_prepared(data)
        for arm in args.arms:
            result, run = args.out / f"{arm}-{seed}.json", args.work / f"{arm}-{seed}"
            if has_result(result, dataset=args.data.name):
                continue
            train_arm(ARMS[arm], parts["train"], seed=seed, run=run)
            record = count_record(load_trained(run).probabilities, parts["test"])
            write_json(result, {"arm": arm, "dataset": args.data.name, "seed": seed, **record, **training_facts(run)})
            print(arm, seed, record["metrics"], flush=True)


if __name__ == "__main__":
    run_program(main, resumes=True)
