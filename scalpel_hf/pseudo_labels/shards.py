"""The shards of a data set, or of a stream (`IterableDataset`), whose length isn't known."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets

from scalpel_hf.data.contents import hash_rows
from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.utils.files import write_json
from scalpel_hf.utils.reading import read_json

from .output import Labelled

NAMES_FILE = "shards.json"  # in the work folder: names of all shards' files, written when all rows are read


@dataclass
class Shard:
    """Consecutive rows of the data set, and the file for their predictions, whose name has a hash of the rows."""

    index: int
    path: Path
    length: int
    rows: Callable[[], datasets.Dataset]


def shards_of(source: Labelled, size: int, features: datasets.Features, folder: Path) -> Iterator[Shard]:
    """
    Cut a data set or stream into shards.

    Args:
        source: a `Dataset`, or an `IterableDataset`, of which one shard is held in memory.
        size: rows in a shard; the last one may have fewer.
        features: of the rows of a stream.
        folder: of the shards' files.
    """

    def path(index: int, rows: datasets.Dataset | list[dict[str, Any]]) -> Path:
        return folder / f"{index:05d}-{hash_rows(rows)}.arrow"

    if isinstance(source, datasets.Dataset):
        for index, start in enumerate(range(0, len(source), size)):
            part = source.select(range(start, min(start + size, len(source))))
            yield Shard(index, path(index, part), length=len(part), rows=lambda part=part: part)  # type: ignore[misc]
        return
    for index, rows in enumerate(_stream_shards(source, size)):
        yield Shard(
            index, path(index, rows), length=len(rows), rows=partial(datasets.Dataset.from_list, rows, features)
        )


def record_shards(folder: Path, names: list[str]) -> None:
    """Write down, in the folder of the shards' files, the names of all of them, without suffix."""
    write_json(folder / NAMES_FILE, {"shards": names})


def finished_shards(folder: Path) -> list[Path]:
    """The files of all shards; `ValueError` if some are missing, or [`record_shards`] wasn't called yet."""
    file = folder / NAMES_FILE
    paths = [folder / f"{name}.arrow" for name in read_json(file)["shards"]] if file.exists() else []
    missing = [path.stem for path in paths if not path.exists()]
    if missing or not paths:
        raise ValueError(
            f"{folder} lacks {len(missing) or 'all'} shards ({', '.join(missing[:5]) or 'none is there'}): wait "
            "until every process has finished, or run the command in one process"
        )
    return paths


def stream_features(stream: datasets.IterableDataset) -> datasets.Features:
    """A stream's features, completed by `name` and `label_source`; `ValueError` where they are unknown."""
    if stream.features is None or "image" not in stream.features:
        raise ValueError("the stream's features are unknown, or lack `image`: pass `features` where the stream is made")
    own = {"name": datasets.Value("string"), "label_source": datasets.Value("string")}
    return datasets.Features({**stream.features, **{k: v for k, v in own.items() if k not in stream.features}})


def _stream_shards(stream: datasets.IterableDataset, size: int) -> Iterator[list[dict[str, Any]]]:
    """
    A stream's undecoded rows, `size` at a time. By default a row's name is its number, its `label_source` none.

    Raises `ValueError` at the first name that occurred before, since such labels could not be used.
    """
    rows = ({"name": f"{i:06d}", "label_source": "none", **row} for i, row in enumerate(undecoded(stream)))
    known: set[str] = set()
    while shard := list(itertools.islice(rows, size)):
        for row in shard:
            if row["name"] in known:
                raise ValueError(
                    f"the name {row['name']!r} occurs twice in the stream, the second time in row {len(known)}: give "
                    "each frame a different text in `name`"
                )
            known.add(row["name"])
        yield shard
