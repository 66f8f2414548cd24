"""The settings of the mixture of experts, which the adapter's configuration and the stand-alone teacher's both hold."""

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
# Settings of the gate as files that were saved before name them, outside of it.
GATE_BEFORE = {"prior_bar": "threshold", "prior_share": "share", "noise_floor": "noise_floor"}


@dataclass(kw_only=True)
class ExpertsConfig:
    """
    The experts at all levels: which operators at which scales, and the networks and routers that read them.

    Args:
        scales: for each expert (operator) its scales in frame pixels: cell size of `local_contrast`, radius of
            `top_hat`, sigma of `matched_filter`, reach of `anisotropic_diffusion`. An operator that is not named is
            left out; with none, the token adapters are plain bottlenecks.
        levels: which of `pixel` (the operators on the frame), `token` (adapters on the encoder's last MLPs) and `mask`
            (the branch at the masks' resolution) are there. `pixel` needs `mask`, which is where it is read.
        bottleneck: width of the token adapters.
        channels: width of the mask level at half resolution.
        full_resolution_channels: of its convolutions on the frame's own grid, which draw edges; 0 for none.
        top_k: how many experts keep their weight at a position.
        routers: off, every expert has the same weight everywhere.
        sam_features: off, nothing of SAM reaches the mask level, which then sees the frame alone.
        consensus_gate: values of the [`ConsensusGate`], which lowers the logits where the operators see too little for
            a target. It is fitted after training, and asks for nothing at first.

    Examples:
        >>> ExpertsConfig(levels=["pixel", "mask"], scales={"top_hat": [2, 4]}).operator_scales
        {'top_hat': [2, 4]}
    """

    scales: dict[str, list[float | int]] = field(default_factory=lambda: {k: [*v] for k, v in OPERATOR_SCALES.items()})
    levels: list[str] = field(default_factory=lambda: list(LEVELS))
    bottleneck: int = 16
    channels: int = 24
    full_resolution_channels: int = 0
    top_k: int = 4
    routers: bool = True
    sam_features: bool = True
    consensus_gate: dict[str, float | int] = field(default_factory=lambda: asdict(ConsensusGate()))

    @property
    def operator_scales(self) -> dict[str, list[float | int]]:
        """The scales of the pixel level; empty when that level is off."""
        return self.scales if "pixel" in self.levels else {}

    def complete(self, before: dict[str, Any]) -> None:
        """
        Put the operators into their order, which is part of the weights' meaning (JSON files have sorted keys), and
        fill in the gate's values.

        Args:
            before: settings that only files of before have; those that are known are taken out of it.

        Raises `ValueError` where one of them has no meaning any more.
        """
        if isinstance(self.scales, dict):
            known = {name: self.scales[name] for name in OPERATOR_SCALES if name in self.scales}
            self.scales = {**known, **self.scales}
        found = {new: before.pop(old) for old, new in GATE_BEFORE.items() if old in before}
        if isinstance(self.consensus_gate, dict):
            self.consensus_gate = {**asdict(ConsensusGate()), **self.consensus_gate, **found}
        if (temperature := before.pop("temperature", 1)) != 1:  # of the routers' softmax
            raise ValueError(
                f"`temperature` is 1 in this version, and {temperature!r} in this file: load it with the version of "
                "scalpel-hf that made it"
            )

    def validate_experts(self) -> None:
        """Raise `ValueError`, naming the field, where a value is of another kind or makes no sense."""
        self._validate_scales()
        self._validate_levels()
        for name, least in (("bottleneck", 1), ("channels", 1), ("full_resolution_channels", 0), ("top_k", 1)):
            value = getattr(self, name)
            if not is_whole(value) or value < least:
                raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value!r}")
        if self.top_k > len(OPERATORS):
            raise ValueError(f"`top_k` must be between 1 and {len(OPERATORS)}, got {self.top_k}")
        for name in ("routers", "sam_features"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"`{name}` is true or false, got {getattr(self, name)!r}")
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
            raise ValueError("the `pixel` level is read by the `mask` level: name both in `levels`, or neither")
        if "pixel" in levels and not self.scales:
            raise ValueError("`scales` is empty: name operators, or leave `pixel` out of `levels`")

    def _validate_gate(self) -> None:
        values, known = self.consensus_gate, list(asdict(ConsensusGate()))
        if not isinstance(values, dict) or not set(values) <= set(known):
            raise ValueError(f"`consensus_gate` has {', '.join(known)}, got {values!r}")
        for name, value in values.items():
            if not _is_number(value) or value < 0:
                raise ValueError(f"`consensus_gate[{name!r}]` must be a number of at least 0, got {value!r}")
        gate = ConsensusGate(**values)
        if gate.share > 1:
            raise ValueError(f"`consensus_gate['share']` must be between 0 and 1, got {gate.share!r}")
        if gate.asks and "pixel" not in self.levels:
            raise ValueError(
                "`consensus_gate` is about the operators' maps: name `pixel` in `levels`, or leave `threshold` and "
                "`share` at 0"
            )


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
