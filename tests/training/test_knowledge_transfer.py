"""What a detector, or any model of transformers, is shown and asked for by the transfer recipe."""

import math
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from transformers import SegformerForSemanticSegmentation

from scalpel_hf import InfraredImageProcessor, SyntheticInfrared, add_pseudo_labels, apply_label_budget
from scalpel_hf.data import objects_from_mask
from scalpel_hf.data.transforms import resampled_window, window_taps
from scalpel_hf.modeling import ScalpelStudentForSemanticSegmentation, soft_iou_loss, weighted_bce
from scalpel_hf.predictors.student import new_student
from scalpel_hf.pseudo_labels.rules import Rules
from scalpel_hf.training.knowledge_transfer import (
    DetectionSamples,
    StudentSamples,
    boxes_of_target,
    detection_loss,
    foreground_logits,
    transfer_loss,
)
from scalpel_hf.training.sampling import prior_shift
from tests.small_students import segformer, small_student, yolos


def rows(count: int = 4) -> datasets.Dataset:
    dataset = SyntheticInfrared(size=(40, 56), n_targets=(1, 3), extent=(1, 4), seed=1).to_dataset(count)
    return dataset.add_column("label_source", ["human"] * count)


def as_corners(boxes: np.ndarray) -> set[tuple[float, ...]]:
    centre, sides = boxes[:, :2], boxes[:, 2:]
    return {tuple(corner) for corner in np.concatenate([centre - sides / 2, centre + sides / 2], axis=1).tolist()}


def test_boxes_of_a_mask_are_its_components() -> None:
    for row in rows(8):
        mask = np.asarray(row["mask"]) > 127
        expected = {(x, y, x + w, y + h) for x, y, w, h in objects_from_mask(mask)["bbox"]}
        assert as_corners(boxes_of_target(mask.astype(np.float32))) == expected and expected
    assert boxes_of_target(np.zeros((4, 5), np.float32)).shape == (0, 4)
    assert as_corners(boxes_of_target(np.ones((4, 5), np.float32))) == {(0, 0, 5, 4)}


@pytest.mark.parametrize("factor", [0.7, 0.85, 1.0, 1.3])
@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_target_of_a_pixel_survives_a_zoom(side: int, factor: float) -> None:
    """Wherever it lies on the grid; its box is where it was, on the pixels that it can touch."""
    side_now = round(40 * factor)
    for offset in range(10):
        target = np.zeros((40, 40), np.float32)
        target[20 : 20 + side, 10 + offset : 10 + offset + side] = 1
        zoomed = resampled_window(target, *window_taps((40, 40), (side_now,) * 2, (0, 0), side_now))
        boxes = boxes_of_target(zoomed)
        assert len(boxes) == 1
        centre = np.array([10 + offset + side / 2, 20 + side / 2]) * zoomed.shape[0] / 40
        assert np.abs(boxes[0, :2] - centre).max() <= 1
        assert (boxes[0, 2:] >= 1).all() and (boxes[0, 2:] <= math.ceil(side * factor) + 1).all()


def test_detection_samples_are_the_segmentations_with_boxes() -> None:
    processor = InfraredImageProcessor()
    arguments: Any = (rows(), processor, 32, 5)
    masks, boxes = StudentSamples(*arguments), DetectionSamples(*arguments)
    found = 0
    for index in range(12):
        mask, box = masks[index], boxes[index]
        for name in ("pixel_values", "weights", "human"):
            assert torch.equal(mask[name], box[name])
        label = box["labels"]
        assert label["boxes"].dtype == torch.float32 and label["class_labels"].dtype == torch.int64
        assert label["boxes"].shape == (len(label["class_labels"]), 4) and not label["class_labels"].any()
        assert ((label["boxes"] >= 0) & (label["boxes"] <= 1)).all()
        np.testing.assert_allclose(label["boxes"].numpy() * 32, boxes_of_target(mask["labels"].numpy()), atol=1e-5)
        found += len(label["boxes"])
    assert found > 6


def test_batches_hold_labels_of_any_number() -> None:
    samples = DetectionSamples(rows(), InfraredImageProcessor(num_channels=3), 32, 5)
    expected = [samples[i]["labels"]["boxes"] for i in range(4)]
    batch = DetectionSamples.collate([samples[i] for i in range(4)])
    assert batch["pixel_values"].shape == (4, 3, 32, 32) and batch["weights"].shape == (4, 32, 32)
    assert torch.equal(batch["pixel_values"][:, 0], batch["pixel_values"][:, 2])
    assert all(torch.equal(label["boxes"], e) for label, e in zip(batch["labels"], expected, strict=True))


def test_crops_fit_the_models_stride() -> None:
    with pytest.raises(ValueError, match="`crop_size` must be a multiple of 32 here, got 40"):
        StudentSamples(rows(), InfraredImageProcessor(size_divisor=32), 40, 0)


def batch_of(kinds: list[float]) -> dict[str, Any]:
    torch.manual_seed(0)
    labels = [{"class_labels": torch.zeros(1, dtype=torch.long), "boxes": torch.rand(1, 4) * 0.5 + 0.2} for _ in kinds]
    return {
        "pixel_values": torch.randn(len(kinds), 1, 32, 32),
        "weights": torch.rand(len(kinds), 32, 32),
        "human": torch.tensor(kinds),
        "labels": labels,
    }


@pytest.mark.parametrize(("step", "ramp"), [(0, 0.05), (4, 0.25), (9, 0.5), (50, 0.5)])
def test_pseudo_labelled_frames_weigh_less_at_first(step: int, ramp: float) -> None:
    batch = batch_of([1.0, 0.0, 0.0])
    student = new_student("detection", size="nano")
    model = student.model.eval()
    loss, metrics = detection_loss(0.5, 10, weigh_pixels=True)(model, batch, step)
    weights = batch["weights"] * torch.tensor([1, ramp, ramp])[:, None, None]
    expected = model(batch["pixel_values"], labels=batch["labels"], pixel_weights=weights)
    torch.testing.assert_close(loss, expected.loss)
    assert set(metrics) == {"loss_heatmap", "loss_offset", "loss_size"}


class MeanOfBoxes(nn.Module):
    """Stands for a detector that knows no weights: its loss is the mean over frames of their boxes' first number."""

    def forward(self, pixel_values: torch.Tensor, labels: list[dict[str, torch.Tensor]]) -> SimpleNamespace:
        assert len(pixel_values) == len(labels) > 0
        return SimpleNamespace(loss=torch.stack([label["boxes"][0, 0] for label in labels]).mean())


@pytest.mark.parametrize("kinds", [[1.0, 0.0, 0.0, 1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
def test_the_loss_of_other_detectors_is_weighted_by_the_kind_of_frame(kinds: list[float]) -> None:
    batch = batch_of(kinds)
    loss, _ = detection_loss(0.5, 0, weigh_pixels=False)(MeanOfBoxes(), batch, 3)
    weights = [1 if kind else 0.5 for kind in kinds]
    pairs = zip(weights, batch["labels"], strict=True)
    assert loss.item() == pytest.approx(np.mean([w * label["boxes"][0, 0].item() for w, label in pairs]))


def test_two_classes_are_one_foreground_logit() -> None:
    logits = torch.randn(2, 2, 8, 8)
    single = foreground_logits(logits, torch.Size([8, 8]))
    torch.testing.assert_close(single.sigmoid()[:, 0], logits.softmax(1)[:, 1])
    coarse = foreground_logits(logits, torch.Size([32, 32]))
    expected = F.interpolate(logits, (32, 32), mode="bilinear", align_corners=False).softmax(1)[:, 1]
    torch.testing.assert_close(coarse.sigmoid()[:, 0], expected)
    assert foreground_logits(single, torch.Size([8, 8])) is single


def test_coarse_logits_are_measured_at_the_frames_resolution() -> None:
    class Coarse(nn.Module):
        def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=F.avg_pool2d(pixel_values, 4))

    batch = {**batch_of([1.0, 1.0]), "labels": (torch.rand(2, 32, 32) > 0.9).float()}
    loss, metrics = transfer_loss(1.0, 0)(Coarse(), batch, 0)
    logits = F.interpolate(F.avg_pool2d(batch["pixel_values"], 4), (32, 32), mode="bilinear", align_corners=False)
    target, weight = batch["labels"][:, None], batch["weights"][:, None]
    bce, iou = weighted_bce(logits, target, weight), soft_iou_loss(logits, target, weight)
    torch.testing.assert_close(loss, 10 * bce + iou)
    assert metrics == {"bce": pytest.approx(bce.item()), "soft_iou": pytest.approx(iou.item())}


def test_unknown_tasks_and_models_are_clear_errors(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="`task` must be one of segmentation, detection, got 'tracking'"):
        new_student("tracking")
    with pytest.raises(ValueError, match="neither a folder with a model nor"):
        new_student("segmentation", tmp_path / "absent")
    yolos().save_pretrained(tmp_path / "yolos")
    segformer().save_pretrained(tmp_path / "segformer")
    with pytest.raises(ValueError, match="'yolos' model, which AutoModelForSemanticSegmentation doesn't support"):
        new_student("segmentation", tmp_path / "yolos")
    with pytest.raises(ValueError, match="'segformer' model, which AutoModelForObjectDetection doesn't support"):
        new_student("detection", tmp_path / "segformer")


def test_weights_in_a_folder_are_taken_and_a_head_for_other_classes_is_not(tmp_path: Any) -> None:
    trained = SegformerForSemanticSegmentation(segformer(num_labels=7))
    trained.save_pretrained(tmp_path)
    model = new_student("segmentation", tmp_path).model
    assert model.config.id2label == {0: "background", 1: "target"}
    assert model.decode_head.classifier.weight.shape[0] == 2
    body = model.segformer.state_dict()
    assert all(torch.equal(value, body[name]) for name, value in trained.segformer.state_dict().items())
    ours = new_student("segmentation", size="nano")
    ours.save_pretrained(tmp_path / "ours")
    again = new_student("segmentation", tmp_path / "ours")
    assert isinstance(again.model, ScalpelStudentForSemanticSegmentation)
    assert (again.processor.num_channels, again.processor.size_divisor) == (1, None)
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), ours.model.parameters(), strict=True))


def test_a_model_of_one_channel_gets_one(tmp_path: Any) -> None:
    segformer(num_channels=1).save_pretrained(tmp_path)
    student = new_student("segmentation", tmp_path)
    assert student.processor.num_channels == 1
    assert student.model.eval() is not None and student.probabilities(np.eye(40, 50)).shape == (40, 50)


class Bright:
    """A teacher that finds whatever is bright."""

    def probabilities(self, frame: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(frame - frame.mean()) / frame.std() + 4))

    def fingerprint(self) -> str:
        return "bright"


def test_pseudo_labelled_pixels_weigh_their_confidence() -> None:
    """And nothing where quality control turned a candidate down."""
    frames = SyntheticInfrared(size=(64, 80), n_targets=(4, 8), extent=(1, 4), seed=1)
    dataset = apply_label_budget(frames.to_dataset(4), 0.5)
    rows = add_pseudo_labels(dataset, Bright(), rules=Rules(min_area=8), keep_in_memory=True)

    samples = StudentSamples(rows, InfraredImageProcessor(), 32, 5)
    crops = [samples[i] for i in range(24)]
    for crop in crops:  # a zoom resamples the weights, so that 1 is 1 up to rounding
        assert not crop["human"] or torch.allclose(crop["weights"], torch.ones(32, 32))
    weights = torch.stack([crop["weights"] for crop in crops if not crop["human"]])
    assert ((weights > 0.1) & (weights < 0.9)).any() and (weights == 0).any()


class Pixelwise(nn.Module):
    """A student of two weights, and the inputs it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.tensor(-1.0))
        self.asked: list[torch.Tensor] = []

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        self.asked.append(pixel_values)
        return SimpleNamespace(logits=self.gain * pixel_values + self.bias)


def segmentation_batch(kinds: list[float]) -> dict[str, Any]:
    batch = batch_of(kinds)
    return {
        **batch,
        "labels": (torch.rand(len(kinds), 32, 32) > 0.9).float(),
    }


@pytest.mark.parametrize(("step", "ramp"), [(0, 0.05), (4, 0.25), (9, 0.5), (50, 0.5)])
def test_pseudo_labelled_pixels_weigh_their_confidence_and_less_at_first(step: int, ramp: float) -> None:
    batch, model = segmentation_batch([1.0, 0.0, 0.0]), Pixelwise()
    batch["weights"][:, :5] = 0  # ignored: whatever the label says
    loss, _ = transfer_loss(0.5, 10)(model, batch, step)
    other = {**batch, "labels": torch.cat([1 - batch["labels"][:, :5], batch["labels"][:, 5:]], 1)}
    assert torch.equal(transfer_loss(0.5, 10)(model, other, step)[0], loss)
    weights = (batch["weights"] * torch.tensor([1, ramp, ramp])[:, None, None])[:, None]
    logits, target = model(batch["pixel_values"]).logits, batch["labels"][:, None]
    expected = 10 * weighted_bce(logits, target, weights) + soft_iou_loss(logits, target, weights)
    torch.testing.assert_close(loss, expected)


def test_a_batch_of_pseudo_labels_alone_weighs_as_little() -> None:
    batch, model = segmentation_batch([0.0, 0.0]), Pixelwise()
    whole, part = (transfer_loss(weight, 0)(model, batch, 3)[0] for weight in (1.0, 0.1))
    logits, target, weights = model(batch["pixel_values"]).logits, batch["labels"][:, None], batch["weights"][:, None]
    iou = soft_iou_loss(logits, target, 0.1 * weights)
    torch.testing.assert_close(part, 0.1 * (whole - soft_iou_loss(logits, target, weights) + iou))


def test_the_prior_shift_is_taken_off_the_logits() -> None:
    """The loss of a student whose logits are lower by the shift is that of the student without one."""
    batch, model = segmentation_batch([1.0, 0.0]), small_student().model
    logits, loss = model(batch["pixel_values"]).logits, transfer_loss(1.0, 0)(model, batch, 3)[0]
    model.add_to_logits(-1.2)
    torch.testing.assert_close(model(batch["pixel_values"]).logits, logits - torch.tensor([0, 1.2]).view(2, 1, 1))
    torch.testing.assert_close(transfer_loss(1.0, 0, logit_shift=1.2)(model, batch, 3)[0], loss)
    assert abs(loss - transfer_loss(1.0, 0)(model, batch, 3)[0]) > 0.1


@pytest.mark.parametrize("side", [3, 0])
def test_crops_show_more_targets_than_frames(side: int) -> None:
    """At least 7 of 10 crops of 50 pixels hold the one target of a frame of 200, and at most 3 more are pasted: its
    pixels are between 0.7 and 4 times 16 times as frequent."""
    mask = np.zeros((200, 200), np.uint8)
    mask[20 : 20 + side, 90 : 90 + side] = 255
    frame = np.random.default_rng(0).integers(80, 120, mask.shape).astype(np.uint8) + mask // 4
    row = {"image": Image.fromarray(frame), "mask": Image.fromarray(mask), "label_source": "human", "name": "one"}
    samples = StudentSamples(datasets.Dataset.from_list([row]), InfraredImageProcessor(), 50, seed=0)
    shift = prior_shift(samples)
    assert math.log(0.7 * 16) < shift < math.log(4 * 16) if side else shift == 0
