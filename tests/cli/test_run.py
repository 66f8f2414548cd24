"""`scalpel-hf run`: what it plans, says and ends with."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from scalpel_hf import SyntheticInfrared
from scalpel_hf.cli import run
from scalpel_hf.cli.run_estimate import estimate, minutes, settings_of, trial_stages
from scalpel_hf.cli.run_report import describe, write_report
from scalpel_hf.cli.stages import Stage, run_stages
from tests.app.runs import make_run
from tests.small_students import small_student

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


@pytest.mark.parametrize(("masks", "held_out"), [(3, 0), (5, 0), (6, 2), (12, 3)])
def test_a_quarter_of_enough_labelled_frames_is_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture, masks: int, held_out: int
) -> None:
    frames_and_masks(tmp_path, 14, masks)
    args = arguments(tmp_path)
    run.prepare(args)
    splits = datasets.load_from_disk(str(tmp_path / "out" / "data"))
    assert len(splits.get("test", [])) == held_out
    assert len(splits["train"]) == 14 - held_out
    assert ("is held out to measure on" in capsys.readouterr().out) == (not held_out)
    assert f"train: {14 - held_out} frames of 64 × 48 pixels, 8 bits; {masks - held_out} have a label" in describe(
        tmp_path / "out" / "data"
    )
    transfer = run.train_commands(args)["transfer"]
    assert transfer[transfer.index("--eval-split") + 1] == ("test" if held_out else "")


def test_one_labelled_recording_is_not_split(capsys: pytest.CaptureFixture) -> None:
    rows = datasets.Dataset.from_dict({"label_source": ["human"] * 8, "recording": ["clip.mkv"] * 8})
    assert list(run.hold_out(rows, 0)) == ["train"]
    assert "no frame is held out to measure on: the 8 labelled frames come from 1 recordings" in capsys.readouterr().out


def test_what_it_will_take(tmp_path: Path) -> None:
    frames_and_masks(tmp_path, 8, 3)
    args = arguments(tmp_path, "--max-steps", 100)
    run.prepare(args)
    commands = run.train_commands(args)
    assert settings_of(commands["distill"])["max_steps"] == 100
    assert settings_of(run.train_commands(arguments(tmp_path))["distill"])["max_steps"] == 800
    for verb, seconds in (("distill", 12.0), ("transfer", 3.0)):
        folder = tmp_path / "out" / "trial" / verb
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"training": {"seconds": seconds, "steps": 6}}))
    expected = estimate(tmp_path / "out", commands)
    assert expected.seconds["teacher"] == pytest.approx(100 * 2.0 * 3 + 30)
    assert expected.seconds["student"] == pytest.approx(100 * 0.5 + 30)
    assert set(expected.seconds) == {stage.name for stage in run.stages(args)}
    assert 0.3 < expected.gigabytes < 0.4
    assert [minutes(s) for s in (60, 600, 7200)] == ["60 seconds", "10 minutes", "2.0 hours"]
    (distill, _) = trial_stages(tmp_path / "out" / "trial", commands)
    assert distill.command[-2:] == ["--output-dir", str(tmp_path / "out" / "trial" / "distill")]
    assert distill.command[distill.command.index("--committee") + 1] == "1"


def test_other_labels_or_settings_are_another_folder(tmp_path: Path) -> None:
    frames_and_masks(tmp_path, 4, 2)
    before = run.digest(tmp_path / "masks")
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(tmp_path / "masks" / "f03.png")
    assert run.digest(tmp_path / "masks") != before


def test_stages_that_are_done_are_not_done_again(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "done").touch()
    todo = [Stage("one", tmp_path / "done", ["no such verb"]), Stage("two", tmp_path / "other", ["--version"])]
    assert set(run_stages(tmp_path, todo, "it")) == {"two"}
    with pytest.raises(SystemExit, match="failed \\(status 2\\); run it again to resume"):
        run_stages(tmp_path, [Stage("three", tmp_path / "other", ["no-such-verb"])], "it")
    assert set(json.loads((tmp_path / "times.json").read_text())) == {"two", "three"}


def test_the_report(tmp_path: Path) -> None:
    out = tmp_path / "a <run>"
    out.mkdir()
    shutil.move(make_run(tmp_path / "made"), out / "pseudo")
    splits = {"train": CAMERA.to_dataset(4), "test": CAMERA.to_dataset(5, start=4)}
    for split, rows in splits.items():
        splits[split] = rows.add_column("label_source", ["human"] * len(rows))
    datasets.DatasetDict(splits).save_to_disk(str(out / "data"))
    for name in ("teacher", "student", "student-labels-alone"):
        small_student().save_pretrained(out / name)
    (out / "times.json").write_text(json.dumps({"student": 12.3}))
    page = write_report(out, [Stage("student", out / "student", ["transfer", "--x", "<y>"])]).read_text()
    assert "a &lt;run&gt;" in page and "--x &lt;y&gt;" in page and "<run>" not in page
    assert "student, labels alone" in page and "not to be compared on 5 frames with the one of the labels alone" in page
    assert "5 frames that nothing was trained on" in page
    assert page.count("<h2>") == 6 and "matched filter" in page
    assert "load_exported(" in page and "scalpel-hf review" in page
    assert "<td>12</td>" in page
    shutil.rmtree(out / "data" / "test")
    (out / "data" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    page = write_report(out, []).read_text()
    assert "how well it does is not known" in page and "there is no honest figure yet" in page


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
