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

# Per thread (and per task), so that two threads may share one model.
_ROUTER_SINK: ContextVar[list[dict[str, Tensor]] | None] = ContextVar("router_sink", default=None)


@contextmanager
def record_router() -> Iterator[list[dict[str, Tensor]]]:
    """
    Collect what the routers decide, for every forward pass inside the block.

    Each entry has `router_weights` `(B, E, H, W)`, `image_weights` `(B, E)`, `prior_maps` `(B, M, H, W)`, `prior`
    `(B, 1, H, W)`, their routed mixture, and `logits`, with their gradients where gradients are on.

    Example:
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
    """What the adapter's layers share: one adapter active at a time, nothing to merge."""

    adapter_layer_names: tuple[str, ...] = ()
    base_layer: Any

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: ScalpelMoeConfig, family: Family):
        super().__init__()
        self.base_layer, self.family = base_layer, family
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
    """SAM's mask decoder with the pixel and mask levels behind it."""

    adapter_layer_names = ("scalpel_moe_mask",)
    other_param_names = ("grids",)

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: ScalpelMoeConfig, family: Family):
        self.grids: dict[str, str] = {}
        super().__init__(base_layer, adapter_name, config, family)
        self.upscaled_hook = give_upscaled_out(self.get_base_layer())

    def update_layer(self, adapter_name: str, config: ScalpelMoeConfig) -> None:
        self.grids[adapter_name] = config.mask_grid
        super().update_layer(adapter_name, config)

    def remove_hooks(self) -> None:
        self.upscaled_hook.remove()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # a base may call parts of its decoder itself
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)

    def build(self, config: ScalpelMoeConfig) -> MaskLevel:
        decoder = self.get_base_layer()
        fine = [decoder.hidden_size // divisor for divisor in self.family.fine]
        return MaskLevel(config, decoder.hidden_size // 8, decoder.hidden_size, fine)

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
    """The layer around a model's mask decoder; `None` where no mask level has been put there."""
    return next((module for module in model.modules() if isinstance(module, MaskLevelLayer)), None)


def active_mask_level(model: nn.Module) -> MaskLevel | None:
    """The mask level that predicts in an adapted model; `None` where there is none, or adapters are off."""
    layer = mask_level_layer(model)
    return None if layer is None else layer.active


def asks_sam(model: nn.Module) -> bool:
    """Whether an adapted model needs SAM's encoder or decoder to predict without prompts."""
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


def ask(model: nn.Module, image_embeddings: Any, **prompts: Any) -> Any:
    """The output, one mask a prompt, of an adapted model for embeddings as its `get_image_embeddings` gives them."""
    return model(**family_of(base_of(model)).ask(image_embeddings), **prompts, multimask_output=False)


def prompt_free_logits(model: nn.Module, image_embeddings: Any) -> Tensor:
    """
    Mask logits `(B, 1, H, W)` on the grid of the frames that the embeddings are linked to.

    Where no mask level predicts on that grid, with other adapters or other levels, SAM's own masks are resized to it.
    """
    masks = ask(model, image_embeddings).pred_masks[:, 0]  # (B, 1, h, w)
    if mask_level_layer(model) is not None:
        return masks
    region = linked_frames(image_embeddings)
    return sample_region(masks, region.boxes, region.input_size, region.frames.shape[-2:])
