"""Formats that `datasets` loads without this package: imagefolder and parquet."""

from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from scalpel_hf.data.image_cells import image_columns
from scalpel_hf.data.parquet import write_parquet_file
from scalpel_hf.utils.files import safe_name, whole_folder

from .export_rows import AnyDataset, Frame, read_rows

# `datasets` takes folders for splits before it looks for "test" or "val" in the names of files.
SPLIT, METADATA = "train", "metadata.parquet"
ROWS = 256  # rows of the metadata that are written at a time


def write_imagefolder(dataset: AnyDataset, folder: str | Path) -> Counter[str]:
    """
    Write all rows and columns for `load_dataset("imagefolder", data_dir=folder)`.

    All is in the folder `train`: each image column is a folder of files, copied as they are, the other columns are in
    `metadata.parquet`; their types are the data set's, even where all rows lack a value. Memory does not grow with the
    number of frames.

    Returns how many `frames` were written, and how many of them are `frames without label`. Raises `ValueError` for a
    data set that can't be exported, see [`read_rows`], and otherwise as [`whole_folder`] does.
    """
    features = dict(dataset.features)
    images = image_columns(dataset.features)
    names = {column: "file_name" if column == "image" else f"{column}_file_name" for column in images}
    for column in images:
        if safe_name(column, "the column") == METADATA:
            raise ValueError(f"the column {column!r} can't be a folder beside the file of that name: rename it")
    text = datasets.Value("string")
    # `file_name` must be the first column: `imagefolder` assigns it to the first image column that it finds.
    stored = {names["image"]: text} | {names.get(c, c): text if c in names else f for c, f in features.items()}
    schema = datasets.Features(stored).arrow_schema
    counts, rows = Counter[str](), list[dict[str, Any]]()
    with whole_folder(folder) as whole, pq.ParquetWriter(_made(whole / SPLIT) / METADATA, schema) as writer:
        part = whole / SPLIT
        for column in images:
            (part / column).mkdir()
        for row, frame in read_rows(dataset):
            for column in images:
                row[names[column]] = _write_image(row.pop(column), part, column=column, frame=frame)
            rows.append(row)
            counts["frames"] += 1
            counts["frames without label"] += frame.mask is None and not frame.boxes
            if len(rows) == ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema))
    return counts


def write_parquet(dataset: AnyDataset, folder: str | Path) -> Counter[str]:
    """
    Write all rows and columns, with the images' files in them, as `data.parquet` for `load_dataset("parquet",
    data_files=…)`.

    Returns how many `frames` were written. Raises as [`whole_folder`] does.
    """
    with whole_folder(folder) as part:
        return Counter(frames=write_parquet_file(dataset, part / "data.parquet"))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _write_image(cell: dict[str, Any] | None, part: Path, column: str, frame: Frame) -> str | None:
    """Write the file in a cell of an image column; returns its path inside `part`, `None` for an empty cell."""
    if cell is None:
        return None
    place = f"{column}/{frame.file_name if column == 'image' else frame.name + '.png'}"
    (part / place).write_bytes(cell["bytes"])
    return place
