"""What a teacher is shown: fresh crops, and where they lie in SAM's input."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scalpel_hf import InfraredImageProcessor, ScalpelMoeConfig
from scalpel_hf.adapter.layer import active_mask_level, asks_sam, outputs_without_sam
from scalpel_hf.data.transforms import Sample
from scalpel_hf.modeling.mask_level import sample_region
from scalpel_hf.training.distillation import TeacherSamples, prompt_free_outputs
from scalpel_hf.training.new_teacher import freeze_operators, set_initial_bias
from scalpel_hf.training.sampling import prior_shift
from tests.small_models import small_mobile_sam

PROCESSOR = InfraredImageProcessor(normalization="range")


class Inputs:
    """A cache that keeps SAM's input itself, in place of what an encoder makes of it."""

    frozen = SimpleNamespace(input_size=64)

    def __init__(self) -> None:
        self.entries: dict[str, torch.Tensor] = {}

    def key(self, pixel_values: torch.Tensor) -> str:
        key = str(hash(pixel_values.numpy().tobytes()))
        self.entries.setdefault(key, pixel_values)
        return key

    def load(self, key: str) -> torch.Tensor:
        return self.entries[key]


def hills(seed: int, shape: tuple[int, int] = (60, 90)) -> Sample:
    """A smooth frame with one target."""
    y, x = np.mgrid[: shape[0], : shape[1]] / 12
    phases = np.random.default_rng(seed).uniform(0, 6, 2)
    frame = 100 + 20 * np.sin(x + phases[0]) * np.cos(y + phases[1])
    target = np.zeros(shape, np.float32)
    target[20:23, 40:43] = 1
    return Sample((frame + 5 * target).astype(np.float32), target, np.ones(shape, np.float32))


def samples(cache: Any = None, **kwargs: Any) -> TeacherSamples:
    return TeacherSamples([hills(seed) for seed in range(3)], PROCESSOR, cache, crop_size=32, seed=0, **kwargs)


def test_a_crop_lies_in_sams_input_where_it_says() -> None:
    made, agreements = samples(Inputs()), []
    for i in range(24):
        item = made[i]
        shown = sample_region(item["states"][None], item["frame_boxes"][None], 64, (32, 32))[0, 0]
        inside = item["weights"] > 0.99  # beyond the frame's edge a crop is mirrored, and SAM's input padded
        a, b = shown[inside], item["frames"][0][inside]
        agreements.append(float(np.corrcoef(a, b)[0, 1]))
    assert np.median(agreements) > 0.97 and min(agreements) > 0.8  # noise, and targets that SAM has not seen


def test_each_crop_is_another_and_a_function_of_its_number() -> None:
    one, two = samples(), samples()
    frames = [one[i]["frames"] for i in range(30)]
    assert len({frame.numpy().tobytes() for frame in frames}) == 30
    for i in (0, 7, 29):
        assert torch.equal(frames[i], two[i]["frames"])
    assert "states" not in one[0] and "frame_boxes" not in one[0]


def test_a_frame_is_cached_in_its_eight_symmetries() -> None:
    cache = Inputs()
    samples(cache).fill(progress=False)
    assert len(cache.entries) == 3 * 8


def test_crops_have_more_targets_than_frames() -> None:
    shift = prior_shift(samples())
    assert 0.3 < shift < 5


@pytest.fixture
def adapted() -> nn.Module:
    from peft import get_peft_model

    config = ScalpelMoeConfig(levels=["pixel", "mask"], channels=8, sam_features=False)
    return get_peft_model(small_mobile_sam(), config).eval()


def test_without_sams_features_sam_is_not_asked(adapted: nn.Module) -> None:
    assert not asks_sam(adapted)
    frames = torch.randn(2, 1, 40, 56)
    outputs = prompt_free_outputs(adapted, None, {"frames": frames})  # type: ignore[arg-type]
    assert outputs["logits"].shape == (2, 1, 40, 56) and "prior" in outputs
    with adapted.disable_adapter():  # type: ignore[operator]
        assert asks_sam(adapted)


def test_the_answer_without_sam_is_that_of_the_whole_model(adapted: nn.Module) -> None:
    level = active_mask_level(adapted)
    assert level is not None
    nn.init.normal_(level.head.weight, std=0.1)
    inputs = PROCESSOR(np.random.default_rng(0).normal(size=(40, 56)), return_tensors="pt")
    size = adapted.config.vision_config.image_size  # type: ignore[union-attr]
    inputs = InfraredImageProcessor(normalization="range", sam_size=size)(
        np.random.default_rng(0).normal(size=(40, 56)), return_tensors="pt"
    )
    with torch.no_grad():
        whole = adapted(**{k: inputs[k] for k in ("pixel_values", "frames", "frame_boxes")}, multimask_output=False)
        alone = outputs_without_sam(adapted, inputs["frames"])["logits"]
    assert alone.std() > 0.01
    torch.testing.assert_close(whole.pred_masks[:, 0], alone, atol=1e-5, rtol=1e-5)


def test_a_fresh_teacher_starts_where_targets_are_rare(adapted: nn.Module) -> None:
    set_initial_bias(adapted, 1.5)
    with torch.no_grad():
        logits = outputs_without_sam(adapted, torch.randn(1, 1, 32, 32))["logits"] + 1.5
    torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, 0.01), atol=1e-4, rtol=0)


def test_frozen_operators_stay_classical_and_the_rest_trains(adapted: nn.Module) -> None:
    freeze_operators(adapted)
    level = active_mask_level(adapted)
    assert level is not None and level.pyramid is not None
    nn.init.normal_(level.head.weight, std=0.1)
    outputs = outputs_without_sam(adapted, torch.randn(2, 1, 32, 32))
    (outputs["logits"].square().mean() + outputs["prior"].mean()).backward()
    assert all(p.grad is None for p in level.pyramid.parameters())
    assert level.head.weight.grad is not None and level.head.weight.grad.abs().sum() > 0
