"""The PEFT tuner, which adds the adapter to a base model, and its checks of targets and saved weights."""

import re
from typing import Any
from weakref import WeakKeyDictionary

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_target_module_exists
from torch import Tensor, nn

from .call import CallHooks
from .config import ScalpelMoeConfig, ScalpelPeftType, record_base
from .families import Family, family_of
from .layer import MaskLevelLayer, ScalpelMoeLayer, TokenLevelLayer


def encoder_mlps(model: nn.Module, blocks: int | list[str] | str) -> set[str]:
    """
    Full names of the MLPs in the encoder blocks that [`ScalpelMoeConfig`]'s `blocks` selects.

    Raises:
        ValueError: if there are fewer blocks, or a name or expression matches no MLP.
    """
    mlp = family_of(model).mlp
    names = [f"vision_encoder.{n}" for n, _ in model.vision_encoder.named_modules() if n.endswith(f".{mlp}")]
    if isinstance(blocks, int):
        if blocks > len(names):
            raise ValueError(f"`blocks` asks for the last {blocks} of {len(names)} encoder blocks")
        return set(names[-blocks:])
    if isinstance(blocks, str):
        chosen = {blocks: {n for n in names if re.fullmatch(blocks, n)}}
    else:
        chosen = {b: {n for n in names if f".{n}".endswith((f".{b}", f".{b}.{mlp}"))} for b in blocks}
    for block, matches in chosen.items():
        if not matches:
            raise ValueError(f"`blocks` {block!r} matches none of the encoder's MLPs: {names}")
    return set().union(*chosen.values())


class ScalpelMoeModel(BaseTuner):
    """
    The PEFT tuner: adds the hierarchical mixture-of-experts adapter to a Segment Anything model (of [`FAMILIES`]).

    The model's `forward` then also takes

    - `frames` `(B, 1, H, W)`: the normalised frames;
    - `frame_boxes` `(B, 4)`: the region (x0, y0, x1, y1) of SAM's input that each frame covers;
    - `labels` `(B, H, W)`: target in [0, 1], or 255 for pixels to ignore. With labels the output is a
      [`ScalpelSamOutput`] with the `loss`.

    Examples:
        >>> from peft import get_peft_model
        >>> from transformers import AutoModelForMaskGeneration
        >>> from scalpel_hf import ScalpelMoeConfig

        >>> base = AutoModelForMaskGeneration.from_pretrained("facebook/sam-vit-base")  # doctest: +SKIP
        >>> model = get_peft_model(base, ScalpelMoeConfig())  # doctest: +SKIP
        >>> model.print_trainable_parameters()  # doctest: +SKIP
    """

    prefix: str = "scalpel_moe_"
    tuner_layer_cls = ScalpelMoeLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 (the targets come from `levels` and `blocks`)

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict) -> PeftConfig:
        if isinstance(self.model, PeftModel):
            raise ValueError(
                "this is a PeftModel already: adapt its base model, `get_base_model()`, or add to it with `add_adapter`"
            )
        family_of(self.model)
        record_base(peft_config, self.model)
        for name in peft_config.modules_to_save or []:
            self._check_module_to_save(name, "mask" in peft_config.levels)
        if peft_config.target_modules is None:
            peft_config.target_modules = self._targets(peft_config)
        self._check_not_shared(peft_config)
        return peft_config

    def _check_not_shared(self, config: PeftConfig) -> None:
        """Refuse to wrap a module that has another adapter, such as LoRA: the names of its weights would change."""
        for name, module in self.model.named_modules():
            if not isinstance(module, BaseTunerLayer) or isinstance(module, ScalpelMoeLayer):
                continue
            parts = name.split(".")
            around = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]  # the module and all that hold it
            shared = next((module for module in around if check_target_module_exists(config, module)), None)
            if shared is not None:
                raise ValueError(
                    f"{name!r} has an adapter of another kind, and this one would be put around {shared!r}: target "
                    "modules that the two don't share, such as the encoder's attention"
                )

    def _check_module_to_save(self, name: str, mask_level: bool) -> None:
        """Refuse names that peft would silently ignore: of no module, or of a child of an adapted module."""
        found = [key.replace(".base_layer", "") for key, _ in self.model.named_modules() if key.endswith(name)]
        if mask_level and any(key.startswith("mask_decoder") and key.count(".") < 2 for key in found):
            raise ValueError(
                f"`modules_to_save` {name!r} is wrapped by the mask level: name modules further inside, such as "
                "'final_attn_token_to_image', or leave `mask` out of `levels`"
            )
        if not found or (mask_level and name.startswith("mask_decoder.")):
            raise ValueError(
                f"`modules_to_save` {name!r} names no module of {type(self.model).__name__}; one inside the mask "
                "decoder is named by the end of its name, without 'mask_decoder.'"
            )

    def _targets(self, config: ScalpelMoeConfig) -> set[str]:
        targets = {"mask_decoder"} if "mask" in config.levels else set()
        return targets | encoder_mlps(self.model, config.blocks) if "token" in config.levels else targets

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, ScalpelMoeLayer):
            target.update_layer(adapter_name, peft_config)
            new_module = target
        else:
            family = family_of(self.model)
            new_module = _layer_class(current_key, family)(target, adapter_name, config=peft_config, family=family)
            self._replace_module(parent, target_name, new_module=new_module, child=target)
        if adapter_name not in self.active_adapters:
            new_module._adapters[adapter_name].requires_grad_(False)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # The base class looks for `.weight` on what it replaces, which a whole MLP or mask decoder lacks.
        setattr(parent, child_name, new_module)

    def _post_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        names = [name for name, _ in model.named_modules()]
        targets = config.target_modules if isinstance(config.target_modules, set) else set()
        absent = sorted(t for t in targets if not any(f".{name}".endswith(f".{t}") for name in names))
        if absent:  # peft only raises if no target is found at all
            raise ValueError(f"{type(model).__name__} has no {absent}: the configuration was made for another base")
        made_for = (config.auto_mapping or {}).get("base_model_class", type(model).__name__)
        if config.sam_features and made_for != type(model).__name__:
            raise ValueError(
                f"the adapter reads the features of a {made_for}, and this is a {type(model).__name__}: load it on "
                "the base that it was trained on"
            )
        hooks: Any = model.__dict__.setdefault("_scalpel_hooks", {})
        if not hooks:
            hooks["surplus"] = model.register_load_state_dict_pre_hook(refuse_surplus_keys)
            hooks["hidden"] = model.register_forward_pre_hook(refuse_hidden_targets)
            hooks["call"] = CallHooks(model)

    def _get_module_names_tied_with_embedding(self) -> list[str]:
        return []  # targets are never embeddings, and peft's search for these fails with timm's encoders

    def _unload_and_optionally_merge(self, merge: bool = True, *args: object, **kwargs: object) -> nn.Module:
        if merge:
            raise ValueError(
                "a mixture of experts is not linear and can't be merged into the base weights: keep the adapter, or "
                "call `unload()` to get the base model back"
            )
        # Before the base class unloads: inside these layers may be `modules_to_save`, which it wouldn't find.
        for name, module in list(self.model.named_modules()):
            if isinstance(module, ScalpelMoeLayer):
                module.remove_hooks()
                self.model.set_submodule(name, module.base_layer)
        for hook in self.model.__dict__.pop("_scalpel_hooks").values():
            hook.remove()
        _SEEN.pop(self.model, None)
        return super()._unload_and_optionally_merge(*args, merge=False, **kwargs)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        # peft expects the adapter's name before the last part, but experts have further parts after it.
        return re.sub(rf"(\.{cls.prefix}(?:token|mask))\.{re.escape(adapter_name)}\.", r"\1.", key)


def _layer_class(name: str, family: Family) -> type[ScalpelMoeLayer]:
    if name == "mask_decoder":
        return MaskLevelLayer
    if re.fullmatch(rf"vision_encoder\..*\.{family.mlp}", name):
        return TokenLevelLayer
    raise ValueError(
        f"{name!r} can't be adapted, only the mask decoder and the MLPs of the vision encoder: leave `target_modules` "
        "out, and choose by `levels` and `blocks`"
    )


# The configurations that a base model was checked with. In the model itself, their addresses would enter the hash by
# which `datasets` finds what it computed before.
_SEEN: WeakKeyDictionary[nn.Module, list[int]] = WeakKeyDictionary()


def refuse_hidden_targets(model: nn.Module, _: tuple[Any, ...]) -> None:
    """
    Forward pre-hook of the base: raise if another adapter targets a module inside an adapted MLP or mask decoder.

    PEFT skips such modules silently; the next forward pass is the first opportunity to notice it.
    """
    configs = getattr(model, "peft_config", {})  # transformers deletes it with the last adapter
    seen = [id(config) for config in configs.values()]
    if torch.compiler.is_compiling() or _SEEN.get(model) == seen:
        return
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, ScalpelMoeLayer)]
    inside = [f"{name}.{part}" for name, layer in layers for part, _ in layer.get_base_layer().named_modules() if part]
    for adapter, config in configs.items():
        if config.peft_type == ScalpelPeftType.SCALPEL_MOE or not getattr(config, "target_modules", None):
            continue
        hidden = next((name for name in inside if check_target_module_exists(config, name)), None)
        if hidden is not None:
            raise ValueError(
                f"the adapter {adapter!r} targets {hidden!r}, which PEFT skips, because it is inside an adapted "
                "module: target modules outside, such as the encoder's attention, or name those inside in its "
                "`exclude_modules`"
            )
    _SEEN[model] = seen


def refuse_surplus_keys(model: nn.Module, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
    """State-dict pre-hook of the base: unexpected weights of an adapter are an error, even with `strict=False`."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    own = {prefix + name for name, _ in tensors if ".scalpel_moe_" in name}
    surplus = [k for k in state_dict if k.startswith(prefix) and ".scalpel_moe_" in k and k not in own]
    if surplus:
        errors = args[-1]
        errors.append(
            f"{len(surplus)} weights of an adapter don't fit this model, such as `{min(surplus)}`: they were trained "
            "with another configuration, or under another adapter name"
        )
