"""
Loads data sets from a folder, a file or the Hub, which may be of unknown origin.

File names may not lead out of the data set's folder. An image's cell must contain the image's bytes: with a path it
could make this program read, export and publish any file of this machine. There are two exceptions: in folders of
images the paths are those found by `datasets` ([`visible_files`] warns of links that lead out of the folder), and data
sets made of files in Python have paths until `save_to_disk`, `to_parquet` or `push_to_hub` stores the bytes.
"""

import re
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from scalpel_hf.utils.files import safe_name
from scalpel_hf.utils.image_files import visible_files
from scalpel_hf.utils.reading import check_is_file, read_json

FOLDER_OF_IMAGES = "imagefolder"  # name of the builder of `datasets` for folders of images


def load_stored(name: str | Path) -> datasets.DatasetDict | datasets.Dataset:
    """
    Load a folder written by `save_to_disk`, or anything else that `load_dataset` loads.

    Raises `ValueError` if a file name leads out of the folder, if cells have paths instead of images, and if files are
    damaged.
    """
    path = Path(name)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _load_from_disk(path)
    is_parquet = path.suffix == ".parquet" and path.is_file()
    options = {"data_files": {"train": str(path)}} if is_parquet else {}
    try:
        loaded = datasets.load_dataset("parquet" if is_parquet else str(name), **options)
    except (datasets.exceptions.DatasetGenerationError, pa.ArrowException, KeyError, TypeError) as error:
        raise ValueError(f"{name} can't be loaded ({_describe(error.__cause__ or error)})") from error
    for part in _parts(loaded):
        if part.info.builder_name != FOLDER_OF_IMAGES:
            _check_cells(part, name)
    if path.is_dir() and any(part.info.builder_name == FOLDER_OF_IMAGES for part in _parts(loaded)):
        visible_files(path)  # warns of links
    return loaded


def split_name(rows: datasets.Dataset | datasets.IterableDataset) -> str:
    """Name of the split that rows are, or are a part of, by their `split`; `train` if it isn't set."""
    match = re.match(r"\w+(\.\w+)*", str(rows.split or ""))
    return match[0] if match else "train"


def as_splits(loaded: datasets.DatasetDict | datasets.Dataset) -> datasets.DatasetDict:
    """The data set as a `DatasetDict`; a `Dataset` becomes its only split, see [`split_name`]."""
    return loaded if isinstance(loaded, datasets.DatasetDict) else datasets.DatasetDict({split_name(loaded): loaded})


def stream_stored(name: str | Path, split: str) -> datasets.IterableDataset:
    """
    Stream a split by `load_dataset`.

    Raises `ValueError` if it has no such split or can't be streamed, as a folder of `save_to_disk` can't; and, in
    iterating, at a cell that has a path instead of an image.
    """
    try:
        stream = datasets.load_dataset(str(name), split=split, streaming=True)
    except ValueError as error:
        raise ValueError(
            f"the split {split!r} of {str(name)!r} can't be streamed ({error}): load it whole, without `--streaming`, "
            "or name another split"
        ) from error
    # Without features there is nothing to check: callers refuse such data sets.
    if stream.info.builder_name == FOLDER_OF_IMAGES or stream.features is None:
        if Path(name).is_dir():
            visible_files(Path(name))  # warns of links
        return stream

    def check(row: dict[str, Any]) -> dict[str, Any]:
        for column, cell in row.items():
            if _is_path(cell):
                raise ValueError(_path_message(column, name))
        return row

    return stream.decode(False).map(check, features=stream.features).decode(True)


def _parts(loaded: datasets.DatasetDict | datasets.Dataset) -> list[datasets.Dataset]:
    return list(loaded.values()) if isinstance(loaded, datasets.DatasetDict) else [loaded]


def _load_from_disk(folder: Path) -> datasets.DatasetDict | datasets.Dataset:
    """`load_from_disk`, with checks of the folder's files. Raises `ValueError` if they are damaged."""
    parts = [folder]
    if (folder / "dataset_dict.json").is_file():
        path = folder / "dataset_dict.json"
        splits = read_json(path).get("splits")
        if not isinstance(splits, list) or not splits:
            raise ValueError(f"{path} names no splits")
        parts = [folder / safe_name(split, f"{path}: the split") for split in splits]
    for part in parts:
        path = part / "state.json"
        if not path.is_file():
            raise ValueError(f"{folder} is damaged, or was not copied whole: there is no {path}; make or copy it again")
        files = read_json(path).get("_data_files")
        if not isinstance(files, list) or not all(isinstance(file, dict) for file in files):
            raise ValueError(f"{path} names no files")
        if not files:
            raise ValueError(f"there are no rows in {part}")
        for file in files:
            check_is_file(part / safe_name(file.get("filename"), f"{path}: the file"))
        check_is_file(part / "dataset_info.json")
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # `datasets` and Arrow raise many kinds for damaged files
        raise ValueError(
            f"{folder} is damaged, or isn't as `save_to_disk` writes a data set ({_describe(error)}): make it again"
        ) from error
    for dataset in _parts(loaded):
        _check_cells(dataset, folder)
    return loaded


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _check_cells(dataset: datasets.Dataset, name: str | Path) -> None:
    """Raise `ValueError` if a cell has a path instead of bytes."""
    for column in dataset.column_names:
        if any(_holds_path(chunk) for chunk in dataset.data.column(column).chunks):
            raise ValueError(_path_message(column, name))


def _holds_path(array: pa.Array) -> bool:
    """Whether a cell of an Arrow array, also a nested one, has a path and no bytes. The bytes are not read."""
    kind = array.type
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        if {"bytes", "path"} <= set(names):
            without = pc.and_(array.field("bytes").is_null(), array.field("path").is_valid())
            return bool(pc.any(pc.and_(array.is_valid(), without)).as_py())
        return any(_holds_path(array.field(name)) for name in names)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _holds_path(array.flatten())
    return False


def _is_path(cell: Any) -> bool:
    """Whether a cell of a streamed row, also a nested one, has a path and no bytes."""
    if isinstance(cell, dict):
        if {"bytes", "path"} <= cell.keys():
            return cell["bytes"] is None and cell["path"] is not None
        return any(map(_is_path, cell.values()))
    return isinstance(cell, list) and any(map(_is_path, cell))


def _path_message(column: str, name: str | Path) -> str:
    return (
        f"{name}: the column {column!r} has cells with a path instead of a file's content, and files at paths in a "
        "data set are not opened: if it is yours, load it with `datasets` in Python where its files are, and store it "
        "with `save_to_disk`, which copies them into it"
    )
