"""What an adapted base takes and gives in a forward pass besides its own: `frames`, `frame_boxes`, `labels`, a loss.

Hooks on the base do it, so that `PeftModel`, `add_adapter` of transformers and replicas of a model are alike to it.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from scalpel_hf.modeling.mask_level import FrameRegion
from scalpel_hf.modeling.modeling_scalpel_sam import ScalpelSamOutput, keep_frozen_statistics
from scalpel_hf.modeling.teacher_loss import loss_of_labels

from .families import input_size, tensors_of

# The order of every family's arguments.
ARGUMENTS = ("pixel_values", "input_points", "input_labels", "input_boxes", "input_masks", "image_embeddings")


@dataclass
class Call:
    """A forward pass that is under way: its frames, whether SAM is prompted in it, its labels, and what the mask level
    of an adapter gave besides masks."""

    region: FrameRegion | None = None
    prompted: bool = False
    labels: Tensor | None = None
    seen: dict[str, Tensor] = field(default_factory=dict)


_CALLS: ContextVar[tuple[Call, ...]] = ContextVar("calls", default=())  # per thread, the innermost last
# What embeddings were made of that are asked about later: the tensors themselves are the key, in any thread, and the
# entry goes when they do.
_LINKS: WeakIdKeyDictionary = WeakIdKeyDictionary()


def link_frames(image_embeddings: Any, frames: Tensor, frame_boxes: Tensor, input_size: int) -> None:
    """
    Say which frames an embedding was made of, where it was not an adapted model's `get_image_embeddings` that made it.

    Args:
        image_embeddings: a tensor, or tensors in lists and tuples, as that gives them.
    """
    for tensor in tensors_of(image_embeddings):
        if frames.shape[0] != tensor.shape[0] or frame_boxes.shape != (frames.shape[0], 4):
            raise ValueError(
                f"`frames` {tuple(frames.shape)} and `frame_boxes` {tuple(frame_boxes.shape)} must be (B, 1, H, W) and "
                f"(B, 4) for the {tensor.shape[0]} images of the embedding"
            )
        _LINKS[tensor] = FrameRegion(frames, frame_boxes, input_size)


def linked_frames(image_embeddings: Any) -> FrameRegion:
    """The frames of an embedding; an error that says what to do when there are none."""
    region = _LINKS.get(next(tensors_of(image_embeddings)))
    if region is None:
        raise ValueError(
            "these `image_embeddings` did not come straight from this model's `get_image_embeddings`, with its adapter "
            "on (a copy, a slice or a cast loses the frame they were made of): pass `frames` and `frame_boxes` with "
            "them, or `pixel_values` in their place, or call `scalpel_hf.adapter.link_frames` on them"
        )
    return region


def given_frames(frames: Tensor | None, frame_boxes: Tensor | None, input_size: int) -> FrameRegion | None:
    """The frames that a call was given, or `None`."""
    if (frames is None) != (frame_boxes is None):
        raise ValueError("pass `frames` and `frame_boxes` together, or neither")
    return None if frames is None or frame_boxes is None else FrameRegion(frames, frame_boxes, input_size)


def current_call() -> Call:
    if not (calls := _CALLS.get()):
        raise ValueError("an adapted mask decoder knows the frames only in its model's forward pass: call the model")
    return calls[-1]


def begin_call(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
    """Forward pre-hook of the base: keep what is not its own."""
    call = Call()
    _CALLS.set((*_CALLS.get(), call))
    if model.training:
        keep_frozen_statistics(model)
    own = dict(kwargs)
    frames, boxes, call.labels = (own.pop(name, None) for name in ("frames", "frame_boxes", "labels"))
    given = {**dict(zip(ARGUMENTS, args, strict=False)), **own}
    pixel_values, embeddings = given.get("pixel_values"), given.get("image_embeddings")
    call.prompted = given.get("input_points") is not None or given.get("input_boxes") is not None
    call.region = given_frames(frames, boxes, input_size(model))
    if call.region is None and (call.labels is not None or getattr(model.mask_decoder, "active_name", None)):
        if embeddings is not None:
            call.region = linked_frames(embeddings)
        elif pixel_values is not None:
            call.region = whole_input(model, pixel_values)
    if call.labels is not None:
        own.setdefault("multimask_output", False)
    return args, own


def whole_input(model: nn.Module, pixel_values: Tensor) -> FrameRegion:
    """The input as its own frame."""
    (height, width), size = pixel_values.shape[-2:], input_size(model)
    if (height, width) != (size, size):  # which later families notice in the middle of their decoders
        raise ValueError(f"The input is {height} x {width} pixels, the model takes {size} x {size}.")
    return FrameRegion.whole(pixel_values)


def end_call(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> ScalpelSamOutput | None:
    """Forward hook of the base, called after errors too: with labels the output has the whole loss."""
    calls = _CALLS.get()
    _CALLS.set(calls[:-1])
    labels = None if output is None else calls[-1].labels
    if labels is None:
        return None
    loss = loss_of_labels(output.pred_masks, labels, calls[-1].region, calls[-1].seen)
    return ScalpelSamOutput(loss=loss, pred_masks=output.pred_masks, iou_scores=output.iou_scores)


def embeddings_with_frames(
    model: Any,
    own: Callable[..., Any],
    pixel_values: Tensor,
    frames: Tensor | None = None,
    frame_boxes: Tensor | None = None,
    **kwargs: Any,
) -> Any:
    """In place of the base's `get_image_embeddings`: linked to the frames, unless adapters are off."""
    embeddings = own(pixel_values, **kwargs)
    region = given_frames(frames, frame_boxes, input_size(model))
    if getattr(model.mask_decoder, "active_name", None):
        region = region or whole_input(model, pixel_values)
        link_frames(embeddings, region.frames, region.boxes, region.input_size)
    return embeddings


class CallHooks:
    """All this around a base, until it is removed."""

    def __init__(self, model: Any):
        self.model = model
        self.handles = [
            model.register_forward_pre_hook(begin_call, with_kwargs=True),
            model.register_forward_hook(end_call, with_kwargs=True, always_call=True),
        ]
        model.get_image_embeddings = partial(embeddings_with_frames, model, model.get_image_embeddings)
        model.accepts_loss_kwargs = False  # the loss is a mean, which a Trainer that accumulates gradients divides

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()
        del self.model.get_image_embeddings, self.model.accepts_loss_kwargs
