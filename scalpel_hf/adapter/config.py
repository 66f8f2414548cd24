from dataclasses import dataclass, field
from enum import Enum

from peft import PeftConfig

OPERATOR_SCALES: dict[str, list[float]] = {
    "local_contrast": [3, 5, 9, 15],
    "top_hat": [2, 4, 8, 12],
    "matched_filter": [1, 2, 4, 8],
    "anisotropic_diffusion": [2, 4, 8, 12],
}
LEVELS = ("pixel", "token", "mask")
MASK_GRIDS = ("frame", "base")


class ScalpelPeftType(str, Enum):
    """Peft's own `PeftType` is closed; a `str` enum whose name equals its value serves as key in its mappings."""

    SCALPEL_MOE = "SCALPEL_MOE"


@dataclass
class ScalpelMoeConfig(PeftConfig):
    """
    Configuration of the hierarchical mixture-of-experts adapter for Segment Anything models.

    Args:
        scales: for each expert (operator) its scales in frame pixels: cell size of `local_contrast`, radius of
            `top_hat`, sigma of `matched_filter`, reach of `anisotropic_diffusion`. An operator that is not named is
            left out.
        levels: which of `pixel` (the operators on the frame), `token` (adapters on the encoder's last MLPs) and `mask`
            (the branch at the masks' resolution) are there. `pixel` needs `mask`, which is where it is read.
        blocks: the encoder blocks that get a token adapter: a number n for the last n, a list of module names, or a
            regular expression over them.
        bottleneck: width of the token adapters.
        channels: width of the mask level at full resolution, a multiple of 8.
        top_k: how many experts keep their weight at a position.
        temperature: of both routers' softmax.
        mask_grid: `frame` gives masks on the grid of the frames passed as `frames` (of `pixel_values` when none are),
            `base` on the base model's own grid, a quarter of its input.
        modules_to_save: modules of the base to train and save besides, for example `["mask_decoder.upscale_conv2"]`.
    """

    scales: dict[str, list[float]] = field(default_factory=lambda: {k: list(v) for k, v in OPERATOR_SCALES.items()})
    levels: list[str] = field(default_factory=lambda: list(LEVELS))
    blocks: int | list[str] | str = 2
    bottleneck: int = 16
    channels: int = 16
    top_k: int = 4
    temperature: float = 1.0
    mask_grid: str = "frame"
    target_modules: set[str] | list[str] | str | None = field(default=None)
    exclude_modules: list[str] | str | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = ScalpelPeftType.SCALPEL_MOE
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        _check(self)
        # The experts' order is part of the weights' meaning, and JSON files are written with sorted keys.
        self.scales = {name: self.scales[name] for name in OPERATOR_SCALES if name in self.scales}

    @property
    def operator_scales(self) -> dict[str, list[float]]:
        """The scales of the pixel level; empty when that level is off."""
        return self.scales if "pixel" in self.levels else {}


def _check(config: ScalpelMoeConfig) -> None:
    unknown = [name for name in config.scales if name not in OPERATOR_SCALES]
    if unknown:
        raise ValueError(f"unknown operators in `scales`: {unknown}; there are {sorted(OPERATOR_SCALES)}")
    for name, scales in config.scales.items():
        if not scales or any(s <= 0 for s in scales):
            raise ValueError(f"`scales[{name!r}]` must be a non-empty list of positive numbers of pixels, got {scales}")
    if not config.levels or any(level not in LEVELS for level in config.levels):
        raise ValueError(f"`levels` must name some of {LEVELS}, got {config.levels}")
    if "pixel" in config.levels and "mask" not in config.levels:
        raise ValueError("the `pixel` level is read by the `mask` level: name both in `levels`, or neither")
    if "pixel" in config.levels and not config.scales:
        raise ValueError("`scales` is empty: name operators, or leave `pixel` out of `levels`")
    if isinstance(config.blocks, int) and config.blocks < 1:
        raise ValueError(f"`blocks` must be at least 1, got {config.blocks}; leave `token` out of `levels` for none")
    if config.bottleneck < 1:
        raise ValueError(f"`bottleneck` must be at least 1, got {config.bottleneck}")
    if config.channels < 8 or config.channels % 8:
        raise ValueError(f"`channels` must be a positive multiple of 8, got {config.channels}")
    if not 1 <= config.top_k <= 4:
        raise ValueError(f"`top_k` must be between 1 and 4, got {config.top_k}")
    if config.temperature <= 0:
        raise ValueError(f"`temperature` must be positive, got {config.temperature}")
    if config.mask_grid not in MASK_GRIDS:
        raise ValueError(f"`mask_grid` must be one of {MASK_GRIDS}, got {config.mask_grid!r}")
