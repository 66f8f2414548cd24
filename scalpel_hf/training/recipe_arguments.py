"""The fields of the recipes: what `recipes/distill.py` and `recipes/transfer.py` take from YAML and flags."""

from dataclasses import dataclass
from typing import Annotated, get_type_hints

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from scalpel_hf.modeling.configuration_experts import LEVELS, OPERATOR_SCALES
from scalpel_hf.modeling.configuration_scalpel_student import FRONT_ENDS, SIZES
from scalpel_hf.modeling.normalization import NORMALIZATIONS
from scalpel_hf.modeling.teacher_loss import BALANCE_WEIGHT, PRIOR_WEIGHT
from scalpel_hf.predictors.student import LABELS

from .arguments import Between, OneOf, option

Steps = Annotated[int, Between(1, 100_000_000)]
Share = Annotated[float, Between(0, 1)]
Weight = Annotated[float, Between(0, 1000)]  # of a part of the loss
CropSize = Annotated[int, Between(16, 4096)]
TRACKERS = tuple(LOGGER_TYPE_TO_CLASS)
ADAPTERS = ("scalpel_moe", "lora")


@dataclass
class LoopArguments:
    """What both stages' training takes."""

    output_dir: str = option(
        "runs/out",
        "Folder of the model, checkpoints, metrics.json, curves in history.json and history.svg, and contact_sheet.png "
        "of frames held out or watched.",
        any_on_resume=True,
    )
    seed: Annotated[int, Between(0, 2**32 - 1)] = option(
        0, "Seeds weights, the order of frames and every augmentation."
    )
    max_steps: Steps = option(1000, "Optimiser steps.")
    batch_size: Annotated[int, Between(1, 4096)] = option(4, "Crops a step and process.")
    gradient_accumulation_steps: Annotated[int, Between(1, 10_000)] = option(
        1, "Batches whose gradients are summed into one step."
    )
    learning_rate: Annotated[float, Between(0, 1)] = option(1e-3, "Peak rate of AdamW.")
    weight_decay: Annotated[float, Between(0, 10)] = option(
        1e-2, "Decay of AdamW on weights of two or more dimensions."
    )
    warmup_ratio: Share = option(0.05, "Share of the steps over which the rate rises; a cosine brings it down to 0.")
    max_grad_norm: Annotated[float, Between(0, 1e6)] = option(1.0, "Gradients are scaled down to this norm.")
    ema_decay: Annotated[float, Between(0, 0.999999)] = option(
        0.99, "Decay of the running mean of the weights that is evaluated and saved; 0 for none."
    )
    mixed_precision: Annotated[str, OneOf(("auto", "no", "bf16", "fp16"))] = option(
        "auto", "`no`, `bf16`, `fp16`, or `auto`: bf16 on a GPU that has it, else none."
    )
    validation_fraction: Annotated[float, Between(0, 0.99)] = option(
        0.0,
        "Share of the frames with a mask held out to choose the best step; 0 trains on all and keeps the last step.",
    )
    watch_split: str = option(
        "",
        "Split of frames to look at while it trains, where none are held out; it decides nothing.",
        any_on_resume=True,
    )
    eval_steps: Steps = option(200, "Steps between evaluations and pictures of such frames.")
    checkpoint_steps: Steps = option(100, "Steps between checkpoints.", any_on_resume=True)
    logging_steps: Steps = option(20, "Steps between entries in the log and the tracker.", any_on_resume=True)
    report_to: Annotated[str, OneOf(("none", *TRACKERS))] = option(
        "none",
        f"Tracker: `none`, or one of {', '.join(TRACKERS)}. Pictures of frames go to tensorboard and trackio alone.",
        any_on_resume=True,
    )
    resume: bool = option(True, "Resume from the newest checkpoint in output_dir, if there is one.", any_on_resume=True)
    num_workers: Annotated[int, Between(0, 256)] = option(0, "Processes that prepare crops.", any_on_resume=True)
    push_to_hub: str = option("", "Repository to push the result to, `org/name`; empty for none.", any_on_resume=True)

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            for limit in getattr(hint, "__metadata__", ()):
                limit.check(name, getattr(self, name))
        if self.report_to != "none" and self.report_to not in map(str, get_available_trackers()):
            raise ValueError(f"`report_to: {self.report_to}` needs that tracker's package, which isn't installed")


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


@dataclass
class TransferArguments(LoopArguments):
    dataset: str = option("", "Data set made by `scalpel-hf prepare`: a folder or a repository on the Hub.")
    pseudo_labels: str = option("", "Output of `scalpel-hf label`, in place of `train_split`; empty for none.")
    train_split: str = option("train", "Split to train on; its rows with `label_source: none` are left out.")
    eval_split: str = option(
        "test", "Split that the finished student is measured on; empty for none.", any_on_resume=True
    )
    task: Annotated[str, OneOf(tuple(LABELS))] = option(
        "segmentation", "What the student does: `segmentation` or `detection`."
    )
    student: str = option("", "Any model of transformers for that task, a folder or a Hub id; empty for our own.")
    size: str = option("small", f"Our own student: {', '.join(SIZES)}.")
    front_end: Annotated[str, OneOf(FRONT_ENDS)] = option(
        "none", "White-box maps as input of our own student: none, frozen or learned."
    )
    normalization: Annotated[str, OneOf(NORMALIZATIONS)] = option(
        "zscore", "How frames are normalised: `zscore`, `percentile` or `range`."
    )
    branches: bool = option(
        False, "Whether 3 x 3 convolutions train as several branches, merged afterwards.", in_help=False
    )
    crop_size: CropSize = option(256, "Side of the training crops in pixels.")
    human_share: Share = option(0.5, "Least share of the crops that come from frames that people labelled.")
    pseudo_weight: Weight = option(1.0, "Weight of pseudo-labelled pixels beside human ones.")
    box_weight: Weight = option(1.0, "Weight of masks touching the sides of the boxes that people drew.")
    pseudo_warmup_ratio: Share = option(0.1, "Share of the steps over which that weight rises from 0.")
