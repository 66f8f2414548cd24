"""What a teacher says about a frame, and what that depends on."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn


@dataclass(frozen=True)
class Prediction:
    """
    A teacher's prediction for one frame.

    Args:
        probability: of a target at each pixel, `(H, W)` in [0, 1], averaged over the views of the frame.
        spread: standard deviation of that over the views, `(H, W)`; `None` where there was one view.
        predicted_iou: from one or more boxes `(n, 4)` as x, y, width, height in pixels to the overlap `(n,)` with its
            object that Segment Anything predicts for the mask it gives when prompted with a box; `None` where it can't
            be asked.
    """

    probability: np.ndarray
    spread: np.ndarray | None = None
    predicted_iou: Callable[[np.ndarray], np.ndarray] | None = None


def fingerprint_of(model: nn.Module, settings: dict[str, Any]) -> str:
    """Hash of a model's weights and of the settings that its predictions depend on besides."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.float().numpy(force=True).tobytes())
    return digest.hexdigest()[:32]
