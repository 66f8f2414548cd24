"""Small Segment Anything models that behave like the real ones.

`initializer_range` is far above transformers' 1e-10 for SAM, at which a fresh model is constant across space and every
comparison passes.
"""

import numpy as np
import torch
from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

from scalpel_hf import MobileSamConfig, MobileSamModel, Teacher, record_router

SIZE = 64


def small_sam(global_attn_indexes: tuple[int, ...] = (1,), **kwargs: object) -> SamModel:
    vision = SamVisionConfig(
        hidden_size=32,
        output_channels=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=16,
        window_size=2,
        mlp_dim=64,
        num_pos_feats=16,
        global_attn_indexes=list(global_attn_indexes),
        initializer_range=0.2,
        use_rel_pos=True,
    )
    config = SamConfig(vision_config=vision, **_decoder(), initializer_range=0.2)
    torch.manual_seed(0)
    return _randomised(SamModel._from_config(config, **kwargs))


def small_mobile_sam(**kwargs: object) -> MobileSamModel:
    vision = {
        "embed_dims": [8, 16, 16, 32],
        "depths": [1, 1, 1, 2],
        "num_attention_heads": [1, 2, 2, 2],
        "window_sizes": [7, 7, 4, 4],
        "output_channels": 32,
        "image_size": SIZE,
        "initializer_range": 0.2,
    }
    config = MobileSamConfig(vision_config=vision, **_decoder())
    torch.manual_seed(0)
    return _randomised(MobileSamModel._from_config(config, **kwargs))


def _decoder() -> dict:
    return {
        "prompt_encoder_config": SamPromptEncoderConfig(
            hidden_size=32, image_size=SIZE, patch_size=16, image_embedding_size=SIZE // 16
        ).to_dict(),
        "mask_decoder_config": SamMaskDecoderConfig(
            hidden_size=32, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
        ).to_dict(),
    }


def _randomised(model: SamModel) -> SamModel:
    """Every weight that starts constant (embeddings, position tables, norms) gets a random part."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def random_inputs(batch: int = 2, seed: int = 1) -> dict[str, torch.Tensor]:
    """SAM's input with native frames of another size than it, covering part of it."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "pixel_values": torch.randn(batch, 3, SIZE, SIZE, generator=generator),
        "frames": torch.randn(batch, 1, 40, 48, generator=generator),
        "frame_boxes": torch.tensor([0.0, 0.0, 64.0, 53.3]).expand(batch, 4),
    }


def perturb(model: torch.nn.Module) -> None:
    """Move every trainable weight and every running statistic, so that zero-initialised outputs are not zero and no
    comparison is empty; by little enough that a dozen layers keep their outputs within a few orders of magnitude."""
    generator = torch.Generator().manual_seed(2)

    def noise(tensor: torch.Tensor) -> torch.Tensor:
        fan_in = tensor[0].numel() if tensor.ndim > 1 else 25
        return fan_in**-0.5 * torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(noise(parameter))
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d) and module.weight.requires_grad:
                module.running_mean.add_(noise(module.running_mean))
                module.running_var.mul_(noise(module.running_var).exp())


@torch.no_grad()
def settle(teacher: Teacher, frame: np.ndarray) -> None:
    """Scale and shift a teacher's logits, whatever its layers make of random weights: over the frame they spread by 2,
    and two pixels in a hundred are targets."""
    with record_router() as records:
        teacher.probabilities(frame)
    logits = records[0]["logits"]
    level = teacher.model.get_base_model().mask_decoder.active
    factor = 2 / logits.std()
    for parameter in (level.keep, level.head.weight, level.head.bias):
        parameter.mul_(factor)
    level.add_to_logits(-float(factor * logits.quantile(0.98)))
