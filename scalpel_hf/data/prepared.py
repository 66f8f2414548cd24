"""Loads data sets made by this library's commands, and selects rows by the kind of their labels."""

from collections.abc import Collection
from pathlib import Path

import datasets

from .label_sources import BY_PEOPLE, HUMAN
from .names import check_names
from .stored import as_splits, load_stored


def check_is_one_split(dataset: object) -> None:
    """Raise `ValueError` with the remedy for several splits."""
    if isinstance(dataset, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise ValueError(f"these are the splits {', '.join(dataset)}: pass one of them, such as `dataset['train']`")


def check_is_dataset(dataset: object, otherwise: str = "") -> None:
    """Raise `ValueError` with the remedy for several splits or a stream; `otherwise` is for streams."""
    check_is_one_split(dataset)
    if isinstance(dataset, datasets.IterableDataset):
        raise ValueError(f"a stream has no rows to choose from: {otherwise or 'load the data set whole'}")


def load_prepared(name_or_path: str | Path) -> datasets.DatasetDict:
    """
    Load a data set made by `scalpel-hf prepare` or `scalpel-hf label`, from a folder or the Hub.

    People's decisions on the review page are applied, see [`with_reviews`].

    Raises `ValueError` if there is no data set (with the command that makes one), and as [`load_stored`] does.
    """
    name = str(name_or_path)
    if not name or name == ".":
        raise ValueError("no data set given: name a folder made by `scalpel-hf prepare`, or a repository on the Hub")
    path = Path(name)
    if holds_data_set(path):
        return _reviewed(as_splits(load_stored(name)), path)
    remedy = (
        f"make one with `scalpel-hf prepare --out {name}`, or of pseudo labels with `scalpel-hf label --out {name}`"
    )
    if path.exists() or name.count("/") != 1:
        raise ValueError(f"{name!r} holds no data set: {remedy}")
    try:
        return as_splits(load_stored(name))
    except OSError as error:
        raise ValueError(
            f"{name!r} is neither a folder nor a data set on the Hub that can be loaded: {remedy}"
        ) from error


def holds_data_set(folder: Path) -> bool:
    """Whether a folder has the files of `save_to_disk`, or parquet files in `data/`."""
    files = ("dataset_dict.json", "state.json")
    return any((folder / file).exists() for file in files) or any(folder.glob("data/*.parquet"))


def _reviewed(splits: datasets.DatasetDict, folder: Path) -> datasets.DatasetDict:
    """The splits with the decisions of the review page applied."""
    from scalpel_hf.pseudo_labels.reviews import with_reviews  # pseudo_labels imports data

    if len(splits) > 1:  # only pseudo labels, which have one split, are reviewed
        return splits
    return datasets.DatasetDict({name: with_reviews(rows, folder) for name, rows in splits.items()})


def load_split(name_or_path: str | Path, split: str, remedy: str = "") -> datasets.Dataset:
    """
    Load one split by [`load_prepared`].

    Without a column `label_source`, it is added: rows with a mask are `human`, others `none`.

    Args:
        name_or_path: folder or repository.
        split: its name.
        remedy: appended to the message about a missing split, such as a flag to do without it.

    Raises `ValueError` also if the split is missing or empty, lacks `name` or `image`, or its names are not unique.
    """
    splits = load_prepared(name_or_path)
    if split not in splits:
        raise ValueError(
            f"{str(name_or_path)!r} has no split {split!r}, only {', '.join(splits)}: name one of these"
            f"{remedy and ', or ' + remedy}"
        )
    loaded = splits[split]
    _check_rows(loaded, f"the split {split!r} of {str(name_or_path)!r}")
    if "label_source" not in loaded.column_names:
        loaded = loaded.add_column("label_source", ["human" if mask else "none" for mask in has_mask(loaded)])
    return loaded


def _check_rows(rows: datasets.Dataset, where: str) -> None:
    if missing := [column for column in ("name", "image") if column not in rows.column_names]:
        raise ValueError(f"{where} lacks the columns {', '.join(missing)}: use `scalpel-hf prepare --layout hub`")
    if not len(rows):
        raise ValueError(f"there are no rows in {where}")
    check_names(rows["name"][:], where)


def has_mask(rows: datasets.Dataset) -> list[bool]:
    """Whether each row has a mask, without decoding it."""
    if "mask" not in rows.column_names:
        return [False] * len(rows)
    return rows.select_columns("mask").with_format("arrow")[:].column("mask").is_valid().to_pylist()


def human_labelled(rows: datasets.Dataset, name: str) -> datasets.Dataset:
    """The rows with a person's mask; `ValueError`, which has the data set's `name`, if there are none."""
    labelled, _ = split_by_source(rows, (HUMAN,))
    if not len(labelled):
        raise ValueError(f"no frame of {name!r} has a human's mask: every `label_source` is something else")
    return labelled


def check_pseudo_labels(rows: datasets.Dataset, name: str) -> None:
    """Raise `ValueError`, which has the data set's `name`, if a teacher labelled none of its frames."""
    if "pseudo_mask" not in rows.column_names:
        raise ValueError(f"{name!r} holds no pseudo labels: make them with `scalpel-hf label`")


def labelled_by_people(rows: datasets.Dataset, name: str) -> datasets.Dataset:
    """The rows with a person's mask, boxes or points; `ValueError`, which has the data set's `name`, without any."""
    labelled, _ = split_by_source(rows, BY_PEOPLE)
    if not len(labelled):
        raise ValueError(f"no frame of {name!r} has a person's mask, boxes or points: see its `label_source`")
    return labelled


def split_by_source(rows: datasets.Dataset, sources: Collection[str]) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The rows whose `label_source` is one of `sources`, and the others."""

    def part(wanted: bool) -> datasets.Dataset:
        return rows.filter(lambda s: (s in sources) == wanted, input_columns="label_source", keep_in_memory=True)

    return part(True), part(False)
