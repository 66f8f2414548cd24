import json
from pathlib import Path

import datasets
import numpy as np
import pytest

from scalpel_hf.data import objects_from_mask
from scalpel_hf.formats import HumanLabel, LabelFileError, import_human_labels, read_coco, read_label_studio
from scalpel_hf.formats.human_labels import covered, named_by
from scalpel_hf.pseudo_labels import PSEUDO_FEATURES, training_mask

from .small_sets import SHAPE, TINY, draw, labelled, raw, row, tiny


def label(name: str, mask: np.ndarray | None, origin: str = "file, image 1") -> HumanLabel:
    return HumanLabel(name, mask, origin)


def test_corrected_rows_become_human_and_others_stay(tmp_path: Path) -> None:
    tiny().save_to_disk(str(tmp_path / "before"))
    dataset = datasets.load_from_disk(str(tmp_path / "before"))
    new = {"p1": draw((5, 9)), "h1": draw((7, slice(11, 13)), (0, 0)), "n2": draw((19, 23)), "p2": None}
    result = import_human_labels(dataset, [label(*item) for item in new.items()])
    assert result.features == dataset.features and result["name"][:] == dataset["name"][:]
    for column in ("name", "image", "width", "height"):
        assert raw(result, column) == raw(dataset, column)
    untouched = [i for i, name in enumerate(dataset["name"]) if name not in new]
    for column in dataset.column_names:
        before, after = raw(dataset, column), raw(result, column)
        assert [before[i] for i in untouched] == [after[i] for i in untouched]
    for entry in result:
        if entry["name"] in new:
            mask = new[entry["name"]]
            mask = np.zeros(SHAPE, bool) if mask is None else mask
            assert entry["label_source"] == "human"
            assert set(np.unique(entry["mask"])) <= {0, 255} and entry["mask"].mode == "L"
            np.testing.assert_array_equal(training_mask(entry)[0], mask)
            assert entry["objects"] == objects_from_mask(mask)
            assert all(entry[column] is None for column in PSEUDO_FEATURES if column != "teacher")
            assert not entry["teacher"] or not any(entry["teacher"].values())
    assert import_human_labels(dataset, [label(*item) for item in new.items()])._fingerprint == result._fingerprint
    assert import_human_labels(dataset, [label("p1", draw((5, 8)))])._fingerprint != result._fingerprint


def test_all_problems_at_once_and_nothing_changed() -> None:
    labels = [
        label("p1", draw((1, 1)), "a.json, image 1"),
        label("missing", draw(), "a.json, image 2"),
        label("p2", draw(shape=(24, 20)), "a.json, image 3"),
        label("p1", draw((1, 1)), "a.json, image 4"),
    ]
    with pytest.raises(LabelFileError) as caught:
        import_human_labels(tiny(), labels)
    assert str(caught.value).splitlines() == [
        "nothing was imported, 3 labels can't be taken:",
        "  a.json, image 2: the data set has no frame 'missing'",
        "  a.json, image 3: 20 × 24 pixels, the frame has 24 × 20",
        "  a.json, image 4: 'p1' has a label already, from a.json, image 1",
    ]


def test_long_lists_of_problems_are_cut() -> None:
    with pytest.raises(LabelFileError, match="30 labels can't be taken") as caught:
        import_human_labels(tiny(), [label(f"x{i}", None) for i in range(30)])
    assert str(caught.value).endswith("and 10 more") and len(str(caught.value).splitlines()) == 22


def test_only_some_of_the_labels() -> None:
    labels = [label(name, mask) for name, mask in TINY.items()] + [label("elsewhere", None)]
    result = import_human_labels(tiny(), labels, only={"p1", "h2"})
    assert [n for n, s in zip(result["name"], result["label_source"], strict=True) if s == "human" and n[0] == "p"] == [
        "p1"
    ]
    with pytest.raises(LabelFileError, match="n1: no label for this frame"):
        import_human_labels(tiny(), labels, only={"p1", "n1"})
    with pytest.raises(LabelFileError, match="nope: the data set has no frame 'nope'"):
        import_human_labels(tiny(), labels, only={"p1", "nope"})


def test_no_label_or_no_columns() -> None:
    with pytest.raises(LabelFileError, match="there is no human's label"):
        import_human_labels(tiny(), [])
    with pytest.raises(ValueError, match=r"lacks the columns \['label_source'\]"):
        import_human_labels(tiny().remove_columns("label_source"), [label("p1", None)])


def test_a_prepared_set_without_pseudo_columns() -> None:
    prepared = labelled(row("a", None, "none"), row("b", draw((1, 1)), "human")).remove_columns(list(PSEUDO_FEATURES))
    result = import_human_labels(prepared, [label("a", draw((2, 2)))])
    assert result["label_source"][:] == ["human", "human"] and result.features == prepared.features


def test_a_review_of_the_label_before_goes_with_it() -> None:
    reviews = [{"decision": "reject", "by": name} for name in ("ada", "bob", "eve", "mia")]
    rows = labelled(*(row(name, None, "none") for name in "abcd")).add_column("review", reviews)
    result = import_human_labels(rows, [label("a", draw((2, 2)))])
    assert result["review"][:] == [None, *reviews[1:]]


@pytest.mark.parametrize("form", ["coco", "label studio"])
def test_folders_tell_two_files_of_one_name_apart(form: str, tmp_path: Path) -> None:
    """As a data set has them that was prepared from sub-folders, and by either slash."""
    rows = labelled(row("a_f0", draw(), "none"), row("b_f0", draw(), "none"), row("f1", draw(), "none"))
    drawn = {"a/f0.png": draw((1, 2)), "images\\b\\f0.PNG": draw((3, slice(4, 6))), "deep/er/f1.tif": draw((7, 7))}
    path = tmp_path / "labels.json"
    if form == "coco":
        images = [{"id": i, "file_name": name, "width": 24, "height": 20} for i, name in enumerate(drawn)]
        boxes = []
        for number, mask in enumerate(drawn.values()):
            ys, xs = np.nonzero(mask)
            x0, y0, x1, y1 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
            polygon = [[int(v) for v in (x0, y0, x1, y0, x1, y1, x0, y1)]]
            boxes.append({"id": number, "image_id": number, "category_id": 1, "segmentation": polygon})
        path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "t"}]}))
        labels = list(read_coco(path))
    else:
        empty = [{"id": 1, "result": []}]
        urls = [f"/data/local-files/?d={name}" for name in drawn]
        tasks = [{"id": i, "data": {"image": url}, "annotations": empty} for i, url in enumerate(urls)]
        path.write_text(json.dumps(tasks))
        labels, drawn = list(read_label_studio(path)), dict.fromkeys(drawn, draw())
    imported = import_human_labels(rows, labels, keep_in_memory=True)
    assert imported["name"][:] == ["a_f0", "b_f0", "f1"] and imported["label_source"][:] == ["human"] * 3
    for entry, mask in zip(imported, drawn.values(), strict=True):
        np.testing.assert_array_equal(np.asarray(entry["mask"]) > 0, mask)
    with pytest.raises(LabelFileError, match=r"'f1' has a label already"):  # none of two frames of the same name
        import_human_labels(rows, [HumanLabel(n, draw(), n) for n in ("x/f1", "y/f1")], keep_in_memory=True)


def test_a_name_loses_an_images_suffix_alone() -> None:
    assert named_by("clips/cam.2024-05-01_000003") == "clips/cam.2024-05-01_000003"
    assert named_by("cam.2024-05-01_000003.PNG") == "cam.2024-05-01_000003"


@pytest.mark.parametrize(
    ("box", "rows"),
    [((3, 3.5, 2, 1), [3, 4]), ((3, 2.5, 2, 1), [2, 3]), ((3, 1.2, 2, 0.5), [1]), ((3, 4, 2, 2), [4, 5])],
)
def test_every_pixel_that_an_ignored_box_touches_is_ignored(box: tuple[float, ...], rows: list[int]) -> None:
    assert sorted(set(np.nonzero(covered(box, (12, 12)))[0])) == rows
