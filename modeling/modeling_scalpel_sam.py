"""The stand-alone teacher: a Segment Anything model with the hierarchical mixture of experts inside it.

The modules, the weights and the answers are those of the adapter on its base. Where the adapter hooks into `SamModel`,
the data flows in the open here: the encoder's last MLPs have their token adapters beside them, the mask decoder gives
its up-scaled embedding out, and `forward` takes that and the frames to the mask level. Nothing but torch and
transformers is needed, so the model travels as custom code.
"""

import copy
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import SamModel
from transformers.models.sam.modeling_sam import SamPositionalEmbedding, SamPreTrainedModel, SamPromptEncoder
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_scalpel_sam import ScalpelSamConfig
from .custom_code import TakesCodeAlong
from .frame_region import FrameRegion
from .losses import soft_iou_loss, weighted_bce
from .mask_level import answer_without_prompts
from .scalpel_sam_parts import DrawsExperts, ScalpelSamMaskDecoder, build_encoder, build_mask_level
from .whole_weights import LoadsWholeWeights

IGNORE_INDEX = 255
BCE_WEIGHT = 10.0  # as in the training of teachers and students
# Copied from the adapter's configuration.
ADAPTER_SETTINGS = (
    "scales",
    "levels",
    "bottleneck",
    "channels",
    "full_resolution_channels",
    "top_k",
    "temperature",
    "routers",
    "sam_features",
    "noise_floor",
    "prior_bar",
    "prior_share",
)


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


class ScalpelSamPreTrainedModel(LoadsWholeWeights, TakesCodeAlong, DrawsExperts, SamPreTrainedModel):
    config: ScalpelSamConfig
    base_model_prefix = "scalpel_sam"
    _no_split_modules = ["SamVisionLayer", "MobileSamConvBlock", "MobileSamBlock"]  # noqa: RUF012
    # The experts measure contrasts of a few thousandths, and positions to a fraction of a pixel.
    _keep_in_fp32_modules_strict = ["mask_level", "adapter"]  # noqa: RUF012


class ScalpelSamModel(ScalpelSamPreTrainedModel, SamModel):
    """
    A Segment Anything model that finds every target in a frame without a prompt, and is still SAM with one.

    Example:
        >>> processor = ScalpelSamProcessor.from_pretrained("org/scalpel-sam")
        >>> model = ScalpelSamModel.from_pretrained("org/scalpel-sam")
        >>> inputs = processor("frame.png", return_tensors="pt")
        >>> masks = processor.post_process_semantic_segmentation(model(**inputs), inputs["original_sizes"])
    """

    def __init__(self, config: ScalpelSamConfig):
        # SamModel's own constructor would build its encoder.
        super(SamModel, self).__init__(config)
        self.shared_image_embedding = SamPositionalEmbedding(config.vision_config)
        self.vision_encoder = build_encoder(config)
        self.prompt_encoder = SamPromptEncoder(config.base_config)
        # As in SamModel: the mask decoder reads its attention implementation from its own config.
        config.mask_decoder_config._attn_implementation = config._attn_implementation
        self.mask_decoder = ScalpelSamMaskDecoder(config.mask_decoder_config)
        self.mask_level = build_mask_level(config)
        self.post_init()

    @classmethod
    def from_peft(cls, peft_model: Any) -> "ScalpelSamModel":
        """
        The stand-alone model of a `PeftModel` with an active `SCALPEL_MOE` adapter, in evaluation mode.

        Weights are copied; modules that were trained besides (`modules_to_save`) come as trained.
        """
        name, base = peft_model.active_adapter, peft_model.get_base_model()
        adapter, base_config = peft_model.peft_config[name], copy.deepcopy(base.config)
        base_config._name_or_path = ""  # where it was loaded from here means nothing elsewhere
        mlps = base.vision_encoder.named_modules()
        blocks = [n for n, module in mlps if name in getattr(module, "scalpel_moe_token", {})]
        config = ScalpelSamConfig(
            base_config=base_config,
            blocks=blocks,
            attn_implementation=base_config._attn_implementation,
            mask_grid=adapter.mask_grid,
            **{key: getattr(adapter, key) for key in ADAPTER_SETTINGS},
        )
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

        if image_embeddings is None:
            image_embeddings = self.vision_encoder(pixel_values).last_hidden_state
        sparse, dense = self.prompt_encoder(
            input_points=input_points, input_labels=input_labels, input_boxes=input_boxes, input_masks=input_masks
        )
        masks, iou_scores, upscaled = self.mask_decoder(
            image_embeddings, self.get_image_wide_positional_embeddings(), sparse, dense, multimask_output
        )
        seen: dict[str, Tensor] = {}
        if self.mask_level is not None:
            region = self._region(pixel_values, frames, frame_boxes, masks.shape[-2:])
            if sparse is None:
                seen = answer_without_prompts(self.mask_level, region, masks, upscaled, image_embeddings)
                masks = seen.pop("logits").unflatten(1, masks.shape[1:3]).to(masks.dtype)
            else:  # SAM's own answer, on the frames' grid
                masks = region.sample(masks)
        return ScalpelSamOutput(
            loss=None if labels is None else self._loss(masks, labels),
            pred_masks=masks,
            iou_scores=iou_scores,
            image_embeddings=image_embeddings,
            **(seen if output_router else {}),
        )

    def _region(
        self, pixel_values: Tensor | None, frames: Tensor | None, frame_boxes: Tensor | None, grid: torch.Size
    ) -> FrameRegion:
        if frames is not None and frame_boxes is not None:
            region = FrameRegion(frames, frame_boxes, self.config.image_size)
        elif pixel_values is not None:
            region = FrameRegion.whole(pixel_values)
        else:
            raise ValueError("With `image_embeddings`, pass the `frames` and `frame_boxes` that they were made of.")
        return region.on_base_grid(grid) if self.config.mask_grid == "base" else region

    def _loss(self, masks: Tensor, labels: Tensor) -> Tensor:
        labels = labels[:, None] if labels.ndim == 3 else labels  # (B, P, H, W)
        if labels[:, :, None].shape != masks.shape:
            raise ValueError(f"`labels` {tuple(labels.shape)} go with one mask a prompt, got {tuple(masks.shape)}.")
        valid = (labels != IGNORE_INDEX).float()
        target = torch.where(valid > 0, labels, 0).float()
        return BCE_WEIGHT * weighted_bce(masks[:, :, 0], target, valid) + soft_iou_loss(masks[:, :, 0], target, valid)


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
