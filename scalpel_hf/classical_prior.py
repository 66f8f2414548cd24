"""What the four white-box operators at their classical parameters say of a frame, whatever any model has learned."""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from scalpel_hf.adapter.config import OPERATOR_SCALES
from scalpel_hf.modeling.moe import PriorPyramid, consensus


@torch.no_grad()
def classical_prior(frames: Tensor) -> np.ndarray:
    """
    The highest of each operator's scales, averaged over the operators, in the compressed units of [`PriorPyramid`].

    Shape: normalised frames `(B, 1, H, W)` → `(B, H, W)`.
    """
    maps, _ = _pyramid()(frames)
    prior: np.ndarray = consensus(maps)[:, 0].numpy()
    return prior


@cache
def _pyramid() -> PriorPyramid:
    return PriorPyramid(OPERATOR_SCALES).requires_grad_(False).eval()
