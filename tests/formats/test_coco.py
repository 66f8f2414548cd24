import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from pycocotools.coco import COCO

from scalpel_hf.data import objects_from_mask
from scalpel_hf.data.names import FrameNames
from scalpel_hf.formats import LabelFileError, read_coco, write_coco
from scalpel_hf.formats.coco import _annotation
from scalpel_hf.formats.coco_masks import decode_rle
from scalpel_hf.formats.polygons import mask_codec

from .small_sets import TEACHER, TINY, draw, labelled, masks, raw, row, tiny


def load(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "annotations.json").read_text())


def as_a_person_left_it(folder: Path, **changes: Any) -> Path:
    """The file as another program writes it: without what only this package says."""
    content = load(folder) | changes
    for image in content["images"]:
        image.pop("label_source", None)
        image.pop("teacher", None)
    path = folder / "corrected.json"
    path.write_text(json.dumps(content))
    return path


def test_the_reference_reader_gets_every_mask_box_and_score(tmp_path: Path) -> None:
    dataset = tiny()
    counts = write_coco(dataset, tmp_path / "out")
    assert counts == {"frames": 6, "targets": 7, "frames without label": 2}
    coco = COCO(str(tmp_path / "out" / "annotations.json"))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["target"]
    images = {Path(image["file_name"]).stem: image for image in coco.loadImgs(coco.getImgIds())}
    assert list(images) == list(TINY)
    for name, mask in TINY.items():
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=images[name]["id"]))
        union = sum((coco.annToMask(a).astype(bool) for a in annotations), np.zeros_like(mask))
        np.testing.assert_array_equal(union, mask)
        objects = objects_from_mask(mask)
        assert [a["bbox"] for a in annotations] == objects["bbox"]
        assert [a["area"] for a in annotations] == objects["area"]
        if name[0] == "h":
            assert all("score" not in a for a in annotations) and images[name]["label_source"] == "human"
        else:
            assert [a["score"] for a in annotations] == pytest.approx([0.9 - 0.1 * i for i in range(len(annotations))])
            assert images[name]["label_source"] == "pseudo" and images[name]["teacher"] == TEACHER
    stored = dict(zip(dataset["name"], raw(dataset, "image"), strict=True))
    files = {path.stem: path.read_bytes() for path in (tmp_path / "out" / "images").iterdir()}
    assert files == {name: stored[name]["bytes"] for name in TINY}


def test_back_again(tmp_path: Path) -> None:
    write_coco(tiny(), tmp_path / "out")
    back = {label.name: label.mask for label in read_coco(as_a_person_left_it(tmp_path / "out"))}
    assert back.keys() == TINY.keys()
    for name, mask in TINY.items():
        np.testing.assert_array_equal(back[name], mask)


@given(masks())
@settings(deadline=None)
def test_masks_round_trip(mask: np.ndarray) -> None:
    codec = mask_codec()
    annotation = json.loads(json.dumps(_annotation(mask, codec, crowd=False)))
    assert annotation["area"] == mask.sum()
    rle = annotation["segmentation"]
    np.testing.assert_array_equal(codec.decode(rle), mask)
    np.testing.assert_array_equal(decode_rle(rle["counts"], *rle["size"]), mask)


def test_unchecked_pseudo_labels_are_not_taken_for_a_humans(tmp_path: Path) -> None:
    write_coco(tiny(), tmp_path / "out")
    with pytest.warns(UserWarning, match="3 images say that their label is no human's"):
        names = [label.name for label in read_coco(tmp_path / "out" / "annotations.json")]
    assert names == ["h1", "h2", "h-empty"]


def test_ignored_pixels_are_a_crowd_of_their_own_category(tmp_path: Path) -> None:
    mask, ignored = draw((3, 4)), draw((slice(10, 12), 6), (0, 0))
    write_coco(labelled(row("p", mask, "pseudo", ignored=ignored)), tmp_path / "out")
    content = load(tmp_path / "out")
    assert [c["name"] for c in content["categories"]] == ["target", "ignore"]
    target, ignore = content["annotations"]
    assert (target["category_id"], target["iscrowd"], ignore["category_id"], ignore["iscrowd"]) == (1, 0, 2, 1)
    rle = ignore["segmentation"]
    np.testing.assert_array_equal(mask_codec().decode(rle), ignored)
    (label,) = read_coco(as_a_person_left_it(tmp_path / "out"))
    np.testing.assert_array_equal(label.mask, mask)


def made_elsewhere(tmp_path: Path, annotations: list[dict], **image: Any) -> Path:
    """A file of one frame of 6 × 5 pixels with such annotations."""
    content = {
        "images": [{"id": 7, "file_name": "sub\\folder/frame.v2.png", "width": 6, "height": 5, **image}],
        "categories": [{"id": 1, "name": "hot"}, {"id": 2, "name": "bird"}],
        "annotations": [{"id": i, "image_id": 7, "category_id": 1, **a} for i, a in enumerate(annotations)],
    }
    path = tmp_path / "made.json"
    path.write_text(json.dumps(content))
    return path


def test_polygons_and_uncompressed_rle(tmp_path: Path) -> None:
    polygon = {"segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]], "category_id": 1}
    counts = {"segmentation": {"size": [5, 6], "counts": [24, 1, 5]}, "iscrowd": 1}  # column 4, row 4
    (label,) = read_coco(made_elsewhere(tmp_path, [polygon, counts]))
    expected = draw((slice(1, 3), slice(1, 3)), (4, 4), shape=(5, 6))
    np.testing.assert_array_equal(label.mask, expected)
    assert (
        FrameNames(["frame.v2"]).find(label.name) == "frame.v2"
        and "image 7" in label.origin
        and "made.json" in label.origin
    )


def test_one_category_of_several(tmp_path: Path) -> None:
    pixel = {"segmentation": {"size": [5, 6], "counts": [0, 1, 29]}}
    other = {"segmentation": {"size": [5, 6], "counts": [29, 1]}, "category_id": 2}
    path = made_elsewhere(tmp_path, [pixel, other])
    with pytest.raises(LabelFileError, match=r"made.json: annotations of the categories \['bird', 'hot'\]"):
        list(read_coco(path))
    (label,) = read_coco(path, category="bird")
    np.testing.assert_array_equal(label.mask, draw((4, 5), shape=(5, 6)))
    with pytest.raises(LabelFileError, match=r"no category 'plane', there are \['bird', 'hot'\]"):
        list(read_coco(path, category="plane"))


@pytest.mark.parametrize(
    ("annotation", "match"),
    [
        ({"bbox": [1, 1, 2]}, "annotation 0: has no `segmentation`"),
        ({"bbox": [1, 1, 2, "2"]}, "annotation 0: its `bbox` isn't a list of numbers"),
        ({"keypoints": [1, 1, 0]}, "annotation 0: has no `segmentation`, no `bbox` of four numbers and no visible"),
        ({"segmentation": []}, "annotation 0: has no `segmentation`"),
        ({"segmentation": {"size": [6, 5], "counts": [0, 30]}}, r"annotation 0: its mask has the size \[6, 5\]"),
        ({"segmentation": {"size": [5, 6], "counts": [30]}}, "annotation 0: its segmentation covers no pixel"),
        ({"segmentation": [[1, 1, 1.2, 1, 1.2, 1.2]]}, "annotation 0: its segmentation covers no pixel"),
        ({"segmentation": {"size": [5, 6], "counts": [0, 500000]}}, "annotation 0: its segmentation can't be decoded"),
        ({"segmentation": {"size": [5, 6], "counts": "0" * 40}}, "annotation 0: its segmentation can't be decoded"),
        ({"segmentation": {"size": [5, 6], "counts": "h"}}, "annotation 0: its segmentation can't be decoded"),
        ({"segmentation": {"size": [5, 6], "counts": "~"}}, "annotation 0: its segmentation can't be decoded"),
        ({"segmentation": {"size": [5, 6], "counts": [40, -10]}}, "annotation 0: its segmentation can't be decoded"),
        ({"segmentation": {"size": [5, 6]}}, "annotation 0: its segmentation can't be decoded"),
        ({"segmentation": 3}, "annotation 0: its segmentation can't be decoded"),
        ({"image_id": 8}, "annotation 0: there is no image 8"),
    ],
)
def test_annotations_that_are_none(tmp_path: Path, annotation: dict, match: str) -> None:
    with pytest.raises(LabelFileError, match=f"made.json, {match}"):
        list(read_coco(made_elsewhere(tmp_path, [annotation])))


@pytest.mark.parametrize("image", [{"width": None}, {"height": -1}, {"height": "tall"}, {"file_name": None}])
def test_images_that_are_none(tmp_path: Path, image: dict) -> None:
    with pytest.raises(LabelFileError, match=r"made.json, image 7 .* (needs `file_name`|its width and height)"):
        list(read_coco(made_elsewhere(tmp_path, [], **image)))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "can't be read as JSON"),
        ("[]", "not a COCO file"),
        ('{"images": {}, "annotations": []}', "not a COCO file"),
        ('{"images": [{"id": 1}, {"id": 1}], "annotations": []}', "two images have the id 1"),
        ('{"images": [{}], "annotations": []}', "number 0 of its `images` has no `id`"),
        ('{"images": [], "annotations": [3]}', "number 0 of its `annotations` has no `id`"),
        ('{"images": [], "annotations": [{"id": 1}, {"id": 1}]}', "two annotations have the id 1"),
    ],
)
def test_files_that_are_not_coco(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "made.json"
    path.write_text(text)
    with pytest.raises(LabelFileError, match=f"made.json.*{match}"):
        list(read_coco(path))


def test_no_warning_without_loss(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_coco(tiny(), tmp_path / "out")


def test_without_pycocotools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ImportError, match=r"pip install 'scalpel-hf\[formats\]'"):
        write_coco(tiny(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("segmentation", "needs_it"),
    [(None, False), ({"size": [8, 9], "counts": [0, 3, 69]}, False), ([[1, 1, 4, 1, 4, 4, 1, 4]], True)],
    ids=["box", "runs", "polygon"],
)
def test_polygons_alone_are_read_by_pycocotools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segmentation: Any, needs_it: bool
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 3], "segmentation": segmentation}
    image = {"id": 1, "file_name": "a.png", "width": 9, "height": 8}
    content = {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "target"}]}
    (tmp_path / "labels.json").write_text(json.dumps(content))
    if needs_it:
        with pytest.raises(ImportError, match=r"pip install 'scalpel-hf\[formats\]'"):
            list(read_coco(tmp_path / "labels.json"))
        return
    if segmentation:
        del annotation["bbox"]
        (tmp_path / "labels.json").write_text(json.dumps(content))
    (label,) = read_coco(tmp_path / "labels.json")
    assert label.boxes == [(1.0, 1.0, 3.0, 3.0)] if segmentation is None else label.mask.sum() == 3
