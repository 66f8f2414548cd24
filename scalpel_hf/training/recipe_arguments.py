"""The settings of `recipes/distill.py` and `recipes/transfer.py`, from YAML files and flags."""

from dataclasses import dataclass
from typing import Annotated, get_type_hints

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from scalpel_hf.modeling.configuration_experts import LEVELS, OPERATOR_SCALES
from scalpel_hf.modeling.configuration_scalpel_student import SIZES
from scalpel_hf.modeling.normalization import NORMALIZATIONS
from scalpel_hf.modeling.teacher_loss import BALANCE_WEIGHT, PRIOR_WEIGHT
from scalpel_hf.predictors.student import LABELS

from .arguments import Between, OneOf, option

Steps = Annotated[int, Between(1, 100_000_000)]
Share = Annotated[float, Between(0, 1)]
Weight = Annotated[float, Between(0, 1000)]  # of a term of the loss
CropSize = Annotated[int, Between(16, 4096)]
TRACKERS = tuple(LOGGER_TYPE_TO_CLASS)
ADAPTERS = ("scalpel_moe", "lora")


@dataclass
class LoopArguments:
    """Settings of both stages' training loop."""

    output_dir: str = option(
        "runs/out",
        "Folder of the model, checkpoints, metrics.json, curves in history.json and history.svg, and contact_sheet.png "
        "of frames held out or watched.",
        any_on_resume=True,
    )
    seed: Annotated[int, Between(0, 2**32 - 1)] = option(
        0, "Random seed of weights, order of frames and augmentations."
    )
    max_steps: Steps = option(1000, "Optimiser steps.")
    batch_size: Annotated[int, Between(1, 4096)] = option(8, "Crops in a batch, on each process.")
    gradient_accumulation_steps: Annotated[int, Between(1, 10_000)] = option(
        1, "Batches whose gradients are averaged in one step."
    )
    learning_rate: Annotated[float, Between(0, 1)] = option(2e-3, "Highest learning rate of AdamW.")
    weight_decay: Annotated[float, Between(0, 10)] = option(1e-2, "Weight decay of AdamW, not on biases and norms.")
    warmup_ratio: Share = option(
        0.05, "Share of the steps with a rising learning rate; then it falls to 0 along a cosine."
    )
    max_grad_norm: Annotated[float, Between(0, 1e6)] = option(
        1.0, "Gradients above this norm are scaled down; 0: none are."
    )
    ema_decay: Annotated[float, Between(0, 0.999999)] = option(
        0.99, "Decay of the moving average of the weights, which is evaluated and saved; 0 for none."
    )
    mixed_precision: Annotated[str, OneOf(("auto", "no", "bf16", "fp16"))] = option(
        "auto",
        "`no`, `bf16`, `fp16`, or `auto`: bf16 on a GPU that supports it, else no. A teacher without SAM's features is "
        "trained in float32.",
    )
    validation_fraction: Annotated[float, Between(0, 0.99)] = option(
        0.0,
        "Share of the labelled frames held out to choose the best step; 0 trains on all and keeps the last step.",
    )
    watch_split: str = option(
        "",
        "Split for contact sheets, if no frames are held out; no effect on the result.",
        any_on_resume=True,
    )
    eval_steps: Steps = option(200, "Steps between evaluations and pictures of such frames.")
    checkpoint_steps: Steps = option(100, "Steps between checkpoints.", any_on_resume=True)
    logging_steps: Steps = option(20, "Steps between entries in history and tracker.", any_on_resume=True)
    report_to: Annotated[str, OneOf(("none", *TRACKERS))] = option(
        "none",
        f"Tracker: `none`, or one of {', '.join(TRACKERS)}. Contact sheets go to tensorboard and trackio only.",
        any_on_resume=True,
    )
    resume: bool = option(True, "Resume from the newest checkpoint in output_dir, if there is one.", any_on_resume=True)
    num_workers: Annotated[int, Between(0, 256)] = option(0, "Worker processes that prepare crops.", any_on_resume=True)
    push_to_hub: str = option(
        "", "Hub repository to push the result to, `org/name`; empty for none.", any_on_resume=True
    )

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            for limit in getattr(hint, "__metadata__", ()):
                limit.check(name, getattr(self, name))
        if self.report_to != "none" and self.report_to not in map(str, get_available_trackers()):
            raise ValueError(f"`report_to: {self.report_to}` needs that tracker's package, which isn't installed")


@dataclass
class DistillArguments(LoopArguments):
    """Settings of stage 1, the teacher."""

    dataset: str = option(
        "", "Data set made by `scalpel-hf prepare`: a folder or a repository on the Hub.", any_on_resume=True
    )
    train_split: str = option("train", "Split to train on: its rows that people labelled by masks, boxes or points.")
    eval_split: str = option("test", "Split to evaluate the trained teacher on; empty for none.", any_on_resume=True)
    base_model: str = option("", "Segment Anything model: a folder or a repository on the Hub.", any_on_resume=True)
    base_model_id: str = option(
        "", "Hub id of the base, needed by `push_to_hub` if base_model is a folder.", any_on_resume=True
    )
    image_size: Annotated[int, Between(16, 4096)] = option(512, "Side of SAM's input in pixels.")
    normalization: Annotated[str, OneOf(NORMALIZATIONS)] = option(
        "range", "How frames are normalised: `zscore`, `percentile` or `range`."
    )
    adapter: Annotated[str, OneOf(ADAPTERS)] = option(
        "scalpel_moe", "`scalpel_moe`, or for comparison `lora` of the same size."
    )
    levels: list[str] = option(["pixel", "mask"], f"Levels of the adapter: some of {', '.join(LEVELS)}.")
    operators: list[str] = option(list(OPERATOR_SCALES), "Experts of the adapter.")
    blocks: Annotated[int, Between(1, 1000)] = option(2, "Number of last encoder blocks that get a token adapter.")
    channels: Annotated[int, Between(1, 1024)] = option(16, "Width of the adapter's mask level at half resolution.")
    full_resolution_channels: Annotated[int, Between(0, 1024)] = option(
        8, "Width of the mask level at full resolution."
    )
    top_k: Annotated[int, Between(1, len(OPERATOR_SCALES))] = option(4, "Experts that keep their weight at a position.")
    routers: bool = option(True, "If off, every expert has the same weight everywhere.", in_help=False)
    sam_features: bool = option(False, "Whether SAM's features are also inputs of the mask level.", in_help=False)
    crop_size: CropSize = option(160, "Side of the training crops in frame pixels.")
    guard: bool = option(
        False,
        "First compare the teacher with a small network trained on the same labels, by cross-validation.",
        any_on_resume=True,
    )
    fit_consensus_gate: bool = option(True, "Fit the consensus gate after training; if off, there is no gate.")
    background_frames: Annotated[int, Between(0, 10_000_000)] = option(
        0, "Unlabelled frames to train on as background, except where the operators respond."
    )
    committee: Annotated[int, Between(1, 100)] = option(
        1, "Number of networks in the ensemble: by turns a teacher with operators, one without, and a small student."
    )
    feature_cache_dir: str = option(
        "", "Folder of the cached frozen features; output_dir/features if empty.", any_on_resume=True
    )
    feature_cache_dtype: Annotated[str, OneOf(("float16", "float32"))] = option(
        "float16", "Precision of the cached features: float16 or float32."
    )
    supervised_weight: Weight = option(1.0, "Weight of the supervised loss.")
    prior_weight: Weight = option(PRIOR_WEIGHT, "Weight of prior guidance.")
    balance_weight: Weight = option(BALANCE_WEIGHT, "Weight of the routers' load balance.")
    box_weight: Weight = option(1.0, "Weight of the box loss: masks must touch people's boxes.")

    @property
    def features_folder(self) -> str:
        return self.feature_cache_dir or f"{self.output_dir}/features"

    def __post_init__(self) -> None:
        super().__post_init__()
        if {"token", "mask"} <= set(self.levels) and not self.sam_features:
            raise ValueError(
                "with the levels `token` and `mask`, set `sam_features`: `token` changes SAM's features, which the "
                "mask level doesn't see without it"
            )


@dataclass
class TransferArguments(LoopArguments):
    """Settings of stage 2, the student."""

    dataset: str = option(
        "", "Data set made by `scalpel-hf prepare`: a folder or a repository on the Hub.", any_on_resume=True
    )
    pseudo_labels: str = option(
        "", "Output of `scalpel-hf label` to train on instead; empty for none.", any_on_resume=True
    )
    train_split: str = option("train", "Split to train on; rows with `label_source: none` are left out.")
    eval_split: str = option("test", "Split to evaluate the trained student on; empty for none.", any_on_resume=True)
    task: Annotated[str, OneOf(tuple(LABELS))] = option(
        "segmentation", "What the student does: `segmentation` or `detection`."
    )
    student: str = option("", "Any transformers model for the task, a folder or a Hub id; empty for our own.")
    size: Annotated[str, OneOf(tuple(SIZES))] = option("small", f"Our own student: {', '.join(SIZES)}.")
    normalization: Annotated[str, OneOf(NORMALIZATIONS)] = option(
        "range", "How frames are normalised: `zscore`, `percentile` or `range`."
    )
    branches: bool = option(
        False,
        "Whether 3 x 3 convolutions have several branches in training, which are merged afterwards.",
        in_help=False,
    )
    crop_size: CropSize = option(160, "Side of the training crops in pixels.")
    human_share: Share = option(0.5, "Lowest share of crops from frames that people labelled.")
    pseudo_weight: Weight = option(1.0, "Weight of pseudo-labelled pixels, relative to people's.")
    box_weight: Weight = option(1.0, "Weight of the box loss: masks must touch people's boxes.")
    pseudo_warmup_ratio: Share = option(0.1, "Share of the steps in which pseudo_weight rises from 0.")
