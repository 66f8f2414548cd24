"""Configurations of the students."""

from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

SIZES: dict[str, dict[str, Any]] = {
    "nano": {"hidden_sizes": (8, 16, 24, 32)},
    "small": {"hidden_sizes": (16, 32, 40, 48)},
    "base": {"hidden_sizes": (24, 40, 64, 80)},
}


@strict
class ScalpelStudentConfig(PreTrainedConfig):
    """Configuration of [`ScalpelStudentForSemanticSegmentation`].

    Args:
        num_channels: of the frames; 1 for infrared.
        hidden_sizes: channels at strides 2, 4, 8, ...: one level each.
        depths: residual blocks of each level on the way down, besides the convolution that enters it.
        initial_probability: foreground probability that a fresh model gives on average.
    """

    model_type = "scalpel_student"

    num_channels: int = 1
    hidden_sizes: list[int] | tuple[int, ...] = SIZES["small"]["hidden_sizes"]
    depths: list[int] | tuple[int, ...] = (1, 1, 1, 1)
    initial_probability: float = 0.01
    id2label: dict[int, str] | dict[str, str] | None = field(default_factory=lambda: {0: "background", 1: "target"})
    label2id: dict[str, int] | dict[str, str] | None = field(default_factory=lambda: {"background": 0, "target": 1})

    def validate_levels(self) -> None:
        """Each level has channels and a depth."""
        if not self.hidden_sizes or len(self.hidden_sizes) != len(self.depths):
            raise ValueError(f"`hidden_sizes` {self.hidden_sizes} and `depths` {self.depths} need a value a level.")
        if min(self.hidden_sizes) < 1 or min(self.depths) < 0 or self.num_channels < 1:
            raise ValueError(f"`hidden_sizes` start at 1 and `depths` at 0, got {self.hidden_sizes} and {self.depths}.")

    def validate_initial_probability(self) -> None:
        """A probability that has a logit."""
        if not 0 < self.initial_probability < 1:
            raise ValueError(f"`initial_probability` lies between 0 and 1, got {self.initial_probability}.")

    @classmethod
    def from_size(cls, size: str, **kwargs: Any) -> "ScalpelStudentConfig":
        """Configuration by name: `"nano"`, `"small"` or `"base"`, about 0.05, 0.15 and 0.4 million parameters."""
        if size not in SIZES:
            raise ValueError(f"A student's size is one of {', '.join(SIZES)}, got {size!r}.")
        return cls(**SIZES[size], **kwargs)


@strict
class ScalpelStudentDetectionConfig(ScalpelStudentConfig):
    """Configuration of [`ScalpelStudentForObjectDetection`]: a student's, and how many boxes it answers with.

    Args:
        num_queries: boxes of each frame, best first; a frame of fewer pixels has one a pixel.
    """

    model_type = "scalpel_student_detection"

    num_queries: int = 100
    id2label: dict[int, str] | dict[str, str] | None = field(default_factory=lambda: {0: "target"})
    label2id: dict[str, int] | dict[str, str] | None = field(default_factory=lambda: {"target": 0})

    def validate_num_queries(self) -> None:
        """At least one box."""
        if self.num_queries < 1:
            raise ValueError(f"`num_queries` starts at 1, got {self.num_queries}.")


__all__ = ["ScalpelStudentConfig", "ScalpelStudentDetectionConfig"]
