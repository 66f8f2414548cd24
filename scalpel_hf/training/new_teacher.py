"""A teacher to train: an untrained adapter, or for comparison LoRA, on a base model."""

import copy
import math

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from scalpel_hf.adapter.config import ScalpelMoeConfig
from scalpel_hf.adapter.families import sam_input
from scalpel_hf.adapter.layer import active_mask_level, asks_sam
from scalpel_hf.adapter.model import encoder_mlps
from scalpel_hf.modeling.configuration_experts import OPERATOR_SCALES
from scalpel_hf.modeling.image_processing_infrared import InfraredImageProcessor
from scalpel_hf.predictors.teacher import Teacher

from .recipe_arguments import DistillArguments


def new_teacher(args: DistillArguments, base: PreTrainedModel, device: torch.device) -> Teacher:
    """A teacher on a base model, with an untrained adapter as the arguments say."""
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
    model = get_peft_model(base, adapter).eval().to(device, memory_format=torch.channels_last)
    freeze_operators(model)
    model.print_trainable_parameters()
    return Teacher(
        model,
        InfraredImageProcessor(normalization=args.normalization, **sam_input(base)),
        feature_cache_dir=args.features_folder if asks_sam(model) else None,
        feature_cache_dtype=args.feature_cache_dtype,
    )


def lora_of_equal_size(base: PreTrainedModel, config: ScalpelMoeConfig) -> LoraConfig:
    """
    LoRA on all linear layers of the mask decoder and of the last `config.blocks` encoder blocks. The rank is chosen so
    that it has about as many trainable weights as the adapter.

    Args:
        base: the base model without adapter; it isn't changed.
        config: of the adapter. Its `blocks` count even if its `levels` lack `token`.
    """
    blocks = [name.removesuffix("mlp") for name in encoder_mlps(base, config.blocks)]
    parts = ("mask_decoder.", *blocks)
    layers = {n: m for n, m in base.named_modules() if isinstance(m, nn.Linear) and n.startswith(parts)}
    per_rank = sum(layer.in_features + layer.out_features for layer in layers.values())
    weights, _ = get_peft_model(copy.deepcopy(base), copy.deepcopy(config)).get_nb_trainable_parameters()
    rank = max(1, round(weights / per_rank))
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers))


def freeze_operators(model: nn.Module) -> None:
    """
    Don't train the pixel level's operators: they keep their classical parameters.

    A few hundred steps hardly change them, and their gradient takes a third of a step's time.
    """
    level = active_mask_level(model)
    if level is not None and level.pyramid is not None:
        level.pyramid.requires_grad_(False)


def set_initial_bias(model: nn.Module, logit_shift: float) -> None:
    """
    Set the initial bias of an untrained model's logits.

    They are lowered by `logit_shift`, which the loss adds again. A model without SAM's decoder starts with logits of 0;
    it gets log(1/99) besides, a target probability of 0.01.
    """
    level = active_mask_level(model)
    if level is not None:
        level.add_to_logits(-logit_shift - (0 if level.sam_features else math.log(99)))
