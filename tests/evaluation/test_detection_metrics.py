"""Boxes' metrics against implementations that share nothing with them."""

import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from scalpel_hf.evaluation import DetectionMetrics

Frame = tuple[np.ndarray, np.ndarray, np.ndarray]


def random_frames(seed: int, count: int = 12) -> list[Frame]:
    """Predicted boxes a pixel or so beside true ones, doubled, missing and invented."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        corner, sides = rng.integers(0, 50, (rng.integers(0, 5), 2)), rng.integers(1, 14, (50, 2))
        truth = np.concatenate([corner, corner + sides[: len(corner)]], axis=1).astype(float)
        near = truth[rng.integers(len(truth), size=rng.integers(0, 7))] if len(truth) else truth
        invented = np.array([[60, 60, 63, 64]] * rng.integers(0, 2)).reshape(-1, 4)
        boxes = np.concatenate([near + rng.integers(-1, 2, near.shape), invented])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        frames.append((rng.permutation(len(boxes)) / 10 + 0.05 * rng.random(len(boxes)), boxes, truth))
    return frames


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inside = max(width, 0) * max(height, 0)
    return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)


def area(box: np.ndarray) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def naive_ap(frames: list[Frame], least: float, low: float = 0, high: float = np.inf) -> float | None:
    """COCO's AP at one overlap: targets outside the area range may be matched, but count for nothing, nor do boxes
    outside it that match nothing."""
    hits, count = [], 0
    for scores, boxes, truth in frames:
        counts = [low <= area(t) < high for t in truth]
        count += sum(counts)
        free = set(range(len(truth)))
        for index in np.argsort(-scores, kind="stable"):
            reach = [(counts[t], overlap(boxes[index], truth[t]), t) for t in free]
            reach = [r for r in reach if r[1] >= least]
            if reach:
                counted, _, target = max(reach)
                free.remove(target)
                if counted:
                    hits.append((scores[index], True))
            elif low <= area(boxes[index]) < high:
                hits.append((scores[index], False))
    if not count:
        return None
    hits.sort(key=lambda h: -h[0])
    found = np.cumsum([hit for _, hit in hits])
    precision = found / np.arange(1, len(hits) + 1)
    recall = found / count
    values = [max(precision[recall >= r - 1e-12], default=0.0) for r in np.linspace(0, 1, 101)]
    return float(np.mean(values))


def measured(frames: list[Frame], **settings: float) -> dict[str, Any]:
    metrics = DetectionMetrics(**settings)
    for frame in frames:
        metrics.update(*frame)
    return metrics.compute()


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_by_its_definition(seed: int) -> None:
    frames = random_frames(seed)
    metrics = measured(frames)
    for name, bounds in {"": (0, np.inf), "_tiny": (0, 9), "_small": (9, 81), "_large": (81, np.inf)}.items():
        values = [naive_ap(frames, least, *bounds) for least in np.linspace(0.5, 0.95, 10)]
        assert metrics["ap50" + name] == pytest.approx(values[0]), name
        mean = None if values[0] is None else np.mean(values)
        assert metrics["ap50_95" + name] == pytest.approx(mean), name
    assert 0 < metrics["ap50_95"] < metrics["ap50"] < 1


def test_right_boxes_of_every_size_are_right() -> None:
    truth = np.array([[5, 3, 6, 4], [7, 3, 8, 4], [10, 10, 12, 11], [20, 20, 23, 23], [30, 30, 41, 42]], float)
    metrics = measured([(np.linspace(0.6, 0.9, 5), truth, truth)])
    for name in ("ap50", "ap50_95", "ap50_tiny", "ap50_95_small", "ap50_large", "precision", "recall", "f1"):
        assert metrics[name] == pytest.approx(1), name


def best_matching(centres: np.ndarray, targets: np.ndarray, distance: float) -> int:
    """Most pairs within the distance, by trying all orders."""
    best = 0
    for order in itertools.permutations(range(len(targets)), min(len(targets), len(centres))):
        for chosen in itertools.permutations(range(len(centres)), len(order)):
            gaps = [np.linalg.norm(centres[c] - targets[t]) for c, t in zip(chosen, order, strict=True)]
            best = max(best, sum(g < distance for g in gaps))
    return best


@pytest.mark.parametrize("seed", range(4))
def test_precision_recall_and_f1_where_targets_are_apart(seed: int) -> None:
    """Greedy matching is the best one where no box is near two targets."""
    rng = np.random.default_rng(seed)
    places = rng.permutation(np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(-1, 2))[:5] * 20.0
    truth = np.concatenate([places[:3], places[:3] + 3], axis=1)
    boxes = np.concatenate([places[1:], places[1:] + 3], axis=1) + rng.integers(-3, 4, (4, 4)) * 0.9
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    scores = np.array([0.9, 0.8, 0.7, 0.4])
    kept = boxes[:3]
    matched = best_matching((kept[:, :2] + kept[:, 2:]) / 2, (truth[:, :2] + truth[:, 2:]) / 2, 3)
    metrics = measured([(scores, boxes, truth)])
    assert (metrics["n_targets"], metrics["n_predicted"], metrics["n_matched"]) == (3, 3, matched)
    assert metrics["precision"] == matched / 3 and metrics["recall"] == matched / 3 and metrics["f1"] == matched / 3


def test_the_best_score_takes_the_nearest_target_once() -> None:
    truth = [[0, 0, 2, 2], [2, 0, 4, 2]]  # centres 2 apart
    frame = ([0.9, 0.8, 0.7], [[1, 0, 4, 2], [2, 0, 4, 2], [2, 0, 4, 2]], truth)
    metrics = measured([frame])  # the first takes the second target, the next the first, for the last none is left
    assert (metrics["n_matched"], metrics["n_predicted"]) == (2, 3)
    assert metrics["precision"] == pytest.approx(2 / 3) and metrics["recall"] == 1 and metrics["f1"] == 0.8


def test_the_distance_is_exclusive_and_the_threshold_too() -> None:
    truth = [[0, 0, 2, 2]]
    assert measured([([0.9], [[3, 0, 5, 2]], truth)])["n_matched"] == 0
    assert measured([([0.9], [[3, 0, 5, 2]], truth)], distance=3.01)["n_matched"] == 1
    assert measured([([0.5], truth, truth)])["n_predicted"] == 0
    assert measured([([0.5], truth, truth)], threshold=0.49)["n_matched"] == 1


def test_the_order_of_targets_changes_nothing() -> None:
    frames = random_frames(7)
    shuffled = [(s, b, t[::-1]) for s, b, t in frames]
    assert measured(frames) == measured(shuffled)


def test_nothing_to_find_and_nothing_found() -> None:
    metrics = measured([])
    assert (metrics["ap50"], metrics["precision"], metrics["recall"], metrics["f1"]) == (0, 0, 0, 0)
    assert metrics["ap50_tiny"] is None
    truth = np.array([[1, 1, 3, 3]])
    assert measured([([], [], truth)])["ap50"] == 0
    metrics = measured([([0.9], truth, []), ([], [], [])])
    assert (metrics["n_images"], metrics["n_targets"], metrics["n_predicted"], metrics["precision"]) == (2, 0, 1, 0)


def test_wrong_values_are_clear_errors() -> None:
    for settings in ({"threshold": 1.0}, {"distance": 0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            DetectionMetrics(**settings)
    metrics = DetectionMetrics()
    with pytest.raises(ValueError, match="1 numbers in"):
        metrics.update([0.5, 0.5], [[0, 0, 1, 1]], [])
    with pytest.raises(ValueError, match="`scores` are"):
        metrics.update([1.5], [[0, 0, 1, 1]], [])
    with pytest.raises(ValueError, match="`truth` are rows"):
        metrics.update([], [], [[3, 0, 1, 1]])
    assert metrics.frames == []


def test_the_evaluator_is_optional() -> None:
    code = """
import sys
sys.modules["pycocotools"] = None
import scalpel_hf
from scalpel_hf.evaluation import DetectionMetrics, IRSTDMetrics
try:
    DetectionMetrics().compute()
except ImportError as error:
    assert "pip install 'scalpel-hf[detection]'" in str(error)
else:
    raise AssertionError("computed without an evaluator")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
