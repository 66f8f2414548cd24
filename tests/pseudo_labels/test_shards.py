"""Shards: resumed after a kill at any moment, shared among workers, and always the same bytes."""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from scalpel_hf import SyntheticInfrared, add_pseudo_labels, apply_label_budget
from scalpel_hf.data import load_split
from scalpel_hf.data.label_sources import as_objects
from scalpel_hf.pseudo_labels import Calibration, LabellingJob, Rules, label_in_shards
from scalpel_hf.pseudo_labels.report import write_report
from tests.pseudo_labels.helpers import (
    FakeTeacher,
    budgeted,
    camera,
    frames_dataset,
    on_disk,
    png,
    raw,
    raw_equal,
    tree,
    with_image,
)

ROOT = Path(__file__).parents[2]
SILENT: dict[str, Any] = {"report": lambda _: None}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
    return on_disk(budgeted(), tmp_path_factory.mktemp("data") / "train")


def test_shards(dataset: datasets.Dataset, tmp_path: Path) -> None:
    whole = add_pseudo_labels(dataset, FakeTeacher(), name="t")
    out, lines, teacher = tmp_path / "out", [], FakeTeacher()
    before = sorted(Path(dataset.cache_files[0]["filename"]).parent.iterdir())
    labelled = label_in_shards(dataset, teacher, out, name="t", shard_size=3, report=lines.append)
    assert teacher.calls == 7 and len(lines) == 4
    assert "images/s, 3 of 10" in lines[0] and "10 of 10, 0 s to go" in lines[-1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    assert labelled.features == whole.features and raw_equal(labelled, whole)
    assert sorted(Path(dataset.cache_files[0]["filename"]).parent.iterdir()) == before  # no copies beside the data
    assert raw_equal(datasets.load_from_disk(str(out)), whole)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["pseudo"] == 7 and summary["skipped"] == {}


def labelled_shards(out: Path) -> list[int]:
    """Numbers of the finished shards in the work folder."""
    return sorted(int(p.stem.split("-")[0]) for p in out.with_name(out.name + ".partial").glob("*/*.arrow"))


def test_killed_and_resumed_equals_unbroken(dataset: datasets.Dataset, tmp_path: Path) -> None:
    folder = Path(dataset.cache_files[0]["filename"]).parent
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tests.pseudo_labels.test_shards", str(folder), str(out), "--die-at", "5"]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    finished = labelled_shards(out)
    assert 0 < len(finished) < 5
    done = sum(1 for i in finished for j in (2 * i, 2 * i + 1) if dataset[j]["label_source"] == "none")

    teacher = FakeTeacher()
    label_in_shards(dataset, teacher, out, shard_size=2, **SILENT)
    assert teacher.calls == 7 - done
    label_in_shards(dataset, FakeTeacher(), tmp_path / "b", shard_size=2, **SILENT)
    assert tree(out) == tree(tmp_path / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "out"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def test_killed_at_any_change_on_disk(
    dataset: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Die before and after each file or folder that is put in its place or removed, the second time round too."""
    unbroken = tmp_path / "unbroken"
    label_in_shards(dataset, FakeTeacher(), unbroken, shard_size=4, calibration="labelled", **SILENT)
    steps: list[str] = []
    die_before: list[int] = []

    def dying(name: str, function: Callable) -> Callable:
        def step(*args: Any, **kwargs: Any) -> Any:
            if len(steps) in die_before:
                raise Killed
            steps.append(name)
            result = function(*args, **kwargs)
            if len(steps) in die_before:
                raise Killed
            return result

        return step

    for module, name in ((os, "replace"), (shutil, "rmtree"), (shutil, "move")):
        monkeypatch.setattr(module, name, dying(name, getattr(module, name)))
    out, moment, calls = tmp_path / "out", 0, 0
    label_in_shards(dataset, FakeTeacher(0.9), out, shard_size=4, **SILENT)  # something to be replaced
    while True:
        steps.clear()
        die_before[:] = [moment]
        teacher = FakeTeacher()
        before = labelled_shards(out)
        try:
            label_in_shards(dataset, teacher, out, shard_size=4, calibration="labelled", **SILENT)
        except Killed:
            calls += teacher.calls
            assert teacher.calls <= 4 * (3 - len(before))  # what was finished isn't asked again
            moment += 1
            continue
        break
    assert moment > 10 and tree(out) == tree(unbroken)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "unbroken"]


@pytest.mark.parametrize("calibration", [None, "labelled"])
def test_any_division_of_the_work_gives_the_same_bytes(
    dataset: datasets.Dataset, tmp_path: Path, calibration: str | None
) -> None:
    settings: dict[str, Any] = {"shard_size": 2, "calibration": calibration, **SILENT}
    label_in_shards(dataset, FakeTeacher(), tmp_path / "one", **settings)
    asked = []
    for worker in (1, 2, 0):
        teacher = FakeTeacher()
        LabellingJob(dataset, teacher, tmp_path / "three", **settings).predict(worker, 3)
        asked.append(teacher.calls)
        if worker:
            with pytest.raises(ValueError, match="wait until every process has finished"):
                LabellingJob(dataset, teacher, tmp_path / "three", **settings).finalize()
    assert min(asked) > 0 and sum(asked) == (10 if calibration else 7)
    LabellingJob(dataset, FakeTeacher(), tmp_path / "three", **settings).finalize()
    assert tree(tmp_path / "one") == tree(tmp_path / "three")


def test_a_finished_folder_is_not_made_again(dataset: datasets.Dataset, tmp_path: Path) -> None:
    out, lines = tmp_path / "out", []
    first = label_in_shards(dataset, FakeTeacher(), out, shard_size=4, report=lines.append)
    before, teacher = tree(out), FakeTeacher()
    again = label_in_shards(dataset, teacher, out, shard_size=4, report=lines.append)
    assert teacher.calls == 0 and raw_equal(first, again) and "already" in lines[-1] and tree(out) == before
    other = label_in_shards(dataset, teacher, out, threshold=0.9, shard_size=4, report=lines.append)
    assert teacher.calls == 7 and not raw_equal(first, other)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_what_completes_a_run_is_there_when_the_run_is(dataset: datasets.Dataset, tmp_path: Path) -> None:
    def complete(folder: Path, labelled: datasets.Dataset) -> None:
        assert folder.exists() and len(labelled) == 10
        if (tmp_path / "out").exists():
            assert folder == tmp_path / "out"
        (folder / "quality.json").write_text("{}")

    def fails(folder: Path, labelled: datasets.Dataset) -> None:
        raise RuntimeError("no truth")

    job = LabellingJob(dataset, FakeTeacher(), tmp_path / "out", **SILENT)
    job.predict()
    with pytest.raises(RuntimeError, match="no truth"):
        job.finalize(fails)
    assert not (tmp_path / "out").exists()
    job.finalize(complete)
    assert (tmp_path / "out" / "quality.json").exists()
    job.finalize(complete)  # once more, where it is


def test_a_folder_of_something_else_is_left_alone(dataset: datasets.Dataset, tmp_path: Path) -> None:
    for name in ("thesis", "prepared"):
        (tmp_path / name).mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("all I have")
    dataset.save_to_disk(str(tmp_path / "prepared"))
    for name in ("thesis", "prepared"):
        before, teacher = tree(tmp_path / name), FakeTeacher()
        with pytest.raises(ValueError, match="holds no pseudo labels: choose another"):
            label_in_shards(dataset, teacher, tmp_path / name)
        assert tree(tmp_path / name) == before and teacher.calls == 0


class Stops(FakeTeacher):
    def probabilities(self, frame: np.ndarray) -> np.ndarray:
        if self.calls == 5:
            raise RuntimeError("stopped")
        return super().probabilities(frame)


def test_other_rules_start_from_the_answers_and_another_threshold_does_not(
    dataset: datasets.Dataset, tmp_path: Path
) -> None:
    def stop() -> int:
        with pytest.raises(RuntimeError, match="stopped"):
            label_in_shards(dataset, Stops(), tmp_path / "out", name="a", shard_size=2, **SILENT)
        return sum(
            dataset[j]["label_source"] == "none" for i in labelled_shards(tmp_path / "out") for j in (2 * i, 2 * i + 1)
        )

    done, teacher = stop(), FakeTeacher()
    labelled = label_in_shards(
        dataset, teacher, tmp_path / "out", name="b", rules=Rules(min_area=2), shard_size=2, **SILENT
    )
    assert 0 < done == 7 - teacher.calls
    assert {t["repo"] for t in labelled["teacher"] if t} == {"b"}
    assert min(a for o in labelled["pseudo_objects"] if o for a in o["area"]) >= 2

    shutil.rmtree(tmp_path / "out")
    stop()
    teacher = FakeTeacher()
    label_in_shards(dataset, teacher, tmp_path / "out", threshold=0.6, shard_size=2, **SILENT)
    assert teacher.calls == 7


def test_labels_without_a_target_give_no_scores(tmp_path: Path) -> None:
    """Of those alone every object is taken for a false alarm, wherever it is."""
    rows = SyntheticInfrared(size=(32, 40), n_targets=(0, 0), extent=(1, 4), seed=3).to_dataset(4)
    rows = rows.add_column("label_source", ["human"] * 2 + ["none"] * 2)
    with pytest.raises(ValueError, match=r"in the 2 frames that people labelled is a target, .*: train the teacher"):
        label_in_shards(rows, FakeTeacher(), tmp_path / "out", calibration="labelled", **SILENT)
    label_in_shards(rows, FakeTeacher(), tmp_path / "out", **SILENT)


def test_all_empty_is_an_error_each_time(dataset: datasets.Dataset, tmp_path: Path) -> None:
    teacher = FakeTeacher(0.4)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"all 7 pseudo labels are empty: .* nothing at threshold 0\.5"):
            label_in_shards(dataset, teacher, tmp_path / "out", **SILENT)
    assert teacher.calls == 7 and not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"all 7 pseudo labels are empty"):
        label_in_shards(dataset, FakeTeacher(0.01), tmp_path / "out", **SILENT)  # sure of it, for that
    with pytest.raises(
        ValueError, match=r"finds \d+ objects, and the rules reject all of them .*min_area=1000.*: train it on more"
    ):
        label_in_shards(dataset, FakeTeacher(), tmp_path / "out", rules=Rules(min_area=1000), **SILENT)
    with pytest.raises(ValueError, match="no rows"):
        label_in_shards(dataset.select([]), teacher, tmp_path / "out")
    human = dataset.filter(lambda s: s == "human", input_columns="label_source", keep_in_memory=True)
    assert len(label_in_shards(human, teacher, tmp_path / "human", **SILENT)) == 3


@pytest.mark.parametrize("calibration", [None, "labelled"])
def test_all_empty_leaves_all_without_a_label_where_that_is_allowed(
    dataset: datasets.Dataset, tmp_path: Path, calibration: str | None
) -> None:
    blind = FakeTeacher(0.4)
    for _ in range(2):
        labelled = label_in_shards(
            dataset, blind, tmp_path / "out", calibration=calibration, allow_none=True, shard_size=4, **SILENT
        )
        assert labelled["label_source"][:] == dataset["label_source"][:]
        asked = [source == "none" for source in labelled["label_source"]]
        assert [cell is not None for cell in raw(labelled, "pseudo_confidence")] == asked  # to look at what it said
        assert raw(labelled, "pseudo_mask") == raw(labelled, "pseudo_objects") == [None] * 10
    assert blind.calls == (10 if calibration else 7)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["pseudo"] == 0 and summary["unsure"] == 7 and "train " in summary["problem"]
    write_report(tmp_path / "out", labelled)
    assert "**No frame has a pseudo label**" in (tmp_path / "out" / "report" / "README.md").read_text()
    with pytest.raises(ValueError, match=r"train (it|the teacher)"):  # where nobody allowed it, it is an error still
        label_in_shards(dataset, blind, tmp_path / "out", calibration=calibration, shard_size=4, **SILENT)
    found = label_in_shards(dataset, FakeTeacher(), tmp_path / "out", allow_none=True, **SILENT)
    assert "pseudo" in found["label_source"]
    assert "problem" not in json.loads((tmp_path / "out" / "summary.json").read_text())


def test_broken_rows_stop_the_run_or_are_counted(dataset: datasets.Dataset, tmp_path: Path) -> None:
    index = dataset["label_source"][:].index("none", 5)
    broken, name = with_image(dataset, index, b"not an image"), dataset[index]["name"]
    with pytest.raises(ValueError, match=f"can't label {name}"):
        label_in_shards(broken, FakeTeacher(), tmp_path / "out", shard_size=2, **SILENT)
    assert labelled_shards(tmp_path / "out") == list(range(index // 2))
    label_in_shards(broken, FakeTeacher(), tmp_path / "out", shard_size=2, skip_broken=True, **SILENT)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert list(summary["skipped"]) == [name] and "not an image" in summary["skipped"][name]
    assert (summary["pseudo"], summary["none"], summary["unsure"]) == (6, 1, 0)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"no mask", "not an image"),
        (png(np.zeros((31, 40), np.uint8)), r"the mask is \(31, 40\), the frame \(32, 40\)"),
        (None, "`label_source` is human, but there is no mask"),
    ],
)
def test_a_humans_mask_that_scores_cannot_be_learnt_from_names_the_row(
    dataset: datasets.Dataset, tmp_path: Path, content: bytes | None, match: str
) -> None:
    index = dataset["label_source"][:].index("human")
    cells, name = raw(dataset, "mask"), dataset[index]["name"]
    cells[index] = content and {"bytes": content, "path": None}
    rows = dataset.remove_columns("mask").add_column("mask", cells, feature=datasets.Image())
    with pytest.raises(ValueError, match=f"can't label {name}: .*{match}"):
        label_in_shards(rows, FakeTeacher(), tmp_path / "out", calibration="labelled", **SILENT)
    settings: dict[str, Any] = {"calibration": "labelled", "skip_broken": True, **SILENT}
    labelled = label_in_shards(rows, FakeTeacher(), tmp_path / "out", **settings)
    assert raw(labelled, "mask") == cells and labelled["label_source"][index] == "human"
    assert list(json.loads((tmp_path / "out" / "summary.json").read_text())["skipped"]) == [name]


def renamed(dataset: datasets.Dataset, name: str, index: int = 0) -> datasets.Dataset:
    names = dataset["name"][:]
    return (
        dataset.remove_columns("name")
        .add_column("name", [*names[:index], name, *names[index + 1 :]])
        .select_columns(dataset.column_names)
    )


def test_only_shards_whose_rows_have_changed_are_answered_anew(dataset: datasets.Dataset, tmp_path: Path) -> None:
    """Into the same folder, finished or not: what a row holds counts, and not where the data set lies."""
    out = tmp_path / "out"
    label_in_shards(dataset, FakeTeacher(), out, shard_size=2, **SILENT)
    moved, teacher = on_disk(dataset.select(range(len(dataset))), tmp_path / "elsewhere"), FakeTeacher()
    label_in_shards(moved, teacher, out, shard_size=2, **SILENT)
    assert teacher.calls == 0
    for other in (renamed(dataset, "new"), dataset.select(range(8)), dataset.select([1, 0, *range(2, 10)])):
        labelled = label_in_shards(other, FakeTeacher(), out, shard_size=2, **SILENT)
        assert labelled["name"][:] == other["name"][:]
        assert raw_equal(labelled, label_in_shards(other, FakeTeacher(), tmp_path / "fresh", shard_size=2, **SILENT))

    killed = tmp_path / "killed"
    with pytest.raises(RuntimeError, match="stopped"):
        label_in_shards(dataset, Stops(), killed, shard_size=2, **SILENT)
    finished, teacher = labelled_shards(killed), FakeTeacher()
    changed = renamed(dataset, "new")
    assert finished[0] == 0
    labelled = label_in_shards(changed, teacher, killed, shard_size=2, **SILENT)
    again = answered_frames(dataset, [index for index in range(5) if index == 0 or index not in finished])
    assert labelled["name"][:] == changed["name"][:] and teacher.calls == again


def answered_frames(dataset: datasets.Dataset, shards: list[int]) -> int:
    return sum(dataset[i]["label_source"] != "human" for shard in shards for i in (2 * shard, 2 * shard + 1))


def test_the_result_is_the_split_that_was_labelled(dataset: datasets.Dataset, tmp_path: Path) -> None:
    label_in_shards(dataset, FakeTeacher(), tmp_path / "out", split="night", **SILENT)
    assert load_split(tmp_path / "out", "night")["name"][:] == dataset["name"][:]
    with pytest.raises(ValueError, match="has no split 'test', only night"):
        load_split(tmp_path / "out", "test")


def test_a_full_disk_keeps_what_is_finished(tmp_path: Path) -> None:
    """The kernel refuses to write the third shard's file, whose frames are large, beyond 40 kB."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (32, 40) if i < 4 else (256, 256)).astype(np.uint8) for i in range(6)]
    folder, out = tmp_path / "data", tmp_path / "out"
    rows = on_disk(frames_dataset(frames), folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    message = r"no room for \S*/00002-\w+\.arrow: .*then run the same command again: finished shards"
    with pytest.raises(OSError, match=message):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
            label_in_shards(rows, FakeTeacher(), out, shard_size=2, **SILENT)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert labelled_shards(out) == [0, 1] and not out.exists()
    assert sorted(p.name[:6] for p in out.with_name("out.partial").glob("*/*")) == ["00000-", "00001-"]
    teacher = FakeTeacher()
    label_in_shards(rows, teacher, out, shard_size=2, **SILENT)
    assert teacher.calls == 2 and len(raw(datasets.load_from_disk(str(out)), "pseudo_mask")) == 6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("out")
    parser.add_argument("--die-at", type=int)
    args: Any = parser.parse_args()
    teacher = FakeTeacher(die_at=args.die_at)
    label_in_shards(datasets.load_from_disk(args.dataset), teacher, args.out, shard_size=2)


if __name__ == "__main__":
    main()


def of_boxes(kind: str) -> datasets.Dataset:
    """Half of the frames with boxes, or points in the middle of them, and no mask anywhere."""
    rows = apply_label_budget(camera().to_dataset(24, start=100), 0.5)

    def weak(row: dict) -> dict:
        if row["label_source"] != "human" or not row["objects"]["bbox"]:
            return {"mask": None, "objects": None, "label_source": "none"}
        boxes = row["objects"]["bbox"]
        points = [[x + w / 2, y + h / 2, 0, 0] for x, y, w, h in boxes]
        return {"mask": None, "objects": as_objects(boxes if kind == "box" else points), "label_source": kind}

    return rows.map(weak, features=rows.features)


@pytest.mark.parametrize("kind", ["box", "point"])
def test_scores_are_learnt_on_boxes_and_points(tmp_path: Path, kind: str) -> None:
    rows = of_boxes(kind)
    weak = rows["label_source"][:].count(kind)
    assert weak >= 3
    rows = on_disk(rows, tmp_path / "data")
    labelled = label_in_shards(rows, FakeTeacher(), tmp_path / "out", 0.7, calibration="labelled", **SILENT)
    calibration = Calibration.load(tmp_path / "out" / "calibration.json")
    assert calibration.frames == weak and calibration.candidates >= calibration.true > 0
    assert labelled["label_source"][:].count(kind) == weak
    assert all((row["teacher"] is None) == (row["label_source"] == kind) for row in labelled)
