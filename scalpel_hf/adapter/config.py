import math
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from peft import PeftConfig
from torch import nn

from scalpel_hf.hub.repo_names import lasting_name
from scalpel_hf.modeling.configuration_scalpel_sam import LEVELS, OPERATOR_SCALES
from scalpel_hf.modeling.moe import NOISE_FLOOR, OPERATORS

MOST_REPEATS = 4  # of a regular expression over names of some 100 characters
MASK_GRIDS = ("frame", "base")


class ScalpelPeftType(str, Enum):
    """Peft's own `PeftType` is closed; a `str` enum whose name equals its value serves as key in its mappings."""

    SCALPEL_MOE = "SCALPEL_MOE"


@dataclass
class ScalpelMoeConfig(PeftConfig):
    r"""
    Configuration of the hierarchical mixture-of-experts adapter for Segment Anything models.

    Args:
        scales: for each expert (operator) its scales in frame pixels: cell size of `local_contrast`, radius of
            `top_hat`, sigma of `matched_filter`, reach of `anisotropic_diffusion`. An operator that is not named is
            left out; with none, the token adapters are plain bottlenecks.
        levels: which of `pixel` (the operators on the frame), `token` (adapters on the encoder's last MLPs) and `mask`
            (the branch at the masks' resolution) are there. `pixel` needs `mask`, which is where it is read.
        blocks: the encoder blocks that get a token adapter: a number n for the last n, a list of names of blocks or of
            their MLPs (`"layers.11"`), or a regular expression over the MLPs' full names
            (`r"vision_encoder\.layers\.\d\.mlp"`).
        bottleneck: width of the token adapters.
        channels: width of the mask level at half resolution.
        full_resolution_channels: of its convolutions on the frame's own grid, which draw edges; 0 for none. 8 by
            default, and 0 where a configuration is loaded that was saved before there were any.
        top_k: how many experts keep their weight at a position.
        temperature: of the position routers' softmax.
        routers: off, every expert has the same weight everywhere.
        sam_features: off, nothing of SAM reaches the mask level, which then sees the frame alone.
        noise_floor: what an operator's response is measured against where a frame is even, in units of the normalised
            frame's intensity. It may be changed after training: higher, less of what is faint counts.
        prior_bar: what the operators must see, at their consensus and in the prior maps' units, for a place to count as
            more than background; 0 asks for nothing, and leaves a fresh adapter's masks SAM's own. It is fitted after
            training, see `scalpel_hf.training.prior_bar`.
        prior_share: the same as a share, 0 to 1, of what they see at the frame's strongest place; fitted with it.
        mask_grid: `frame` gives masks on the grid of the frames passed as `frames` (of `pixel_values` when none are),
            `base` on the base model's own grid, a quarter of its input.
        modules_to_save: modules of the base to train and save besides, for example `["neck"]`. The mask decoder and its
            direct children can't be among them while the mask level is around it.
    """

    scales: dict[str, list[float]] = field(default_factory=lambda: {k: list(v) for k, v in OPERATOR_SCALES.items()})
    levels: list[str] = field(default_factory=lambda: list(LEVELS))
    blocks: int | list[str] | str = 2
    bottleneck: int = 16
    channels: int = 24
    full_resolution_channels: int | None = None  # 8
    top_k: int = 4
    temperature: float = 1.0
    routers: bool = True
    sam_features: bool = True
    noise_floor: float = NOISE_FLOOR
    prior_bar: float = 0.0
    prior_share: float = 0.0
    mask_grid: str = "frame"
    target_modules: set[str] | list[str] | str | None = field(default=None)
    exclude_modules: list[str] | str | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        saved = getattr(self, "peft_type", None) is not None  # a file names it, a fresh configuration doesn't
        if self.full_resolution_channels is None:
            self.full_resolution_channels = 0 if saved else 8
        self.peft_type = ScalpelPeftType.SCALPEL_MOE
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        _check(self)
        if not saved and not self.sam_features and {"token", "mask"} <= set(self.levels):
            raise ValueError(
                "with `sam_features` off, nothing of SAM reaches the mask level, so that the token level could never "
                "learn: leave `token` out of `levels`"
            )
        # The experts' order is part of the weights' meaning, and JSON files are written with sorted keys.
        self.scales = {name: self.scales[name] for name in OPERATOR_SCALES if name in self.scales}

    def to_dict(self) -> dict[str, Any]:
        """The configuration as it is saved, the same for equal ones: sets have another order in every process."""
        return {key: sorted(value) if isinstance(value, set) else value for key, value in super().to_dict().items()}

    @property
    def operator_scales(self) -> dict[str, list[float]]:
        """The scales of the pixel level; empty when that level is off."""
        return self.scales if "pixel" in self.levels else {}


def record_base(config: PeftConfig, base: nn.Module) -> None:
    """
    Write into an adapter's configuration which base it was made on: a name that loads it from any working directory,
    and its commit where `load_sam` or the name tells it.
    """
    if not config.base_model_name_or_path:
        return
    name, revision = lasting_name(config.base_model_name_or_path)
    config.base_model_name_or_path = name
    if config.revision is None and lasting_name(getattr(base, "name_or_path", ""))[0] == name:
        config.revision = revision or getattr(base.config, "_commit_hash", None)


def _check(config: ScalpelMoeConfig) -> None:
    _check_scales(config.scales)
    _check_levels(config)
    for name, value in (("bottleneck", config.bottleneck), ("channels", config.channels), ("top_k", config.top_k)):
        if not _is_whole(value) or value < 1:
            raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}")
    if not _is_whole(config.full_resolution_channels) or config.full_resolution_channels < 0:
        raise ValueError(
            f"`full_resolution_channels` must be a whole number of at least 0, got {config.full_resolution_channels!r}"
        )
    if config.top_k > len(OPERATORS):
        raise ValueError(f"`top_k` must be between 1 and {len(OPERATORS)}, got {config.top_k}")
    if not _is_number(config.temperature) or not 0 < config.temperature < math.inf:
        raise ValueError(f"`temperature` must be a positive number, got {config.temperature!r}")
    bars = ("prior_bar", config.prior_bar), ("prior_share", config.prior_share)
    for name, value in (("noise_floor", config.noise_floor), *bars):
        if not _is_number(value) or value < 0:
            raise ValueError(f"`{name}` must be a number of at least 0, got {value!r}")
    for name, value in bars:
        if value and "pixel" not in config.levels:
            raise ValueError(f"`{name}` is about the operators' maps: name `pixel` in `levels`, or leave it at 0")
    if config.prior_share > 1:
        raise ValueError(f"`prior_share` must be between 0 and 1, got {config.prior_share!r}")
    for name, value in (("routers", config.routers), ("sam_features", config.sam_features)):
        if not isinstance(value, bool):
            raise ValueError(f"`{name}` is true or false, got {value!r}")
    for name in ("target_modules", "exclude_modules", "modules_to_save"):
        _check_modules(name, getattr(config, name))
    if config.mask_grid not in MASK_GRIDS:
        raise ValueError(f"`mask_grid` must be one of {MASK_GRIDS}, got {config.mask_grid!r}")


def _check_modules(name: str, value: Any) -> None:
    names = isinstance(value, list | tuple | set) and all(isinstance(module, str) for module in value)
    if not (value is None or names or (isinstance(value, str) and name != "modules_to_save")):
        what = "a list of names" if name == "modules_to_save" else "a list of names or a regular expression"
        raise ValueError(f"`{name}` must be {what}, got {value!r}")
    if isinstance(value, str):
        _check_pattern(name, value)


def _check_pattern(name: str, pattern: str) -> None:
    """A regular expression may come with somebody's adapter: it must be one, and one that ends in time."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"`{name}` is not a regular expression: {error} in {pattern!r}") from None
    bare = re.sub(r"\\.|\[\]?[^\]]*\]", "c", pattern)  # without escapes and sets, whose characters mean themselves
    if re.search(r"\)[*+{]", bare) or len(re.findall(r"[*+{]", bare)) > MOST_REPEATS:
        raise ValueError(
            f"`{name}` may take for ever: a repeated group, or more than {MOST_REPEATS} repeats, in {pattern!r}; list "
            "the modules' names instead"
        )


def _check_scales(scales: Any) -> None:
    if not isinstance(scales, dict) or (unknown := [name for name in scales if name not in OPERATORS]):
        wrong = unknown if isinstance(scales, dict) else scales
        raise ValueError(f"unknown operators in `scales`: {wrong}; there are {sorted(OPERATORS)}")
    for name, values in scales.items():
        if not isinstance(values, list | tuple) or not values or not all(_is_number(v) and v > 0 for v in values):
            raise ValueError(f"`scales[{name!r}]` must be a non-empty list of positive numbers of pixels, got {values}")
        try:
            OPERATORS[name](values)
        except ValueError as error:
            raise ValueError(f"`scales[{name!r}]`: {error}") from None


def _check_levels(config: ScalpelMoeConfig) -> None:
    levels, blocks = config.levels, config.blocks
    named = isinstance(levels, list | tuple | set) and levels and all(level in LEVELS for level in levels)
    if not named or len(set(levels)) < len(levels):
        raise ValueError(f"`levels` must name some of {LEVELS}, each once, got {levels}")
    if "pixel" in levels and "mask" not in levels:
        raise ValueError("the `pixel` level is read by the `mask` level: name both in `levels`, or neither")
    if "pixel" in levels and not config.scales:
        raise ValueError("`scales` is empty: name operators, or leave `pixel` out of `levels`")
    if isinstance(blocks, str):
        _check_pattern("blocks", blocks)
    elif isinstance(blocks, list | tuple | set):
        if not blocks or not all(isinstance(name, str) for name in blocks):
            raise ValueError(f"`blocks` must be a non-empty list of names, got {blocks}")
    elif not _is_whole(blocks) or blocks < 1:
        raise ValueError(
            f"`blocks` must be a whole number of at least 1, names or a regular expression, got {blocks!r}; leave "
            "`token` out of `levels` for none"
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
