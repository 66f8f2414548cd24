import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel, AutoModelForObjectDetection

from scalpel_hf.modeling.configuration_scalpel_student import SIZES, ScalpelStudentConfig, ScalpelStudentDetectionConfig
from scalpel_hf.modeling.image_processing_infrared import InfraredImageProcessor
from scalpel_hf.modeling.modeling_scalpel_student import ScalpelStudentForSemanticSegmentation
from scalpel_hf.modeling.modeling_scalpel_student_detection import ScalpelStudentForObjectDetection, draw_targets

# (x, y, width, height) in pixels: one pixel each with one between them, a row of two, large ones, one at the corner.
OBJECTS = [(3, 4, 1, 1), (5, 4, 1, 1), (9, 12, 2, 1), (20, 6, 3, 3), (24, 16, 9, 6), (38, 29, 2, 3)]
HEIGHT, WIDTH = 32, 40


def detector(size: str = "nano", seed: int = 0) -> ScalpelStudentForObjectDetection:
    """A detector whose outputs vary over the frame: fresh ones give nearly the initial probability everywhere."""
    torch.manual_seed(seed)
    model = ScalpelStudentForObjectDetection(ScalpelStudentDetectionConfig.from_size(size))
    with torch.no_grad():
        model.head[1].weight.normal_(std=0.3)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.normal_(std=0.3)
                module.weight.uniform_(0.7, 1.4)
                module.bias.normal_(std=0.3)
    return model.eval()


def shares(objects: list, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    x, y, w, h = np.array(objects, dtype=np.float32).reshape(-1, 4).T
    return torch.from_numpy(np.stack([(x + w / 2) / width, (y + h / 2) / height, w / width, h / height], axis=1))


def label(objects: list, height: int = HEIGHT, width: int = WIDTH) -> dict[str, torch.Tensor]:
    return {"class_labels": torch.zeros(len(objects), dtype=torch.long), "boxes": shares(objects, height, width)}


def right_maps(objects: list) -> torch.Tensor:
    """Maps (1, 5, H, W) that a perfect head would give."""
    targets = draw_targets(shares(objects) * torch.tensor([WIDTH, HEIGHT] * 2), HEIGHT, WIDTH)
    heat = targets["heat"].clamp(1e-4, 1 - 1e-4).logit()
    return torch.cat([heat[None], targets["boxes"][:2], targets["boxes"][2:].log()])[None]


def naive_losses(maps: np.ndarray, objects: list, weight: np.ndarray) -> np.ndarray:
    """The three sums of one frame, pixel by pixel as the documentation has them, and the weight of its targets."""
    heatmap = offset = size = count = 0.0
    gaussians = []
    for x, y, w, h in objects:
        px, py = math.floor(x + w / 2), math.floor(y + h / 2)
        sx, sy = max(w / 4, 0.5), max(h / 4, 0.5)
        gaussians.append(
            [
                [math.exp(-((i - px) ** 2) / (2 * sx**2) - (j - py) ** 2 / (2 * sy**2)) for i in range(WIDTH)]
                for j in range(HEIGHT)
            ]
        )
    stack = np.array(gaussians).reshape(-1, HEIGHT, WIDTH)
    prob = 1 / (1 + np.exp(-maps[0]))
    for j in range(HEIGHT):
        for i in range(WIDTH):
            highest = stack[:, j, i].max() if objects else 0.0
            if highest == 1:
                heatmap += -weight[j, i] * (1 - prob[j, i]) ** 2 * math.log(prob[j, i])
                count += weight[j, i]
            else:
                heatmap += -weight[j, i] * (1 - highest) ** 4 * prob[j, i] ** 2 * math.log(1 - prob[j, i])
    for k, (x, y, w, h) in enumerate(objects):
        own = (stack.argmax(0) == k) & (stack[k] > 0.1)
        total = stack[k][own].sum()
        for j, i in np.argwhere(own):
            part = weight[j, i] * stack[k, j, i] / total
            offset += (
                part * (abs(maps[1, j, i] + i + 0.5 - x - w / 2) / w + abs(maps[2, j, i] + j + 0.5 - y - h / 2) / h) / 2
            )
            size += part * (abs(maps[3, j, i] - math.log(w)) + abs(maps[4, j, i] - math.log(h))) / 2
    return np.array([heatmap, offset, size, count])


@pytest.mark.parametrize(("size", "millions"), [("nano", 0.05), ("small", 0.15), ("base", 0.4), ("large", 0.8)])
def test_sizes(size: str, millions: float) -> None:
    model = ScalpelStudentForObjectDetection(ScalpelStudentDetectionConfig.from_size(size))
    assert model.num_parameters() / 1e6 == pytest.approx(millions, rel=0.25)
    assert model.config.id2label == {0: "target"} and model.config.num_labels == 1


@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (16, 16), (17, 1), (75, 54)])
def test_any_size(shape: tuple[int, int]) -> None:
    with torch.no_grad():
        outputs = detector()(torch.randn(2, 1, *shape))
    count = min(100, shape[0] * shape[1])
    assert outputs.logits.shape == (2, count, 1) and outputs.pred_boxes.shape == (2, count, 4)
    assert torch.isfinite(outputs.pred_boxes).all() and ((outputs.pred_boxes >= 0) & (outputs.pred_boxes <= 1)).all()
    assert outputs.loss is None


def test_right_maps_give_every_box_back() -> None:
    """One pixel with a gap of one pixel survives, and so does each target of any size and place."""
    model, processor = detector(), InfraredImageProcessor()
    outputs = type("Outputs", (), {})()
    outputs.logits, outputs.pred_boxes = model._peaks(right_maps(OBJECTS))
    (found,) = processor.post_process_object_detection(outputs, 0.9, [(HEIGHT, WIDTH)])
    boxes = {(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in found["boxes"].tolist()}
    assert boxes == set(OBJECTS) and len(found["scores"]) == len(OBJECTS)


def test_a_peak_beside_the_centre_has_the_same_box() -> None:
    maps = right_maps([(24, 16, 9, 6)])
    maps[0, 0, 19, 28] = -9  # the centre itself
    logits, boxes = detector()._peaks(maps)
    best = logits[0, :, 0].argmax()
    torch.testing.assert_close(boxes[0, best], shares([(24, 16, 9, 6)])[0], atol=1e-6, rtol=0)


def test_a_second_peak_in_a_box_is_no_box() -> None:
    maps = right_maps([(24, 16, 9, 6), (3, 4, 1, 1)])
    maps[0, 0, 19, 31] = 5  # in the large one, three pixels from its centre
    logits, _ = detector()._peaks(maps)
    scores = logits[0, :, 0].sigmoid()
    assert scores.min() == 0
    assert (scores > 0.5).sum() == 2


def test_loss_by_its_formula() -> None:
    model = detector()
    frames, weights = torch.randn(3, 1, HEIGHT, WIDTH), torch.rand(3, HEIGHT, WIDTH)
    weights[0, :10] = 0
    objects = [OBJECTS, [], OBJECTS[3:5]]
    labels = [label(o) for o in objects]
    with torch.no_grad():
        outputs = model(frames, labels=labels, pixel_weights=weights)
        maps = model.head(model.features(frames))[..., :HEIGHT, :WIDTH].double().numpy()
        triples = zip(maps, objects, weights.numpy(), strict=True)
        *sums, count = sum(naive_losses(m, o, w.astype(float)) for m, o, w in triples)
        for (name, value), expected in zip(outputs.loss_dict.items(), sums, strict=True):
            assert value.item() == pytest.approx(expected / max(count, 1), rel=1e-4), name
        torch.testing.assert_close(outputs.loss, sum(outputs.loss_dict.values()))
        assert list(outputs.loss_dict) == ["loss_heatmap", "loss_offset", "loss_size"]
        plain = model(frames, labels=labels).loss
        torch.testing.assert_close(plain, model(frames, labels=labels, pixel_weights=torch.ones_like(weights)).loss)
        assert isinstance(model(frames, labels=labels, return_dict=False), tuple)


def test_right_maps_have_almost_no_loss() -> None:
    losses = detector()._losses(right_maps(OBJECTS), [label(OBJECTS)], None)
    assert losses["loss_offset"] == pytest.approx(0, abs=1e-5) and losses["loss_size"] == pytest.approx(0, abs=1e-5)
    assert losses["loss_heatmap"] < 2  # heights between 0 and 1 cost something near a centre
    wrong = right_maps(OBJECTS).roll(2, dims=3)
    assert detector()._losses(wrong, [label(OBJECTS)], None)["loss_heatmap"] > 5 * losses["loss_heatmap"]


def test_ignored_pixels_count_for_nothing() -> None:
    maps, weights = torch.randn(1, 5, HEIGHT, WIDTH), torch.ones(1, HEIGHT, WIDTH)
    weights[0, :, 20:] = 0
    changed = maps.clone()
    changed[..., 20:] = torch.randn(1, 5, HEIGHT, 20)
    losses = [detector()._losses(m, [label(OBJECTS)], weights) for m in (maps, changed)]
    assert losses[0] == losses[1]


def test_frames_without_targets() -> None:
    model = detector().train()
    loss = model(torch.randn(2, 1, 16, 16), labels=[label([])] * 2).loss
    loss.backward()
    assert loss > 0 and torch.isfinite(loss)


@pytest.mark.parametrize("seed", range(5))
def test_targets_of_any_boxes(seed: int) -> None:
    """Boxes at one place and within each other too: each height and share is finite, shares are 1 in sum."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 10, (12, 2))
    sides = rng.integers(1, 9, (12, 2))
    boxes = torch.from_numpy(np.concatenate([corners + sides / 2, sides], axis=1)).float()
    targets = draw_targets(torch.cat([boxes, boxes[:2]]), 16, 20)
    assert all(torch.isfinite(value).all() for value in targets.values())
    centres = {(int(x), int(y)) for x, y, _, _ in boxes.tolist()}
    assert {(int(x), int(y)) for y, x in targets["peaks"].nonzero().tolist()} == centres
    total = targets["share"].sum().item()
    assert total == pytest.approx(round(total), abs=1e-4) and len(centres) - 2 <= round(total) <= len(boxes)


@pytest.mark.parametrize("size", SIZES)
def test_every_parameter_gets_a_gradient(size: str) -> None:
    torch.manual_seed(2)
    model = ScalpelStudentForObjectDetection(ScalpelStudentDetectionConfig.from_size(size)).train()
    model(torch.randn(2, 1, 32, 48), labels=[label(OBJECTS[:4], 32, 48)] * 2).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_fresh_detectors_expect_few_targets() -> None:
    torch.manual_seed(1)
    model = ScalpelStudentForObjectDetection(ScalpelStudentDetectionConfig.from_size("small")).eval()
    with torch.no_grad():
        maps = model.head(model.features(torch.randn(2, 1, 64, 64)))
    assert maps[:, 0].sigmoid().mean() == pytest.approx(0.01, rel=0.3)
    assert maps[:, 1:].abs().mean() < 0.3  # boxes of about one pixel, where they are


def test_batch_equals_singles() -> None:
    model = detector("small").double()
    frames = torch.randn(4, 1, 37, 50, dtype=torch.float64)
    with torch.no_grad():
        batch = model(frames)
        singles = [model(frame[None]) for frame in frames]
    for name in ("logits", "pred_boxes"):
        torch.testing.assert_close(batch[name], torch.cat([s[name] for s in singles]), atol=1e-6, rtol=1e-6)


def test_auto_classes_save_and_load(tmp_path: Path) -> None:
    model, frame = detector("small"), torch.randn(1, 1, 33, 46)
    model.save_pretrained(tmp_path)
    InfraredImageProcessor(normalization="percentile").save_pretrained(tmp_path)
    for auto_class in (AutoModelForObjectDetection, AutoModel):
        loaded = auto_class.from_pretrained(tmp_path)
        assert type(loaded) is ScalpelStudentForObjectDetection and not loaded.training
        with torch.no_grad():
            assert torch.equal(model(frame).pred_boxes, loaded(frame).pred_boxes)
    assert AutoImageProcessor.from_pretrained(tmp_path).normalization == "percentile"
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())


def test_starts_from_a_segmentation_student(tmp_path: Path) -> None:
    segmenter = ScalpelStudentForSemanticSegmentation(ScalpelStudentConfig.from_size("nano"))
    segmenter.save_pretrained(tmp_path)
    config = ScalpelStudentDetectionConfig.from_size("nano")
    model = ScalpelStudentForObjectDetection.from_pretrained(tmp_path, config=config, ignore_mismatched_sizes=True)
    shared = {name for name in segmenter.state_dict() if not name.startswith("classifier")}
    assert shared == {name for name in model.state_dict() if not name.startswith("head")} and shared
    for name in shared:
        assert torch.equal(segmenter.state_dict()[name], model.state_dict()[name]), name


def test_wrong_inputs() -> None:
    model, frames = detector(), torch.zeros(1, 1, 8, 8)
    boxes, classes = torch.tensor([[0.5, 0.5, 0.1, 0.1]]), torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\), got \(1, 3, 8, 8\)"):
        model(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="2 labels do not pair with 1 frames"):
        model(frames, labels=[label([])] * 2)
    with pytest.raises(ValueError, match=r"got \(1, 4\) and \(2,\)"):
        model(frames, labels=[{"boxes": boxes, "class_labels": torch.zeros(2)}])
    with pytest.raises(ValueError, match=r"only class is 0, a target; got \[1\]"):
        model(frames, labels=[{"boxes": boxes, "class_labels": classes + 1}])
    for wrong in (boxes + 1, boxes * float("nan"), boxes * torch.tensor([1, 1, 0, 1])):
        with pytest.raises(ValueError, match="as shares of the frame"):
            model(frames, labels=[{"boxes": wrong, "class_labels": classes}])
    with pytest.raises(ValueError, match=r"`pixel_weights` have the frames' shape \(1, 8, 8\), got \(1, 4, 4\)"):
        model(frames, labels=[label([])], pixel_weights=torch.ones(1, 4, 4))
    with pytest.raises(Exception, match="num_queries"):
        ScalpelStudentDetectionConfig(num_queries=0)


def test_learns_one_frame_by_heart() -> None:
    torch.manual_seed(3)
    model = ScalpelStudentForObjectDetection(ScalpelStudentDetectionConfig.from_size("nano")).train()
    processor, frame = InfraredImageProcessor(), np.random.default_rng(3).normal(0, 1, (HEIGHT, WIDTH))
    for x, y, w, h in OBJECTS:
        frame[y : y + h, x : x + w] += 6
    inputs = processor(frame, return_tensors="pt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    # At a constant rate it never comes to rest, and where an edge rounds to depends on the number of threads.
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for _ in range(300):
        loss = model(**inputs, labels=[label(OBJECTS)]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        outputs = model.eval()(**inputs)
    (found,) = processor.post_process_object_detection(outputs, 0.5, inputs["original_sizes"])
    assert {(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in found["boxes"].tolist()} == set(OBJECTS)


def test_boxes_of_maps_in_half_precision_lie_where_those_in_single_do() -> None:
    model = ScalpelStudentForObjectDetection(ScalpelStudentDetectionConfig.from_size("nano"))
    maps = torch.zeros(1, 5, 512, 640)
    maps[:, 0] = -8
    maps[0, 0, 450, 601] = 4
    for dtype in (torch.bfloat16, torch.float16):
        (single,), (half,) = model._peaks(maps)[1], model._peaks(maps.to(dtype))[1]
        torch.testing.assert_close(half[0], single[0])
