"""Configurations of the students."""

from copy import deepcopy
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
FRONT_ENDS = ("none", "frozen", "learned")
OPERATORS = ("local_contrast", "top_hat", "matched_filter", "anisotropic_diffusion")
# The maps that see most by themselves, docs/explanation/operators.md.
SCALES = {"local_contrast": [5.0], "top_hat": [2.0, 4.0], "matched_filter": [1.0, 2.0], "anisotropic_diffusion": [4.0]}


@strict
class ScalpelStudentConfig(PreTrainedConfig):
    """Configuration of [`ScalpelStudentForSemanticSegmentation`].

    Args:
        num_channels: of the frames; 1 for infrared.
        hidden_sizes: channels at strides 2, 4, 8, ...: one level each.
        depths: residual blocks of each level on the way down, besides the convolution that enters it.
        full_resolution_channels: of convolutions at the frame's own resolution, before and after the levels, which see
            edges better and cost time; 0 for none.
        initial_probability: foreground probability that a fresh model gives on average. It should lie below the share
            of target pixels: above, training first silences what would find targets, and may stay at an empty answer
            for a thousand steps (docs/log.md).
        front_end: whether the four white-box operators' maps of a frame join it as input, and if so whether their
            parameters are trained: `"none"`, `"frozen"` or `"learned"`.
        front_end_scales: for each of the front end's operators its scales in pixels.
    """

    model_type = "scalpel_student"

    num_channels: int = 1
    hidden_sizes: list[int] | tuple[int, ...] = SIZES["small"]["hidden_sizes"]
    depths: list[int] | tuple[int, ...] = SIZES["small"]["depths"]
    full_resolution_channels: int = 0
    initial_probability: float = 1e-4
    front_end: str = "none"
    front_end_scales: dict[str, list[float | int]] = field(default_factory=lambda: deepcopy(SCALES))
    id2label: dict[int, str] | dict[str, str] | None = field(default_factory=lambda: {0: "background", 1: "target"})
    label2id: dict[str, int] | dict[str, str] | None = field(default_factory=lambda: {"background": 0, "target": 1})

    def validate_levels(self) -> None:
        """Each level has channels and a depth."""
        if not self.hidden_sizes or len(self.hidden_sizes) != len(self.depths):
            raise ValueError(f"`hidden_sizes` {self.hidden_sizes} and `depths` {self.depths} need a value a level.")
        if min(self.hidden_sizes) < 1 or min(self.depths) < 0 or self.num_channels < 1:
            raise ValueError(f"`hidden_sizes` start at 1 and `depths` at 0, got {self.hidden_sizes} and {self.depths}.")

    def validate_full_resolution(self) -> None:
        """Channels at full resolution beside levels whose finest gives each pixel of a cell as many."""
        if self.full_resolution_channels < 0:
            raise ValueError(f"`full_resolution_channels` start at 0, got {self.full_resolution_channels}.")
        if self.full_resolution_channels and self.hidden_sizes[0] % 4:
            raise ValueError(
                "With `full_resolution_channels` the first of `hidden_sizes` is a multiple of 4, got "
                f"{self.hidden_sizes[0]}."
            )

    def validate_labels(self) -> None:
        """The classes of the head: background and target."""
        if self.num_labels != 2:
            raise ValueError(f"A segmentation student tells 2 classes, background and target, not {self.num_labels}.")

    def validate_initial_probability(self) -> None:
        """A probability that has a logit."""
        if not 0 < self.initial_probability < 1:
            raise ValueError(f"`initial_probability` lies between 0 and 1, got {self.initial_probability}.")

    def validate_front_end(self) -> None:
        """A known kind, of one channel, with scales of known operators."""
        if self.front_end not in FRONT_ENDS:
            raise ValueError(f"`front_end` is one of {', '.join(FRONT_ENDS)}, got {self.front_end!r}.")
        if self.front_end == "none":
            return
        if self.num_channels != 1:
            raise ValueError(f"A `front_end` takes frames of one channel, got {self.num_channels} `num_channels`.")
        if not self.front_end_scales or not set(self.front_end_scales) <= set(OPERATORS):
            raise ValueError(f"`front_end_scales` are of {', '.join(OPERATORS)}, got {self.front_end_scales}.")

    @classmethod
    def from_size(cls, size: str, **kwargs: Any) -> "ScalpelStudentConfig":
        """Configuration by name: `"nano"`, `"small"`, `"base"` or `"large"`.

        They have about 0.06, 0.18, 0.39 and 0.80 million parameters.
        """
        if size not in SIZES:
            raise ValueError(f"A student's size is one of {', '.join(SIZES)}, got {size!r}.")
        return cls(**SIZES[size], **kwargs)


@strict
class ScalpelStudentDetectionConfig(ScalpelStudentConfig):
    """Configuration of [`ScalpelStudentForObjectDetection`]: a student's, and how many boxes it answers with.

    Args:
        num_queries: boxes of each frame, best first; a frame of fewer pixels has one a pixel.
        initial_probability: of a target's centre, to start with.
    """

    model_type = "scalpel_student_detection"

    num_queries: int = 100
    initial_probability: float = 0.01
    id2label: dict[int, str] | dict[str, str] | None = field(default_factory=lambda: {0: "target"})
    label2id: dict[str, int] | dict[str, str] | None = field(default_factory=lambda: {"target": 0})

    def validate_labels(self) -> None:
        """The class of the head: target."""
        if self.num_labels != 1:
            raise ValueError(f"A detection student knows 1 class, target, not {self.num_labels}.")

    def validate_num_queries(self) -> None:
        """At least one box."""
        if self.num_queries < 1:
            raise ValueError(f"`num_queries` starts at 1, got {self.num_queries}.")


__all__ = ["ScalpelStudentConfig", "ScalpelStudentDetectionConfig"]
