import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scalpel_hf import formats
from scalpel_hf.formats.export_rows import read_frames

from .small_sets import SHAPE, TINY, draw, labelled, row, tiny

WRITERS = [getattr(formats, name) for name in formats.__all__ if name.startswith("write_")]
FOR_TRAINING = [formats.write_coco, formats.write_masks, formats.write_voc, formats.write_yolo_detection]

writers = pytest.mark.parametrize("write", WRITERS)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@writers
@pytest.mark.filterwarnings("ignore::scalpel_hf.formats.LossyExportWarning")
def test_streamed_rows_give_the_same_files(write: Callable[..., Any], tmp_path: Path) -> None:
    assert write(tiny(), tmp_path / "a") == write(tiny().to_iterable_dataset(), tmp_path / "b")
    streamed, whole = tree(tmp_path / "b"), tree(tmp_path / "a")
    assert streamed.keys() == whole.keys()
    assert all(streamed[name] == whole[name] for name in whole if not name.endswith(".parquet"))


@writers
def test_what_is_there_is_left_alone(write: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="out exists: choose another folder"):
        write(tiny(), tmp_path / "out")
    assert tree(tmp_path) == {"out/thesis.tex": b"mine"}


@writers
@pytest.mark.filterwarnings("ignore::scalpel_hf.formats.LossyExportWarning")
def test_a_full_disk_leaves_nothing(write: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"no room for \S*/out: it needs"):
        write(tiny(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", FOR_TRAINING)
def test_no_label_at_all(write: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no frame has a label to export"):
        write(labelled(row("n", None, "none")), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", FOR_TRAINING)
@pytest.mark.parametrize(("kind", "suffix"), [("PNG", ".png"), ("TIFF", ".tif"), ("TIFF", "")])
def test_sixteen_bit_files_are_copied(write: Callable[..., Any], tmp_path: Path, kind: str, suffix: str) -> None:
    frame = np.linspace(13000, 15000, SHAPE[0] * SHAPE[1]).astype(np.uint16).reshape(SHAPE)
    Image.fromarray(frame).save(tmp_path / "f", kind)
    content = (tmp_path / "f").read_bytes()
    write(labelled(row("deep", draw((3, 4)), "human", content, suffix)), tmp_path / "out")
    (copy,) = (
        (tmp_path / "out").rglob(f"*/deep{suffix or '.tif'}")
        if suffix != ".png"
        else [path for path in (tmp_path / "out").rglob("deep.png") if path.parent.name in ("images", "JPEGImages")]
    )
    assert copy.read_bytes() == content
    np.testing.assert_array_equal(np.asarray(Image.open(copy)), frame)


def test_the_labels_that_count() -> None:
    both = row("h", draw((3, 4)), "human") | {
        key: value for key, value in row("h", draw((9, 9)), "pseudo").items() if key.startswith(("pseudo", "teacher"))
    }
    ignored = row("p", draw((3, 4)), "pseudo", ignored=draw((0, 0)))
    human, pseudo, none = read_frames(labelled(both, ignored, row("n", None, "none")))
    np.testing.assert_array_equal(human.mask, draw((3, 4)))
    assert [target.score for target in human.targets()] == [None] and human.teacher is None and not human.ignored.any()
    assert [target.score for target in pseudo.targets()] == [pytest.approx(0.9)]
    np.testing.assert_array_equal(pseudo.ignored, draw((0, 0)))
    assert none.mask is None


def test_targets_of_a_frame() -> None:
    for frame in read_frames(tiny()):
        if frame.mask is not None:
            targets = list(frame.targets())
            union = sum((target.mask(SHAPE) for target in targets), np.zeros(SHAPE, bool))
            np.testing.assert_array_equal(union, TINY[frame.name])
            assert sum(target.area for target in targets) == TINY[frame.name].sum()


def test_a_data_set_without_sources_is_a_humans() -> None:
    dataset = labelled(row("h", draw((3, 4)), "human")).remove_columns("label_source")
    assert next(read_frames(dataset)).label_source == "human"


@pytest.mark.parametrize("name", ["a/b", "a\\b", "..", ".", "", "a\0"])
def test_names_that_are_no_files(name: str) -> None:
    with pytest.raises(ValueError, match="can't be a file's"):
        list(read_frames(labelled(row("x", None, "none") | {"name": name})))


def test_rows_that_cannot_be_exported() -> None:
    twice = labelled(row("a", None, "none"), row("a", None, "none"))
    with pytest.raises(ValueError, match="two rows are called 'a'"):
        list(read_frames(twice))
    with pytest.raises(ValueError, match="a: the frame has 25 × 20 pixels, its mask 24 × 20"):
        list(read_frames(labelled(row("a", draw(), "human") | {"width": 25})))
    with pytest.raises(ValueError, match=r"lacks the columns \['width'\]"):
        list(read_frames(twice.remove_columns("width")))
    buffer = io.BytesIO()
    Image.fromarray(draw()).save(buffer, "PCX")
    for content in (buffer.getvalue(), b"no image"):
        with pytest.raises(ValueError, match="a: its image is no file of the kinds PNG"):
            list(read_frames(labelled(row("a", None, "none", content, ""))))


@writers
@pytest.mark.filterwarnings("ignore::scalpel_hf.formats.LossyExportWarning")
def test_rows_are_taken_one_at_a_time(write: Callable[..., Any], tmp_path: Path) -> None:
    """No more than a batch of rows is alive at once: the source counts those that it gave and that still exist."""
    if write is formats.write_parquet:
        pytest.skip("holds 64 rows at a time")
    alive = most = 0

    class Counted(bytes):
        def __new__(cls, content: bytes) -> "Counted":
            nonlocal alive, most
            alive += 1
            most = max(most, alive)
            return super().__new__(cls, content)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    class Source:
        features, column_names = tiny().features, tiny().column_names

        def cast_column(self, *_: Any) -> "Source":
            return self

        def __iter__(self):
            for i in range(40):
                cells = row(f"r{i}", draw((3, 4)), "pseudo")
                yield cells | {"image": {"bytes": Counted(cells["image"]["bytes"]), "path": "x.png"}}

    write(Source(), tmp_path / "out")
    assert alive == 0 and most <= 3
