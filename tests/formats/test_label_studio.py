import base64
import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from scalpel_hf.data.names import FrameNames
from scalpel_hf.formats import LabelFileError, read_label_studio, write_label_studio
from scalpel_hf.formats.brush_rle import decode_brush_rle, encode_brush_rle

from .small_sets import SHAPE, TINY, draw, labelled, raw, row, tiny


def load(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "tasks.json").read_text())


def decoded(region: dict[str, Any]) -> np.ndarray:
    assert region["value"]["format"] == "rle" and region["image_rotation"] == 0
    return decode_brush_rle(region["value"]["rle"], region["original_height"], region["original_width"])


def union(regions: list[dict[str, Any]]) -> np.ndarray:
    return sum(map(decoded, regions), np.zeros(SHAPE, bool))


def test_tasks(tmp_path: Path) -> None:
    dataset = tiny()
    assert write_label_studio(dataset, tmp_path / "out") == {"frames": 8, "targets": 7, "frames without label": 2}
    tasks = {task["data"]["name"]: task for task in load(tmp_path / "out")}
    assert list(tasks) == dataset["name"][:]
    for name, task in tasks.items():
        assert task["data"]["image"] == f"/data/local-files/?d={name}.png"
        if name[0] == "h":
            (annotation,) = task["annotations"]
            assert "predictions" not in task and all("score" not in region for region in annotation["result"])
            np.testing.assert_array_equal(union(annotation["result"]), TINY[name])
        elif name[0] == "p":
            (prediction,) = task["predictions"]
            assert "annotations" not in task and prediction["model_version"] == "org/teacher"
            np.testing.assert_array_equal(union(prediction["result"]), TINY[name])
            scores = [region["score"] for region in prediction["result"]]
            assert scores == pytest.approx([0.9 - 0.1 * i for i in range(len(scores))])
            assert prediction["score"] == max(scores, default=0)
        else:
            assert task.keys() == {"data"}
    stored = {n: cell["bytes"] for n, cell in zip(dataset["name"], raw(dataset, "image"), strict=True)}
    assert {path.stem: path.read_bytes() for path in (tmp_path / "out" / "images").iterdir()} == stored


def test_regions_fit_the_labelling_interface(tmp_path: Path) -> None:
    mask, ignored = draw((3, 4)), draw((10, 6))
    write_label_studio(labelled(row("p", mask, "pseudo", ignored=ignored)), tmp_path / "out")
    config = ElementTree.parse(tmp_path / "out" / "label_config.xml").getroot()
    brush, image = config.find("BrushLabels"), config.find("Image")
    target, ignore = load(tmp_path / "out")[0]["predictions"][0]["result"]
    for region, expected in ((target, mask), (ignore, ignored)):
        assert region["from_name"] == brush.get("name") and region["type"] == "brushlabels"
        assert region["to_name"] == brush.get("toName") == image.get("name")
        (label,) = region["value"]["brushlabels"]
        assert label in [entry.get("value") for entry in brush]
        np.testing.assert_array_equal(decoded(region), expected)
    assert image.get("value") == "$image"


def test_what_a_browser_cannot_show_is_stretched_not_clipped(tmp_path: Path) -> None:
    frame = np.full(SHAPE, 14000, np.uint16)
    frame[0, 0], frame[5, 5] = 13000, 15000
    for kind in ("png", "tiff"):
        Image.fromarray(frame).save(tmp_path / f"f.{kind}")
    rows = [row(kind, None, "none", (tmp_path / f"f.{kind}").read_bytes(), f".{kind}") for kind in ("png", "tiff")]
    write_label_studio(labelled(*rows), tmp_path / "out", image_url="http://localhost/a b/")
    for name in ("png", "tiff"):
        shown = np.asarray(Image.open(tmp_path / "out" / "images" / f"{name}.png"))
        assert shown.dtype == np.uint8 and (shown[0, 0], shown[5, 5], shown[1, 1]) == (0, 255, 128)
    assert load(tmp_path / "out")[1]["data"]["image"] == "http://localhost/a b/tiff.png"


def region(mask: np.ndarray, **changes: Any) -> dict[str, Any]:
    height, width = mask.shape
    value = {"format": "rle", "rle": encode_brush_rle(mask), "brushlabels": ["target"]}
    sizes = {"original_width": width, "original_height": height}
    return {"id": "r1", "type": "brushlabels", "image_rotation": 0, "value": value, **sizes, **changes}


def exported(tmp_path: Path, *tasks: Any) -> Path:
    path = tmp_path / "export.json"
    path.write_text(json.dumps(list(tasks)))
    return path


def task(number: int, *results: list, name: str | None = "a", **data: Any) -> dict[str, Any]:
    annotations = [{"id": 10 * number + i, "result": result} for i, result in enumerate(results)]
    return {
        "id": number,
        "data": {"image": "x", **({"name": name} if name else {}), **data},
        "annotations": annotations,
    }


def test_only_what_people_annotated_comes_back(tmp_path: Path) -> None:
    one, two = draw((3, 4)), draw((slice(0, 2), 23))
    cancelled = {"id": 5, "was_cancelled": True, "result": [region(draw((1, 1)))]}
    comment = {"id": "c", "type": "choices", "value": {"choices": ["hazy"]}}
    relation = {"from_id": "r1", "to_id": "c", "type": "relation"}
    several = task(1, [region(one), comment, region(two), relation])
    several["annotations"].insert(0, cancelled)
    untouched = {"id": 2, "data": {"name": "b"}, "annotations": [], "predictions": [{"result": [region(one)]}]}
    skipped = {"id": 3, "data": {"name": "c"}, "annotations": [cancelled]}
    empty = task(4, [], name="d")
    labels = list(read_label_studio(exported(tmp_path, several, untouched, skipped, empty)))
    assert [label.name for label in labels] == ["a", "d"]
    np.testing.assert_array_equal(labels[0].mask, one | two)
    assert labels[1].mask is None and "task 4, annotation 40" in labels[1].origin


def test_export_corrected_and_back(tmp_path: Path) -> None:
    write_label_studio(tiny(), tmp_path / "out")
    tasks = load(tmp_path / "out")
    for one in tasks:  # as when every prediction is accepted
        one["annotations"] = one.pop("annotations", None) or one.pop("predictions", [])
    back = {label.name: label.mask for label in read_label_studio(exported(tmp_path, *tasks))}
    assert back.keys() == TINY.keys()
    for name, mask in TINY.items():
        np.testing.assert_array_equal(mask if mask.any() else None, back[name])


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("/data/local-files/?d=sub/a%20b.png", "a b"),
        ("/data/upload/3/frame.v1.png", "frame.v1"),
        ("s3://bucket/x/7.tif", "7"),
        ("/data/local-files/?d=sub/gain=3.png", "gain=3"),
        ("http://host/data/local-files/?d=sub/gain%3D3.png", "gain=3"),
        ("/data/upload/4/1a2b3c4d-gain%3D3.png", "gain=3"),
        ("https://host/f0.png?signature=other", "f0"),
    ],
)
def test_names_from_addresses(tmp_path: Path, image: str, name: str) -> None:
    (label,) = read_label_studio(exported(tmp_path, task(1, [], name=None, image=image)))
    assert FrameNames([name, "other"]).find(label.name) == name


def test_labels(tmp_path: Path) -> None:
    one, two, three = draw((3, 4)), draw((0, 23)), draw((9, 9))
    named = {"format": "rle", "rle": encode_brush_rle(two), "brushlabels": ["bird"]}
    ignore = {"format": "rle", "rle": encode_brush_rle(three), "brushlabels": ["ignore"]}
    path = exported(tmp_path, task(1, [region(one), region(two, value=named), region(three, value=ignore)]))
    with pytest.raises(LabelFileError, match=r"task 1, .*the labels \['bird', 'target'\]: name the target"):
        list(read_label_studio(path))
    (label,) = read_label_studio(path, "bird")
    np.testing.assert_array_equal(label.mask, two)
    (label,) = read_label_studio(exported(tmp_path, task(1, [region(one), region(three, value=ignore)])))
    np.testing.assert_array_equal(label.mask, one)


TURNED = {"x": 1, "y": 2, "width": 3, "height": 4, "rotation": 30}
BOX = {"id": "r9", "type": "rectanglelabels", "value": TURNED, "original_width": 24, "original_height": 20}
POLYGON = {"id": "r9", "type": "polygonlabels", "value": {"points": [[1, 1], [2, 2], [1, 2]]}}


@pytest.mark.parametrize(
    ("results", "match"),
    [
        ([[], []], r"task 1: has 2 annotations \(10, 11\): keep one"),
        ([[BOX]], "task 1, annotation 10, region r9: is turned, or its image was"),
        ([[POLYGON]], "region r9: is drawn as polygonlabels"),
        ([[region(draw(), image_rotation=90)]], "region r1: its image was rotated"),
        ([[region(draw(), original_width=25)]], "region r1: the RLE holds 1920 values, 25 × 20 pixels need 2000"),
        ([[region(draw(), original_width=None)]], "region r1: "),
        ([[region(draw(), value={"format": "rle", "rle": [0, 0, 7, 128, 57, 27]})]], "region r1: the RLE"),
        ([[region(draw()), region(draw(shape=(4, 4)))]], "task 1, annotation 10: its regions have different sizes"),
    ],
)
def test_annotations_that_cannot_be_taken(tmp_path: Path, results: list, match: str) -> None:
    with pytest.raises(LabelFileError, match=rf"export.json, .*{match}"):
        list(read_label_studio(exported(tmp_path, task(1, *results))))


@pytest.mark.parametrize("text", ["{}", "[3]", '[{"image": "x"}]'])
def test_files_that_are_no_export(tmp_path: Path, text: str) -> None:
    path = tmp_path / "export.json"
    path.write_text(text)
    with pytest.raises(LabelFileError, match=r"export.json: not Label Studio's JSON export"):
        list(read_label_studio(path))


def bitmask(mask: np.ndarray, label: str = "target", mode: str = "RGBA", **changes: Any) -> dict[str, Any]:
    """As the browser's canvas gives it: black on a transparent ground."""
    buffer = io.BytesIO()
    pixels = np.zeros((*mask.shape, 4), np.uint8)
    pixels[..., 3] = np.where(mask, 255, 0)
    Image.fromarray(pixels).convert(mode).save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    height, width = mask.shape
    value = {"imageDataURL": url, "bitmasklabels": [label]}
    sizes = {"original_width": width, "original_height": height}
    return {"id": "b1", "type": "bitmasklabels", "image_rotation": 0, "value": value, **sizes, **changes}


def rle_value(mask: np.ndarray, **others: Any) -> dict[str, Any]:
    return {"rle": encode_brush_rle(mask), **others}


def test_bitmasks_and_brush_masks_both_count(tmp_path: Path) -> None:
    one, two, ignored = draw((3, 4)), draw((slice(0, 2), 23)), draw((19, 0))
    bare = region(two, id="r2", value=rle_value(two, brushlabels=["target"]))  # without `format`
    for results in ([bitmask(one), bare], [bare, bitmask(one)], [bare, bitmask(one, mode="LA")]):
        results = [*results, bitmask(ignored, "ignore", id="b2")]
        (label,) = read_label_studio(exported(tmp_path, task(1, results)))
        np.testing.assert_array_equal(label.mask, one | two)
    (label,) = read_label_studio(exported(tmp_path, task(1, [bitmask(one, "hot"), bitmask(two, "bird")])), "bird")
    np.testing.assert_array_equal(label.mask, two)


def test_what_is_said_of_a_region_makes_no_second_one(tmp_path: Path) -> None:
    """Answers to questions of one region come as entries of their own, which repeat its mask without its label."""
    one, ignored = draw((3, 4)), draw((19, 0))
    entries = [region(one), region(ignored, id="r2", value=rle_value(ignored, format="rle", brushlabels=["ignore"]))]
    said = {"type": "choices", "value": rle_value(ignored, format="rle", choices=["hazy"])}
    entries.append(region(ignored, id="r2", **said))
    split = [  # of the tags Brush and Labels
        region(one, id="r3", type="brush", value=rle_value(one, format="rle")),
        region(one, id="r3", type="labels", value=rle_value(one, format="rle", labels=["target"])),
    ]
    for results in (entries, entries[::-1], split, split[::-1]):
        (label,) = read_label_studio(exported(tmp_path, task(1, results)))
        np.testing.assert_array_equal(label.mask, one)


def test_a_label_that_no_region_has(tmp_path: Path) -> None:
    path = exported(tmp_path, task(1, [region(draw((3, 4)))]), task(2, [], name="b"))
    with pytest.raises(LabelFileError, match=r"export.json: no region has the label 'targte', there are \['target'\]"):
        list(read_label_studio(path, "targte"))
    path = exported(tmp_path, task(1, [region(draw((3, 4)), value=rle_value(draw((3, 4))))]))
    (label,) = read_label_studio(path)
    np.testing.assert_array_equal(label.mask, draw((3, 4)))
    with pytest.raises(LabelFileError, match="task 1, annotation 10: has a region without a label"):
        list(read_label_studio(path, "target"))


HEAD = "data:image/png;base64,"


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({"type": "videorectangle", "value": {"sequence": []}}, "of the type 'videorectangle', which isn't understood"),
        ({"type": "magicwand", "value": {"magicwandlabels": ["target"]}}, "of the type 'magicwand'"),
        ({"type": "brushlabels", "value": {"brushlabels": ["target"]}}, "of the type 'brushlabels'"),
        ({"type": "bitmask", "value": {"bitmask": "AAAA"}}, "of the type 'bitmask'"),
        ({"type": ["choices"], "value": {}}, "of the type"),
        ({"type": "choices", "value": None}, "its `value` is no object"),
        ({"type": "choices", "value": [3]}, "its `value` is no object"),
        ({"value": {}}, "of the type None"),
        (region(draw(), value=rle_value(draw(), format="png")), "has the format 'png'"),
        (region(draw(), value=rle_value(draw(), brushlabels="target")), "its `brushlabels` are no list of names"),
        (region(draw(), value=rle_value(draw(), brushlabels=[3])), "its `brushlabels` are no list of names"),
        (region(draw(), value={"rle": 10**10}), "isn't a list of bytes"),
        (region(draw(), value={"rle": "0" * 10**6}), "isn't a list of bytes"),
        (region(draw(), value={"rle": [0.5, True]}), "isn't a list of bytes"),
        (region(draw(), value={"rle": [256]}), "isn't a list of bytes"),
        (region(draw(), value={"rle": None}), "isn't a list of bytes"),
        (region(draw(), original_width=float("nan")), "its width and height must be whole numbers"),
        (region(draw(), original_width=True), "its width and height must be whole numbers"),
        (region(draw(), original_width=10**9, original_height=10**9), "more than any frame has"),
        (bitmask(draw(shape=(4, 4)), original_width=5), "its bitmask has 4 × 4 pixels, its image 5 × 4"),
        (bitmask(draw(), mode="RGB"), "its bitmask has no transparency"),
        (bitmask(np.ones((6, 8), bool)), "its bitmask has no transparency"),
        (bitmask(draw(), value={"imageDataURL": "data:image/gif;base64,AAAA"}), "its bitmask isn't a PNG file"),
        (bitmask(draw(), value={"imageDataURL": "file:///etc/hosts"}), "its bitmask isn't a PNG file"),
        (bitmask(draw(), value={"imageDataURL": 3}), "its bitmask isn't a PNG file"),
        (bitmask(draw(), value={"imageDataURL": HEAD + "A"}), "its bitmask is damaged"),
        (bitmask(draw(), value={"imageDataURL": HEAD + "****"}), "its bitmask is damaged"),
        (bitmask(draw(), value={"imageDataURL": HEAD + "AAAA"}), "its bitmask is damaged"),
        (
            bitmask(draw(), value={"imageDataURL": bitmask(draw())["value"]["imageDataURL"][:100]}),
            "its bitmask is damaged",
        ),
    ],
)
def test_results_that_are_not_understood(tmp_path: Path, entry: dict, match: str) -> None:
    with pytest.raises(LabelFileError, match=rf"export.json, task 1, annotation 10, region .*{match}"):
        list(read_label_studio(exported(tmp_path, task(1, [region(draw((1, 1))), {"id": "x", **entry}]))))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"data": [3]}, "not Label Studio's JSON export"),
        ({"data": None}, "not Label Studio's JSON export"),
        ({"data": {"name": 3}}, "task 1, annotation 10: names no frame"),
        ({"data": {"name": ""}}, "task 1, annotation 10: names no frame"),
        ({"data": {"text": "x"}}, "task 1, annotation 10: names no frame"),
        ({"data": {"image": None}}, "task 1, annotation 10: names no frame"),
        ({"annotations": {"result": []}}, "task 1: `annotations` must be a list of objects"),
        ({"annotations": [3]}, "task 1: `annotations` must be a list of objects"),
        ({"annotations": [{"id": 10, "result": "r1"}]}, "annotation 10: its `result` must be a list of objects"),
        ({"annotations": [{"id": 10, "result": [None]}]}, "annotation 10: its `result` must be a list of objects"),
        ({"completions": [{"result": []}]}, "task 1: has `completions`"),
    ],
)
def test_tasks_of_a_wrong_shape(tmp_path: Path, changes: dict, match: str) -> None:
    with pytest.raises(LabelFileError, match=rf"export.json.*{match}"):
        list(read_label_studio(exported(tmp_path, task(1, []) | changes)))


def test_a_byte_order_mark(tmp_path: Path) -> None:
    path = exported(tmp_path, task(1, [region(draw((3, 4)))]))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (label,) = read_label_studio(path)
    assert label.name == "a" and label.mask.sum() == 1
