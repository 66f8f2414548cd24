"""From folders of frames and masks, or a data set on the Hub, to a `DatasetDict` with one set of features."""

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

    Each row has `name`, `image` (the original file, byte for byte, so that 16-bit values survive; only a file that asks
    to be turned is stored anew, turned, see [`stored_cell`]), `mask` (0 and 255, and 73 for what is neither target nor
    background, see [`read_mask`]),
    `objects` (`bbox` in COCO's `[x, y, width, height]` in pixels, `area`, `category`, see [`objects_from_mask`]),
    `width` and `height`. The files' content is in the data set itself, which can be saved or pushed and moved.

    Args:
        name_or_layout (`str` or `Layout`):
            `"nuaa-sirst"`, `"nudt-sirst"`, `"irstd-1k"`, `"sirst-v2"`, `"generic"` (folders `images/` and `masks/`), a
            [`Layout`] for other folders, or `"hub"`.
        root (`str` or `Path`):
            The data set's folder. For `"hub"` a repository's name, a parquet file or folder, or a folder written by
            `save_to_disk`; see [`as_irst_dataset`] for what its columns must be.
        split (`str`, *optional*):
            Load this split alone, as a `Dataset`.
        split_list (`str` or `dict`, *optional*):
            A split list by its name in the layout, such as `"official-427"`, `"official-427-val"` (with val apart from
            train), `"official-320"` or `"dnanet-50-50"` of NUAA-SIRST; or the list file of each split. Default: the
            layout's first.
        skip_broken (`bool`, defaults to `False`):
            Leave broken pairs out with a warning that names them.
        mask_grid (`str`, *optional*):
            For frames whose file has an orientation (EXIF or TIFF): whether masks fit the frame as viewers show it
            (`"shown"`) or as it is stored (`"stored"`). Only needed if both fit by their size.
        mask_values (`MaskValues`, *optional*):
            Meaning of the masks' values. Default: that of the layout, or else decided from the masks of all loaded
            splits, see [`decide_mask_values`].
        say (`Callable[[str], object]`, *optional*):
            Called with a message about the meaning of the masks' values; by default a warning, for unusual values.

    Raises:
        `MaskValuesError`: if the meaning of the masks' values is ambiguous.
        `BrokenPairsError`: for a frame without a mask, a mask of another size, a name without a frame, an unreadable
            file. Nothing is ever resized.
        `FileNotFoundError`, `ValueError`: for missing folders or lists, unknown names, lists that overlap.
    """
    if name_or_layout == "hub":
        if split_list is not None:
            raise ValueError("`split_list` is for folders: a data set on the Hub has its own splits")
        loaded = _load_hub(root)
        _check_split(split, loaded)
        wanted = {key: part for key, part in loaded.items() if split in (None, key)}
        result = _as_irst_datasets(wanted, skip_broken, mask_grid, mask_values, say)
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
    Give any data set of frames and masks the features of [`load_irst_dataset`].

    Needed are the columns `image` and `mask` (images, or paths or bytes of files). `name` defaults to the row number
    of six digits; masks become 0/255 (73 for what is neither), `objects`, `width` and `height` are computed; further
    columns stay. A data set that has these features, and rows that are as they should be, is returned as it is. A row
    may lack its mask where `label_source` says so.

    Args: as of [`load_irst_dataset`].

    Raises:
        `ValueError`: if a column is missing or of another kind, or a name occurs twice.
        `BrokenPairsError`: as `load_irst_dataset` does.
    """
    return _as_irst_datasets({"the data set": dataset}, skip_broken, mask_grid, mask_values, say)["the data set"]


def _as_irst_datasets(
    parts: Mapping[str, Dataset],
    skip_broken: bool,
    mask_grid: str | None,
    stated: MaskValues | None,
    say: Callable[[str], object] | None,
) -> dict[str, Dataset]:
    """Each split by [`as_irst_dataset`], what their masks' values mean being decided for all of them together."""
    raw = {key: _checked_columns(part, key) for key, part in parts.items()}
    masks = [(f"row {i} ({key})", partial(_mask_cell, rows, i)) for key, rows in raw.items() for i in range(len(rows))]
    prepared = all(column in part.column_names for part in parts.values() for column in FEATURES)
    values = decide_mask_values(masks, stated, prepared, say)
    return {key: _as_irst_dataset(part, raw[key], key, skip_broken, mask_grid, values) for key, part in parts.items()}


def _checked_columns(dataset: Dataset, where: str) -> Dataset:
    """A data set of which `image` and `mask` are files, not decoded."""
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
    names = dataset["name"][:] if "name" in dataset.column_names else [f"{i:06d}" for i in range(len(dataset))]
    sources = dataset["label_source"][:] if "label_source" in dataset.column_names else [HUMAN] * len(dataset)

    def row(index: int) -> Row:
        cells = raw[index]
        if cells["mask"] is None and sources[index] == HUMAN:
            raise ValueError("the mask is empty, and no column `label_source` says that it should be")
        if cells["image"] is None:
            raise ValueError("the image is empty")
        made = make_row(names[index], cells["image"], cells["mask"], mask_grid, values)
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
    """Whether a stored row says what is made of its files, so that it needn't be stored again."""
    said = ("name", "objects", "width", "height")
    if any(stored[column] != made[column] for column in said) or stored["image"]["bytes"] != made["image"]["bytes"]:
        return False
    return made["mask"] is None or np.array_equal(read_frame(stored["mask"]), read_frame(made["mask"]))


def _mask_cell(raw: Dataset, index: int) -> Row | None:
    return raw.select_columns("mask")[index]["mask"]


def _weak_objects(cells: Row, made: Row) -> Row:
    """The boxes and points of a row that holds no mask."""
    boxes = (cells.get("objects") or {}).get("bbox")
    if not boxes or cells["mask"] is not None:
        raise ValueError(f"`label_source` is {cells['label_source']!r}, which takes `objects` and no mask")
    return as_objects([inside_frame(box, made["width"], made["height"]) for box in boxes])


def _load_hub(source: str | Path) -> DatasetDict:
    path = Path(source)
    if path.is_file() and path.suffix != ".parquet":
        raise ValueError(f"{source} is no parquet file (*.parquet), nor a folder or a repository on the Hub")
    try:
        loaded = load_stored(source)
    except OSError as error:
        raise ValueError(f"{str(source)!r} is neither a folder nor a data set that the Hub gives: {error}") from error
    splits = as_splits(loaded)
    for column in ("image", "mask"):
        if any(getattr(part.features.get(column), "dtype", None) == "string" for part in splits.values()):
            raise ValueError(
                f"{source}: the column {column!r} holds text, and a path in a data set is not followed: if these are "
                "your files, load it with `datasets` in Python where they are, and give it to `as_irst_dataset`"
            )
    return splits


def _check_split(split: str | None, splits: Iterable[str]) -> None:
    if split is not None and split not in splits:
        raise ValueError(f"no split {split!r}, there are {', '.join(splits)}; see `split_list` for others")


def _mask_file(pair: Pair) -> Path | None:
    return pair.mask


def _row_of_pair(pair: Pair, mask_grid: str | None, values: MaskValues) -> Row:
    if pair.problem or pair.image is None or pair.mask is None:
        raise ValueError(pair.problem)
    image, mask = ({"bytes": None, "path": str(path)} for path in (pair.image, pair.mask))
    return make_row(pair.name, image, mask, mask_grid, values)
