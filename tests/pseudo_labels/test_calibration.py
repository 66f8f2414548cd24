import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from scalpel_hf.pseudo_labels import Calibration, fit_calibration, match_prevalence
from scalpel_hf.pseudo_labels.calibration import _feature_table, _fit, _truth
from scalpel_hf.pseudo_labels.evidence import EVIDENCE


def world(n: int, seed: int, shift: float = 0.0, informative: bool = True) -> list[dict[str, Any]]:
    """
    Frames with candidates whose chance to be a target is σ(0.5·logit p + contrast − 2 + shift); the teacher says p.
    """
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        k = rng.integers(0, 5)
        p, contrast = rng.uniform(0.2, 0.98, k), rng.normal(1.5, 1.5, k)
        true = rng.random(k) < expit(0.5 * logit(p) + informative * contrast - 2 + shift)
        frames.append(
            {
                "strong": [True] * k,
                "true": true.tolist(),
                "has_target": bool(true.any()),
                "probability": p.tolist(),
                "contrast": contrast.tolist(),
                "agreement": [float("nan")] * k,
                "area": rng.integers(1, 60, k).tolist(),
            }
        )
    return frames


def scores(calibration: Calibration, frames: list[dict[str, Any]]) -> np.ndarray:
    return np.concatenate([calibration.scores(c) for c in frames])


def truth(frames: list[dict[str, Any]]) -> np.ndarray:
    return np.concatenate([np.array(c["true"], bool) for c in frames])


def log_loss(p: np.ndarray, true: np.ndarray) -> float:
    return float(-np.log(np.where(true, p, 1 - p)).mean())


def test_without_labelled_frames_a_score_is_the_mean_probability() -> None:
    candidates = {name: [0.25, 1.0] for name in EVIDENCE}
    assert Calibration().scores(candidates).tolist() == [0.25, 1.0]
    assert Calibration().trust_in_empty == 1.0


def test_scores_are_frequencies_on_frames_it_has_not_seen() -> None:
    calibration = fit_calibration(world(400, 0))
    unseen = world(4000, 1)
    p, true = scores(calibration, unseen), truth(unseen)
    assert calibration.features == ("probability", "contrast", "area")
    for low, high in ((0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1)):
        inside = (p >= low) & (p < high)
        error = np.sqrt(0.25 / inside.sum())
        assert abs(p[inside].mean() - true[inside].mean()) < 3 * error + 0.03
    assert log_loss(p, true) < log_loss(scores(Calibration(), unseen), true) - 0.1


def test_the_fit_is_the_penalised_likelihoods_maximum() -> None:
    frames = [c for c in world(40, 2) if c["strong"]]
    features = ("probability", "contrast", "area")
    fitted = _fit(_feature_table(frames), _truth(frames), features)
    table = _feature_table(frames)[:, [EVIDENCE.index(f) for f in features]]
    x = torch.tensor((table - fitted.centre) / fitted.scale)
    y = torch.tensor(truth(frames), dtype=torch.float64)
    parameters = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        z = x @ parameters[:3] + parameters[3]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="sum")
        prior = torch.tensor([1.0, 0, 0], dtype=torch.float64)
        loss = loss + ((parameters[:3] - prior) ** 2).sum() / 2 + parameters[3] ** 2 / 18
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = parameters.detach().numpy()
    np.testing.assert_allclose([*fitted.weights, fitted.bias], expected, atol=1e-4)
    np.testing.assert_allclose(table[:, 1:].mean(0), fitted.centre[1:])
    assert fitted.centre[0] == 0 and fitted.scale[0] == 1


def test_few_frames_leave_the_teacher_its_word() -> None:
    """With next to nothing to learn from, what it gives is close to what the teacher says, and never absurd."""
    for n in (0, 1, 2, 3):
        frames = [c for c in world(30, 3) if len(c["strong"]) == 2][:n]
        calibration = fit_calibration(frames)
        p = scores(calibration, world(50, 4))
        assert np.isfinite(p).all() and (p > 0).all() and (p < 1).all()
        assert np.corrcoef(p, scores(Calibration(), world(50, 4)))[0, 1] > 0.5
    all_true = [{**c, "true": [True] * len(c["true"])} for c in world(34, 5)]
    assert scores(fit_calibration(all_true), all_true).min() > 0.5


def test_evidence_that_says_nothing_is_rarely_used() -> None:
    used = [fit_calibration(world(34, seed, informative=False)).features for seed in range(12)]
    assert sum(len(features) > 1 for features in used) <= 4
    assert all(len(fit_calibration(world(100, seed)).features) > 1 for seed in range(5))


def test_losses_are_of_frames_left_out() -> None:
    """Labels drawn anew: nothing can be learnt, and the fit's loss on its own frames would hide that."""
    frames = world(34, 6)
    rng = np.random.default_rng(0)
    frames = [{**c, "true": (rng.random(len(c["true"])) < 0.5).tolist()} for c in frames]
    calibration = fit_calibration(frames)
    assert min(calibration.log_loss[1:]) > np.log(2) - 0.05
    seen = [c for c in frames if c["strong"]]
    assert log_loss(
        expit(_fit(_feature_table(seen), _truth(seen), EVIDENCE)._logits(_feature_table(seen))), truth(frames)
    ) < np.log(2)


def test_prevalence_corrects_a_flattered_teacher() -> None:
    """Other frames hold as many targets as the labelled ones, and more clutter that looks the same."""
    fitted = fit_calibration(world(300, 7, shift=2.0))
    per_frame = fitted.true / fitted.frames
    cluttered = [
        {k: (v + w if isinstance(v, list) else v) for (k, v), w in zip(c.items(), d.values(), strict=True)}
        for c, d in zip(world(3000, 9, shift=2.0), clutter(3000, 10), strict=True)
    ]
    corrected = match_prevalence(fitted, cluttered)
    after, true = scores(corrected, cluttered), truth(cluttered)
    assert corrected.offset < -0.2
    assert after.sum() == pytest.approx(per_frame * 3000, rel=1e-4)
    assert log_loss(after, true) < log_loss(scores(fitted, cluttered), true)
    assert abs(after.mean() - true.mean()) < abs(scores(fitted, cluttered).mean() - true.mean()) / 2


def clutter(n: int, seed: int) -> list[dict[str, Any]]:
    return [{**c, "true": [False] * len(c["true"])} for c in world(n, seed)]


def test_prevalence_never_makes_scores_higher_and_needs_frames() -> None:
    fitted = fit_calibration(world(100, 11))
    assert match_prevalence(fitted, []) == fitted
    assert match_prevalence(Calibration(), world(5, 12)) == Calibration()
    none = [{**c, **{k: [] for k in (*EVIDENCE, "strong", "true")}} for c in world(50, 13)]
    assert match_prevalence(fitted, none).offset == 0
    assert (
        match_prevalence(
            fit_calibration([{**c, "true": [False] * len(c["true"])} for c in world(50, 14)]), world(50, 15)
        ).offset
        < -3
    )


def test_trust_in_empty_answers() -> None:
    empty = {**{k: [] for k in (*EVIDENCE, "strong", "true")}, "has_target": False}
    weak = {**{k: [0.3] for k in EVIDENCE}, "strong": [False], "true": [True], "has_target": True}
    calibration = fit_calibration([empty] * 8 + [weak] * 2)
    assert (calibration.empty_right, calibration.empty_wrong) == (8, 2)
    assert calibration.trust_in_empty == 9 / 12


def test_what_masks_leave_open_is_not_learnt_from() -> None:
    frames = world(60, 7)
    expected = fit_calibration(frames)
    for number, frame in enumerate(frames):  # to each frame one more candidate, at another place, that nobody judges
        place = number % (len(frame["strong"]) + 1)
        for name, value in {**dict.fromkeys(EVIDENCE, 0.99), "strong": True, "true": None}.items():
            frame[name].insert(place, value)
    found = fit_calibration(frames)
    # Frames in which nothing but such a candidate is found say nothing of the teacher's word on empty ones.
    assert found.empty_right == found.empty_wrong == 0 and expected.empty_right > 0
    assert replace(found, empty_right=expected.empty_right, empty_wrong=expected.empty_wrong) == expected
    unknown = {**{name: [] for name in (*EVIDENCE, "strong", "true")}, "has_target": None}
    assert fit_calibration([unknown]) == Calibration(frames=1)


def test_saved_and_loaded(tmp_path: Path) -> None:
    calibration = match_prevalence(fit_calibration(world(40, 16)), world(40, 17))
    calibration.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == calibration
    for content in ("[1]", '{"feature": []}', "no json"):
        (tmp_path / "c.json").write_text(content)
        with pytest.raises(ValueError, match=r"c\.json is no calibration"):
            Calibration.load(tmp_path / "c.json")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"features": ["colour"]}, r"unknown features \['colour'\]"),
        ({"weights": [1.0]}, "`weights` has 1 values for 0 features"),
        ({"bias": float("nan")}, "finite numbers"),
        ({"bias": "0"}, "finite numbers"),
        ({"offset": None}, "finite numbers"),
        ({"features": ["area"], "weights": [1], "centre": [0], "scale": [0]}, "`scale` not 0"),
        ({"frames": -1}, "whole numbers of 0 or more"),
        ({"frames": 1.5}, "whole numbers of 0 or more"),
        ({"features": 3}, "is no calibration"),
        ({"surplus": 1}, "surplus"),
    ],
)
def test_a_file_with_other_values_is_no_calibration(tmp_path: Path, change: dict, problem: str) -> None:
    path = tmp_path / "calibration.json"
    Calibration().save(path)
    assert Calibration.load(path) == Calibration()
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=f"{path} is no calibration: ") as raised:
        Calibration.load(path)
    assert re.search(problem, str(raised.value))
