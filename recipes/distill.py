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

import math
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Annotated, Any, cast

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from peft import get_peft_model
from torch import nn

from scalpel_hf import InfraredImageProcessor, ScalpelMoeConfig
from scalpel_hf.adapter.families import sam_input
from scalpel_hf.adapter.layer import asks_sam
from scalpel_hf.cli.launching import LAUNCH_HELP
from scalpel_hf.cli.program import run_program
from scalpel_hf.data import labelled_by_people, load_split, split_by_source
from scalpel_hf.data.contents import hash_rows
from scalpel_hf.data.label_sources import HUMAN
from scalpel_hf.data.splits import train_val_split
from scalpel_hf.evaluation.evaluator import evaluate_probabilities
from scalpel_hf.evaluation.unseen import TrainedOn, rows_to_measure
from scalpel_hf.hub.upload import base_on_hub, push_run
from scalpel_hf.modeling.configuration_experts import LEVELS, OPERATOR_SCALES
from scalpel_hf.modeling.normalization import NORMALIZATIONS
from scalpel_hf.modeling.teacher_loss import BALANCE_WEIGHT, PRIOR_WEIGHT
from scalpel_hf.predictors.committee import Committee, member_folder
from scalpel_hf.predictors.sam import load_sam
from scalpel_hf.predictors.student import SegmentationStudent
from scalpel_hf.predictors.teacher import Teacher
from scalpel_hf.recipes.transfer import TransferArguments, train_student
from scalpel_hf.training.arguments import (
    Between,
    CropSize,
    LoopArguments,
    OneOf,
    Weight,
    option,
    parse_arguments,
)
from scalpel_hf.training.background import background_samples
from scalpel_hf.training.box_margin import tell_margin
from scalpel_hf.training.contact_sheet import contact_sheet
from scalpel_hf.training.distillation import (
    TeacherSamples,
    distillation_loss,
    freeze_operators,
    start_from,
)
from scalpel_hf.training.frames import labelled_sample
from scalpel_hf.training.gate_fitting import fit_consensus_gate
from scalpel_hf.training.guard import LEAST_FRAMES, Probabilities, can_compare, compare_with_small_network, verdict
from scalpel_hf.training.loop import hash_weights, make_accelerator, train
from scalpel_hf.training.lora_baseline import lora_of_equal_size
from scalpel_hf.training.run_record import closing, write_metrics
from scalpel_hf.training.sampling import prior_shift

ADAPTERS = ("scalpel_moe", "lora")


@dataclass
class DistillArguments(LoopArguments):
    dataset: str = option("", "Data set made by `scalpel-hf prepare`: a folder or a repository on the Hub.")
    train_split: str = option("train", "Split whose rows that people labelled are trained on: masks, boxes and points.")
    eval_split: str = option(
        "test", "Split that the finished teacher is measured on; empty for none.", any_on_resume=True
    )
    base_model: str = option("", "Segment Anything model: a folder or a repository on the Hub.")
    base_model_id: str = option(
        "", "Hub id of the base, for `push_to_hub`, where base_model is a folder.", any_on_resume=True
    )
    image_size: Annotated[int, Between(16, 4096)] = option(512, "Side of SAM's input in pixels.")
    normalization: Annotated[str, OneOf(NORMALIZATIONS)] = option(
        "range", "How frames are normalised: `zscore`, `percentile` or `range`."
    )
    adapter: Annotated[str, OneOf(ADAPTERS)] = option(
        "scalpel_moe", "`scalpel_moe`, or `lora` of the same size to compare with."
    )
    levels: list[str] = option(["pixel", "mask"], f"Levels of the adapter: some of {', '.join(LEVELS)}.")
    operators: list[str] = option(list(OPERATOR_SCALES), "Experts of the adapter.")
    blocks: Annotated[int, Between(0, 1000)] = option(2, "How many of the encoder's last blocks get a token adapter.")
    channels: Annotated[int, Between(1, 1024)] = option(16, "Width of the adapter's mask level at half resolution.")
    full_resolution_channels: Annotated[int, Between(0, 1024)] = option(8, "Its width on the frame's own grid.")
    top_k: Annotated[int, Between(1, 64)] = option(4, "How many experts keep their weight at a position.")
    routers: bool = option(True, "Off, every expert has the same weight everywhere.", in_help=False)
    sam_features: bool = option(False, "On, the mask level sees SAM's features of the frame besides.", in_help=False)
    crop_size: CropSize = option(256, "Side of the training crops in frame pixels.")
    guard: bool = option(
        False,
        "Compare the teacher with a small network of the same labels first, cross-validated on labelled frames.",
        any_on_resume=True,
    )
    fit_consensus_gate: bool = option(True, "Fit the gate on the operators' consensus, after training; off: no gate.")
    background_frames: Annotated[int, Between(0, 10_000_000)] = option(
        0, "Unlabelled frames to train on as background, except where operators respond."
    )
    committee: Annotated[int, Between(1, 100)] = option(
        1, "How many networks answer together: in turn a teacher with operators, one without, and a small student."
    )
    feature_cache_dir: str = option(
        "", "Where the frozen features are kept; output_dir/features when empty.", any_on_resume=True
    )
    feature_cache_dtype: Annotated[str, OneOf(("float16", "float32"))] = option(
        "float16", "Precision of the frozen features on disk: float16 or float32."
    )
    supervised_weight: Weight = option(1.0, "Weight of the supervised loss.")
    prior_weight: Weight = option(PRIOR_WEIGHT, "Weight of prior guidance.")
    balance_weight: Weight = option(BALANCE_WEIGHT, "Weight of the routers' load balance.")
    box_weight: Weight = option(1.0, "Weight of masks touching the sides of the boxes that people drew.")

    @property
    def features_folder(self) -> str:
        return self.feature_cache_dir or f"{self.output_dir}/features"

    def __post_init__(self) -> None:
        super().__post_init__()
        if {"token", "mask"} <= set(self.levels) and not self.sam_features:
            raise ValueError("the `token` level changes SAM's features, which `sam_features` keeps from the mask level")


def train_teacher(
    args: DistillArguments, accelerator: Accelerator, rows: datasets.Dataset, held_out: datasets.Dataset | None
) -> tuple[Teacher, dict[str, Any]]:
    """A teacher of the labelled ones of `rows`, and how its training went; with frames held out, its best step."""
    set_seed(args.seed)  # the first weights, whatever was trained before in this process
    labelled = labelled_by_people(rows, args.dataset)
    samples = [labelled_sample(row) for row in labelled]
    background = background_samples(rows, samples, args.background_frames, args.seed) if args.background_frames else []
    accelerator.print(f"{len(samples)} labelled frames to train on, {len(held_out or ())} held out")
    if background:
        left_out = 1 - np.mean([sample.weight.mean() for sample in background])
        accelerator.print(f"{len(background)} unlabelled frames as background, {left_out:.1%} of them left out")

    # Model
    base = load_sam(args.base_model, args.image_size)
    made_of = {"labelled frames": hash_rows(labelled), "base model": hash_weights(base)}
    if background:
        made_of["frames without a label"] = hash_rows(rows)
    if held_out:
        made_of["frames held out"] = hash_rows(held_out)
    config = ScalpelMoeConfig(
        scales={name: OPERATOR_SCALES.get(name, []) for name in args.operators},
        levels=args.levels,
        blocks=args.blocks,
        channels=args.channels,
        full_resolution_channels=args.full_resolution_channels,
        top_k=args.top_k,
        routers=args.routers,
        sam_features=args.sam_features,
    )
    adapter = lora_of_equal_size(base, config) if args.adapter == "lora" else config
    model = get_peft_model(base, adapter).eval().to(accelerator.device, memory_format=torch.channels_last)
    freeze_operators(model)
    model.print_trainable_parameters()
    processor = InfraredImageProcessor(normalization=args.normalization, **sam_input(base))

    # Frozen features
    folder = args.features_folder if asks_sam(model) else None
    teacher = Teacher(model, processor, feature_cache_dir=folder, feature_cache_dtype=args.feature_cache_dtype)
    dataset = TeacherSamples(samples, processor, teacher.cache, args.crop_size, args.seed, background)
    with accelerator.main_process_first():
        dataset.fill(progress=accelerator.is_main_process)

    # Train
    shift = prior_shift(dataset)
    accelerator.print(f"target pixels are {math.exp(shift):.1f} times as likely in crops as in frames")
    start_from(model, shift)
    if dataset.margin:
        accelerator.print(tell_margin(dataset.margin))
    loss = distillation_loss(
        teacher.frozen,
        args.supervised_weight,
        args.prior_weight,
        args.balance_weight,
        shift,
        args.box_weight,
        dataset.margin,
    )

    def evaluate(_: nn.Module) -> dict[str, float]:
        if args.fit_consensus_gate:
            fit_consensus_gate(teacher, samples)
        return evaluate_probabilities(teacher.probabilities, held_out or ())

    show = partial(contact_sheet, teacher, held_out) if held_out else None
    outcome = train(accelerator, model, dataset, loss, args, evaluate if held_out else None, made_of=made_of, show=show)
    if args.fit_consensus_gate:
        accelerator.print(f"consensus gate at {fit_consensus_gate(teacher, samples).threshold:.2f}")
    return teacher, outcome


def train_committee(
    args: DistillArguments, accelerator: Accelerator, rows: datasets.Dataset, held_out: datasets.Dataset | None
) -> tuple[Teacher, dict[str, Any]]:
    """
    The networks that `args.committee` asks for, as one teacher, and how their trainings went.

    Three kinds take turns, as networks that differ err less alike (docs/log.md): a teacher with operators, one of the
    frame alone, and a small student of the same labels.
    """
    frame_alone = [level for level in args.levels if level != "pixel"] or args.levels
    members: list[Teacher | SegmentationStudent] = []
    outcomes = []
    for number in range(args.committee):
        member = replace(
            args,
            committee=1,
            output_dir=f"{args.output_dir}/{member_folder(number)}".rstrip("/"),
            seed=args.seed + 1000 * number,
            feature_cache_dir=args.features_folder,
            levels=args.levels if number % 3 == 0 else frame_alone,
        )
        trained, outcome = (train_small_network if number % 3 == 2 else train_teacher)(
            member, accelerator, rows, held_out
        )
        members.append(trained)
        outcomes.append(outcome)
    if args.committee == 1:
        return cast(Teacher, members[0]), outcomes[0]
    seconds = sum(outcome["seconds"] for outcome in outcomes)
    return Committee(members), {**outcomes[0], "seconds": seconds, "other members": outcomes[1:]}


def train_small_network(
    args: DistillArguments, accelerator: Accelerator, rows: datasets.Dataset, held_out: datasets.Dataset | None
) -> tuple[SegmentationStudent, dict[str, Any]]:
    """A student of the same labels; its steps take so little that it gets two and a half times as many."""
    loop = {field.name: getattr(args, field.name) for field in fields(LoopArguments)}
    loop |= {"max_steps": 5 * args.max_steps // 2, "push_to_hub": ""}
    own = {name: getattr(args, name) for name in ("dataset", "normalization", "crop_size", "box_weight")}
    labelled = labelled_by_people(rows, args.dataset)
    held_out = labelled.select([]) if held_out is None else held_out
    student, outcome = train_student(TransferArguments(**loop, **own), accelerator, labelled, held_out)
    return cast(SegmentationStudent, student), outcome


def guard(args: DistillArguments, accelerator: Accelerator, rows: datasets.Dataset) -> dict[str, Any]:
    """What comes of comparing the teacher with a small network of the same labels, each a third of the steps."""
    steps, features = max(1, args.max_steps // 3), args.features_folder  # the teacher's own: its frames are these
    short = replace(args, max_steps=steps, validation_fraction=0.0, feature_cache_dir=features)
    masks, others = split_by_source(rows, (HUMAN,))

    def train_arm(arm: str, fold: int, half: datasets.Dataset) -> Probabilities:
        folder = f"{args.output_dir}/guard/{arm.replace(' ', '-')}-{fold}"
        train_one = train_small_network if arm == "small network" else train_committee
        arm_rows = datasets.concatenate_datasets([half, others])
        trained, _ = train_one(replace(short, output_dir=folder), accelerator, arm_rows, None)
        return trained.probabilities

    record = compare_with_small_network(train_arm, masks, args.seed)
    accelerator.print(verdict(record))
    return record


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(DistillArguments, "distill", f"{__doc__}\n{LAUNCH_HELP}", argv)
    if args.push_to_hub:
        base_on_hub(args.base_model, args.base_model_id)  # an error now rather than after the training
    accelerator = make_accelerator(args)

    # Data
    rows = load_split(args.dataset, args.train_split)
    trained_on, test_rows = TrainedOn.of(labelled_by_people(rows, args.dataset)), None
    if args.eval_split:
        test_rows = rows_to_measure(args.dataset, args.eval_split, trained_on, "`--eval_split ''` for no metrics")
    rows, held_out = train_val_split(rows, args.validation_fraction, args.seed)
    masks, _ = split_by_source(rows, (HUMAN,))

    # Train
    guarded = args.guard and can_compare(masks) and accelerator.num_processes == 1
    if args.guard and not guarded:
        accelerator.print(
            f"no comparison with a small network: it takes {LEAST_FRAMES} frames with a mask, of two recordings or "
            "more, and one process"
        )
    compared = guard(args, accelerator, rows) if guarded else None
    teacher, outcome = train_committee(args, accelerator, rows, held_out if len(held_out) else None)

    # Evaluate and save
    if accelerator.is_main_process:
        trained_on.save(args.output_dir)
        teacher.save_pretrained(args.output_dir)
        metrics = {}
        if test_rows is not None:
            metrics[args.eval_split] = evaluate_probabilities(teacher.probabilities, test_rows)
        revision = teacher.model.get_base_model().config._commit_hash
        write_metrics(args, outcome, metrics, base_revision=revision, guard=compared)
        next_command = f"scalpel-hf label --dataset {args.dataset} --teacher {args.output_dir} --out PSEUDO"
        accelerator.print(closing(args.output_dir, metrics, next_command))
        if args.push_to_hub:
            accelerator.print(push_run(args.output_dir, args.push_to_hub, args.base_model_id or None))


if __name__ == "__main__":
    run_program(main, resumes=True)
