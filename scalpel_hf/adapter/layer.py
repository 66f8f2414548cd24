from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from scalpel_hf.modeling.mask_level import FrameRegion, MaskLevel, predict_without_prompts, sample_region
from scalpel_hf.modeling.moe import TokenAdapter

from .config import ScalpelMoeConfig

# Both are per thread (and per task), so that two threads may share one model.
_ROUTER_SINK: ContextVar[list[dict[str, Tensor]] | None] = ContextVar("router_sink", default=None)
_UPSCALED_SINK: ContextVar[list[Tensor] | None] = ContextVar("upscaled_sink", default=None)


@contextmanager
def record_router() -> Iterator[list[dict[str, Tensor]]]:
    """
    Collect what the routers decide, for every forward pass inside the block.

    Each entry has `router_weights` `(B, E, H, W)`, `image_weights` `(B, E)`, `prior_maps` `(B, M, H, W)`, `prior`
    `(B, 1, H, W)`, their routed mixture, and `logits`, with their gradients where gradients are on.

    ```py
    >>> with record_router() as records:
    ...     model(**inputs)
    >>> records[0]["router_weights"].shape
    ```
    """
    records: list[dict[str, Tensor]] = []
    token = _ROUTER_SINK.set(records)
    try:
        yield records
    finally:
        _ROUTER_SINK.reset(token)


def _keep_upscaled(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
    if (sink := _UPSCALED_SINK.get()) is not None:
        sink.append(output)


class ScalpelMoeLayer(nn.Module, BaseTunerLayer):
    """What the adapter's layers share: one adapter active at a time, nothing to merge."""

    adapter_layer_names: tuple[str, ...] = ()
    base_layer: Any

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: ScalpelMoeConfig):
        super().__init__()
        self.base_layer = base_layer
        self.merged_adapters: list[str] = []
        setattr(self, self.adapter_layer_names[0], nn.ModuleDict())
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: ScalpelMoeConfig) -> None:
        # A base that came from `from_pretrained` is in evaluation mode, and batch norms beside it are to be, too.
        self._adapters[adapter_name] = self.build(config).train(self.get_base_layer().training)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(adapter_name, inference_mode=config.inference_mode)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # The base class looks for `.weight`, which a whole MLP or mask decoder lacks, and would leave it on the CPU.
        device = next(self.get_base_layer().parameters()).device if device is None else device
        super()._move_adapter_to_device_of_base_layer(adapter_name, device)

    def build(self, config: ScalpelMoeConfig) -> nn.Module:
        raise NotImplementedError(f"{type(self).__name__} must say which module it adds")

    @property
    def _adapters(self) -> Any:
        return getattr(self, self.adapter_layer_names[0])

    @property
    def active_name(self) -> str | None:
        """The adapter to apply, `None` when adapters are off; other methods' adapters may be active beside it."""
        names = [name for name in self.active_adapters if name in self._adapters]
        if self.disable_adapters or not names:
            return None
        if len(names) > 1:
            raise ValueError(f"one Scalpel adapter at a time, active are {names}: call `set_adapter` with one name")
        return names[0]

    @property
    def active(self) -> Any:
        """Its module, or `None`."""
        name = self.active_name
        return None if name is None else self._adapters[name]

    def remove_hooks(self) -> None:
        """Take back what was hooked into the base layer."""

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise ValueError(
            "a mixture of experts is not linear and can't be merged into the base weights: keep the adapter, or call "
            "`unload()` to get the base model back"
        )

    def __repr__(self) -> str:
        return "scalpel_moe." + super().__repr__()


class TokenLevelLayer(ScalpelMoeLayer):
    """An encoder block's MLP with a routed bottleneck of operators beside it."""

    adapter_layer_names = ("scalpel_moe_token",)

    def build(self, config: ScalpelMoeConfig) -> TokenAdapter:
        dim = next(m for m in self.get_base_layer().modules() if isinstance(m, nn.Linear)).in_features
        operators = list(config.scales)
        return TokenAdapter(dim, config.bottleneck, operators, config.top_k, config.temperature, config.routers)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = self.base_layer(hidden_states, *args, **kwargs)
        adapter = self.active
        if adapter is None:
            return result
        delta = adapter(self._cast_input_dtype(hidden_states, adapter.up.weight.dtype))
        return result + delta.to(result.dtype)


class MaskLevelLayer(ScalpelMoeLayer):
    """SAM's mask decoder with the pixel and mask levels behind it."""

    adapter_layer_names = ("scalpel_moe_mask",)
    other_param_names = ("grids",)

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: ScalpelMoeConfig):
        self.grids: dict[str, str] = {}
        super().__init__(base_layer, adapter_name, config)
        self.upscaled_hook = self.get_base_layer().upscale_conv2.register_forward_hook(_keep_upscaled)

    def update_layer(self, adapter_name: str, config: ScalpelMoeConfig) -> None:
        self.grids[adapter_name] = config.mask_grid
        super().update_layer(adapter_name, config)

    def remove_hooks(self) -> None:
        self.upscaled_hook.remove()

    def link_input(self, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Forward hook of the vision encoder: the frames of its embedding are wanted here, unless adapters are off."""
        if self.active_name is not None:
            link_input(args, kwargs, output)

    def build(self, config: ScalpelMoeConfig) -> MaskLevel:
        decoder = self.get_base_layer()
        return MaskLevel(
            config.operator_scales,
            upscaled_dim=decoder.hidden_size // 8,
            embedding_dim=decoder.hidden_size,
            channels=config.channels,
            full_resolution_channels=config.full_resolution_channels or 0,
            top_k=config.top_k,
            temperature=config.temperature,
            routers=config.routers,
            sam_features=config.sam_features,
            noise_floor=config.noise_floor,
            prior_bar=config.prior_bar,
            prior_share=config.prior_share,
        )

    def forward(
        self, image_embeddings: Tensor, *args: Any, sparse_prompt_embeddings: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        name = self.active_name
        if name is None:
            return self.base_layer(image_embeddings, *args, sparse_prompt_embeddings=sparse_prompt_embeddings, **kwargs)
        upscaled: list[Tensor] = []
        token = _UPSCALED_SINK.set(upscaled)
        try:
            masks, iou = self.base_layer(
                image_embeddings, *args, sparse_prompt_embeddings=sparse_prompt_embeddings, **kwargs
            )
        finally:
            _UPSCALED_SINK.reset(token)
        region = linked_frames(image_embeddings)
        if self.grids[name] == "base":
            region = region.on_base_grid(masks.shape[-2:])
        if sparse_prompt_embeddings is not None and sparse_prompt_embeddings.shape[2] > 0:
            return region.sample(masks), iou  # prompted: SAM's own prediction on the frame's grid
        return self._prompt_free(self._adapters[name], masks, upscaled[0], image_embeddings, region), iou

    def _prompt_free(
        self, adapter: MaskLevel, masks: Tensor, upscaled: Tensor, embeddings: Tensor, region: FrameRegion
    ) -> Tensor:
        activation = self.get_base_layer().activation
        outputs = predict_without_prompts(adapter, region, masks, activation(upscaled), embeddings)
        if (sink := _ROUTER_SINK.get()) is not None:
            sink.append(outputs)
        return outputs["logits"].unflatten(1, masks.shape[1:3]).to(masks.dtype)


def mask_level_layer(model: nn.Module) -> MaskLevelLayer | None:
    """The layer around a model's mask decoder; `None` where no mask level has been put there."""
    return next((module for module in model.modules() if isinstance(module, MaskLevelLayer)), None)


def active_mask_level(model: nn.Module) -> MaskLevel | None:
    """The mask level that predicts in an adapted model; `None` where there is none, or adapters are off."""
    layer = mask_level_layer(model)
    return None if layer is None else layer.active


def asks_sam(model: nn.Module) -> bool:
    """Whether SAM's encoder or decoder has a say in what an adapted model predicts without prompts."""
    level = active_mask_level(model)
    return level is None or level.sam_features


def outputs_without_sam(model: nn.Module, frames: Tensor) -> dict[str, Tensor]:
    """What the active mask level gives for normalised frames `(B, 1, H, W)` of a model that doesn't ask SAM."""
    level = active_mask_level(model)
    assert level is not None
    outputs = level.without_sam(frames)
    if (sink := _ROUTER_SINK.get()) is not None:
        sink.append(outputs)
    return outputs


def prompt_free_logits(model: nn.Module, image_embeddings: Tensor) -> Tensor:
    """
    Mask logits `(B, 1, H, W)` on the grid of the frames that the embeddings are linked to.

    Where no mask level predicts on that grid, with other adapters or other levels, SAM's own masks are resized to it.
    """
    masks = model(image_embeddings=image_embeddings, multimask_output=False).pred_masks[:, 0]  # (B, 1, h, w)
    if mask_level_layer(model) is not None:
        return masks
    region = linked_frames(image_embeddings)
    return sample_region(masks, region.boxes, region.input_size, region.frames.shape[-2:])


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
