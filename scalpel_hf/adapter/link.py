"""From an image embedding to the frame it was made of.

`SamModel.forward` passes only the embedding on to the mask decoder, which needs the frame as well. The embedding
tensor itself is the key, so that `get_image_embeddings` now and prompts later work too, in any thread; the entry goes
when the embedding does.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary


@dataclass
class FrameRegion:
    """A normalised frame `(B, 1, H, W)` and the region `(B, 4)` of SAM's input, of side `input_size`, it covers."""

    frames: Tensor
    boxes: Tensor
    input_size: int


_LINKS: WeakIdKeyDictionary = WeakIdKeyDictionary()


def link_frames(image_embeddings: Tensor, frames: Tensor, frame_boxes: Tensor, input_size: int) -> None:
    """Say which frames an embedding was made of, where it was not the encoder of an adapted model that made it."""
    if frames.shape[0] != image_embeddings.shape[0] or frame_boxes.shape != (frames.shape[0], 4):
        raise ValueError(
            f"`frames` {tuple(frames.shape)} and `frame_boxes` {tuple(frame_boxes.shape)} must be (B, 1, H, W) and "
            f"(B, 4) for the {image_embeddings.shape[0]} images of the embedding"
        )
    _LINKS[image_embeddings] = FrameRegion(frames, frame_boxes, input_size)


def linked_frames(image_embeddings: Tensor) -> FrameRegion:
    """The frames of an embedding; an error that says what to do when there are none."""
    region = _LINKS.get(image_embeddings)
    if region is None:
        raise ValueError(
            "these `image_embeddings` did not come straight from this model's `get_image_embeddings` (a copy, a slice "
            "or a cast loses the frame they were made of): pass `pixel_values`, or call "
            "`scalpel_hf.adapter.link_frames` on them"
        )
    return region


def default_region(pixel_values: Tensor) -> FrameRegion:
    """The whole input as its own frame: mean over the channels, zero mean and unit spread an image."""
    frames = pixel_values.mean(1, keepdim=True)
    frames = frames - frames.mean((-2, -1), keepdim=True)
    frames = frames / frames.square().mean((-2, -1), keepdim=True).sqrt().clamp(min=1e-6)
    size = pixel_values.shape[-1]
    boxes = torch.tensor([0.0, 0.0, size, pixel_values.shape[-2]], device=pixel_values.device)
    return FrameRegion(frames, boxes.expand(len(frames), 4), size)


def encoder_hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """Forward hook of the vision encoder: links its embedding to `frames` and `frame_boxes`, or to its own input."""
    pixel_values = args[0] if args else kwargs["pixel_values"]
    frames, boxes = kwargs.get("frames"), kwargs.get("frame_boxes")
    if (frames is None) != (boxes is None):
        raise ValueError("pass `frames` and `frame_boxes` together, or neither")
    if frames is None or boxes is None:
        region = default_region(pixel_values)
        frames, boxes = region.frames, region.boxes
    link_frames(output[0], frames, boxes, pixel_values.shape[-1])
