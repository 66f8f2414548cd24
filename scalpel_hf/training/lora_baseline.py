"""LoRA in the adapter's place and of its size, to compare the adapter with."""

import copy

from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import SamModel

from scalpel_hf.adapter.config import ScalpelMoeConfig
from scalpel_hf.adapter.model import encoder_mlps


def lora_of_equal_size(base: SamModel, config: ScalpelMoeConfig) -> LoraConfig:
    """
    LoRA on every linear layer of the adapter's encoder blocks and of the mask decoder, with as many weights as it has.

    Args:
        base: not adapted yet; left alone.
        config: of the adapter to compare with. Its `blocks` count without the `token` level too.
    """
    blocks = [name.removesuffix("mlp") for name in encoder_mlps(base, config.blocks)]
    parts = ("mask_decoder.", *blocks)
    layers = {n: m for n, m in base.named_modules() if isinstance(m, nn.Linear) and n.startswith(parts)}
    per_rank = sum(layer.in_features + layer.out_features for layer in layers.values())
    weights, _ = get_peft_model(copy.deepcopy(base), copy.deepcopy(config)).get_nb_trainable_parameters()
    rank = max(1, round(weights / per_rank))
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers))
