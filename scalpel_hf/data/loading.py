"""Loads folders of frames and masks, or data sets on the Hub, as a `DatasetDict` with the same features for all."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np
from datasets import Dataset, DatasetDict, Image, concatenate_datasets

from scalpel_hf.modeling.frame_io import read_frame

from .label_sources import BOX, HUMAN, POINT, as_objects, inside_frame
from .layouts import LAYOUTS, Layout, Pair, SplitFiles, find_pairs
from .masks import MaskValues, decide_mask_values
from .names import check_names
from .rows import FEATURES, BrokenPairsError, Row, make_row, read_rows, rows_to_dataset, without_broken
from .stored import as_splits, load_stored


@overload
def load_irst_dataset(
    name_or_layout: str | Layout,
    root: str | Path,
    split: None = None,
    split_list: str | SplitFiles | None = None,
    skip_broken: bool = False,
    mask_grid: str | None = None,
    mask_values: MaskValues | None = None,
    say: Callable[[str], object] | None = None,
) -> DatasetDict: ...


@overload
def load_irst_dataset(
    name_or_layout: str | Layout,
    root: str | Path,
    split: str,
    split_list: str | SplitFiles | None = None,
    skip_broken: bool = False,
    mask_grid: str | None = None,
    mask_values: MaskValues | None = None,
    say: Callable[[str], object] | None = None,
) -> Dataset: ...


def load_irst_dataset(
    name_or_layout: str | Layout,
    root: str | Path,
    split: str | None = None,
    split_list: str | SplitFiles | None = None,
    skip_broken: bool = False,
    mask_grid: str | None = None,
    mask_values: MaskValues | None = None,
    say: Callable[[str], object] | None = None,
) -> DatasetDict | Dataset:
    """
    Load an infrared small-target data set.

    Each row has

    - `name`;
    - `image`, the original file byte for byte, so with its 16-bit values; only a file with an orientation is encoded
      again, see [`stored_cell`];
    - `mask`: 0 background, 255 target, 73 neither, see [`read_mask`];
    - `objects`: `bbox` as COCO's `[x, y, width, height]` in pixels, `area` and `category`, see [`objects_from_mask`];
    - `width` and `height` in pixels.

    The data set contains the files' content, so that it can be saved, pushed and moved.

    Args:
        name_or_layout (`str` or `Layout`):
            `"nuaa-sirst"`, `"nudt-sirst"`, `"irstd-1k"`, `"sirst-v2"`, `"generic"` (folders `images/` and `masks/`), a
            [`Layout`] for other folders, or `"hub"`.
        root (`str` or `Path`):
            The data set's folder. For `"hub"` a repository's name, a parquet file or folder, or a folder written by
            `save_to_disk`; see [`as_irst_dataset`] for what its columns must be.
        split (`str`, *optional*):
            Load only this split, as a `Dataset`.
        split_list (`str` or `dict`, *optional*):
            Name of a split list of the layout, such as `"official-427"`, `"official-427-val"` (with val as validation
            instead of a part of train), `"official-320"` or `"dnanet-50-50"` of NUAA-SIRST; or the list file of each
            split. Default: the layout's first list.
        skip_broken (`bool`, defaults to `False`):
            Leave out broken pairs, with a warning that names them, instead of raising an error.
        mask_grid (`str`, *optional*):
            For frames whose file has an orientation (EXIF or TIFF): whether masks match the frame as viewers show it
            (`"shown"`) or as it is stored (`"stored"`). Only needed if the size matches both.
        mask_values (`MaskValues`, *optional*):
            Meaning of the masks' values. Default: that of the layout, or else decided from the masks of all loaded
            splits, see [`decide_mask_values`].
        say (`Callable[[str], object]`, *optional*):
            Called with a message about the meaning of the masks' values. Default: warn if the values are unusual.

    Raises:
        `MaskValuesError`: if the meaning of the masks' values is ambiguous.
        `BrokenPairsError`: if a mask is missing or has another size, a name has no frame, or a file can't be read. No
            image is ever resized.
        `FileNotFoundError`: if a folder or list is missing.
        `ValueError`: if a layout, split or split list is unknown, or lists overlap.
    """
    if name_or_layout == "hub":
        if split_list is not None:
            raise ValueError("`split_list` is for folders: a data set on the Hub has its own splits")
        loaded = _load_hub(root)
        _check_split(split, loaded)
        wanted = {key: part for key, part in loaded.items() if split in (None, key)}
        result = _as_irst_datasets(wanted, skip_broken=skip_broken, mask_grid=mask_grid, stated=mask_values, say=say)
        return DatasetDict(result) if split is None else result[split]
    if isinstance(name_or_layout, str) and name_or_layout not in LAYOUTS:
        raise ValueError(f"no layout {name_or_layout!r}: {', '.join(LAYOUTS)}, hub, or a `Layout` of your own")
    layout = LAYOUTS[name_or_layout] if isinstance(name_or_layout, str) else name_or_layout
    pairs = find_pairs(layout, root, split_list)
    _check_split(split, pairs)
    wanted_pairs = [(key, pair) for key in pairs for pair in pairs[key] if split in (None, key)]
    masks = [(f"{pair.name} ({key})", partial(_mask_file, pair)) for key, pair in wanted_pairs]
    values = decide_mask_values(masks, mask_values or layout.mask_values, say=say)
    rows = read_rows(lambda pair: _row_of_pair(pair, mask_grid, values), [pair for _, pair in wanted_pairs])
    kept = without_broken(rows, [f"{pair.name} ({key})" for key, pair in wanted_pairs], skip_broken, where=f"in {root}")
    by_split: dict[str, list[Row]] = {key: [] for key, _ in wanted_pairs}
    for index in kept:
        by_split[wanted_pairs[index][0]].append(rows[index])  # type: ignore[arg-type]
    if empty := [key for key, split_rows in by_split.items() if not split_rows]:
        raise BrokenPairsError(f"no usable pair is left in {', '.join(empty)} of {root}")
    parts = {key: rows_to_dataset(split_rows, key) for key, split_rows in by_split.items()}
    return DatasetDict(parts) if split is None else parts[split]


def as_irst_dataset(
    dataset: Dataset,
    skip_broken: bool = False,
    mask_grid: str | None = None,
    mask_values: MaskValues | None = None,
    say: Callable[[str], object] | None = None,
) -> Dataset:
    """
    Convert any data set of frames and masks to the features of [`load_irst_dataset`].

    The columns `image` and `mask` are required: images, or paths or bytes of files. Without a column `name`, rows are
    named by their number with six digits. Masks are converted to 0, 255 and 73 (neither); `objects`, `width` and
    `height` are computed; further columns stay. A data set that has all this already is returned unchanged. A mask may
    be missing if the row's `label_source` isn't `human`.

    Args:
        dataset (`Dataset`): rows of frames and masks.
        skip_broken (`bool`, defaults to `False`): as in [`load_irst_dataset`], like the following arguments.
        mask_grid (`str`, *optional*): likewise.
        mask_values (`MaskValues`, *optional*): likewise.
        say (`Callable[[str], object]`, *optional*): likewise.

    Raises:
        `ValueError`: if a column is missing or of another kind, or a name occurs twice.
        `BrokenPairsError`: as `load_irst_dataset` does.
    """
    where = "the data set"
    result = _as_irst_datasets(
        {where: dataset}, skip_broken=skip_broken, mask_grid=mask_grid, stated=mask_values, say=say
    )
    return result[where]


def _as_irst_datasets(
    parts: Mapping[str, Dataset],
    skip_broken: bool,
    mask_grid: str | None,
    stated: MaskValues | None,
    say: Callable[[str], object] | None,
) -> dict[str, Dataset]:
    """Apply [`as_irst_dataset`] to each split, with one meaning of the masks' values for all splits."""
    raw = {key: _checked_columns(part, key) for key, part in parts.items()}
    masks = [(f"row {i} ({key})", partial(_mask_cell, rows, i)) for key, rows in raw.items() for i in range(len(rows))]
    prepared = all(column in part.column_names for part in parts.values() for column in FEATURES)
    values = decide_mask_values(masks, stated=stated, prepared=prepared, say=say)
    return {
        key: _as_irst_dataset(part, raw[key], where=key, skip_broken=skip_broken, mask_grid=mask_grid, values=values)
        for key, part in parts.items()
    }


def _checked_columns(dataset: Dataset, where: str) -> Dataset:
    """The data set with undecoded `image` and `mask`. Raises `ValueError` if columns, rows or names are wrong."""
    for column in ("image", "mask"):
        feature = dataset.features.get(column)
        if not isinstance(feature, Image) and getattr(feature, "dtype", None) not in ("string", "binary"):
            raise ValueError(
                f"the column {column!r} must hold images, here it is {feature}; the columns are "
                f"{', '.join(dataset.column_names)}: use `rename_column` or `cast_column` and `as_irst_dataset`. (A "
                "folder of images beside a folder of masks is the layout `generic`.)"
            )
    if not len(dataset):
        raise ValueError(f"there are no rows in {where}")
    if "name" in dataset.column_names:
        check_names(dataset["name"][:], where)
    return dataset.cast_column("image", Image(decode=False)).cast_column("mask", Image(decode=False))


def _as_irst_dataset(
    dataset: Dataset, raw: Dataset, where: str, skip_broken: bool, mask_grid: str | None, values: MaskValues
) -> Dataset:
    """[`as_irst_dataset`] for one split, with `raw`, the split with undecoded images."""
    names = dataset["name"][:] if "name" in dataset.column_names else [f"{i:06d}" for i in range(len(dataset))]
    sources = dataset["label_source"][:] if "label_source" in dataset.column_names else [HUMAN] * len(dataset)

    def row(index: int) -> Row:
        cells = raw[index]
        if cells["mask"] is None and sources[index] == HUMAN:
            raise ValueError("the mask is empty, and no column `label_source` says that it should be")
        if cells["image"] is None:
            raise ValueError("the image is empty")
        made = make_row(names[index], image=cells["image"], mask=cells["mask"], mask_grid=mask_grid, values=values)
        return made | {"objects": _weak_objects(cells, made)} if sources[index] in (BOX, POINT) else made

    if all(dataset.features.get(column) == feature for column, feature in FEATURES.items()):
        checks = read_rows(lambda index: {"same": _is_same(raw[index], row(index))}, range(len(dataset)))
        if all(not isinstance(check, str) and check["same"] for check in checks):
            return dataset
    rows = read_rows(row, range(len(dataset)))
    kept = without_broken(rows, names, skip_broken, where=f"in {where}")
    if not kept:
        raise BrokenPairsError(f"no usable pair is left in {where}")
    rest = dataset.remove_columns([column for column in dataset.column_names if column in FEATURES])
    result = rows_to_dataset([rows[index] for index in kept], dataset.split)  # type: ignore[misc]
    return concatenate_datasets([result, rest.select(kept)], axis=1) if rest.column_names else result


def _is_same(stored: Row, made: Row) -> bool:
    """Whether a stored row equals the row that is made of its files."""
    columns = ("name", "objects", "width", "height")
    if any(stored[column] != made[column] for column in columns) or stored["image"]["bytes"] != made["image"]["bytes"]:
        return False
    return made["mask"] is None or np.array_equal(read_frame(stored["mask"]), read_frame(made["mask"]))


def _mask_cell(raw: Dataset, index: int) -> Row | None:
    return raw.select_columns("mask")[index]["mask"]


def _weak_objects(cells: Row, made: Row) -> Row:
    """The checked boxes and points of a row. Raises `ValueError` if it has none, or a mask."""
    boxes = (cells.get("objects") or {}).get("bbox")
    if not boxes or cells["mask"] is not None:
        raise ValueError(f"`label_source` is {cells['label_source']!r}, which takes `objects` and no mask")
    return as_objects([inside_frame(box, made["width"], made["height"]) for box in boxes])


def _load_hub(source: str | Path) -> DatasetDict:
    """Load the layout `hub`. Raises `ValueError` if it can't be loaded, or its columns hold paths instead of images."""
    path = Path(source)
    if path.is_file() and path.suffix != ".parquet":
        raise ValueError(f"{source} is neither a parquet file (*.parquet) nor a folder nor a repository on the Hub")
    try:
        loaded = load_stored(source)
    except OSError as error:
        raise ValueError(
            f"{str(source)!r} is neither a folder nor a data set that can be loaded from the Hub: {error}"
        ) from error
    splits = as_splits(loaded)
    for column in ("image", "mask"):
        if any(getattr(part.features.get(column), "dtype", None) == "string" for part in splits.values()):
            raise ValueError(
                f"{source}: the column {column!r} holds text, and files at paths in a data set are not opened: if "
                "they are yours, load it with `datasets` in Python where they are, and pass it to `as_irst_dataset`"
            )
    return splits


def _check_split(split: str | None, splits: Iterable[str]) -> None:
    if split is not None and split not in splits:
        raise ValueError(f"no split {split!r}, there are {', '.join(splits)}; see `split_list` for others")


def _mask_file(pair: Pair) -> Path | None:
    return pair.mask


def _row_of_pair(pair: Pair, mask_grid: str | None, values: MaskValues) -> Row:
    """The row of a frame's and a mask's files. Raises `ValueError` with the pair's problem, if it has one."""
    if pair.problem or pair.image is None or pair.mask is None:
        raise ValueError(pair.problem)
    image, mask = ({"bytes": None, "path": str(path)} for path in (pair.image, pair.mask))
    return make_row(pair.name, image=image, mask=mask, mask_grid=mask_grid, values=values)
