"""Stage 1: train a teacher from the labelled part of a data set.

Examples:

    scalpel-hf distill --config nuaa_sirst/distill_10pct
    scalpel-hf distill --dataset data/mine --base-model models/mobile-sam --output-dir runs/mine/teacher
    scalpel-hf distill --config mine.yaml --num-processes 4
    accelerate launch recipes/distill.py --config recipes/nuaa_sirst/distill_10pct.yaml

Any field of the YAML can be given as a flag too, which then counts. Run again after a kill to resume. Writes the
adapter and its image processor to `output_dir`, with metrics.json: how the run is repeated, how well it does on
`eval_split`.
"""

from typing import Any

import datasets
from accelerate import Accelerator
from accelerate.utils import set_seed
from PIL import Image
from torch import nn

from scalpel_hf.cli.launching import LAUNCH_HELP
from scalpel_hf.cli.program import run_program
from scalpel_hf.data import labelled_by_people, load_split
from scalpel_hf.data.contents import hash_rows
from scalpel_hf.data.splits import train_val_split
from scalpel_hf.evaluation.evaluator import evaluate_probabilities
from scalpel_hf.evaluation.unseen import TrainedOn, without_copies
from scalpel_hf.hub.upload import base_on_hub, push_run
from scalpel_hf.predictors.committee import STUDENT, TEACHER
from scalpel_hf.predictors.sam import load_sam
from scalpel_hf.predictors.student import DetectionStudent, SegmentationStudent
from scalpel_hf.predictors.teacher import Teacher
from scalpel_hf.recipes.transfer import train_student
from scalpel_hf.training.arguments import parse_arguments
from scalpel_hf.training.background import background_samples, tell_background
from scalpel_hf.training.box_margin import tell_margin
from scalpel_hf.training.contact_sheet import contact_sheet, frames_to_watch
from scalpel_hf.training.distillation import TeacherSamples, distillation_loss
from scalpel_hf.training.final_evaluation import metrics_by_split, rows_to_test
from scalpel_hf.training.frames import labelled_sample
from scalpel_hf.training.gate_fitting import fit_consensus_gate
from scalpel_hf.training.guard import guard
from scalpel_hf.training.loop import LossFunction, hash_weights, make_accelerator, train
from scalpel_hf.training.members import Train, as_one_teacher, committee_members, small_network
from scalpel_hf.training.new_teacher import new_teacher, set_initial_bias
from scalpel_hf.training.recipe_arguments import DistillArguments
from scalpel_hf.training.run_record import closing, write_metrics
from scalpel_hf.training.sampling import prior_shift, tell_shift


def train_teacher(
    args: DistillArguments, accelerator: Accelerator, rows: datasets.Dataset, held_out: datasets.Dataset | None
) -> tuple[Teacher, dict[str, Any]]:
    """A teacher of the labelled ones of `rows`, and how its training went; with frames held out, its best step."""
    set_seed(args.seed)  # the first weights, whatever was trained before in this process
    labelled = labelled_by_people(rows, args.dataset)
    samples = [labelled_sample(row) for row in labelled]
    background = (
        background_samples(rows, samples, count=args.background_frames, seed=args.seed)
        if args.background_frames
        else []
    )
    accelerator.print(f"{len(samples)} labelled frames to train on, {len(held_out or ())} held out")
    if background:
        accelerator.print(tell_background(background))

    base = load_sam(args.base_model, args.image_size)
    made_of = {"labelled frames": hash_rows(labelled), "base model": hash_weights(base)}
    if background:
        made_of["frames without a label"] = hash_rows(rows)
    if held_out:
        made_of["frames held out"] = hash_rows(held_out)

    teacher = new_teacher(args, base, accelerator.device)
    dataset = TeacherSamples(
        samples, teacher.processor, teacher.cache, crop_size=args.crop_size, seed=args.seed, background=background
    )
    with accelerator.main_process_first():
        dataset.fill(progress=accelerator.is_main_process)
    loss = teacher_loss(args, accelerator, teacher=teacher, dataset=dataset)

    def evaluate(_: nn.Module) -> dict[str, float]:
        if args.fit_consensus_gate:
            fit_consensus_gate(teacher, samples)
        return evaluate_probabilities(teacher.probabilities, held_out or ())

    def show(step: int) -> Image.Image:
        if args.fit_consensus_gate and not held_out:
            fit_consensus_gate(teacher, samples)
        return contact_sheet(teacher, watched, step)

    watched = frames_to_watch(args.dataset, args.watch_split, held_out)
    outcome = train(
        accelerator,
        teacher.model,
        dataset=dataset,
        loss_function=loss,
        args=args,
        evaluate=evaluate if held_out else None,
        made_of=made_of,
        show=show if watched else None,
    )
    if args.fit_consensus_gate:
        accelerator.print(f"consensus gate at {fit_consensus_gate(teacher, samples).threshold:.2f}")
    return teacher, outcome


def teacher_loss(
    args: DistillArguments, accelerator: Accelerator, teacher: Teacher, dataset: TeacherSamples
) -> LossFunction:
    """The loss for these samples. Sets the model's initial bias to match the share of target pixels in them."""
    shift = prior_shift(dataset)
    accelerator.print(tell_shift(shift))
    set_initial_bias(teacher.model, shift)
    if dataset.margin:
        accelerator.print(tell_margin(dataset.margin))
    return distillation_loss(
        teacher.frozen,
        supervised=args.supervised_weight,
        prior=args.prior_weight,
        balance=args.balance_weight,
        logit_shift=shift,
        box_projection=args.box_weight,
        margin=dataset.margin,
    )


def train_small_network(
    args: DistillArguments, accelerator: Accelerator, rows: datasets.Dataset, held_out: datasets.Dataset | None
) -> tuple[SegmentationStudent | DetectionStudent, dict[str, Any]]:
    """A student of the labelled ones of `rows`, and how its training went."""
    return train_student(
        small_network(args), accelerator, rows=labelled_by_people(rows, args.dataset), held_out=held_out
    )


def train_committee(
    args: DistillArguments, accelerator: Accelerator, rows: datasets.Dataset, held_out: datasets.Dataset | None
) -> tuple[Teacher, dict[str, Any]]:
    """The networks that `args.committee` asks for, as one teacher, and how their trainings went."""
    train_kind: dict[str, Train] = {TEACHER: train_teacher, STUDENT: train_small_network}
    return as_one_teacher(
        [train_kind[kind](member, accelerator, rows, held_out) for kind, member in committee_members(args)]
    )


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(DistillArguments, "distill", description=f"{__doc__}\n{LAUNCH_HELP}", argv=argv)
    if args.push_to_hub:
        base_on_hub(args.base_model, args.base_model_id)  # an error now rather than after the training
    accelerator = make_accelerator(args)

    # Data
    rows = load_split(args.dataset, args.train_split)
    trained_on = TrainedOn.of(labelled_by_people(rows, args.dataset))
    test_rows = rows_to_test(args, trained_on)
    rows, held_out = train_val_split(rows, args.validation_fraction, args.seed)
    rows = without_copies(rows, of=held_out, say=accelerator.print)

    # Train
    arms: dict[str, Train] = {"teacher": train_committee, "small network": train_small_network}
    compared = guard(args, accelerator, rows=rows, arms=arms) if args.guard else None
    teacher, outcome = train_committee(args, accelerator, rows=rows, held_out=held_out)

    # Evaluate and save
    accelerator.end_training()  # processes don't communicate any more
    if accelerator.is_main_process:
        trained_on.save(args.output_dir)
        teacher.save_pretrained(args.output_dir)
        metrics = metrics_by_split(args, teacher, test_rows)
        revision = teacher.model.get_base_model().config._commit_hash
        write_metrics(args, outcome, metrics, base_revision=revision, guard=compared)
        next_command = f"scalpel-hf label --dataset {args.dataset} --teacher {args.output_dir} --out PSEUDO"
        accelerator.print(closing(args.output_dir, metrics, next_command))
        if args.push_to_hub:
            accelerator.print(push_run(args.output_dir, args.push_to_hub, args.base_model_id or None))


if __name__ == "__main__":
    run_program(main, resumes=True)
