"""Prompts into SAM's input and answers back to a frame's own pixels."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from transformers import AutoImageProcessor, AutoProcessor

from scalpel_hf import InfraredImageProcessor, ScalpelSamProcessor
from scalpel_hf.modeling.modeling_scalpel_sam import ScalpelSamOutput
from scalpel_hf.modeling.processing_scalpel_sam import label_components
from scalpel_hf.runtime.components import find_detections

SIZE = 64
SCALE = SIZE / 48  # of the frames below


@pytest.fixture
def processor() -> ScalpelSamProcessor:
    return ScalpelSamProcessor(InfraredImageProcessor(sam_size=SIZE))


def frame(height: int = 40, width: int = 48, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(10000, 12000, (height, width)).astype(np.uint16)


def test_every_kind_of_frame(processor: ScalpelSamProcessor, tmp_path: Path) -> None:
    values = (frame() % 256).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(frame()).save(tmp_path / "b.png")
    kinds: dict[str, list[Any]] = {
        "8 bits": [values, values[..., None], np.stack([values] * 3, -1), Image.fromarray(values), tmp_path / "a.png"],
        "16 bits": [
            *(frame(), frame()[..., None], np.stack([frame()] * 3, -1), frame()[None], frame() / 7.0),
            *(Image.fromarray(frame()), str(tmp_path / "b.png")),
            *(torch.from_numpy(frame().astype(np.int32)), torch.from_numpy(frame().astype(np.float32))[None]),
        ],
    }
    for images in kinds.values():
        expected = InfraredImageProcessor(sam_size=SIZE)(images[0], return_tensors="pt")
        for image in images:
            inputs = processor(image)
            assert set(inputs) == set(processor.model_input_names)
            for name, value in expected.items():
                torch.testing.assert_close(inputs[name], value, rtol=1e-5, atol=1e-4)
        assert inputs["frames"].std() > 0.9  # 16 bits aren't clipped to white
    arrays = processor(frame(), return_tensors="np")
    assert all(isinstance(value, np.ndarray) for value in arrays.values())


def test_a_prompt_means_the_same_place_in_the_frame_and_in_sams_input(processor: ScalpelSamProcessor) -> None:
    rows, columns = np.mgrid[:40, :48]
    spot = 10000 * np.exp(-((rows - 9) ** 2 + (columns - 30) ** 2) / 8)  # around the centre of a pixel
    inputs = processor(spot, input_points=[[[30, 9]]], input_boxes=[[[30, 9, 31, 10]]])
    seen = inputs["pixel_values"][0, 0, :53].numpy()
    rows, columns = np.mgrid[:53, :SIZE]
    centre = [np.average(index, weights=seen - seen.min()) for index in (columns, rows)]
    assert inputs["input_points"].shape == (1, 1, 1, 2) and inputs["input_labels"].tolist() == [[[1]]]
    # SAM's prompt encoder adds half a pixel to both, as pixel indices need it.
    np.testing.assert_allclose(inputs["input_points"][0, 0, 0], centre, atol=0.02)
    x0, y0, x1, y1 = inputs["input_boxes"][0, 0]
    np.testing.assert_allclose([(x0 + x1) / 2, (y0 + y1) / 2], centre, atol=0.02)
    np.testing.assert_allclose([x1 - x0, y1 - y0], [SCALE, 53 / 40], rtol=1e-5)


def test_points_of_different_numbers(processor: ScalpelSamProcessor) -> None:
    points = [[[1, 2], [3, 4], [5, 6]], [[7, 8]]]
    inputs = processor([frame(), frame()], input_points=points, input_labels=[[1, 0, 1], [1]])
    assert inputs["input_points"].shape == (2, 1, 3, 2)
    assert inputs["input_labels"].tolist() == [[[1, 0, 1]], [[1, -10, -10]]]
    assert inputs["input_points"][0, 0, 1, 0].item() == pytest.approx(3.5 * SCALE - 0.5)
    two = processor([frame()], input_points=[[[[1, 2]], [[3, 4]]]], input_boxes=[[[1, 2, 3, 4], [5, 6, 7, 8]]])
    assert two["input_points"].shape == (1, 2, 1, 2) and two["input_boxes"].shape == (1, 2, 4)


def test_objects_of_one_frame_with_different_numbers_of_points(processor: ScalpelSamProcessor) -> None:
    points = [[[[1, 2]], [[3, 4], [5, 6]]]]
    for labels, expected in ((None, [[[1, -10], [1, 1]]]), ([[[0], [1, 0]]], [[[0, -10], [1, 0]]])):
        inputs = processor(frame(), input_points=points, input_labels=labels)
        assert inputs["input_points"].shape == (1, 2, 2, 2) and inputs["input_labels"].tolist() == expected
        assert inputs["input_points"][0, 0, 1].tolist() == [-10, -10]
        assert inputs["input_points"][0, 1, 1, 0].item() == pytest.approx(5.5 * SCALE - 0.5)
    arrays = processor(frame(), input_points=np.ones((1, 2, 3, 2)), input_labels=torch.ones(1, 2, 3))
    assert arrays["input_points"].shape == (1, 2, 3, 2)
    with pytest.raises(ValueError, match="a label for each"):
        processor(frame(), input_points=points, input_labels=[[[0, 1], [1]]])


def test_a_mask_prompt_lies_where_its_target_does(processor: ScalpelSamProcessor) -> None:
    mask = np.zeros((40, 48), np.uint8)
    mask[18:30, 30:42] = 255
    for given in (mask, mask > 0, torch.from_numpy(mask).bool()):
        logits = processor(frame(), input_masks=[given])["input_masks"]
        assert logits.shape == (1, 1, 16, 16)
        inside = logits[0, 0] > 0
        rows, columns = inside.nonzero(as_tuple=True)
        expected = np.array([30, 18, 42, 30]) * SCALE / 4
        np.testing.assert_allclose([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], expected, atol=1)
        assert logits.min() == -10 and logits[0, 0, 14:].eq(-10).all()  # the padding is background
    assert torch.equal(processor(frame(), input_masks=[mask / 510])["input_masks"].max(), torch.tensor(0.0))


@pytest.mark.parametrize(
    ("prompts", "match"),
    [
        ({"input_points": [[[1, 2]], [[1, 2]]]}, "2 frames, there are 1"),
        ({"input_points": [[[1, 2, 3]]]}, r"\[x, y\]"),
        ({"input_points": [[[1, 2]]], "input_labels": [[1, 1]]}, "a label for each"),
        ({"input_points": [[[1, 2]]], "input_labels": [[1], [1]]}, "`input_labels` are for 2"),
        ({"input_masks": [np.zeros((48, 40))]}, r"size \(40, 48\)"),
    ],
)
def test_wrong_prompts_are_errors(processor: ScalpelSamProcessor, prompts: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        processor(frame(), **prompts)


def test_different_numbers_of_objects_are_an_error(processor: ScalpelSamProcessor) -> None:
    with pytest.raises(ValueError, match="one at a time"):
        processor([frame(), frame()], input_boxes=[[[1, 2, 3, 4]], [[1, 2, 3, 4], [5, 6, 7, 8]]])
    with pytest.raises(ValueError, match="sam_size"):
        ScalpelSamProcessor(InfraredImageProcessor())


def outputs(logits: torch.Tensor, scores: torch.Tensor | None = None) -> ScalpelSamOutput:
    scores = torch.zeros(logits.shape[:3]) if scores is None else scores
    return ScalpelSamOutput(pred_masks=logits, iou_scores=scores)


def test_masks_boxes_and_scores_in_the_frames_pixels(processor: ScalpelSamProcessor) -> None:
    logits = torch.full((2, 1, 1, 40, 48), -5.0)
    logits[0, 0, 0, 3, 5] = 2.0
    logits[0, 0, 0, 10:12, 20:23] = torch.tensor([[1.0, 3.0, 3.0], [-5.0, -5.0, 3.0]])
    logits[1, 0, 0, 39, 47] = 5.0  # in what was padded to the other frame's size
    sizes = torch.tensor([[40, 48], [30, 48]])
    result = outputs(logits)
    masks = processor.post_process_semantic_segmentation(result, sizes)
    assert [m.shape for m in masks] == [(40, 48), (30, 48)] and masks[0].dtype == torch.int64
    assert torch.equal(masks[0], (logits[0, 0, 0] > 0).long()) and not masks[1].any()
    found = processor.post_process_object_detection(result, target_sizes=sizes)
    assert found[0]["boxes"].tolist() == [[20, 10, 23, 12], [5, 3, 6, 4]] and found[0]["labels"].tolist() == [0, 0]
    sigmoid = 1 / (1 + np.exp(-np.array([1.0, 3.0, 2.0])))
    np.testing.assert_allclose(found[0]["scores"], [(sigmoid[0] + 3 * sigmoid[1]) / 4, sigmoid[2]], rtol=1e-6)
    assert all(len(value) == 0 for value in found[1].values()) and found[1]["boxes"].shape == (0, 4)
    strict = processor.post_process_object_detection(result, 0.9, target_sizes=sizes)[0]
    assert strict["boxes"].tolist() == [[21, 10, 23, 12]]
    assert torch.equal(processor.post_process_semantic_segmentation(result)[0], masks[0])
    with pytest.raises(ValueError, match="1 sizes"):
        processor.post_process_masks(logits, sizes[:1])


def test_prompted_masks_are_the_likeliest_of_each_object(processor: ScalpelSamProcessor) -> None:
    logits = torch.full((1, 2, 3, 40, 48), -5.0)
    for prompt in range(2):
        for mask in range(3):
            logits[0, prompt, mask, 10 * prompt + mask] = 1.0 + mask
    scores = torch.tensor([[[0.1, 0.9, 0.2], [0.8, 0.3, 0.2]]])
    (mask,) = processor.post_process_semantic_segmentation(outputs(logits, scores), [(40, 48)])
    assert mask.any(1).nonzero().flatten().tolist() == [1, 10]
    (each,) = processor.post_process_masks(logits, [(40, 48)])
    assert each.shape == (2, 3, 40, 48) and each.dtype == torch.bool and torch.equal(each, logits[0] > 0)


@pytest.mark.parametrize("size", [(20, 24), (80, 96)])
def test_masks_are_resized_to_another_size(processor: ScalpelSamProcessor, size: tuple[int, int]) -> None:
    logits = torch.randn(1, 1, 1, 40, 48)
    (found,) = processor.post_process_masks(logits, [size], [(32, 64)], binarize=False)
    expected = torch.nn.functional.interpolate(logits[0], size, mode="bilinear", align_corners=False)
    assert torch.equal(found, expected)
    assert processor.post_process_semantic_segmentation(outputs(logits), [size])[0].shape == size


def test_masks_on_the_bases_grid_come_back_to_the_frame(processor: ScalpelSamProcessor) -> None:
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    logits = torch.stack([columns, rows])[None, :, None]  # (1, 2, 1, 16, 16): each pixel says where it is
    (back,) = processor.post_process_masks(logits, [(40, 48)], binarize=False)
    x = ((np.arange(48) + 0.5) * SCALE / 4 - 0.5).clip(0, 15)
    y = ((np.arange(40) + 0.5) * SCALE / 4 - 0.5).clip(0, 15)
    np.testing.assert_allclose(back[0, 0, 20], x, atol=0.15)
    np.testing.assert_allclose(back[1, 0, :, 20], y, atol=0.15)


def test_without_sizes_masks_stay_as_they_are_on_either_grid() -> None:
    logits = torch.full((1, 2, 1, 16, 16), -6.0)
    logits[0, 1, 0, 5, 9] = 1.5  # a target of one pixel, which resampling would blur
    for grid in ("base", "frame", None):
        processor = ScalpelSamProcessor(InfraredImageProcessor(sam_size=SIZE), mask_grid=grid)
        (prob,) = processor.post_process_probabilities(outputs(logits))
        assert torch.equal(prob, logits[0].amax((0, 1)).sigmoid())
        assert processor.post_process_semantic_segmentation(outputs(logits))[0].nonzero().tolist() == [[5, 9]]


def test_frames_padded_to_the_bases_grid_get_their_part_of_it() -> None:
    images = InfraredImageProcessor(sam_size=SIZE, do_pad=True)
    masks, sizes = torch.randn(2, 1, 1, 16, 16), [(16, 16), (8, 12)]
    base, own = ScalpelSamProcessor(images, mask_grid="base"), ScalpelSamProcessor(images, mask_grid="frame")
    found = base.post_process_masks(masks, sizes, binarize=False)
    for mask, size, one in zip(masks, sizes, found, strict=True):
        (alone,) = base.post_process_masks(mask[None], [size], binarize=False)
        torch.testing.assert_close(one, alone)
    expected = torch.nn.functional.interpolate(masks[1, :, :, :11], (8, 12), mode="bilinear")  # 64 x 43 of its 64 x 64
    assert (found[1] - expected).abs().max() < 0.5 * expected.abs().max()
    assert torch.equal(own.post_process_masks(masks, sizes, binarize=False)[1], masks[1, ..., :8, :12])


def test_the_grid_of_masks_is_saved_and_checked(tmp_path: Path) -> None:
    ScalpelSamProcessor(InfraredImageProcessor(sam_size=SIZE), mask_grid="base").save_pretrained(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).mask_grid == "base"
    with pytest.raises(ValueError, match="`mask_grid` must be 'frame', 'base' or None"):
        ScalpelSamProcessor(InfraredImageProcessor(sam_size=SIZE), mask_grid="input")


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    processor = ScalpelSamProcessor(InfraredImageProcessor("percentile", (2, 98), sam_size=SIZE))
    processor.save_pretrained(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["processor_config.json"]
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is ScalpelSamProcessor
    image_processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(image_processor) is InfraredImageProcessor
    expected = processor(frame(), input_points=[[[1, 2]]])
    for name, value in loaded(frame(), input_points=[[[1, 2]]]).items():
        assert torch.equal(value, expected[name])
    assert torch.equal(image_processor(frame(), return_tensors="pt")["frames"], expected["frames"])

    processor.image_processor.save_pretrained(tmp_path / "teacher")  # as an adapter's folder has it
    assert ScalpelSamProcessor.from_pretrained(tmp_path / "teacher").image_processor.to_dict() == (
        processor.image_processor.to_dict()
    )


@pytest.mark.parametrize("density", [0.0, 0.1, 0.4, 0.6, 1.0])
def test_components_are_scipys(density: float) -> None:
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (7, 1), (33, 20), (64, 64)):
        mask = rng.random(shape) < density
        labels, count = label_components(torch.from_numpy(mask))
        expected, expected_count = ndimage.label(mask, np.ones((3, 3)))
        assert count == expected_count
        np.testing.assert_array_equal(labels, expected)


def test_a_spiral_is_one_component() -> None:
    mask = np.zeros((31, 31), bool)
    for i in range(0, 16, 2):
        mask[i, i : 31 - i] = mask[30 - i, i : 31 - i] = mask[i : 31 - i, 30 - i] = mask[i + 2 : 31 - i, i] = True
        mask[i + 2, i : i + 2] = True
    assert label_components(torch.from_numpy(mask))[1] == ndimage.label(mask, np.ones((3, 3)))[1]


@pytest.mark.parametrize("share", [0.1, 0.3, 1.0])
def test_large_and_many_components_take_no_time(processor: ScalpelSamProcessor, share: float) -> None:
    rng = np.random.default_rng(0)
    logits = np.where(rng.random((512, 640)) < share, rng.uniform(0.5, 2, (512, 640)), -5)
    prob = torch.from_numpy(logits).float()[None, None, None]
    began = time.perf_counter()
    (found,) = processor.post_process_object_detection(outputs(prob), 0.5)
    assert time.perf_counter() - began < 3
    expected = find_detections(prob[0, 0, 0].sigmoid().numpy(), 0.5)
    order = np.argsort(-expected.scores, kind="stable")
    np.testing.assert_allclose(found["scores"], expected.scores[order], rtol=1e-5)
    assert found["boxes"].long().sum() == expected.boxes.sum()
    assert sorted(found["boxes"].tolist()) == sorted(expected.boxes.tolist())


def test_masks_of_padded_frames_as_large_as_the_bases_grid_are_the_frames() -> None:
    padding = ScalpelSamProcessor(InfraredImageProcessor(sam_size=64, size_divisor=16))
    masks = torch.randn(1, 1, 1, 16, 16)
    (logits,) = padding.post_process_masks(masks, [(15, 15)], binarize=False)
    assert torch.equal(logits, masks[0, ..., :15, :15])
