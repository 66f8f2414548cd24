"""Stage 1: train a teacher from the labelled part of a data set.

    accelerate launch recipes/distill.py --config recipes/nuaa_sirst/distill_10pct.yaml

Any field of the YAML can be given as a flag too, which then counts. Run again after a kill to go on. Writes the adapter
and its image processor to `output_dir`, with metrics.json: how the run is repeated, how well it does on `eval_split`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from peft import get_peft_model
from torch import nn

from scalpel_hf import FrozenPrefix, InfraredImageProcessor, PrefixCache, ScalpelMoeConfig
from scalpel_hf.adapter.config import LEVELS, OPERATOR_SCALES
from scalpel_hf.adapter.low_rank import lora_of_equal_size
from scalpel_hf.cli.program import run_program
from scalpel_hf.data import human_labelled, load_split
from scalpel_hf.evaluation import evaluate_probabilities
from scalpel_hf.hub import base_on_hub, push_run
from scalpel_hf.modeling.frames import NORMALIZATIONS
from scalpel_hf.sam import load_sam
from scalpel_hf.teacher import Teacher
from scalpel_hf.training.arguments import (
    Between,
    CropSize,
    LoopArguments,
    OneOf,
    Share,
    Weight,
    option,
    parse_arguments,
)
from scalpel_hf.training.background import background_samples
from scalpel_hf.training.distill import TeacherSamples, distillation_loss
from scalpel_hf.training.loop import make_accelerator, train
from scalpel_hf.training.prior_bar import fit_prior_bar
from scalpel_hf.training.report import METRICS_FILE, write_metrics
from scalpel_hf.training.transfer import labelled_sample
from scalpel_hf.training.validation import hold_out

ADAPTERS = ("scalpel_moe", "lora")


@dataclass
class DistillArguments(LoopArguments):
    dataset: str = option("", "Data set made by scripts/prepare.py: a folder or a repository on the Hub.")
    train_split: str = option("train", "Split whose rows with `label_source: human` are trained on.")
    eval_split: str = option("test", "Split that the finished teacher is measured on; empty for none.")
    base_model: str = option("", "Segment Anything model: a folder or a repository on the Hub.")
    base_model_id: str = option("", "Hub id of the base, for `push_to_hub`, where base_model is a folder.")
    image_size: Annotated[int, Between(16, 4096)] = option(512, "Side of SAM's input in pixels.")
    normalization: Annotated[str, OneOf(NORMALIZATIONS)] = option(
        "range", "How frames are normalised: `zscore`, `percentile` or `range`."
    )
    adapter: Annotated[str, OneOf(ADAPTERS)] = option(
        "scalpel_moe", "`scalpel_moe`, or `lora` of the same size to compare with."
    )
    levels: list[str] = option(list(LEVELS), "Levels of the adapter: some of pixel, token, mask.")
    operators: list[str] = option(list(OPERATOR_SCALES), "Experts of the adapter.")
    blocks: Annotated[int, Between(0, 1000)] = option(2, "How many of the encoder's last blocks get a token adapter.")
    channels: Annotated[int, Between(1, 1024)] = option(24, "Width of the adapter's mask level.")
    top_k: Annotated[int, Between(1, 64)] = option(4, "How many experts keep their weight at a position.")
    routers: bool = option(True, "Off, every expert has the same weight everywhere.")
    sam_features: bool = option(True, "Off, the mask level sees the frame alone.")
    views: Annotated[int, Between(1, 10_000)] = option(
        8, "Augmented views of each labelled frame that the frozen prefix is computed for."
    )
    crop_size: CropSize = option(256, "Side of the training crops in frame pixels.")
    streaks: Share = option(0.0, "Share of the views that get bright lines, which are background.")
    fit_prior_bar: bool = option(True, "Off, the operators have no say after the training but as the network's inputs.")
    background_frames: Annotated[int, Between(0, 10_000_000)] = option(
        0, "Unlabelled frames to train on as background, but for what operators answer to."
    )
    cache_dir: str = option("", "Where the frozen prefix is kept; output_dir/prefix when empty.")
    cache_dtype: Annotated[str, OneOf(("float16", "float32"))] = option(
        "float16", "Precision of the frozen prefix on disk: float16 or float32."
    )
    supervised_weight: Weight = option(1.0, "Weight of the supervised loss.")
    prior_weight: Weight = option(0.3, "Weight of prior guidance.")
    balance_weight: Weight = option(0.01, "Weight of the routers' load balance.")


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(DistillArguments, "Train a teacher from the labelled part of a data set.", argv)
    if args.push_to_hub:
        base_on_hub(args.base_model, args.base_model_id)  # an error now rather than after the training
    accelerator = make_accelerator(args)

    # Data
    rows = load_split(args.dataset, args.train_split)
    test_rows = load_split(args.dataset, args.eval_split) if args.eval_split else None
    train_rows, held_out = hold_out(human_labelled(rows, args.dataset), args.validation_fraction, args.seed)
    samples = [labelled_sample(row) for row in train_rows]
    background = background_samples(rows, samples, args.background_frames, args.seed) if args.background_frames else []
    accelerator.print(f"{len(samples)} labelled frames to train on, {len(held_out)} held out")
    if background:
        left_out = 1 - np.mean([sample.weight.mean() for sample in background])
        accelerator.print(f"{len(background)} unlabelled frames as background, {left_out:.1%} of them left out")

    # Model
    base = load_sam(args.base_model, args.image_size)
    config = ScalpelMoeConfig(
        scales={name: OPERATOR_SCALES.get(name, []) for name in args.operators},
        levels=args.levels,
        blocks=args.blocks,
        channels=args.channels,
        top_k=args.top_k,
        routers=args.routers,
        sam_features=args.sam_features,
    )
    adapter = lora_of_equal_size(base, config) if args.adapter == "lora" else config
    model = get_peft_model(base, adapter).eval().to(memory_format=torch.channels_last)
    model.print_trainable_parameters()
    processor = InfraredImageProcessor(normalization=args.normalization, sam_size=base.config.vision_config.image_size)

    # Frozen prefix
    prefix = FrozenPrefix(model)
    cache_dir = args.cache_dir or Path(args.output_dir) / "prefix"
    model.to(accelerator.device)
    cache = PrefixCache(prefix, cache_dir, args.cache_dtype)
    dataset = TeacherSamples(samples, processor, cache, args.views, args.crop_size, args.seed, args.streaks, background)
    with accelerator.main_process_first():
        dataset.fill(progress=accelerator.is_main_process)

    # Train
    teacher = Teacher(model, processor, cache_dir, cache_dtype=args.cache_dtype)
    loss = distillation_loss(prefix, args.supervised_weight, args.prior_weight, args.balance_weight)

    def evaluate(_: nn.Module) -> dict[str, float]:
        if args.fit_prior_bar:
            fit_prior_bar(teacher, samples)
        return evaluate_probabilities(teacher.probabilities, held_out)

    outcome = train(accelerator, model, dataset, loss, args, evaluate if len(held_out) else None)

    # Evaluate and save
    if args.fit_prior_bar:
        accelerator.print(f"prior bar {fit_prior_bar(teacher, samples):.2f}")
    if accelerator.is_main_process:
        (Path(args.output_dir) / METRICS_FILE).unlink(missing_ok=True)  # the figures of other weights
        teacher.save_pretrained(args.output_dir)
        metrics = {}
        if test_rows is not None:
            metrics[args.eval_split] = evaluate_probabilities(teacher.probabilities, test_rows)
        write_metrics(args, outcome, metrics, base_revision=base.config._commit_hash)
        if args.push_to_hub:
            accelerator.print(push_run(args.output_dir, args.push_to_hub, args.base_model_id or None))


if __name__ == "__main__":
    run_program(main, resumes=True)
