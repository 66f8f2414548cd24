"""The forward pass of an adapted base model: its additional arguments `frames`, `frame_boxes`, `labels`, and the loss.

These are implemented by hooks on the base model, so that they work with `PeftModel`, with transformers' `add_adapter`,
and in replicas of a model.
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

# The order of positional arguments, the same in all families.
ARGUMENTS = ("pixel_values", "input_points", "input_labels", "input_boxes", "input_masks", "image_embeddings")


@dataclass
class Call:
    """
    State of a running forward pass.

    Args:
        region: the frames, and their place in SAM's input.
        prompted: whether SAM gets points, boxes or masks.
        labels: of the loss.
        as_tuple: whether the output with a loss is a tuple.
        seen: outputs of the mask level besides masks, such as prior maps.
    """

    region: FrameRegion | None = None
    prompted: bool = False
    labels: Tensor | None = None
    as_tuple: bool = False
    seen: dict[str, Tensor] = field(default_factory=dict)


_CALLS: ContextVar[tuple[Call, ...]] = ContextVar("calls", default=())  # per thread, the innermost last
# The frames that image embeddings were computed from. Keys are the embeddings' tensors, by identity; an entry is
# deleted with its tensor.
_LINKS: WeakIdKeyDictionary = WeakIdKeyDictionary()


def link_frames(image_embeddings: Any, frames: Tensor, frame_boxes: Tensor, input_size: int) -> None:
    """
    Link image embeddings to their frames, for a later forward pass with `image_embeddings`.

    Only needed for embeddings that an adapted model's `get_image_embeddings` didn't return, such as cached ones.

    Args:
        image_embeddings: a tensor, or tensors in lists and tuples, as `get_image_embeddings` returns them.
        frames: normalised frames, `(B, 1, H, W)`.
        frame_boxes: region (x0, y0, x1, y1) of SAM's input that each frame covers, `(B, 4)`.
        input_size: side of SAM's input in pixels.

    Raises `ValueError` if the shapes don't fit.
    """
    for tensor in tensors_of(image_embeddings):
        if frames.shape[0] != tensor.shape[0] or frame_boxes.shape != (frames.shape[0], 4):
            raise ValueError(
                f"`frames` {tuple(frames.shape)} and `frame_boxes` {tuple(frame_boxes.shape)} must be (B, 1, H, W) and "
                f"(B, 4) for the {tensor.shape[0]} images of the embedding"
            )
        _LINKS[tensor] = FrameRegion(frames, frame_boxes, input_size)


def linked_frames(image_embeddings: Any) -> FrameRegion:
    """The frames that image embeddings are linked to; `ValueError` with the remedy if there are none."""
    region = _LINKS.get(next(tensors_of(image_embeddings)))
    if region is None:
        raise ValueError(
            "these `image_embeddings` are not linked to frames: only the very tensors that this model's "
            "`get_image_embeddings` returned with its adapter enabled are, not copies, slices or casts. Pass `frames` "
            "and `frame_boxes` too, or `pixel_values` instead, or call `scalpel_hf.adapter.link_frames` first"
        )
    return region


def given_frames(frames: Tensor | None, frame_boxes: Tensor | None, input_size: int) -> FrameRegion | None:
    """The frames passed to `forward`, `None` if there are none."""
    if (frames is None) != (frame_boxes is None):
        raise ValueError("pass `frames` and `frame_boxes` together, or neither")
    return None if frames is None or frame_boxes is None else FrameRegion(frames, frame_boxes, input_size)


def current_call() -> Call:
    """The running forward pass. Raises `ValueError` if the mask decoder is called without the model."""
    if not (calls := _CALLS.get()):
        raise ValueError("an adapted mask decoder can't be called alone, since it needs the frames: call the model")
    return calls[-1]


def begin_call(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
    """Forward pre-hook of the base: remove the additional arguments and keep them in a [`Call`]."""
    call = Call()
    _CALLS.set((*_CALLS.get(), call))
    if model.training:
        keep_frozen_statistics(model)
    own = dict(kwargs)
    frames, boxes, call.labels = (own.pop(name, None) for name in ("frames", "frame_boxes", "labels"))
    given = {**dict(zip(ARGUMENTS, args, strict=False)), **own}
    pixel_values, embeddings = given.get("pixel_values"), given.get("image_embeddings")
    call.prompted = any(given.get(name) is not None for name in ("input_points", "input_boxes", "input_masks"))
    call.region = given_frames(frames, boxes, input_size(model))
    if call.region is None and (call.labels is not None or getattr(model.mask_decoder, "active_name", None)):
        if embeddings is not None:
            call.region = linked_frames(embeddings)
        elif pixel_values is not None:
            call.region = whole_input(model, pixel_values)
    if call.labels is not None:
        own.setdefault("multimask_output", False)
        call.as_tuple = not own.get("return_dict", model.config.return_dict)
        own["return_dict"] = True
    return args, own


def whole_input(model: nn.Module, pixel_values: Tensor) -> FrameRegion:
    """SAM's input itself as the frame, if no frames are passed."""
    (height, width), size = pixel_values.shape[-2:], input_size(model)
    if (height, width) != (size, size):  # some families would only fail in their decoder
        raise ValueError(f"The input is {height} x {width} pixels, the model takes {size} x {size}.")
    return FrameRegion.whole(pixel_values)


def end_call(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Forward hook of the base, also called after errors: with labels, add the loss to the output."""
    calls = _CALLS.get()
    _CALLS.set(calls[:-1])
    labels = None if output is None else calls[-1].labels
    if labels is None:
        return None
    loss = loss_of_labels(output.pred_masks, labels=labels, region=calls[-1].region, seen=calls[-1].seen)
    found = ScalpelSamOutput(loss=loss, pred_masks=output.pred_masks, iou_scores=output.iou_scores)
    return found.to_tuple() if calls[-1].as_tuple else found


def embeddings_with_frames(
    model: Any,
    own: Callable[..., Any],
    pixel_values: Tensor,
    frames: Tensor | None = None,
    frame_boxes: Tensor | None = None,
    **kwargs: Any,
) -> Any:
    """Replaces the base's `get_image_embeddings`; links the result to the frames, unless adapters are disabled."""
    embeddings = own(pixel_values, **kwargs)
    region = given_frames(frames, frame_boxes, input_size(model))
    if getattr(model.mask_decoder, "active_name", None):
        region = region or whole_input(model, pixel_values)
        link_frames(embeddings, frames=region.frames, frame_boxes=region.boxes, input_size=region.input_size)
    return embeddings


class CallHooks:
    """Installs these hooks on a base model, until `remove` is called."""

    def __init__(self, model: Any):
        self.model = model
        self.handles = [
            model.register_forward_pre_hook(begin_call, with_kwargs=True),
            model.register_forward_hook(end_call, with_kwargs=True, always_call=True),
        ]
        model.get_image_embeddings = partial(embeddings_with_frames, model, model.get_image_embeddings)
        # The loss is a mean, so that a Trainer must divide it when it accumulates gradients.
        model.accepts_loss_kwargs = False

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()
        del self.model.get_image_embeddings, self.model.accepts_loss_kwargs
