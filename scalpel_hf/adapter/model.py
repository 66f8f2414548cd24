import re

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from .config import ScalpelMoeConfig
from .layer import MaskLevelLayer, ScalpelMoeLayer, TokenLevelLayer
from .link import encoder_hook


class ScalpelMoeModel(BaseTuner):
    """
    Puts the hierarchical mixture-of-experts adapter into a Segment Anything model (`SamModel`, `MobileSamModel`).

    Example:

        ```py
        >>> from peft import get_peft_model
        >>> from scalpel_hf import ScalpelMoeConfig

        >>> model = get_peft_model(SamModel.from_pretrained("facebook/sam-vit-base"), ScalpelMoeConfig())
        >>> model.print_trainable_parameters()
        ```
    """

    prefix: str = "scalpel_moe_"
    tuner_layer_cls = ScalpelMoeLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 (the targets come from `levels` and `blocks`)

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict) -> PeftConfig:
        if not all(hasattr(self.model, name) for name in ("vision_encoder", "prompt_encoder", "mask_decoder")):
            raise ValueError(
                f"ScalpelMoeConfig adapts Segment Anything models (`SamModel`, `MobileSamModel`), not "
                f"{type(self.model).__name__}: it needs a vision encoder, a prompt encoder and a mask decoder"
            )
        if peft_config.target_modules is None:
            peft_config.target_modules = self._targets(peft_config)
        return peft_config

    def _targets(self, config: ScalpelMoeConfig) -> set[str]:
        targets = {"mask_decoder"} if "mask" in config.levels else set()
        if "token" not in config.levels:
            return targets
        names = [n.replace(".base_layer", "") for n, _ in self.model.vision_encoder.named_modules()]
        names = [f"vision_encoder.{n}" for n in names if n.endswith(".mlp")]
        if isinstance(config.blocks, int):
            if config.blocks > len(names):
                raise ValueError(f"`blocks` asks for the last {config.blocks} of {len(names)} encoder blocks")
            return targets | set(names[-config.blocks :])
        if isinstance(config.blocks, str):
            chosen = {n for n in names if re.fullmatch(config.blocks, n)}
        else:
            chosen = {n for n in names if any(n == b or n.removesuffix(".mlp").endswith(b) for b in config.blocks)}
        if not chosen:
            raise ValueError(f"`blocks` {config.blocks!r} matches none of the encoder's MLPs: {names}")
        return targets | chosen

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
            layer_cls = MaskLevelLayer if target_name == "mask_decoder" else TokenLevelLayer
            new_module = layer_cls(target, adapter_name, peft_config)
            self._replace_module(parent, target_name, new_module, target)
        if adapter_name not in self.active_adapters:
            new_module._adapters[adapter_name].requires_grad_(False)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # The base class looks for `.weight` on what it replaces, which a whole MLP or mask decoder lacks.
        setattr(parent, child_name, new_module)

    def _post_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        if not hasattr(model, "_scalpel_link"):
            model._scalpel_link = model.vision_encoder.register_forward_hook(encoder_hook, with_kwargs=True)

    def _unload_and_optionally_merge(self, merge: bool = True, *args: object, **kwargs: object) -> nn.Module:
        if merge:
            raise ValueError(
                "a mixture of experts is not linear and can't be merged into the base weights: keep the adapter, or "
                "call `unload()` to get the base model back"
            )
        for module in self.model.modules():
            if isinstance(module, MaskLevelLayer):
                module.upscaled_hook.remove()
        base = super()._unload_and_optionally_merge(*args, merge=False, **kwargs)
        base._scalpel_link.remove()
        del base._scalpel_link
        return base

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        # The experts nest several modules deep, so the adapter's name isn't the last part but one.
        return re.sub(rf"(\.{cls.prefix}(?:token|mask))\.{re.escape(adapter_name)}\.", r"\1.", key)
