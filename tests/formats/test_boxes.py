"""Boxes and points: in from each format, into a data set, and out again as they were."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from scalpel_hf.cli import convert_from, prepare
from scalpel_hf.data import LabelBudget, apply_label_budget, as_irst_dataset, load_prepared
from scalpel_hf.data.label_sources import as_objects, inside_frame, source_of_objects
from scalpel_hf.data.objects import encode_png
from scalpel_hf.formats import (
    HumanLabel,
    LabelFileError,
    LossyExportWarning,
    import_human_labels,
    read_boxes,
    read_coco,
    read_label_file,
    read_label_studio,
    read_voc_boxes,
    read_yolo,
    write_coco,
    write_imagefolder,
    write_label_studio,
    write_masks,
    write_parquet,
    write_voc,
    write_yolo_detection,
    write_yolo_segmentation,
)
from scalpel_hf.formats.own_frames import kind_of_labels
from tests.formats.small_sets import SHAPE, draw, labelled, row

HEIGHT, WIDTH = SHAPE  # 20, 24
BOXES = [[3.0, 2.0, 4.0, 5.0], [0.0, 19.0, 1.0, 1.0], [10.5, 7.25, 2.5, 3.0]]
POINTS = [[5.5, 3.5, 0.0, 0.0], [23.0, 0.5, 0.0, 0.0]]


def weak(name: str, boxes: list[list[float]]) -> dict[str, Any]:
    return {**row(name, None, source_of_objects(boxes)), "objects": as_objects(boxes)}


def mixed_set() -> datasets.Dataset:
    return labelled(
        weak("b", BOXES[:2]), weak("p", [*POINTS, BOXES[0]]), row("h", draw((4, 5)), "human"), row("u", None, "none")
    )


def unlabelled(*names: str) -> datasets.Dataset:
    return labelled(*(row(name, None, "none") for name in names))


def taken(labels: Iterator[HumanLabel], *names: str) -> dict[str, tuple[str, list[list[float]]]]:
    """What a data set says after the labels are imported, by frame."""
    rows = import_human_labels(unlabelled(*names), labels, keep_in_memory=True)
    return {r["name"]: (r["label_source"], r["objects"] and r["objects"]["bbox"]) for r in rows}


# In


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"a": [[3, 2, 4, 5], [0, 19, 1, 1]], "b": [[5.5, 3.5], [3, 2, 4, 5]], "c": []}))
    assert taken(read_boxes(path), "a", "b", "c", "d") == {
        "a": ("box", BOXES[:2]),
        "b": ("point", [POINTS[0], BOXES[0]]),
        "c": ("human", []),  # no target, which is all there is to know
        "d": ("none", None),
    }


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"a": [[1, 2, 3]]}, r"'a', row 1: \[1, 2, 3\] is neither a box \[x, y, width, height\] nor a point \[x, y\]"),
        ({"b": [], "a": [[1, 2], {"x": 1}]}, r"'a', row 2: \{\"x\": 1\} is neither a box"),
        ({"a": {"x": 1}}, "'a': must be a list of boxes"),
        ({"a": 5}, "'a': must be a list of boxes .*`images` and `annotations`"),
        ({"a": [[1, 2, 3, "4"]]}, r"'a', row 1: .* is neither a box"),
        ({"a": [1, 2, 3, 4]}, "'a', row 1: 1 is neither a box"),
        ({"a": [[*range(99)]]}, "'a', row 1: .{60} … is neither a box"),
        ([], "boxes.json"),
    ],
)
def test_json_that_is_none(tmp_path: Path, content: Any, match: str) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    assert content == [] or kind_of_labels(path) == "json"
    with pytest.raises(LabelFileError, match=match):
        list(read_boxes(path))


def test_a_box_that_stands_there_twice_is_one_target(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"a": [[3, 2, 4, 5], [0, 19, 1, 1], [3, 2, 4, 5]]}))
    with pytest.warns(UserWarning, match=r"boxes\.json, 'a': 1 boxes stand there twice, and are taken once"):
        assert taken(read_boxes(path), "a") == {"a": ("box", BOXES[:2])}


def yolo(folder: Path, **files: str) -> Path:
    (folder / "labels").mkdir(parents=True)
    for name, text in files.items():
        (folder / "labels" / f"{name}.txt").write_text(text)
    return folder


def test_yolo(tmp_path: Path) -> None:
    line = f"0 {5 / WIDTH:.8f} {4.5 / HEIGHT:.8f} {4 / WIDTH:.8f} {5 / HEIGHT:.8f}"
    folder = yolo(tmp_path / "y", a=line + " 0.87\n\n", b="", classes="target\n")
    found = taken(read_yolo(folder), "a", "b")
    assert found["a"][0] == "box" and np.allclose(found["a"][1], BOXES[:1], atol=1e-4)
    assert found["b"] == ("human", [])


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("0 0.5 0.5 0.1", "a.txt, line 1: must be class, x, y"),
        ("0 0.5 0.5 0.1 x", "a.txt, line 1: must be class, x, y"),
        ("bird 0.5 0.5 0.1 0.1", "a.txt, line 1: must be class, x, y"),
        ("0 12 10 4 5", "a.txt, line 1: .*no shares of a frame"),
        ("0 nan 0.5 0.1 0.1", "a.txt, line 1: .*no shares of a frame"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2", "a.txt, line 1: a polygon of 7 numbers"),
        (
            "0 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.1 0.1",
            r"the classes \['0', '1'\]: name the target by --category",
        ),
    ],
)
def test_yolo_that_cannot_be_taken(tmp_path: Path, line: str, match: str) -> None:
    with pytest.raises(LabelFileError, match=match):
        list(read_yolo(yolo(tmp_path / "y", a=line)))


def test_a_class_of_several_by_its_name_or_number(tmp_path: Path) -> None:
    folder = yolo(tmp_path / "y", a="0 0.5 0.5 0.1 0.1\n1 0.25 0.25 0.5 0.5")
    (folder / "data.yaml").write_text("names:\n  0: bird\n  1: drone\n")
    for category in ("drone", "1"):
        (label,) = read_yolo(folder, category)
        assert label.boxes == ((0, 0, 0.5, 0.5),) and label.shares
    with pytest.raises(LabelFileError, match=r"no class 'plane', there are \['bird', 'drone'\]"):
        list(read_yolo(folder, "plane"))
    with pytest.raises(LabelFileError, match=r"there are no label files \*.txt"):
        list(read_yolo(tmp_path / "nowhere"))


def test_yolo_as_other_programs_write_it(tmp_path: Path) -> None:
    lines = "1 0.5 0.5 0.1 0.1\n0 0.2 0.2 0.1 0.1\n"
    wanted = [(0.45, 0.45, 0.1, 0.1)]
    cvat, roboflow, mac = tmp_path / "cvat", tmp_path / "roboflow", tmp_path / "mac"
    for place in (cvat / "obj_train_data", roboflow / "train" / "labels", roboflow / "train" / "images", mac):
        place.mkdir(parents=True)
    (cvat / "obj.names").write_text("bird\ndrone\n")
    (cvat / "train.txt").write_text("data/obj_train_data/a.png\n")
    (roboflow / "data.yaml").write_text("names: [bird, drone]\n")
    for place in (cvat / "obj_train_data", roboflow / "train" / "labels", mac):
        (place / "a.txt").write_text(lines)
    (mac / "classes.txt").write_text("bird\ndrone\n")
    (mac / "._a.txt").write_bytes(b"\x00\x05\x16\x07\xa3")
    assert kind_of_labels(cvat) == kind_of_labels(roboflow / "train") == "yolo"
    for folder in (cvat, cvat / "obj_train_data", roboflow / "train", roboflow / "train" / "labels", mac):
        (label,) = read_yolo(folder, "drone")
        assert label.name == "a" and np.allclose(label.boxes, wanted)


def test_classes_of_one_name_are_one(tmp_path: Path) -> None:
    folder = yolo(tmp_path / "y", classes="target\ntarget\n", a="0 0.5 0.5 0.1 0.1\n1 0.25 0.25 0.5 0.5")
    for category in ("target", None):
        (label,) = read_yolo(folder, category)
        assert len(label.boxes) == 2
    folder = yolo(tmp_path / "z", classes="1\n0\n", a="0 0.5 0.5 0.1 0.1\n1 0.25 0.25 0.5 0.5")
    with pytest.raises(LabelFileError, match="'1' is the name of one class and the number of another"):
        list(read_yolo(folder, "1"))


def test_empty_files_have_no_class_to_be_named(tmp_path: Path) -> None:
    (label,) = read_yolo(yolo(tmp_path / "y", a=""), "target")
    assert label.boxes == ()


def voc(folder: Path, name: str, *objects: tuple[str, tuple[float, ...]]) -> Path:
    """Corners as VOC has them: from 1, both inside."""
    folder.mkdir(exist_ok=True)
    sides = ("xmin", "ymin", "xmax", "ymax")
    entries = "".join(
        f"<object><name>{kind}</name><bndbox>"
        + "".join(f"<{side}>{value}</{side}>" for side, value in zip(sides, corners, strict=True))
        + "</bndbox></object>"
        for kind, corners in objects
    )
    (folder / f"{name}.xml").write_text(f"<annotation><filename>{name}.png</filename>{entries}</annotation>")
    return folder


def test_voc(tmp_path: Path) -> None:
    folder = voc(tmp_path / "v", "a", ("t", (4, 3, 7, 7)), ("t", (1, 20, 1, 20)))
    voc(folder, "b")
    assert taken(read_voc_boxes(folder), "a", "b") == {"a": ("box", BOXES[:2]), "b": ("human", [])}


@pytest.mark.parametrize(("width", "height", "ok"), [(WIDTH, HEIGHT, 1), (HEIGHT, WIDTH, 0), (0, 0, 1), ("", "", 1)])
def test_voc_of_a_frame_of_another_size(tmp_path: Path, width: int | str, height: int | str, ok: int) -> None:
    assert WIDTH != HEIGHT
    file = voc(tmp_path / "v", "a", ("t", (4, 3, 7, 7))) / "a.xml"
    size = f"<size><width>{width}</width><height>{height}</height><depth>1</depth></size>"
    file.write_text(file.read_text().replace("</annotation>", f"{size}</annotation>"))
    if ok:
        assert taken(read_voc_boxes(tmp_path / "v"), "a") == {"a": ("box", BOXES[:1])}
    else:
        with pytest.raises(
            LabelFileError, match=f"a.xml.*: {width} × {height} pixels, the frame has {WIDTH} × {HEIGHT}"
        ):
            taken(read_voc_boxes(tmp_path / "v"), "a")


def test_voc_counted_from_0_is_cut_off_at_the_border(tmp_path: Path) -> None:
    assert taken(read_voc_boxes(voc(tmp_path / "v", "a", ("t", (0, 0, 2, 2)))), "a")["a"][1] == [[0, 0, 2, 2]]


def test_voc_that_cannot_be_taken(tmp_path: Path) -> None:
    folder = voc(tmp_path / "v", "a", ("bird", (1, 1, 2, 2)), ("drone", (4, 3, 7, 7)))
    with pytest.raises(LabelFileError, match=r"classes \['bird', 'drone'\]: name the target"):
        list(read_voc_boxes(folder))
    (label,) = read_voc_boxes(folder, "drone")
    assert label.boxes == ((3, 2, 4, 5),)
    (folder / "b.xml").write_text("<html></html>")
    with pytest.raises(LabelFileError, match=r"b.xml: is no annotation of Pascal VOC: it starts with <html>"):
        list(read_voc_boxes(folder))
    (folder / "b.xml").write_text("<annotation>")
    with pytest.raises(LabelFileError, match=r"b.xml: is no XML file"):
        list(read_voc_boxes(folder))
    (folder / "b.xml").write_text("<annotation><object><bndbox><xmin>1</xmin></bndbox></object></annotation>")
    with pytest.raises(LabelFileError, match=r"b.xml, object 1: needs a `bndbox`"):
        list(read_voc_boxes(folder))


def coco(path: Path, *annotations: dict[str, Any]) -> Path:
    image = {"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}
    entries = [{"id": n, "image_id": 1, "category_id": 1, **entry} for n, entry in enumerate(annotations)]
    categories = [{"id": 1, "name": "target"}, {"id": 2, "name": "ignore"}]
    path.write_text(json.dumps({"images": [image], "annotations": entries, "categories": categories}))
    return path


def test_coco(tmp_path: Path) -> None:
    path = coco(tmp_path / "c.json", {"bbox": BOXES[0], "segmentation": []}, {"bbox": BOXES[1]})
    assert taken(read_coco(path), "a")["a"] == ("box", BOXES[:2])
    keypoints = {"keypoints": [5.5, 3.5, 2, 9, 9, 0], "bbox": [0, 0, 0, 0]}
    path = coco(tmp_path / "c.json", keypoints, {"bbox": BOXES[1]})
    assert taken(read_coco(path), "a")["a"] == ("point", [POINTS[0], BOXES[1]])


@pytest.mark.parametrize("category", [None, "target"])
def test_coco_of_a_category_that_it_does_not_list(tmp_path: Path, category: str | None) -> None:
    path = coco(tmp_path / "c.json", {"bbox": BOXES[0]}, {"bbox": BOXES[1], "category_id": 7})
    with pytest.raises(LabelFileError, match=r"annotation 1: its `category_id` 7 is of none of the categories \['ign"):
        list(read_coco(path, category))
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = 7
    path.write_text(json.dumps({**content, "categories": []}))  # as some write it by hand
    assert taken(read_coco(path), "a")["a"] == ("box", BOXES[:2])


def test_coco_of_masks_and_boxes_is_boxes_and_says_so(tmp_path: Path) -> None:
    mask = {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * 3 + 2, 5, HEIGHT * 21 - 7]}}
    path = coco(tmp_path / "c.json", mask, {"bbox": BOXES[1]})
    with pytest.warns(UserWarning, match=r"c.json: 1 images have masks of some targets and boxes or points of others"):
        found = taken(read_coco(path), "a")["a"]
    assert found == ("box", [BOXES[1], [3, 2, 1, 5]])
    with pytest.raises(LabelFileError, match=r"image 1 .*has boxes and regions called 'ignore'"):
        list(read_coco(coco(path, {"bbox": BOXES[0]}, {"bbox": BOXES[1], "category_id": 2})))
    (label,) = read_coco(coco(path, mask, {"bbox": BOXES[1], "category_id": 2}))
    assert label.mask.sum() == 5 and np.argwhere(label.ignored).tolist() == [[19, 0]]


def task(*results: dict[str, Any]) -> dict[str, Any]:
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    entries = [{"id": f"r{n}", **size, **result} for n, result in enumerate(results)]
    return {"id": 1, "data": {"name": "a"}, "annotations": [{"id": 2, "result": entries}]}


def percent(box: list[float], **more: Any) -> dict[str, Any]:
    sides = (WIDTH, HEIGHT, WIDTH, HEIGHT)
    numbers = (value * 100 / side for value, side in zip(box, sides, strict=True))
    return dict(zip(("x", "y", "width", "height"), numbers, strict=True)) | more


def test_label_studio(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    box = {"type": "rectanglelabels", "value": percent(BOXES[0], rectanglelabels=["target"], rotation=0)}
    point = {"type": "keypointlabels", "value": percent(POINTS[0], width=0.4, keypointlabels=["target"])}
    path.write_text(json.dumps([task(box)]))
    source, found = taken(read_label_studio(path), "a")["a"]
    assert source == "box" and np.allclose(found, BOXES[:1], atol=1e-4)
    path.write_text(json.dumps([task(box, point)]))
    source, found = taken(read_label_studio(path), "a")["a"]
    assert source == "point" and np.allclose(found, [BOXES[0], POINTS[0]], atol=1e-4)
    ignore = {"type": "rectanglelabels", "value": percent(BOXES[1], rectanglelabels=["ignore"])}
    path.write_text(json.dumps([task(box, ignore)]))
    with pytest.raises(LabelFileError, match=r"task 1, annotation 2: has boxes and regions called 'ignore'"):
        list(read_label_studio(path))
    path.write_text(json.dumps([task({"type": "rectanglelabels", "value": {"x": 1, "y": 1}})]))
    with pytest.raises(LabelFileError, match=r"region r0: has no x, y, width and height in percent"):
        list(read_label_studio(path))


@pytest.mark.parametrize("sides", [(0, 0), (4, 0), (0, 5)])
@pytest.mark.parametrize("kind", ["json", "coco", "label-studio", "yolo", "voc"])
def test_a_box_without_a_side_is_no_point_in_any_format(tmp_path: Path, kind: str, sides: tuple[int, int]) -> None:
    width, height = sides
    box, path = [3, 2, width, height], tmp_path / "labels.json"
    if kind == "json":
        path.write_text(json.dumps({"a": [BOXES[1], box]}))
    elif kind == "coco":
        coco(path, {"bbox": BOXES[1]}, {"bbox": box})
    elif kind == "label-studio":
        path.write_text(json.dumps([task({"type": "rectanglelabels", "value": percent(box)})]))
    elif kind == "yolo":
        path = yolo(tmp_path / "y", a=f"0 0.25 0.25 {width / WIDTH} {height / HEIGHT}\n")
    else:
        path = voc(tmp_path / "v", "a", ("t", (4, 3, 4 + width - 1, 3 + height - 1)))
    with pytest.raises(
        LabelFileError, match=rf"{path.name}.*a.*the box \[[\d.]+, [\d.]+, {width}, {height}\] has no extent"
    ):
        taken(read_label_file(kind, path), "a")


@pytest.mark.parametrize("kind", ["coco", "label-studio"])
def test_boxes_of_a_frame_of_another_size_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "labels.json"
    if kind == "coco":
        coco(path, {"bbox": BOXES[0]})
        content = json.loads(path.read_text())
        content["images"][0] |= {"width": 10 * WIDTH, "height": 10 * HEIGHT}
    else:
        content = [task({"type": "rectanglelabels", "value": percent(BOXES[0])})]
        content[0]["annotations"][0]["result"][0] |= {"original_width": 10 * WIDTH, "original_height": 10 * HEIGHT}
    path.write_text(json.dumps(content))
    match = rf"labels.json.*: {10 * WIDTH} × {10 * HEIGHT} pixels, the frame has {WIDTH} × {HEIGHT}"
    with pytest.raises(LabelFileError, match=match):
        taken(read_label_file(kind, path), "a")


@pytest.mark.parametrize("ignored", [{"bbox": [3, 2, 0, 5]}, {"keypoints": [5.5, 3.5, 2]}])
def test_what_covers_nothing_is_not_ignored_in_silence(tmp_path: Path, ignored: dict[str, Any]) -> None:
    mask = {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * 3 + 2, 5, HEIGHT * 21 - 7]}}
    path = coco(tmp_path / "c.json", mask, {**ignored, "category_id": 2})
    with pytest.raises(
        LabelFileError, match=r"annotation 1: (the box .* has no extent|a point covers nothing to ignore)"
    ):
        list(read_coco(path))
    point = {"type": "keypointlabels", "value": percent(POINTS[0], keypointlabels=["ignore"])}
    path.write_text(json.dumps([task(point)]))
    with pytest.raises(LabelFileError, match=r"task 1, annotation 2: a point covers nothing to ignore"):
        list(read_label_studio(path))


# Into a data set


@pytest.mark.parametrize(
    ("box", "match"),
    [
        ([3, 2, 4, 0], "has no extent"),
        ([3, 2, -4, 5], "has no extent"),
        ([3, 2, 22.5, 5], "isn't inside its frame of 24 × 20 pixels"),
        ([-1.5, 2, 4, 5], "isn't inside its frame"),
        ([24.2, 2, 0.5, 5], "lies outside of its frame"),
        ([float("nan"), 2, 4, 5], "isn't a box"),
        ([500, 2, 0, 0], "isn't inside its frame"),
    ],
)
def test_boxes_that_are_none(box: list[float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        inside_frame(box, WIDTH, HEIGHT)
    label = HumanLabel("a", None, "boxes.json, 'a'", boxes=[box if box[2:] != [0, 0] else box[:2]])
    with pytest.raises(LabelFileError, match=rf"boxes.json, 'a': the box .*{match}|boxes.json, 'a': .*{match}"):
        import_human_labels(unlabelled("a"), [label])


def test_a_box_up_to_a_pixel_outside_is_cut_off() -> None:
    assert inside_frame([-1, -0.5, 4, 21.5], WIDTH, HEIGHT) == [0, 0, 3, 20]
    assert inside_frame([24, 20.3, 0, 0], WIDTH, HEIGHT) == [24, 20, 0, 0]


def test_an_imported_box_replaces_what_was_there() -> None:
    rows = labelled(row("h", draw((4, 5)), "human"), row("p", draw((4, 5)), "pseudo"))
    labels = [HumanLabel(name, None, name, boxes=BOXES[:1]) for name in ("h", "p")]
    for found in import_human_labels(rows, labels, keep_in_memory=True):
        assert found["label_source"] == "box" and found["mask"] is None and found["objects"]["bbox"] == BOXES[:1]
        assert found["objects"]["area"] == [20] and found["pseudo_mask"] is None and found["teacher"] is None


def test_a_prepared_set_of_boxes_is_taken_in_as_it_is() -> None:
    rows = mixed_set().remove_columns(["pseudo_score"])
    again = as_irst_dataset(rows)
    assert again["objects"][:] == rows["objects"][:] and again["label_source"][:] == ["box", "point", "human", "none"]
    empty = labelled({**weak("b", BOXES), "objects": None})
    with pytest.raises(ValueError, match=r"b: `label_source` is 'box', which takes `objects` and no mask"):
        as_irst_dataset(empty)


def test_a_budget_counts_boxes_and_points() -> None:
    rows = labelled(*(weak(f"b{i}", BOXES) for i in range(6)), *(weak(f"p{i}", POINTS) for i in range(4)))
    drawn = apply_label_budget(rows, 0.5, seed=1)
    names = set(LabelBudget.draw(rows["name"], 0.5, 1).names)
    for found in drawn:
        kind = {"b": "box", "p": "point"}[found["name"][0]]
        assert found["label_source"] == (kind if found["name"] in names else "none")
        assert (found["objects"] is not None) == (found["name"] in names)
    with pytest.raises(ValueError, match="5 frames of the budget have no label: "):
        apply_label_budget(drawn, 1.0)


# Out


def boxes_of(rows: datasets.Dataset) -> dict[str, tuple[str, list[list[float]] | None]]:
    return {r["name"]: (r["label_source"], r["objects"] and r["objects"]["bbox"]) for r in rows}


@pytest.mark.parametrize("kind", ["coco", "label-studio"])
def test_boxes_and_points_come_back_as_they_were(tmp_path: Path, kind: str) -> None:
    rows = labelled(weak("b", BOXES), weak("p", [*POINTS, BOXES[0]]), row("h", draw((4, 5)), "human"))
    write: Callable = {"coco": write_coco, "label-studio": write_label_studio}[kind]
    counts = write(rows, tmp_path / "out")
    assert (counts["frames"], counts["targets"]) == (3, 7)
    path = tmp_path / "out" / {"coco": "annotations.json", "label-studio": "tasks.json"}[kind]
    again = taken(read_label_file(kind, path), "b", "p", "h")
    for name, (source, found) in boxes_of(rows).items():
        assert again[name][0] == source
        np.testing.assert_allclose(again[name][1], found, atol=1e-4)


@pytest.mark.parametrize("kind", ["yolo", "voc"])
def test_boxes_come_back_and_points_are_left_out_aloud(tmp_path: Path, kind: str) -> None:
    write: Callable = {"yolo": write_yolo_detection, "voc": write_voc}[kind]
    with pytest.warns(LossyExportWarning, match=r"no labels of the kind point, left out are: p$"):
        counts = write(mixed_set(), tmp_path / "out")
    assert counts == {"frames": 2, "targets": 3, "frames without label": 1, "frames left out": 1}
    again = taken(read_label_file(kind, tmp_path / "out"), "b", "h")
    assert again["b"][0] == again["h"][0] == "box"
    np.testing.assert_allclose(again["b"][1], BOXES[:2], atol=1e-4)
    np.testing.assert_allclose(again["h"][1], [[5, 4, 1, 1]], atol=1e-4)
    if kind == "voc":
        assert (tmp_path / "out/ImageSets/Segmentation/trainval.txt").read_text() == "h\n"
        assert not (tmp_path / "out/SegmentationClass/b.png").exists()


def test_fractions_of_pixels_in_voc(tmp_path: Path) -> None:
    write_voc(labelled(weak("b", BOXES[2:])), tmp_path / "out")
    assert taken(read_voc_boxes(tmp_path / "out"), "b")["b"] == ("box", BOXES[2:])


@pytest.mark.parametrize("write", [write_masks, write_yolo_segmentation])
def test_masks_leave_boxes_and_points_out_aloud(tmp_path: Path, write: Callable) -> None:
    with pytest.warns(LossyExportWarning, match=r"no labels of the kind box and point, left out are: b, p$"):
        counts = write(mixed_set(), tmp_path / "out")
    assert counts["frames"] == 1 and counts["frames left out"] == 2


def test_the_hub_s_own_formats_hold_them_as_columns(tmp_path: Path) -> None:
    rows = mixed_set()
    write_parquet(rows, tmp_path / "parquet")
    write_imagefolder(rows, tmp_path / "folder")
    stored = datasets.load_dataset("parquet", data_files=str(tmp_path / "parquet/data.parquet"), split="train")
    assert boxes_of(stored) == boxes_of(rows)
    folder = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "folder"), split="train")
    assert boxes_of(folder) == boxes_of(rows)


# Programs


def test_the_kind_of_labels_is_told_by_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "j.json").write_text('{"a": [[1, 2, 3, 4]]}')
    (tmp_path / "t.json").write_text("[]")
    assert kind_of_labels(tmp_path / "j.json") == "json"
    assert kind_of_labels(coco(tmp_path / "c.json", {"bbox": BOXES[0]})) == "coco"
    assert kind_of_labels(tmp_path / "t.json") == "label-studio"
    assert kind_of_labels(yolo(tmp_path / "y", a="")) == "yolo"
    assert kind_of_labels(voc(tmp_path / "v", "a")) == "voc"
    (tmp_path / "t.json").write_text("{}")
    (tmp_path / "a.csv").write_text("a,1,2,3,4")
    for given in ("a.csv", "nowhere"):
        with pytest.raises(LabelFileError, match=rf"{given}.*a folder of masks, .*or a JSON file: of COCO"):
            kind_of_labels(tmp_path / given)
    (tmp_path / "j.json").write_text('{"images": [{"id": 1}]}')  # COCO's, whose reader says what it lacks
    assert kind_of_labels(tmp_path / "j.json") == "coco"
    with pytest.raises(LabelFileError, match=r"t\.json: there is no label in it"):
        kind_of_labels(tmp_path / "t.json")


def test_from_a_folder_of_frames_and_boxes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "frames").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "frames" / f"{name}.png").write_bytes(encode_png(np.full(SHAPE, 9, np.uint8)))
    (tmp_path / "boxes.json").write_text(json.dumps({"a": [BOXES[0]], "b": [POINTS[0][:2]]}))
    arguments = ["--root", str(tmp_path / "frames"), "--labels", str(tmp_path / "boxes.json")]
    prepare.main([*arguments, "--out", str(tmp_path / "out")])
    (train,) = load_prepared(tmp_path / "out").values()
    assert boxes_of(train) == {"a": ("box", [BOXES[0]]), "b": ("point", [POINTS[0]]), "c": ("none", None)}
    voc(tmp_path / "xml", "c", ("t", (4, 3, 7, 7)))
    convert_from.main(
        ["voc", str(tmp_path / "xml"), "--dataset", str(tmp_path / "out"), "--out", str(tmp_path / "two")]
    )
    assert "2 frames had a person's label, 3 of 3 have one now: box 2, point 1" in capsys.readouterr().out
    with pytest.raises(ValueError, match="a category is for coco"):
        convert_from.main(["json", "x.json", "--category", "t", "--dataset", "x", "--out", str(tmp_path / "four")])
