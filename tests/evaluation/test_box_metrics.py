"""Metrics by the boxes and points that people drew."""

from typing import Any

import datasets
import numpy as np
import pytest

from scalpel_hf import SyntheticInfrared
from scalpel_hf.data.label_sources import as_objects
from scalpel_hf.data.masks import IGNORED, TARGET
from scalpel_hf.data.objects import encode_png
from scalpel_hf.evaluation.box_metrics import (
    as_detector,
    by_recording,
    count_boxes,
    count_found,
    detect_all,
    judged_by_boxes,
    metrics_by_boxes,
    metrics_of_box_counts,
    truth_of,
)
from scalpel_hf.evaluation.comparison import bootstrap_differences
from scalpel_hf.evaluation.evaluator import evaluate_detections, evaluate_probabilities
from scalpel_hf.evaluation.unseen import with_labels

NOTHING = np.zeros((0, 4))


def corners(*boxes: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(boxes, float).reshape(-1, 4)


@pytest.mark.parametrize(
    ("boxes", "truth", "counts"),
    [
        (NOTHING, NOTHING, (0, 0, 0, 1)),
        (NOTHING, corners((2, 2, 9, 9)), (1, 0, 0, 1)),
        (corners((4, 4, 6, 6)), NOTHING, (0, 0, 1, 1)),
        (corners((4, 4, 6, 6)), corners((2, 2, 9, 9)), (1, 1, 0, 1)),
        (corners((3, 3, 5, 5), (5, 5, 8, 8)), corners((2, 2, 9, 9)), (1, 1, 0, 1)),  # in two pieces
        (corners((8, 8, 10, 10)), corners((2, 2, 9, 9)), (1, 1, 0, 1)),  # its centre on the corner
        (corners((8, 8, 11, 11)), corners((2, 2, 9, 9)), (1, 0, 1, 1)),
        (corners((0, 0, 40, 40)), corners((2, 2, 9, 9)), (1, 0, 1, 1)),  # all of the frame finds nothing in it
        (corners((4, 4, 6, 6), (30, 30, 32, 32)), corners((2, 2, 9, 9), (50, 2, 60, 9)), (2, 1, 1, 1)),
    ],
)
def test_what_a_frame_counts(boxes: np.ndarray, truth: np.ndarray, counts: tuple[int, ...]) -> None:
    assert count_found(boxes, truth) == counts


def row(bbox: list[list[float]], source: str = "box") -> dict[str, Any]:
    return {"name": "f", "label_source": source, "objects": as_objects(bbox)}


def test_points_reach_three_pixels() -> None:
    np.testing.assert_array_equal(
        truth_of(row([[10, 20, 0, 0], [1, 2, 3, 4]], "point")), [[7, 17, 13, 23], [1, 2, 4, 6]]
    )
    assert truth_of(row([])).shape == (0, 4)
    with pytest.raises(ValueError, match="f has no label to evaluate with"):
        truth_of(row([], "none"))


def boxed_frames(recordings: list[str]) -> datasets.Dataset:
    """Frames with the boxes of their targets, and no mask."""
    rows = SyntheticInfrared(size=(48, 64), n_targets=(1, 2), extent=(2, 5), seed=5).to_dataset(len(recordings))
    masks = {row["name"]: np.asarray(row["mask"]) > 0 for row in rows}
    rows = rows.remove_columns("mask").add_column("mask", [None] * len(rows))
    rows = rows.add_column("label_source", ["box"] * len(rows)).add_column("recording", recordings)
    rows.masks = masks
    return rows


def test_a_model_that_knows_the_masks_finds_all_and_one_that_says_nothing_finds_none() -> None:
    rows = boxed_frames(["a", "a", "b", "c"])
    truths = iter(rows.masks.values())
    found = evaluate_probabilities(lambda frame: next(truths).astype(np.float32), rows)
    targets = sum(len(objects["bbox"]) for objects in rows["objects"])
    assert found == {
        "f1": 1.0,
        "pd": 1.0,
        "false_alarms_per_frame": 0.0,
        "n_targets": targets,
        "n_detected": targets,
        "n_false": 0,
        "n_images": 4,
        "threshold": 0.5,
    }
    nothing = evaluate_probabilities(lambda frame: np.zeros((48, 64), np.float32), rows)
    assert nothing["pd"] == nothing["f1"] == nothing["n_false"] == 0


def test_a_detector_has_average_precision_of_the_boxes_besides() -> None:
    rows = boxed_frames(["", "", ""])
    truths = [truth_of(row) for row in rows]
    frames = iter(truths)
    exact = lambda frame: (np.full(len(boxes := next(frames)), 0.9), boxes)  # noqa: E731
    metrics = evaluate_detections(exact, rows)
    assert metrics["ap50"] == metrics["pd"] == metrics["f1"] == 1.0
    frames = iter(truths)
    unsure = evaluate_detections(lambda frame: (np.full(len(boxes := next(frames)), 0.4), boxes), rows)
    assert unsure["ap50"] == 1.0 and unsure["pd"] == 0.0


def test_pixels_that_a_mask_ignores_count_beside_boxes_too() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[5:8, 5:8], mask[20:30, 20:30] = TARGET, IGNORED
    frame, drawn = ({"bytes": encode_png(pixels), "path": None} for pixels in (np.zeros_like(mask), mask))
    rows = [row([[5, 5, 3, 3]], source) | {"image": frame, "mask": drawn} for source in ("human", "box")]
    rows[1]["mask"] = None
    found = np.zeros(mask.shape, np.float32)
    found[5:8, 5:8] = found[22:25, 22:25] = 0.9
    mixed = (
        datasets.Dataset.from_list(rows).cast_column("image", datasets.Image()).cast_column("mask", datasets.Image())
    )
    boxes = (np.array([0.9, 0.9]), corners((5, 5, 8, 8), (22, 22, 25, 25)))
    for metrics in (evaluate_probabilities(lambda _: found, mixed), evaluate_detections(lambda _: boxes, mixed)):
        assert (metrics["n_detected"], metrics["n_false"]) == (2, 1), "false in the frame with boxes alone"


def test_counts_of_a_recording_are_of_all_its_frames() -> None:
    rows = boxed_frames(["b", "a", "b", ""])
    counts = count_boxes(detect_all(as_detector(lambda frame: np.ones((48, 64), np.float32)), rows))
    sums = by_recording(counts, rows)
    assert sorted(sums[:, 3].tolist()) == [1, 1, 2]
    np.testing.assert_array_equal(sums.sum(0), counts.sum(0))
    assert metrics_by_boxes(counts, 0.5)["false_alarms_per_frame"] == 1.0


def test_intervals_hold_the_value_and_are_wider_by_recordings() -> None:
    generator = np.random.default_rng(3)
    seen = np.repeat(generator.integers(0, 2, 8), 20)  # all frames of a recording fare alike
    counts = np.stack([np.ones(160), seen, 1 - seen, np.ones(160)], 1).astype(np.int64)
    rows = datasets.Dataset.from_dict({"recording": [f"r{i // 20}" for i in range(160)]})
    nothing = np.zeros_like(counts) + np.array([1, 0, 0, 1])
    widths = []
    for one, other in ((counts, nothing), (by_recording(counts, rows), by_recording(nothing, rows))):
        low, high = np.percentile(
            bootstrap_differences(one[None], other[None], metrics_of_box_counts)[:, 1], [2.5, 97.5]
        )
        assert low <= seen.mean() <= high
        widths.append(high - low)
    assert widths[1] > 3 * widths[0]
    drawn = [counts[None], nothing[None], metrics_of_box_counts, rows["recording"][:]]
    np.testing.assert_allclose(np.percentile(bootstrap_differences(*drawn)[:, 1], [2.5, 97.5]), [low, high])


def test_which_rows_are_judged_by_boxes() -> None:
    rows = boxed_frames(["", ""])
    assert judged_by_boxes(rows) and with_labels(rows, "it") is rows
    mixed = rows.remove_columns("label_source").add_column("label_source", ["box", "none"])
    with pytest.raises(ValueError, match="it can't be used for evaluation: people labelled 1 of its 2 frames, but not"):
        with_labels(mixed, "it")
    masks = rows.remove_columns("label_source").add_column("label_source", ["human", "human"])
    assert not judged_by_boxes(masks) and not judged_by_boxes([{}])


def test_rows_that_should_have_boxes_and_have_none_are_named_before_anything_is_measured() -> None:
    rows = datasets.Dataset.from_list([row([[1, 2, 3, 4]]), {**row([[1, 2, 3, 4]]), "name": "g", "objects": None}])
    for empty, named in ((rows, "g"), (rows.remove_columns("objects"), "f, g")):
        with pytest.raises(ValueError, match=f"the test split can't be used for evaluation: {named} should have boxes"):
            with_labels(empty, "the test split")
