import re
from dataclasses import InitVar, dataclass, field
from enum import Enum
from typing import Any

from peft import PeftConfig
from torch import nn

from scalpel_hf.hub.repo_names import lasting_name
from scalpel_hf.modeling.configuration_experts import MASK_GRIDS, ExpertsConfig, is_whole

MOST_REPEATS = 4  # of a regular expression over names of some 100 characters


class ScalpelPeftType(str, Enum):
    """Peft's own `PeftType` is closed; a `str` enum whose name equals its value serves as key in its mappings."""

    SCALPEL_MOE = "SCALPEL_MOE"


@dataclass
class ScalpelMoeConfig(PeftConfig, ExpertsConfig):
    r"""
    Configuration of the hierarchical mixture-of-experts adapter for Segment Anything models.

    It has the fields of [`ExpertsConfig`], and these.

    Args:
        full_resolution_channels: of the mask level's convolutions on the frame's own grid. 8 by default, and 0 where a
            configuration is loaded that was saved before there were any.
        blocks: the encoder blocks that get a token adapter: a number n for the last n, a list of names of blocks or of
            their MLPs (`"layers.11"`), or a regular expression over the MLPs' full names
            (`r"vision_encoder\.layers\.\d\.mlp"`).
        mask_grid: `frame` gives masks on the grid of the frames passed as `frames` (of `pixel_values` when none are),
            `base` on the base model's own grid, a quarter of its input.
        modules_to_save: modules of the base to train and save besides, for example `["neck"]`. The mask decoder and its
            direct children can't be among them while the mask level is around it.
        temperature, prior_bar, prior_share, noise_floor: of files that were saved before; today's are in the gate.
    """

    full_resolution_channels: int | None = None  # 8
    blocks: int | list[str] | str = 2
    mask_grid: str = "frame"
    target_modules: set[str] | list[str] | str | None = field(default=None)
    exclude_modules: list[str] | str | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)
    temperature: InitVar[Any] = None
    prior_bar: InitVar[Any] = None
    prior_share: InitVar[Any] = None
    noise_floor: InitVar[Any] = None

    def __post_init__(self, temperature: Any, prior_bar: Any, prior_share: Any, noise_floor: Any) -> None:
        super().__post_init__()
        gate = {"prior_bar": prior_bar, "prior_share": prior_share, "noise_floor": noise_floor}
        before = {"temperature": temperature, **gate}
        self.complete({name: value for name, value in before.items() if value is not None})
        saved = getattr(self, "peft_type", None) is not None  # a file names it, a fresh configuration doesn't
        if self.full_resolution_channels is None:
            self.full_resolution_channels = 0 if saved else 8
        self.peft_type = ScalpelPeftType.SCALPEL_MOE
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        self.validate_experts()
        _check_where(self)
        if not saved and not self.sam_features and {"token", "mask"} <= set(self.levels):
            raise ValueError(
                "with `sam_features` off, nothing of SAM reaches the mask level, so that the token level could never "
                "learn: leave `token` out of `levels`"
            )

    def to_dict(self) -> dict[str, Any]:
        """The configuration as it is saved, the same for equal ones: sets have another order in every process."""
        return {key: sorted(value) if isinstance(value, set) else value for key, value in super().to_dict().items()}


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


def _check_where(config: ScalpelMoeConfig) -> None:
    """The modules that the adapter is put on, and the grid of its masks."""
    blocks = config.blocks
    if isinstance(blocks, str):
        _check_pattern("blocks", blocks)
    elif isinstance(blocks, list | tuple | set):
        if not blocks or not all(isinstance(name, str) for name in blocks):
            raise ValueError(f"`blocks` must be a non-empty list of names, got {blocks}")
    elif not is_whole(blocks) or blocks < 1:
        raise ValueError(
            f"`blocks` must be a whole number of at least 1, names or a regular expression, got {blocks!r}; leave "
            "`token` out of `levels` for none"
        )
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
