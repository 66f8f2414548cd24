"""What a teacher says about a frame."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


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
