"""One function that loads whatever finds targets, and says what a folder holds."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model

from scalpel_hf import (
    DetectionStudent,
    InfraredImageProcessor,
    ScalpelMoeConfig,
    SegmentationStudent,
    SyntheticInfrared,
    Teacher,
    load_predictor,
    load_sam,
    load_student,
)
from scalpel_hf.cli import evaluate
from scalpel_hf.evaluation.evaluator import evaluate_predictor
from scalpel_hf.export import export_detector, export_student
from scalpel_hf.hub.example_grid import finder
from scalpel_hf.hub.standalone import save_standalone
from scalpel_hf.predictors.committee import Committee
from scalpel_hf.predictors.kinds import ModelKind, kind_of
from scalpel_hf.predictors.load import load_trained
from scalpel_hf.predictors.student import StandAloneTeacher, new_student
from scalpel_hf.runtime import OnnxDetector, OnnxStudent
from tests.runtime.made_by_hand import write_student
from tests.small_models import SIZE, perturb, small_mobile_sam
from tests.small_students import segformer, small_detector, small_student, yolos

FRAME = np.random.default_rng(0).normal(9000, 300, (40, 48)).astype(np.float32)
KINDS = {
    "teacher": (ModelKind.TEACHER, Teacher),
    "committee": (ModelKind.TEACHER, Committee),
    "stand-alone": (ModelKind.STAND_ALONE, StandAloneTeacher),
    "student": (ModelKind.SEGMENTATION, SegmentationStudent),
    "segformer": (ModelKind.SEGMENTATION, SegmentationStudent),
    "detector": (ModelKind.DETECTION, DetectionStudent),
    "yolos": (ModelKind.DETECTION, DetectionStudent),
    "exported": (ModelKind.EXPORTED, OnnxStudent),
    "exported/model.onnx": (ModelKind.EXPORTED, OnnxStudent),
    "exported-detector": (ModelKind.EXPORTED, OnnxDetector),
    "around": (ModelKind.EXPORTED, OnnxDetector),
}


def teacher(base: Path) -> Teacher:
    model = get_peft_model(load_sam(base), ScalpelMoeConfig(bottleneck=8, channels=8))
    perturb(model)
    return Teacher(model.eval(), InfraredImageProcessor(sam_size=SIZE))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    small_mobile_sam().save_pretrained(root / "base")
    one = teacher(root / "base")
    one.save_pretrained(root / "teacher")
    Committee([one, small_student()]).save_pretrained(root / "committee")
    save_standalone(root / "teacher", root / "stand-alone")
    small_student().save_pretrained(root / "student")
    small_detector().save_pretrained(root / "detector")
    for task, name, config in (("segmentation", "segformer", segformer()), ("detection", "yolos", yolos())):
        config.save_pretrained(root / f"{name}-config")
        new_student(task, root / f"{name}-config").save_pretrained(root / name)
    for folder in ("exported", "exported-detector"):
        (root / folder).mkdir()
    export_student(small_student(), root / "exported")
    export_detector(small_detector(), root / "exported-detector")
    shutil.copytree(root / "exported-detector", root / "around" / "onnx")
    return root


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_told_and_loaded(models: Path, name: str) -> None:
    kind, loaded_as = KINDS[name]
    assert kind_of(models / name) is kind
    predictor: Any = load_predictor(models / name, local_files_only=True)
    assert type(predictor) is loaded_as
    found = finder(models / name) if kind is not ModelKind.EXPORTED else None
    if hasattr(predictor, "probabilities"):
        probability = predictor.probabilities(FRAME)
        assert probability.shape == FRAME.shape and probability.std() > 0
        assert type(load_trained(models / name)) is loaded_as
        if found is not None:
            np.testing.assert_array_equal(found(FRAME), probability > 0.5)
    else:
        assert predictor.detect(FRAME)
        with pytest.raises(ValueError, match="holds a detector, but a model that predicts masks is needed"):
            load_trained(models / name)
        if found is not None:
            assert found(FRAME).shape == FRAME.shape and found(FRAME).dtype == bool


@pytest.mark.parametrize("size", [(40, 48), (SIZE, SIZE), (40, 3 * SIZE)])  # the last one in tiles
def test_a_stand_alone_teacher_answers_as_its_adapter(models: Path, size: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).normal(9000, 300, size).astype(np.float32)
    adapter, alone = (load_predictor(models / name) for name in ("teacher", "stand-alone"))
    np.testing.assert_allclose(alone.probabilities(frame), adapter.probabilities(frame), atol=1e-5)


def test_an_exported_one_is_measured_as_the_one_that_torch_runs(models: Path) -> None:
    mask = np.zeros(FRAME.shape, np.uint8)
    mask[10:13, 20:22] = 255
    rows = [{"name": "one", "image": FRAME, "mask": mask}]
    for name, exported in (("student", "exported"), ("detector", "exported-detector")):
        expected, metrics = (evaluate_predictor(load_predictor(models / n), rows, 0.3) for n in (name, exported))
        assert metrics == pytest.approx(expected, abs=1e-4)


def test_arguments_of_a_teacher_reach_it(models: Path) -> None:
    teacher = load_predictor(models / "teacher", models / "base", flips=True)
    assert isinstance(teacher, Teacher) and teacher.flips


@pytest.mark.parametrize("name", [name for name, (kind, _) in KINDS.items() if kind is not ModelKind.TEACHER])
def test_arguments_that_a_model_does_not_take_are_refused(models: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} holds an? [\w -]+, which takes no `flips`, `scales`$"):
        load_predictor(models / name, models / "base", flips=True, scales=(1, 1.5))
    for wrong in ({"dtype": torch.bfloat16}, {"flip": False}, {"nonsense": 3}):
        with pytest.raises(ValueError, match=f"which takes no `{next(iter(wrong))}`$"):
            load_predictor(models / name, feature_cache_dir=models / "features", **wrong)
    # Where frozen features would be kept changes nothing, and one such folder may serve several models in a row.
    load_predictor(models / name, models / "base", feature_cache_dir=models / "features", flips=False)


def test_evaluate_says_that_a_student_takes_no_flips(models: Path, tmp_path: Path) -> None:
    SyntheticInfrared(size=(40, 48), seed=1).to_dataset(2).save_to_disk(str(tmp_path / "data"))
    arguments = ["--dataset", str(tmp_path / "data"), "--split", "train", "--model", str(models / "student")]
    with pytest.raises(ValueError, match="student holds a segmentation student, which takes no `flips`"):
        evaluate.main([*arguments, "--flips"])


def empty(folder: Path) -> None:
    folder.mkdir()


def config(content: object) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(content))

    return write


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "holds no model: there is no such folder"),
        (empty, r"holds no model \(no adapter_config.json, config.json or runtime.json\)"),
        (config([]), "config.json"),
        (config({"architectures": [3]}), r"`architectures` in config.json must be a list of names, not \[3\]"),
        (config({"architectures": "Some"}), "`architectures` in config.json must be a list of names, not 'Some'"),
    ],
)
def test_no_model_is_one_line_that_names_the_folder(make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    make(tmp_path / "folder")
    for load in (load_predictor, load_student, kind_of):
        with pytest.raises(ValueError, match=message) as raised:
            load(tmp_path / "folder")
        assert str(tmp_path / "folder") in str(raised.value) and "\n" not in str(raised.value)


def test_a_teacher_is_no_student(models: Path) -> None:
    for name, kind in (("teacher", "a teacher's adapter"), ("stand-alone", "a stand-alone teacher")):
        with pytest.raises(ValueError, match=f"{name} holds {kind}, not a student in PyTorch"):
            load_student(models / name)


def test_arguments_of_the_hub_reach_the_download_of_an_exported_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_student(tmp_path / "snapshot")
    asked: dict[str, Any] = {}

    def download(name: str, **given: Any) -> str:
        asked.update(given)
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("scalpel_hf.predictors.load.kind_of", lambda *_, **__: ModelKind.EXPORTED)
    load_predictor("org/onnx", revision="v1", token="secret", cache_dir="cache", local_files_only=True)
    del asked["allow_patterns"]
    assert asked == {"revision": "v1", "token": "secret", "cache_dir": "cache", "local_files_only": True}
