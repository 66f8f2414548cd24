"""Configuration of the stand-alone teacher: a Segment Anything model with the experts inside it."""

from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig, SamConfig

from .configuration_experts import MASK_GRIDS, ExpertsConfig
from .configuration_mobile_sam import MobileSamConfig

BASES: dict[str, type[SamConfig]] = {"sam": SamConfig, "mobile_sam": MobileSamConfig}


@strict
class ScalpelSamConfig(PreTrainedConfig, ExpertsConfig):
    """Configuration of [`ScalpelSamModel`]. The experts' fields are those of [`ExpertsConfig`].

    Args:
        base_config: a `SamConfig` or [`MobileSamConfig`], or its dict with a `model_type`.
        blocks: the vision encoder's MLPs that have a token adapter: a list of names such as `"layers.11.mlp"`, or a
            number n for the last n MLPs.
        mask_grid: resolution of the masks: `"frame"` for the frames' own, `"base"` for a quarter of the base's input.
        initializer_range: standard deviation of SAM's initial weights.
    """

    model_type = "scalpel_sam"
    # A `Trainer` collects all other outputs during evaluation; only the masks are needed.
    keys_to_ignore_at_inference = ["image_embeddings", "iou_scores"]  # noqa: RUF012
    sub_configs_defaults = {"base_config": SamConfig}  # noqa: RUF012 - a class attribute by transformers' convention

    base_config: Any = None
    blocks: int | list[str] = 2
    mask_grid: str = "frame"
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True  # SAM ties the frequencies of its position encodings
    id2label: dict[int, str] | dict[str, str] | None = field(default_factory=lambda: {0: "target"})
    label2id: dict[str, int] | dict[str, str] | None = field(default_factory=lambda: {"target": 0})

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.base_config, dict):
            model_type = self.base_config.get("model_type", "sam")
            if model_type not in BASES:
                raise ValueError(
                    f"The `model_type` of `base_config` must be one of {', '.join(BASES)}, got {model_type!r}."
                )
            self.base_config = BASES[model_type](**self.base_config)
        self.complete()
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
        """Side of the square input in pixels. It can be changed with a MobileSAM base, as no weight depends on it."""
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

    def validate_mask_grid(self) -> None:
        """`mask_grid` is `"frame"` or `"base"`."""
        if self.mask_grid not in MASK_GRIDS:
            raise ValueError(f"`mask_grid` must be 'frame' or 'base', got {self.mask_grid!r}.")


__all__ = ["ScalpelSamConfig"]
