"""The gate on the operators' consensus: a target is where the network and the operators agree on one."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NOISE_FLOOR = 1 / 256  # of a normalised frame's intensity: a grey level of 8 bits where frames go by their range
GATE_SLOPE = 4.0  # logits that a place loses for each unit that its consensus is below what is asked
GATE_REACH = 6  # pixels around a response that it vouches for: a target's edges answer less than its middle


def consensus(maps: list[Tensor]) -> Tensor:
    """What the operators agree on: each one's strongest scale, averaged. `(B, S, H, W)` each → `(B, 1, H, W)`."""
    return torch.stack([expert.amax(1, keepdim=True) for expert in maps]).mean(0)


@dataclass(frozen=True)
class ConsensusGate:
    r"""
    Lowers the logits of places where the operators see too little for a target.

    They fall by \(4\,(b - c)_+\), with c the largest [`consensus`] within 6 pixels, and b the larger of `threshold` and
    of what is `share` of the frame's strongest consensus \(c_\text{max}\) before the logarithm,
    \(\log(1 + s\,(e^{c_\text{max}} - 1))\).

    It is fitted to labelled targets after training, see `scalpel_hf.training.gate_fitting`.

    Args:
        threshold: the consensus, in the prior maps' units, that a target has at least; 0 asks for nothing.
        share: the same as a share, 0 to 1, of the consensus at the frame's strongest place.
        noise_floor: what an operator's response is measured against where a frame is even, in units of the normalised
            frame's intensity. Higher, less of what is faint counts.
    """

    threshold: float = 0.0
    share: float = 0.0
    noise_floor: float = NOISE_FLOOR

    @property
    def asks(self) -> bool:
        """Whether it asks for anything: a fresh adapter's doesn't, whose masks are SAM's own."""
        return self.threshold > 0 or self.share > 0

    def shortfall(self, maps: list[Tensor]) -> Tensor:
        """The logits `(B, 1, H, W)` that places lose, from each operator's prior maps `(B, S, H, W)`."""
        agreed = consensus(maps)
        strongest = agreed.amax((-2, -1), keepdim=True)
        # (B, 1, 1, 1); ONNX has no expm1
        asked = torch.log1p(self.share * (strongest.exp() - 1)).clamp(min=self.threshold)
        reach = 2 * GATE_REACH + 1
        columns = F.max_pool2d(agreed, (reach, 1), 1, (GATE_REACH, 0))
        nearby = F.max_pool2d(columns, (1, reach), 1, (0, GATE_REACH))
        return GATE_SLOPE * F.relu(asked - nearby)
