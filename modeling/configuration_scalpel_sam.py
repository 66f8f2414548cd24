"""Configuration of the stand-alone teacher: a Segment Anything model and the experts inside it."""

import math
from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig, SamConfig

from .configuration_mobile_sam import MobileSamConfig

BASES: dict[str, type[SamConfig]] = {"sam": SamConfig, "mobile_sam": MobileSamConfig}
OPERATOR_SCALES: dict[str, list[float]] = {
    "local_contrast": [3, 5, 9, 15],
    "top_hat": [2, 4, 8, 12],
    "matched_filter": [1, 2, 4, 8],
    "anisotropic_diffusion": [2, 4, 8, 12],
}
LEVELS = ("pixel", "token", "mask")


@strict
class ScalpelSamConfig(PreTrainedConfig):
    """Configuration of [`ScalpelSamModel`].

    All but the base's own configuration means what it means in `ScalpelMoeConfig`, the adapter's.

    Args:
        base_config: a `SamConfig` or [`MobileSamConfig`], or its dict with a `model_type`.
        scales: for each operator its scales in frame pixels; an operator that is not named is left out.
        levels: some of `pixel`, `token` and `mask`.
        blocks: names within the vision encoder of the MLPs that have a token adapter, such as `"layers.11.mlp"`; or a
            number, for so many of the last ones.
        bottleneck: width of the token adapters.
        channels: width of the mask level at half resolution.
        full_resolution_channels: of its convolutions on the frame's own grid, which draw edges; 0 for none.
        top_k: how many experts keep their weight at a position.
        temperature: of the position routers' softmax.
        routers: off, every expert has the same weight everywhere.
        sam_features: off, nothing of SAM reaches the mask level, which then sees the frame alone.
        noise_floor: what the operators' responses are measured against where a frame is even, in its intensity's units.
        prior_bar: what the operators must see for a place to be more than background; 0 asks for nothing.
        prior_share: the same as a share of what they see at the frame's strongest place.
        mask_grid: `frame` gives masks on the grid of the frames, `base` on the base's own, a quarter of its input.
        initializer_range: standard deviation of freshly drawn weights.
    """

    model_type = "scalpel_sam"
    # A `Trainer` that evaluates keeps masks alone of all frames.
    keys_to_ignore_at_inference = ["image_embeddings", "iou_scores"]  # noqa: RUF012
    sub_configs_defaults = {"base_config": SamConfig}  # noqa: RUF012 - a class attribute by transformers' convention

    base_config: Any = None
    scales: dict[str, list[float | int]] = field(
        default_factory=lambda: {name: list(scales) for name, scales in OPERATOR_SCALES.items()}
    )
    levels: list[str] = field(default_factory=lambda: list(LEVELS))
    blocks: int | list[str] = 2
    bottleneck: int = 16
    channels: int = 24
    full_resolution_channels: int = 0
    top_k: int = 4
    temperature: float = 1.0
    routers: bool = True
    sam_features: bool = True
    noise_floor: float = 1 / 256
    prior_bar: float = 0.0
    prior_share: float = 0.0
    mask_grid: str = "frame"
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True  # SAM ties the frequencies of its position encodings
    id2label: dict[int, str] | dict[str, str] | None = field(default_factory=lambda: {0: "target"})
    label2id: dict[str, int] | dict[str, str] | None = field(default_factory=lambda: {"target": 0})

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.base_config, dict):
            model_type = self.base_config.get("model_type", "sam")
            if model_type not in BASES:
                raise ValueError(f"`base_config` is one of {', '.join(BASES)}, got {model_type!r}.")
            self.base_config = BASES[model_type](**self.base_config)
        # The operators' order is part of the weights' meaning, and JSON files are written with sorted keys.
        self.scales = {**{name: self.scales[name] for name in OPERATOR_SCALES if name in self.scales}, **self.scales}
        super().__post_init__(**kwargs)

    @property
    def vision_config(self) -> PreTrainedConfig:
        return self.base_config.vision_config

    @property
    def prompt_encoder_config(self) -> PreTrainedConfig:
        return self.base_config.prompt_encoder_config

    @property
    def mask_decoder_config(self) -> PreTrainedConfig:
        return self.base_config.mask_decoder_config

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels. With a MobileSAM base it can be set, as no weight depends on it."""
        return self.vision_config.image_size

    @image_size.setter
    def image_size(self, image_size: int) -> None:
        if isinstance(self.base_config, MobileSamConfig):
            self.base_config.image_size = image_size
        elif image_size != self.image_size:
            raise ValueError(
                f"The position embeddings of this SAM are made for {self.image_size} pixels, not {image_size}: load "
                "the base at that size with `scalpel_hf.load_sam`, put the adapter on it, and convert that."
            )

    @property
    def operator_scales(self) -> dict[str, list[float | int]]:
        """The scales of the pixel level; empty when that level is off."""
        return self.scales if "pixel" in self.levels else {}

    def validate_operators(self) -> None:
        """Known operators, each with positive scales."""
        if unknown := [name for name in self.scales if name not in OPERATOR_SCALES]:
            raise ValueError(f"`scales` names {', '.join(OPERATOR_SCALES)}, got {unknown}.")
        if any(not scales or min(scales) <= 0 for scales in self.scales.values()):
            raise ValueError(f"`scales` are lists of positive numbers of pixels, got {self.scales}.")

    def validate_levels(self) -> None:
        """Known levels; the pixel level is read by the mask level."""
        if not self.levels or not set(self.levels) <= set(LEVELS) or ("pixel" in self.levels) > ("mask" in self.levels):
            raise ValueError(f"`levels` are some of {LEVELS}, `pixel` only with `mask`, got {self.levels}.")
        if self.mask_grid not in ("frame", "base"):
            raise ValueError(f"`mask_grid` is 'frame' or 'base', got {self.mask_grid!r}.")
        if not 0 <= self.noise_floor < math.inf:
            raise ValueError(f"`noise_floor` is at least 0, got {self.noise_floor}.")
        if not 0 <= self.prior_bar < math.inf or not 0 <= self.prior_share <= 1:
            bars = f"{self.prior_bar} and {self.prior_share}"
            raise ValueError(f"`prior_bar` is at least 0 and `prior_share` between 0 and 1, got {bars}.")
        if (self.prior_bar or self.prior_share) and "pixel" not in self.levels:
            raise ValueError("`prior_bar` and `prior_share` are 0 without the pixel level.")


__all__ = ["ScalpelSamConfig"]
