"""A Segment Anything model's mask decoder with the mask level behind it: one way for the adapter, around a decoder of
any family, and for the stand-alone teacher."""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .mask_level import FrameRegion, MaskLevel

# What a decoder's last transposed convolution gave. Per thread (and per task), so that two threads may share one model.
_LAST_MAPS: ContextVar[list[Tensor] | None] = ContextVar("last_maps", default=None)


def give_upscaled_out(decoder: Any) -> RemovableHandle:
    """Make a decoder one for [`decode_masks`], which needs its up-scaled embedding, until the hook is removed."""
    return decoder.upscale_conv2.register_forward_hook(_keep)


def _keep(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
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
    Masks on the frames' grid: with prompts SAM's own, without them the mask level's.

    Args:
        decoder: after [`give_upscaled_out`].
        region: the frames, and what of SAM's input they cover.
        image_embeddings: `(B, C, h, w)`.
        base_grid: the masks are to be on the decoder's own grid.
        args, kwargs: further ones of the decoder.

    Returns what the decoder does, logits `(B, P, M, H, W)` first, and what the mask level gives, nothing with prompts.
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
    # Later families add the finest of the maps that come with the embedding.
    fine: tuple[Tensor, ...] = tuple(kwargs.get("high_resolution_features", ()))
    upscaled = decoder.activation(maps[0] + fine[0] if fine else maps[0])  # (B, C / 8, 4h, 4w)
    seen = _without_prompts(level, region, masks, upscaled, image_embeddings, fine)
    return (seen["logits"].unflatten(1, masks.shape[1:3]).to(masks.dtype), *others), seen


def _without_prompts(
    level: MaskLevel,
    region: FrameRegion,
    masks: Tensor,
    upscaled: Tensor,
    embeddings: Tensor,
    fine: Sequence[Tensor],
) -> dict[str, Tensor]:
    """What a mask level makes of SAM's masks `(B, P, M, h, w)`, in its own precision; `logits` are `(B, PM, H, W)`."""
    dtype = level.head.weight.dtype
    frames, boxes = region.frames.to(dtype), region.boxes.to(dtype)
    logits = region.sample(masks.to(dtype)).flatten(1, 2)
    upscaled, embeddings, *fine = (x.to(dtype) for x in (upscaled, embeddings, *fine))
    return level(frames, boxes, logits, upscaled, embeddings, region.input_size, fine)
