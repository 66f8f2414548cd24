"""Stage 2: train a small student on human and pseudo labels.

Examples:

    scalpel-hf transfer --config nuaa_sirst/transfer_10pct
    scalpel-hf transfer --dataset data/mine --pseudo-labels runs/mine/pseudo --output-dir runs/mine/student
    scalpel-hf transfer --config nuaa_sirst/detection --num-processes 4
    accelerate launch recipes/transfer.py --config recipes/nuaa_sirst/transfer_10pct.yaml

Any field of the YAML can be given as a flag too, which then counts. Run again after a kill to resume. Writes the
student and its image processor to `output_dir`, with metrics.json: how the run is repeated, how well it does on
`eval_split`. `--task detection` trains a detector of the targets' boxes, `--student` any model of transformers for the
task.
"""

from functools import partial
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers import PreTrainedModel

from scalpel_hf.cli.launching import LAUNCH_HELP
from scalpel_hf.cli.program import run_program
from scalpel_hf.data import load_split, split_by_source
from scalpel_hf.data.contents import hash_rows
from scalpel_hf.data.label_sources import NONE
from scalpel_hf.data.prepared import check_pseudo_labels
from scalpel_hf.data.splits import train_val_split
from scalpel_hf.evaluation.detection_metrics import coco_classes
from scalpel_hf.evaluation.evaluator import evaluate_predictor
from scalpel_hf.evaluation.unseen import TrainedOn, without_copies
from scalpel_hf.hub.upload import push_run
from scalpel_hf.modeling import ScalpelStudentForObjectDetection, ScalpelStudentForSemanticSegmentation
from scalpel_hf.predictors.student import DetectionStudent, SegmentationStudent, new_student
from scalpel_hf.training.arguments import parse_arguments
from scalpel_hf.training.box_margin import tell_margin
from scalpel_hf.training.branches import add_branches, merge_branches
from scalpel_hf.training.contact_sheet import contact_sheet, frames_to_watch
from scalpel_hf.training.final_evaluation import metrics_by_split, rows_to_test
from scalpel_hf.training.knowledge_transfer import (
    DetectionSamples,
    StudentSamples,
    detection_loss,
    transfer_loss,
)
from scalpel_hf.training.loop import LossFunction, hash_weights, make_accelerator, train
from scalpel_hf.training.recipe_arguments import TransferArguments
from scalpel_hf.training.run_record import closing, write_metrics
from scalpel_hf.training.sampling import prior_shift, tell_shift


def train_student(
    args: TransferArguments, accelerator: Accelerator, rows: datasets.Dataset, held_out: datasets.Dataset | None
) -> tuple[SegmentationStudent | DetectionStudent, dict[str, Any]]:
    """A student of the labelled ones of `rows`, and how its training went; with frames held out, its best step."""
    set_seed(args.seed)  # the first weights, whatever was trained before in this process
    student = new_student(args.task, args.student, size=args.size, normalization=args.normalization)
    detects = isinstance(student, DetectionStudent)
    if detects and (args.eval_split or held_out):
        coco_classes()  # if they are missing, say so now and not after the training
    model = student.model.to(accelerator.device, memory_format=torch.channels_last)
    made_of = {"rows": hash_rows(rows)}
    if held_out:
        made_of["rows held out"] = hash_rows(held_out)
    if args.student:
        made_of["first weights"] = hash_weights(model)
    accelerator.print(f"student of {model.num_parameters():,} parameters")
    if args.branches:
        add_branches(model)

    samples = DetectionSamples if detects else StudentSamples
    dataset = samples(rows, student.processor, args.crop_size, args.seed, human_share=args.human_share)
    loss = student_loss(args, accelerator, model=model, dataset=dataset)
    accelerator.print(f"{len(dataset.indices)} frames to train on, {len(dataset.human)} labelled by people")

    watched = frames_to_watch(args.dataset, args.watch_split, held_out)
    outcome = train(
        accelerator,
        model,
        dataset=dataset,
        loss_function=loss,
        args=args,
        evaluate=(lambda _: evaluate_predictor(student, held_out)) if held_out else None,
        best_metric="ap50" if detects else "iou",
        collate=DetectionSamples.collate if detects else None,
        made_of=made_of,
        show=partial(contact_sheet, student, watched) if watched else None,
    )
    merge_branches(model.eval())
    return student, outcome


def student_loss(
    args: TransferArguments, accelerator: Accelerator, model: PreTrainedModel, dataset: StudentSamples
) -> LossFunction:
    """The loss for these samples. Sets the initial bias of a new segmentation model of ours to match the targets."""
    warmup_steps = round(args.pseudo_warmup_ratio * args.max_steps)
    if isinstance(dataset, DetectionSamples):
        if dataset.margin:
            accelerator.print(
                f"boxes of masks and pasted targets are grown by {dataset.margin:g} pixels, of pseudo labels by "
                f"{dataset.pseudo_margin:g}: people's boxes here have that margin"
            )
        weigh_pixels = isinstance(model, ScalpelStudentForObjectDetection)
        return detection_loss(args.pseudo_weight, warmup_steps, weigh_pixels)

    shift = 0.0
    if isinstance(model, ScalpelStudentForSemanticSegmentation):
        shift = prior_shift(dataset)
        if not args.student:  # a trained one's logits have it
            model.add_to_logits(-shift)  # so that to the loss it is at first what it is without the shift
        accelerator.print(tell_shift(shift))
    if dataset.margin:
        accelerator.print(tell_margin(dataset.margin))
    return transfer_loss(
        args.pseudo_weight, warmup_steps, logit_shift=shift, box_weight=args.box_weight, margin=dataset.margin
    )


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(TransferArguments, "transfer", description=f"{__doc__}\n{LAUNCH_HELP}", argv=argv)
    accelerator = make_accelerator(args)

    # Data
    rows = load_split(args.pseudo_labels or args.dataset, args.train_split)
    if args.pseudo_labels:
        check_pseudo_labels(rows, args.pseudo_labels)
    _, rows = split_by_source(rows, (NONE,))
    trained_on = TrainedOn.of(rows) + (TrainedOn.load(args.student) if args.student else None)
    test_rows = rows_to_test(args, trained_on)
    rows, held_out = train_val_split(rows, args.validation_fraction, args.seed)
    rows = without_copies(rows, of=held_out, say=accelerator.print)

    # Train
    student, outcome = train_student(args, accelerator, rows=rows, held_out=held_out)

    # Evaluate and save
    accelerator.end_training()  # processes don't communicate any more
    if accelerator.is_main_process:
        trained_on.save(args.output_dir)
        student.save_pretrained(args.output_dir)
        metrics = metrics_by_split(args, student, test_rows)
        write_metrics(args, outcome, metrics)
        next_command = f"scalpel-hf export {args.output_dir} --dataset {args.dataset} --int8"
        accelerator.print(closing(args.output_dir, metrics, next_command))
        if args.push_to_hub:
            accelerator.print(push_run(args.output_dir, args.push_to_hub))


if __name__ == "__main__":
    run_program(main, resumes=True)
