"""The consensus gate: a pixel is target only if both the network and the operators respond to it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NOISE_FLOOR = 1 / 256  # in units of a normalised frame: one of 256 grey levels with normalisation by range
GATE_SLOPE = 4.0  # decrease of the logits for each unit of consensus below the threshold
GATE_REACH = 6  # radius in pixels of the maximum that the gate sees: operators respond less at a target's edges


def consensus(maps: list[Tensor]) -> Tensor:
    """The operators' consensus: maximum over scales, mean over operators. `(B, S, H, W)` each → `(B, 1, H, W)`."""
    return torch.stack([expert.amax(1, keepdim=True) for expert in maps]).mean(0)


@dataclass(frozen=True)
class ConsensusGate:
    r"""
    Lowers logits where the operators respond too weakly for a target.

    Logits fall by \(4\,(b - c)_+\). Here c is the maximum of the [`consensus`] within 6 pixels, and b is the larger of
    `threshold` and \(\log(1 + s\,(e^{c_\text{max}} - 1))\), where \(c_\text{max}\) is the frame's maximum and s is
    `share`: a share of the maximal response without the logarithm.

    The gate is fitted to labelled targets after training, see `scalpel_hf.training.gate_fitting`.

    Args:
        threshold: lowest consensus of a target, in the prior maps' units; 0 for none.
        share: lowest response of a target relative to the frame's maximum, 0 to 1; 0 for none.
        noise_floor: added to the spread that responses are divided by, see [`PriorPyramid`]; in units of the normalised
            frame's intensity. The higher it is, the smaller are the maps of faint targets.
    """

    threshold: float = 0.0
    share: float = 0.0
    noise_floor: float = NOISE_FLOOR

    @property
    def is_active(self) -> bool:
        """Whether the gate has an effect. In a new adapter it has none."""
        return self.threshold > 0 or self.share > 0

    def shortfall(self, maps: list[Tensor]) -> Tensor:
        """The amount `(B, 1, H, W)` by which logits fall, from each operator's prior maps `(B, S, H, W)`."""
        agreed = consensus(maps)
        strongest = agreed.amax((-2, -1), keepdim=True)
        # (B, 1, 1, 1); ONNX has no expm1
        required = torch.log1p(self.share * (strongest.exp() - 1)).clamp(min=self.threshold)
        reach = 2 * GATE_REACH + 1
        columns = F.max_pool2d(agreed, (reach, 1), 1, (GATE_REACH, 0))
        nearby = F.max_pool2d(columns, (1, reach), 1, (0, GATE_REACH))
        return GATE_SLOPE * F.relu(required - nearby)
