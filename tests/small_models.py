"""Small Segment Anything models that behave like the real ones.

`initializer_range` is far above transformers' 1e-10 for SAM, at which a fresh model is constant across space and every
comparison passes.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    EdgeTamConfig,
    EdgeTamModel,
    PreTrainedConfig,
    PreTrainedModel,
    Sam2Config,
    Sam2Model,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
)
from transformers.modeling_outputs import BaseModelOutput

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


def small_slim_sam() -> SamModel:
    """As pruned as `Zigeng/SlimSAM-uniform-77`: an encoder narrower than its decoder, its MLPs than four times it."""
    config = small_sam().config
    config.vision_config.hidden_size, config.vision_config.mlp_dim = 28, 44
    torch.manual_seed(0)
    return _randomised(SamModel._from_config(config))


def small_sam_hq(**kwargs: object) -> SamHQModel:
    config = small_sam().config.to_dict()
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        config[part] = {key: value for key, value in config[part].items() if key != "model_type"}
    config["mask_decoder_config"]["vit_dim"] = 32
    parts = {name: config[name] for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config")}
    torch.manual_seed(0)
    return _randomised(SamHQModel._from_config(SamHQConfig(**parts, initializer_range=0.2), **kwargs))


def small_sam2(**kwargs: object) -> Sam2Model:
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [SIZE, SIZE],
        "patch_stride": [2, 2],
        "blocks_per_stage": [1, 1, 2, 2],
        "embed_dim_per_stage": [8, 16, 24, 32],
        "num_attention_heads_per_stage": [1, 2, 2, 2],
        "window_size_per_stage": [4, 4, 2, 2],
        "window_positional_embedding_background_size": [4, 4],
        "global_attention_blocks": [3],
        "initializer_range": 0.2,
    }
    vision = {"backbone_channel_list": [32, 24, 16, 8], **_pyramid(backbone, 8)}
    torch.manual_seed(0)
    return _randomised(Sam2Model._from_config(Sam2Config(vision_config=vision, **_later_decoder(8)), **kwargs))


def small_edgetam(**kwargs: object) -> EdgeTamModel:
    """On a stand-in for timm's RepViT: with its modules' names, as timm isn't installed."""
    vision = {"backbone_channel_list": [32, 24, 16, 8], **_pyramid({"model_type": "stand_in_for_repvit"}, 8)}
    torch.manual_seed(0)
    return _randomised(EdgeTamModel._from_config(EdgeTamConfig(vision_config=vision, **_later_decoder(8)), **kwargs))


def small_sam3(**kwargs: object) -> Sam3TrackerModel:
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": SIZE,
        "patch_size": 16,
        "window_size": 2,
        "global_attn_indexes": [1],
        "pretrain_image_size": 32,
        "initializer_range": 0.2,
    }
    config = Sam3TrackerConfig(vision_config=_pyramid(backbone, 16), **_later_decoder(16))
    torch.manual_seed(0)
    return _randomised(Sam3TrackerModel._from_config(config, **kwargs))


# A small model of every family, and what else differs between models of one.
FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "sam": small_sam,
    "slim-sam": small_slim_sam,
    "mobile-sam": small_mobile_sam,
    "sam-hq": small_sam_hq,
    "sam2": small_sam2,
    "edgetam": small_edgetam,
    "sam3": small_sam3,
}


def _pyramid(backbone: dict, stride: int) -> dict:
    """Maps at a quarter, half and all of the embedding's stride: 8 where a backbone halves the embedding once more, as
    in a map of 2 x 2 an operator's radius would change nothing."""
    sizes = [[SIZE // stride * scale] * 2 for scale in (4, 2, 1)]
    return {"backbone_config": backbone, "fpn_hidden_size": 32, "backbone_feature_sizes": sizes}


def _later_decoder(stride: int) -> dict:
    decoder = {"mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    return {
        "prompt_encoder_config": {"hidden_size": 32, "image_size": SIZE, "patch_size": stride},
        "mask_decoder_config": {"hidden_size": 32, **decoder},
        "initializer_range": 0.2,
    }


class StandInConfig(PreTrainedConfig):
    model_type = "stand_in_for_repvit"


class StandInMlp(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(dim, 2 * dim, 1, bias=False), nn.BatchNorm2d(2 * dim))
        self.conv2 = nn.Sequential(nn.Conv2d(2 * dim, dim, 1, bias=False), nn.BatchNorm2d(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(torch.nn.functional.gelu(self.conv1(x)))


class StandInBlock(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.token_mixer = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.channel_mixer = StandInMlp(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.token_mixer(x)
        return x + self.channel_mixer(x)


class StandInStage(nn.Module):
    def __init__(self, in_dim: int, dim: int, stride: int):
        super().__init__()
        self.downsample = nn.Conv2d(in_dim, dim, stride, stride)
        self.blocks = nn.Sequential(StandInBlock(dim), StandInBlock(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.downsample(x))


class StandInBackbone(PreTrainedModel):
    config: StandInConfig

    def __init__(self, config: StandInConfig):
        super().__init__(config)
        stages = [StandInStage(a, b, s) for a, b, s in ((3, 8, 2), (8, 16, 2), (16, 24, 2), (24, 32, 2))]
        self.timm_model = nn.ModuleDict({f"stages_{i}": stage for i, stage in enumerate(stages)})
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, **kwargs: object) -> BaseModelOutput:
        assert not kwargs.keys() - {"return_dict"}, f"timm's models take no {sorted(kwargs)}"
        maps = [pixel_values.to(self.dtype)]
        for stage in self.timm_model.values():
            maps.append(stage(maps[-1]))
        return BaseModelOutput(last_hidden_state=maps[1:])


AutoConfig.register("stand_in_for_repvit", StandInConfig)
AutoModel.register(StandInConfig, StandInBackbone)


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
    for parameter in (level.sam_logit_scale, level.head.weight, level.head.bias):
        parameter.mul_(factor)
    level.add_to_logits(-float(factor * logits.quantile(0.98)))
