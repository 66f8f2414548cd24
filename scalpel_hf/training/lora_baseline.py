"""The baseline for the adapter: LoRA with as many trainable weights."""

import copy

from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import SamModel

from scalpel_hf.adapter.config import ScalpelMoeConfig
from scalpel_hf.adapter.model import encoder_mlps


def lora_of_equal_size(base: SamModel, config: ScalpelMoeConfig) -> LoraConfig:
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
