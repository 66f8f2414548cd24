"""The parts of the stand-alone teacher in which it differs from SAM: encoder, mask decoder, how weights are drawn."""

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamVisionEncoder

from .configuration_scalpel_sam import ScalpelSamConfig
from .mask_level import MaskLevel
from .modeling_mobile_sam import MobileSamVisionEncoder
from .moe import ImageRouter, PositionRouter, TokenAdapter
from .operators import WhiteBoxOperator


class ScalpelSamMlp(nn.Module):
    """An encoder block's MLP with a token adapter beside it: `mlp(h) + adapter(h)`, `(B, h, w, C)` → the same."""

    def __init__(self, mlp: nn.Module, adapter: TokenAdapter):
        super().__init__()
        self.mlp = mlp
        self.adapter = adapter

    def forward(self, hidden_states: Tensor) -> Tensor:
        result = self.mlp(hidden_states)
        return result + self.adapter(hidden_states.to(self.adapter.up.weight.dtype)).to(result.dtype)


class ScalpelSamMaskDecoder(SamMaskDecoder):
    """SAM's mask decoder, which gives its up-scaled embedding out as well."""

    def forward(
        self,
        image_embeddings: Tensor,
        image_positional_embeddings: Tensor,
        sparse_prompt_embeddings: Tensor | None,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            image_embeddings, dense_prompt_embeddings: `(B, C, h, w)`. image_positional_embeddings: `(1, C, h, w)`.
            sparse_prompt_embeddings: `(B, P, N, C)`, N tokens of each of P prompts; `None` for no prompt, P = 1.

        Returns logits `(B, P, M, 4h, 4w)`, IoU scores `(B, P, M)` and the embedding `(B · P, C / 8, 4h, 4w)`.
        """
        own_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])  # (1 + K, C)
        if sparse_prompt_embeddings is None:
            sparse_prompt_embeddings = own_tokens.new_zeros(image_embeddings.shape[0], 1, 0, self.hidden_size)
        batch_size, prompts = sparse_prompt_embeddings.shape[:2]
        tokens = torch.cat([own_tokens.expand(batch_size, prompts, -1, -1), sparse_prompt_embeddings], 2)
        image = (image_embeddings + dense_prompt_embeddings).repeat_interleave(prompts, 0)  # (B · P, C, h, w)
        tokens, image = self.transformer(
            point_embeddings=tokens.to(own_tokens.dtype),
            image_embeddings=image,
            image_positional_embeddings=image_positional_embeddings.expand_as(image),
            attention_similarity=None,
        )
        iou_token, mask_tokens = tokens[:, :, 0], tokens[:, :, 1 : 1 + self.num_mask_tokens]

        height, width = image_embeddings.shape[-2:]
        image = image.transpose(2, 3).reshape(batch_size * prompts, -1, height, width)
        upscaled = self.activation(self.upscale_layer_norm(self.upscale_conv1(image)))
        upscaled = self.activation(self.upscale_conv2(upscaled))  # (B · P, C / 8, 4h, 4w)
        mlps = enumerate(self.output_hypernetworks_mlps)
        weights = torch.stack([mlp(mask_tokens[:, :, k]) for k, mlp in mlps], 2)  # (B, P, K, C / 8)
        masks = weights @ upscaled.flatten(2).unflatten(0, (batch_size, prompts))
        masks = masks.unflatten(-1, tuple(upscaled.shape[-2:]))  # (B, P, K, 4h, 4w)
        chosen = slice(1, None) if multimask_output else slice(0, 1)
        return masks[:, :, chosen], self.iou_prediction_head(iou_token)[:, :, chosen], upscaled


class DrawsExperts:
    """Mixin of `PreTrainedModel`s with experts inside: what a checkpoint has is kept, what it lacks is drawn."""

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # For code that isn't its own, transformers leaves out modules without parameters directly in them, which is
        # most of the experts. What it guards against, loaded weights drawn anew, doesn't happen here.
        super()._initialize_weights(module)  # type: ignore[misc]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[misc]
        if isinstance(module, TokenAdapter | MaskLevel):
            _draw(module)


def _draw(experts: TokenAdapter | MaskLevel) -> None:
    last: list[nn.Module] = [experts.up if isinstance(experts, TokenAdapter) else experts.head]
    last += [module.proj for module in experts.modules() if isinstance(module, ImageRouter | PositionRouter)]
    for module in experts.modules():
        if module in last or isinstance(module, WhiteBoxOperator):
            for parameter in module.parameters():
                init.zeros_(parameter)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            module.reset_parameters()  # transformers guards the functions of torch.nn.init, too
    if isinstance(experts, MaskLevel):
        init.ones_(experts.keep)
        for weights in experts.scale_weights if experts.pyramid is not None else ():
            init.constant_(weights, 1 / len(weights))


def _as_constructed(experts: nn.Module) -> None:
    """Experts whose weights no model is to draw anew; on the meta device, where they have none yet, it is."""
    if not any(parameter.is_meta for parameter in experts.parameters()):
        for module in experts.modules():
            module._is_hf_initialized = True  # type: ignore[assignment]


class ScalpelSamVisionEncoder(DrawsExperts, SamVisionEncoder):
    """SAM's vision encoder with token adapters."""


class ScalpelMobileSamVisionEncoder(DrawsExperts, MobileSamVisionEncoder):
    """MobileSAM's with token adapters."""


def build_encoder(config: ScalpelSamConfig) -> nn.Module:
    """The base's vision encoder with token adapters beside the MLPs that the configuration names."""
    encoders = {"sam": ScalpelSamVisionEncoder, "mobile_sam": ScalpelMobileSamVisionEncoder}
    encoder = encoders[config.base_config.model_type](config.vision_config)
    if "token" in config.levels:
        for name in _adapted_mlps(encoder, config.blocks):
            mlp = encoder.get_submodule(name)
            dim = next(m for m in mlp.modules() if isinstance(m, nn.Linear)).in_features
            settings = (config.bottleneck, list(config.scales), config.top_k, config.temperature, config.routers)
            adapter = TokenAdapter(dim, *settings)
            _as_constructed(adapter)
            encoder.set_submodule(name, ScalpelSamMlp(mlp, adapter))
    return encoder


def _adapted_mlps(encoder: nn.Module, blocks: int | list[str]) -> list[str]:
    names = [name for name, _ in encoder.named_modules() if name.endswith(".mlp")]
    chosen = names[-blocks:] if isinstance(blocks, int) else blocks
    if (isinstance(blocks, int) and not 0 < blocks <= len(names)) or not set(chosen) <= set(names):
        raise ValueError(f"`blocks` are a number or names of the encoder's MLPs, {names}, got {blocks!r}.")
    return chosen


def build_mask_level(config: ScalpelSamConfig) -> MaskLevel | None:
    """The mask level, with the operators where the pixel level is on."""
    if "mask" not in config.levels:
        return None
    channels = config.mask_decoder_config.hidden_size
    level = MaskLevel(
        config.operator_scales,
        upscaled_dim=channels // 8,
        embedding_dim=channels,
        channels=config.channels,
        full_resolution_channels=config.full_resolution_channels,
        top_k=config.top_k,
        temperature=config.temperature,
        routers=config.routers,
        sam_features=config.sam_features,
        noise_floor=config.noise_floor,
        prior_bar=config.prior_bar,
        prior_share=config.prior_share,
    )
    _as_constructed(level)
    return level
