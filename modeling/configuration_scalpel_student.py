"""Configurations of the students."""

from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# Multiples of 16 fill wide vector units.
SIZES: dict[str, dict[str, Any]] = {
    "nano": {"hidden_sizes": (8, 16, 24, 32), "depths": (1, 1, 1, 1)},
    "small": {"hidden_sizes": (16, 32, 48, 48), "depths": (0, 1, 1, 1)},
    "base": {"hidden_sizes": (16, 48, 64, 80), "depths": (0, 1, 1, 1), "full_resolution_channels": 8},
    "large": {"hidden_sizes": (32, 64, 96, 128), "depths": (3, 3, 1, 0), "full_resolution_channels": 16},
}


@strict
class ScalpelStudentConfig(PreTrainedConfig):
    """Configuration of [`ScalpelStudentForSemanticSegmentation`].

    Args:
        num_channels: channels of the frames; 1 for infrared.
        hidden_sizes: channels of the U-Net's levels, at strides 2, 4, 8, ...
        depths: number of residual blocks in each level of the encoder, after the level's first convolution.
        full_resolution_channels: channels of convolutions at full resolution, before and after the U-Net. They make
            edges sharper and cost time; 0 for none.
        initial_probability: mean foreground probability that a model predicts before training. It should be below the
            share of target pixels. Above it, training first lowers all logits, and may predict no target for a thousand
            steps (docs/log.md).
    """

    model_type = "scalpel_student"

    num_channels: int = 1
    hidden_sizes: list[int] | tuple[int, ...] = SIZES["small"]["hidden_sizes"]
    depths: list[int] | tuple[int, ...] = SIZES["small"]["depths"]
    full_resolution_channels: int = 0
    initial_probability: float = 1e-4
    id2label: dict[int, str] | dict[str, str] | None = field(default_factory=lambda: {0: "background", 1: "target"})
    label2id: dict[str, int] | dict[str, str] | None = field(default_factory=lambda: {"background": 0, "target": 1})

    def validate_levels(self) -> None:
        """Each level has at least one channel and a depth of at least 0."""
        if not self.hidden_sizes or len(self.hidden_sizes) != len(self.depths):
            raise ValueError(
                f"`hidden_sizes` {self.hidden_sizes} and `depths` {self.depths} need one value for each level."
            )
        if min(self.hidden_sizes) < 1 or min(self.depths) < 0 or self.num_channels < 1:
            raise ValueError(
                f"`hidden_sizes` and `num_channels` must be at least 1 and `depths` at least 0, got "
                f"{self.hidden_sizes}, {self.num_channels} and {self.depths}."
            )

    def validate_full_resolution(self) -> None:
        """With channels at full resolution, the first level's channels are divided among the 4 pixels of a cell."""
        if self.full_resolution_channels < 0:
            raise ValueError(f"`full_resolution_channels` must be at least 0, got {self.full_resolution_channels}.")
        if self.full_resolution_channels and self.hidden_sizes[0] % 4:
            raise ValueError(
                "With `full_resolution_channels` the first of `hidden_sizes` must be a multiple of 4, got "
                f"{self.hidden_sizes[0]}."
            )

    def validate_labels(self) -> None:
        """There are two classes: background and target."""
        if self.num_labels != 2:
            raise ValueError(f"A segmentation student has 2 classes, background and target, not {self.num_labels}.")

    def validate_initial_probability(self) -> None:
        """`initial_probability` has a finite logit."""
        if not 0 < self.initial_probability < 1:
            raise ValueError(f"`initial_probability` must be above 0 and below 1, got {self.initial_probability}.")

    @classmethod
    def from_size(cls, size: str, **kwargs: Any) -> "ScalpelStudentConfig":
        """
        The configuration of a named size: `"nano"`, `"small"`, `"base"` or `"large"`.

        They have about 0.06, 0.18, 0.39 and 0.80 million parameters. `kwargs` are further fields. Raises `ValueError`
        for another name.

        Examples:
            >>> ScalpelStudentConfig.from_size("nano").hidden_sizes
            (8, 16, 24, 32)
        """
        if size not in SIZES:
            raise ValueError(f"A student's size must be one of {', '.join(SIZES)}, got {size!r}.")
        return cls(**{**SIZES[size], **kwargs})


@strict
class ScalpelStudentDetectionConfig(ScalpelStudentConfig):
    """Configuration of [`ScalpelStudentForObjectDetection`]. Other fields are those of [`ScalpelStudentConfig`].

    Args:
        num_queries: number of boxes predicted for each frame, best first; at most one for each pixel.
        initial_probability: mean probability of a target's centre that a model predicts before training.
    """

    model_type = "scalpel_student_detection"

    num_queries: int = 100
    initial_probability: float = 0.01
    id2label: dict[int, str] | dict[str, str] | None = field(default_factory=lambda: {0: "target"})
    label2id: dict[str, int] | dict[str, str] | None = field(default_factory=lambda: {"target": 0})

    def validate_labels(self) -> None:
        """There is one class: target."""
        if self.num_labels != 1:
            raise ValueError(f"A detection student has 1 class, target, not {self.num_labels}.")

    def validate_num_queries(self) -> None:
        """`num_queries` is at least 1."""
        if self.num_queries < 1:
            raise ValueError(f"`num_queries` must be at least 1, got {self.num_queries}.")


__all__ = ["ScalpelStudentConfig", "ScalpelStudentDetectionConfig"]
