"""What a box asks of a mask, and how boxes come into both stages' samples and losses."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from scalpel_hf import InfraredImageProcessor, SyntheticInfrared
from scalpel_hf.data.label_sources import as_objects
from scalpel_hf.data.pasting import cut_out
from scalpel_hf.data.transforms import Sample, dihedral, paste_targets, zoomed_crop
from scalpel_hf.training.box_loss import box_projection_loss
from scalpel_hf.training.distillation import TeacherSamples
from scalpel_hf.training.frames import labelled_sample
from scalpel_hf.training.knowledge_transfer import DetectionSamples, StudentSamples, transfer_loss

BOX = (slice(4, 9), slice(3, 10))


def boxes(*places: tuple[slice, slice], shape: tuple[int, int] = (16, 16)) -> torch.Tensor:
    numbers = torch.zeros(1, *shape, dtype=torch.int32)
    for number, place in enumerate(places, 1):
        numbers[0][place] = number
    return numbers


def logits(*pixels: tuple[int, int], low: float = -6.0) -> torch.Tensor:
    made = torch.full((1, 1, 16, 16), low)
    for y, x in pixels:
        made[0, 0, y, x] = 6.0
    return made.requires_grad_()


def gradient(values: torch.Tensor, numbers: torch.Tensor, **kwargs: Any) -> tuple[float, torch.Tensor]:
    loss = box_projection_loss(values, numbers, **kwargs)
    loss.backward()
    return loss.item(), values.grad[0, 0]


def test_a_mask_that_touches_all_sides_has_no_loss_and_no_gradient() -> None:
    cross = [(y, 6) for y in range(4, 9)] + [(6, x) for x in range(3, 10)]
    corners = [(4, 3), (8, 9)]  # which a mask of two targets in one box may be
    for pixels in (cross, corners):
        loss, slope = gradient(logits(*pixels), boxes(BOX))
        assert loss == 0 and not slope.any()


def test_a_side_that_is_not_touched_pulls_its_likeliest_pixel_up_and_nothing_else() -> None:
    values = logits((4, 3), (8, 4))  # the right side is missing
    with torch.no_grad():
        values[0, 0, 6, 9] = -1.0
    loss, slope = gradient(values, boxes(BOX))
    assert math.isclose(loss, (math.log(0.9) + math.log1p(math.exp(1))) / 4, rel_tol=1e-5)
    assert slope[6, 9] < 0 and (slope != 0).sum() == 1


def test_a_mask_within_the_slack_of_a_side_touches_it() -> None:
    inner = [(5, 4), (7, 8)]
    assert gradient(logits(*inner), boxes(BOX))[0] == 0
    assert gradient(logits(*inner), boxes(BOX), slack=0)[0] > 0


def test_boxes_with_a_margin_ask_for_a_target_that_much_further_inside() -> None:
    inner = [(6, 5), (6, 7)]
    assert gradient(logits(*inner), boxes(BOX))[0] > 0
    assert gradient(logits(*inner), boxes(BOX), margin=2.0)[0] == 0
    assert gradient(logits((4, 6)), boxes(BOX), margin=2.0)[0] > 0  # at one side alone


def test_sides_at_a_crop_s_edge_ask_for_nothing() -> None:
    cut = (slice(0, 5), slice(12, 16))  # the crop's upper right corner
    assert gradient(logits((4, 12)), boxes(cut))[0] == 0
    values = logits(low=-6.0)
    _, slope = gradient(values, boxes(cut))
    rows, columns = np.nonzero(slope.numpy())
    assert all(row >= 3 or column <= 13 for row, column in zip(rows, columns, strict=True))
    assert float(box_projection_loss(logits(), boxes((slice(0, 16), slice(0, 16))))) == 0


def test_without_a_box_there_is_no_loss() -> None:
    assert float(box_projection_loss(logits(), boxes())) == 0


# Samples


def weak_rows(kind: str, count: int = 4) -> Any:
    """Synthetic frames labelled by boxes or points of their masks."""
    camera = SyntheticInfrared(size=(64, 72), n_targets=(1, 3), extent=(3, 6), snr=(20, 30), seed=1)
    made = camera.to_dataset(count).add_column("label_source", [kind] * count)

    def hide(row: dict[str, Any]) -> dict[str, Any]:
        found = row["objects"]["bbox"]
        if kind == "point":
            found = [[x + w / 2, y + h / 2, 0, 0] for x, y, w, h in found]
        return {"mask": None, "objects": as_objects(found)}

    return made.map(hide, features=made.features)


def test_a_row_of_boxes_is_a_sample_of_their_proposals() -> None:
    camera = SyntheticInfrared(size=(64, 72), n_targets=(1, 3), extent=(3, 6), snr=(20, 30), seed=1)
    for row, truth in zip(weak_rows("box"), camera.to_dataset(4), strict=True):
        sample, mask = labelled_sample(row), np.asarray(truth["mask"]) > 127
        assert sample.boxes is not None and len(np.unique(sample.boxes)) == 1 + len(row["objects"]["bbox"])
        x, y, w, h = (int(v) for v in row["objects"]["bbox"][0])
        assert (sample.boxes[y : y + h, x : x + w] > 0).all()
        found = sample.target > 0.5
        assert (found & mask).sum() > 0.5 * (found | mask).sum()
        assert (sample.weight[~mask & (sample.boxes == 0)]).mean() > 0.9


def test_a_row_that_lacks_its_objects_is_named() -> None:
    row = {**weak_rows("box")[0], "objects": None}
    with pytest.raises(ValueError, match=r"synthetic-000000.*'box'.*no `objects`"):
        labelled_sample(row)


def numbered() -> Sample:
    rng = np.random.default_rng(0)
    target, numbers = np.zeros((40, 50), np.float32), np.zeros((40, 50), np.int32)
    target[12:15, 20:24], numbers[11:16, 19:25] = 1, 1
    return Sample(rng.normal(0, 1, (40, 50)).astype(np.float32), target, np.ones((40, 50), np.float32), numbers)


def test_boxes_go_with_their_pixels_through_every_view() -> None:
    sample, rng = numbered(), np.random.default_rng(1)
    for k in range(8):
        turned = dihedral(sample, k)
        assert (turned.numbered_boxes() > 0).sum() == 30 and (turned.numbered_boxes()[turned.target > 0] == 1).all()
    zoomed, _ = zoomed_crop(sample, 70, 1.4, rng)
    assert zoomed.numbered_boxes().dtype == np.int32 and set(np.unique(zoomed.numbered_boxes())) == {0, 1}
    assert (zoomed.numbered_boxes()[zoomed.target > 0.5] == 1).all()
    for _ in range(20):
        window, box = zoomed_crop(sample, 48, 1.0, rng)
        x, y = box[:2].astype(int)
        padded = np.pad(numbered().numbered_boxes(), ((0, 8), (0, 0)))
        assert np.array_equal(window.numbered_boxes(), padded[y : y + 48, x : x + 48])
    pasted = paste_targets(sample, cut_out(sample.frame, sample.target, sample.weight), rng)
    assert np.array_equal(pasted.numbered_boxes(), sample.numbered_boxes())


def test_what_a_donor_leaves_open_stays_open_where_it_is_pasted() -> None:
    frame, target = np.random.default_rng(0).normal(0, 1, (60, 60)).astype(np.float32), np.zeros((60, 60), np.float32)
    frame[30:33, 30:33], target[30:33, 30:33] = 30, 1
    weight = np.ones_like(target)
    weight[29, 30:33] = 0
    onto = Sample(frame, np.zeros_like(target), np.ones_like(target))
    pasted = paste_targets(onto, cut_out(frame, target, weight), np.random.default_rng(2), count=1)
    assert (
        pasted.target.sum() == 9 and (pasted.weight == 0).sum() == 3 and (pasted.weight[pasted.target > 0] == 1).all()
    )


def test_a_crop_is_drawn_on_a_box_without_a_proposal() -> None:
    numbers = np.zeros((200, 200), np.int32)
    numbers[150:153, 20:23] = 1
    empty = np.zeros((200, 200), np.float32)
    sample, rng = Sample(empty, empty, empty, numbers), np.random.default_rng(0)
    seen = [bool(zoomed_crop(sample, 32, 1.0, rng, on_target=1.0)[0].numbered_boxes().any()) for _ in range(10)]
    assert all(seen)


def test_students_and_teachers_see_boxes_and_true_masks_are_what_is_pasted() -> None:
    rows = weak_rows("box")
    processor = InfraredImageProcessor()
    students = StudentSamples(rows, processor, crop_size=32, seed=0)
    assert students.has_boxes and students.human == [0, 1, 2, 3] == students.donors
    items = [students[i] for i in range(12)]
    assert all(item["boxes"].shape == (32, 32) and item["human"] == 1 for item in items)
    assert any(item["boxes"].any() for item in items)
    masks = [Sample(s.frame, s.target, s.weight) for s in map(labelled_sample, rows.select([0]))]
    teachers = TeacherSamples([*map(labelled_sample, rows), *masks], processor, None, crop_size=32, seed=0)
    assert len(teachers.donors) == 1 and teachers.donors[0].boxes is None
    assert any(teachers[i]["boxes"].any() for i in range(10))
    assert "boxes" not in TeacherSamples(masks, processor, None, crop_size=32, seed=0)[0]


def test_points_give_students_extents_and_no_boxes() -> None:
    items = [StudentSamples(weak_rows("point"), InfraredImageProcessor(), 32, 0)[i] for i in range(8)]
    assert any(item["labels"].any() for item in items) and not any(item["boxes"].any() for item in items)


def test_a_detector_is_asked_for_the_drawn_boxes_themselves() -> None:
    """And not for the extents that the operators propose inside: here there is nothing to be seen in the box."""
    rows = weak_rows("box", 1)
    box = [30, 20, 9, 7]
    rows = rows.map(lambda _: {"objects": as_objects([box])}, features=rows.features)
    samples = DetectionSamples(rows, InfraredImageProcessor(), crop_size=64, seed=0)
    sides = set()
    for i in range(30):
        item = samples[i]
        assert "boxes" not in item
        for x, y, w, h in (item["labels"]["boxes"] * 64).tolist():
            sides.add((round(w), round(h)))
            if (round(w), round(h)) in ((9, 7), (7, 9)):
                assert (item["weights"][round(y - h / 2) :, round(x - w / 2) :][: round(h), : round(w)] == 1).all()
    assert {(9, 7), (7, 9)} <= sides


def test_the_student_s_loss_has_the_boxes_as_a_term_of_its_own() -> None:
    class Model(torch.nn.Module):
        def forward(self, pixel_values: torch.Tensor) -> Any:
            return type("Output", (), {"logits": pixel_values})

    batch = {
        "pixel_values": torch.full((1, 1, 16, 16), -4.0),
        "labels": torch.zeros(1, 16, 16),
        "weights": torch.ones(1, 16, 16),
        "human": torch.ones(1),
    }
    without, _ = transfer_loss(1.0, 1)(Model(), batch, 0)
    loss, figures = transfer_loss(1.0, 1, box_weight=2.0)(Model(), {**batch, "boxes": boxes(BOX)}, 0)
    expected = math.log(0.9) + math.log1p(math.exp(4))
    assert figures["boxes"] == pytest.approx(expected, rel=1e-5)
    batch["pixel_values"][0, 0, 6, 6] = 4.0
    for margin, asked in ((0.0, True), (4.0, False)):
        _, figures = transfer_loss(1.0, 1, margin=margin)(Model(), {**batch, "boxes": boxes(BOX)}, 0)
        assert (figures["boxes"] > 0.1) == asked
    assert float(loss - without) == pytest.approx(2 * expected, rel=1e-5)
