"""Writes data sets as parquet files that contain their images."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from .image_cells import image_columns, stored_cell, undecoded

ROWS = 64  # rows in memory, which are written together


def write_parquet_file(dataset: datasets.Dataset | datasets.IterableDataset, path: str | Path) -> int:
    """
    Write a data set to a parquet file, with each image as a [`stored_cell`].

    `load_dataset("parquet", data_files=…)` reads it. Memory does not grow with the number of rows. Returns their
    number. Raises `OSError` or `ValueError`, which names the row, if an image's file can't be read.
    """
    features = datasets.Features(dataset.features)
    count = 0
    with pq.ParquetWriter(str(path), features.arrow_schema) as writer:
        for rows in _batches(undecoded(dataset)):
            for row in rows:
                _store_images(row, features, count)
                count += 1
            writer.write_table(pa.Table.from_pylist([features.encode_example(row) for row in rows], writer.schema))
    return count


def _batches(rows: Iterable[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    """Lists of up to `ROWS` rows."""
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == ROWS:
            yield batch
            batch = []
    yield batch


def _store_images(row: dict[str, Any], features: datasets.Features, number: int) -> None:
    """Replace a row's images by [`stored_cell`]s. Errors name the row."""
    for column in image_columns(features):
        if row[column] is not None:
            try:
                row[column] = stored_cell(row[column])
            except (OSError, ValueError) as error:
                raise type(error)(f"{column} of {row.get('name', f'row {number}')}: {error}") from error
