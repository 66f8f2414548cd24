from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scalpel_hf.modeling.configuration_scalpel_student import SIZES, ScalpelStudentConfig
from scalpel_hf.modeling.image_processing_infrared import InfraredImageProcessor
from scalpel_hf.modeling.losses import soft_iou_loss, weighted_bce
from scalpel_hf.modeling.modeling_scalpel_student import ScalpelStudentForSemanticSegmentation


def student(size: str = "nano", seed: int = 0) -> ScalpelStudentForSemanticSegmentation:
    """A student whose outputs vary over the frame: fresh ones give nearly the initial probability everywhere."""
    torch.manual_seed(seed)
    model = ScalpelStudentForSemanticSegmentation(ScalpelStudentConfig.from_size(size))
    with torch.no_grad():
        model.classifier.weight.normal_(std=0.3)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.normal_(std=0.3)
                module.weight.uniform_(0.7, 1.4)
                module.bias.normal_(std=0.3)
    return model.eval()


@pytest.mark.parametrize(("size", "millions"), [("nano", 0.05), ("small", 0.15), ("base", 0.4), ("large", 0.8)])
def test_sizes(size: str, millions: float) -> None:
    model = ScalpelStudentForSemanticSegmentation(ScalpelStudentConfig.from_size(size))
    assert model.num_parameters() / 1e6 == pytest.approx(millions, rel=0.2)


@pytest.mark.parametrize("size", ["nano", "base"])
@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (16, 16), (17, 1), (300, 217), (240, 320)])
def test_any_size_at_native_resolution(shape: tuple[int, int], size: str) -> None:
    with torch.no_grad():
        logits = student(size)(torch.randn(2, 1, *shape)).logits
    assert logits.shape == (2, 2, *shape) and torch.isfinite(logits).all()


@pytest.mark.parametrize("size", ["nano", "base"])
def test_padding_repeats_the_edge(size: str) -> None:
    model = student(size)
    frame = torch.randn(1, 1, 20, 27)
    padded = torch.nn.functional.pad(frame, (0, 5, 0, 12), mode="replicate")
    with torch.no_grad():
        torch.testing.assert_close(model(frame).logits, model(padded).logits[:, :, :20, :27])


@pytest.mark.parametrize("size", ["nano", "base"])
def test_a_shift_by_the_coarsest_stride_shifts_the_logits(size: str) -> None:
    """All levels look at the same pixels: no half-pixel offsets between them, and no border but the frame's."""
    model = student(size)
    frame = torch.zeros(1, 1, 512, 512)
    frame[..., 240:246, 241:244] = 4
    with torch.no_grad():
        here = model(frame).logits
        there = model(frame.roll((32, -16), dims=(2, 3))).logits
    torch.testing.assert_close(
        here.roll((32, -16), dims=(2, 3))[..., 160:-160, 160:-160], there[..., 160:-160, 160:-160]
    )


def test_mirrored_weights_mirror_the_logits() -> None:
    """The grid is symmetric: a model with mirrored kernels sees the mirrored frame exactly as the model the frame."""
    model, mirror = student(), student()
    with torch.no_grad():
        for module in mirror.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.copy_(module.weight.flip(3))
        swap = [1, 0, 3, 2]  # left and right pixel of each cell
        mirror.classifier.weight.copy_(mirror.classifier.weight[swap])
        mirror.classifier.bias.copy_(mirror.classifier.bias[swap])
        frame = torch.randn(1, 1, 32, 48)
        torch.testing.assert_close(mirror(frame.flip(3)).logits, model(frame).logits.flip(3), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", ["nano", "base"])
def test_one_pixel_changes_the_logit_there(size: str) -> None:
    model = student(size)
    frame = torch.zeros(1, 1, 32, 32, requires_grad=True)
    model(frame).logits[0, 1, 13, 18].backward()
    assert frame.grad is not None and frame.grad[0, 0, 13, 18].abs() > 0


def test_save_and_load_bitwise(tmp_path: Path) -> None:
    model = student("small")
    frame = torch.randn(1, 1, 33, 46)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loaded = ScalpelStudentForSemanticSegmentation.from_pretrained(tmp_path)
    assert not loaded.training and loaded.config.id2label == {0: "background", 1: "target"}
    stored = load_file(tmp_path / "model.safetensors")
    assert set(stored) == set(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]) and torch.equal(value, stored[name]), name
    with torch.no_grad():
        assert torch.equal(model(frame).logits, loaded(frame).logits)


def test_missing_weights_are_initialised_and_loaded_ones_kept_on_request(tmp_path: Path) -> None:
    model = student()
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("classifier")}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"`classifier.bias`, `classifier.weight`\) are missing"):
        ScalpelStudentForSemanticSegmentation.from_pretrained(tmp_path)
    loaded = ScalpelStudentForSemanticSegmentation.from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    for name, value in state.items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert torch.allclose(loaded.classifier.bias.sigmoid(), torch.tensor(1e-4))


def test_batch_equals_singles() -> None:
    model = student("small").double()
    frames = torch.randn(4, 1, 37, 50, dtype=torch.float64)
    with torch.no_grad():
        batch = model(frames).logits
        singles = torch.cat([model(frame[None]).logits for frame in frames])
    torch.testing.assert_close(batch, singles, atol=1e-12, rtol=1e-12)


def test_memory_format_changes_nothing() -> None:
    model = student("small").double()
    frames = torch.randn(2, 1, 37, 50, dtype=torch.float64)
    with torch.no_grad():
        expected = model(frames).logits
        model = model.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(frames).logits, expected, atol=1e-12, rtol=1e-12)


def test_fresh_students_expect_few_targets() -> None:
    for size in SIZES:
        torch.manual_seed(1)
        model = ScalpelStudentForSemanticSegmentation(ScalpelStudentConfig.from_size(size))
        for training in (True, False):
            with torch.no_grad():
                prob = model.train(training)(torch.randn(2, 1, 64, 64)).logits.softmax(1)[:, 1]
            assert prob.mean() == pytest.approx(1e-4, rel=0.3), (size, training)


@pytest.mark.parametrize("size", SIZES)
def test_every_parameter_gets_a_gradient(size: str) -> None:
    torch.manual_seed(2)
    model = ScalpelStudentForSemanticSegmentation(ScalpelStudentConfig.from_size(size)).train()
    labels = (torch.rand(2, 48, 48) > 0.98).long()
    model(torch.randn(2, 1, 48, 48), labels=labels).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_loss_is_weighted_bce_and_soft_iou() -> None:
    model = student()
    frames, weights = torch.randn(2, 1, 9, 11), torch.rand(2, 9, 11)
    labels = torch.randint(0, 2, (2, 9, 11))
    labels[:, :3] = 255
    with torch.no_grad():
        output = model(frames, labels=labels, pixel_weights=weights)
        logits, target = output.logits[:, 1, 3:], labels[:, 3:].float()
        for w in (weights, torch.ones_like(weights)):
            expected = 10 * weighted_bce(logits, target, w[:, 3:]) + soft_iou_loss(logits, target, w[:, 3:])
            loss = model(frames, labels=labels, pixel_weights=w).loss
            torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(model(frames, labels=labels.float()).loss, model(frames, labels=labels).loss)
        torch.testing.assert_close(model(frames, labels=labels.byte()).loss, model(frames, labels=labels).loss)
        soft = torch.rand(2, 9, 11)
        expected = 10 * weighted_bce(output.logits[:, 1], soft) + soft_iou_loss(output.logits[:, 1], soft)
        torch.testing.assert_close(model(frames, labels=soft).loss, expected)
        assert model(frames, labels=torch.full_like(labels, 255)).loss == 0
        assert isinstance(model(frames, labels=labels, return_dict=False), tuple)


def test_wrong_inputs() -> None:
    model = student()
    frames = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\), got \(1, 3, 8, 8\)"):
        model(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"got \(8, 8\)"):
        model(torch.zeros(8, 8))
    with pytest.raises(ValueError, match=r"`labels` have the frames' shape \(1, 8, 8\), got \(1, 1, 8, 8\)"):
        model(frames, labels=torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="`pixel_weights` have"):
        model(frames, labels=torch.zeros(1, 8, 8), pixel_weights=torch.ones(1, 4, 4))
    for value in (7, -1, float("nan")):
        with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
            model(frames, labels=torch.full((1, 8, 8), value))


def test_wrong_configurations() -> None:
    with pytest.raises(ValueError, match="nano, small, base, large, got 'huge'"):
        ScalpelStudentConfig.from_size("huge")
    for options in (
        {"depths": (1,)},
        {"hidden_sizes": (8, 0, 8, 8)},
        {"initial_probability": 0.0},
        {"full_resolution_channels": -1},
        {"full_resolution_channels": 8, "hidden_sizes": (18, 32, 48, 48)},
    ):
        with pytest.raises(Exception, match=next(iter(options))):
            ScalpelStudentConfig(**options)
    assert ScalpelStudentConfig.from_size("base", initial_probability=0.02).initial_probability == 0.02


def test_image_processor_feeds_the_student() -> None:
    model, processor = student(), InfraredImageProcessor()
    frame = torch.randint(14000, 15000, (21, 34))
    inputs = processor(frame, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    (target_map,) = processor.post_process_semantic_segmentation(outputs, target_sizes=inputs.original_sizes)
    assert target_map.shape == (21, 34) and torch.equal(target_map, outputs.logits[0].argmax(0))


def test_learns_one_frame_by_heart() -> None:
    torch.manual_seed(3)
    model = ScalpelStudentForSemanticSegmentation(ScalpelStudentConfig.from_size("nano")).train()
    frame, labels = torch.randn(1, 1, 48, 64), torch.zeros(1, 48, 64, dtype=torch.long)
    for row, column, side in ((5, 7, 1), (30, 20, 3), (17, 50, 6)):
        labels[0, row : row + side, column : column + side] = 1
    frame[:, 0] += 4 * labels
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        loss = model(frame, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        predicted = model.eval()(frame).logits.argmax(1)
    assert torch.equal(predicted, labels)  # the one-pixel target too
