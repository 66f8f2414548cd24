"""The stand-alone teacher: a Segment Anything model with the hierarchical mixture of experts inside it.

The modules, the weights and the predictions are those of the adapter on its base. Where the adapter hooks into
`SamModel`, the data flows in the open here: the encoder's last MLPs have their token adapters beside them, and
`forward` takes the frames to the mask level behind the mask decoder. Nothing but torch and transformers is needed, so
the model travels as custom code.
"""

import copy
import re
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from transformers import SamModel
from transformers import initialization as init
from transformers.models.sam.modeling_sam import (
    SamMaskDecoder,
    SamPositionalEmbedding,
    SamPreTrainedModel,
    SamPromptEncoder,
    SamVisionEncoder,
)
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_experts import ExpertsConfig
from .configuration_scalpel_sam import ScalpelSamConfig
from .custom_code import CustomCodeMixin
from .mask_decoder import decode_masks, give_upscaled_out
from .mask_level import FrameRegion, MaskLevel
from .modeling_mobile_sam import MobileSamVisionEncoder
from .moe import ImageRouter, PositionRouter, TokenAdapter
from .operators import WhiteBoxOperator
from .teacher_loss import loss_of_labels
from .whole_weights import CheckedWeightsMixin


class ScalpelSamMlp(nn.Module):
    """An encoder block's MLP with a token adapter beside it: `mlp(h) + adapter(h)`, `(B, h, w, C)` → the same."""

    def __init__(self, mlp: nn.Module, adapter: TokenAdapter):
        super().__init__()
        self.mlp = mlp
        self.adapter = adapter

    def forward(self, hidden_states: Tensor) -> Tensor:
        result = self.mlp(hidden_states)
        return result + self.adapter(hidden_states.to(self.adapter.up.weight.dtype)).to(result.dtype)


def keep_frozen_statistics(model: nn.Module) -> None:
    """
    Put batch norms whose weights are frozen into evaluation mode.

    `train()` puts them into training mode with everything else. A frozen encoder would then normalise by the batch, and
    its running statistics would drift away from those that it is saved with.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            module.train(any(parameter.requires_grad for parameter in module.parameters()))


class ExpertInitMixin:
    """Mixin of `PreTrainedModel`s with experts inside: what a checkpoint has is kept, what it lacks is drawn."""

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # For code that isn't its own, transformers leaves out modules without parameters directly in them, which is
        # most of the experts. What it guards against, loaded weights drawn anew, doesn't happen here.
        super()._initialize_weights(module)  # type: ignore[misc]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[misc]
        if isinstance(module, TokenAdapter | MaskLevel):
            _draw(module)


def _draw(experts: TokenAdapter | MaskLevel) -> None:
    last: list[nn.Module] = [experts.up if isinstance(experts, TokenAdapter) else experts.head]
    last += [module.proj for module in experts.modules() if isinstance(module, ImageRouter | PositionRouter)]
    for module in experts.modules():
        if module in last or isinstance(module, WhiteBoxOperator):
            for parameter in module.parameters():
                init.zeros_(parameter)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            module.reset_parameters()  # transformers guards the functions of torch.nn.init, too
    if isinstance(experts, MaskLevel):
        init.ones_(experts.sam_logit_scale)
        for weights in experts.scale_weights if experts.pyramid is not None else ():
            init.constant_(weights, 1 / len(weights))


def _as_constructed(experts: nn.Module) -> None:
    """Mark experts as initialised, so that no model draws their weights again. On the meta device they have no weights
    yet and stay unmarked."""
    if not any(parameter.is_meta for parameter in experts.parameters()):
        for module in experts.modules():
            module._is_hf_initialized = True  # type: ignore[assignment]


class ScalpelSamVisionEncoder(ExpertInitMixin, SamVisionEncoder):
    """SAM's vision encoder with token adapters."""


class ScalpelMobileSamVisionEncoder(ExpertInitMixin, MobileSamVisionEncoder):
    """MobileSAM's with token adapters."""


def build_encoder(config: ScalpelSamConfig) -> nn.Module:
    """The base's vision encoder with token adapters beside the MLPs that the configuration names."""
    encoders = {"sam": ScalpelSamVisionEncoder, "mobile_sam": ScalpelMobileSamVisionEncoder}
    encoder = encoders[config.base_config.model_type](config.vision_config)
    if "token" in config.levels:
        for name in _adapted_mlps(encoder, config.blocks):
            mlp = encoder.get_submodule(name)
            dim = next(m for m in mlp.modules() if isinstance(m, nn.Linear)).in_features
            adapter = TokenAdapter(dim, config)
            _as_constructed(adapter)
            encoder.set_submodule(name, ScalpelSamMlp(mlp, adapter))
    return encoder


def _adapted_mlps(encoder: nn.Module, blocks: int | list[str]) -> list[str]:
    names = [name for name, _ in encoder.named_modules() if name.endswith(".mlp")]
    chosen = names[-blocks:] if isinstance(blocks, int) else blocks
    if (isinstance(blocks, int) and not 0 < blocks <= len(names)) or not set(chosen) <= set(names):
        raise ValueError(f"`blocks` are a number or names of the encoder's MLPs, {names}, got {blocks!r}.")
    return chosen


def build_mask_level(config: ScalpelSamConfig) -> MaskLevel | None:
    """The mask level, with the operators where the pixel level is on."""
    if "mask" not in config.levels:
        return None
    channels = config.mask_decoder_config.hidden_size
    level = MaskLevel(config, upscaled_dim=channels // 8, embedding_dim=channels)
    _as_constructed(level)
    return level


@dataclass
class ScalpelSamOutput(ModelOutput):
    """
    Args:
        loss: scalar, where labels were given.
        pred_masks: logits `(B, P, M, H, W)` of P prompts' M masks, on the frames' grid unless the config has another.
        iou_scores: `(B, P, M)`, what SAM believes its masks' IoU to be; without prompts it says little.
        image_embeddings: `(B, C, h, w)`, for further prompts on the same images.
        router_weights: `(B, E, H, W)`, the experts' weights at each position, on request and without prompts.
        image_weights: `(B, E)`, their weights for the whole scene, likewise.
        prior_maps: `(B, N, H, W)`, one map an operator and scale, likewise.
        prior: `(B, 1, H, W)`, their routed mixture, likewise.
    """

    loss: Tensor | None = None
    pred_masks: Tensor | None = None
    iou_scores: Tensor | None = None
    image_embeddings: Tensor | None = None
    router_weights: Tensor | None = None
    image_weights: Tensor | None = None
    prior_maps: Tensor | None = None
    prior: Tensor | None = None


class ScalpelSamPreTrainedModel(CheckedWeightsMixin, CustomCodeMixin, ExpertInitMixin, SamPreTrainedModel):
    config: ScalpelSamConfig
    base_model_prefix = "scalpel_sam"
    _no_split_modules = ["SamVisionLayer", "MobileSamConvBlock", "MobileSamBlock"]  # noqa: RUF012
    # The experts measure contrasts of a few thousandths, and positions to a fraction of a pixel.
    _keep_in_fp32_modules_strict = ["mask_level", "adapter"]  # noqa: RUF012


class ScalpelSamModel(ScalpelSamPreTrainedModel, SamModel):
    """
    A Segment Anything model that finds every target in a frame without a prompt, and is still SAM with one.

    Examples:
        >>> processor = ScalpelSamProcessor.from_pretrained("org/scalpel-sam")  # doctest: +SKIP
        >>> model = ScalpelSamModel.from_pretrained("org/scalpel-sam")  # doctest: +SKIP
        >>> inputs = processor("frame.png", return_tensors="pt")  # doctest: +SKIP
        >>> outputs = model(**inputs)  # doctest: +SKIP
        >>> masks = processor.post_process_semantic_segmentation(outputs, inputs["original_sizes"])  # doctest: +SKIP
    """

    def __init__(self, config: ScalpelSamConfig):
        # SamModel's own constructor would build its encoder.
        super(SamModel, self).__init__(config)
        self.shared_image_embedding = SamPositionalEmbedding(config.vision_config)
        self.vision_encoder = build_encoder(config)
        self.prompt_encoder = SamPromptEncoder(config.base_config)
        # As in SamModel: the mask decoder reads its attention implementation from its own config.
        config.mask_decoder_config._attn_implementation = config._attn_implementation
        self.mask_decoder = SamMaskDecoder(config.mask_decoder_config)
        self.mask_level = build_mask_level(config)
        if self.mask_level is not None:
            give_upscaled_out(self.mask_decoder)
        self.post_init()
        self._train_experts_alone()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As of every model; SAM's own weights come frozen. Call `requires_grad_` on parts of it to train them, too."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded)._train_experts_alone()
        return loaded

    def _train_experts_alone(self) -> None:
        """Freeze SAM's own weights, as an adapter does: a mask loss gives all other weights a gradient."""
        self.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, TokenAdapter | MaskLevel):
                module.requires_grad_(True)

    @classmethod
    def from_peft(cls, peft_model: Any) -> "ScalpelSamModel":
        """
        The stand-alone model of a `PeftModel` with an active `SCALPEL_MOE` adapter, in evaluation mode.

        Weights are copied; modules that were trained besides (`modules_to_save`) come as trained.

        Raises `ValueError` on a base that is neither a `SamModel` nor a `MobileSamModel`.
        """
        name, base = peft_model.active_adapter, peft_model.get_base_model()
        if not isinstance(base, SamModel):
            raise ValueError(
                "A stand-alone model is made of an adapter on SamModel or MobileSamModel, not on "
                f"{type(base).__name__}: keep adapter and base."
            )
        adapter, base_config = peft_model.peft_config[name], copy.deepcopy(base.config)
        base_config._name_or_path = ""  # where it was loaded from here means nothing elsewhere
        mlps = base.vision_encoder.named_modules()
        blocks = [n for n, module in mlps if name in getattr(module, "scalpel_moe_token", {})]
        settings: dict[str, Any] = {setting.name: getattr(adapter, setting.name) for setting in fields(ExpertsConfig)}
        settings |= {"base_config": base_config, "blocks": blocks, "mask_grid": adapter.mask_grid}
        settings["attn_implementation"] = base_config._attn_implementation
        config = ScalpelSamConfig(**settings)
        weights = {}
        for key, value in sorted(base.state_dict().items(), key=lambda item: ".original_module." not in item[0]):
            if (key_here := _name_here(key, name, blocks)) is not None:
                # What was trained besides comes after its original. Contiguous, because transformers draws anew what it
                # is given in another memory layout.
                weights[key_here] = value.clone(memory_format=torch.contiguous_format)
        model, info = cls.from_pretrained(
            None, config=config, state_dict=weights, dtype=base.dtype, output_loading_info=True
        )
        if any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
            raise ValueError(f"the PEFT model's weights are not those of one SCALPEL_MOE adapter: {info}")
        return model

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        input_masks: Tensor | None = None,
        image_embeddings: Tensor | None = None,
        frames: Tensor | None = None,
        frame_boxes: Tensor | None = None,
        labels: Tensor | None = None,
        multimask_output: bool = False,
        output_router: bool = False,
        original_sizes: Tensor | None = None,
        reshaped_input_sizes: Tensor | None = None,
    ) -> ScalpelSamOutput:
        """
        Masks of every target, or with points or boxes SAM's own of what they are at.

        Args:
            pixel_values: `(B, 3, S, S)`, SAM's input.
            input_points: `(B, P, N, 2)`, N points of each of P prompts, x and y in pixels of that input.
            input_labels: `(B, P, N)`: 1 on the target, 0 off it, −10 for padding; all 1 when left out.
            input_boxes: `(B, P, 4)`, x0, y0, x1, y1 likewise.
            input_masks: `(B, 1, S / 4, S / 4)`, mask logits as a prompt.
            image_embeddings: `(B, C, h, w)` of an earlier call in place of `pixel_values`; `frames` and `frame_boxes`
                are then needed too.
            frames: `(B, 1, H, W)`, the normalised frames; the input itself when left out.
            frame_boxes: `(B, 4)`, the region x0, y0, x1, y1 of the input that each frame covers.
            labels: `(B, H, W)`, or `(B, P, H, W)` with prompts: 0 to 1, 255 where a pixel is ignored.
            multimask_output: three masks a prompt rather than one.
            output_router: give the routers' weights and the prior maps out.
            original_sizes, reshaped_input_sizes: of the processor, taken so that `model(**inputs)` works.

        Raises:
            ValueError: for inputs that are missing, or don't go together.
        """
        if (pixel_values is None) == (image_embeddings is None):
            raise ValueError("Pass either `pixel_values` or `image_embeddings`.")
        if (frames is None) != (frame_boxes is None):
            raise ValueError("Pass `frames` and `frame_boxes` together, or neither.")
        if input_points is not None and input_labels is None:
            input_labels = torch.ones(input_points.shape[:3], dtype=torch.int, device=input_points.device)

        if self.training:
            keep_frozen_statistics(self)
        if image_embeddings is None:
            image_embeddings = self.vision_encoder(pixel_values).last_hidden_state
        sparse, dense = self.prompt_encoder(
            input_points=input_points, input_labels=input_labels, input_boxes=input_boxes, input_masks=input_masks
        )
        positions = self.get_image_wide_positional_embeddings().repeat(image_embeddings.shape[0], 1, 1, 1)
        asked = (image_embeddings, positions, sparse, dense, multimask_output)
        seen: dict[str, Tensor] = {}
        region = None
        if self.mask_level is not None or labels is not None:
            region = self._region(pixel_values, frames, frame_boxes)
        if self.mask_level is None or region is None:
            masks, iou_scores = self.mask_decoder(*asked)
        else:
            (masks, iou_scores), seen = decode_masks(
                self.mask_decoder,
                self.mask_level,
                region,
                *asked,
                prompted=sparse is not None,
                base_grid=self.config.mask_grid == "base",
            )
        seen.pop("logits", None)
        return ScalpelSamOutput(
            loss=None if labels is None else loss_of_labels(masks, labels, region, seen),
            pred_masks=masks,
            iou_scores=iou_scores,
            image_embeddings=image_embeddings,
            **(seen if output_router else {}),
        )

    def _region(self, pixel_values: Tensor | None, frames: Tensor | None, frame_boxes: Tensor | None) -> FrameRegion:
        if frames is not None and frame_boxes is not None:
            return FrameRegion(frames, frame_boxes, self.config.image_size)
        if pixel_values is not None:
            return FrameRegion.whole(pixel_values)
        raise ValueError("With `image_embeddings`, pass the `frames` and `frame_boxes` that they were made of.")


def _name_here(key: str, adapter: str, blocks: list[str]) -> str | None:
    """A PEFT model's name of a tensor to the one here; `None` for those of other adapters."""
    if re.search(rf"\.(scalpel_moe_\w+|modules_to_save)\.(?!{re.escape(adapter)}\.)", key):
        return None
    key = re.sub(r"\.(original_module|modules_to_save\.[^.]+)\.", ".", key)
    key = re.sub(r"^mask_decoder\.scalpel_moe_mask\.[^.]+\.", "mask_level.", key)
    key = re.sub(r"\.scalpel_moe_token\.[^.]+\.", ".adapter.", key)
    for name in blocks:
        key = key.replace(f"vision_encoder.{name}.base_layer.", f"vision_encoder.{name}.mlp.")
    return key.replace(".base_layer.", ".")


__all__ = ["ScalpelSamModel", "ScalpelSamOutput", "ScalpelSamPreTrainedModel"]
