"""The picture of held-out frames that a training leaves."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image

from scalpel_hf import SyntheticInfrared
from scalpel_hf.data.label_sources import as_objects
from scalpel_hf.evaluation.evaluator import evaluate_predictor
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.training.contact_sheet import (
    FRAMES,
    LEGEND,
    SHEET_FILE,
    SIDE,
    compare_by_boxes,
    compare_by_masks,
    contact_sheet,
    frames_to_watch,
    keep_sheet,
)
from tests.pseudo_labels.helpers import FakeTeacher
from tests.training.small_problem import run

HEIGHT, WIDTH = 40, 60
# Targets, and answers to the first, to nothing, and to the third too far away.
TARGETS = ((5, 6, 3, 3), (30, 20, 2, 2), (44, 30, 4, 3))  # x, y, width, height
ANSWERS = ((6, 7, 2, 2), (10, 30, 3, 3), (50, 30, 3, 3))
GREEN, YELLOW, BLUE, RED = (color for _, color in LEGEND)


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def painted(boxes: tuple[tuple[int, int, int, int], ...]) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for x, y, width, height in boxes:
        mask[y : y + height, x : x + width] = 255
    return mask


def rows_of(count: int = 1, source: str = "human", boxes: Any = TARGETS) -> datasets.Dataset:
    noise = np.random.default_rng(0).normal(30000, 100, (HEIGHT, WIDTH)).astype(np.uint16)
    features = {"name": datasets.Value("string"), "image": datasets.Image(), "mask": datasets.Image()}
    features |= {"label_source": datasets.Value("string")}
    columns = {"name": [f"f{i}" for i in range(count)], "image": [Image.fromarray(noise)] * count}
    columns["mask"] = [Image.fromarray(painted(boxes)) if source == "human" else None] * count
    columns["label_source"] = [source] * count
    rows = datasets.Dataset.from_dict(columns, datasets.Features(features))
    return rows.add_column("objects", [as_objects([[*map(float, box)] for box in boxes])] * count)


def segmenter(answers: Any = ANSWERS) -> Any:
    return SimpleNamespace(probabilities=lambda frame: painted(answers) / np.float32(255))


def detector(answers: Any = ANSWERS) -> Any:
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in answers], float).reshape(-1, 4)
    scores = np.full(len(boxes), 0.9)
    return SimpleNamespace(detect=lambda frame, threshold: (scores[scores > threshold], boxes[scores > threshold]))


@pytest.mark.parametrize("model", [segmenter, detector])
@pytest.mark.parametrize(
    ("judge", "source"), [(compare_by_masks, "human"), (compare_by_boxes, "box"), (compare_by_boxes, "human")]
)
def test_labels_are_found_or_missed_and_answers_right_or_false(
    model: Callable[[], Any], judge: Any, source: str
) -> None:
    (judged,) = judge(model(), rows_of(source=source))
    assert (judged.found, judged.missed, judged.false) == (1, 2, 2)
    expected = (painted(TARGETS[:1]), painted(TARGETS[1:]), painted(ANSWERS[:1]), painted(ANSWERS[1:]))
    for mask, wanted in zip(judged.masks, expected, strict=True):
        np.testing.assert_array_equal(mask, wanted > 0)


def test_it_counts_as_the_evaluation_does() -> None:
    camera = SyntheticInfrared(size=(64, 64), n_targets=(0, 3), extent=(1, 6), snr=(3, 8), seed=1)
    rows = camera.to_dataset(8)
    model = SimpleNamespace(probabilities=lambda cell: FakeTeacher().probabilities(read_frame(cell)))
    judged = list(compare_by_masks(model, rows))
    metrics = evaluate_predictor(model, rows)
    assert metrics["n_detected"] == sum(j.found for j in judged)
    assert metrics["n_targets"] == sum(j.found + j.missed for j in judged)
    assert metrics["n_false_pixels"] == sum(int(j.masks[3].sum()) for j in judged) > 0


def seen(sheet: Image.Image, color: tuple[int, int, int]) -> bool:
    below_the_legend = np.asarray(sheet)[30:]
    return bool((below_the_legend == color).all(-1).any())


def test_the_colours_say_what_is_wrong() -> None:
    all_kinds = contact_sheet(segmenter(), rows_of(), 7)
    assert [seen(all_kinds, color) for color in (GREEN, YELLOW, BLUE, RED)] == [True] * 4
    right = contact_sheet(segmenter(TARGETS), rows_of(), 7)
    assert [seen(right, color) for color in (GREEN, YELLOW, BLUE, RED)] == [True, False, True, False]
    silent = contact_sheet(detector(()), rows_of(source="box"), 7)
    assert [seen(silent, color) for color in (GREEN, YELLOW, BLUE, RED)] == [False, True, False, False]
    empty = contact_sheet(segmenter(()), rows_of(boxes=()), 7)
    assert not any(seen(empty, color) for color in (GREEN, YELLOW, BLUE, RED))


def test_a_pixel_of_a_large_frame_is_seen() -> None:
    frame = np.random.default_rng(0).normal(100, 5, (1500, 2000)).astype(np.uint8)
    mask = np.zeros(frame.shape, np.uint8)
    mask[701, 1203] = 255
    rows = (
        rows_of()
        .select([0])
        .map(lambda row: {"image": Image.fromarray(frame), "mask": Image.fromarray(mask)}, keep_in_memory=True)
    )
    model = SimpleNamespace(probabilities=lambda _: np.zeros(frame.shape, np.float32))
    sheet = contact_sheet(model, rows, 1)
    assert seen(sheet, YELLOW)


def test_few_frames_are_shown_and_no_other_is_asked_about() -> None:
    asked = []
    model = SimpleNamespace(probabilities=lambda frame: asked.append(1) or painted(ANSWERS) / np.float32(255))
    sheet = contact_sheet(model, rows_of(40), 7)
    assert len(asked) == FRAMES
    assert sheet.width >= 3 * 2 * SIDE and sheet.height >= 4 * SIDE


class Trackio(SimpleNamespace):
    """What is asked of Trackio, which needs an account's or a machine's own data base."""

    name = "trackio"


def test_it_is_kept_beside_the_run_and_by_trackers_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[dict, int]] = []
    refuses = lambda *_, **__: pytest.fail("frames leave this machine")  # noqa: E731
    trackers = [
        Trackio(log=lambda values, step: logged.append((values, step))),
        SimpleNamespace(name="wandb", log=refuses, log_images=refuses),
    ]
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(Image=lambda sheet: ("trackio's", sheet)))
    sheet = contact_sheet(segmenter(), rows_of(), 7)
    keep_sheet(SimpleNamespace(trackers=trackers), tmp_path, sheet, 7)
    assert logged == [({"held out": ("trackio's", sheet)}, 7)]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / SHEET_FILE)), np.asarray(sheet))
    assert [path.name for path in tmp_path.iterdir()] == [SHEET_FILE]


def test_tensorboard_shows_it_at_every_evaluation(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    steps: list[int] = []

    def show(step: int) -> Image.Image:
        steps.append(step)
        return contact_sheet(segmenter(), rows_of(), step)

    run(tmp_path, evaluate=lambda _: {"iou": 0.5}, show=show, eval_steps=4, report_to="tensorboard")
    assert steps == [4, 8, 12] and (tmp_path / SHEET_FILE).exists()
    files = (tmp_path / "logs").rglob("events.out.tfevents.*")
    read = [event_accumulator.EventAccumulator(str(file), size_guidance={"images": 0}).Reload() for file in files]
    images = [image for events in read if events.Tags()["images"] for image in events.Images("held out")]
    assert [image.step for image in images] == steps and images[0].width > 2 * SIDE


def test_frames_that_are_watched_decide_nothing(tmp_path: Path) -> None:
    steps: list[int] = []

    def show(step: int) -> Image.Image:
        steps.append(step)
        return contact_sheet(segmenter(), rows_of(), step)

    watched, outcome = run(tmp_path / "watched", show=show, eval_steps=5)
    alone, _ = run(tmp_path / "alone", eval_steps=5)
    assert steps == [5, 10, 12] and (tmp_path / "watched" / SHEET_FILE).exists() and outcome["best"] is None
    assert not (tmp_path / "alone" / SHEET_FILE).exists()
    for name, tensor in watched.state_dict().items():
        assert torch.equal(tensor, alone.state_dict()[name]), name


def test_frames_to_watch(tmp_path: Path) -> None:
    held_out, folder = rows_of(2), str(tmp_path)
    unlabelled = rows_of(1).map(lambda row: {"mask": None}, keep_in_memory=True)
    datasets.DatasetDict(train=rows_of(4), test=rows_of(3), none=unlabelled).save_to_disk(folder)
    assert frames_to_watch(folder, "test", held_out) is held_out
    watched = frames_to_watch(folder, "test", held_out.select([]))
    assert watched is not None and len(watched) == 3
    assert frames_to_watch(folder, "", None) is None
    for split in ("none", "missing"):
        with pytest.raises(ValueError, match=rf"{split}.*`--watch-split ''`"):
            frames_to_watch(folder, split, None)
