"""From an image embedding to the frame it was made of.

`SamModel.forward` passes only the embedding on to the mask decoder, which needs the frame as well. The embedding
tensor itself is the key, so that `get_image_embeddings` now and prompts later work too, in any thread; the entry goes
when the embedding does.
"""

from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from scalpel_hf.modeling.frame_region import FrameRegion

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
            "these `image_embeddings` did not come straight from this model's `get_image_embeddings`, with its adapter "
            "on (a copy, a slice or a cast loses the frame they were made of): pass `pixel_values`, or call "
            "`scalpel_hf.adapter.link_frames` on them"
        )
    return region


def link_input(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """Link a vision encoder's output to the `frames` and `frame_boxes` that it was called with, or to its input."""
    pixel_values = args[0] if args else kwargs["pixel_values"]
    frames, boxes = kwargs.get("frames"), kwargs.get("frame_boxes")
    if (frames is None) != (boxes is None):
        raise ValueError("pass `frames` and `frame_boxes` together, or neither")
    if frames is None or boxes is None:
        region = FrameRegion.whole(pixel_values)
        frames, boxes = region.frames, region.boxes
    link_frames(output[0], frames, boxes, pixel_values.shape[-1])
