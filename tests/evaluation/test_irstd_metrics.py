import json
import math
from collections.abc import Iterable
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy import ndimage

import scalpel_hf.evaluation
from scalpel_hf.evaluation import IRSTDMetrics
from scalpel_hf.evaluation.irstd_metrics import components

SIZES = st.tuples(st.integers(1, 14), st.integers(1, 14))


def blobs(rng: np.random.Generator, shape: tuple[int, int], count: int) -> np.ndarray:
    """Frame of up to `count` overlapping discs of 1 to 5 pixels' radius."""
    frame = np.zeros(shape, dtype=bool)
    rows, columns = np.indices(shape)
    for _ in range(count):
        row, column, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(0.5, 5)
        frame |= np.hypot(rows - row, columns - column) < radius
    return frame


def perturbed(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """A prediction such as a mediocre model makes: shifted, blurred, noisy, with false alarms and misses."""
    prob = ndimage.shift(mask.astype(float), rng.uniform(-3, 3, size=2), order=1)
    prob = ndimage.gaussian_filter(prob, rng.uniform(0.3, 1.0)) + rng.normal(0, 0.15, mask.shape)
    prob += rng.uniform(0.4, 1) * blobs(rng, mask.shape, int(rng.integers(0, 3)))
    return prob.clip(0, 1)


def random_frames(seed: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        mask = blobs(rng, tuple(rng.integers(8, 60, size=2)), int(rng.integers(0, 5)))
        frames.append((perturbed(rng, mask), mask))
    return frames


def computed(frames: Iterable[tuple[Any, Any]], **options: Any) -> dict:
    metrics = IRSTDMetrics(**options)
    for prob, mask in frames:
        metrics.update(prob, mask)
    return metrics.compute()


def flood_fill(frame: np.ndarray) -> list[list[tuple[int, int]]]:
    """8-connected components in label order, by the definition."""
    todo = {(int(r), int(c)) for r, c in np.argwhere(frame)}
    components = []
    for start in sorted(todo):
        if start not in todo:
            continue
        todo.remove(start)
        component, border = [], [start]
        while border:
            row, column = border.pop()
            component.append((row, column))
            neighbours = {(row + dr, column + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)} & todo
            todo -= neighbours
            border += neighbours
        components.append(component)
    return components


def brute_force(
    frames: list[tuple[np.ndarray, np.ndarray]], threshold: float = 0.5, distance: float = 3.0, legacy_fa: bool = False
) -> dict[str, float]:
    """The rules written out with Python loops."""
    intersections, unions, ious, targets, detected, false_pixels, pixels = 0, 0, [], 0, 0, 0, 0
    for prob, mask in frames:
        height, width = mask.shape
        cells = [(r, c) for r in range(height) for c in range(width)]
        both = sum(bool(prob[cell] > threshold and mask[cell]) for cell in cells)
        either = sum(bool(prob[cell] > threshold or mask[cell]) for cell in cells)
        intersections, unions, pixels = intersections + both, unions + either, pixels + height * width
        ious.append(both / either if either else 0.0)

        def centre(component: list[tuple[int, int]]) -> tuple[float, float]:
            return (
                sum(r for r, _ in component) / len(component),
                sum(c for _, c in component) / len(component),
            )

        predictions = flood_fill(prob > threshold)
        unmatched, matched_areas = list(range(len(predictions))), set()
        for target in flood_fill(mask):
            targets += 1
            for index in unmatched:
                (r0, c0), (r1, c1) = centre(target), centre(predictions[index])
                if math.sqrt((r0 - r1) ** 2 + (c0 - c1) ** 2) < distance:
                    detected += 1
                    unmatched.remove(index)
                    matched_areas.add(len(predictions[index]))
                    break
        areas = [len(predictions[index]) for index in unmatched]
        false_pixels += sum(area for area in areas if not (legacy_fa and area in matched_areas))
    iou = intersections / unions if unions else 0.0
    return {
        "iou": iou,
        "niou": sum(ious) / len(ious),
        "pd": detected / targets if targets else 0.0,
        "fa": 1e6 * false_pixels / pixels,
        "f1": 2 * iou / (1 + iou),
        "n_images": len(frames),
        "n_targets": targets,
        "n_detected": detected,
        "n_false_pixels": false_pixels,
    }


def reference_toolkit(frames: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    toolkit = pytest.importorskip("py_irstd_metrics", reason="pyirstdmetrics is not installed")
    options = {"with_dynamic": False, "with_binary": True}
    pixelwise = toolkit.CMMetrics(
        threshold=0.5,
        metric_handlers={
            "iou": toolkit.IoUHandler(**options, sample_based=False),
            "niou": toolkit.IoUHandler(**options, sample_based=True),
            "f1": toolkit.FmeasureHandler(**options, sample_based=False, beta=1.0),
        },
    )
    targetwise = toolkit.ProbabilityDetectionAndFalseAlarmRate(num_bins=1, distance_threshold=3)
    for prob, mask in frames:
        pixelwise.update(prob, mask)
        targetwise.update(prob, mask)
    results = {name: float(value["binary"]) for name, value in pixelwise.get().items()}
    rates = targetwise.get()
    results["pd"] = float(rates["probability_detection"][0])
    results["fa"] = float(rates["false_alarm"][0]) * 1e6
    results["n_detected"], results["n_false_pixels"] = int(targetwise.tp_objs[0]), int(targetwise.fp_area[0])
    return results


def assert_agree(ours: dict, reference: dict) -> None:
    for name, value in reference.items():
        assert ours[name] == pytest.approx(value, rel=1e-13, abs=0), name


def test_reference_toolkit_on_random_masks() -> None:
    frames = random_frames(seed=0, count=120)
    assert_agree(computed(frames), reference_toolkit(frames))


def test_reference_toolkit_on_pixel_noise() -> None:
    rng = np.random.default_rng(1)
    frames = [(rng.uniform(0, 0.65, (24, 31)), rng.uniform(0, 1, (24, 31)) > 0.9) for _ in range(25)]
    assert_agree(computed(frames), reference_toolkit(frames))


def test_reference_toolkit_on_real_masks(shared_dir: Path) -> None:
    rng = np.random.default_rng(2)
    paths = sorted(shared_dir.glob("data/NUAA-SIRST/masks/*.png"))[::9]
    paths += sorted(shared_dir.glob("data/NUDT-SIRST/masks/*.png"))[::25]
    masks = [np.asarray(Image.open(path)) for path in paths]
    frames = [(perturbed(rng, mask > 0), mask > 0) for mask in masks]
    ours = computed(frames)
    assert 0 < ours["n_detected"] < ours["n_targets"] and ours["n_false_pixels"] > 0
    assert_agree(ours, reference_toolkit(frames))
    assert computed([(prob, mask) for (prob, _), mask in zip(frames, masks, strict=True)]) == ours  # 0/255 masks


@pytest.mark.parametrize("legacy_fa", [False, True])
def test_brute_force(legacy_fa: bool) -> None:
    frames = random_frames(seed=3, count=25)
    for options in ({}, {"threshold": 0.3, "distance": 5.0}):
        assert_agree(
            computed(frames, legacy_fa=legacy_fa, **options), brute_force(frames, legacy_fa=legacy_fa, **options)
        )


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_brute_force_on_arbitrary_masks(data: st.DataObject) -> None:
    shape = data.draw(SIZES)
    mask, predicted = (data.draw(hnp.arrays(bool, shape)) for _ in range(2))
    frames = [(predicted.astype(np.float32), mask)]
    assert_agree(computed(frames), brute_force(frames))
    assert_agree(computed(frames, legacy_fa=True), brute_force(frames, legacy_fa=True))


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, SIZES))
def test_label_order_is_the_first_pixels(frame: np.ndarray) -> None:
    for array in (frame, np.asfortranarray(frame), frame[::-1, ::-1]):
        centroids, areas = components(array)
        expected = flood_fill(array)
        assert areas.tolist() == [len(component) for component in expected]
        np.testing.assert_allclose(centroids, np.array([np.mean(c, axis=0) for c in expected]).reshape(-1, 2))


def test_order_of_frames_and_split_over_processes_change_nothing() -> None:
    frames = random_frames(seed=4, count=40)
    expected = computed(frames)
    rng = np.random.default_rng(0)
    shuffled = [frames[i] for i in rng.permutation(len(frames))]
    assert computed(shuffled) == expected
    workers = []
    for rank in range(4):
        worker = IRSTDMetrics()
        worker.update([prob for prob, _ in shuffled[rank::4]], [mask for _, mask in shuffled[rank::4]])
        workers.append(worker)
    before = workers[0].compute()
    assert reduce(add, workers).compute() == expected
    assert workers[0].compute() == before  # `+` leaves its operands alone
    for worker in workers[1:]:
        workers[0].merge(worker)
    assert workers[0].compute() == expected


def test_permuted_targets_change_nothing_where_no_prediction_is_contested() -> None:
    """Targets further apart than twice the radius have each their own candidates, so greedy order can't matter."""
    rng = np.random.default_rng(5)
    tiles = [(perturbed(rng, mask), mask) for mask in (np.pad(blobs(rng, (9, 9), 1), 6) for _ in range(9))]
    expected = None
    for _ in range(5):
        order = rng.permutation(9).reshape(3, 3)
        prob, mask = (np.block([[tiles[i][part] for i in row] for row in order]) for part in (0, 1))
        result = computed([(np.where(ndimage.binary_dilation(mask, iterations=5), prob, 0), mask)])
        counts = (result["n_targets"], result["n_detected"], result["n_false_pixels"], result["iou"])
        expected = expected or counts
        assert counts == expected and result["n_detected"] > 0


def test_flips_keep_the_pixel_metrics() -> None:
    frames = random_frames(seed=6, count=10)
    flipped = [(prob[::-1, ::-1], mask[::-1, ::-1]) for prob, mask in frames]
    ours, mirrored = computed(frames), computed(flipped)
    for name in ("iou", "niou", "f1", "n_targets"):
        assert ours[name] == mirrored[name]


def test_matching_rules() -> None:
    mask = np.zeros((20, 40))
    mask[5, 5] = mask[5, 20] = 255
    prob = np.zeros((20, 40))
    prob[5, 8] = 1  # exactly 3 px off: no match
    prob[7, 22] = 1  # 2.83 px off: a match without any overlap
    result = computed([(prob, mask)])
    assert (result["n_targets"], result["n_detected"], result["n_false_pixels"]) == (2, 1, 1)
    assert result["fa"] == pytest.approx(1e6 / 800)
    assert computed([(prob, mask)], legacy_fa=True)["fa"] == 0  # 1 px unmatched, 1 px matched
    assert computed([(prob, mask)], distance=3.01)["n_detected"] == 2


def test_one_prediction_serves_one_target_and_the_first_free_one_wins() -> None:
    mask = np.zeros((9, 9))
    mask[2, 2] = mask[2, 4] = 1
    prob = np.zeros((9, 9))
    prob[2, 3] = 1
    assert computed([(prob, mask)])["n_detected"] == 1
    prob[4, 1:4] = 1  # joins the first one diagonally? no: a row lies between
    assert computed([(prob, mask)])["n_detected"] == 2


def test_threshold_is_strict() -> None:
    mask = np.ones((2, 2), dtype=bool)
    assert computed([(np.full((2, 2), 0.5), mask)])["iou"] == 0
    assert computed([(np.full((2, 2), np.nextafter(0.5, 1)), mask)])["iou"] == 1


def test_empties() -> None:
    empty, full = np.zeros((4, 5)), np.ones((4, 5))
    both = computed([(empty, empty)])
    assert (both["iou"], both["niou"], both["pd"], both["fa"], both["f1"]) == (0, 0, 0, 0, 0)
    assert computed([(empty, empty), (full, full)])["niou"] == 0.5  # an empty pair counts as 0
    assert computed([(empty, empty), (full, full)])["iou"] == 1
    assert computed([(full, empty)])["fa"] == 1e6
    assert computed([(empty, full)])["pd"] == 0
    with pytest.raises(ValueError, match="nothing to compute"):
        IRSTDMetrics().compute()
    metrics = IRSTDMetrics()
    metrics.update([], [])
    assert not metrics.frame_ious


def test_accepted_inputs_agree() -> None:
    torch = pytest.importorskip("torch")
    frames = random_frames(seed=7, count=1)
    (prob, mask), expected = frames[0], computed(frames)
    variants: list[tuple[Any, Any]] = [
        (prob.tolist(), mask.tolist()),
        ([prob], [mask]),
        ([prob.tolist()], [mask.tolist()]),
        (prob[None], mask[None]),
        (torch.tensor(prob), torch.tensor(mask)),
        (torch.tensor(prob)[None], [mask]),
        (prob, mask.astype(np.uint8)),
        (prob, mask.astype(np.float32) * 255),
    ]
    for same in variants:
        assert computed([same]) == expected


@pytest.mark.parametrize(
    ("prob", "mask", "message"),
    [
        (np.full((2, 2), np.nan), np.zeros((2, 2)), "Frame 0: the prediction has values that are NaN"),
        (np.zeros((2, 2)), np.full((2, 2), np.inf), "Frame 0: the mask has values that are NaN"),
        (np.full((2, 2), 1.5), np.zeros((2, 2)), "sigmoid"),
        (np.full((2, 2), -0.1), np.zeros((2, 2)), r"lie in \[0, 1\]"),
        (np.zeros((2, 2)), np.zeros((2, 3)), r"mask's shape \(2, 3\)"),
        (np.zeros((2, 2)), np.full((2, 2), 300), "0 to 255"),
        (np.zeros(4), np.zeros(4), r"\(height, width\)"),
        (np.zeros((0, 4)), np.zeros((0, 4)), r"\(height, width\)"),
        (np.zeros((2, 2)), np.full((2, 2), "x"), "numeric"),
        ([np.zeros((2, 2))] * 2, [np.zeros((2, 2))], "2 predictions do not pair with 1 masks"),
        ([np.zeros((2, 2)), np.zeros((2, 2))], [np.zeros((2, 2)), np.zeros((3, 2))], "Frame 1"),
    ],
)
def test_bad_input_is_named_and_nothing_is_counted(prob: object, mask: object, message: str) -> None:
    metrics = IRSTDMetrics()
    with pytest.raises(ValueError, match=message):
        metrics.update(prob, mask)
    assert not metrics.frame_ious and metrics.n_pixels == 0


def test_settings() -> None:
    with pytest.raises(ValueError, match="threshold"):
        IRSTDMetrics(threshold=1.5)
    with pytest.raises(ValueError, match="distance"):
        IRSTDMetrics(distance=0)
    with pytest.raises(ValueError, match="different settings"):
        IRSTDMetrics().merge(IRSTDMetrics(threshold=0.4))
    result = computed(random_frames(seed=8, count=2), threshold=0.4, distance=4.0)
    assert (result["threshold"], result["distance"], result["legacy_fa"]) == (0.4, 4.0, False)
    assert json.loads(json.dumps(result)) == result


def test_evaluate_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = pytest.importorskip("evaluate")
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path / "modules")
    folder = Path(scalpel_hf.evaluation.__file__).parent / "irstd"
    frames = random_frames(seed=9, count=6)
    probs, masks = [prob for prob, _ in frames], [mask for _, mask in frames]
    module = evaluate.load(str(folder), cache_dir=str(tmp_path / "cache"))
    assert module.compute(predictions=probs, references=masks) == computed(frames)
    for prob, mask in frames:
        module.add(prediction=prob, reference=mask)
    assert module.compute(threshold=0.3, legacy_fa=True) == computed(frames, threshold=0.3, legacy_fa=True)
