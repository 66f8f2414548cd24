"""From a teacher's prediction to a label: which candidates count, which are left open, and when a frame is empty."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .calibration import Calibration
from .columns import png
from .evidence import label_candidates

NO_LABEL = {"label_source": "none", "pseudo_mask": None, "pseudo_objects": None, "pseudo_score": None}


@dataclass(frozen=True)
class Rules:
    """
    What becomes of a teacher's prediction.

    A candidate above the threshold that a rule turns down becomes pixels to ignore, not background.

    Args:
        threshold: probability above which a pixel is target.
        min_score: least probability of being a target, see [`Calibration`].
        min_area, max_area: in pixels.
        min_agreement: least agreement between the views of the frame, where there are several.
        min_empty: probability from which on a frame without objects is labelled as empty; below it gets no label.
    """

    threshold: float = 0.5
    min_score: float = 0.0
    min_area: int = 1
    max_area: int | None = None
    min_agreement: float = 0.0
    min_empty: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"the threshold is a probability between 0 and 1, got {self.threshold}")
        for name in ("min_score", "min_agreement", "min_empty"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be between 0 and 1, got {getattr(self, name)}")
        if self.max_area is not None and self.max_area < self.min_area:
            raise ValueError(f"no object has an area from {self.min_area} to {self.max_area} pixels")

    def accepts(self, candidates: dict[str, Any], scores: np.ndarray) -> np.ndarray:
        """Which of a frame's candidates become objects, `(n,)`, boolean."""
        area, agreement = np.array(candidates["area"]), np.array(candidates["agreement"], np.float64)
        return (
            np.array(candidates["strong"], bool)
            & (scores >= self.min_score)
            & (area >= self.min_area)
            & (area <= (np.inf if self.max_area is None else self.max_area))
            & ~(agreement < self.min_agreement)  # NaN: one view doesn't disagree
        )


def decide(
    confidence: np.ndarray, candidates: dict[str, Any], rules: Rules, calibration: Calibration
) -> dict[str, Any]:
    """
    The label of a frame: `label_source` (`pseudo` or `none`), `pseudo_mask`, `pseudo_objects`, `pseudo_score`.

    Without an object the frame is labelled as empty if that is probable enough: the calibration's trust in empty
    predictions times Π (1 − score) over all candidates, weak ones included.

    Args:
        confidence: the teacher's probability `(H, W)` in 8 bits.
        candidates: what `extract_candidates` found there.
    """
    scores = calibration.scores(candidates)
    accepted = np.flatnonzero(rules.accepts(candidates, scores))
    if not len(accepted) and calibration.trust_in_empty * np.prod(1 - scores) < rules.min_empty:
        return NO_LABEL
    labels, _, _ = label_candidates(confidence, rules.threshold)
    return {
        "label_source": "pseudo",
        "pseudo_mask": png(np.isin(labels, accepted + 1).astype(np.uint8) * 255),
        "pseudo_objects": {
            "bbox": [candidates["bbox"][i] for i in accepted],
            "area": [float(candidates["area"][i]) for i in accepted],
            "score": [float(scores[i]) for i in accepted],
        },
        "pseudo_score": float(scores[accepted].max(initial=0.0)),
    }
