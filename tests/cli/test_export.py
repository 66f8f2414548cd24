"""`scalpel-hf export`, and `scalpel-hf evaluate` on what it writes."""

import json
from pathlib import Path
from types import SimpleNamespace

import datasets
import onnxruntime
import pytest

pytest.importorskip("onnxscript")
from scalpel_hf import SyntheticInfrared
from scalpel_hf.cli import evaluate, export
from scalpel_hf.evaluation.evaluator import evaluate_predictor
from scalpel_hf.predictors.student import load_student
from scalpel_hf.runtime import OnnxDetector, OnnxStudent, load_exported
from scalpel_hf.runtime.__main__ import main as run
from tests.small_students import small_detector, small_student


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A data set of 16-bit frames, and a student and a detector as the recipe leaves them."""
    root = tmp_path_factory.mktemp("work")
    camera = SyntheticInfrared(size=(40, 56), n_targets=(1, 2), extent=(2, 5), bit_depth=16, seed=3)
    splits = {"train": camera.to_dataset(4), "test": camera.to_dataset(3, start=4)}
    datasets.DatasetDict(splits).save_to_disk(str(root / "data"))
    small_student().save_pretrained(root / "student")
    small_detector().save_pretrained(root / "detector")
    (root / "teacher").mkdir()
    (root / "teacher" / "adapter_config.json").write_text('{"peft_type": "SCALPEL_MOE"}')
    return SimpleNamespace(root=root, data=str(root / "data"), test=splits["test"])


@pytest.mark.parametrize(("kind", "exported_as"), [("student", OnnxStudent), ("detector", OnnxDetector)])
def test_from_the_trained_student_to_the_table(
    work: SimpleNamespace, capsys: pytest.CaptureFixture, kind: str, exported_as: type
) -> None:
    folder = work.root / kind
    export.main([str(folder), "--dataset", work.data, "--int8", "--evaluate", "--threshold", "0.4"])
    printed = capsys.readouterr().out
    assert "opset 18, within " in printed and "on 3 frames" in printed
    table = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert [row[0] for row in table[1:]] == ["torch", "ONNX", "ONNX, INT8"]
    assert table[1][1:] == table[2][1:]
    assert sorted(file.name for file in (folder / "onnx").iterdir()) == [
        *("model.onnx", "model_int8.onnx", "runtime.json")
    ]
    expected = evaluate_predictor(load_student(folder), work.test, 0.4)
    for file, row in (("model.onnx", table[2]), ("model_int8.onnx", table[3])):
        assert isinstance(load_exported(folder, file), exported_as)
        model = str(folder / "onnx" / file)
        evaluate.main(["--dataset", work.data, "--model", model, "--threshold", "0.4"])
        metrics = json.loads(capsys.readouterr().out)
        first, second = ("iou", "niou") if kind == "student" else ("ap50", "ap50_95")
        assert row[1:3] == [f"{100 * metrics[first]:.1f}", f"{100 * metrics[second]:.1f}"]
        assert metrics["n_images"] == 3 and metrics["threshold"] == 0.4
        if file == "model.onnx":
            assert metrics == pytest.approx(expected, abs=1e-3)


def test_boxes_of_a_detector_by_the_runtimes_command(work: SimpleNamespace, tmp_path: Path) -> None:
    folder = work.root / "detector"
    if not (folder / "onnx").is_dir():
        export.main([str(folder)])
    work.test[0]["image"].save(tmp_path / "frame.png")
    run([str(folder), str(tmp_path / "frame.png"), "--threshold", "0.3", "--out", str(tmp_path / "boxes.jsonl")])
    line = json.loads((tmp_path / "boxes.jsonl").read_text())
    scores, boxes = load_student(folder).detect(tmp_path / "frame.png", 0.3)
    assert line["boxes"] == boxes.tolist() and line["boxes"]
    assert line["scores"] == pytest.approx(scores.tolist(), abs=1e-4)


def test_normalisation_and_threshold_outside(work: SimpleNamespace, tmp_path: Path) -> None:
    sides = ["--normalization", "outside", "--thresholding", "outside"]
    export.main([str(work.root / "student"), *sides, "--out", str(tmp_path / "out")])
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    assert [output.name for output in session.get_outputs()] == ["logits"]
    config = json.loads((tmp_path / "out" / "runtime.json").read_text())
    assert not config["normalization_inside"] and not config["threshold_inside"] and config["threshold"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["student", "--int8"], "name one"),
        (["student", "--evaluate"], "name one"),
        (["teacher", "--thresholding", "outside"], "is a teacher: .* are for students"),
        (["absent"], "say with `--out` where its ONNX files go"),
    ],
)
def test_wrong_arguments(work: SimpleNamespace, arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export.main([str(work.root / arguments[0]), *arguments[1:]])


def test_an_onnx_file_alone_is_an_error(work: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"runtime\.json beside it"):
        evaluate.main(["--dataset", work.data, "--model", str(tmp_path / "model.onnx")])


@pytest.mark.parametrize("flags", [["--threshold", "0.9"], ["--flips"], ["--base-model", "x"]])
def test_flags_of_models_are_refused_with_pseudo_labels(flags: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        evaluate.main(["--dataset", "data", "--pseudo-labels", "pseudo", *flags])
    assert "--flips, --feature-cache-dir and --threshold are for --model" in capsys.readouterr().err
