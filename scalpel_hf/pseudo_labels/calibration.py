"""How often candidates like this one are targets: learnt from the labelled frames."""

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
# Nested sets of evidence: the teacher's own word as it is, corrected, and with all that speaks beside it.
MODELS: tuple[tuple[str, ...], ...] = ((), ("probability",), EVIDENCE)
SPREAD_OF_WEIGHTS, SPREAD_OF_BIAS = 1.0, 3.0


@dataclass(frozen=True)
class Calibration:
    """
    From a candidate's evidence to the probability that it is a target, `σ(offset + bias + Σ w·x)`.

    x are the logit of the mean probability, the logarithm of the area, and the other evidence, the latter two
    standardised over the labelled frames' candidates; what is unknown counts as the mean.

    Args:
        features: the evidence it uses; none for the teacher's mean probability as it is.
        weights, bias, centre, scale: of the features.
        offset: added for frames that the teacher was not trained on, see [`match_prevalence`].
        frames, candidates, true: how many labelled frames there were, candidates in them, and targets among those.
        empty_right, empty_wrong: labelled frames without a strong candidate, by whether they are without a target.
        log_loss: of each set of features on frames left out of the fit, by their number.
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
            raise ValueError("its values must be finite numbers, and `scale` not 0")
        counts = [self.frames, self.candidates, self.true, self.empty_right, self.empty_wrong]
        if not all(type(n) is int and n >= 0 for n in counts):
            raise ValueError("its counts must be whole numbers of 0 or more")

    def scores(self, candidates: dict[str, Any]) -> np.ndarray:
        """Probability `(n,)` that each of a frame's candidates is a target."""
        if not self.features and not self.offset:
            return np.array(candidates["probability"], np.float64)
        return expit(self.offset + self._logits(_table([candidates])))

    def _logits(self, table: np.ndarray) -> np.ndarray:
        if not self.features:
            return table[:, 0]
        x = (table[:, [EVIDENCE.index(f) for f in self.features]] - self.centre) / self.scale
        return self.bias + np.nan_to_num(x) @ np.array(self.weights)

    @property
    def trust_in_empty(self) -> float:
        """Probability that a frame in which nothing is found has nothing: (right + 1) / (right + wrong + 2), Laplace's
        rule of succession; 1 without labelled frames."""
        if not self.frames:
            return 1.0
        return (self.empty_right + 1) / (self.empty_right + self.empty_wrong + 2)

    def save(self, path: str | Path) -> None:
        """Write it as JSON, in one step."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Read what `save` wrote; `ValueError` naming the file for anything else."""
        try:
            content: dict[str, Any] = read_json(path)
            settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
            return cls(**settings)
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is no calibration: {error}") from error


def _table(frames: Sequence[dict[str, Any]]) -> np.ndarray:
    """The evidence for all candidates of some frames, `(n, len(EVIDENCE))`."""
    columns = [np.array([value for c in frames for value in c[name]], np.float64) for name in EVIDENCE]
    table = np.stack(columns, 1)
    table[:, 0] = logit(np.clip(table[:, 0], 1 / 512, 511 / 512))  # as far as 8 bits can tell
    table[:, EVIDENCE.index("area")] = np.log(table[:, EVIDENCE.index("area")])
    return table


def fit_calibration(frames: Sequence[dict[str, Any]]) -> Calibration:
    """
    Fit a calibration to the candidates of labelled frames, see `extract_candidates`; what masks leave open isn't
    counted.

    Logistic regression with a Gaussian prior on the weights that is centred on the teacher's own word: 1 for the
    logit of its mean probability, 0 for the rest. A handful of frames leaves it near that. Which evidence is used is
    decided by the logarithmic loss on frames left out of the fit, in ten folds of whole frames; the next larger set
    has to be better.
    """
    judged = [_judged(c) for c in frames]
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
    losses = [_left_out_loss(with_candidates, features) for features in MODELS]
    best = 0
    while best + 1 < len(MODELS) and losses[best + 1] < losses[best]:
        best += 1
    fitted = _fit(_table(with_candidates), _truth(with_candidates), MODELS[best])
    return replace(fitted, **counts, log_loss=tuple(losses))


def _judged(frame: dict[str, Any]) -> dict[str, Any]:
    """The candidates of a frame whose human mask says whether they are targets."""
    known = [place for place, is_true in enumerate(frame["true"]) if is_true is not None]
    return {name: [frame[name][place] for place in known] for name in (*EVIDENCE, "strong", "true")}


def _truth(frames: Sequence[dict[str, Any]]) -> np.ndarray:
    return np.concatenate([np.array(c["true"], bool) for c in frames])


def _left_out_loss(frames: list[dict[str, Any]], features: tuple[str, ...]) -> float:
    """Mean logarithmic loss over candidates, each judged by a fit that hasn't seen its frame."""
    folds, losses = min(FOLDS, len(frames)), []
    for fold in range(folds):
        seen = [c for i, c in enumerate(frames) if i % folds != fold]
        unseen = [c for i, c in enumerate(frames) if i % folds == fold]
        z = _fit(_table(seen), _truth(seen), features)._logits(_table(unseen))
        losses.append(np.logaddexp(0, np.where(_truth(unseen), -z, z)))
    return float(np.concatenate(losses).mean())


def _fit(table: np.ndarray, true: np.ndarray, features: tuple[str, ...]) -> Calibration:
    features = tuple(f for f in features if np.isfinite(table[:, EVIDENCE.index(f)]).any())
    if not features:
        return Calibration()
    x = table[:, [EVIDENCE.index(f) for f in features]]
    centre, scale = np.nanmean(x, 0), np.nanstd(x, 0)
    own_word = np.array([f == "probability" for f in features])
    centre, scale = np.where(own_word, 0, centre), np.where(own_word | (scale < 1e-6), 1, scale)
    x = np.nan_to_num((x - centre) / scale)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = parameters[:-1] - own_word, parameters[-1]
        z = x @ parameters[:-1] + bias
        value = np.logaddexp(0, np.where(true, -z, z)).sum()
        value += (weights @ weights / SPREAD_OF_WEIGHTS**2 + bias**2 / SPREAD_OF_BIAS**2) / 2
        residual = expit(z) - true
        slope = np.append(residual @ x + weights / SPREAD_OF_WEIGHTS**2, residual.sum() + bias / SPREAD_OF_BIAS**2)
        return value, slope

    found = optimize.minimize(loss, np.append(own_word, 0.0), jac=True, method="BFGS").x
    weights, bias = tuple(map(float, found[:-1])), float(found[-1])
    return Calibration(features, weights, bias, tuple(map(float, centre)), tuple(map(float, scale)))


def match_prevalence(calibration: Calibration, frames: Iterable[dict[str, Any]]) -> Calibration:
    """
    The calibration for frames without labels. It assumes that the labelled frames are a random sample.

    A teacher is surer on the frames that it was trained on, and raises fewer false alarms there, so what was learnt on
    them flatters it elsewhere. But other frames hold as many targets: the offset is such that their candidates' scores
    sum to the labelled frames' true candidates a frame, times the number of frames. It is never positive.

    Args:
        frames: the candidates of all frames without labels.
    """
    logits = [calibration._logits(_table([c])) for c in frames]
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
