from pathlib import Path

import datasets
import pytest

from scalpel_hf.data.label_sources import as_objects
from scalpel_hf.formats import write_imagefolder, write_parquet

from .small_sets import draw, labelled, raw, row, tiny


def contents(dataset: datasets.Dataset) -> dict[str, list]:
    """Every column; of images the file's bytes, wherever they are kept."""

    def content(cell: dict | None) -> bytes | None:
        return cell and (Path(cell["path"]).read_bytes() if cell["bytes"] is None else cell["bytes"])

    columns = {column: raw(dataset, column) for column in dataset.column_names}
    images = [column for column, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    return columns | {column: [content(cell) for cell in columns[column]] for column in images}


def test_imagefolder(tmp_path: Path) -> None:
    dataset = tiny()
    assert write_imagefolder(dataset, tmp_path / "out") == {"frames": 8, "frames without label": 2}
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), split="train")
    assert contents(loaded) == contents(dataset)
    assert {c: type(f) for c, f in loaded.features.items()} == {c: type(f) for c, f in dataset.features.items()}
    streamed = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), split="train", streaming=True)
    assert [entry["name"] for entry in streamed] == dataset["name"][:]


def test_frames_that_are_called_like_splits(tmp_path: Path) -> None:
    names = ["seq_0001", "test_0001", "val-2", "train"]
    dataset = labelled(*[row(name, draw((3, 4)), "human") for name in names])
    write_imagefolder(dataset, tmp_path / "out")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"))
    assert list(loaded) == ["train"] and contents(loaded["train"]) == contents(dataset)


def test_imagefolder_with_the_mask_before_the_image(tmp_path: Path) -> None:
    dataset = tiny()
    dataset = dataset.select_columns(
        ["mask", "image", *(c for c in dataset.column_names if c not in ("mask", "image"))]
    )
    write_imagefolder(dataset, tmp_path / "out")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), split="train")
    assert contents(loaded) == contents(dataset)


def test_imagefolder_whose_first_rows_lack_a_mask(tmp_path: Path) -> None:
    rows = [row(f"n{i}", None, "none") for i in range(300)] + [row("h", draw((3, 4)), "human")]
    dataset = labelled(*rows)
    write_imagefolder(dataset, tmp_path / "out")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), split="train")
    assert contents(loaded) == contents(dataset)


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet(tmp_path: Path, streaming: bool) -> None:
    dataset = tiny()
    source = dataset.to_iterable_dataset() if streaming else dataset
    assert write_parquet(source, tmp_path / "out") == {"frames": 8}
    loaded = datasets.load_dataset("parquet", data_files=str(tmp_path / "out" / "data.parquet"), split="train")
    assert contents(loaded) == contents(dataset) and loaded.features == dataset.features


def test_boxes_are_labels_of_an_imagefolder(tmp_path: Path) -> None:
    boxes = {**row("b", None, "box"), "objects": as_objects([[1, 1, 2, 2]])}
    assert write_imagefolder(labelled(boxes, row("u", None, "none")), tmp_path / "out")["frames without label"] == 1
