"""Scores of candidates, calibrated on labelled frames: the probability that a candidate is a target."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize
from scipy.special import expit, logit

from scalpel_hf.utils.files import write_json
from scalpel_hf.utils.reading import read_json

from .evidence import EVIDENCE

FOLDS = 10
# Nested sets of features: none (the teacher's mean probability is the score), that probability alone, all evidence.
MODELS: tuple[tuple[str, ...], ...] = ((), ("probability",), EVIDENCE)
PRIOR_STD_WEIGHTS, PRIOR_STD_BIAS = 1.0, 3.0


@dataclass(frozen=True)
class Calibration:
    """
    A logistic regression: the probability that a candidate is a target is `σ(offset + bias + Σ w·x)`.

    The features x are those of `EVIDENCE`: the logit of the teacher's mean probability, the logarithm of the area, and
    the others as they are. All but the logit are standardised over the candidates of the labelled frames. A missing
    value (NaN) counts as the mean.

    Args:
        features: names of the features; without any, the score is the teacher's mean probability.
        weights, bias: of the regression.
        centre, scale: mean and standard deviation that standardise each feature.
        offset: added to the logit for unlabelled frames, see [`match_prevalence`].
        frames, candidates, true: numbers of labelled frames, of candidates in them, and of targets among those.
        empty_right, empty_wrong: numbers of labelled frames without a strong candidate that hold no target, or do.
        log_loss: cross-validated logarithmic loss of each set of features in `MODELS`.
    """

    features: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    bias: float = 0.0
    centre: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    offset: float = 0.0
    frames: int = 0
    candidates: int = 0
    true: int = 0
    empty_right: int = 0
    empty_wrong: int = 0
    log_loss: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if unknown := [name for name in self.features if name not in EVIDENCE]:
            raise ValueError(f"unknown features {unknown}, there are {', '.join(EVIDENCE)}")
        for name in ("weights", "centre", "scale"):
            if len(getattr(self, name)) != len(self.features):
                raise ValueError(f"`{name}` has {len(getattr(self, name))} values for {len(self.features)} features")
        numbers = [self.bias, self.offset, *self.weights, *self.centre, *self.scale, *self.log_loss]
        if not all(type(x) in (int, float) and math.isfinite(x) for x in numbers) or not all(self.scale):
            raise ValueError("the values must be finite numbers, and `scale` not 0")
        counts = [self.frames, self.candidates, self.true, self.empty_right, self.empty_wrong]
        if not all(type(n) is int and n >= 0 for n in counts):
            raise ValueError("the counts must be whole numbers of 0 or more")

    def scores(self, candidates: dict[str, Any]) -> np.ndarray:
        """Score `(n,)` of each candidate of a frame, see [`extract_candidates`]."""
        if not self.features and not self.offset:
            return np.array(candidates["probability"], np.float64)
        return expit(self.offset + self._logits(_feature_table([candidates])))

    def _logits(self, table: np.ndarray) -> np.ndarray:
        if not self.features:
            return table[:, 0]
        x = (table[:, [EVIDENCE.index(f) for f in self.features]] - self.centre) / self.scale
        return self.bias + np.nan_to_num(x) @ np.array(self.weights)

    @property
    def trust_in_empty(self) -> float:
        """
        Probability that a frame without a strong candidate holds no target: (right + 1) / (right + wrong + 2) by
        Laplace's rule of succession, or 1 without labelled frames.
        """
        if not self.frames:
            return 1.0
        return (self.empty_right + 1) / (self.empty_right + self.empty_wrong + 2)

    def save(self, path: str | Path) -> None:
        """Write to a JSON file, atomically."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Read the file of `save`; `ValueError`, which names it, if it has other content."""
        try:
            content: dict[str, Any] = read_json(path)
            settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
            return cls(**settings)
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is no calibration: {error}") from error


def _feature_table(frames: Sequence[dict[str, Any]]) -> np.ndarray:
    """The features of all candidates of some frames, `(n, len(EVIDENCE))`, not yet standardised."""
    columns = [np.array([value for c in frames for value in c[name]], np.float64) for name in EVIDENCE]
    table = np.stack(columns, 1)
    table[:, 0] = logit(np.clip(table[:, 0], 1 / 512, 511 / 512))  # half a step of 8 bits from 0 and 1
    table[:, EVIDENCE.index("area")] = np.log(table[:, EVIDENCE.index("area")])
    return table


def fit_calibration(frames: Sequence[dict[str, Any]]) -> Calibration:
    """
    Fit a calibration to labelled frames.

    The regression is the maximum a posteriori fit under a Gaussian prior on its weights. The prior's mean is 1 for the
    logit of the teacher's mean probability and 0 for the rest, so that with few frames the score stays near that
    probability. Cross-validation over frames (10 folds) chooses the features: the next larger set in `MODELS` is used
    as long as it lowers the logarithmic loss.

    Args:
        frames: the candidates of each labelled frame, from `extract_candidates` with `truth`. Those whose `true` is
            `None` (on pixels to ignore) are left out.
    """
    judged = [_with_known_truth(c) for c in frames]
    with_candidates = [c for c in judged if c["strong"]]
    nothing = [c["has_target"] for c in frames if not any(c["strong"])]
    counts: dict[str, Any] = {
        "frames": len(frames),
        "candidates": sum(len(c["strong"]) for c in with_candidates),
        "true": sum(sum(c["true"]) for c in with_candidates),
        "empty_right": nothing.count(False),
        "empty_wrong": nothing.count(True),
    }
    if len(with_candidates) < 2:
        return Calibration(**counts)
    losses = [_cross_validated_loss(with_candidates, features) for features in MODELS]
    best = 0
    while best + 1 < len(MODELS) and losses[best + 1] < losses[best]:
        best += 1
    fitted = _fit(_feature_table(with_candidates), _truth(with_candidates), MODELS[best])
    return replace(fitted, **counts, log_loss=tuple(losses))


def _with_known_truth(frame: dict[str, Any]) -> dict[str, Any]:
    """A frame's candidates without those whose truth is unknown."""
    known = [place for place, is_true in enumerate(frame["true"]) if is_true is not None]
    return {name: [frame[name][place] for place in known] for name in (*EVIDENCE, "strong", "true")}


def _truth(frames: Sequence[dict[str, Any]]) -> np.ndarray:
    return np.concatenate([np.array(c["true"], bool) for c in frames])


def _cross_validated_loss(frames: list[dict[str, Any]], features: tuple[str, ...]) -> float:
    """Mean logarithmic loss over all candidates, each from a fit to the other folds' frames."""
    folds, losses = min(FOLDS, len(frames)), []
    for fold in range(folds):
        seen = [c for i, c in enumerate(frames) if i % folds != fold]
        unseen = [c for i, c in enumerate(frames) if i % folds == fold]
        z = _fit(_feature_table(seen), _truth(seen), features)._logits(_feature_table(unseen))
        losses.append(np.logaddexp(0, np.where(_truth(unseen), -z, z)))
    return float(np.concatenate(losses).mean())


def _fit(table: np.ndarray, true: np.ndarray, features: tuple[str, ...]) -> Calibration:
    features = tuple(f for f in features if np.isfinite(table[:, EVIDENCE.index(f)]).any())
    if not features:
        return Calibration()
    x = table[:, [EVIDENCE.index(f) for f in features]]
    centre, scale = np.nanmean(x, 0), np.nanstd(x, 0)
    is_probability = np.array([f == "probability" for f in features])
    centre, scale = np.where(is_probability, 0, centre), np.where(is_probability | (scale < 1e-6), 1, scale)
    x = np.nan_to_num((x - centre) / scale)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = parameters[:-1] - is_probability, parameters[-1]
        z = x @ parameters[:-1] + bias
        value = np.logaddexp(0, np.where(true, -z, z)).sum()
        value += (weights @ weights / PRIOR_STD_WEIGHTS**2 + bias**2 / PRIOR_STD_BIAS**2) / 2
        residual = expit(z) - true
        slope = np.append(residual @ x + weights / PRIOR_STD_WEIGHTS**2, residual.sum() + bias / PRIOR_STD_BIAS**2)
        return value, slope

    found = optimize.minimize(loss, np.append(is_probability, 0.0), jac=True, method="BFGS").x
    weights, bias = tuple(map(float, found[:-1])), float(found[-1])
    return Calibration(
        features=features,
        weights=weights,
        bias=bias,
        centre=tuple(map(float, centre)),
        scale=tuple(map(float, scale)),
    )


def match_prevalence(calibration: Calibration, frames: Iterable[dict[str, Any]]) -> Calibration:
    """
    Correct a calibration for unlabelled frames, on which the teacher was not trained.

    On its training frames a teacher is surer and has fewer false alarms, so scores fitted there are too high elsewhere.
    This assumes that the labelled frames are a random sample: unlabelled frames then hold as many targets a frame. The
    offset is chosen so that Σ scores over all unlabelled candidates = number of unlabelled frames × true candidates a
    labelled frame. It is between −20 and 0.

    Args:
        frames: the candidates of each unlabelled frame, see `extract_candidates`.
    """
    logits = [calibration._logits(_feature_table([c])) for c in frames]
    if not calibration.frames or not logits:
        return calibration
    expected = calibration.true / calibration.frames * len(logits)
    z = np.concatenate(logits)

    def excess(offset: float) -> float:
        return float(expit(z + offset).sum()) - expected

    if excess(0) <= 0:
        return replace(calibration, offset=0.0)
    if excess(-20) >= 0:
        return replace(calibration, offset=-20.0)
    return replace(calibration, offset=float(optimize.brentq(excess, -20, 0)))
