"""A small SAM of random weights, the base model of teachers that don't use Segment Anything."""

from pathlib import Path
from typing import TYPE_CHECKING

from scalpel_hf.utils.files import whole_folder

if TYPE_CHECKING:
    from transformers import SamModel


def save_small_sam(folder: Path) -> None:
    """Write the model of [`small_sam`] to a folder."""
    model = small_sam()
    with whole_folder(folder) as part:
        model.save_pretrained(part)


def small_sam(size: int = 256) -> "SamModel":
    """
    A SAM of random weights, for inputs of `size` × `size` pixels; always the same.

    The weights' standard deviation is large enough for masks to differ between frames; transformers' 1e-10 is not.
    """
    import torch  # here, so that a command answers at once and doesn't hold torch while its stages run
    from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

    vision = SamVisionConfig(
        hidden_size=64,
        output_channels=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=size,
        window_size=4,
        mlp_dim=256,
        num_pos_feats=32,
        global_attn_indexes=[1, 3],
        initializer_range=0.1,
    )
    prompt = SamPromptEncoderConfig(hidden_size=64, image_size=size, image_embedding_size=size // 16)
    decoder = SamMaskDecoderConfig(hidden_size=64, mlp_dim=128, num_attention_heads=2, iou_head_hidden_dim=64)
    config = SamConfig(
        vision_config=vision,
        prompt_encoder_config=prompt.to_dict(),
        mask_decoder_config=decoder.to_dict(),
        initializer_range=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SamModel(config)
