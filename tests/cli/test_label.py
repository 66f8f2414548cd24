"""`scalpel-hf label`: one process, two processes, parts, and streams."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from peft import get_peft_model

from scalpel_hf import InfraredImageProcessor, ScalpelMoeConfig, SyntheticInfrared, Teacher, apply_label_budget
from scalpel_hf.cli import label
from tests.pseudo_labels.helpers import tree
from tests.small_models import SIZE, perturb, small_mobile_sam

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A data set, one of its frames large enough for tiles, and a teacher of random weights at a threshold that gives
    it a few objects a frame."""
    root = tmp_path_factory.mktemp("work")
    small = SyntheticInfrared(size=(40, 56), n_targets=(1, 2), extent=(2, 5), seed=3).to_dataset(9)
    large = SyntheticInfrared(size=(70, 90), n_targets=(1, 2), extent=(2, 5), seed=4).to_dataset(1, start=9)
    full = datasets.concatenate_datasets([small, large])
    datasets.DatasetDict({"train": full}).save_to_disk(str(root / "full"))
    budgeted = apply_label_budget(full, 0.3)
    datasets.DatasetDict({"train": budgeted}).save_to_disk(str(root / "data"))
    budgeted.to_parquet(str(root / "stream" / "train.parquet"))
    small_mobile_sam().save_pretrained(str(root / "base"))
    model = get_peft_model(small_mobile_sam(), ScalpelMoeConfig(blocks=1, channels=8))
    perturb(model)
    with torch.no_grad():  # predictions that are neither 0 nor 1
        for name, parameter in model.named_parameters():
            if ".head." in name or name.endswith(".sam_logit_scale"):
                parameter.mul_(0.05)
    teacher = Teacher(model, InfraredImageProcessor(sam_size=SIZE), scales=(1, 1.5))  # as the command below
    teacher.save_pretrained(root / "teacher")
    maps = [teacher.probabilities(row["image"]) for row in full]
    threshold = float(np.quantile(np.concatenate([m.ravel() for m in maps]), 0.95))
    argv = ["--teacher", root / "teacher", "--base-model", root / "base", "--shard-size", 2, "--scales", 1, 1.5]
    argv += ["--threshold", f"{threshold:.4f}", "--no-calibration", "--min-area", 2]
    return SimpleNamespace(root=root, argv=[str(a) for a in argv], data=["--dataset", str(root / "data")])


def test_one_process_two_processes_and_parts_give_the_same_bytes(work: SimpleNamespace) -> None:
    argv = [*work.argv, *work.data, "--truth", str(work.root / "full")]
    label.main([*argv, "--out", str(work.root / "one")])
    one = tree(work.root / "one")
    assert {"state.json", "summary.json", "calibration.json", "report/README.md"} <= set(one)

    done = subprocess.run(
        [sys.executable, "-m", "scalpel_hf", "label", "--num-processes", "2", *argv, "--out", str(work.root / "two")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("images/s") == 3  # the first of two processes has three of the five shards
    assert tree(work.root / "two") == one

    out = ["--out", str(work.root / "parts")]
    label.main([*argv, *out, "--shard", "2/2"])
    with pytest.raises(SystemExit):
        label.main([*argv, *out, "--shard", "3/2"])
    assert not (work.root / "parts").exists()
    label.main([*argv, *out, "--shard", "1/2"])
    label.main([*argv, *out])
    assert tree(work.root / "parts") == one


def test_the_summary_and_the_report(work: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    argv = [*work.argv, *work.data, "--truth", str(work.root / "full"), "--out", str(tmp_path / "out")]
    label.main(argv)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["human"] == 3 and summary["pseudo"] + summary["none"] == 7 and summary["skipped"] == {}
    assert summary["quality"]["n_images"] == summary["pseudo"]
    labelled = datasets.load_from_disk(str(tmp_path / "out"))
    assert {a for o in labelled["pseudo_objects"] if o for a in o["area"]} and min(summary["area_quartiles"]) >= 2
    before = tree(tmp_path / "out")
    capsys.readouterr()
    label.main(argv)
    assert "already has these pseudo labels" in capsys.readouterr().out and tree(tmp_path / "out") == before


def test_a_report_that_fails_costs_no_label(
    work: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise UnicodeEncodeError("charmap", "█", 0, 1, "character maps to <undefined>")

    argv = [*work.argv, *work.data, "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(label, "write_report", fails)
        label.main(argv)
    assert "warning: there is no report ('charmap' codec can't" in capsys.readouterr().err
    assert len(datasets.load_from_disk(str(tmp_path / "out"))) == 10 and not (tmp_path / "out" / "report").exists()
    label.main(argv)
    assert (tmp_path / "out" / "report" / "README.md").exists()


def test_what_is_wrong_is_said_before_the_teacher_is_asked(
    work: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Teacher, "predict", lambda *_: pytest.fail("it was asked"))
    rows = datasets.load_from_disk(str(work.root / "full"))["train"]
    for name, truth in {"few": rows.select(range(3)), "twice": datasets.concatenate_datasets([rows, rows])}.items():
        datasets.DatasetDict({"train": truth}).save_to_disk(str(tmp_path / name))
        with pytest.raises(ValueError, match=r"has no mask of|occur more than once"):
            label.main([*work.argv, *work.data, "--truth", str(tmp_path / name), "--out", str(tmp_path / "out")])
    smaller = rows.map(lambda row: {"mask": row["mask"].crop((0, 0, 8, 8))}, features=rows.features)
    datasets.DatasetDict({"train": smaller}).save_to_disk(str(tmp_path / "smaller"))
    with pytest.raises(
        ValueError, match=r"-\d+: the frame is \(40, 56\), its mask in the data set with the truth \(8, 8\)"
    ):
        label.main([*work.argv, *work.data, "--truth", str(tmp_path / "smaller"), "--out", str(tmp_path / "out")])
    twice = apply_label_budget(rows, 0.3)
    datasets.DatasetDict({"train": datasets.concatenate_datasets([twice, twice])}).save_to_disk(str(tmp_path / "data"))
    with pytest.raises(ValueError, match="occur more than once"):
        label.main([*work.argv, "--dataset", str(tmp_path / "data"), "--out", str(tmp_path / "out")])
    (tmp_path / "calibration.json").write_text('{"bias": NaN}')
    with pytest.raises(ValueError, match=r"calibration.json is no calibration: the values must be finite"):
        argv = [a for a in work.argv if a != "--no-calibration"] + ["--calibration", str(tmp_path / "calibration.json")]
        label.main([*argv, *work.data, "--out", str(tmp_path / "out")])
    for flags in (["--scales", "500"], ["--tile-size", "1"], ["--threshold", "nan"], ["--batch-size", "0"]):
        with pytest.raises(SystemExit):
            label.main([*work.argv, *work.data, *flags, "--out", str(tmp_path / "out")])


def test_a_threshold_and_scores_from_the_labelled_frames(work: SimpleNamespace, tmp_path: Path) -> None:
    argv = ["--teacher", work.root / "teacher", "--base-model", work.root / "base", *work.data, "--threshold", "auto"]
    argv = [str(a) for a in [*argv, "--out", tmp_path / "out", "--min-score", 0, "--min-empty", 0]]
    label.main(argv)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["threshold"]["threshold"] == pytest.approx(
        json.loads((tmp_path / "out" / "pseudo_labels.json").read_text())["rules"]["threshold"]
    )
    fitted = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert fitted["frames"] == 3
    again = [*argv[: argv.index("--threshold")], "--out", str(tmp_path / "again"), "--min-score", "0"]
    again += ["--threshold", str(summary["threshold"]["threshold"])]
    label.main([*again, "--calibration", str(tmp_path / "out" / "calibration.json")])
    assert json.loads((tmp_path / "again" / "calibration.json").read_text()) == fitted


def test_a_run_that_goes_on_asks_about_no_labelled_frame_again(
    work: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after its threshold was chosen and its shards were answered, before they became labels."""
    asked: list[int] = []
    encode = Teacher._encode
    monkeypatch.setattr(Teacher, "_encode", lambda self, frames: asked.append(len(frames)) or encode(self, frames))
    argv = ["--teacher", work.root / "teacher", "--base-model", work.root / "base", *work.data, "--threshold", "auto"]
    argv = [str(a) for a in [*argv, "--min-score", 0, "--min-empty", 0, "--no-calibration"]]
    label.main([*argv, "--out", str(tmp_path / "unbroken")])

    def killed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(label, "finalize", killed)
        label.main([*argv, "--out", str(tmp_path / "out")])
    asked.clear()
    label.main([*argv, "--out", str(tmp_path / "out")])
    assert not asked and tree(tmp_path / "out") == tree(tmp_path / "unbroken")


def test_a_cache_that_may_grow_serves_the_next_teacher(work: SimpleNamespace, tmp_path: Path) -> None:
    argv = [*work.argv, *work.data, "--flips", "--feature-cache-dir", str(tmp_path / "cache")]
    argv += ["--threshold", "0.5"]  # the mean of four times the views has no such extremes
    label.main([*argv, "--out", str(tmp_path / "read")])
    assert not list((tmp_path / "cache").iterdir())
    label.main([*argv, "--out", str(tmp_path / "kept"), "--feature-cache-gb", "1"])
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    label.main([*argv, "--out", str(tmp_path / "again"), "--feature-cache-gb", "1"])
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == kept
    assert len(kept) >= 4 * 6  # six frames in one piece and a hidden or labelled large one in tiles, four views of each
    assert tree(tmp_path / "read") == tree(tmp_path / "kept") == tree(tmp_path / "again")


def test_several_teachers_label_as_one(work: SimpleNamespace, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = get_peft_model(small_mobile_sam(), ScalpelMoeConfig(blocks=1, channels=8))
    perturb(model)
    Teacher(model, InfraredImageProcessor(sam_size=SIZE)).save_pretrained(tmp_path / "other")
    argv = [str(tmp_path / "other"), *work.argv[2:], *work.data, "--threshold", "0.05"]  # the mean has no extremes
    label.main([*work.argv[:2], *argv, "--out", str(tmp_path / "both")])
    both = Teacher.from_pretrained([work.root / "teacher", tmp_path / "other"], work.root / "base", scales=(1, 1.5))
    labelled = datasets.load_from_disk(str(tmp_path / "both"))
    row = next(row for row in labelled if row["teacher"])
    assert row["teacher"]["repo"] == "teacher, other" and row["teacher"]["fingerprint"] == both.fingerprint()
    confidence = np.asarray(row["pseudo_confidence"]) / 255
    np.testing.assert_allclose(confidence, both.probabilities(row["image"]), atol=1 / 255)


def test_a_stream(work: SimpleNamespace, tmp_path: Path) -> None:
    argv = [*work.argv, "--dataset", str(work.root / "stream"), "--streaming", "--out", str(tmp_path / "out")]
    label.main([*argv, "--truth", str(work.root / "full")])
    streamed = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    label.main([*work.argv, *work.data, "--out", str(tmp_path / "whole")])
    whole = datasets.load_from_disk(str(tmp_path / "whole"))
    assert streamed.features == whole.features
    for column in ("name", "label_source", "pseudo_objects", "pseudo_score", "teacher"):
        assert streamed[column][:] == whole[column][:]
    assert (tmp_path / "out" / "report" / "README.md").exists()
