"""A person's frames with labels for some of them, by `scalpel-hf prepare`."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, load_from_disk
from PIL import Image

from scalpel_hf import SyntheticInfrared
from scalpel_hf.cli.prepare import main
from scalpel_hf.data import read_target
from scalpel_hf.formats import LabelFileError
from scalpel_hf.modeling.frame_io import turn

CAMERA = SyntheticInfrared(size=(32, 40), n_targets=(1, 1), extent=(2, 4), seed=1)
SCENES = [CAMERA.frame(index) for index in range(6)]
VOC_BOX = (
    "<annotation><size><width>40</width><height>32</height></size><object><name>t</name>"
    "<bndbox><xmin>6</xmin><ymin>6</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "frames").mkdir()
    for index, scene in enumerate(SCENES):
        Image.fromarray(scene["image"]).save(tmp_path / "frames" / f"f{index}.png")
    return tmp_path


def prepare(root: Path, *arguments: object) -> dict:
    flags = ["--root", root / "frames", *arguments, "--out", root / "out"]
    main([str(flag) for flag in flags])
    return dict(load_from_disk(str(root / "out")))


def save_mask(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def test_masks_for_some_frames(mine: Path, capsys: pytest.CaptureFixture) -> None:
    masks = mine / "frames" / "masks"  # within the frames' own folder
    save_mask(masks / "f1.png", SCENES[1]["mask"])
    save_mask(masks / "f3_mask.png", SCENES[3]["mask"])
    save_mask(masks / "f4.png", np.zeros((32, 40)))
    save_mask(masks / "other.png", SCENES[0]["mask"])
    rows = {row["name"]: row for row in prepare(mine, "--labels", masks)["train"]}
    sources = {name: row["label_source"] for name, row in rows.items()}
    assert sources == {"f0": "none", "f1": "human", "f2": "none", "f3": "human", "f4": "human", "f5": "none"}
    np.testing.assert_array_equal(read_target(rows["f3"]["mask"]), SCENES[3]["mask"] > 0)
    assert rows["f4"]["objects"]["area"] == [] and rows["f0"]["mask"] is None and rows["f0"]["objects"] is None
    out = capsys.readouterr().out
    assert "left out 1: other (labels in" in out
    assert [p.name for p in mine.iterdir() if p.name.startswith(".")] == []


def save_turned(path: Path, pixels: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[Image.ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


def masks_of_first(rows: Dataset) -> np.ndarray:
    return read_target(next(row["mask"] for row in rows if row["name"] == "f0"))


@pytest.mark.parametrize("orientation", [3, 6])
def test_masks_of_a_turned_frame(mine: Path, orientation: int) -> None:
    stored = SCENES[0]["mask"] > 0
    shown = turn(stored, orientation)
    save_turned(mine / "frames" / "f0.png", SCENES[0]["image"], orientation)
    for grid, mask in (("stored", stored), ("shown", shown)):
        masks = mine / f"masks-{grid}"
        save_mask(masks / "f0_mask.png", mask)
        rows = prepare(mine, "--labels", masks, "--mask-grid", grid, "--overwrite")["train"]
        np.testing.assert_array_equal(masks_of_first(rows), shown)
        assert "orientation" not in rows.column_names
        if orientation == 6:  # the mask's size says it
            rows = prepare(mine, "--labels", masks, "--overwrite")["train"]
            np.testing.assert_array_equal(masks_of_first(rows), shown)
            continue
        with pytest.raises(LabelFileError, match=r"f0_mask\.png: its file has the orientation 3.* or --mask-grid"):
            prepare(mine, "--labels", masks, "--overwrite")
    # A mask that asks to be turned as its frame does has been drawn on the frame as shown.
    save_turned(masks / "f0_mask.png", stored.astype(np.uint8) * 255, orientation)
    np.testing.assert_array_equal(masks_of_first(prepare(mine, "--labels", masks, "--overwrite")["train"]), shown)
    (mine / "boxes.json").write_text('{"f0": [[1, 1, 2, 2]]}')
    with pytest.raises(ValueError, match="a mask grid is for masks; the format json has none"):
        prepare(mine, "--labels", mine / "boxes.json", "--mask-grid", "stored", "--overwrite")


def test_a_label_of_a_name_that_two_files_have_is_asked_about(mine: Path, capsys: pytest.CaptureFixture) -> None:
    for index, name in ((0, "a/b_c.png"), (1, "a_b/c.png")):
        (mine / "frames" / name).parent.mkdir()
        Image.fromarray(SCENES[index]["image"]).save(mine / "frames" / name)
    save_mask(mine / "masks" / "f1.png", SCENES[1]["mask"])
    assert len(prepare(mine, "--labels", mine / "masks")["train"]) == 7
    assert "left out 1: a_b/c.png (another frame has the same name)" in capsys.readouterr().out
    save_mask(mine / "masks" / "a_b" / "c.png", SCENES[1]["mask"])
    with pytest.raises(LabelFileError, match=r"c\.png: .* of a/b_c\.png or of a_b/c\.png: rename one of them"):
        prepare(mine, "--labels", mine / "masks", "--overwrite")


def test_a_sidecar_of_gdal_is_no_label(mine: Path) -> None:
    save_mask(mine / "masks" / "f0.png", SCENES[0]["mask"])
    (mine / "masks" / "f0.png.aux.xml").write_text("<PAMDataset></PAMDataset>")
    assert prepare(mine, "--labels", mine / "masks")["train"]["label_source"][:].count("human") == 1


def test_boxes_of_voc_beside_their_frames(mine: Path, capsys: pytest.CaptureFixture) -> None:
    (mine / "frames" / "f0.xml").write_text(VOC_BOX)
    (mine / "frames" / "f0.png.aux.xml").write_text("<PAMDataset></PAMDataset>")
    rows = prepare(mine, "--labels", mine / "frames")["train"]
    assert rows["label_source"][:] == ["box"] + ["none"] * 5 and "f0.xml" not in capsys.readouterr().out


def test_masks_and_boxes_in_one_folder_are_asked_about(mine: Path) -> None:
    labels = mine / "labels"
    save_mask(labels / "masks" / "f1.png", SCENES[1]["mask"])
    (labels / "boxes").mkdir()
    (labels / "boxes" / "f0.xml").write_text(VOC_BOX)
    with pytest.raises(LabelFileError, match=rf"f1\.png.*f0\.xml.*: name {labels}/masks or {labels}/boxes"):
        prepare(mine, "--labels", labels)
    assert prepare(mine, "--labels", labels / "masks")["train"]["label_source"][:].count("human") == 1
    (labels / "masks" / "project.xml").write_text("<project/>")
    with pytest.raises(LabelFileError, match=r"f1\.png.*project\.xml.*: leave those of one kind in it"):
        prepare(mine, "--labels", labels / "masks", "--overwrite")
    (labels / "masks" / "project.xml").rename(labels / "masks" / ".project.xml")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(mine, "--labels", labels / "masks", "--overwrite")


def test_masks_in_a_folder_called_labels_are_masks(mine: Path) -> None:
    save_mask(mine / "labels" / "f1.png", SCENES[1]["mask"])
    assert prepare(mine, "--labels", mine)["train"]["label_source"][:] == ["none", "human"] + ["none"] * 4
    (mine / "labels" / "f1.png").unlink()
    (mine / "labels" / "f1.txt").write_text("0 0.5 0.5 0.1 0.1")
    assert prepare(mine, "--labels", mine, "--overwrite")["train"]["label_source"][1] == "box"


def test_coco_for_some_frames_and_splits(mine: Path) -> None:
    pytest.importorskip("pycocotools")
    images = [{"id": i, "file_name": f"f{i}.png", "width": 40, "height": 32} for i in range(4)]
    square = {"segmentation": [[4, 5, 7, 5, 7, 8, 4, 8]], "bbox": [4, 5, 3, 3], "area": 9, "iscrowd": 0}
    annotations = [{"id": i + 1, "image_id": i, "category_id": 1, **square} for i in range(3)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "bird"}]}
    (mine / "labels.json").write_text(json.dumps(content))
    splits = prepare(mine, "--layout", "coco", "--labels", mine / "labels.json", "--test", 0.25)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 5, "test": 1}
    human = [row for rows in splits.values() for row in rows if row["label_source"] == "human"]
    assert sorted(row["name"] for row in human) == ["f0", "f1", "f2", "f3"]
    areas = {row["name"]: row["objects"]["area"] for row in human}
    assert areas == {"f0": [9], "f1": [9], "f2": [9], "f3": []}


@pytest.mark.parametrize(("folders", "warns"), [(("a", "a"), False), (("a", "b"), True)])
def test_labels_of_several_folders_for_frames_of_one(mine: Path, folders: tuple[str, str], warns: bool) -> None:
    images = [{"id": i, "file_name": f"{folders[i]}/f{i}.png", "width": 40, "height": 32} for i in range(2)]
    boxes = [{"id": i + 1, "image_id": i, "category_id": 1, "bbox": [4, 5, 3, 3]} for i in range(2)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "bird"}]}
    (mine / "labels.json").write_text(json.dumps(content))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prepare(mine, "--labels", mine / "labels.json")
    assert any("of several folders (a/f0, b/f1)" in str(warning.message) for warning in caught) == warns


def test_without_labels_all_is_unlabelled(mine: Path, capsys: pytest.CaptureFixture) -> None:
    rows = prepare(mine)["train"]
    assert rows["label_source"][:] == ["none"] * 6
    with pytest.raises(ValueError, match="no frame has a person's label to measure by"):
        main(["--root", str(mine / "frames"), "--out", str(mine / "out2"), "--test", "0.2"])


def test_labels_that_fit_nothing_are_an_error(mine: Path) -> None:
    save_mask(mine / "masks" / "x1.png", SCENES[1]["mask"])
    with pytest.raises(ValueError, match=r"no label in .*masks is of a frame that is there \(1 are of others\)"):
        prepare(mine, "--labels", mine / "masks")
    with pytest.raises(ValueError, match=r"there are no labels .*absent"):
        prepare(mine, "--labels", mine / "absent")
    save_mask(mine / "masks" / "f1.png", np.zeros((5, 5)))
    with pytest.raises(ValueError, match="5 × 5 pixels, the frame has 40 × 32"):
        prepare(mine, "--labels", mine / "masks")
    assert not (mine / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--root", "x", "--mask-grid", "shown"], "--mask-grid and --category are for labels: name them by --labels"),
        (["--root", "x", "--mask-values", "1"], "are for labels: name them by --labels"),
        (["--root", "x", "--ignore-value", "1"], "are for labels: name them by --labels"),
        (["--root", "x", "--category", "bird"], "are for labels: name them by --labels"),
        (["--synthetic", "4", "--mask-values", "1"], "leave them out with --synthetic"),
        (["--layout", "coco", "--root", "x"], "--layout coco needs --labels"),
        (["--layout", "generic", "--root", "x", "--labels", "y"], "--labels, --category, --every and --max-frames are"),
        ([], "say with --root where the frames are"),
    ],
)
def test_flags_that_don_t_go_together(flags: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main([*flags, "--out", "z"])
    assert message in capsys.readouterr().err
