"""Models load whole or not at all: what is missing, left over, of another shape, damaged or no number is named."""

import json
import logging
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSemanticSegmentation, SegformerConfig, SegformerForSemanticSegmentation, pipeline

from scalpel_hf import (
    DetectionStudent,
    InfraredImageProcessor,
    ScalpelMoeConfig,
    SegmentationStudent,
    Teacher,
    load_sam,
    load_student,
)
from scalpel_hf.hub.standalone import save_standalone
from scalpel_hf.modeling import MobileSamModel, ScalpelSamModel, ScalpelStudentForSemanticSegmentation
from scalpel_hf.predictors.student import new_student
from tests.small_models import SIZE, perturb, small_mobile_sam, small_sam
from tests.small_students import small_detector, small_student

TASK = "infrared-small-target-detection"
LOADERS: dict[str, tuple[str, list[Callable[[Path], Any]]]] = {
    "student": (
        "model.safetensors",
        [
            SegmentationStudent.from_pretrained,
            load_student,
            ScalpelStudentForSemanticSegmentation.from_pretrained,
            AutoModelForSemanticSegmentation.from_pretrained,
            lambda folder: new_student("segmentation", folder),
            lambda folder: pipeline(TASK, model=str(folder), device="cpu"),
        ],
    ),
    "detector": ("model.safetensors", [DetectionStudent.from_pretrained, load_student]),
    "sam": ("model.safetensors", [load_sam, lambda folder: load_sam(folder, 32)]),
    "mobile-sam": ("model.safetensors", [load_sam, MobileSamModel.from_pretrained]),
    "stand-alone": ("model.safetensors", [ScalpelSamModel.from_pretrained]),
    "teacher": (
        "adapter_model.safetensors",
        [Teacher.from_pretrained, lambda folder: pipeline(TASK, model=str(folder), device="cpu")],
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    small_student().save_pretrained(root / "student")
    small_detector().save_pretrained(root / "detector")
    small_sam().save_pretrained(root / "sam")
    small_mobile_sam().save_pretrained(root / "mobile-sam")
    model = get_peft_model(load_sam(root / "mobile-sam"), ScalpelMoeConfig(bottleneck=8))
    perturb(model)
    Teacher(model, InfraredImageProcessor(sam_size=SIZE)).save_pretrained(root / "teacher")
    save_standalone(root / "teacher", root / "stand-alone")
    return root


def tensors(change: Callable[[dict[str, torch.Tensor], list[str]], Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        weights = load_file(path)
        floats = sorted(key for key in weights if weights[key].is_floating_point() and weights[key].ndim)
        change(weights, floats)
        save_file(weights, path, metadata={"format": "pt"})

    return write


def half(weights: dict[str, torch.Tensor], keys: list[str]) -> None:
    for key in keys[::2]:
        del weights[key]


def in_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        content = path.read_bytes()
        size = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + size])
        change(next(value for key, value in sorted(header.items()) if key != "__metadata__"))
        changed = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + size :])

    return write


NOT_WHOLE = r"doesn't hold the weights of an? \w+: "
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "half": (tensors(half), NOT_WHOLE + r"\d+ weights \(`[\w.]+`, `[\w.]+` and \d+ others\) are missing"),
    "one missing": (tensors(lambda w, keys: w.pop(keys[3])), NOT_WHOLE + r"`[\w.]+` is missing"),
    "surplus": (
        tensors(lambda w, keys: w.update(extra=torch.zeros(3))),
        NOT_WHOLE + "`extra` is left over, for which the model has no place",
    ),
    "shape": (
        tensors(lambda w, keys: w.update({keys[2]: torch.zeros(5, *w[keys[2]].shape)})),
        NOT_WHOLE + r"`[\w.]+` is of another shape, \(5, .*\) in place of \(",
    ),
    "not a number": (tensors(lambda w, keys: w[keys[1]].fill_(float("nan"))), "has NaN or infinite values"),
    "infinite": (tensors(lambda w, keys: w[keys[1]].fill_(float("inf"))), "has NaN or infinite values"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "damaged or was not copied whole"),
    "empty": (lambda path: path.write_bytes(b""), "damaged or was not copied whole"),
    "a pointer": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "damaged or was not"),
    "lying length": (lambda path: path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:]), "damaged or was not copied"),
    "lying place": (in_header(lambda entry: entry.update(data_offsets=[0, 10**12])), "damaged or was not copied whole"),
    "lying shape": (in_header(lambda entry: entry.update(shape=[10**9])), "damaged or was not copied whole"),
}


def damaged(models: Path, tmp_path: Path, kind: str, damage: Callable[[Path], Any]) -> Path:
    shutil.copytree(models / kind, tmp_path / "damaged")
    damage(tmp_path / "damaged" / LOADERS[kind][0])
    return tmp_path / "damaged"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", LOADERS)
def test_broken_weights_are_refused_by_name(models: Path, tmp_path: Path, kind: str, damage: str) -> None:
    """By everything that loads them, in one line."""
    change, message = DAMAGES[damage]
    folder = damaged(models, tmp_path, kind, change)
    for load in LOADERS[kind][1]:
        with pytest.raises(ValueError, match=message) as caught:
            load(folder)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value) or "Could not load model" in str(caught.value)  # `pipeline`'s own words


@pytest.mark.parametrize("kind", LOADERS)
def test_whole_ones_load(models: Path, kind: str) -> None:
    for load in LOADERS[kind][1]:
        load(models / kind)


def test_the_table_of_keys_is_held_back_only_where_an_error_says_it(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = damaged(models, tmp_path, "student", DAMAGES["half"][0])
    logging.getLogger("transformers").propagate = True
    with pytest.raises(ValueError, match="are missing"):
        SegmentationStudent.from_pretrained(folder)
    assert "LOAD REPORT" not in caplog.text
    ScalpelStudentForSemanticSegmentation.from_pretrained(folder, ignore_mismatched_sizes=True)
    assert "LOAD REPORT" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"adapter_config\.json"),
        ("7", r"adapter_config\.json"),
        ("null", r"adapter_config\.json"),
        ("{", r"adapter_config\.json can't be read as JSON"),
        ("[" * 100_000, r"adapter_config\.json is nested too deeply"),
        ('{"peft_type": "A", "peft_type": "B"}', "'peft_type' is there twice"),
        ({"peft_type": None}, "`peft_type` must be text, not None"),
        ({"peft_type": ["SCALPEL_MOE"]}, "`peft_type` must be text"),
        ({"peft_type": "NOTHING"}, r"adapter_config\.json isn't an adapter's configuration: 'NOTHING'"),
        ({"base_model_name_or_path": 7}, "`base_model_name_or_path` must be text, not 7"),
        ({"base_model_name_or_path": {"a": 1}}, "`base_model_name_or_path` must be text"),
        ({"base_model_name_or_path": None}, "can't be loaded without its base model, None: no base model given"),
        (
            {"base_model_name_or_path": "not/there"},
            "base model, 'not/there': .*with `base=` in Python, or with the flag",
        ),
        ({"revision": 1}, "`revision` must be text, not 1"),
        ({"scales": [1, 2]}, r"adapter_config\.json isn't an adapter's configuration: unknown operators in `scales`"),
        ({"blocks": {"a": 1}}, "`blocks` must be a whole number"),
        ({"levels": "mask"}, "`levels` must name some of"),
        ({"bottleneck": "8"}, "`bottleneck` must be a whole number"),
        ({"target_modules": 5}, "`target_modules` must be a list of names"),
        ({"target_modules": ["vision_encoder.layers.9.mlp"]}, r"not found in the base model|made for another base"),
    ],
)
def test_adapter_configurations_of_a_wrong_shape(
    models: Path, tmp_path: Path, content: str | dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = damaged(models, tmp_path, "teacher", lambda path: None)
    path = folder / "adapter_config.json"
    if isinstance(content, dict):
        content = json.dumps({**json.loads(path.read_text()), **content})
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        Teacher.from_pretrained(folder)
    assert "\n" not in str(caught.value) and "damaged" in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content", ["[]", "7", "{", '"text"', "null", "{}", '{"hidden_sizes": 7}', "[" * 100_000])
def test_configurations_of_a_wrong_shape(models: Path, tmp_path: Path, file: str, content: str) -> None:
    folder = damaged(models, tmp_path, "student", lambda path: None)
    if content == '{"hidden_sizes": 7}':
        content = json.dumps({**json.loads((folder / file).read_text()), "hidden_sizes": 7, "percentiles": 7})
    (folder / file).write_text(content)
    for load in (SegmentationStudent.from_pretrained, load_student):
        with pytest.raises((ValueError, OSError), match="damaged"):
            load(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "preprocessor_config.json"])
def test_a_student_half_copied(models: Path, tmp_path: Path, file: str) -> None:
    folder = damaged(models, tmp_path, "student", lambda path: None)
    (folder / file).unlink()
    with pytest.raises(ValueError, match=rf"^{folder} isn't a whole model \(.*{file}.*\): copy it again") as caught:
        SegmentationStudent.from_pretrained(folder)
    assert "huggingface.co" not in str(caught.value)


def test_a_teacher_needs_its_weights_its_processor_and_a_teachers(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = damaged(models, tmp_path, "teacher", Path.unlink)
    with pytest.raises(FileNotFoundError, match=r"holds no weights of an adapter: there is no adapter_model\.safetens"):
        Teacher.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"holds no adapter: there is no adapter_config\.json"):
        Teacher.from_pretrained(models / "student")
    for absent in ("/absent", "not/there", "a/b/c", "x" * 200):
        with pytest.raises(ValueError, match=f"there is no adapter_config.json at '{absent}'") as caught:
            Teacher.from_pretrained(absent)
        assert "\n" not in str(caught.value)
    shutil.copytree(models / "teacher", tmp_path / "other")
    InfraredImageProcessor().save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="no `sam_size`: it is a student's"):
        Teacher.from_pretrained(tmp_path / "other")


# --- students that start from another model ---------------------------------------------------------------------------


def segformer(folder: Path, labels: int, change: Callable[[dict], Any] = lambda state: None) -> Path:
    config = SegformerConfig(
        depths=[1] * 4,
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        num_labels=labels,
    )
    model = SegformerForSemanticSegmentation(config)
    state = model.state_dict()
    change(state)
    model.save_pretrained(folder, state_dict=state)
    return folder


def test_a_head_for_other_classes_starts_afresh_and_nothing_else(tmp_path: Path) -> None:
    folder = segformer(tmp_path / "whole", 7)
    model = new_student("segmentation", folder).model
    expected = SegformerForSemanticSegmentation.from_pretrained(folder).state_dict()
    assert model.decode_head.classifier.weight.shape[0] == 2
    fresh = {key for key, value in model.state_dict().items() if not torch.equal(value, expected[key])}
    assert fresh == {"decode_head.classifier.weight", "decode_head.classifier.bias"}

    def drop(prefix: str) -> Callable[[dict], Any]:
        return lambda state: [state.pop(key) for key in list(state) if key.startswith(prefix)]

    for index, prefix in enumerate(("segformer.", "decode_head.linear_fuse")):
        with pytest.raises(ValueError, match=f"`{prefix}.* (is|are) missing"):
            new_student("segmentation", segformer(tmp_path / str(index), 7, drop(prefix)))


def test_a_detector_may_start_from_a_segmenter(models: Path, tmp_path: Path) -> None:
    """Its body must be whole, its head starts afresh."""
    config = json.loads((models / "detector" / "config.json").read_text())
    config["architectures"] = ["ScalpelStudentForSemanticSegmentation"]
    shutil.copytree(models / "student", tmp_path / "start")
    (tmp_path / "start" / "config.json").write_text(json.dumps(config))
    assert isinstance(new_student("detection", tmp_path / "start"), DetectionStudent)
    tensors(lambda weights, keys: weights.pop("encoder.0.0.0.weight"))(tmp_path / "start" / "model.safetensors")
    with pytest.raises(ValueError, match=r"`encoder\.0\.0\.0\.weight` is missing"):
        new_student("detection", tmp_path / "start")


def test_a_teacher_saves_the_adapter_that_it_predicts_with(tmp_path: Path) -> None:
    small_mobile_sam().save_pretrained(str(tmp_path / "base"))
    model = get_peft_model(load_sam(tmp_path / "base"), ScalpelMoeConfig(levels=["pixel", "mask"]))
    model.add_adapter("other", ScalpelMoeConfig(levels=["mask"]))
    teacher = Teacher(model, InfraredImageProcessor(sam_size=SIZE))
    teacher.save_pretrained(tmp_path / "teacher")
    assert not (tmp_path / "teacher" / "other").exists()
    model.set_adapter("other")
    with pytest.raises(ValueError, match="the active adapter is 'other', and a teacher's folder holds the one called"):
        teacher.save_pretrained(tmp_path / "another")


def test_half_precision_is_for_all_but_the_adapter(tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 4000, (40, 56)).astype(np.uint16)
    small_student().save_pretrained(tmp_path / "student")
    student = SegmentationStudent.from_pretrained(tmp_path / "student", dtype=torch.bfloat16)
    assert student.probabilities(frame).shape == (40, 56) and student.model.dtype == torch.bfloat16
    small_mobile_sam().save_pretrained(str(tmp_path / "base"))
    model = get_peft_model(load_sam(tmp_path / "base"), ScalpelMoeConfig(levels=["pixel", "mask"]))
    Teacher(model, InfraredImageProcessor(sam_size=SIZE)).save_pretrained(tmp_path / "teacher")
    loaded = pipeline("infrared-small-target-detection", model=str(tmp_path / "teacher"), dtype=torch.bfloat16).model
    dtypes = {("scalpel" in name, p.dtype) for name, p in loaded.named_parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}


def test_masks_on_sams_grid_become_a_map_of_the_frame(tmp_path: Path) -> None:
    small_mobile_sam().save_pretrained(str(tmp_path / "base"))
    config = ScalpelMoeConfig(levels=["pixel", "mask"], sam_features=True, mask_grid="base")
    teacher = Teacher(get_peft_model(load_sam(tmp_path / "base"), config), InfraredImageProcessor(sam_size=SIZE))
    assert teacher.probabilities(np.zeros((40, 60), np.uint8)).shape == (40, 60)
