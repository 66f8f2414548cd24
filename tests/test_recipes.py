"""Both stages end to end on a few synthetic frames with a small MobileSAM."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from scalpel_hf import SegmentationStudent, SyntheticInfrared, Teacher, apply_label_budget
from scalpel_hf.cli import evaluate as evaluate_model
from scalpel_hf.cli import label as pseudo_label
from scalpel_hf.evaluation.evaluator import evaluate_probabilities
from scalpel_hf.evaluation.unseen import TrainedOn
from scalpel_hf.recipes import distill, transfer
from scalpel_hf.training.contact_sheet import SHEET_FILE
from scripts.experiments import fit_consensus_gate
from tests.small_models import small_mobile_sam

ROOT = Path(__file__).parents[1]
STEPS = 4
MEMBERS = ("", "committee-1")  # where a committee keeps the first two


@pytest.fixture(autouse=True)
def fresh_accelerator():
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def flags(**values: object) -> list[str]:
    argv: list[str] = []
    for name, value in values.items():
        argv += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return argv


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A data set and a base model on disk, and the flags that make a run short."""
    root = tmp_path_factory.mktemp("work")
    camera = SyntheticInfrared(size=(40, 56), n_targets=(1, 2), extent=(2, 5), seed=3)
    splits = {"train": camera.to_dataset(8), "test": camera.to_dataset(3, start=8)}
    datasets.DatasetDict(splits).save_to_disk(str(root / "full"))
    datasets.DatasetDict({**splits, "train": apply_label_budget(splits["train"], 0.5)}).save_to_disk(str(root / "data"))
    small_mobile_sam().save_pretrained(str(root / "base"))
    common = {"dataset": root / "data", "max_steps": STEPS, "batch_size": 2, "crop_size": 32, "checkpoint_steps": 2}
    teacher = {"base_model": root / "base", "image_size": 64, "sam_features": True, "feature_cache_dtype": "float32"}
    return SimpleNamespace(root=root, common=common, teacher=common | teacher)


@pytest.fixture(scope="module")
def runs(work: SimpleNamespace) -> SimpleNamespace:
    """All three programs run once, in order; what teacher and student answered before they were saved."""
    seen: dict[str, np.ndarray] = {}
    frame = np.asarray(SyntheticInfrared(size=(40, 56), seed=9).frame(0)["image"])

    def recording(cls: type) -> object:
        save = cls.save_pretrained

        def save_pretrained(self: object, folder: object) -> None:
            seen[cls.__name__] = self.probabilities(frame)
            save(self, folder)

        return save_pretrained

    root = work.root
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Teacher, "save_pretrained", recording(Teacher))
        patch.setattr(SegmentationStudent, "save_pretrained", recording(SegmentationStudent))
        data_before = snapshot(root / "data")
        distill.main(flags(**work.teacher, output_dir=root / "teacher"))
        AcceleratorState._reset_state(True)
        threshold = float(np.quantile(seen["Teacher"], 0.98))
        label = ["--dataset", str(root / "data"), "--teacher", str(root / "teacher"), "--out", str(root / "pseudo")]
        label += ["--threshold", f"{threshold:.6f}", "--shard-size", "3", "--truth", str(root / "full")]
        label += ["--no-calibration", "--min-empty", "0"]  # there is nothing to learn from so few frames
        pseudo_label.main(label)
        student = work.common | {"size": "nano", "pseudo_labels": root / "pseudo", "output_dir": root / "student"}
        transfer.main(flags(**student))
        AcceleratorState._reset_state(True)
    assert snapshot(root / "data") == data_before  # nothing is cached beside the data
    return SimpleNamespace(seen=seen, frame=frame, label=label, student=student, root=root, threshold=threshold)


def test_a_teacher_measured_from_its_cache_is_the_same(
    runs: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--dataset", str(runs.root / "full"), "--model", str(runs.root / "teacher")]
    metrics = []
    for extra in ([], ["--feature-cache-dir", str(tmp_path)], ["--feature-cache-dir", str(tmp_path)]):
        evaluate_model.main(options + extra)
        metrics.append(json.loads(capsys.readouterr().out))
    assert metrics[0] == json.loads((runs.root / "teacher" / "metrics.json").read_text())["metrics"]["test"]
    assert metrics[1] == metrics[2] and metrics[1]["iou"] == pytest.approx(metrics[0]["iou"], abs=0.01)
    assert len(list(tmp_path.glob("*.npy"))) == 3  # the frames


def test_metrics_say_how_the_run_is_repeated(runs: SimpleNamespace) -> None:
    for name, count in (("teacher", STEPS), ("student", STEPS)):
        record = json.loads((runs.root / name / "metrics.json").read_text())
        assert set(record) == {"metrics", "training", "arguments", "base_revision", "command", "commit", "machine"}
        assert record["metrics"]["test"]["n_images"] == 3 and 0 <= record["metrics"]["test"]["iou"] <= 1
        assert {"threshold", "distance", "legacy_fa"} <= set(record["metrics"]["test"])
        assert record["training"]["steps"] == count and record["training"]["last"]["loss"] > 0
        assert record["arguments"]["max_steps"] == STEPS and record["arguments"]["dataset"] == str(runs.root / "data")
        assert record["machine"]["packages"]["torch"] == torch.__version__
        assert record["commit"] is None or len(record["commit"].rstrip("+")) == 40


def test_the_saved_teacher_answers_as_the_trained_one(runs: SimpleNamespace) -> None:
    files = {f.name for f in (runs.root / "teacher").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "preprocessor_config.json"} <= files
    teacher = Teacher.from_pretrained(runs.root / "teacher")
    np.testing.assert_allclose(teacher.probabilities(runs.frame), runs.seen["Teacher"], rtol=0, atol=1e-5)
    assert np.ptp(runs.seen["Teacher"]) > 0
    cached = Teacher.from_pretrained(
        runs.root / "teacher", feature_cache_dir=runs.root / "teacher" / "features", feature_cache_dtype="float32"
    )
    entries = len(list((runs.root / "teacher" / "features").iterdir()))
    cached.probabilities(datasets.load_from_disk(str(runs.root / "data"))["test"][0]["image"])
    assert len(list((runs.root / "teacher" / "features").iterdir())) == entries  # the training's own entries are found
    assert teacher.fingerprint() == Teacher.from_pretrained(runs.root / "teacher").fingerprint()
    assert len({t.fingerprint() for t in (teacher, cached, with_flips(runs), with_top_k(runs))}) == 4
    means = load_file(runs.root / "teacher" / f"checkpoint-{STEPS}" / "ema.safetensors")
    saved = load_file(runs.root / "teacher" / "adapter_model.safetensors")
    # A batch norm's count of batches has no mean, nor have the operators on the frame, which stay classical.
    floats = [v for k, v in saved.items() if v.is_floating_point() and ".pyramid." not in k]
    assert sorted(v.sum().item() for v in means.values()) == sorted(v.sum().item() for v in floats)


def with_flips(runs: SimpleNamespace) -> Teacher:
    return Teacher.from_pretrained(runs.root / "teacher", flips=True)


def with_top_k(runs: SimpleNamespace) -> Teacher:
    """Settings that change predictions and not weights count too."""
    teacher = Teacher.from_pretrained(runs.root / "teacher")
    teacher.model.peft_config["default"].top_k = 2
    return teacher


def test_flips_make_answers_symmetric(runs: SimpleNamespace) -> None:
    plain, flips = Teacher.from_pretrained(runs.root / "teacher"), with_flips(runs)
    there, back = flips.probabilities(runs.frame), flips.probabilities(runs.frame[:, ::-1].copy())[:, ::-1]
    np.testing.assert_allclose(there, back, rtol=0, atol=1e-4)
    assert np.abs(plain.probabilities(runs.frame) - there).max() > 1e-4


def test_the_saved_student_answers_as_the_trained_one(runs: SimpleNamespace) -> None:
    model = AutoModelForSemanticSegmentation.from_pretrained(str(runs.root / "student")).eval()
    inputs = AutoImageProcessor.from_pretrained(str(runs.root / "student"))(runs.frame, return_tensors="pt")
    with torch.no_grad():
        prediction = model(pixel_values=inputs["pixel_values"]).logits.softmax(1)[0, 1].numpy()
    np.testing.assert_allclose(prediction, runs.seen["SegmentationStudent"], rtol=0, atol=1e-5)
    student = SegmentationStudent.from_pretrained(runs.root / "student")
    np.testing.assert_allclose(student.probabilities(runs.frame), runs.seen["SegmentationStudent"], rtol=0, atol=1e-5)
    test = datasets.load_from_disk(str(runs.root / "data"))["test"]
    recorded = json.loads((runs.root / "student" / "metrics.json").read_text())["metrics"]["test"]
    assert evaluate_probabilities(student.probabilities, test)["iou"] == pytest.approx(recorded["iou"], abs=1e-3)


def test_pseudo_labels_and_their_summary(runs: SimpleNamespace) -> None:
    labelled = datasets.load_from_disk(str(runs.root / "pseudo"))
    assert sorted(labelled["label_source"]) == ["human"] * 4 + ["pseudo"] * 4
    summary = json.loads((runs.root / "pseudo" / "summary.json").read_text())
    assert (summary["human"], summary["pseudo"], summary["quality"]["n_images"]) == (4, 4, 4)
    provenance = next(t for t in labelled["teacher"] if t)
    assert provenance["fingerprint"] == Teacher.from_pretrained(runs.root / "teacher").fingerprint()


def test_run_again_they_change_nothing(runs: SimpleNamespace, work: SimpleNamespace) -> None:
    models = ["teacher/adapter_model.safetensors", "student/model.safetensors"]
    kept = [runs.root / name for name in (*models, "pseudo/state.json", "pseudo/summary.json")]
    before = [file.read_bytes() for file in kept]
    metrics = json.loads((runs.root / "student" / "metrics.json").read_text())
    distill.main(flags(**work.teacher, output_dir=runs.root / "teacher"))
    AcceleratorState._reset_state(True)
    pseudo_label.main(runs.label)
    transfer.main(flags(**runs.student))
    assert [file.read_bytes() for file in kept] == before
    again = json.loads((runs.root / "student" / "metrics.json").read_text())
    assert again["metrics"] == metrics["metrics"] and again["training"]["last"] == metrics["training"]["last"]


@pytest.mark.parametrize("levels", [["mask"], ["token"], ["pixel", "mask"], ["token", "mask"]], ids=" ".join)
def test_fewer_levels(work: SimpleNamespace, tmp_path: Path, levels: list[str]) -> None:
    distill.main(flags(**work.teacher, output_dir=tmp_path, levels=levels, eval_split=""))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["levels"] == levels
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"] == {}
    assert Teacher.from_pretrained(tmp_path).probabilities(np.eye(40, 56)).shape == (40, 56)


def test_the_operators_bar_is_fitted_after_training(
    work: SimpleNamespace, runs: SimpleNamespace, tmp_path: Path
) -> None:
    assert json.loads((runs.root / "teacher" / "adapter_config.json").read_text())["consensus_gate"]["threshold"] > 0
    distill.main(flags(**work.teacher, output_dir=tmp_path, eval_split="", fit_consensus_gate=False))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["consensus_gate"]["threshold"] == 0
    for name, value in load_file(tmp_path / "adapter_model.safetensors").items():  # no weight depends on it
        assert torch.equal(value, load_file(runs.root / "teacher" / "adapter_model.safetensors")[name])


def test_unlabelled_frames_are_background(work: SimpleNamespace, tmp_path: Path) -> None:
    """Four labelled frames in their eight symmetries and three of the four others in one."""
    distill.main(flags(**work.teacher, output_dir=tmp_path, eval_split="", background_frames=3))
    assert len([*(tmp_path / "features").rglob("*.npy")]) == 4 * 8 + 3
    with pytest.raises(ValueError, match="every row has one"):
        distill.main(flags(**{**work.teacher, "dataset": work.root / "full"}, output_dir=tmp_path, background_frames=3))


def test_held_out_frames_choose_the_best_step_and_are_shown(
    work: SimpleNamespace, runs: SimpleNamespace, tmp_path: Path
) -> None:
    held_out = {"validation_fraction": 0.25, "eval_steps": 2}
    distill.main(flags(**work.teacher, **held_out, output_dir=tmp_path / "teacher"))
    AcceleratorState._reset_state(True)
    transfer.main(flags(**work.common, **held_out, size="nano", output_dir=tmp_path / "student"))
    for name in ("teacher", "student"):
        best = json.loads((tmp_path / name / "metrics.json").read_text())["training"]["best"]
        assert best["step"] in (2, 4) and best["metrics"]["n_images"] == 1
        assert (tmp_path / name / f"best-{best['step']}.safetensors").exists()
        assert Image.open(tmp_path / name / SHEET_FILE).width > 400 and not (runs.root / name / SHEET_FILE).exists()


@pytest.mark.parametrize(("recipe", "train"), [(distill, "train_committee"), (transfer, "train_student")])
def test_copies_of_frames_held_out_are_not_trained_on(
    work: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: ModuleType, train: str
) -> None:
    rows = datasets.load_from_disk(str(work.root / "data"))["train"]
    copies = rows.remove_columns("name").add_column("name", [f"copy{i}" for i in range(8)]).cast(rows.features)
    datasets.DatasetDict(train=datasets.concatenate_datasets([rows, copies])).save_to_disk(str(tmp_path / "data"))
    parts: dict[str, datasets.Dataset] = {}

    def stop(*_: object, **given: datasets.Dataset) -> None:
        parts.update(given)
        raise InterruptedError

    monkeypatch.setattr(recipe, train, stop)
    options = {"dataset": tmp_path / "data", "validation_fraction": 0.25, "eval_split": "", "output_dir": tmp_path}
    with pytest.raises(InterruptedError):
        recipe.main(flags(**{**(work.teacher if recipe is distill else work.common), **options}))
    held_out = set(TrainedOn.of(parts["held_out"])._pixels)
    assert len(held_out) == 2 and held_out.isdisjoint(TrainedOn.of(parts["rows"])._pixels)


def test_frames_that_are_watched_are_shown_and_choose_nothing(work: SimpleNamespace, tmp_path: Path) -> None:
    watch = {"watch_split": "test", "eval_split": "", "max_steps": 2}
    distill.main(flags(**{**work.teacher, **watch}, committee=3, output_dir=tmp_path / "teacher"))
    AcceleratorState._reset_state(True)
    transfer.main(flags(**{**work.common, **watch}, size="nano", output_dir=tmp_path / "student"))
    sheets = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob(SHEET_FILE))
    assert len(sheets) == 4 and f"teacher/{SHEET_FILE}" in sheets and f"student/{SHEET_FILE}" in sheets
    for name in ("teacher", "student"):
        assert json.loads((tmp_path / name / "metrics.json").read_text())["training"]["best"] is None


def test_a_student_of_all_masks_needs_no_budget(work: SimpleNamespace, tmp_path: Path) -> None:
    transfer.main(flags(**{**work.common, "dataset": work.root / "full"}, size="nano", output_dir=tmp_path))
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (distill, {"dataset": ""}, "no data set given"),
        (
            distill,
            {"dataset": "/absent/data"},
            r"'/absent/data' holds no data set: make one with `scalpel-hf prepare --out /absent/data`",
        ),
        (distill, {"train_split": "training"}, r"has no split 'training', only train, test"),
        (distill, {"eval_split": "val"}, r"has no split 'val', only train, test"),
        (distill, {"base_model": ""}, "no base model given"),
        (distill, {"adapter": "full"}, "`adapter` must be one of scalpel_moe, lora, got 'full'"),
        (distill, {"levels": ["mask", "pixels"]}, "`levels` must name some of"),
        (distill, {"operators": ["sobel"]}, r"unknown operators in `scales`: \['sobel'\]"),
        (distill, {"blocks": 99, "levels": ["pixel", "token", "mask"]}, "`blocks` asks for the last 99"),
        (distill, {"image_size": 70}, "multiple of 32"),
        (distill, {"feature_cache_dtype": "int8"}, "`feature_cache_dtype` must be one of float16, float32, got 'int8'"),
        (distill, {"levels": ["token", "mask"], "sam_features": False}, "`token` changes SAM's features"),
        (distill, {"validation_fraction": 0.99}, "leaves none to train on"),
        (transfer, {"dataset": ""}, "no data set given"),
        (transfer, {"pseudo_labels": "/absent/pseudo"}, "'/absent/pseudo' holds no data set.*`scalpel-hf label --out"),
        (transfer, {"size": "huge"}, "`size` must be one of nano, small, base, large, got 'huge'"),
        (transfer, {"normalization": "minmax"}, "`normalization` must be one of"),
    ],
)
def test_wrong_values_are_clear_errors(
    work: SimpleNamespace, tmp_path: Path, recipe: ModuleType, changes: dict, message: str
) -> None:
    values = work.teacher if recipe is distill else work.common
    with pytest.raises((ValueError, SystemExit), match=message):  # SystemExit: it is seen in the flags alone
        recipe.main(flags(**{**values, "output_dir": tmp_path, **changes}))


def test_labels_of_people_alone_are_no_pseudo_labels(work: SimpleNamespace, tmp_path: Path) -> None:
    data = work.common["dataset"]
    with pytest.raises(ValueError, match=r"holds no pseudo labels: make them with `scalpel-hf label`"):
        transfer.main(flags(**{**work.common, "pseudo_labels": data, "output_dir": tmp_path}))


def test_the_guard_compares_before_it_trains(
    work: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "teacher"
    values = {**work.teacher, "dataset": work.root / "full", "sam_features": False, "output_dir": out, "guard": True}
    distill.main(flags(**values))
    record = json.loads((out / "metrics.json").read_text())["guard"]
    assert record["frames"] == 8 and set(record["lead"]) == {"iou", "niou", "pd", "fa"}
    assert "a small network trained on the same labels" in capsys.readouterr().out
    assert (out / "guard" / "small-network-1").is_dir() and not (out / "features").exists()  # SAM was not asked
    teacher = Teacher.from_pretrained(out)
    assert teacher.probabilities(np.random.default_rng(0).normal(size=(40, 56))).shape == (40, 56)
    distill.main(flags(**{**values, "guard": False}))  # the finished run is the same with it and without
    assert "resuming from step" in capsys.readouterr().out
    assert json.loads((out / "metrics.json").read_text())["guard"] == record
    with_sam = tmp_path / "with-sam"
    distill.main(flags(**{**values, "sam_features": True, "output_dir": with_sam}))
    state = json.loads((with_sam / "guard" / "teacher-0" / "checkpoint-1" / "state.json").read_text())
    assert state["arguments"]["sam_features"] and state["arguments"]["max_steps"] == 1
    assert not (with_sam / "guard" / "teacher-0" / "features").exists()  # the teacher's own is used
    state = json.loads((with_sam / "guard" / "small-network-0" / "checkpoint-2" / "state.json").read_text())
    assert state["arguments"]["task"] == "segmentation" and state["arguments"]["max_steps"] == 2
    capsys.readouterr()
    distill.main(flags(**{**values, "dataset": work.root / "data", "output_dir": tmp_path / "few", "max_steps": 1}))
    assert "no comparison with a small network" in capsys.readouterr().out


def splits_of(work: SimpleNamespace, **changes: object) -> datasets.DatasetDict:
    return datasets.DatasetDict({**datasets.load_from_disk(str(work.root / "data")), **changes})


def forbid_training(monkeypatch: pytest.MonkeyPatch) -> None:
    for recipe in (distill, transfer):
        monkeypatch.setattr(recipe, "train", lambda *_, **__: pytest.fail("trained"))


def test_what_cannot_be_measured_is_said_before_training(
    work: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_training(monkeypatch)
    splits = datasets.load_from_disk(str(work.root / "data"))
    human = splits["train"].filter(lambda s: s == "human", input_columns="label_source")
    splits["train"].save_to_disk(str(tmp_path / "flat"))  # as `scalpel-hf convert from` made it of a flat data set
    copies = human.remove_columns("name").add_column("name", [f"copy {i}" for i in range(len(human))])
    splits_of(work, test=copies).save_to_disk(str(tmp_path / "leaking"))
    splits_of(work, test=splits["test"].remove_columns("mask")).save_to_disk(str(tmp_path / "no-masks"))
    for recipe, values in ((distill, work.teacher), (transfer, work.common)):
        for changes, message in (
            ({"dataset": tmp_path / "flat"}, r"flat' has no split 'test', only train.*`--eval_split ''`"),
            ({"eval_split": "train"}, r"4 of its 8 frames have no mask \(.*`--eval_split ''` for no metrics"),
            ({"dataset": tmp_path / "leaking"}, r"all 4 frames of split 'test' .* were trained on.*`--eval_split ''`"),
            ({"dataset": tmp_path / "no-masks"}, "has no column `mask` to evaluate with"),
        ):
            with pytest.raises(ValueError, match=message):
                recipe.main(flags(**{**values, **changes, "output_dir": tmp_path / "run"}))
    assert not (tmp_path / "run" / "metrics.json").exists()


def start(recipe: ModuleType, **values: object) -> None:
    AcceleratorState._reset_state(True)
    recipe.main(flags(**values))


def test_a_run_is_not_gone_on_with_on_other_data(work: SimpleNamespace, tmp_path: Path) -> None:
    """Prepared anew with other frames or another budget under the same name, or another base: never the old weights."""
    data, base = tmp_path / "data", tmp_path / "base"
    shutil.copytree(work.root / "data", data)
    shutil.copytree(work.root / "base", base)
    teacher = {**work.teacher, "dataset": data, "base_model": base, "output_dir": tmp_path / "teacher"}
    student = {**work.common, "dataset": data, "size": "nano", "output_dir": tmp_path / "student"}

    start(distill, **teacher)
    start(transfer, **student)
    kept = {name: snapshot(tmp_path / name) for name in ("teacher", "student")}
    full = datasets.load_from_disk(str(work.root / "full"))
    shutil.rmtree(data)
    splits_of(work, train=apply_label_budget(full["train"], 0.25)).save_to_disk(str(data))
    with pytest.raises(ValueError, match="of a run in which other content was used for: labelled frames"):
        start(distill, **teacher)
    with pytest.raises(ValueError, match="of a run in which other content was used for: rows"):
        start(transfer, **student)
    shutil.rmtree(data)
    shutil.copytree(work.root / "data", data)
    other = small_mobile_sam()
    with torch.no_grad():
        next(other.mask_decoder.parameters()).add_(1)
    other.save_pretrained(str(base))
    with pytest.raises(ValueError, match="of a run in which other content was used for: base model"):
        start(distill, **teacher)
    for name, files in kept.items():
        assert {k: v for k, v in snapshot(tmp_path / name).items() if k in files} == files


def test_the_same_data_and_base_under_other_names_are_gone_on_with(
    work: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """As on another machine, or where a folder was moved."""
    teacher = {**work.teacher, "output_dir": tmp_path / "teacher"}
    student = {**work.common, "size": "nano", "output_dir": tmp_path / "student"}

    start(distill, **teacher)
    start(transfer, **student)
    weights = {path: path.read_bytes() for path in tmp_path.glob("*/*.safetensors")}
    assert len(weights) == 2 and "resuming from step" not in capsys.readouterr().out
    for name in ("data", "base"):
        shutil.copytree(work.root / name, tmp_path / "moved" / name)
    moved = {"dataset": tmp_path / "moved" / "data"}
    start(distill, **{**teacher, **moved, "base_model": tmp_path / "moved" / "base"})
    start(transfer, **{**student, **moved})
    assert capsys.readouterr().out.count("resuming from step") == 2
    assert weights == {path: path.read_bytes() for path in weights}


def test_another_eval_split_adds_its_figures(work: SimpleNamespace, tmp_path: Path) -> None:
    test = datasets.load_from_disk(str(work.root / "data"))["test"]
    splits_of(work, night=test.select([0, 2])).save_to_disk(str(tmp_path / "data"))
    values = {**work.common, "dataset": tmp_path / "data", "size": "nano", "output_dir": tmp_path / "run"}

    def metrics(**changes: object) -> dict:
        AcceleratorState._reset_state(True)
        transfer.main(flags(**{**values, **changes}))
        return json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]

    first = metrics()
    both = metrics(eval_split="night")
    assert both["test"] == first["test"] and both["night"]["n_images"] == 2
    assert metrics(eval_split="") == both
    assert set(metrics(eval_split="", resume=False)) == set()  # of weights that are trained anew


def test_what_a_model_was_trained_on_goes_with_it(
    work: SimpleNamespace, runs: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = datasets.load_from_disk(str(work.root / "data"))["train"]
    names = {name for name, source in zip(train["name"], train["label_source"], strict=True) if source == "human"}
    teacher, student = (TrainedOn.load(runs.root / name) for name in ("teacher", "student"))
    assert {frame.name for frame in teacher.frames} == names
    assert {frame.name for frame in student.frames} == set(train["name"])  # the others by their pseudo labels
    assert TrainedOn.load(runs.root / "pseudo") == teacher

    # Another, smaller budget: two of the frames that are labelled now were trained on, and aren't measured.
    fewer = apply_label_budget(datasets.load_from_disk(str(work.root / "full"))["train"], 0.25)
    splits_of(work, train=fewer).save_to_disk(str(tmp_path / "fewer"))
    label = [*runs.label, "--dataset", str(tmp_path / "fewer"), "--out", str(tmp_path / "pseudo")]
    pseudo_label.main(label)
    quality = json.loads((tmp_path / "pseudo" / "summary.json").read_text())["quality"]
    assert fewer["label_source"][:].count("none") == 6 and quality["n_images"] == 4
    capsys.readouterr()
    evaluate_model.main(
        ["--dataset", str(work.root / "full"), "--split", "train", "--pseudo-labels", str(tmp_path / "pseudo")]
    )
    assert json.loads(capsys.readouterr().out)["n_images"] == 4
    evaluate_model.main(
        ["--dataset", str(work.root / "full"), "--split", "train", "--model", str(runs.root / "teacher")]
    )
    assert json.loads(capsys.readouterr().out)["n_images"] == 4
    with pytest.raises(ValueError, match=r"all 8 frames of split 'train' .* were trained on"):
        evaluate_model.main(
            ["--dataset", str(work.root / "full"), "--split", "train", "--model", str(runs.root / "student")]
        )

    # A gate fitted to other frames, and a student that begins where another ended, have seen those frames too.
    test = splits_of(work)["test"]
    splits_of(work, train=test).save_to_disk(str(tmp_path / "other"))
    fit = [
        "--dataset",
        str(tmp_path / "other"),
        "--teacher",
        str(runs.root / "teacher"),
        "--out",
        str(tmp_path / "gated"),
    ]
    fit_consensus_gate.main(fit)
    assert {frame.name for frame in TrainedOn.load(tmp_path / "gated").frames} == names | set(test["name"])
    values = {**work.common, "dataset": tmp_path / "other", "student": runs.root / "student", "eval_split": ""}
    transfer.main(flags(**values, output_dir=tmp_path / "student"))
    assert {f.name for f in TrainedOn.load(tmp_path / "student").frames} == {*train["name"], *test["name"]}


def test_no_human_masks_and_no_labels_at_all(work: SimpleNamespace, tmp_path: Path) -> None:
    splits = datasets.load_from_disk(str(work.root / "data"))
    none = splits["train"].remove_columns("label_source").add_column("label_source", ["none"] * 8)
    datasets.DatasetDict({"train": none, "test": splits["test"]}).save_to_disk(str(tmp_path / "data"))
    with pytest.raises(ValueError, match=r"no frame of .* has a person's mask, boxes or points"):
        distill.main(flags(**{**work.teacher, "dataset": tmp_path / "data", "output_dir": tmp_path / "a"}))
    with pytest.raises(ValueError, match="no frame of the data set has a label"):
        transfer.main(flags(**{**work.common, "dataset": tmp_path / "data", "output_dir": tmp_path / "b"}))


def test_programs_end_with_one_line(work: SimpleNamespace, tmp_path: Path) -> None:
    """A recipe as `accelerate launch` starts it."""
    environment = {
        "HF_HUB_OFFLINE": "1",
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    data = ["--dataset", str(work.root / "data"), "--base_model", "models/absent"]
    command = [sys.executable, str(ROOT / "recipes" / "distill.py"), *data]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "error: 'models/absent' is neither" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_wrong_or_absent_is_named(
    work: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = tmp_path / "wrong.yaml"
    config.write_text("max_step: 3\n")
    with pytest.raises(SystemExit, match="2"):
        distill.main(["--config", str(config)])
    assert "unknown fields max_step; the fields are adapter," in capsys.readouterr().err
    with pytest.raises(ValueError, match="'data/absent' is neither a folder nor a data"):
        transfer.main(["--dataset", "data/absent"])
    with pytest.raises(ValueError, match="'/absent'"):
        pseudo_label.main(["--dataset", str(work.root / "data"), "--teacher", "/absent", "--out", "o"])
    assert not (tmp_path / "o").exists()


def test_a_committee_is_trained_in_one_run(work: SimpleNamespace, tmp_path: Path) -> None:
    """Three kinds of members are saved as one teacher; a second start finds them finished."""
    argv = flags(**work.teacher, committee=3, output_dir=tmp_path / "teacher")
    distill.main(argv)
    record = json.loads((tmp_path / "teacher" / "metrics.json").read_text())
    assert len(record["training"]["other members"]) == 2
    teacher = Teacher.from_pretrained(tmp_path / "teacher")
    operators, frame_alone, small = teacher.members
    levels = [member.model.peft_config["default"].levels for member in (operators, frame_alone)]
    assert levels == [["pixel", "mask"], ["mask"]] and isinstance(small, SegmentationStudent)
    assert [run["steps"] for run in record["training"]["other members"]] == [STEPS, 5 * STEPS // 2]
    first, second = (load_file(tmp_path / "teacher" / at / "adapter_model.safetensors") for at in MEMBERS)
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    alone = flags(**work.teacher, output_dir=tmp_path / "alone")
    distill.main(alone)
    lone = load_file(tmp_path / "alone" / "adapter_model.safetensors")
    assert all(torch.equal(first[key], lone[key]) for key in lone)  # the first member is the teacher of that seed
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    distill.main(argv)
    again = load_file(tmp_path / "teacher" / "committee-1" / "adapter_model.safetensors")
    assert all(torch.equal(second[key], again[key]) for key in second)
