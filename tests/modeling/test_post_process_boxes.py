"""Boxes, and frames of models whose input is not the frame itself: padded, or in several channels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scalpel_hf.modeling.image_processing_infrared import InfraredImageProcessor


def outputs(boxes: list, scores: list, height: int, width: int, softmax: bool = False) -> SimpleNamespace:
    """A model's answer for one input of that size, with boxes (x0, y0, x1, y1) in its pixels."""
    x0, y0, x1, y1 = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4).T
    shares = torch.stack([(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height], 1)
    logits = torch.tensor(scores).logit()[:, None]
    if softmax:
        logits = torch.cat([logits, torch.zeros_like(logits)], 1)
    return SimpleNamespace(logits=logits[None], pred_boxes=shares[None])


@pytest.mark.parametrize("softmax", [False, True])
def test_scores_boxes_and_order(softmax: bool) -> None:
    answer = outputs([[2, 3, 5, 9], [10, 0, 12, 1], [0, 0, 4, 4]], [0.6, 0.9, 0.2], 20, 30, softmax)
    (found,) = InfraredImageProcessor().post_process_object_detection(answer, 0.5, torch.tensor([[20, 30]]))
    assert found["scores"].tolist() == pytest.approx([0.9, 0.6])
    assert found["boxes"].tolist() == [[10, 0, 12, 1], [2, 3, 5, 9]] and found["labels"].tolist() == [0, 0]
    (shares,) = InfraredImageProcessor().post_process_object_detection(answer, 0.5)
    torch.testing.assert_close(shares["boxes"] * torch.tensor([30, 20, 30, 20]), found["boxes"])
    (none,) = InfraredImageProcessor().post_process_object_detection(answer, 0.95, [(20, 30)])
    assert none["boxes"].shape == (0, 4)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([4.8, 3.3, 6.1, 4.4], [5, 3, 6, 4]),  # edges to the nearest
        ([7.1, 8.2, 7.3, 8.9], [7, 8, 8, 9]),  # less than a pixel, within one
        ([7.6, 8.6, 7.9, 9.4], [7, 9, 8, 10]),  # or across an edge: the pixel of its centre
        ([-3, -2, 0.2, 0.3], [0, 0, 1, 1]),  # the frame's first pixel, not beyond
        ([29.8, 19.7, 30.1, 20.2], [29, 19, 30, 20]),  # and its last
        ([-5, -5, 34, 24], [0, 0, 30, 20]),
    ],
)
def test_boxes_are_sets_of_whole_pixels(box: list, expected: list) -> None:
    (found,) = InfraredImageProcessor().post_process_object_detection(outputs([box], [0.9], 20, 30), 0.5, [(20, 30)])
    assert found["boxes"].tolist() == [expected]


def test_padding_is_taken_off_boxes_and_maps() -> None:
    processor = InfraredImageProcessor(num_channels=3, size_divisor=32)
    frame = np.random.default_rng(0).normal(size=(40, 70))
    inputs = processor(frame, return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 64, 96) and inputs["original_sizes"].tolist() == [[40, 70]]
    plain = InfraredImageProcessor()(frame, return_tensors="pt")["pixel_values"]
    padded = np.pad(plain[0, 0].numpy(), ((0, 24), (0, 26)), mode="edge")
    for channel in inputs["pixel_values"][0]:
        np.testing.assert_array_equal(channel.numpy(), padded)
    answer = outputs([[60, 30, 63, 32]], [0.9], 64, 96)
    (found,) = processor.post_process_object_detection(answer, 0.5, inputs["original_sizes"])
    assert found["boxes"].tolist() == [[60, 30, 63, 32]]
    logits = torch.randn(1, 1, 64, 96)
    (prob,) = processor.post_process_probabilities(SimpleNamespace(logits=logits), inputs["original_sizes"])
    torch.testing.assert_close(prob, logits[0, 0, :40, :70].sigmoid())


def test_boxes_found_in_the_padding_are_none_of_the_frame() -> None:
    processor = InfraredImageProcessor(size_divisor=32)
    boxes = [[38, 30, 42, 32], [60, 20, 61, 21], [10, 38.5, 12, 42], [10, 50, 12, 52]]
    (found,) = processor.post_process_object_detection(outputs(boxes, [0.9] * 4, 64, 64), 0.5, [(40, 40)])
    assert found["boxes"].tolist() == [[38, 30, 40, 32]]  # its centre is on the frame's edge
    batch = InfraredImageProcessor(do_pad=True)
    one = outputs([[30, 5, 33, 7]], [0.9], 40, 40)
    both = SimpleNamespace(logits=one.logits.repeat(2, 1, 1), pred_boxes=one.pred_boxes.repeat(2, 1, 1))
    found = batch.post_process_object_detection(both, 0.5, [(40, 30), (20, 40)])
    assert [len(one["boxes"]) for one in found] == [0, 1]


def test_a_divisor_of_one_call_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`size_divisor` 32 isn't the processor's, None, .*size_divisor=..."):
        InfraredImageProcessor()(np.eye(20), size_divisor=32)
    own = InfraredImageProcessor(size_divisor=32)(np.eye(20), size_divisor=32, return_tensors="pt")
    assert own["pixel_values"].shape == (1, 1, 32, 32)


def test_a_padded_batch_of_different_sizes() -> None:
    processor = InfraredImageProcessor(do_pad=True, size_divisor=16)
    inputs = processor([np.eye(20, 30), np.eye(33, 18)], return_tensors="pt")
    assert inputs["pixel_values"].shape == (2, 1, 48, 32)
    one, other = outputs([[1, 2, 3, 4]], [0.9], 48, 32), outputs([[16, 30, 19, 35]], [0.8], 48, 32)
    batch = {name: torch.cat([vars(one)[name], vars(other)[name]]) for name in ("logits", "pred_boxes")}
    found = processor.post_process_object_detection(SimpleNamespace(**batch), 0.5, inputs["original_sizes"])
    assert [f["boxes"].tolist() for f in found] == [[[1, 2, 3, 4]], [[16, 30, 18, 33]]]
    assert InfraredImageProcessor(size_divisor=16)(np.eye(20, 30))["pixel_values"][0].shape == (1, 32, 32)


def test_frames_of_a_teacher_with_a_divisor() -> None:
    """`frame_boxes` say what the padded frame covers of SAM's input."""
    inputs = InfraredImageProcessor(sam_size=64, size_divisor=32)(np.eye(40, 80), return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 64, 64) and inputs["frames"].shape == (1, 1, 64, 96)
    assert inputs["frame_boxes"].tolist() == [pytest.approx([0, 0, 64 * 96 / 80, 32 * 64 / 40])]


def test_sizes_that_do_not_pair() -> None:
    with pytest.raises(ValueError, match="2 target sizes do not pair with the 1 frames"):
        InfraredImageProcessor().post_process_object_detection(outputs([], [], 4, 4), 0.5, [(4, 4), (4, 4)])


def test_settings_are_saved(tmp_path) -> None:  # type: ignore[no-untyped-def]
    InfraredImageProcessor(num_channels=3, size_divisor=32).save_pretrained(tmp_path)
    loaded = InfraredImageProcessor.from_pretrained(tmp_path)
    assert (loaded.num_channels, loaded.size_divisor) == (3, 32)
