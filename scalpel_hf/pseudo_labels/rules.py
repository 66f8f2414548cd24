"""Quality control: which candidates become objects, and which frames are empty.

The pixels of other candidates are ignored in training, see [`training_mask`].
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from scalpel_hf.data.pseudo_columns import png

from .calibration import Calibration
from .evidence import label_candidates

NO_LABEL = {"label_source": "none", "pseudo_mask": None, "pseudo_objects": None, "pseudo_score": None}


@dataclass(frozen=True)
class Rules:
    """
    Which candidates of a teacher's prediction are accepted as objects.

    The pixels of a candidate above the threshold that isn't accepted are ignored in training; they don't become
    background.

    Args:
        threshold: probability above which a pixel is target.
        min_score: lowest score of an object, see [`Calibration`].
        min_area, max_area: of an object, in pixels.
        min_agreement: lowest agreement between the teacher's views of the frame, see [`extract_candidates`]. Without
            effect if there is one view.
        min_empty: a frame without objects is labelled as empty if its probability of being empty is at least this;
            otherwise it gets no label. See [`decide`].
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
            raise ValueError(f"no object can have an area from {self.min_area} to {self.max_area} pixels")

    def accepts(self, candidates: dict[str, Any], scores: np.ndarray) -> np.ndarray:
        """Which of a frame's candidates become objects, `(n,)`, boolean."""
        area, agreement = np.array(candidates["area"]), np.array(candidates["agreement"], np.float64)
        return (
            np.array(candidates["strong"], bool)
            & (scores >= self.min_score)
            & (area >= self.min_area)
            & (area <= (np.inf if self.max_area is None else self.max_area))
            & ~(agreement < self.min_agreement)  # NaN with a single view: accepted
        )


def rules_of(rules: Rules | None, threshold: float | None) -> Rules:
    """The rules that a caller gave, or those of a threshold; `ValueError` if both are given and differ."""
    if rules is None:
        return Rules() if threshold is None else Rules(threshold)
    if threshold not in (None, rules.threshold):
        raise ValueError(f"`threshold` is {threshold}, but that of `rules` is {rules.threshold}: give only one")
    return rules


def decide(
    confidence: np.ndarray, candidates: dict[str, Any], rules: Rules, calibration: Calibration
) -> dict[str, Any]:
    """
    The label of a frame: `label_source` (`pseudo` or `none`), `pseudo_mask`, `pseudo_objects`, `pseudo_score`.

    A frame without accepted objects is empty with probability `calibration.trust_in_empty · Π (1 − score)`, the product
    over all candidates, weak ones included. From `rules.min_empty` on it is labelled as empty.

    Args:
        confidence: the teacher's probability in 8 bits, `(H, W)` uint8.
        candidates: of this frame, from `extract_candidates`.
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
