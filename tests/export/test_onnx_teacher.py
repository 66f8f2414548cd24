import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from peft import get_peft_model

from scalpel_hf import InfraredImageProcessor, ScalpelMoeConfig, Teacher
from scalpel_hf.export import check_teacher, export_teacher
from scalpel_hf.runtime.settings import belonging_files
from tests.small_models import SIZE, small_mobile_sam, small_sam

SCALES = {"local_contrast": [3], "top_hat": [2], "matched_filter": [1.5], "anisotropic_diffusion": [1]}


def small_teacher(base: torch.nn.Module, **settings: object) -> Teacher:
    config = ScalpelMoeConfig(scales=SCALES, blocks=1, channels=8, top_k=2, **settings)
    model = get_peft_model(base, config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):  # little, so that the logits stay small
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return Teacher(model, InfraredImageProcessor(sam_size=SIZE))


def frame(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(shape[0]).integers(9000, 9900, shape).astype(np.uint16)


@pytest.fixture(scope="module", params=["mobile", "sam-gate"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Teacher, Path]:
    gate = {"consensus_gate": {"threshold": 1.0, "share": 0.5}}
    teacher = small_teacher(small_mobile_sam()) if request.param == "mobile" else small_teacher(small_sam(), **gate)
    folder = tmp_path_factory.mktemp("teacher")
    export_teacher(teacher, folder)
    return teacher, folder


def test_encoder_and_decoder_answer_as_the_teacher(exported: tuple[Teacher, Path]) -> None:
    teacher, folder = exported
    encoder, decoder = (onnxruntime.InferenceSession(folder / f"{name}.onnx") for name in ("encoder", "decoder"))
    for shape in ((40, 48), (64, 33)):
        frames = [frame(shape), frame(shape)[::-1], frame(shape)[:, ::-1]]
        inputs = teacher.processor(frames, return_tensors="np")
        (embeddings,) = encoder.run(None, {"pixel_values": inputs["pixel_values"]})
        region = {name: inputs[name] for name in ("frames", "frame_boxes")}
        (logits,) = decoder.run(None, {"image_embeddings": embeddings, **region})
        assert logits.shape == (3, 1, *shape)
        for prediction, one in zip(logits, frames, strict=True):
            expected = teacher.probabilities(one)
            assert expected.std() > 0.01 and 0.01 < expected.mean() < 0.99
            np.testing.assert_allclose(1 / (1 + np.exp(-prediction[0])), expected, atol=1e-4)


def test_the_record_says_which_adapter_it_is_of(exported: tuple[Teacher, Path], tmp_path: Path) -> None:
    teacher, folder = exported
    teacher.save_pretrained(tmp_path)
    shutil.copytree(folder, tmp_path / "onnx")
    names = [file.name for file in belonging_files(tmp_path / "onnx")]
    assert names == ["decoder.onnx", "encoder.onnx", "teacher.json"]
    other = small_teacher(small_mobile_sam())
    with torch.no_grad():
        next(p for p in other.model.parameters() if p.requires_grad).add_(0.5)
    other.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"teacher\.json was exported from other weights"):
        belonging_files(tmp_path / "onnx")


def test_the_check_compares_with_torch(exported: tuple[Teacher, Path]) -> None:
    teacher, folder = exported
    assert check_teacher(teacher, folder, [frame((40, 48)), frame((100, 30))]) < 1e-4
    parameter = next(
        p for name, p in teacher.model.named_parameters() if name.endswith("head.default.bias") or "head.bias" in name
    )
    with torch.no_grad():
        parameter += 0.01
    try:
        with pytest.raises(ValueError, match="differs from torch"):
            check_teacher(teacher, folder, [frame((40, 48))])
    finally:
        with torch.no_grad():
            parameter -= 0.01
    with pytest.raises(ValueError, match="no frame"):
        check_teacher(teacher, folder, [])


def test_masks_on_sams_own_grid(tmp_path: Path) -> None:
    teacher = small_teacher(small_mobile_sam(), mask_grid="base")
    export_teacher(teacher, tmp_path)
    assert check_teacher(teacher, tmp_path, [frame((40, 48)), frame((33, 70))]) < 1e-4


@pytest.mark.parametrize(
    "settings",
    [
        {"sam_features": False, "levels": ["pixel", "mask"]},
        {"sam_features": False, "levels": ["mask"], "full_resolution_channels": 4},
        {"levels": ["token"]},
    ],
)
def test_teachers_without_sams_features_or_without_a_mask_level(tmp_path: Path, settings: dict) -> None:
    teacher = small_teacher(small_mobile_sam(), **settings)
    export_teacher(teacher, tmp_path)
    shapes = ((40, 48), (64, 33), (1, 70), (100, 130))
    assert check_teacher(teacher, tmp_path, [frame(shape) for shape in shapes]) < 1e-4


def test_the_configuration_has_what_preprocessing_needs(exported: tuple[Teacher, Path]) -> None:
    config = json.loads((exported[1] / "teacher.json").read_text())
    assert config["sam_size"] == SIZE and config["normalization"] == "zscore" and config["opset"] == 18
    assert len(config["sam_mean"]) == len(config["sam_std"]) == 3
    assert sorted(p.name for p in exported[1].iterdir()) == ["decoder.onnx", "encoder.onnx", "teacher.json"]
