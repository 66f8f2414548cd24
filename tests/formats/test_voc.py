from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

from scalpel_hf.data import objects_from_mask
from scalpel_hf.formats import LossyExportWarning, write_voc
from scalpel_hf.formats.voc import _annotation, _numbers

from .small_sets import TINY, draw, human_frame, labelled, masks, raw, row, tiny


def test_boxes_and_masks(tmp_path: Path) -> None:
    dataset, out = tiny(), tmp_path / "out"
    assert write_voc(dataset, out) == {"frames": 6, "targets": 7, "frames without label": 2}
    for name in ("Main", "Segmentation"):
        assert (out / "ImageSets" / name / "trainval.txt").read_text().split() == list(TINY)
    stored = {n: cell["bytes"] for n, cell in zip(dataset["name"], raw(dataset, "image"), strict=True)}
    for name, mask in TINY.items():
        root = ElementTree.parse(out / "Annotations" / f"{name}.xml").getroot()
        assert [root.findtext(f"size/{side}") for side in ("width", "height", "depth")] == ["24", "20", "1"]
        assert (out / "JPEGImages" / root.findtext("filename")).read_bytes() == stored[name]
        boxes = []
        for entry in root.iter("bndbox"):
            left, top, right, bottom = (int(entry.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax"))
            boxes.append([left - 1, top - 1, right - left + 1, bottom - top + 1])
            assert 1 <= left <= right <= 24 and 1 <= top <= bottom <= 20
        assert boxes == objects_from_mask(mask)["bbox"]
        classes, objects = (Image.open(out / f / f"{name}.png") for f in ("SegmentationClass", "SegmentationObject"))
        assert classes.mode == objects.mode == "P"
        np.testing.assert_array_equal(np.asarray(classes), mask)
        np.testing.assert_array_equal(np.asarray(objects) > 0, mask)
        for number, (x, y, width, height) in enumerate(boxes, 1):
            rows, columns = np.nonzero(np.asarray(objects) == number)
            assert [columns.min(), rows.min()] == [x, y] and [np.ptp(columns) + 1, np.ptp(rows) + 1] == [width, height]


@given(masks())
@settings(deadline=None)
def test_boxes_and_numbers_round_trip(mask: np.ndarray) -> None:
    frame = human_frame(mask)
    targets = list(frame.targets())
    back = []
    for box in _annotation(frame, targets).iter("bndbox"):
        left, top, right, bottom = (int(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax"))
        back.append([left - 1, top - 1, right - left + 1, bottom - top + 1])
    assert back == objects_from_mask(mask)["bbox"]
    numbers = _numbers(frame, targets)
    np.testing.assert_array_equal(numbers > 0, mask)
    assert np.bincount(numbers.ravel(), minlength=len(targets) + 1)[1:].tolist() == objects_from_mask(mask)["area"]


def test_the_palette_is_vocs(tmp_path: Path) -> None:
    write_voc(labelled(row("a", draw((3, 3)), "human")), tmp_path / "out")
    image = Image.open(tmp_path / "out" / "SegmentationClass" / "a.png")
    colours = np.reshape(image.getpalette(), (-1, 3))
    for index, colour in ((0, (0, 0, 0)), (1, (128, 0, 0)), (2, (0, 128, 0)), (15, (192, 128, 128))):
        assert tuple(colours[index]) == colour
    assert tuple(colours[255]) == (224, 224, 192)


def test_ignored_pixels_are_void(tmp_path: Path) -> None:
    mask, ignored = draw((3, 4)), draw((10, slice(5, 9)))
    write_voc(labelled(row("p", mask, "pseudo", ignored=ignored)), tmp_path / "out")
    classes = np.asarray(Image.open(tmp_path / "out" / "SegmentationClass" / "p.png"))
    np.testing.assert_array_equal(classes, np.where(ignored, 255, mask))


def test_more_targets_than_eight_bits_hold(tmp_path: Path) -> None:
    mask = np.zeros((40, 40), bool)
    mask[::2, ::2] = True
    with pytest.warns(LossyExportWarning, match=r"at most 254 targets, left out for: stars \(400\)"):
        write_voc(labelled(row("stars", mask, "human"), row("a", draw((0, 0)), "human")), tmp_path / "out")
    assert [path.stem for path in (tmp_path / "out" / "SegmentationObject").iterdir()] == ["a"]
    assert len(list(ElementTree.parse(tmp_path / "out" / "Annotations" / "stars.xml").iter("object"))) == 400
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "SegmentationClass" / "stars.png")), mask)
