"""The stand-alone teacher: a Segment Anything model with the hierarchical mixture of experts inside it.

It has the same modules and weights as the adapter on its base model, and predicts the same. The adapter hooks into
`SamModel`; this model calls its experts itself. The encoder's last MLPs have token adapters beside them, and `forward`
passes the frames to the mask level, which follows the mask decoder. Only torch and transformers are needed, so the
model can be loaded from the Hub as custom code.
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
    """An encoder block's MLP with a token adapter beside it: `mlp(x) + adapter(x)`, for x of shape `(B, h, w, C)`."""

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

    `model.train()` puts every module into training mode. A frozen batch norm would then normalise by the batch's
    statistics, and would change its running statistics although its weights are frozen.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            module.train(any(parameter.requires_grad for parameter in module.parameters()))


class ExpertInitMixin:
    """Mixin for a `PreTrainedModel` with experts: weights that a checkpoint lacks are initialised, others are kept."""

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # In custom code, transformers skips modules without parameters of their own, such as `TokenAdapter`. That is to
        # protect loaded weights, which `_init_experts` keeps anyway: transformers guards the functions that it calls.
        super()._initialize_weights(module)  # type: ignore[misc]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[misc]
        if isinstance(module, TokenAdapter | MaskLevel):
            _init_experts(module)


def _init_experts(experts: TokenAdapter | MaskLevel) -> None:
    """Initialise the experts: zeros for output layers, routers' projections and operators, so that the masks are SAM's
    own, and torch's defaults for other layers."""
    last: list[nn.Module] = [experts.up if isinstance(experts, TokenAdapter) else experts.head]
    last += [module.proj for module in experts.modules() if isinstance(module, ImageRouter | PositionRouter)]
    for module in experts.modules():
        if module in last or isinstance(module, WhiteBoxOperator):
            for parameter in module.parameters():
                init.zeros_(parameter)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            module.reset_parameters()  # calls torch.nn.init, which transformers makes keep loaded weights
    if isinstance(experts, MaskLevel):
        init.ones_(experts.sam_logit_scale)
        for weights in experts.scale_weights if experts.pyramid is not None else ():
            init.constant_(weights, 1 / len(weights))


def _mark_initialized(experts: nn.Module) -> None:
    """Mark the experts' weights as initialised, so that transformers doesn't initialise them again. Weights on the meta
    device have no values yet and stay unmarked."""
    if not any(parameter.is_meta for parameter in experts.parameters()):
        for module in experts.modules():
            module._is_hf_initialized = True  # type: ignore[assignment]


class ScalpelSamVisionEncoder(ExpertInitMixin, SamVisionEncoder):
    """SAM's vision encoder with token adapters."""


class ScalpelMobileSamVisionEncoder(ExpertInitMixin, MobileSamVisionEncoder):
    """MobileSAM's vision encoder with token adapters."""


def build_encoder(config: ScalpelSamConfig) -> nn.Module:
    """
    Build the base model's vision encoder, with token adapters beside the MLPs that `config.blocks` chooses.

    Raises `ValueError` where `config.blocks` asks for MLPs that the encoder doesn't have.
    """
    encoders = {"sam": ScalpelSamVisionEncoder, "mobile_sam": ScalpelMobileSamVisionEncoder}
    encoder = encoders[config.base_config.model_type](config.vision_config)
    if "token" in config.levels:
        for name in _adapted_mlps(encoder, config.blocks):
            mlp = encoder.get_submodule(name)
            dim = next(m for m in mlp.modules() if isinstance(m, nn.Linear)).in_features
            adapter = TokenAdapter(dim, config)
            _mark_initialized(adapter)
            encoder.set_submodule(name, ScalpelSamMlp(mlp, adapter))
    return encoder


def _adapted_mlps(encoder: nn.Module, blocks: int | list[str]) -> list[str]:
    """Names of the encoder's MLPs that get an adapter: the last `blocks`, or those in the list `blocks`."""
    names = [name for name, _ in encoder.named_modules() if name.endswith(".mlp")]
    chosen = names[-blocks:] if isinstance(blocks, int) else blocks
    if (isinstance(blocks, int) and not 0 < blocks <= len(names)) or not set(chosen) <= set(names):
        raise ValueError(f"`blocks` must be a number from 1 to {len(names)}, or names out of {names}, got {blocks!r}.")
    return chosen


def build_mask_level(config: ScalpelSamConfig) -> MaskLevel | None:
    """Build the mask level, with operators if `config.levels` has "pixel"; `None` if it has no "mask"."""
    if "mask" not in config.levels:
        return None
    channels = config.mask_decoder_config.hidden_size
    level = MaskLevel(config, upscaled_dim=channels // 8, embedding_dim=channels)
    _mark_initialized(level)
    return level


@dataclass
class ScalpelSamOutput(ModelOutput):
    """
    Args:
        loss: scalar, if labels were given.
        pred_masks: mask logits `(B, P, M, H, W)`, M masks for each of P prompts (P = 1 without prompts). H and W are
            the frames' size, or the size of SAM's own masks if `config.mask_grid` is "base".
        iou_scores: `(B, P, M)`, the IoU that SAM predicts for its masks. It is unreliable without prompts.
        image_embeddings: `(B, C, h, w)`, the encoder's output. Pass it to `forward` for more prompts on these images.
        router_weights: `(B, E, H, W)`, each expert's weight at each position. This field and those below are given
            with `output_router=True` and without prompts.
        image_weights: `(B, E)`, each expert's weight for the whole image.
        prior_maps: `(B, N, H, W)`, one map for each operator and scale.
        prior: `(B, 1, H, W)`, the sum of the prior maps, weighted by the routers and by scale.
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
    """Loading, saving and weight initialisation of stand-alone teachers."""

    config: ScalpelSamConfig
    base_model_prefix = "scalpel_sam"
    _no_split_modules = ["SamVisionLayer", "MobileSamConvBlock", "MobileSamBlock"]  # noqa: RUF012
    # The experts measure contrasts of a few thousandths, and positions to a fraction of a pixel.
    _keep_in_fp32_modules_strict = ["mask_level", "adapter"]  # noqa: RUF012


class ScalpelSamModel(ScalpelSamPreTrainedModel, SamModel):
    """
    A Segment Anything model that segments every target in a frame without prompts.

    With points, boxes or a mask as prompts it gives SAM's own masks. Only the experts' weights are trainable.

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
        self._freeze_all_but_experts()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers. SAM's own weights are frozen; call `requires_grad_()` on the parts to train as well."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded)._freeze_all_but_experts()
        return loaded

    def _freeze_all_but_experts(self) -> None:
        """Freeze SAM's own weights, as PEFT freezes a base model."""
        self.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, TokenAdapter | MaskLevel):
                module.requires_grad_(True)

    @classmethod
    def from_peft(cls, peft_model: Any) -> "ScalpelSamModel":
        """
        Convert a `PeftModel` with an active `SCALPEL_MOE` adapter into a stand-alone model, in evaluation mode.

        The weights are copied. Modules that PEFT trained beside the adapter (`modules_to_save`) keep their trained
        weights.

        Raises `ValueError` if the base is neither a `SamModel` nor a `MobileSamModel`, or if the weights aren't those
        of one `SCALPEL_MOE` adapter.
        """
        name, base = peft_model.active_adapter, peft_model.get_base_model()
        if not isinstance(base, SamModel):
            raise ValueError(
                "A stand-alone model can be made of an adapter on SamModel or MobileSamModel, not on "
                f"{type(base).__name__}: use the adapter with its base."
            )
        adapter, base_config = peft_model.peft_config[name], copy.deepcopy(base.config)
        base_config._name_or_path = ""  # may be a local path, which means nothing on another machine
        mlps = base.vision_encoder.named_modules()
        blocks = [n for n, module in mlps if name in getattr(module, "scalpel_moe_token", {})]
        settings: dict[str, Any] = {setting.name: getattr(adapter, setting.name) for setting in fields(ExpertsConfig)}
        settings |= {"base_config": base_config, "blocks": blocks, "mask_grid": adapter.mask_grid}
        settings["attn_implementation"] = base_config._attn_implementation
        config = ScalpelSamConfig(**settings)
        weights = {}
        for key, value in sorted(base.state_dict().items(), key=lambda item: ".original_module." not in item[0]):
            if (own_key := _standalone_key(key, name, blocks)) is not None:
                # Originals are sorted first, so that trained copies (`modules_to_save`) replace them. Contiguous,
                # because transformers initialises weights again that are in another memory format.
                weights[own_key] = value.clone(memory_format=torch.contiguous_format)
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
        Predict masks of every target in the frames, or with prompts SAM's own masks of the prompted objects.

        Args:
            pixel_values: `(B, 3, S, S)`, SAM's input image.
            input_points: `(B, P, N, 2)`, N points for each of P prompts, as (x, y) in pixels of `pixel_values`.
            input_labels: `(B, P, N)`, each point's label: 1 on the object, 0 off it, −10 for padding. Default: all 1.
            input_boxes: `(B, P, 4)`, boxes (x0, y0, x1, y1) in pixels of `pixel_values`.
            input_masks: `(B, 1, S / 4, S / 4)`, mask logits as a prompt.
            image_embeddings: `(B, C, h, w)`, an earlier call's, instead of `pixel_values`. `frames` and `frame_boxes`
                are then required.
            frames: `(B, 1, H, W)`, the normalised frames. Default: a frame made of `pixel_values`.
            frame_boxes: `(B, 4)`, the region (x0, y0, x1, y1) of `pixel_values` that each frame covers, in pixels.
            labels: `(B, H, W)`, or `(B, P, H, W)` with prompts: the target's share of each pixel, 0 to 1, or 255 where
                a pixel is ignored.
            multimask_output: whether to predict three masks for each prompt, instead of one.
            output_router: whether to return the routers' weights and the prior maps.
            original_sizes: ignored; accepted so that the processor's output can be passed as `model(**inputs)`.
            reshaped_input_sizes: ignored, likewise.

        Raises:
            ValueError: unless exactly one of `pixel_values` and `image_embeddings` is given; if only one of `frames`
                and `frame_boxes` is given; or if the frames are needed and can't be made of `pixel_values`.
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
                prompted=sparse is not None or input_masks is not None,
                base_grid=self.config.mask_grid == "base",
            )
        seen.pop("logits", None)
        return ScalpelSamOutput(
            loss=None if labels is None else loss_of_labels(masks, labels=labels, region=region, seen=seen),
            pred_masks=masks,
            iou_scores=iou_scores,
            image_embeddings=image_embeddings,
            **(seen if output_router else {}),
        )

    def _region(self, pixel_values: Tensor | None, frames: Tensor | None, frame_boxes: Tensor | None) -> FrameRegion:
        """The frames and the regions of the input that they cover; without frames, `pixel_values` are the frames."""
        if frames is not None and frame_boxes is not None:
            return FrameRegion(frames, frame_boxes, self.config.image_size)
        if pixel_values is not None:
            return FrameRegion.whole(pixel_values)
        raise ValueError("With `image_embeddings`, pass also the `frames` and `frame_boxes` that belong to them.")


def _standalone_key(key: str, adapter: str, blocks: list[str]) -> str | None:
    """Convert a key of a PEFT model's state dict to this model's; `None` if it belongs to another adapter."""
    if re.search(rf"\.(scalpel_moe_\w+|modules_to_save)\.(?!{re.escape(adapter)}\.)", key):
        return None
    key = re.sub(r"\.(original_module|modules_to_save\.[^.]+)\.", ".", key)
    key = re.sub(r"^mask_decoder\.scalpel_moe_mask\.[^.]+\.", "mask_level.", key)
    key = re.sub(r"\.scalpel_moe_token\.[^.]+\.", ".adapter.", key)
    for name in blocks:
        key = key.replace(f"vision_encoder.{name}.base_layer.", f"vision_encoder.{name}.mlp.")
    return key.replace(".base_layer.", ".")


__all__ = ["ScalpelSamModel", "ScalpelSamOutput", "ScalpelSamPreTrainedModel"]
