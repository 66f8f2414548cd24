"""`scalpel-hf run`: what it plans, says and ends with."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from scalpel_hf import DetectionStudent, SegmentationStudent, SyntheticInfrared
from scalpel_hf.cli import run, run_data, run_figures
from scalpel_hf.cli.run_data import describe
from scalpel_hf.cli.run_estimate import estimate, minutes, settings_of, trial_stages
from scalpel_hf.cli.run_figures import measure
from scalpel_hf.cli.run_report import write_report
from scalpel_hf.cli.small_sam import save_small_sam
from scalpel_hf.cli.stages import Stage, claim, run_stages
from scalpel_hf.data import objects_from_mask
from scalpel_hf.data.label_sources import as_objects
from scalpel_hf.data.objects import encode_png
from scalpel_hf.recipes import distill, transfer
from scalpel_hf.runtime.onnx_models import OnnxDetector, load_exported
from scalpel_hf.training.arguments import parse_arguments
from scalpel_hf.training.recipe_arguments import DistillArguments, TransferArguments
from scalpel_hf.version import __version__
from tests.app.runs import make_run
from tests.small_students import small_detector, small_student

CAMERA = SyntheticInfrared(size=(48, 64), n_targets=(1, 2), extent=(2, 5), seed=5)


def frames_and_masks(root: Path, frames: int, masks: int) -> None:
    for folder in ("frames", "masks"):
        (root / folder).mkdir(parents=True)
    for index in range(frames):
        scene = CAMERA.frame(index)
        Image.fromarray(scene["image"]).save(root / "frames" / f"f{index:02d}.png")
        if index < masks:
            mask = (np.asarray(scene["mask"]) > 0).astype(np.uint8) * 255
            Image.fromarray(mask).save(root / "masks" / f"f{index:02d}.png")


def arguments(root: Path, *flags: object) -> "run.argparse.Namespace":
    given = [root / "frames", "--labels", root / "masks", "--out", root / "out", *flags]
    return run.parse_args([str(argument) for argument in given])


@pytest.mark.parametrize(("masks", "held_out", "folds"), [(1, 0, 0), (2, 0, 2), (5, 0, 3), (11, 0, 3), (12, 3, 0)])
def test_what_is_measured_on(
    tmp_path: Path, capsys: pytest.CaptureFixture, masks: int, held_out: int, folds: int
) -> None:
    frames_and_masks(tmp_path, 14, masks)
    args = arguments(tmp_path)
    run.prepare(args)
    splits = datasets.load_from_disk(str(tmp_path / "out" / "data"))
    assert len(splits.get("test", [])) == held_out
    assert len(splits["train"]) == 14 - held_out
    said = capsys.readouterr().out
    assert ("is held out to measure on" in said) == (not held_out)
    assert ("no cross-validation either" in said) == (not held_out and not folds)
    assert (
        f"train: 14 frames of 64 × 48 pixels, 8 bits; {masks} with a mask" == describe(tmp_path / "out" / "data")
        or held_out
    )
    made = [datasets.load_from_disk(str(folder / "data")) for folder in sorted((tmp_path / "out").glob("folds/*"))]
    assert len(made) == folds
    assert (
        sorted(name for fold in made for name in fold["test"]["name"])
        == [f"f{i:02d}" for i in range(masks)][: masks if folds else 0]
    )
    for fold in made:
        assert not set(fold["train"]["name"]) & set(fold["test"]["name"])
        assert len(fold["train"]) + len(fold["test"]) == masks
    watched = [stage.command for stage in run.stages(args) if "--watch-split" in stage.command]
    assert {command[command.index("--watch-split") + 1] for command in watched} <= {"test"}
    assert len(watched) == (3 if held_out else folds)  # the teacher, two students; or the students of the folds
    crossed = [stage for stage in run.stages(args) if "cross-validate" in stage.name]
    assert [stage.command[stage.command.index("--dataset") + 1] for stage in crossed] == [
        str(tmp_path / "out" / "folds" / str(number) / "data") for number in range(folds)
    ]


def test_a_file_whose_name_is_not_utf_8_is_counted(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/frames/a\xff.png")).write_bytes(b"content")
    assert "of 1 files" in run.files_of(tmp_path / "frames", without=tmp_path / "out")


def test_masks_of_turned_frames_are_asked_about(tmp_path: Path) -> None:
    frames_and_masks(tmp_path, 3, 3)
    exif = Image.Exif()
    exif[Image.ExifTags.Base.Orientation] = 3
    with Image.open(tmp_path / "frames" / "f00.png") as image:
        image.save(tmp_path / "frames" / "f00.png", exif=exif)
    with pytest.raises(ValueError, match=r"f00\.png: its file has the orientation 3.* or --mask-grid"):
        run.prepare(arguments(tmp_path))
    run.prepare(arguments(tmp_path, "--mask-grid", "stored"))
    row = datasets.load_from_disk(str(tmp_path / "out" / "data"))["train"][0]
    mask = np.asarray(Image.open(tmp_path / "masks" / "f00.png"))
    np.testing.assert_array_equal(np.asarray(row["mask"]), np.rot90(mask, 2))


def test_frames_of_ones_own_to_measure_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames_and_masks(tmp_path, 8, 8)
    for folder in ("frames", "masks"):  # one of them is trained on, too
        (tmp_path / f"other-{folder}").mkdir()
        for index in (5, 6, 7):
            (tmp_path / folder / f"f{index:02d}.png").rename(tmp_path / f"other-{folder}" / f"g{index:02d}.png")
        shutil.copy(tmp_path / folder / "f00.png", tmp_path / f"other-{folder}" / "again.png")
    others = ["--test", tmp_path / "other-frames", "--test-labels", tmp_path / "other-masks"]
    run.prepare(arguments(tmp_path, *others))
    splits = datasets.load_from_disk(str(tmp_path / "out" / "data"))
    assert splits["test"]["name"][:] == ["g05", "g06", "g07"] and len(splits["train"]) == 5
    assert "1 of the 4 frames" in caplog.text and "again" in caplog.text
    assert not (tmp_path / "out" / "folds").exists()
    with pytest.raises(SystemExit):
        arguments(tmp_path, *others[:2])


def test_boxes_of_ones_own_to_measure_on(tmp_path: Path) -> None:
    frames_and_masks(tmp_path, 6, 6)
    boxes = {f"f{i:02d}": [] if i == 5 else [[4, 4, 6, 6]] for i in (3, 4, 5)}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    (tmp_path / "others").mkdir()
    for name in boxes:
        (tmp_path / "frames" / f"{name}.png").rename(tmp_path / "others" / f"{name}.png")
        (tmp_path / "masks" / f"{name}.png").unlink()
    run.prepare(arguments(tmp_path, "--test", tmp_path / "others", "--test-labels", tmp_path / "boxes.json"))
    test = datasets.load_from_disk(str(tmp_path / "out" / "data"))["test"]
    assert test["label_source"][:] == ["box", "box", "human"]  # a frame without a target is measured on, too
    said = describe(tmp_path / "out" / "data").splitlines()
    assert said[0].endswith("; 3 with a mask") and said[1].endswith("; 2 with boxes and 1 with no target")


def rows_of(kinds: list[str], recordings: list[str], targets: int | None = None) -> datasets.Dataset:
    """Rows with labels of these kinds, in so many of which (by default in all) there is a target."""
    frames = [np.random.default_rng(i).integers(0, 255, (16, 16), np.uint8) for i in range(len(kinds))]
    shown = len(kinds) if targets is None else targets
    columns = {
        "name": [f"f{i}" for i in range(len(kinds))],
        "image": [{"bytes": encode_png(frame), "path": None} for frame in frames],
        "label_source": kinds,
        "objects": [as_objects([[1, 1, 2, 2]] if i < shown else []) for i in range(len(kinds))],
        "recording": recordings,
    }
    return datasets.Dataset.from_dict(columns)


@pytest.mark.parametrize(("labels", "kind"), [(13, "human"), (13, "box"), (3, "box")])
def test_frames_of_one_recording_are_not_split(capsys: pytest.CaptureFixture, labels: int, kind: str) -> None:
    sources, recordings = [kind] * labels + ["none"] * 2, ["clip.mkv"] * (labels + 1) + ["other.mkv"]
    rows = rows_of(sources, recordings)
    assert list(run_data.hold_out(rows, 0)) == ["train"]
    assert run_data.folds(rows, 0) == []
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and f"all {labels} labelled frames are of one recording" in said and "--test" in said


def test_frames_of_few_recordings_are_split() -> None:
    rows = rows_of(["human"] * 4 + ["none"], ["a", "a", "b", "c", "b"])
    made = run_data.folds(rows, 0)
    assert sorted(fold["test"]["recording"][:] for fold in made) == [["a", "a"], ["b"], ["c"]]


@pytest.mark.parametrize(
    ("masks", "boxes", "held_out"),
    [(12, 4, {"human"}), (11, 4, {"human", "box"}), (0, 12, {"box"}), (1, 40, {"human", "box"}), (3, 8, set())],
)
def test_boxes_are_measured_by_where_masks_are_few(masks: int, boxes: int, held_out: set[str]) -> None:
    kinds = ["human"] * masks + ["box"] * boxes + ["none"] * 2
    rows = rows_of(kinds, [""] * len(kinds))
    splits = run_data.hold_out(rows, 0)
    test = splits["test"]["label_source"][:] if "test" in splits else []
    assert set(test) <= held_out and bool(test) == bool(held_out) and "none" not in test
    assert len(test) == (round(0.25 * (masks if held_out == {"human"} else masks + boxes)) if held_out else 0)
    assert splits["train"]["label_source"][:].count("none") == 2


def test_copies_of_frames_that_are_held_out_are_not_trained_on(capsys: pytest.CaptureFixture) -> None:
    rows = rows_of(["human"] * 16, [""] * 16)
    copies = rows.remove_columns(["name", "label_source"]).add_column("name", [f"copy{i}" for i in range(16)])
    copies = copies.add_column("label_source", ["none"] * 16).cast(rows.features)
    splits = run_data.hold_out(datasets.concatenate_datasets([rows, copies]), 0)
    shown = [cell["bytes"] for cell in splits["train"]["image"][:]]
    assert len(splits["test"]) == 4 and not {cell["bytes"] for cell in splits["test"]["image"][:]} & {*shown}
    assert "left out 4: copies of frames that are held out" in capsys.readouterr().out and len(shown) == 24


def test_no_fold_trains_on_copies_of_the_frames_that_it_measures(capsys: pytest.CaptureFixture) -> None:
    rows = rows_of(["human"] * 6, [""] * 6)
    twice = datasets.concatenate_datasets([rows, rows.remove_columns("name").add_column("name", [*"abcdef"])])
    for fold in run_data.folds(twice.select(range(9)), 0):
        shown = [{cell["bytes"] for cell in fold[split]["image"][:]} for split in ("train", "test")]
        assert shown[0].isdisjoint(shown[1]) and len(fold["test"]) == 3
    assert "copies of frames that are held out" in capsys.readouterr().out
    assert run_data.folds(datasets.concatenate_datasets([rows.select([0]), twice.select([6])]), 0) == []
    assert "a part to train on would show no target" in capsys.readouterr().out


def test_where_nothing_would_be_left_to_learn_from_nothing_is_held_out(capsys: pytest.CaptureFixture) -> None:
    rows = rows_of(["human"] * 12, [""] * 12, targets=1)
    held_out = [run_data.hold_out(rows, seed) for seed in range(12)]
    assert {tuple(splits) for splits in held_out} == {("train",), ("train", "test")}
    assert all(any(o["bbox"] for o in splits["train"]["objects"][:]) for splits in held_out)
    assert "those to train on would show no target" in capsys.readouterr().out
    assert run_data.folds(rows_of(["human"] * 3, [""] * 3, targets=1), 0) == []
    assert "a part to train on would show no target" in capsys.readouterr().out


def test_few_boxes_are_cross_validated_too() -> None:
    kinds = ["human"] * 2 + ["box"] * 5 + ["none"] * 2
    made = run_data.folds(rows_of(kinds, [""] * 9), 0)
    assert sorted(kind for fold in made for kind in fold["test"]["label_source"]) == ["box"] * 5 + ["human"] * 2


def prepare_labelled(folder: Path, sources: list[str], targets: list[int]) -> None:
    """A prepared folder of frames with labels of these kinds, each with so many targets."""
    rows = CAMERA.to_dataset(3).remove_columns("objects")
    objects = [{"bbox": [[0.0, 0.0, 2.0, 2.0]] * n, "area": [4] * n} for n in targets]
    rows = rows.add_column("label_source", sources).add_column("objects", objects)
    datasets.DatasetDict(train=rows).save_to_disk(str(folder))


@pytest.mark.parametrize(
    ("sources", "targets", "tell"),
    [
        (["human", "human", "none"], [1, 0, 0], True),
        (["human", "human", "none"], [0, 0, 0], False),
        (["human", "box", "none"], [0, 1, 0], True),
        (["point", "none", "none"], [1, 0, 0], True),
        (["box", "none", "none"], [0, 1, 0], False),
    ],
)
def test_labels_tell_scores_where_there_is_a_target(
    tmp_path: Path, sources: list[str], targets: list[int], tell: bool
) -> None:
    prepare_labelled(tmp_path / "out" / "data", sources, targets)
    assert run_data.labels_tell_scores(tmp_path / "out" / "data") == tell
    (label,) = (s.command for s in run.stages(arguments(tmp_path)) if s.command[0] == "label")
    assert ("--no-calibration" in label) == (not tell)


def test_what_it_will_take(tmp_path: Path) -> None:
    frames_and_masks(tmp_path, 8, 3)
    args = arguments(tmp_path, "--max-steps", 100)
    run.prepare(args)
    commands = run.trainings(args)
    assert settings_of(commands["distill"])["max_steps"] == 100
    assert settings_of(run.trainings(arguments(tmp_path))["distill"])["max_steps"] == 800
    (distill, transfer) = trial_stages(tmp_path / "out" / "trial", commands)
    assert distill.command[-4:-2] == ["--guard", "false"] and distill.command[-6:-4] == ["--watch-split", ""]
    assert distill.command[-2:] == ["--output-dir", str(tmp_path / "out" / "trial" / "distill")]
    for stage, seconds in ((distill, 12.0), (transfer, 3.0)):
        stage.done.parent.mkdir(parents=True)
        stage.done.write_text(json.dumps({"training": {"seconds": seconds, "steps": 6}}))
    (tmp_path / "out" / "times.json").write_text(json.dumps({distill.name: 22.0, transfer.name: 7.0}))
    names = [stage.name for stage in run.stages(args)]
    expected = estimate(tmp_path / "out", commands, names)
    assert list(expected.seconds) == names and len(names) == 5 + 3
    assert expected.seconds["teacher"] == pytest.approx(100 * 2.0 + 10)
    assert 10 < expected.seconds["pseudo labels"] < 10 + 60
    student = "student of labels and pseudo labels"
    assert expected.seconds[student] == expected.seconds[names[-2]] == pytest.approx(100 * 0.5 + 4)
    assert 0.3 < expected.gigabytes < 0.4
    (tmp_path / "out" / "times.json").unlink()  # as a kill at a trial's end leaves it
    assert estimate(tmp_path / "out", commands, names).seconds[student] == pytest.approx(100 * 0.5 + 20)
    assert [minutes(s) for s in (60, 600, 7200)] == ["60 seconds", "10 minutes", "2.0 hours"]


def test_a_wrong_base_model_is_told_before_anything_is_made(tmp_path: Path) -> None:
    frames_and_masks(tmp_path, 4, 2)
    small_student().save_pretrained(tmp_path / "student")
    command = [str(tmp_path / "frames"), "--labels", str(tmp_path / "masks"), "--out", str(tmp_path / "out")]
    for name, problem in (("student", "'scalpel_student' model, not one of SamModel"), ("none", "neither a folder")):
        with pytest.raises(ValueError, match=problem):
            run.main([*command, "--base-model", str(tmp_path / name)])
        assert not (tmp_path / "out").exists()


def test_a_torch_too_old_to_export_a_detector_is_told_before_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames_and_masks(tmp_path, 4, 0)
    (tmp_path / "boxes.json").write_text('{"f00": [[4, 4, 6, 6]]}')
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "2.12.1+cpu" if name == "torch" else version(name))
    with pytest.raises(ImportError, match=r"a detector needs torch 2\.13, here is 2\.12\.1\+cpu: pip install -U torch"):
        run.main([str(tmp_path / "frames"), "--labels", str(tmp_path / "boxes.json"), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "trial").exists()


@pytest.mark.parametrize("folder", ["frames", "masks"])
def test_other_frames_or_labels_are_another_folder(tmp_path: Path, folder: str) -> None:
    frames_and_masks(tmp_path, 4, 2)
    args = arguments(tmp_path)
    claim(args.out, run.MARKER, run.settings(args))
    (args.out / "masks.png").touch()
    claim(args.out, run.MARKER, run.settings(args))
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(tmp_path / folder / "f04.png")
    with pytest.raises(ValueError, match=f"{folder} of {4 if folder == 'frames' else 2} files .*, now .* of "):
        claim(args.out, run.MARKER, run.settings(args))


@pytest.mark.parametrize("byte", [0, 1, run.END, 2 * run.END, 3 * run.END - 1])
def test_labels_that_are_redrawn_in_files_of_the_same_size_are_others(tmp_path: Path, byte: int) -> None:
    frames_and_masks(tmp_path, 4, 2)
    args, mask = arguments(tmp_path), tmp_path / "masks" / "f00.bmp"
    content = bytearray(byte + 1)
    mask.write_bytes(content)
    claim(args.out, run.MARKER, run.settings(args))
    (args.out / "data").mkdir()
    mask.write_bytes(content)
    claim(args.out, run.MARKER, run.settings(args))
    content[byte] = 255
    mask.write_bytes(content)
    with pytest.raises(ValueError, match=r"masks of 3 files .*, now .* of 3 files"):
        claim(args.out, run.MARKER, run.settings(args))


def test_what_a_list_names_and_what_a_link_leads_to_are_read_for_changes(tmp_path: Path) -> None:
    frames_and_masks(tmp_path, 4, 2)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "frames" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "list.txt").write_text("".join(f"frames/f0{i}.png\n" for i in range(4)))

    def told() -> tuple[str, str]:
        return tuple(run.files_of(tmp_path / given, tmp_path / "out") for given in ("frames", "list.txt"))

    folder, of_list = told()
    assert "of 4 files" in folder and "of 5 files" in of_list
    (tmp_path / "frames" / "f00.png").write_bytes((tmp_path / "frames" / "f01.png").read_bytes())
    assert told()[0] != folder and told()[1] != of_list
    (tmp_path / "elsewhere" / "f09.png").write_bytes(b"")
    assert "of 5 files" in told()[0]


def test_a_folder_of_results_in_the_frames_is_no_change_however_it_is_spelt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames_and_masks(tmp_path, 4, 2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "frames" / "run").mkdir()
    before = run.files_of(tmp_path / "frames", Path("frames/run"))
    (tmp_path / "frames" / "run" / "x.png").write_bytes(b"")
    assert run.files_of(tmp_path / "frames", Path("frames/run")) == before


def test_a_half_trained_student_begins_anew_where_people_have_decided_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(run, "students_of", lambda out: {"student": run.BOTH, "other": run_data.ALONE})
    for name in ("student/checkpoint-4", "other/checkpoint-4", "pseudo/review"):
        (tmp_path / name).mkdir(parents=True)
    run.begin_anew_after_review(tmp_path)
    run.begin_anew_after_review(tmp_path)
    assert (tmp_path / "student").exists() and not capsys.readouterr().out
    (tmp_path / "pseudo" / "review" / "decisions.jsonl").write_text("{}\n")
    run.begin_anew_after_review(tmp_path)
    assert not (tmp_path / "student").exists() and (tmp_path / "other").exists()
    assert "is trained anew" in capsys.readouterr().out


def test_draws_without_a_target_tell_nothing() -> None:
    perfect = np.array([[8, 8, 1, 1, 0, 4096]] * 2 + [[0, 0, 0, 0, 0, 4096]] * 8)[None]
    units = [f"f{i}" for i in range(10)]
    iou, _, pd, fa = run_figures._cells(run_figures.BY_MASKS, perfect, units)
    assert (iou, pd, fa) == ("100.0 (100.0 to 100.0)", "100.0 (100.0 to 100.0)", "0.0 (0.0 to 0.0)")
    f1, *_ = run_figures._cells(run_figures.BY_BOXES, np.array([[1, 1, 0, 1]] * 2 + [[0, 0, 0, 1]] * 8)[None], units)
    assert f1 == "100.0 (100.0 to 100.0)"
    assert run_figures._cells(run_figures.BY_MASKS, perfect[:, 2:], units[2:])[2] == "–"


def test_without_a_target_held_out_there_is_no_verdict() -> None:
    empty = np.array([[0, 0, 0, 0, 0, 4096]] * 10)[None]
    verdict = run_figures._verdict(run_figures.BY_MASKS, both=empty, alone=empty, units=[f"f{i}" for i in range(10)])
    assert verdict == "No frame held out shows a target: what pseudo labels add is not known."


def test_where_nothing_was_made_mended_labels_are_taken(tmp_path: Path) -> None:
    frames_and_masks(tmp_path, 4, 2)
    args, mask = arguments(tmp_path), tmp_path / "masks" / "f00.png"
    whole = mask.read_bytes()
    mask.write_bytes(whole[:60])
    claim(args.out, run.MARKER, run.settings(args))
    with pytest.raises(ValueError, match=r"^\S+f00\.png: truncated"):
        run.prepare(args)
    mask.write_bytes(whole)
    (args.out / ".data.4194305-1.part").mkdir()  # as a kill leaves it
    claim(args.out, run.MARKER, run.settings(args))
    run.prepare(args)
    mask.write_bytes(whole[:60])
    with pytest.raises(ValueError, match="made with other settings"):
        claim(args.out, run.MARKER, run.settings(args))


def test_labels_that_all_say_no_target_stop_a_job_before_it_begins(tmp_path: Path) -> None:
    frames_and_masks(tmp_path, 4, 2)
    for path in (tmp_path / "masks").iterdir():
        Image.fromarray(np.zeros((48, 64), np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"frames shows a target to learn from: label some that do"):
        run.prepare(arguments(tmp_path))
    assert not (tmp_path / "out" / "data").exists()


def test_where_no_frame_can_be_used(tmp_path: Path) -> None:
    frames_and_masks(tmp_path, 2, 2)
    for path in (tmp_path / "frames").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"frames: not one frame can be used:\n  left out 2: f00"):
        run.prepare(arguments(tmp_path))
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_what_the_values_of_masks_mean_can_be_stated(tmp_path: Path) -> None:
    frames_and_masks(tmp_path, 4, 2)
    scene = np.zeros((48, 64), np.uint8)
    scene[4:8, 4:8] = (10, 60, 120, 200)
    Image.fromarray(scene).save(tmp_path / "masks" / "f01.png")
    with pytest.raises(ValueError, match=r"masks' values 0, 10, 60, 120, 200, 255 is ambiguous .*--mask-values"):
        run.prepare(arguments(tmp_path))
    run.prepare(arguments(tmp_path, "--mask-values", ">100"))
    rows = datasets.load_from_disk(str(tmp_path / "out" / "data"))["train"]
    assert rows["objects"][1]["area"] == [8]


def test_frames_of_several_depths_are_said_to_be(tmp_path: Path) -> None:
    frames_and_masks(tmp_path, 4, 2)
    Image.fromarray(np.full((48, 64), 40_000, np.uint16)).save(tmp_path / "frames" / "f03.png")
    run.prepare(arguments(tmp_path))
    assert ", 8 and 16 bits; 2 with a mask" in describe(tmp_path / "out" / "data")


def test_stages_that_are_done_are_not_done_again(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "done").touch()
    todo = [Stage("one", tmp_path / "done", ["no such verb"]), Stage("two", tmp_path / "other", ["--version"])]
    assert set(run_stages(tmp_path, todo, "it")) == {"two"}
    with pytest.raises(SystemExit, match="failed \\(status 2\\); remove the cause and run it again to resume"):
        run_stages(tmp_path, [Stage("three", tmp_path / "other", ["no-such-verb"])], "it")
    assert set(json.loads((tmp_path / "times.json").read_text())) == {"two", "three"}
    assert __version__ in capfd.readouterr().out
    run_stages(tmp_path, [Stage("a trial", tmp_path / "other", ["--version"], silent=True)], "it")
    assert capfd.readouterr().out.strip() == "$ scalpel-hf --version"
    with pytest.raises(SystemExit):
        run_stages(tmp_path, [Stage("a trial", tmp_path / "other", ["no-such-verb"], silent=True)], "it")
    assert "no-such-verb" in capfd.readouterr().err


def finished_job(
    out: Path,
    splits: dict[str, datasets.Dataset],
    monkeypatch: pytest.MonkeyPatch,
    student: Callable[[], SegmentationStudent | DetectionStudent] = small_student,
) -> None:
    """A job's folder as if all stages were done."""
    datasets.DatasetDict(splits).save_to_disk(str(out / "data"))
    shutil.move(make_run(out.parent / "made"), out / "pseudo")
    small_student().save_pretrained(out / "teacher")
    for name in run_data.students_of(out):
        student().save_pretrained(out / name)
    machine = {"cpus": 2, "cpu_capability": "AVX2", "accelerator": None, "python": "3.1", "packages": {"torch": "1.2"}}
    (out / "teacher" / "metrics.json").write_text(json.dumps({"machine": machine}))
    monkeypatch.setattr(run_figures, "_in_8_bits", lambda folder: student())  # as if it were exported


def test_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a <run>"
    splits = {"train": CAMERA.to_dataset(4), "test": CAMERA.to_dataset(5, start=4)}
    for split, rows in splits.items():
        splits[split] = rows.add_column("label_source", ["human"] * len(rows))
    finished_job(out, splits, monkeypatch)
    (out / "times.json").write_text(json.dumps({"student": 12.3}))
    page = write_report(
        out, [Stage("student", out / "student", ["transfer", "--eval-split", "", "--x", "<y>"])], measure(out)
    ).read_text()
    assert "a &lt;run&gt;" in page and "--eval-split &#39;&#39; --x &#39;&lt;y&gt;&#39;" in page and "<run>" not in page
    assert "student, labels alone" in page and "not to be compared on 5 frames with the one of the labels alone" in page
    assert "5 frames that nothing was trained on" in page
    assert page.count("<h2>") == 6 and "matched filter" in page
    assert "load_exported(" in page and "scalpel-hf review" in page
    assert "<td>12</td>" in page
    shutil.rmtree(out / "data" / "test")
    (out / "data" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    page = write_report(out, [], measure(out)).read_text()
    assert "how well it does is not known" in page and "the student has figures of its own" in page
    for number, fold in enumerate(run_data.folds(splits["test"], 0)):
        folder = run_data.fold_folder(out, number)
        fold.save_to_disk(str(folder / "data"))
        small_student().save_pretrained(folder / "student")
    page = write_report(out, [], measure(out)).read_text()
    figures = measure(out)
    assert figures is not None and figures.frames == 5 and figures.folds == 3 and not figures.verdict
    assert figures.table().startswith("5 frames, ") and "cross-validated" in figures.table()
    assert "2 CPUs, AVX2; Python 3.1, torch 1.2." in page
    assert "student, labels alone, cross-validated" in page and "one of 3." in page
    assert "5 frames" in page and "not known" not in page


@pytest.mark.parametrize(
    ("kind", "both"), [("human", "student"), ("box", "student-pseudo-labels")], ids=["masks", "boxes"]
)
def test_without_a_pseudo_label_there_is_a_student_of_the_labels_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, both: str
) -> None:
    out, student = tmp_path / "out", small_student if kind == "human" else small_detector
    splits = {"train": CAMERA.to_dataset(4), "test": CAMERA.to_dataset(5, start=4)}
    for split, rows in splits.items():
        splits[split] = rows.add_column("label_source", [kind] * len(rows))
    finished_job(out, splits, monkeypatch, student)
    args = arguments(tmp_path)
    planned = {s.done.parent.name: s.command for s in run.stages(args) if s.command[0] == "transfer"}
    assert len(planned) == 2 and "--pseudo-labels" in planned[both]
    for name in planned:
        shutil.rmtree(out / name)

    summary = json.loads((out / "pseudo" / "summary.json").read_text())
    (out / "pseudo" / "summary.json").write_text(json.dumps({**summary, "pseudo": 0, "problem": "it finds nothing"}))
    student().save_pretrained(out / "student")
    (left,) = (s for s in run.stages(args) if s.command[0] == "transfer")
    assert left.done.parent.name == "student" and "--pseudo-labels" not in left.command
    assert next(s for s in run.stages(args) if s.command[0] == "export").command[1] == str(out / "student")
    figures = measure(out)
    assert figures is not None and not figures.verdict
    assert [name for name, _ in figures.rows] == ["teacher", "student, labels alone", "student, labels alone, 8 bits"]
    page = write_report(out, run.stages(args), figures).read_text()
    assert "learnt from people's labels alone.</b> No frame has a pseudo label: it finds nothing." in page
    assert "Label more frames that show a target, or train longer" in page and "student-pseudo-labels" not in page

    (out / "pseudo" / "summary.json").write_text(json.dumps({**summary, "pseudo": 0}))
    assert list(run_data.students_of(out).values()) == [run_data.ALONE]
    page = write_report(out, run.stages(args), figures).read_text()
    assert "No frame has a pseudo label: people labelled every frame: give it frames without a label" in page


def test_masks_of_recordings_have_intervals_over_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {"train": CAMERA.to_dataset(4), "test": CAMERA.to_dataset(6, start=4)}
    for split, rows in splits.items():
        recordings = ["a", "a", "b", "b", "", ""][: len(rows)]
        splits[split] = rows.add_column("label_source", ["human"] * len(rows)).add_column("recording", recordings)
    finished_job(tmp_path / "out", splits, monkeypatch)
    figures = measure(tmp_path / "out")
    assert figures is not None and figures.titles[0] == "IoU %" and figures.frames == 6
    assert not figures.drawn and not any("(" in cell for _, cells in figures.rows for cell in cells)
    assert "not to be compared on 4 recordings (or frames that are of none)" in figures.verdict


@pytest.mark.parametrize("student", [small_student, small_detector])
def test_the_report_by_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, student: Any) -> None:
    out = tmp_path / "out"
    splits = {"train": CAMERA.to_dataset(4), "test": CAMERA.to_dataset(6, start=4)}
    for split, rows in splits.items():
        splits[split] = rows.add_column("label_source", ["box"] * len(rows)).add_column(
            "recording", ["a", "a", "b", "b", "c", "c"][: len(rows)]
        )
    splits["test"] = splits["test"].map(lambda row: {"mask": None})  # nobody drew them
    finished_job(out, splits, monkeypatch, student)
    figures = measure(out)
    assert figures is not None and figures.frames == 6 and figures.titles[0] == "F1 %"
    assert figures.targets == sum(len(objects["bbox"]) for objects in splits["test"]["objects"])
    assert "not to be compared on 3 recordings" in figures.verdict
    page = write_report(out, [], figures).read_text()
    assert "false alarms a frame" in page and "too few frames, or recordings" in page and "nIoU" not in page
    assert "boxes, scores, _ = student.detect" in page
    assert [name for name, _ in figures.rows][
        -1
    ] == "student, labels alone, 8 bits" and "student-pseudo-labels." in page


def test_a_student_of_boxes_is_measured_by_boxes_on_masks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {"train": CAMERA.to_dataset(4), "test": CAMERA.to_dataset(3, start=4)}
    splits["train"] = splits["train"].add_column("label_source", ["box"] * 4).map(lambda row: {"mask": None})
    splits["test"] = splits["test"].add_column("label_source", ["human"] * 3)
    finished_job(tmp_path / "out", splits, monkeypatch, small_detector)
    figures = measure(tmp_path / "out")
    assert figures is not None and figures.titles[0] == "F1 %" and figures.frames == 3
    assert figures.targets == sum(len(objects["bbox"]) for objects in splits["test"]["objects"])


@pytest.mark.parametrize(
    ("sources", "targets", "task", "said"),
    [
        (["box", "box", "none"], [1, 2, 0], "detection", "the labels are boxes"),
        # A frame that has no target says nothing of their kind.
        (["box", "human", "none"], [1, 0, 0], "detection", "the labels are boxes"),
        (["box", "human", "none"], [1, 1, 0], "segmentation", "not all labels are boxes"),
        (["box", "point", "none"], [1, 1, 0], "segmentation", "not all labels are boxes"),
        (["human", "none", "none"], [0, 0, 0], "segmentation", ""),
    ],
)
def test_labels_say_what_the_student_gives(
    tmp_path: Path, sources: list[str], targets: list[int], task: str, said: str
) -> None:
    prepare_labelled(tmp_path / "out" / "data", sources, targets)
    assert run_data.task_of(tmp_path / "out" / "data") == task
    line = run_data.describe_student(tmp_path / "out" / "data")
    assert line.startswith(said) and bool(line) == bool(said)
    args = arguments(tmp_path)
    commands = [s.command for s in run.stages(args)] + [run.trainings(args)["transfer"]]
    assert {c[c.index("--task") + 1] for c in commands if c[0] == "transfer"} == {task}
    exported = next(s for s in run.stages(args) if s.done.parent == tmp_path / "out" / "student")
    assert ("--pseudo-labels" in exported.command) == (task == "segmentation")


@pytest.mark.parametrize("preset", run.PRESETS)
def test_every_field_of_a_preset_is_known(preset: str) -> None:
    teacher = parse_arguments(DistillArguments, "distill", None, ["--config", f"presets/{preset}/distill"])
    student = parse_arguments(TransferArguments, "transfer", None, ["--config", f"presets/{preset}/transfer"])
    assert teacher.guard == (preset in ("gpu", "best")) and teacher.committee >= 3
    assert student.size in ("small", "base") and not asks_for_sam(teacher)


def asks_for_sam(args: DistillArguments) -> bool:
    return args.sam_features or "token" in args.levels


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["gpu", "best"])
def test_the_larger_presets_train(tmp_path: Path, preset: str) -> None:
    frames_and_masks(tmp_path, 10, 8)
    args = arguments(tmp_path, "--preset", preset, "--max-steps", 3)
    run.prepare(args)
    save_small_sam(args.out / "sam")
    for verb, train in (("distill", distill.main), ("transfer", transfer.main)):
        train([*run.trainings(args)[verb][1:], "--output-dir", str(args.out / verb)])
    record = json.loads((args.out / "distill" / "metrics.json").read_text())
    assert record["guard"]["frames"] == 8 and len(record["training"]["other members"]) == (2 if preset == "gpu" else 5)


@pytest.mark.slow
def test_from_one_recording_with_boxes_to_a_detector(tmp_path: Path) -> None:
    scenes = [CAMERA.frame(index) for index in range(16)]
    first, *others = (Image.fromarray(scene["image"]) for scene in scenes)
    first.save(tmp_path / "clip.tif", save_all=True, append_images=others)
    boxes = {}
    for index, scene in enumerate(scenes[:12]):
        tight = objects_from_mask(np.asarray(scene["mask"]))["bbox"]
        boxes[f"clip_{index:06d}"] = [[max(x - 2, 0), max(y - 2, 0), w + 4, h + 4] for x, y, w, h in tight]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    command = [sys.executable, "-m", "scalpel_hf", "run", "clip.tif", "--labels", "boxes.json", "--out", "out"]
    short = ["--preset", "demo", "--max-steps", "100"]
    done = subprocess.run([*command, *short], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "of one recording" in done.stdout and "the labels are boxes: so is what the student gives" in done.stdout
    assert "people's boxes here have that margin" in done.stdout
    for file in ("model.onnx", "model_int8.onnx"):
        assert isinstance(load_exported(tmp_path / "out" / "student" / "onnx", file), OnnxDetector)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "how well it does is not known" in page and "Label frames of another recording" in page
    assert "boxes, scores, _ = student.detect" in page


@pytest.mark.slow
def test_from_a_folder_to_a_report_and_again(tmp_path: Path) -> None:
    frames_and_masks(tmp_path, 20, 12)
    command = [sys.executable, "-m", "scalpel_hf", "run", "frames", "--labels", "masks", "--out", "out"]
    for _ in range(2):
        done = subprocess.run(
            [*command, "--max-steps", "150"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
    assert "$ scalpel-hf" not in done.stdout  # the second time there was nothing left to do
    assert (tmp_path / "out" / "student" / "onnx" / "model_int8.onnx").exists()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "3 frames that nothing was trained on" in page
