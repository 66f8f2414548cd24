"""A teacher's prediction for a frame, and the fingerprint of a model."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn


@dataclass(frozen=True)
class Prediction:
    """
    A teacher's prediction for one frame.

    Args:
        probability: of target at each pixel, `(H, W)` in [0, 1], averaged over the views of the frame (flips, scales).
        spread: standard deviation of the probability over the views, `(H, W)`; `None` with one view.
    """

    probability: np.ndarray
    spread: np.ndarray | None = None


def fingerprint_of(model: nn.Module, settings: dict[str, Any]) -> str:
    """Hash of a model's weights and of the settings that its predictions depend on."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.float().numpy(force=True).tobytes())
    return digest.hexdigest()[:32]
