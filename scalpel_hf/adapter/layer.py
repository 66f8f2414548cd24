"""The adapter's layers, which wrap MLPs of the encoder and the mask decoder, and access to its mask level."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from scalpel_hf.modeling.mask_decoder import decode_masks, give_upscaled_out
from scalpel_hf.modeling.mask_level import MaskLevel, sample_region
from scalpel_hf.modeling.moe import TokenAdapter

from .call import current_call, linked_frames
from .config import ScalpelMoeConfig
from .families import Family, base_of, family_of

# A context variable, so that threads can share one model.
_ROUTER_SINK: ContextVar[list[dict[str, Tensor]] | None] = ContextVar("router_sink", default=None)


@contextmanager
def record_router() -> Iterator[list[dict[str, Tensor]]]:
    """
    Record the routers' outputs of every forward pass inside the `with` block.

    Each entry of the list has, for E experts and M maps, `router_weights` `(B, E, H, W)`, `image_weights` `(B, E)`,
    `prior_maps` `(B, M, H, W)`, their routed mixture `prior` `(B, 1, H, W)`, and `logits`. Gradients flow through them.

    Examples:
        >>> with record_router() as records:  # doctest: +SKIP
        ...     outputs = model(**inputs)
        >>> records[0]["router_weights"].shape  # doctest: +SKIP
        torch.Size([1, 4, 256, 256])
    """
    records: list[dict[str, Tensor]] = []
    token = _ROUTER_SINK.set(records)
    try:
        yield records
    finally:
        _ROUTER_SINK.reset(token)


class ScalpelMoeLayer(nn.Module, BaseTunerLayer):
    """Base class of the adapter's layers. One adapter is active at a time; merging is impossible."""

    adapter_layer_names: tuple[str, ...] = ()
    base_layer: Any

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: ScalpelMoeConfig, family: Family):
        super().__init__()
        self.base_layer, self.family = base_layer, family
        self.merged_adapters: list[str] = []
        setattr(self, self.adapter_layer_names[0], nn.ModuleDict())
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: ScalpelMoeConfig) -> None:
        # The same mode as the base, which is evaluation mode after `from_pretrained`.
        self._adapters[adapter_name] = self.build(config).train(self.get_base_layer().training)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(adapter_name, inference_mode=config.inference_mode)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # The base class reads the device of `.weight`, which an MLP or mask decoder doesn't have.
        device = next(self.get_base_layer().parameters()).device if device is None else device
        super()._move_adapter_to_device_of_base_layer(adapter_name, device)

    def build(self, config: ScalpelMoeConfig) -> nn.Module:
        raise NotImplementedError(f"{type(self).__name__} must implement `build`")

    @property
    def _adapters(self) -> Any:
        return getattr(self, self.adapter_layer_names[0])

    @property
    def active_name(self) -> str | None:
        """Name of the active adapter of this kind; `None` if there is none or adapters are disabled."""
        names = [name for name in self.active_adapters if name in self._adapters]
        if self.disable_adapters or not names:
            return None
        if len(names) > 1:
            raise ValueError(f"only one Scalpel adapter can be active, not {names}: call `set_adapter` with one name")
        return names[0]

    @property
    def active(self) -> Any:
        """Module of the active adapter, or `None`."""
        name = self.active_name
        return None if name is None else self._adapters[name]

    def remove_hooks(self) -> None:
        """Remove hooks from the base layer."""

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise ValueError(
            "a mixture of experts is not linear and can't be merged into the base weights: keep the adapter, or call "
            "`unload()` to get the base model back"
        )

    def __repr__(self) -> str:
        return "scalpel_moe." + super().__repr__()


class TokenLevelLayer(ScalpelMoeLayer):
    """Token level: an encoder block's MLP with a parallel bottleneck adapter of routed operators."""

    adapter_layer_names = ("scalpel_moe_token",)

    def build(self, config: ScalpelMoeConfig) -> TokenAdapter:
        dim = next(p for p in self.get_base_layer().parameters() if p.ndim > 1).shape[1]
        return TokenAdapter(dim, config)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = self.base_layer(hidden_states, *args, **kwargs)
        adapter = self.active
        if adapter is None:
            return result
        hidden_states = self._cast_input_dtype(hidden_states, adapter.up.weight.dtype)
        if self.family.channels_first:
            delta = adapter(hidden_states.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        else:
            delta = adapter(hidden_states)
        return result + delta.to(result.dtype)


class MaskLevelLayer(ScalpelMoeLayer):
    """Pixel and mask level: wraps SAM's mask decoder."""

    adapter_layer_names = ("scalpel_moe_mask",)
    other_param_names = ("grids",)

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: ScalpelMoeConfig, family: Family):
        self.grids: dict[str, str] = {}
        super().__init__(base_layer, adapter_name, config=config, family=family)
        self.upscaled_hook = give_upscaled_out(self.get_base_layer())

    def update_layer(self, adapter_name: str, config: ScalpelMoeConfig) -> None:
        self.grids[adapter_name] = config.mask_grid
        super().update_layer(adapter_name, config)

    @property
    def gives_frames_grid(self) -> bool:
        """Whether the active adapter has a mask level whose masks are on the frames' grid, not on SAM's own."""
        return self.active_name is not None and self.grids[self.active_name] == "frame"

    def remove_hooks(self) -> None:
        self.upscaled_hook.remove()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # the base model may access attributes of its decoder
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)

    def build(self, config: ScalpelMoeConfig) -> MaskLevel:
        decoder = self.get_base_layer()
        fine = [decoder.hidden_size // divisor for divisor in self.family.fine]
        return MaskLevel(
            config, upscaled_dim=decoder.hidden_size // 8, embedding_dim=decoder.hidden_size, fine_dims=fine
        )

    def forward(self, image_embeddings: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        name = self.active_name
        if name is None:
            return self.base_layer(image_embeddings, *args, **kwargs)
        call = current_call()
        assert call.region is not None
        outputs, seen = decode_masks(
            self.base_layer,
            self._adapters[name],
            call.region,
            image_embeddings,
            *args,
            prompted=call.prompted,
            base_grid=self.grids[name] == "base",
            **kwargs,
        )
        call.seen.update(seen)
        if seen and (sink := _ROUTER_SINK.get()) is not None:
            sink.append(seen)
        return outputs


def mask_level_layer(model: nn.Module) -> MaskLevelLayer | None:
    """The layer that wraps a model's mask decoder; `None` without a mask level."""
    return next((module for module in model.modules() if isinstance(module, MaskLevelLayer)), None)


def active_mask_level(model: nn.Module) -> MaskLevel | None:
    """The active mask level of an adapted model; `None` without one, or if adapters are disabled."""
    layer = mask_level_layer(model)
    return None if layer is None else layer.active


def asks_sam(model: nn.Module) -> bool:
    """Whether an adapted model uses SAM's encoder and decoder for predictions without prompts."""
    level = active_mask_level(model)
    return level is None or level.sam_features


def outputs_without_sam(model: nn.Module, frames: Tensor) -> dict[str, Tensor]:
    """Outputs of the active mask level for normalised frames `(B, 1, H, W)`, if the model doesn't use SAM."""
    level = active_mask_level(model)
    assert level is not None
    outputs = level.without_sam(frames)
    if (sink := _ROUTER_SINK.get()) is not None:
        sink.append(outputs)
    return outputs


def prompt_free_logits(model: nn.Module, image_embeddings: Any) -> Tensor:
    """
    Mask logits `(B, 1, H, W)` without prompts, at the resolution of the frames that the embeddings are linked to.

    Masks on SAM's own grid, such as those of adapters without a mask level, are resized to it.
    """
    inputs = family_of(base_of(model)).ask(image_embeddings)
    masks = model(**inputs, multimask_output=False).pred_masks[:, 0]  # (B, 1, h, w)
    layer = mask_level_layer(model)
    if layer is not None and layer.gives_frames_grid:
        return masks
    region = linked_frames(image_embeddings)
    return sample_region(masks, region.boxes, input_size=region.input_size, size=region.frames.shape[-2:])
