"""How a student best learns from a teacher: students of few masks and pseudo labels, measured on held-out frames.

    python scripts/experiments/ablate_knowledge.py --recipe nuaa_sirst/distill_10pct --data data/nuaa \\
        --base-model models/mobile-sam --budget 0.1 --seeds 0 1 2 --work runs/knowledge --out results/knowledge/nuaa-0.1

`--data` is a prepared data set with all masks, of which only the training split is used. A seed draws a fifth of it to
measure on, and the share `--budget` of the rest that keeps its masks; the recipe's teacher of these labels the others.
The arms differ in the target and the weight of a pseudo-labelled pixel, of which p is the teacher's probability, in the
share of crops from frames with masks, and in whether the student's features are to predict the teacher's. Writes one
JSON an arm and seed, with its counts on every frame. Run again after a kill, it resumes.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
from ablate_student import COMMON, fit, split, untrained
from decoder_features import decoder_width, prediction_loss, recorded
from mask_losses import Label, hard_weighed, soft_edges
from reproduce import ANY_TEACHER, QUICK, run
from torch import Tensor, nn

from scalpel_hf import Teacher
from scalpel_hf.adapter.layer import active_mask_level
from scalpel_hf.cli.numbers import SEED, between
from scalpel_hf.cli.program import run_program
from scalpel_hf.data import apply_label_budget, load_prepared, load_split
from scalpel_hf.data.label_sources import NONE, PSEUDO
from scalpel_hf.data.prepared import split_by_source
from scalpel_hf.evaluation.comparison import count_record
from scalpel_hf.evaluation.run_files import has_result
from scalpel_hf.modeling import ScalpelStudentForSemanticSegmentation
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.modeling.losses import mask_loss
from scalpel_hf.modeling.mask_level import MaskLevel
from scalpel_hf.predictors.load import load_trained
from scalpel_hf.training.frames import LabelledFrame, LabelledFrames
from scalpel_hf.training.knowledge_transfer import StudentSamples
from scalpel_hf.training.loop import make_accelerator
from scalpel_hf.training.recipe_arguments import TransferArguments
from scalpel_hf.training.run_record import METRICS_FILE, training_facts
from scalpel_hf.training.sampling import prior_shift
from scalpel_hf.utils.files import whole_folder, write_json

FEATURE_WEIGHT = 0.5


def hard(p: Tensor) -> Label:
    return (p > 0.5).float(), torch.ones_like(p)


def soft(p: Tensor) -> Label:
    return p, torch.ones_like(p)


def soft_weighed(p: Tensor) -> Label:
    return p, (2 * p - 1).abs()


@dataclass(frozen=True)
class Arm:
    """The target and weight of pseudo-labelled pixels (`None`: the recipe's, as quality control left them)."""

    label: Callable[[Tensor], Label] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    features: bool = False


ARMS = {
    "recipe": Arm(),
    "hard": Arm(hard),
    "hard-weighed": Arm(hard_weighed),
    "soft": Arm(soft),
    "soft-weighed": Arm(soft_weighed),
    "soft-edges": Arm(soft_edges),
    "quarter-human": Arm(settings={"human_share": 0.25}),
    "three-quarters-human": Arm(settings={"human_share": 0.75}),
    "features": Arm(features=True),
}


class Probabilities(LabelledFrames):
    """Labelled frames whose weights, in pseudo-labelled ones, are the teacher's probabilities."""

    def __getitem__(self, index: int) -> LabelledFrame:  # type: ignore[override]
        is_kept = index in self.kept
        frame = super().__getitem__(index)
        if not is_kept and (row := self.dataset[index])["label_source"] == PSEUDO:
            frame.weight = read_frame(row["pseudo_confidence"])
        return frame


def label(args: argparse.Namespace, seed: int) -> Path:
    """Pseudo labels of the seed's teacher, in a folder with the frames to measure on in `data-SEED`."""
    data, few = args.work / f"data-{seed}", args.work / f"few-{seed}"
    split(args.data, seed, data)
    if not few.exists():
        rows = apply_label_budget(load_prepared(data)["train"], fraction=args.budget, seed=seed)
        with whole_folder(few) as folder:
            datasets.DatasetDict({"train": rows}).save_to_disk(str(folder))
    teacher, labels = args.work / f"teacher-{seed}", args.work / f"labels-{seed}"
    if not (teacher / METRICS_FILE).exists():
        where = ("--dataset", few, "--base_model", args.base_model, "--output_dir", teacher, "--seed", seed)
        run("distill", "--config", args.recipe, *where, "--eval_split", "", "--guard", "false", *args.teacher_options)
    run("label", "--dataset", few, "--teacher", teacher, "--out", labels, *args.label_options)
    return labels


def train_arm(arm: Arm, rows: datasets.Dataset, teacher: Path, base_model: str, seed: int, to: Path) -> None:
    """Train an arm's student on human and pseudo labels, and save it in `to`."""
    args = TransferArguments(**{**COMMON, **arm.settings}, output_dir=str(to), seed=seed, eval_split="")
    accelerator = make_accelerator(args)
    student = untrained(args)
    dataset = StudentSamples(rows, student.processor, crop_size=args.crop_size, seed=seed, human_share=args.human_share)
    shift = prior_shift(dataset)  # with the recipe's weights in every arm
    student.model.add_to_logits(-shift)
    if arm.label is not None:
        dataset.frames = Probabilities(rows, student.processor)
    features = FeaturePrediction(student.model, teacher, base_model) if arm.features else None

    def loss_function(_: nn.Module, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, float]]:
        target, weight = batch["labels"][:, None], batch["weights"][:, None]
        if arm.label is not None:
            human = batch["human"][:, None, None, None] > 0
            of_teacher = arm.label(weight)  # which is p, and 1 on pasted targets
            target, weight = (torch.where(human, *pair) for pair in ((target, of_teacher[0]), (weight, of_teacher[1])))
        with recorded(student.model.decoder[1:]) as own:
            logits = student.model.foreground(batch["pixel_values"]) + shift
        loss = mask_loss(logits, target, weight)
        if features is not None:
            loss = loss + FEATURE_WEIGHT * features(own, batch["pixel_values"])
        return loss, {}

    fit(student, accelerator, rows=rows, dataset=dataset, loss=loss_function, args=args)


class FeaturePrediction:
    """1 minus the cosine of the features of the teacher's first mask level and a linear map of the student's."""

    def __init__(self, student: ScalpelStudentForSemanticSegmentation, teacher: Path, base_model: str):
        level = active_mask_level(Teacher.from_pretrained(teacher, base_model).members[0].model)
        assert isinstance(level, MaskLevel)
        self.level = level.requires_grad_(False).eval()
        pairs = [(student.config.hidden_sizes[i], decoder_width(level, i)) for i in (2, 1)]
        self.heads = nn.ModuleList(nn.Conv2d(own, wanted, 1) for own, wanted in pairs)
        student.trained_with_it = self.heads

    def __call__(self, own: list[Tensor], frames: Tensor) -> Tensor:
        with torch.no_grad(), recorded(self.level.decoder[1:]) as wanted:
            self.level.without_sam(frames)
        return prediction_loss(self.heads, own, wanted)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, help="of the teacher, such as nuaa_sirst/distill_10pct")
    parser.add_argument("--data", type=Path, required=True, help="prepared data set with all masks")
    parser.add_argument("--base-model", required=True, help="Segment Anything model of the teachers")
    parser.add_argument("--budget", type=between(float, 1e-4, 1.0), default=0.1, help="share of the masks")
    parser.add_argument("--arms", nargs="+", choices=[*ARMS], default=[*ARMS], help="(default: all)")
    parser.add_argument("--seeds", nargs="+", type=SEED, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, required=True, help="folder for data, labels and models")
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files")
    parser.add_argument("--quick", action="store_true", help="a few steps each, to see that it works")
    args = parser.parse_args(argv)
    args.teacher_options, args.label_options = (), ("--flips",)
    if args.quick:
        args.teacher_options, args.label_options = (*QUICK, "--committee", 1), ANY_TEACHER

    for seed in args.seeds:
        setting = {"dataset": args.data.name, "budget": args.budget, "seed": seed}
        todo = [arm for arm in args.arms if not has_result(args.out / f"{arm}-{seed}.json", **setting)]
        if not todo:
            continue
        _, rows = split_by_source(load_split(str(label(args, seed)), "train"), (NONE,))
        test = load_prepared(args.work / f"data-{seed}")["test"]
        for arm in todo:
            student, teacher = args.work / f"{arm}-{seed}", args.work / f"teacher-{seed}"
            train_arm(ARMS[arm], rows, teacher=teacher, base_model=args.base_model, seed=seed, to=student)
            record = count_record(load_trained(student).probabilities, test)
            args.out.mkdir(parents=True, exist_ok=True)
            write_json(args.out / f"{arm}-{seed}.json", {"arm": arm, **setting, **record, **training_facts(student)})
            print(arm, seed, record["metrics"], flush=True)


if __name__ == "__main__":
    run_program(main, resumes=True)
