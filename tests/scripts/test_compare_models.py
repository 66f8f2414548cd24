"""Two models on the same frames: counts, intervals, and the program that prints them."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from scipy import stats

from scalpel_hf import SyntheticInfrared
from scalpel_hf.data import apply_label_budget
from scalpel_hf.evaluation.comparison import (
    COUNTS,
    bootstrap_differences,
    count_frames,
    found_by_size,
    iou_without_each_frame,
    mean_metrics,
    metrics_of_counts,
)
from scalpel_hf.evaluation.evaluator import evaluate_probabilities
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.predictors.load import seeds_of_models
from scripts.benchmarks import compare_models

CAMERA = SyntheticInfrared(size=(40, 50), n_targets=(0, 3), extent=(3, 5), seed=3)


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    return CAMERA.to_dataset(12)


def guesser(rows: datasets.Dataset, seed: int, misses: float = 0.3) -> SimpleNamespace:
    """What knows the masks but for a share of their pixels, and raises a few false alarms."""
    generator = np.random.default_rng(seed)
    predictions = {}
    for row in rows:
        truth = np.asarray(row["mask"]) > 127
        hits = truth & (generator.random(truth.shape) > misses)
        prediction = hits | (generator.random(truth.shape) < 0.002)
        predictions[read_frame(row["image"]).tobytes()] = prediction.astype(np.float32)
    return SimpleNamespace(probabilities=lambda image: predictions[read_frame(image).tobytes()])


def counts_of(rows: datasets.Dataset, seeds: list[int], misses: float = 0.3) -> np.ndarray:
    return np.stack([count_frames(guesser(rows, seed, misses).probabilities, rows)[0] for seed in seeds])


def test_the_frames_counts_add_up_to_the_metrics(rows: datasets.Dataset) -> None:
    counts = counts_of(rows, [0, 1])
    assert counts.shape == (2, 12, len(COUNTS))
    once = np.ones((1, 12), dtype=np.int64)
    for seed, (found,) in enumerate(metrics_of_counts(counts, once)):
        expected = evaluate_probabilities(guesser(rows, seed).probabilities, rows)
        assert found == pytest.approx([expected[name] for name in ("iou", "niou", "pd", "fa")], rel=1e-12)
    assert mean_metrics(counts) == pytest.approx(metrics_of_counts(counts, once)[:, 0].mean(0))


def test_a_frame_that_is_drawn_twice(rows: datasets.Dataset) -> None:
    counts = counts_of(rows, [0, 1])
    weights = np.array([[2] + [1] * 9 + [0, 0], [0] * 6 + [2] * 6])
    for drawn, found in zip(weights, np.moveaxis(metrics_of_counts(counts, weights), 1, 0), strict=True):
        assert found.mean(0) == pytest.approx(mean_metrics(np.repeat(counts, drawn, axis=1)), rel=1e-12)


def test_how_much_of_small_and_large_targets_is_found() -> None:
    mask = np.zeros((30, 40), np.uint8)
    boxes = {(0, 0, 2, 3): 4, (5, 5, 10, 1): 10, (20, 2, 4, 10): 7, (10, 20, 11, 11): 100}  # up, left, sides: found
    prediction = np.zeros(mask.shape, np.float32)
    for (row, column, height, width), found in boxes.items():
        mask[row : row + height, column : column + width] = 255
        inside = np.zeros(height * width, np.float32)
        inside[:found] = 0.9
        prediction[row : row + height, column : column + width] = inside.reshape(height, width)
    prediction[29, 39] = 1  # no part of any target
    counts, targets = count_frames(lambda image: prediction, [{"name": "a", "image": mask, "mask": mask}] * 2)
    assert counts.shape == (2, len(COUNTS)) and sorted(map(tuple, targets)) == sorted(
        2 * [(6, 4), (10, 10), (40, 7), (121, 100)]
    )
    missed = targets * [1, 0]
    numbers, share = found_by_size(np.stack([targets, missed]))
    assert numbers.tolist() == [4, 2, 0, 2]
    assert share == pytest.approx([14 / 16 / 2, 7 / 40 / 2, 0, 100 / 121 / 2])


def test_a_hidden_mask_is_named(rows: datasets.Dataset) -> None:
    hidden = rows.map(lambda row: {"mask": None}, features=rows.features)
    with pytest.raises(ValueError, match=f"{rows[0]['name']} has no mask"):
        count_frames(guesser(rows, 0).probabilities, hidden)


def test_one_seed_s_interval_is_scipy_s(rows: datasets.Dataset) -> None:
    first, second = counts_of(rows, [0], misses=0.2), counts_of(rows, [1], misses=0.5)

    def difference(frames: np.ndarray, axis: int) -> np.ndarray:
        iou = [c[0, frames, 0].sum(axis) / c[0, frames, 1].sum(axis) for c in (first, second)]
        return iou[0] - iou[1]

    expected = stats.bootstrap(
        (np.arange(12),), difference, vectorized=True, axis=-1, method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    draws = bootstrap_differences(first, second)[:, 0]
    # A percentile of 10000 draws is uncertain by about a fortieth of their standard deviation.
    assert np.percentile(draws, [2.5, 97.5]) == pytest.approx([expected.low, expected.high], abs=0.1 * draws.std())
    assert draws.std() > 0.005


def test_both_models_get_the_same_frames(rows: datasets.Dataset) -> None:
    counts = counts_of(rows, [0])
    assert not bootstrap_differences(counts, counts).any()


def test_seeds_are_drawn_as_well(rows: datasets.Dataset) -> None:
    counts = [counts_of(rows, [0]), counts_of(rows, [0], misses=0.9)]
    fullest = counts[0][0, :, COUNTS.index("n_union")].argmax()
    one, other = (np.repeat(c[:, fullest, None], 8, axis=1) for c in counts)  # eight frames alike: only seeds differ
    spread = bootstrap_differences(np.concatenate([one, other]), one)[:, 0]
    iou = [mean_metrics(counts)[0] for counts in (one, other)]
    assert sorted(set(np.round(spread, 9))) == pytest.approx(sorted([iou[1] - iou[0], (iou[1] - iou[0]) / 2, 0]))
    assert np.mean(np.isclose(spread, (iou[1] - iou[0]) / 2)) == pytest.approx(0.5, abs=0.02)


def test_a_frame_left_out(rows: datasets.Dataset) -> None:
    first, second = counts_of(rows, [0, 1]), counts_of(rows, [2, 3], misses=0.5)
    without = iou_without_each_frame(first, second)
    for i in range(12):
        rest = [mean_metrics(np.delete(counts, i, axis=1))[0] for counts in (first, second)]
        assert without[i] == pytest.approx(rest[0] - rest[1])


def test_seeds_of_models(tmp_path: Path, with_configurations: Callable[..., list[Path]]) -> None:
    folders = with_configurations("full-0", "plain", "full-1", "no-0-operators", "-1")
    assert seeds_of_models(folders) == {
        "full": [folders[0], folders[2]],
        "plain": [folders[1]],
        "no-0-operators": [folders[3]],
        "-1": [folders[4]],
    }
    apart = with_configurations("a/x/student", "b/x/student", "a/full-0", "b/full-1", "a/full-2")
    assert seeds_of_models(apart) == {
        "a/x/student": [apart[0]],
        "b/x/student": [apart[1]],
        "a/full": [apart[2], apart[4]],
        "b/full": [apart[3]],
    }
    with pytest.raises(ValueError, match="absent holds no model"):
        seeds_of_models([*folders, tmp_path / "absent"])


def test_the_program(
    rows: datasets.Dataset,
    saved_rows: str,
    tmp_path: Path,
    with_configurations: Callable[..., list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = {"full-0": guesser(rows, 0), "full-1": guesser(rows, 1), "plain": guesser(rows, 2, misses=0.8)}
    monkeypatch.setattr(compare_models, "load_trained", lambda folder, *_: models[folder.name])
    full, other, plain, seven = map(str, with_configurations("full-0", "full-1", "plain", "other-7"))
    command = ["--dataset", saved_rows, "--models", full, other, plain]
    compare_models.main(command)
    lines = capsys.readouterr().out.splitlines()
    targets = evaluate_probabilities(models["plain"].probabilities, rows)["n_targets"]
    assert lines[0] == f"12 frames, {targets} targets, threshold 0.5"
    assert lines[2] == "| | full (2) | plain (1) | difference | 95 % |"
    iou = [100 * evaluate_probabilities(m.probabilities, rows)["iou"] for m in models.values()]
    first, second = (iou[0] + iou[1]) / 2, iou[2]
    assert lines[4].startswith(f"| IoU % | {first:.1f} | {second:.1f} | {first - second:+.1f} | +")
    assert [line.split(" |")[0] for line in lines[4:8]] == ["| IoU %", "| nIoU %", "| Pd %", "| Fa 1e-6"]
    sizes = lines[9:15]
    assert sizes[0] == "| pixels of a target | targets | found by full, % | by plain, % |"
    assert [line.split(" |")[0] for line in sizes[2:]] == ["| 1 to 10", "| 11 to 40", "| 41 to 100", "| more than 100"]
    assert sum(int(line.split(" | ")[1]) for line in sizes[2:]) == targets
    assert len(lines) == 21 and lines[16].split(":")[0] in rows["name"]

    compare_models.main(["--dataset", saved_rows, "--models", full, plain, other])
    assert capsys.readouterr().out.splitlines() == lines
    models["other-7"] = models["plain"]
    compare_models.main([*command, seven])
    both = capsys.readouterr().out.splitlines()
    renamed = [line.replace("plain (1)", "other (1)").replace("by plain", "by other") for line in lines[2:]]
    assert both[:21] == lines and both[22:] == renamed

    budget = apply_label_budget(rows, 0.25)
    datasets.DatasetDict({"train": budget}).save_to_disk(str(tmp_path / "budget"))
    compare_models.main([*command, "--split", "train", "--trained-on", str(tmp_path / "budget")])
    assert capsys.readouterr().out.startswith("9 frames, ")
    with pytest.raises(ValueError, match="the model can't be evaluated on them"):
        compare_models.main([*command, "--split", "train", "--trained-on", saved_rows])


def test_two_models_are_asked_for(saved_rows: str, with_configurations: Callable[..., list[Path]]) -> None:
    folders = map(str, with_configurations("full-0", "full-1"))
    with pytest.raises(ValueError, match="no other model to compare full with"):
        compare_models.main(["--dataset", saved_rows, "--models", *folders])
