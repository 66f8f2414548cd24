"""MobileSAM: SAM's prompt encoder and mask decoder, as transformers has them, behind a TinyViT image encoder.

The encoder follows TinyViT (Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers",
ECCV 2022) as adapted by MobileSAM (Zhang et al., "Faster Segment Anything", 2023). It differs from their published code
in two points: inputs may have any size that is a multiple of 32, and attention biases are looked up in every forward
pass, so that weights may also be loaded after `eval()`.

Most convolutions are followed by a BatchNorm. Keep a frozen encoder in eval mode, or its running statistics change
although no parameter is trained. Gradient checkpointing, which transformers applies only in train mode, gives exact
gradients but runs every block twice, so that running statistics change twice as fast. On a CPU the `channels_last`
memory format, of model and input, is faster.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SamModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.sam.modeling_sam import (
    SamMaskDecoder,
    SamPositionalEmbedding,
    SamPreTrainedModel,
    SamPromptEncoder,
    SamVisionEncoderOutput,
    SamVisionNeck,
)
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_mobile_sam import MobileSamConfig, MobileSamVisionConfig
from .custom_code import CustomCodeMixin
from .whole_weights import CheckedWeightsMixin


class MobileSamConvNorm(nn.Module):
    """Convolution without bias, padded to keep the size at stride 1, then BatchNorm: (B, C, H, W) -> (B, D, h, w)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
        )
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.norm(self.conv(hidden_states))


class MobileSamPatchEmbeddings(nn.Module):
    """Two convolutions of stride 2: pixels (B, 3, H, W) -> (B, C, H / 4, W / 4)."""

    def __init__(self, config: MobileSamVisionConfig):
        super().__init__()
        self.image_size = config.image_size
        dim = config.embed_dims[0]
        self.conv1 = MobileSamConvNorm(config.num_channels, dim // 2, 3, stride=2)
        self.conv2 = MobileSamConvNorm(dim // 2, dim, 3, stride=2)

    def forward(self, pixel_values: Tensor) -> Tensor:
        height, width = pixel_values.shape[-2:]
        if (height, width) != (self.image_size, self.image_size):
            raise ValueError(
                f"The input is {height} x {width} pixels, the model takes {self.image_size} x {self.image_size}. Set "
                f"the processor's size to the model's, or load the model with `image_size={max(height, width)}`."
            )
        return self.conv2(F.gelu(self.conv1(pixel_values)))


class MobileSamConvBlock(GradientCheckpointingLayer):
    """MBConv: widen, depthwise 3 x 3, narrow, add, GELU: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, dim: int, expand_ratio: float):
        super().__init__()
        hidden_dim = int(dim * expand_ratio)
        self.conv1 = MobileSamConvNorm(dim, hidden_dim, 1)
        self.conv2 = MobileSamConvNorm(hidden_dim, hidden_dim, 3, groups=hidden_dim)
        self.conv3 = MobileSamConvNorm(hidden_dim, dim, 1)

    def forward(self, hidden_states: Tensor) -> Tensor:
        residual = hidden_states
        hidden_states = F.gelu(self.conv1(hidden_states))
        hidden_states = F.gelu(self.conv2(hidden_states))
        return F.gelu(residual + self.conv3(hidden_states))


class MobileSamDownsample(nn.Module):
    """TinyViT's patch merging, by convolutions: (B, C, H, W) -> (B, D, H / stride, W / stride)."""

    def __init__(self, dim: int, out_dim: int, stride: int):
        super().__init__()
        self.conv1 = MobileSamConvNorm(dim, out_dim, 1)
        self.conv2 = MobileSamConvNorm(out_dim, out_dim, 3, stride=stride, groups=out_dim)
        self.conv3 = MobileSamConvNorm(out_dim, out_dim, 1)

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden_states = F.gelu(self.conv1(hidden_states))
        hidden_states = F.gelu(self.conv2(hidden_states))
        return self.conv3(hidden_states)


class MobileSamWindowAttention(nn.Module):
    """Multi-head attention within non-overlapping windows, with a learned bias for each pair of |dy| and |dx|.

    Maps are padded with zeros at the bottom and right to multiples of the window. The layer norm follows the padding,
    so that padded tokens enter the attention with the value of the norm's bias; the published weights expect this.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int, layer_norm_eps: float):
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.layer_norm = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window_size**2))  # at |dy| * window_size + |dx|

    def position_bias(self) -> Tensor:
        """Bias of each pair of tokens in a window: (heads, N, N), where N = window_size²."""
        size = self.window_size
        position = torch.arange(size, device=self.attention_biases.device)
        distance = (position[:, None] - position[None, :]).abs()  # (size, size)
        by_offset = self.attention_biases.view(self.num_heads, size, size)
        bias = by_offset[:, distance[:, None, :, None], distance[None, :, None, :]]  # (heads, y, x, y', x')
        return bias.reshape(self.num_heads, size**2, size**2)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        batch_size, height, width, dim = hidden_states.shape
        size = self.window_size
        hidden_states = F.pad(hidden_states, (0, 0, 0, -width % size, 0, -height % size))
        rows, columns = hidden_states.shape[1] // size, hidden_states.shape[2] // size
        windows = hidden_states.reshape(batch_size, rows, size, columns, size, dim).transpose(2, 3)
        windows = windows.reshape(-1, size**2, dim)  # (B * rows * columns, N, C)

        qkv = self.qkv(self.layer_norm(windows)).unflatten(-1, (self.num_heads, -1))  # (.., N, heads, 3 * C / heads)
        query, key, value = qkv.transpose(1, 2).chunk(3, dim=-1)
        windows = F.scaled_dot_product_attention(query, key, value, attn_mask=self.position_bias().to(query.dtype))
        windows = self.proj(windows.transpose(1, 2).flatten(2))

        hidden_states = windows.reshape(batch_size, rows, columns, size, size, dim).transpose(2, 3)
        hidden_states = hidden_states.reshape(batch_size, rows * size, columns * size, dim)
        return hidden_states[:, :height, :width]


class MobileSamMLP(nn.Module):
    """Feed-forward network on the last dimension: (..., C) -> (..., C)."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(hidden_states)))


class MobileSamBlock(GradientCheckpointingLayer):
    """Window attention, a depthwise convolution across windows, and a feed-forward network: (B, C, H, W) -> the same.

    Attention and `mlp` get channels last, (B, H, W, C).
    """

    def __init__(self, dim: int, num_heads: int, window_size: int, mlp_ratio: float, layer_norm_eps: float):
        super().__init__()
        self.attn = MobileSamWindowAttention(
            dim, num_heads=num_heads, window_size=window_size, layer_norm_eps=layer_norm_eps
        )
        self.local_conv = MobileSamConvNorm(dim, dim, 3, groups=dim)
        self.layer_norm = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.mlp = MobileSamMLP(dim, int(dim * mlp_ratio))

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden_states = hidden_states.permute(0, 2, 3, 1)
        hidden_states = hidden_states + self.attn(hidden_states)
        hidden_states = self.local_conv(hidden_states.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        hidden_states = hidden_states + self.mlp(self.layer_norm(hidden_states))
        return hidden_states.permute(0, 3, 1, 2)


class MobileSamStage(nn.Module):
    """Blocks at one resolution, then a downsampling layer, except in the last stage.

    (B, C, H, W) -> (B, D, H / stride, W / stride), or (B, C, H, W) -> (B, C, H, W) in the last stage.
    """

    def __init__(self, config: MobileSamVisionConfig, index: int):
        super().__init__()
        dim = config.embed_dims[index]
        if index == 0:
            blocks = [MobileSamConvBlock(dim, config.mbconv_expand_ratio) for _ in range(config.depths[index])]
        else:
            blocks = [
                MobileSamBlock(
                    dim,
                    num_heads=config.num_attention_heads[index],
                    window_size=config.window_sizes[index],
                    mlp_ratio=config.mlp_ratio,
                    layer_norm_eps=config.layer_norm_eps,
                )
                for _ in range(config.depths[index])
            ]
        self.blocks = nn.ModuleList(blocks)
        if index == len(config.embed_dims) - 1:
            self.downsample: nn.Module = nn.Identity()
        else:
            # The patch embeddings' stride is 4; halve until the map has the stride that the config asks for.
            stride = 2 if 4 * 2**index < config.patch_size else 1
            self.downsample = MobileSamDownsample(dim, config.embed_dims[index + 1], stride)

    def forward(self, hidden_states: Tensor) -> Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return self.downsample(hidden_states)


class MobileSamNeck(SamVisionNeck):
    """SAM's neck for maps with channels first: (B, C, h, w) -> (B, output_channels, h, w)."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states.permute(0, 2, 3, 1))


class MobileSamPreTrainedModel(CheckedWeightsMixin, CustomCodeMixin, SamPreTrainedModel):
    """Loading, saving and weight initialisation of MobileSAM."""

    config: MobileSamConfig
    base_model_prefix = "mobile_sam"
    _no_split_modules = ["MobileSamConvBlock", "MobileSamBlock"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d) and module.bias is None:  # all of the encoder's, and no others
            # Some chains of depthwise convolutions have no shortcut. With small initial weights they would shrink the
            # signal below the epsilon of the neck's norm, and the embedding would be the same at all positions.
            init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, MobileSamWindowAttention):
            init.zeros_(module.attention_biases)


class MobileSamVisionEncoder(MobileSamPreTrainedModel):
    """TinyViT and SAM's neck: `neck(layers[3](layers[2](layers[1](layers[0](patch_embed(pixel_values))))))`.

    All maps have channels first. With `output_hidden_states=True` it also returns the stages' inputs and the last
    stage's output.
    """

    config: MobileSamVisionConfig
    _can_record_outputs = {"hidden_states": MobileSamStage}  # noqa: RUF012

    def __init__(self, config: MobileSamVisionConfig):
        super().__init__(config)
        self.patch_embed = MobileSamPatchEmbeddings(config)
        self.layers = nn.ModuleList([MobileSamStage(config, index) for index in range(len(config.embed_dims))])
        self.neck = MobileSamNeck(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.patch_embed

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: Tensor | None = None, **kwargs: object) -> SamVisionEncoderOutput:
        """
        Compute the image embedding: `pixel_values` (B, 3, S, S) -> `last_hidden_state` (B, 256, h, h).

        The input is normalised as SAM's. S is the config's `image_size` and h = S / 16. Raises `ValueError` for another
        size, and without `pixel_values`.
        """
        if pixel_values is None:
            raise ValueError("Pass `pixel_values`.")
        hidden_states = self.patch_embed(pixel_values)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return SamVisionEncoderOutput(last_hidden_state=self.neck(hidden_states))


class MobileSamModel(MobileSamPreTrainedModel, SamModel):
    """A `SamModel` with a TinyViT as image encoder. Prompts, methods and outputs are those of `SamModel`.

    `MobileSamModel.from_pretrained(path, image_size=512)` loads the same weights for another input size.
    """

    config: MobileSamConfig

    def __init__(self, config: MobileSamConfig):
        # SamModel's own constructor would build its ViT.
        super(SamModel, self).__init__(config)
        config.image_size = config.vision_config.image_size  # the vision config may have been set on its own
        self.shared_image_embedding = SamPositionalEmbedding(config.vision_config)
        self.vision_encoder = MobileSamVisionEncoder(config.vision_config)
        self.prompt_encoder = SamPromptEncoder(config)
        # As in SamModel: the mask decoder reads its attention implementation from its own config.
        config.mask_decoder_config._attn_implementation = config._attn_implementation
        self.mask_decoder = SamMaskDecoder(config.mask_decoder_config)
        self.post_init()


__all__ = ["MobileSamModel", "MobileSamPreTrainedModel", "MobileSamVisionEncoder"]
