"""Configuration of the adapter: the experts, and the modules of the base model that they are added to."""

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from peft import PeftConfig
from torch import nn

from scalpel_hf.hub.repo_names import lasting_name
from scalpel_hf.modeling.configuration_experts import MASK_GRIDS, ExpertsConfig, is_whole

MOST_REPEATS = 4  # repeats that a regular expression may have; names have some 100 characters


class ScalpelPeftType(str, Enum):
    """The adapter's PEFT type. Members can't be added to peft's `PeftType`, but its mappings accept any `str` enum."""

    SCALPEL_MOE = "SCALPEL_MOE"


@dataclass
class ScalpelMoeConfig(PeftConfig, ExpertsConfig):
    r"""
    Configuration of the hierarchical mixture-of-experts adapter for Segment Anything models.

    It has the fields of [`ExpertsConfig`] and the following.

    Args:
        blocks: the encoder blocks that get a token adapter: the number of last blocks, or a list of names of blocks or
            MLPs (`"layers.11"`), or a regular expression for full names of MLPs
            (`r"vision_encoder\.layers\.\d\.mlp"`).
        mask_grid: resolution of the masks: `frame` for that of `frames` (of `pixel_values` without `frames`), `base`
            for the base model's own, a quarter of its input.
        target_modules, exclude_modules: see `peft`; by default the targets follow from `levels` and `blocks`.
        modules_to_save: further modules of the base to train and save, such as `["neck"]`. With the level `mask`, the
            mask decoder and its direct children are not allowed.

    Raises `ValueError` if a field's value is out of range.

    Examples:
        >>> ScalpelMoeConfig(levels=["pixel", "mask"], channels=16).full_resolution_channels
        8
    """

    blocks: int | list[str] | str = 2
    mask_grid: str = "frame"
    target_modules: set[str] | list[str] | str | None = field(default=None)
    exclude_modules: list[str] | str | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.complete()
        self.peft_type = ScalpelPeftType.SCALPEL_MOE
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        self.validate_experts()
        _check_modules_and_grid(self)
        if not self.sam_features and {"token", "mask"} <= set(self.levels):
            raise ValueError(
                "with `sam_features` off, the mask level doesn't use SAM's features, so the token level can't be "
                "trained: leave `token` out of `levels`"
            )

    def to_dict(self) -> dict[str, Any]:
        """The configuration as a dict, with sets as sorted lists, so that equal configurations are saved equally."""
        return {key: sorted(value) if isinstance(value, set) else value for key, value in super().to_dict().items()}


def record_base(config: PeftConfig, base: nn.Module) -> None:
    """
    Record the base model in an adapter's configuration: a name that is valid in any working directory, and the commit
    if it is known from `load_sam` or from the name.
    """
    if not config.base_model_name_or_path:
        return
    name, revision = lasting_name(config.base_model_name_or_path)
    config.base_model_name_or_path = name
    if config.revision is None and lasting_name(getattr(base, "name_or_path", ""))[0] == name:
        config.revision = revision or getattr(base.config, "_commit_hash", None)


def _check_modules_and_grid(config: ScalpelMoeConfig) -> None:
    """Check `blocks`, `mask_grid` and the fields that name modules."""
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
    """Refuse invalid regular expressions, and slow ones: they may come with an adapter from the Hub."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"`{name}` is not a regular expression: {error} in {pattern!r}") from None
    bare = re.sub(r"\\.|\[\]?[^\]]*\]", "c", pattern)  # without escapes and character sets
    if re.search(r"\)[*+{]", bare) or len(re.findall(r"[*+{]", bare)) > MOST_REPEATS:
        raise ValueError(
            f"matching `{name}` may never end: {pattern!r} has a repeated group or more than {MOST_REPEATS} repeats; "
            "list the modules' names instead"
        )
