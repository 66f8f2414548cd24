"""A Segment Anything model's mask decoder followed by the mask level, for the adapter and the stand-alone teacher."""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .mask_level import FrameRegion, MaskLevel

# Outputs of the decoder's last transposed convolution. A context variable, so that threads can share one model.
_LAST_MAPS: ContextVar[list[Tensor] | None] = ContextVar("last_maps", default=None)


def give_upscaled_out(decoder: Any) -> RemovableHandle:
    """Register the hook that records a mask decoder's up-scaled embedding, which [`decode_masks`] needs."""
    return decoder.upscale_conv2.register_forward_hook(_record)


def _record(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
    if (maps := _LAST_MAPS.get()) is not None:
        maps.append(output)


def decode_masks(
    decoder: Any,
    level: MaskLevel,
    region: FrameRegion,
    image_embeddings: Tensor,
    *args: Any,
    prompted: bool,
    base_grid: bool,
    **kwargs: Any,
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """
    Predict masks at the frames' resolution: the mask level's without prompts, SAM's own with prompts.

    Args:
        decoder: the mask decoder, with the hook of [`give_upscaled_out`].
        level: the mask level.
        region: the frames, and the regions of SAM's input that they cover.
        image_embeddings: `(B, C, h, w)`.
        args: further arguments of the decoder.
        prompted: whether the decoder's arguments contain prompts.
        base_grid: whether masks have the decoder's own resolution instead of the frames'.
        kwargs: further arguments of the decoder.

    Returns the decoder's outputs, the first of which are mask logits `(B, P, M, H, W)`, and the outputs of
    [`MaskLevel`], or an empty dict with prompts.
    """
    maps: list[Tensor] = []
    token = _LAST_MAPS.set(maps)
    try:
        masks, *others = decoder(image_embeddings, *args, **kwargs)
    finally:
        _LAST_MAPS.reset(token)
    region = region.on_base_grid(masks.shape[-2:]) if base_grid else region
    if prompted:
        return (region.sample(masks), *others), {}
    # Decoders of SAM 2 and later add the finest of the encoder's maps before the activation.
    fine: tuple[Tensor, ...] = tuple(kwargs.get("high_resolution_features", ()))
    upscaled = decoder.activation(maps[0] + fine[0] if fine else maps[0])  # (B, C / 8, 4h, 4w)
    seen = _run_mask_level(level, region, masks, upscaled=upscaled, embedding=image_embeddings, fine=fine)
    return (seen["logits"].unflatten(1, masks.shape[1:3]).to(masks.dtype), *others), seen


def _run_mask_level(
    level: MaskLevel,
    region: FrameRegion,
    masks: Tensor,
    upscaled: Tensor,
    embedding: Tensor,
    fine: Sequence[Tensor],
) -> dict[str, Tensor]:
    """Run the mask level in its own dtype, for SAM's mask logits `(B, P, M, h, w)`; its logits are `(B, PM, H, W)`."""
    dtype = level.head.weight.dtype
    return level(
        frame=region.frames.to(dtype),
        boxes=region.boxes.to(dtype),
        sam_logits=region.sample(masks.to(dtype)).flatten(1, 2),
        upscaled=upscaled.to(dtype),
        embedding=embedding.to(dtype),
        input_size=region.input_size,
        fine=[x.to(dtype) for x in fine],
    )
