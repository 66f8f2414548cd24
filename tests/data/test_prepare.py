import numpy as np
import pytest
from datasets import load_from_disk

from scalpel_hf.cli import prepare
from scalpel_hf.data import LAYOUTS, LabelBudget, SyntheticInfrared
from scalpel_hf.utils.files import DiskFullError


@pytest.fixture
def out(tmp_path):
    return tmp_path / "prepared"


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_with_a_budget(make_set, out, tmp_path, capsys):
    names = [f"f{i}" for i in range(10)]
    root = make_set(LAYOUTS["generic"], names, {"train.txt": names[:8], "test.txt": names[8:]})
    (root / "masks" / "f9.png").unlink()
    launch = ["--layout", "generic", "--root", str(root), "--out", str(out), "--budget", "0.25", "--seed", "3"]
    with pytest.raises(ValueError, match=r"f9 \(test\): no mask f9(.|\n)*--skip-broken"):
        prepare.main(launch)
    assert entries(tmp_path) == ["set"]

    with pytest.warns(UserWarning, match=r"skipped 1 broken pair in (.|\n)*f9 \(test\): no mask"):
        prepare.main([*launch, "--skip-broken"])
    splits = load_from_disk(out)
    budget = LabelBudget.load(out / "label_budget.json")
    assert budget == LabelBudget.draw(names[:8], 0.25, 3)
    assert len(budget.names) == 2
    labelled = {row["name"] for row in splits["train"] if row["label_source"] == "human"}
    assert labelled == {row["name"] for row in splits["train"] if row["mask"] is not None} == set(budget.names)
    assert splits["test"]["name"][:] == ["f8"]
    assert entries(tmp_path) == ["prepared", "set"]
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["train", "8", "2", "0", "2", "0", "2", "6"] in table
    assert ["test", "1", "1", "0", "1", "0", "1", "6"] in table


def test_no_sequence_of_a_layout_is_divided(make_set, out):
    names = [f"s{folder}/f{index}" for folder in range(4) for index in range(5)]
    for folder in ("images", "masks"):
        for sequence in range(4):
            (out.parent / "set" / folder / f"s{sequence}").mkdir(parents=True)
    root = make_set(LAYOUTS["generic"], names, {})
    launch = ["--layout", "generic", "--root", str(root)]
    prepare.main([*launch, "--out", str(out), "--val", "0.25", "--test", "0.25"])
    splits = load_from_disk(out)
    held = {split: {name[:2] for name in part["name"]} for split, part in splits.items()}
    assert sorted(map(len, held.values())) == [1, 1, 2] and len(set.union(*held.values())) == 4
    prepare.main([*launch, "--out", str(out / "plain")])
    assert splits["train"].features == load_from_disk(out / "plain")["train"].features


def test_synthetic_frames_and_overwriting(out, tmp_path):
    prepare.main(["--synthetic", "6", "--out", str(out), "--seed", "2"])
    splits = load_from_disk(out)
    assert {split: len(part) for split, part in splits.items()} == {"train": 6, "test": 1}
    assert not set(splits["train"]["name"]) & set(splits["test"]["name"])
    assert np.array_equal(np.asarray(splits["test"][0]["image"]), SyntheticInfrared(seed=2).frame(6)["image"])
    assert not (out / "label_budget.json").exists()

    with pytest.raises(FileExistsError, match="exists: choose another --out, or pass --overwrite"):
        prepare.main(["--synthetic", "4", "--out", str(out)])
    assert len(load_from_disk(out)["train"]) == 6
    prepare.main(["--synthetic", "4", "--out", str(out), "--overwrite"])
    assert len(load_from_disk(out)["train"]) == 4
    assert entries(tmp_path) == ["prepared"]


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_an_empty_folder_is_taken(flags, out):
    out.mkdir()
    prepare.main(["--synthetic", "4", "--out", str(out), *flags])
    assert len(load_from_disk(out)["train"]) == 4 and entries(out.parent) == ["prepared"]


def test_a_folder_of_something_else_is_never_overwritten(out):
    out.mkdir()
    (out / "thesis.tex").write_text("all I have")
    with pytest.raises(FileExistsError, match="is not a prepared folder"):
        prepare.main(["--synthetic", "4", "--out", str(out), "--overwrite"])
    assert entries(out) == ["thesis.tex"]


def test_where_no_folder_can_be(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "set", tmp_path / "file" / "a" / "set"):
        with pytest.raises(ValueError, match=r"file is a file: choose another `--out`"):
            prepare.main(["--synthetic", "4", "--out", str(out)])


@pytest.mark.parametrize("earlier", [False, True])
def test_nothing_is_left_half_written(earlier, out, tmp_path, monkeypatch):
    if earlier:
        prepare.main(["--synthetic", "4", "--out", str(out)])

    def full_disk(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(prepare.LabelBudget, "save", full_disk)
    with pytest.raises(
        DiskFullError, match=rf"no room for {out}: it needs more than the 0.\d MB written so far, and \d.*free"
    ):
        prepare.main(["--synthetic", "5", "--out", str(out), "--budget", "0.5", "--overwrite"])
    assert entries(tmp_path) == (["prepared"] if earlier else [])
    if earlier:
        assert len(load_from_disk(out)["train"]) == 4


@pytest.mark.parametrize(
    "launch",
    [
        [],
        ["--layout", "generic"],
        ["--layout", "nuaa", "--root", "x"],
        ["--synthetic", "0"],
        ["--synthetic", "4", "--root", "x"],
        ["--synthetic", "4", "--layout", "generic"],
        ["--synthetic", "4", "--skip-broken"],
        ["--synthetic", "4", "--test", "0.5"],
        ["--synthetic", "4", "--every", "3"],
        ["--synthetic", "4", "--labels", "absent"],
    ],
)
def test_wrong_launches(launch, out):
    with pytest.raises(SystemExit) as caught:
        prepare.main([*launch, "--out", str(out)])
    assert caught.value.code == 2
    assert not out.exists()


def test_a_wrong_fraction(out, capsys):
    with pytest.raises(SystemExit):
        prepare.main(["--synthetic", "4", "--out", str(out), "--budget", "10"])
    assert "argument --budget: must be a number from 1e-06 to 1, got '10'" in capsys.readouterr().err
    assert not out.exists()
