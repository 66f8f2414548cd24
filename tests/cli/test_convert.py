"""`scalpel-hf convert to` and `convert from`, as one runs them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest

from scalpel_hf.cli.convert_from import read_names
from scalpel_hf.cli.main import main
from scalpel_hf.data import LabelBudget, apply_label_budget, load_split
from scalpel_hf.formats import LossyExportWarning, write_coco, write_label_studio, write_masks
from tests.formats.small_sets import TINY, draw, labelled, raw, row, tiny


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., tuple[str, str, str]]:
    """Run a program as the command line does: what it printed, its warnings, and the error that it ended with."""

    def call(*arguments: object) -> tuple[str, str, str]:
        monkeypatch.setattr(sys, "argv", ["scalpel-hf", "convert", *map(str, arguments)])
        error = ""
        try:
            main()
        except SystemExit as end:
            error = str(end.code or "")
        return (*capsys.readouterr(), error)

    return call


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    splits = datasets.DatasetDict({"train": tiny(), "test": labelled(row("t", draw((1, 1)), "human"))})
    splits.save_to_disk(str(tmp_path / "prepared"))
    return tmp_path / "prepared"


def test_export_and_its_warning(prepared: Path, tmp_path: Path, run: Callable) -> None:
    arguments = ("--dataset", prepared, "--out", tmp_path / "out")
    with pytest.warns(LossyExportWarning, match=r"YOLO polygons of one or two pixels.*h1 at \(11, 7\)"):
        out, _, error = run("to", "yolo-seg", *arguments)
    assert not error
    assert json.loads(out.rpartition("}")[0] + "}") == {"frames": 6, "targets": 7, "frames without label": 2}
    assert run("to", "yolo-seg", *arguments)[2].startswith(f"error: {tmp_path / 'out'} exists")
    assert "--image-url is for" in run("to", "yolo-seg", *arguments, "--image-url", "x")[1]


def test_corrections_come_back_and_train_as_a_humans(prepared: Path, tmp_path: Path, run: Callable) -> None:
    write_coco(tiny(), tmp_path / "coco")
    path = tmp_path / "coco" / "annotations.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["label_source"] = "human"
    path.write_text(json.dumps(content))
    (tmp_path / "plan.txt").write_text("# to annotate\np1\tstands for 3 frames\n\np2\n")
    before = {p: p.read_bytes() for p in prepared.rglob("*") if p.is_file()}
    arguments = ("--dataset", prepared, "--only", tmp_path / "plan.txt")
    out, _, error = run("from", "coco", path, *arguments, "--out", tmp_path / "new")
    assert not error and "3 frames had a person's label, 5 of 8 have one now: human 5" in out
    assert {p: p.read_bytes() for p in prepared.rglob("*") if p.is_file()} == before
    rows = {entry["name"]: entry for entry in load_split(tmp_path / "new", "train")}
    sources = {name: entry["label_source"] for name, entry in rows.items()}
    assert sources == {n: "none" if n[0] == "n" else "human" for n in rows} | {"p-empty": "pseudo"}
    for name in ("p1", "p2"):
        np.testing.assert_array_equal(np.asarray(rows[name]["mask"]) > 0, TINY[name])
    budget = LabelBudget.load(tmp_path / "new" / "label_budget.json")
    assert budget.names == ("h-empty", "h1", "h2", "p1", "p2") and budget.total == 8
    budgeted = apply_label_budget(load_split(tmp_path / "new", "train"), budget=budget)
    assert budgeted["label_source"][:].count("human") == 5
    assert load_split(tmp_path / "new", "test")["name"][:] == ["t"]


def test_a_pseudo_labelled_folder_and_png_masks(tmp_path: Path, run: Callable) -> None:
    tiny().save_to_disk(str(tmp_path / "pseudo"))
    write_masks(tiny(), tmp_path / "masks")
    arguments = ("--dataset", tmp_path / "pseudo")
    assert not run("from", "masks", tmp_path / "masks" / "masks", *arguments, "--out", tmp_path / "new")[2]
    splits = datasets.load_from_disk(str(tmp_path / "new"))
    assert list(splits) == ["train"]
    with pytest.raises(ValueError, match="has no split 'test', only train"):
        load_split(tmp_path / "new", "test")
    new = splits["train"]
    assert new["label_source"][:].count("human") == 6 and raw(new, "image") == raw(tiny(), "image")


def test_a_wrong_file_writes_nothing(prepared: Path, tmp_path: Path, run: Callable) -> None:
    write_label_studio(tiny(), tmp_path / "ls")
    path = tmp_path / "ls" / "tasks.json"
    path.write_text(path.read_text().replace('"h1"', '"nobody"'))
    arguments = ("--dataset", prepared)
    _, _, error = run("from", "label-studio", path, *arguments, "--out", tmp_path / "new")
    assert error.startswith("error: nothing was imported, 1 labels")
    assert "tasks.json, task 1, annotation 0: the data set has no frame 'nobody'" in error
    assert not (tmp_path / "new").exists()


def test_a_split_that_leads_elsewhere_writes_nothing(prepared: Path, tmp_path: Path, run: Callable) -> None:
    tiny().save_to_disk(str(tmp_path / "outside"))
    (prepared / "dataset_dict.json").write_text('{"splits": ["train", "../outside"]}')
    write_masks(tiny(), tmp_path / "masks")
    before = sorted(tmp_path.rglob("*"))
    arguments = ("--dataset", prepared)
    error = run("from", "masks", tmp_path / "masks" / "masks", *arguments, "--out", tmp_path / "deep" / "new")[2]
    assert "the split '../outside' can't be a file's name" in error and sorted(tmp_path.rglob("*")) == before
    error = run("to", "imagefolder", "--dataset", prepared, "--out", tmp_path / "new")[2]
    assert "the split '../outside' can't be a file's name" in error and sorted(tmp_path.rglob("*")) == before


def test_labels_of_the_test_split_leave_the_training_budget(prepared: Path, tmp_path: Path, run: Callable) -> None:
    budget = LabelBudget(names=("h1",), fraction=0.125, seed=3, total=8)
    budget.save(prepared / "label_budget.json")
    (tmp_path / "boxes.json").write_text('{"t": [[1, 1, 2, 2]]}')
    arguments = ("--dataset", prepared, "--split", "test", "--out", tmp_path / "new")
    assert not run("from", "json", tmp_path / "boxes.json", *arguments)[2]
    assert load_split(tmp_path / "new", "test")["label_source"][:] == ["box"]
    assert LabelBudget.load(tmp_path / "new" / "label_budget.json") == budget


def test_a_name_may_begin_with_a_hash(tmp_path: Path) -> None:
    (tmp_path / "plan.txt").write_text("# 2 frames to label\n#1\tstands for 3\n#\nb\n")
    assert read_names(tmp_path / "plan.txt") == {"#1", "b"}
