"""The margin of boxes that people draw, and that a detector is asked for the same of all targets."""

from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from scalpel_hf import InfraredImageProcessor, add_pseudo_labels
from scalpel_hf.data.label_sources import as_objects
from scalpel_hf.data.rows import FEATURES
from scalpel_hf.data.transforms import Sample
from scalpel_hf.training import knowledge_transfer
from scalpel_hf.training.box_margin import margin_of_boxes, margin_of_pseudo_labels, number_boxes, target_boxes
from scalpel_hf.training.distillation import TeacherSamples
from scalpel_hf.training.frames import labelled_sample
from scalpel_hf.training.knowledge_transfer import DetectionSamples, StudentSamples, _outside_of_drawn_boxes

SIDES = {0: (4, 4), 1: (7, 3), 2: (3, 6), 3: (9, 5)}  # of the target in each frame, width and height
CORNER = (30, 26)


def row(index: int, source: str, margin: int) -> dict[str, Any]:
    """A frame with one target in it, and around it a box so much wider and higher."""
    (x, y), (width, height) = CORNER, SIDES[index % 4]
    frame = np.random.default_rng(index).normal(100, 2, (64, 72))
    frame[y : y + height, x : x + width] += 80
    mask = np.zeros(frame.shape, np.uint8)
    mask[y : y + height, x : x + width] = 255
    box = [x - margin / 2, y - margin / 2, width + margin, height + margin]
    return {
        "name": f"f{index}",
        "image": Image.fromarray(frame.astype(np.uint8)),
        "mask": Image.fromarray(mask) if source == "human" else None,
        "objects": None if source == "none" else as_objects([box]),
        "width": 72,
        "height": 64,
        "label_source": source,
    }


def rows_of(sources: list[str], margin: int) -> datasets.Dataset:
    features = datasets.Features({**FEATURES, "label_source": datasets.Value("string")})
    return datasets.Dataset.from_list([row(i, s, margin) for i, s in enumerate(sources)], features=features)


class Seeing:
    """A teacher that finds the very pixels of targets."""

    def probabilities(self, frame: np.ndarray) -> np.ndarray:
        return np.where(frame > 140, 1.0, 0.0)

    def fingerprint(self) -> str:
        return "seeing"


@pytest.mark.parametrize("margin", [0, 2, 4, 6, 10])
def test_the_margin_is_that_of_the_boxes(margin: int) -> None:
    assert margin_of_boxes(map(labelled_sample, rows_of(["box"] * 4, margin))) == margin


def test_a_few_boxes_of_another_margin_don_t_count() -> None:
    samples = [labelled_sample(row(i, "box", 12 if i == 3 else 4)) for i in range(8)]
    assert margin_of_boxes(samples) == 4


def test_nothing_is_measured_without_boxes_or_targets_in_them() -> None:
    assert margin_of_boxes([]) == 0
    assert margin_of_boxes(map(labelled_sample, rows_of(["human"] * 3, 6))) == 0
    numbers = np.zeros((20, 20), np.int32)
    numbers[4:9, 4:9] = 1
    empty = np.zeros((20, 20), np.float32)
    assert margin_of_boxes([Sample(empty, empty, empty, numbers)]) == 0


def sizes(samples: DetectionSamples, human: bool) -> set[tuple[int, int]]:
    """Of the boxes in crops that aren't zoomed, shorter side first; those cut off at the crop's edge are left out."""
    found = set()
    for i in range(60):
        item, zoom = samples[i], samples._crop(i)[1]
        boxes = item["labels"]["boxes"].numpy() * samples.crop_size
        inside = ((boxes[:, :2] - boxes[:, 2:] / 2 > 0) & (boxes[:, :2] + boxes[:, 2:] / 2 < samples.crop_size)).all(1)
        if bool(item["human"]) == human and zoom == 1:
            found |= {tuple(sorted(map(round, box[2:]))) for box in boxes[inside]}
    return found


@pytest.mark.parametrize("margin", [0, 4])
def test_boxes_of_pseudo_labels_and_of_pasted_targets_have_it(margin: int) -> None:
    rows = add_pseudo_labels(rows_of(["box"] * 4 + ["none"] * 4, margin), Seeing(), keep_in_memory=True)
    samples = DetectionSamples(rows, InfraredImageProcessor(), crop_size=48, seed=0)
    assert samples.margin == samples.pseudo_margin == margin
    expected = {tuple(sorted(s + margin for s in sides)) for sides in SIDES.values()}
    assert sizes(samples, human=True) == expected  # what is pasted there is cut out of boxes
    assert sizes(samples, human=False) == expected


class Wide(Seeing):
    """A teacher whose targets are two pixels wider and higher, and in two parts; it isn't sure of the rest."""

    def probabilities(self, frame: np.ndarray) -> np.ndarray:
        wide = ndimage.binary_dilation(frame > 140, np.ones((3, 3)))
        wide[:, int(np.flatnonzero(wide.any(0)).mean())] = False
        return np.where(wide, 1.0, 0.1)


def test_a_teacher_s_targets_have_a_margin_of_their_own_and_parts_are_one_target() -> None:
    rows = add_pseudo_labels(rows_of(["box"] * 4 + ["none"] * 4, 8), Wide(), keep_in_memory=True)
    samples = DetectionSamples(rows, InfraredImageProcessor(), crop_size=64, seed=0)
    assert samples.margin == 8 and samples.pseudo_margin == 6
    assert sizes(samples, human=False) == {tuple(sorted(s + 8 for s in sides)) for sides in SIDES.values()}
    frame = samples.frames[4]
    assert (frame.boxes > 0).sum() == 12 * 12 and (frame.weight[frame.boxes > 0] < 255).any()
    crops = [samples[i] for i in range(8)]
    assert all((crop["weights"] < 1).any() for crop in crops if not crop["human"])  # also in their boxes


def test_targets_are_one_where_a_centre_lies_within_reach() -> None:
    target = np.zeros((30, 40), bool)
    target[10:12, 10:12] = target[10:12, 14:16] = target[25, 30] = True
    assert target_boxes(target, 0).tolist() == [[10, 10, 12, 12], [14, 10, 16, 12], [30, 25, 31, 26]]
    assert target_boxes(target, 6).tolist() == [[10, 10, 16, 12], [30, 25, 31, 26]]
    assert target_boxes(np.zeros((4, 5), bool), 6).shape == (0, 4)
    numbers = number_boxes(target, 6, 4)
    assert [tuple((s.start, s.stop) for s in w) for w in ndimage.find_objects(numbers)] == [
        ((8, 14), (8, 18)),
        ((23, 28), (28, 33)),
    ]
    target[0, 0] = True  # at the frame's edge
    assert (number_boxes(target, 6, 4)[:3, :3] > 0).all()


def test_pseudo_labels_without_a_target_tell_nothing() -> None:
    drawn = [labelled_sample(row(0, "box", 4))]
    empty = np.zeros((64, 72), np.float32)
    assert margin_of_pseudo_labels(drawn, [Sample(empty, empty, empty)], 4) == 0
    assert margin_of_pseudo_labels([], drawn, 4) == margin_of_pseudo_labels(drawn, [], 4) == 0


def test_boxes_of_masks_alone_are_the_masks_own() -> None:
    rows = add_pseudo_labels(rows_of(["human", "human", "none", "none"], 6), Seeing(), keep_in_memory=True)
    samples = DetectionSamples(rows, InfraredImageProcessor(), crop_size=48, seed=0)
    assert samples.margin == 0
    assert sizes(samples, human=True) | sizes(samples, human=False) == {tuple(sorted(s)) for s in SIDES.values()}


def test_teachers_and_students_know_the_margin() -> None:
    rows = rows_of(["box", "box", "human"], 6)
    assert StudentSamples(rows, InfraredImageProcessor(), crop_size=48, seed=0).margin == 6
    assert TeacherSamples([*map(labelled_sample, rows)], InfraredImageProcessor(), None, 48, 0).margin == 6


def test_the_margin_is_zoomed_with_the_frame() -> None:
    rows = add_pseudo_labels(rows_of(["box"] * 4 + ["none"] * 4, 8), Seeing(), keep_in_memory=True)
    samples = DetectionSamples(rows, InfraredImageProcessor(), crop_size=64, seed=0)
    own = np.array([*SIDES.values(), *(sides[::-1] for sides in SIDES.values())])
    zooms = set()
    for i in range(60):
        item, zoom = samples[i], samples._crop(i)[1]
        boxes = item["labels"]["boxes"].numpy() * 64
        inside = ((boxes[:, :2] - boxes[:, 2:] / 2 > 0) & (boxes[:, :2] + boxes[:, 2:] / 2 < 64)).all(1)
        expected = np.concatenate([(own + 8) * zoom, own + 8 * zoom])  # of a pasted target, the margin alone
        for sides in boxes[inside, 2:]:
            assert np.abs(sides - expected).max(1).min() < 2
            zooms.add((round(zoom, 1), bool(item["human"])))
    assert len(zooms) > 6


def test_what_reaches_out_of_a_drawn_box_gets_none_of_its_own() -> None:
    """A target that is a pixel larger than its box has that box, and no slivers beside it."""
    sample = labelled_sample(row(1, "box", -2))
    assert sample.boxes is not None and (sample.target[sample.boxes == 0] > 0).any()
    sample.target[50:53, 60:62] = 1  # another one, away from it
    left = _outside_of_drawn_boxes(sample.target, sample.boxes)
    assert left.sum() == 6 and left[50:53, 60:62].all()


def test_nothing_is_pasted_into_a_drawn_box(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    place = knowledge_transfer.place_cutouts
    monkeypatch.setattr(
        knowledge_transfer,
        "place_cutouts",
        lambda cutouts, taken, **settings: seen.append(taken) or place(cutouts, taken, **settings),
    )
    samples = DetectionSamples(rows_of(["box"], 8), InfraredImageProcessor(), crop_size=64, seed=0)
    for i in range(10):
        samples[i]
    assert seen and all(taken.sum() == 12 * 12 for taken in seen)
