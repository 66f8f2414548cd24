"""Settings of the mixture of experts, shared by the configurations of the adapter and of the stand-alone teacher."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from .consensus_gate import ConsensusGate
from .operators import OPERATORS

OPERATOR_SCALES: dict[str, list[float | int]] = {
    "local_contrast": [3, 5, 9, 15],
    "top_hat": [2, 4, 8, 12],
    "matched_filter": [1, 2, 4, 8],
    "anisotropic_diffusion": [2, 4, 8, 12],
}
LEVELS = ("pixel", "token", "mask")
MASK_GRIDS = ("frame", "base")


@dataclass(kw_only=True)
class ExpertsConfig:
    """
    Settings of the experts: the operators and their scales, the levels, the networks and the routers.

    Args:
        scales: for each expert (operator) its scales in frame pixels: side of the cells for `local_contrast`, radius
            for `top_hat`, sigma for `matched_filter`, distance of the neighbours for `anisotropic_diffusion`. Operators
            without an entry aren't used. Without any operator, the token adapters are plain bottlenecks.
        levels: the levels that exist, of `pixel` (operators on the frame), `token` (adapters beside the encoder's last
            MLPs) and `mask` (a network at the masks' resolution). `pixel` needs `mask`, which reads its maps.
        bottleneck: channels of the token adapters.
        channels: channels of the mask level at half resolution.
        full_resolution_channels: channels of the mask level at full resolution, which makes edges sharper; 0 for none.
        top_k: number of experts that keep their weight at each position.
        routers: whether routers weight the experts. If false, all experts have equal weights everywhere.
        sam_features: whether the mask level gets SAM's logits and features. If false, it sees only the frame.
        consensus_gate: arguments of the [`ConsensusGate`], which lowers logits where the operators respond too weakly
            for a target. It is fitted after training; by default it has no effect.

    Examples:
        >>> ExpertsConfig(levels=["pixel", "mask"], scales={"top_hat": [2, 4]}).operator_scales
        {'top_hat': [2, 4]}
    """

    scales: dict[str, list[float | int]] = field(default_factory=lambda: {k: [*v] for k, v in OPERATOR_SCALES.items()})
    levels: list[str] = field(default_factory=lambda: list(LEVELS))
    bottleneck: int = 16
    channels: int = 24
    full_resolution_channels: int = 8
    top_k: int = 4
    routers: bool = True
    sam_features: bool = True
    consensus_gate: dict[str, float | int] = field(default_factory=lambda: asdict(ConsensusGate()))

    @property
    def operator_scales(self) -> dict[str, list[float | int]]:
        """The scales of the pixel level's operators; empty if `levels` has no `pixel`."""
        return self.scales if "pixel" in self.levels else {}

    def complete(self) -> None:
        """
        Sort `scales` into the order of [`OPERATORS`], and add missing values of the gate.

        The weights depend on the operators' order, which saved JSON files lose because their keys are sorted.
        """
        if isinstance(self.scales, dict):
            known = {name: self.scales[name] for name in OPERATOR_SCALES if name in self.scales}
            self.scales = {**known, **self.scales}
        if isinstance(self.consensus_gate, dict):
            self.consensus_gate = {**asdict(ConsensusGate()), **self.consensus_gate}

    def validate_experts(self) -> None:
        """Raise `ValueError`, naming the field, if a value has the wrong type or is out of its range."""
        self._validate_scales()
        self._validate_levels()
        for name, least in (("bottleneck", 1), ("channels", 1), ("full_resolution_channels", 0), ("top_k", 1)):
            value = getattr(self, name)
            if not is_whole(value) or value < least:
                raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value!r}")
        if self.full_resolution_channels and self.channels % 4:
            raise ValueError(
                f"with `full_resolution_channels`, `channels` must be a multiple of 4, got {self.channels}"
            )
        if self.top_k > len(OPERATORS):
            raise ValueError(f"`top_k` must be between 1 and {len(OPERATORS)}, got {self.top_k}")
        for name in ("routers", "sam_features"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"`{name}` must be true or false, got {getattr(self, name)!r}")
        self._validate_gate()

    def _validate_scales(self) -> None:
        scales = self.scales
        if not isinstance(scales, dict) or (unknown := [name for name in scales if name not in OPERATORS]):
            wrong = unknown if isinstance(scales, dict) else scales
            raise ValueError(f"unknown operators in `scales`: {wrong}; there are {sorted(OPERATORS)}")
        for name, values in scales.items():
            if not isinstance(values, list | tuple) or not values or not all(_is_number(v) and v > 0 for v in values):
                raise ValueError(
                    f"`scales[{name!r}]` must be a non-empty list of positive numbers of pixels, got {values}"
                )
            try:
                OPERATORS[name](values)
            except ValueError as error:
                raise ValueError(f"`scales[{name!r}]`: {error}") from None

    def _validate_levels(self) -> None:
        levels = self.levels
        named = isinstance(levels, list | tuple | set) and levels and all(level in LEVELS for level in levels)
        if not named or len(set(levels)) < len(levels):
            raise ValueError(f"`levels` must name some of {LEVELS}, each once, got {levels}")
        if "pixel" in levels and "mask" not in levels:
            raise ValueError("`levels` has `pixel` but not `mask`, which reads its maps: add `mask`, or remove `pixel`")
        if "pixel" in levels and not self.scales:
            raise ValueError("`scales` is empty: name operators, or leave `pixel` out of `levels`")

    def _validate_gate(self) -> None:
        values, known = self.consensus_gate, list(asdict(ConsensusGate()))
        if not isinstance(values, dict) or not set(values) <= set(known):
            raise ValueError(f"`consensus_gate` is a dict with the keys {', '.join(known)}, got {values!r}")
        for name, value in values.items():
            if not _is_number(value) or value < 0:
                raise ValueError(f"`consensus_gate[{name!r}]` must be a number of at least 0, got {value!r}")
        gate = ConsensusGate(**values)
        if gate.share > 1:
            raise ValueError(f"`consensus_gate['share']` must be between 0 and 1, got {gate.share!r}")
        if gate.is_active and "pixel" not in self.levels:
            raise ValueError(
                "`consensus_gate` needs the operators' maps: name `pixel` in `levels`, or leave its `threshold` and "
                "`share` at 0"
            )


def is_whole(value: Any) -> bool:
    """Whether a value is an `int`, and not a `bool`."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
