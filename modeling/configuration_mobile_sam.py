"""Configuration of MobileSAM: SAM's prompt encoder and mask decoder behind a TinyViT image encoder."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig, SamConfig
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig, SamPromptEncoderConfig

SIZE_MULTIPLE = 32  # pixels


def check_image_size(image_size: int) -> None:
    """Raise `ValueError` unless `image_size` is a positive multiple of 32 pixels."""
    if not isinstance(image_size, int) or image_size <= 0 or image_size % SIZE_MULTIPLE:
        raise ValueError(f"`image_size` must be a positive multiple of {SIZE_MULTIPLE} pixels, got {image_size!r}.")


@strict
class MobileSamVisionConfig(PreTrainedConfig):
    """TinyViT-5M as MobileSAM uses it (Wu et al., "TinyViT", 2022; Zhang et al., "Faster Segment Anything", 2023).

    Args:
        image_size: side of the square input in pixels, a multiple of 32. No weight depends on it.
        patch_size: stride of the last feature map in pixels; 16 keeps the last stage at the third stage's resolution.
        embed_dims: channels of the four stages. The first is convolutional, the others attend within windows.
        depths: blocks of each stage.
        num_attention_heads: heads of each stage (the first one's is unused).
        window_sizes: side of the attention window of each stage, in tokens (the first one's is unused).
        mlp_ratio: hidden size of a block's feed-forward network over its channels.
        mbconv_expand_ratio: hidden channels of an MBConv block over its channels.
        output_channels: channels of the image embedding.
        layer_norm_eps: of the blocks' layer norms.
        initializer_range: standard deviation of initial linear weights. Convolutions have Kaiming initialisation.
    """

    base_config_key = "vision_config"
    model_type = "mobile_sam_vision_model"

    num_channels: int = 3
    image_size: int = 1024
    patch_size: int = 16
    embed_dims: list[int] | tuple[int, ...] = (64, 128, 160, 320)
    depths: list[int] | tuple[int, ...] = (2, 2, 6, 2)
    num_attention_heads: list[int] | tuple[int, ...] = (2, 4, 5, 10)
    window_sizes: list[int] | tuple[int, ...] = (7, 7, 14, 7)
    mlp_ratio: float = 4.0
    mbconv_expand_ratio: float = 4.0
    output_channels: int = 256
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02

    @property
    def hidden_size(self) -> int:
        """Channels of the last stage, the neck's input."""
        return self.embed_dims[-1]

    @property
    def num_pos_feats(self) -> int:
        """Number of random frequencies in SAM's positional embedding; each gives a sine and a cosine."""
        return self.output_channels // 2

    @property
    def scale(self) -> float:
        """Standard deviation of those frequencies at initialisation."""
        return 1.0

    def validate_image_size(self) -> None:
        """`image_size` is a positive multiple of 32."""
        check_image_size(self.image_size)

    def validate_stages(self) -> None:
        """There are four stages, the heads divide the channels, and the stride is a power of 2."""
        for name in ("embed_dims", "depths", "num_attention_heads", "window_sizes"):
            if len(getattr(self, name)) != 4:
                raise ValueError(f"`{name}` needs one value for each of the 4 stages, got {getattr(self, name)}.")
        for dim, num_heads in zip(self.embed_dims[1:], self.num_attention_heads[1:], strict=True):
            if dim % num_heads:
                raise ValueError(f"{num_heads} attention heads do not divide {dim} channels.")
        if self.patch_size not in (4, 8, 16, 32):
            raise ValueError(f"`patch_size` must be 4, 8, 16 or 32, got {self.patch_size}.")


@strict
class MobileSamConfig(SamConfig):
    """Configuration of [`MobileSamModel`]: a TinyViT, and SAM's prompt encoder and mask decoder.

    `image_size` is the vision config's. Setting it here also updates the prompt encoder's config:
    `MobileSamConfig(image_size=512)`, `config.image_size = 512` and
    `MobileSamModel.from_pretrained(path, image_size=512)` all do the same.

    Args:
        vision_config: a [`MobileSamVisionConfig`] or its dict.
        prompt_encoder_config: a `SamPromptEncoderConfig` or its dict; its image and patch size follow the vision
            config's.
        mask_decoder_config: a `SamMaskDecoderConfig` or its dict.
    """

    model_type = "mobile_sam"
    sub_configs_defaults = {  # noqa: RUF012 - a class attribute by transformers' convention
        "prompt_encoder_config": SamPromptEncoderConfig,
        "mask_decoder_config": SamMaskDecoderConfig,
        "vision_config": MobileSamVisionConfig,
    }

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.image_size = self.vision_config.image_size

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return self.vision_config.image_size

    @image_size.setter
    def image_size(self, image_size: int) -> None:
        check_image_size(image_size)
        vision, prompt = self.vision_config, self.prompt_encoder_config
        vision.image_size = prompt.image_size = image_size
        prompt.patch_size = vision.patch_size
        prompt.image_embedding_size = image_size // vision.patch_size

    def validate_embedding_channels(self) -> None:
        """Image embedding, prompt embeddings and mask decoder have the same number of channels."""
        channels = {
            "vision_config.output_channels": self.vision_config.output_channels,
            "prompt_encoder_config.hidden_size": self.prompt_encoder_config.hidden_size,
            "mask_decoder_config.hidden_size": self.mask_decoder_config.hidden_size,
        }
        if len(set(channels.values())) != 1:
            raise ValueError(f"These must be equal: {channels}.")


__all__ = ["MobileSamConfig", "MobileSamVisionConfig"]
