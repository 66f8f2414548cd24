from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from scalpel_hf.data import load_irst_dataset, read_mask
from scalpel_hf.data.objects import encode_png
from scalpel_hf.formats import LabelFileError, LossyExportWarning, read_masks, write_masks

from .small_sets import TINY, draw, labelled, masks, raw, row, tiny


def test_the_folder_is_one_that_prepare_reads(tmp_path: Path) -> None:
    dataset = tiny()
    assert write_masks(dataset, tmp_path / "out") == {"frames": 6, "targets": 7, "frames without label": 2}
    loaded = load_irst_dataset("generic", tmp_path / "out", split="train")
    stored = dict(zip(dataset["name"], raw(dataset, "image"), strict=True))
    assert sorted(loaded["name"]) == sorted(TINY)
    for entry, cell in zip(loaded, raw(loaded, "image"), strict=True):
        np.testing.assert_array_equal(np.asarray(entry["mask"]) > 0, TINY[entry["name"]])
        assert cell["bytes"] == stored[entry["name"]]["bytes"]
    for label in read_masks(tmp_path / "out" / "masks"):
        np.testing.assert_array_equal(label.mask, TINY[label.name])


@given(masks())
@settings(deadline=None)
def test_masks_round_trip(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(read_mask(encode_png(np.where(mask, np.uint8(255), np.uint8(0)))), mask * 255)


def test_ignored_pixels_are_a_named_warning(tmp_path: Path) -> None:
    with pytest.warns(LossyExportWarning, match=r"in the frames: p$"):
        write_masks(labelled(row("p", draw((3, 4)), "pseudo", ignored=draw((10, 10)))), tmp_path / "out")


def test_files_that_are_no_masks(tmp_path: Path) -> None:
    with pytest.raises(LabelFileError, match=r"no masks: .* has no images"):
        list(read_masks(tmp_path))
    (tmp_path / "a.png").write_bytes(encode_png(draw((1, 1)) * np.uint8(255))[:50])
    with pytest.raises(LabelFileError, match=r"a\.png: .*truncated"):
        list(read_masks(tmp_path))
    (tmp_path / "a.png").write_bytes(encode_png(draw((1, 1)) * np.uint8(3)))
    with pytest.raises(LabelFileError, match=r"is ambiguous \(a\.png: 0, 3\)"):
        list(read_masks(tmp_path))
